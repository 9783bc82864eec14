//! Text to parser events with their positions, within bounds of look-ahead and depth.

use std::ops::Range;
use std::rc::Rc;

use saphyr_parser::{Event, Marker, Parser, ScalarStyle, ScanError, Span};

use super::input::{Agreed, Input, MAX_LOOKAHEAD};
use super::problem::{Position, Problem, Rejection, escaped};
use super::runs::{Form, Run};
use super::text::start_of_collection;

/// What the parser says of an alias to an anchor that is not there, having read it.
const UNKNOWN_ALIAS: &str = "while parsing node, found unknown anchor";

/// The number of an anchor that is not there; the parser counts from 1.
pub(super) const UNKNOWN: usize = 0;

/// How deeply a value may be nested. The parser's own limit for brackets; it has
/// none for indentation, and remembers every level.
pub(super) const MAX_DEPTH: usize = 255;

/// The events of a text. After a syntax error, or once it was ended, there are none.
pub(super) struct Events<'a> {
    text: &'a str,
    parser: Parser<'a, Input<'a>>,
    agreed: Rc<Agreed>,
    /// Which events of an entry have come, where runs are looked for.
    entry: Option<Entry<'a>>,
    /// What is told before the parser is asked on.
    run: Option<Run<'a>>,
    /// So many lines were kept from the parser before this one of its, and so many bytes.
    kept_back: Vec<(usize, usize, usize)>,
    /// What was passed over before the parser's first line, and put into it.
    lines_before: usize,
    columns_before: usize,
    columns_added: usize,
    /// So many bytes of the text were passed over.
    skipped: usize,
    /// Where the latest event was.
    last: Span,
    /// So many characters after what was passed over are so many bytes.
    known: (usize, usize),
    ended: bool,
}

