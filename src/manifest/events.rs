//! Text to parser events with their positions, within bounds of look-ahead and depth.

use std::cell::Cell;
use std::iter::Chain;
use std::ops::Range;
use std::rc::Rc;
use std::str::Chars;

use saphyr_parser::{BufferedInput, Event, Marker, Parser, ScanError, Span};

use super::problem::{Position, Problem, Rejection, escaped};
use super::text::start_of_collection;

/// How many characters the parser may take in without giving an event. It keeps
/// all tokens of a flow collection that might yet turn out to be a mapping's key,
/// a hundred bytes for each; this bounds them.
const MAX_LOOKAHEAD: usize = 256 * 1024;

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
    parser: Parser<'a, BufferedInput<Input<'a>>>,
    taken: Rc<Cell<usize>>,
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

impl<'a> Events<'a> {
    pub(super) fn of(text: &'a str) -> Self {
        // A flow collection at the very start may yet be a key, and the parser would
        // hold all of a JSON manifest in tokens; right after `---` it cannot be one.
        let (prefix, skipped) = match start_of_collection(text) {
            Some(start) => ("--- ", start),
            None => ("", 0),
        };
        let whole = text;
        let (before, text) = text.split_at_checked(skipped).unwrap_or(("", text));
        let taken = Rc::new(Cell::new(0));
        let source = Input {
            chars: prefix.chars().chain(text.chars()),
            taken: taken.clone(),
        };
        let last_line = before.rsplit('\n').next().unwrap_or_default();
        Self {
            text: whole,
            parser: Parser::new_from_iter(source),
            taken,
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
        let start = self.byte(start.index());
        start..self.byte(end.index()).max(start)
    }

    fn byte(&mut self, index: usize) -> usize {
        let wanted = index.saturating_sub(self.columns_added);
        let text = self.text.get(self.skipped..).unwrap_or_default();
        let (characters, bytes) = self.known;
        let (before, after) = text.split_at_checked(bytes).unwrap_or((text, ""));
        let found = if let Some(more) = wanted.checked_sub(characters) {
            after.char_indices().nth(more).map(|(at, _)| bytes + at)
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
        Position::new(at.line() + self.lines_before, column)
    }
}

impl<'a> Iterator for Events<'a> {
    type Item = Result<(Event<'a>, Position), Problem>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        let event = self.parser.next_event();
        // Past the limit the parser saw an end that is not there: no event counts.
        let too_long = self.taken.replace(0) > MAX_LOOKAHEAD;
        let (at, refusal) = match event {
            Some(_) if too_long => (self.last.start, too_long_for_one_event()),
            Some(Ok((event, span))) => {
                self.last = span;
                return Some(Ok((event, self.place(span.start))));
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

/// The characters of a manifest; ends early when the parser takes too many of
/// them for one event.
struct Input<'a> {
    chars: Chain<Chars<'a>, Chars<'a>>,
    taken: Rc<Cell<usize>>,
}

impl Iterator for Input<'_> {
    type Item = char;

    fn next(&mut self) -> Option<char> {
        let taken = self.taken.get();
        if taken > MAX_LOOKAHEAD {
            return None;
        }
        self.taken.set(taken + 1);
        self.chars.next()
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
