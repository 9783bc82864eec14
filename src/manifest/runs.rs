//! Runs of lines that differ in one plain value alone, as the routes of a long allowlist: the
//! parser reads the first two and the last, and what it would say of those between is known
//! from the first.
//!
//! That is safe by construction. The parser has read a line of this form as an entry of a
//! sequence, and it stands at one that is the same but for the value, in the same sequence: so
//! it will stand at the end of that, and of each that follows.

use std::ops::Range;

use saphyr_parser::{Event, ScalarStyle};

use super::problem::Position;

/// Shorter ones are not worth it.
const SHORTEST: usize = 8;

/// A line of the form `- key: value`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Form<'a> {
    /// Up to the value, the opening quotation mark with it.
    begin: &'a str,
    key: &'a str,
    is_quoted: bool,
}

impl<'a> Form<'a> {
    /// That of a line, without its line feed, and the value.
    pub(super) fn of(line: &'a str) -> Option<(Self, &'a str)> {
        let rest = line.trim_start_matches(' ').strip_prefix("- ")?;
        let (key, rest) = rest.split_once(": ")?;
        let is_quoted = rest.starts_with('"');
        let value = rest.strip_prefix('"').unwrap_or(rest);
        let form = Self {
            begin: line.get(..line.len() - value.len())?,
            key,
            is_quoted,
        };
        let is_key = !key.is_empty() && key.bytes().all(|byte| byte.is_ascii_alphabetic());
        Some((form, form.value(line)?)).filter(|_| is_key)
    }

    /// The value in a line of this form.
    fn value(&self, line: &'a str) -> Option<&'a str> {
        let value = line.strip_prefix(self.begin)?;
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-');
        let value = if self.is_quoted {
            value.strip_suffix('"')?
        } else {
            // What begins with anything else may be none.
            let first = value.bytes().next()?;
            Some(value).filter(|_| first.is_ascii_alphanumeric())?
        };
        let quoted = |byte: u8| plain(byte) || self.is_quoted && matches!(byte, b'*' | b'_');
        value.bytes().all(quoted).then_some(value)
    }

    /// Whether an entry that begins there, with a value of this style, stands in a line of this
    /// form.
    pub(super) fn is(&self, begun: Position, style: ScalarStyle) -> bool {
        begun.column as usize == self.column() && style == self.style()
    }

    /// In which column, from 1, the key begins.
    fn column(&self) -> usize {
        self.begin.len() - self.key.len() - usize::from(self.is_quoted) - 1
    }

    fn style(&self) -> ScalarStyle {
        if self.is_quoted {
            ScalarStyle::DoubleQuoted
        } else {
            ScalarStyle::Plain
        }
    }
}

/// The lines between the second and the last of a run, and what the parser would say of them.
#[derive(Clone, Debug)]
pub(super) struct Run<'a> {
    form: Form<'a>,
    /// Those that nothing was said of yet.
    lines: &'a str,
    /// The number of the first of them, from 1.
    line: usize,
    /// Which of its four events is next.
    step: u8,
}

impl<'a> Run<'a> {
    /// A run whose second line begins `text`, and has this number; with where in `text` the
    /// parser is to leave it, and where to go on.
    pub(super) fn of(form: Form<'a>, text: &'a str, number: usize) -> Option<(Self, Range<usize>)> {
        let (mut begin, mut first_end, mut count) = (0, 0, 0_usize);
        let mut last = 0;
        for end in memchr::memchr_iter(b'\n', text.as_bytes()) {
            if form.value(text.get(begin..end)?).is_none() {
                break;
            }
            last = begin;
            begin = end + 1;
            count += 1;
            if count == 1 {
                first_end = begin;
            }
        }
        let run = Self {
            form,
            lines: text.get(first_end..last)?,
            line: number + 1,
            step: 0,
        };
        (count >= SHORTEST + 2).then_some((run, first_end..last))
    }

    /// How many bytes it has.
    pub(super) fn bytes(&self) -> usize {
        self.lines.len()
    }

    /// How many lines it has.
    pub(super) fn length(&self) -> usize {
        memchr::memchr_iter(b'\n', self.lines.as_bytes()).count()
    }
}

impl<'a> Iterator for Run<'a> {
    type Item = (Event<'a>, Position);

    fn next(&mut self) -> Option<Self::Item> {
        if self.lines.is_empty() {
            return None;
        }
        let Form { begin, key, .. } = self.form;
        let (line, column) = (self.line, self.form.column());
        self.step += 1;
        let (event, at) = match self.step {
            1 => (Event::MappingStart(0, None), Position::new(line, column)),
            2 => {
                let key = Event::Scalar(key.into(), ScalarStyle::Plain, 0, None);
                (key, Position::new(line, column))
            }
            3 => {
                let quotes = usize::from(self.form.is_quoted);
                let end = memchr::memchr(b'\n', self.lines.as_bytes())?;
                let value = self.lines.get(begin.len()..end - quotes)?;
                let value = Event::Scalar(value.into(), self.form.style(), 0, None);
                (value, Position::new(line, begin.len() + 1 - quotes))
            }
            _ => {
                let (_, rest) = self.lines.split_once('\n')?;
                (self.lines, self.line, self.step) = (rest, line + 1, 0);
                // It ends where the next entry begins.
                (Event::MappingEnd, Position::new(line + 1, column - 2))
            }
        };
        Some((event, at))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_form_is_that_of_one_plain_value() {
        for (line, begin, value) in [
            ("- host: a", "- host: ", "a"),
            ("    - Host: a-1.b", "    - Host: ", "a-1.b"),
            ("  - host: \"*.a_b\"", "  - host: \"", "*.a_b"),
            ("- host: \"\"", "- host: \"", ""),
        ] {
            let (form, found) = Form::of(line).unwrap();
            assert_eq!((form.begin, found), (begin, value), "{line}");
        }
        for line in [
            "",
            "-",
            "- ",
            "- host",
            "- host:",
            "- host: ",
            "- host: -a",
            "- host: .a",
            "- host: *.a",
            "- host: a b",
            "- host: a ",
            "- host: a #b",
            "- host: a: b",
            "- host: \"a",
            "- host: a\"",
            "- host: \"a\\\"",
            "- host: 'a'",
            "- {host: a}",
            "- \"host\": a",
            "- - host: a",
            "- ho st: a",
            "-  host: a",
            "\t- host: a",
            "- host:  a",
            "- host: \u{fc}",
            "- host: a\r",
            "host: a",
            "- : a",
            "- host: [",
            "- host: |",
            "- host: &a",
            "- host: !a",
        ] {
            assert_eq!(Form::of(line), None, "{line:?}");
        }
    }

    #[test]
    fn a_run_is_what_stands_between_its_second_and_its_last_line() {
        let line = |number| format!("- h: {number}\n");
        let lines = |count: usize| (0..count).map(line).collect::<String>();
        let (form, _) = Form::of("- h: a").unwrap();
        let least = SHORTEST + 2;
        assert!(Run::of(form, &lines(least - 1), 1).is_none());
        for end in ["", "- h: 1", "- h: 'x'\n", " - h: x\n"] {
            let text = lines(least) + end;
            let (run, over) = Run::of(form, &text, 7).unwrap();
            assert_eq!((run.length(), run.line), (SHORTEST, 8), "{end}");
            assert_eq!(text[over], lines(least)[7..7 * (least - 1)], "{end}");
        }
    }
}