/// How far an entry of a list has come that may begin a run.
#[derive(Debug)]
enum Entry<'a> {
    /// Any event comes next.
    None,
    /// Its mapping begins there.
    Begun(Position),
    /// Its key has come, plain.
    Named(Position),
    /// And its value, which ends this line; the next one begins there.
    Valued(Form<'a>, usize),
    /// It has ended, and the run begins after so many events more.
    Ended(Run<'a>, usize, u8),
}

impl<'a> Events<'a> {
    /// Those of a text that may be long: of a run of lines alike the parser reads three. Of
    /// what it does not read there is no [`Self::span`].
    pub(super) fn of_long(text: &'a str) -> Self {
        let mut events = Self::of(text);
        if events.columns_added == 0 {
            events.entry = Some(Entry::None);
        }
        events
    }

    pub(super) fn of(text: &'a str) -> Self {
        // A flow collection at the very start may yet be a key, and the parser would
        // hold all of a JSON manifest in tokens; right after `---` it cannot be one.
        let (prefix, skipped) = match start_of_collection(text) {
            Some(start) => ("--- ", start),
            None => ("", 0),
        };
        let whole = text;
        let (before, text) = text.split_at_checked(skipped).unwrap_or(("", text));
        let agreed = Agreed::new();
        let source = Input::of(prefix, text, agreed.clone());
        let last_line = before.rsplit('\n').next().unwrap_or_default();
        Self {
            text: whole,
            parser: Parser::new(source),
            agreed,
            entry: None,
            run: None,
            kept_back: Vec::new(),
            lines_before: before.matches('\n').count(),
            columns_before: last_line.chars().count(),
            columns_added: prefix.len(),
            skipped,
            last: Span::empty(Marker::new(0, 1, 0)),
            known: (0, 0),
            ended: false,
        }
    }

    /// Reads no further.
    pub(super) fn end(&mut self) {
        self.ended = true;
    }

    pub(super) fn have_ended(&self) -> bool {
        self.ended
    }

    /// The line, from 1, as it stands in the text; none where there is none.
    pub(super) fn line(&self, line: usize) -> &'a str {
        let before = line.saturating_sub(1);
        let line = match before.checked_sub(1) {
            None => self.text,
            Some(nth) => memchr::memchr_iter(b'\n', self.text.as_bytes())
                .nth(nth)
                .and_then(|end| self.text.get(end + 1..))
                .unwrap_or_default(),
        };
        line.lines().next().unwrap_or_default()
    }

    /// What begins there, to the end of the line.
    pub(super) fn rest_of_line(&self, at: Position) -> &'a str {
        let line = self.line(at.line as usize);
        let start = line
            .char_indices()
            .nth(at.column.saturating_sub(1) as usize);
        start
            .and_then(|(start, _)| line.get(start..))
            .unwrap_or_default()
    }

    /// The word that begins there, as YAML ends an alias.
    pub(super) fn word(&self, at: Position) -> &'a str {
        let rest = self.rest_of_line(at);
        let ends = |c: char| c.is_whitespace() || ",[]{}".contains(c);
        rest.split(ends).next().unwrap_or_default()
    }

    /// Where the latest event begins and ends, in bytes of the text. Of what is not there, and
    /// of the end of what has no brackets, it is wherever the parser noticed.
    pub(super) fn span(&mut self) -> Range<usize> {
        let Span { start, end } = self.last;
        let start = self.byte(start);
        start..self.byte(end).max(start)
    }

    /// How many lines the parser has not seen before this line of its, and how many bytes.
    fn kept_back_before(&self, line: usize) -> (usize, usize) {
        let after = self.kept_back.partition_point(|(begin, ..)| *begin <= line);
        let last = after.checked_sub(1).and_then(|at| self.kept_back.get(at));
        last.map_or((0, 0), |(_, lines, bytes)| (*lines, *bytes))
    }

    fn byte(&mut self, at: Marker) -> usize {
        let (_, kept_back) = self.kept_back_before(at.line());
        let wanted = at.index().saturating_sub(self.columns_added) + kept_back;
        let text = self.text.get(self.skipped..).unwrap_or_default();
        let (characters, bytes) = self.known;
        let (before, after) = text.split_at_checked(bytes).unwrap_or((text, ""));
        let found = if let Some(more) = wanted.checked_sub(characters) {
            // A byte each, as in nearly every manifest: found at the speed of memory.
            let short = after.as_bytes().get(..=more);
            if short.is_some_and(<[u8]>::is_ascii) {
                Some(bytes + more)
            } else {
                after.char_indices().nth(more).map(|(at, _)| bytes + at)
            }
        } else {
            let back = characters.saturating_sub(wanted + 1);
            before.char_indices().rev().nth(back).map(|(at, _)| at)
        };
        if let Some(found) = found {
            self.known = (wanted, found);
        }
        self.skipped + found.unwrap_or(text.len())
    }

    fn place(&self, at: Marker) -> Position {
        let mut column = at.col() + 1;
        if at.line() == 1 {
            column = (column + self.columns_before)
                .saturating_sub(self.columns_added)
                .max(1);
        }
        let (kept_back, _) = self.kept_back_before(at.line());
        Position::new(at.line() + self.lines_before + kept_back, column)
    }

    /// Looks whether this event of the parser's is one of an entry that begins a run.
    fn look_for_run(&mut self, event: &Event<'a>, at: Position) {
        let entry = match (self.entry.take(), event) {
            (None, _) => return,
            (Some(Entry::Ended(run, line, left)), _) if left > 1 => {
                Entry::Ended(run, line, left - 1)
            }
            (Some(Entry::Ended(run, line, _)), _) => {
                if self.agreed.has_leapt() {
                    let (lines, bytes) = self.kept_back_before(usize::MAX);
                    let more = run.length();
                    self.kept_back
                        .push((line, lines + more, bytes + run.bytes()));
                    self.run = Some(run);
                }
                Entry::None
            }
            (_, Event::MappingStart(0, None)) => Entry::Begun(at),
            (Some(Entry::Begun(begun)), Event::Scalar(_, ScalarStyle::Plain, 0, None))
                if begun == at =>
            {
                Entry::Named(at)
            }
            (Some(Entry::Named(begun)), Event::Scalar(value, style, 0, None)) => {
                self.valued(begun, value, *style).unwrap_or(Entry::None)
            }
            (Some(Entry::Valued(form, next)), Event::MappingEnd) => {
                self.ended(form, next).unwrap_or(Entry::None)
            }
            _ => Entry::None,
        };
        self.entry = Some(entry);
    }

    /// The entry that began there has this value; nothing where its line is of no form.
    fn valued(&mut self, begun: Position, value: &str, style: ScalarStyle) -> Option<Entry<'a>> {
        let start = self.byte(self.last.start);
        let (before, after) = self.text.split_at_checked(start)?;
        let line = before.rfind('\n').map_or(0, |end| end + 1);
        let end = start + memchr::memchr(b'\n', after.as_bytes())?;
        let (form, found) = Form::of(self.text.get(line..end)?)?;
        let is_it = found == value && form.is(begun, style);
        is_it.then_some(Entry::Valued(form, end + 1))
    }

    /// An entry of this form has ended, and the next line begins there: has the parser leap
    /// over the run.
    fn ended(&self, form: Form<'a>, next: usize) -> Option<Entry<'a>> {
        let text = self.text.get(next..)?;
        // Where the entry ended is where the next begins.
        let line = self.last.start.line();
        let number = self.place(self.last.start).line as usize;
        let (run, over) = Run::of(form, text, number)?;
        self.agreed
            .leap(text.len() - over.start, text.len() - over.end);
        Some(Entry::Ended(run, line + 1, 4))
    }
}

impl<'a> Iterator for Events<'a> {
    type Item = Result<(Event<'a>, Position), Problem>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        if let Some(told) = self.run.as_mut().and_then(Run::next) {
            return Some(Ok(told));
        }
        let event = self.parser.next_event();
        // Past the limit the parser saw an end that is not there: no event counts.
        let too_long = self.agreed.is_too_much();
        let (at, refusal) = match event {
            Some(_) if too_long => (self.last.start, too_long_for_one_event()),
            Some(Ok((event, span))) => {
                self.last = span;
                let at = self.place(span.start);
                self.look_for_run(&event, at);
                return Some(Ok((event, at)));
            }
            // The parser has passed over it, and goes on.
            Some(Err(error)) if error.info() == UNKNOWN_ALIAS => {
                self.last = Span::empty(*error.marker());
                return Some(Ok((Event::Alias(UNKNOWN), self.place(self.last.start))));
            }
            Some(Err(error)) => (*error.marker(), syntax(&error)),
            None => {
                self.ended = true;
                return None;
            }
        };
        self.ended = true;
        Some(Err(refusal.at(Some(self.place(at)), String::new())))
    }
}

fn too_long_for_one_event() -> Rejection {
    Rejection::new(format!(
        "a value, comment or list entry after this is longer than {MAX_LOOKAHEAD} characters"
    ))
}

fn syntax(error: &ScanError) -> Rejection {
    match error.info() {
        "recursion limit exceeded" => too_deep(),
        "while scanning an anchor or alias, did not find expected alphabetic or numeric character" => {
            Rejection::new("not YAML: a single \"*\" or \"&\" without quotes")
                .hint("name each host, or a domain as \"*.domain.example\"")
        }
        info => {
            let refusal = Rejection::new(format!("not YAML: {}", escaped(info)));
            match to_write(info) {
                Some(hint) => refusal.hint(hint),
                None => refusal,
            }
        }
    }
}

/// What helps where the parser says this.
fn to_write(info: &str) -> Option<String> {
    if let Some(character) = info
        .strip_prefix("unexpected character: `")
        .and_then(|rest| rest.strip_suffix('\''))
    {
        let character = escaped(character);
        return Some(format!(
            "a value that begins with \"{character}\" stands in quotes"
        ));
    }
    [
        ("tabs disallowed", "indent with blanks: YAML takes no tabs there"),
        ("':' must be followed", "write a blank behind the colon"),
        (
            "mapping values are not allowed",
            "a value with \": \" in it stands in quotes, and the keys of a mapping begin in one column",
        ),
        ("invalid indentation in quoted scalar", "close the quote"),
    ]
    .into_iter()
    .find_map(|(said, hint)| info.starts_with(said).then(|| hint.to_owned()))
}

pub(super) fn unknown_alias() -> Rejection {
    Rejection::new(format!("not YAML: {UNKNOWN_ALIAS}"))
        .hint("a value that begins with \"*\" stands in quotes; without them it is an alias")
}

pub(super) fn too_deep() -> Rejection {
    Rejection::new(format!("nested deeper than {MAX_DEPTH} levels"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use proptest::sample::select;

    use super::*;

    #[test]
    fn a_syntax_error_says_what_to_write_where_that_can_be_told() {
        let hint = |text: &str| {
            let problem = Events::of(text).find_map(Result::err).unwrap();
            problem.hint.unwrap_or_default()
        };
        for (text, wanted) in [
            ("a:\n\tb: 1", "indent with blanks: YAML takes no tabs there"),
            ("a:\tb", "write a blank behind the colon"),
            ("a: @b", "a value that begins with \"@\" stands in quotes"),
            ("a: `b`", "a value that begins with \"`\" stands in quotes"),
            ("a: [%b]", "a value that begins with \"%\" stands in quotes"),
            (
                "a: b: c",
                "a value with \": \" in it stands in quotes, and the keys of a mapping begin in one column",
            ),
            ("a: \"b\nc: d\n", "close the quote"),
            ("a: [b", ""),
        ] {
            assert_eq!(hint(text), wanted, "{text:?}");
        }
    }

    /// Lines that may be of a run, and such as end or confuse one.
    fn texts() -> impl Strategy<Value = String> {
        let value = select(vec![
            "a.example",
            "b-1.example",
            "true",
            "1",
            "\"a.example\"",
            "\"*.b_c\"",
            "\"\"",
            "x\r",
            "*a",
            "'q'",
            "a: b",
            "[a",
            "{",
            "|",
            ">-",
            "a b",
            "&x a",
            "!t a",
            "# c",
            "\u{fc}",
            "\"",
            "",
            "- a",
        ]);
        let begin = select(vec![
            "- host: ",
            "- Host: ",
            "  - host: ",
            "- host : ",
            "  host: ",
            "",
            "- ",
            "? ",
            "--- ",
            "key: ",
        ]);
        let odd = (begin, value).prop_map(|(begin, value)| format!("{begin}{value}\n"));
        let run = (
            select(vec!["- host: ", "  - host: ", "      - host: "]),
            any::<bool>(),
            1_usize..40,
        )
            .prop_map(|(begin, quoted, count)| {
                let quote = if quoted { "\"" } else { "" };
                let line = |number| format!("{begin}{quote}h{number}.example{quote}\n");
                (0..count).map(line).collect::<String>()
            });
        let before = select(vec![
            "",
            "routes:\n",
            "a: |\n",
            "a: >\n",
            "a: \"\n",
            "a: '\n",
            "[\n",
            "{a: [\n",
            "a:\n  b:\n",
            "# \u{fc}\n",
        ]);
        let part = prop_oneof![2 => run, 1 => odd];
        (before, prop::collection::vec(part, 0..6), any::<bool>()).prop_map(
            |(before, parts, whole)| {
                let text = before.to_owned() + &parts.concat();
                let kept = if whole {
                    text.len()
                } else {
                    text.trim_end().len()
                };
                text[..kept].to_owned()
            },
        )
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(500))]
        #[test]
        fn of_a_run_the_same_is_told_as_the_parser_would_tell(text in texts()) {
            let told: Vec<_> = Events::of_long(&text).collect();
            let wanted: Vec<_> = Events::of(&text).collect();
            prop_assert_eq!(told, wanted);
        }
    }

    #[test]
    fn of_a_run_the_parser_reads_the_first_two_lines_and_the_last() {
        let lines: String = (0..1000)
            .map(|number| format!("- host: h{number}\n"))
            .collect();
        let text = format!("{lines}# c\n{lines}- ]\n");
        let mut events = Events::of_long(&text);
        let last = events.by_ref().last();
        let problem = last.unwrap().unwrap_err();
        assert_eq!(problem.line, Some(2002));
        let kept_back = [(3, 997), (7, 2 * 997)];
        let known = events
            .kept_back
            .iter()
            .map(|(line, lines, _)| (*line, *lines));
        assert_eq!(known.collect::<Vec<_>>(), kept_back);
    }

    /// Whether all of the text was read.
    fn is_read(text: &str) -> bool {
        Events::of(text).all(|event| event.is_ok())
    }

    #[test]
    fn one_event_may_take_so_many_characters_and_no_more() {
        // A comment is taken for one event, and with it the end, which is looked at three times.
        let comment = |taken| format!("#{}", "x".repeat(taken - 4));
        assert!(is_read(&comment(MAX_LOOKAHEAD)));
        assert!(!is_read(&comment(MAX_LOOKAHEAD + 1)));
    }

    #[test]
    fn places_are_those_of_the_file() {
        for (text, line, column) in [
            ("{a: 1}", 1, 1),
            (" {a: 1}", 1, 2),
            ("# c\n\n  {a: 1}", 3, 3),
            ("a: 1", 1, 1),
            ("\n a: 1", 2, 2),
            ("--- {a: 1}", 1, 5),
        ] {
            let start = Events::of(text)
                .map(Result::unwrap)
                .find(|(event, _)| matches!(event, Event::MappingStart(..)));
            assert_eq!(start.unwrap().1, Position::new(line, column), "{text:?}");
        }
    }

    #[test]
    fn a_span_is_of_the_text_as_it_stands() {
        for text in [
            "# \u{fc}\r\n{a: \u{fc}\u{fc} , 'b': [\"c\"]} # \u{fc}\r\n",
            "\u{fc}: 1\r\na: \u{fc}\u{fc}\r\nb: # x\r\n- \"c\"\r\n",
            "--- # x\n&x a: \u{fc}\u{fc} # y\nb:\n  - \"c\"\n...\n",
        ] {
            let mut events = Events::of(text);
            let mut spans = Vec::new();
            while let Some(event) = events.next() {
                if let Event::Scalar(value, ..) = event.unwrap().0 {
                    spans.push((value.into_owned(), &text[events.span()]));
                }
            }
            let written = |wanted: &str| {
                let mut found = spans.iter().filter(|(value, _)| value == wanted);
                found.next().map(|(_, span)| *span)
            };
            assert_eq!(written("\u{fc}\u{fc}"), Some("\u{fc}\u{fc}"), "{text:?}");
            assert_eq!(written("c"), Some("\"c\""), "{text:?}");
        }
    }

    #[test]
    fn a_word_is_found_where_it_stands() {
        let events = Events::of("a: 1\r\nb: [*\u{fc}.x, *y]\n\nc: *.z # d");
        for (line, column, word, rest) in [
            (1, 1, "a:", "a: 1"),
            (2, 5, "*\u{fc}.x", "*\u{fc}.x, *y]"),
            (2, 11, "*y", "*y]"),
            (3, 1, "", ""),
            (4, 4, "*.z", "*.z # d"),
            (4, 40, "", ""),
            (9, 1, "", ""),
        ] {
            let at = Position::new(line, column);
            assert_eq!((events.word(at), events.rest_of_line(at)), (word, rest));
        }
        assert_eq!(events.line(2), "b: [*\u{fc}.x, *y]");
    }

    #[test]
    fn nothing_follows_an_error_or_an_end() {
        let mut events = Events::of("a: ]\nb: 1");
        assert!(events.by_ref().any(|event| event.is_err()));
        assert!(events.next().is_none() && events.have_ended());
        let mut events = Events::of("a: 1");
        assert!(events.next().is_some() && !events.have_ended());
        events.end();
        assert!(events.next().is_none() && events.have_ended());
    }
}
