//! Reads a line of the daemon's that is too long to be held, piece by piece: what it says
//! of itself is kept, of each value no more than it takes to know it. Pure.
//!
//! A request's URL has no bound that the init could know, and in an event's line the scanner
//! and the reason come after it. So a long line is counted like a short one, in bounded
//! memory, however long it is.

use super::refusal::FIELDS;

/// Kept of one value, in bytes: more than any name of a host, scanner or reason has.
const LONGEST_VALUE: usize = 1024;
/// Kept of a line that is no JSON, in bytes.
const LONGEST_TEXT: usize = 8 * 1024;
/// The longest name of a field that is looked for is shorter.
const LONGEST_KEY: usize = 16;

/// Where in a line of JSON we are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Inside {
    /// Between strings.
    Nothing,
    /// The name of a field of the event itself.
    Key,
    /// The value of a field that is looked for.
    Value,
    /// Any other string.
    Other,
}

/// A long line as far as it has come.
#[derive(Debug)]
pub struct Skim {
    json: bool,
    inside: Inside,
    /// The next byte of the string belongs to the backslash before it.
    escaped: bool,
    depth: u32,
    /// A colon has come, and no comma since.
    after_colon: bool,
    key: Vec<u8>,
    value: Vec<u8>,
    kept: Vec<u8>,
}

impl Skim {
    /// Begins with the first piece of a line.
    #[must_use]
    pub fn new(piece: &[u8]) -> Self {
        let mut skim = Self {
            json: piece.starts_with(b"{"),
            inside: Inside::Nothing,
            escaped: false,
            depth: 0,
            after_colon: false,
            key: Vec::new(),
            value: Vec::new(),
            kept: Vec::new(),
        };
        skim.feed(piece);
        skim
    }

    /// Goes on with the next piece.
    pub fn feed(&mut self, piece: &[u8]) {
        if self.json {
            self.feed_json(piece);
        } else {
            keep(&mut self.kept, piece, LONGEST_TEXT);
        }
    }

    fn feed_json(&mut self, piece: &[u8]) {
        let mut rest = piece;
        while let Some((&byte, after)) = rest.split_first() {
            if self.inside == Inside::Nothing {
                self.between(byte);
                rest = after;
                continue;
            }
            if std::mem::take(&mut self.escaped) {
                self.take(&[byte]);
                rest = after;
                continue;
            }
            let end = memchr::memchr2(b'"', b'\\', rest).unwrap_or(rest.len());
            let (words, from) = rest.split_at_checked(end).unwrap_or((rest, b""));
            self.take(words);
            match from.first() {
                Some(b'"') => self.end_string(),
                Some(_) => {
                    self.take(b"\\");
                    self.escaped = true;
                }
                None => {}
            }
            rest = from.get(1..).unwrap_or_default();
        }
    }

    fn between(&mut self, byte: u8) {
        match byte {
            b'"' => {
                self.inside = match (self.depth, self.after_colon) {
                    (1, false) => {
                        self.key.clear();
                        Inside::Key
                    }
                    (1, true) if FIELDS.iter().any(|field| field.as_bytes() == self.key) => {
                        self.value.clear();
                        Inside::Value
                    }
                    _ => Inside::Other,
                };
            }
            b'{' | b'[' => self.depth = self.depth.saturating_add(1),
            // What follows the event's own end is no part of it.
            b'}' if self.depth == 1 => self.depth = u32::MAX,
            b'}' | b']' => self.depth = self.depth.saturating_sub(1),
            b':' if self.depth == 1 => self.after_colon = true,
            b',' if self.depth == 1 => self.after_colon = false,
            _ => {}
        }
        if self.depth > u32::MAX / 2 {
            self.depth = u32::MAX;
        }
    }

    fn take(&mut self, bytes: &[u8]) {
        match self.inside {
            Inside::Key => keep(&mut self.key, bytes, LONGEST_KEY),
            Inside::Value => keep(&mut self.value, bytes, LONGEST_VALUE),
            Inside::Nothing | Inside::Other => {}
        }
    }

    fn end_string(&mut self) {
        if self.inside == Inside::Value {
            let begin: &[u8] = if self.kept.is_empty() { b"{\"" } else { b",\"" };
            for part in [begin, &self.key, b"\":\"", whole(&self.value), b"\""] {
                self.kept.extend_from_slice(part);
            }
            // Once: each of these names is there, or the line is none of pipelock's.
            self.key.clear();
        }
        self.inside = Inside::Nothing;
    }

    /// The line's end: what is left of it, an event as JSON. A line that was cut short says
    /// what it had said by then.
    #[must_use]
    pub fn finish(mut self) -> Vec<u8> {
        if !self.json {
            return self.kept;
        }
        self.end_string();
        if self.kept.is_empty() {
            self.kept.push(b'{');
        }
        self.kept.push(b'}');
        self.kept
    }
}

fn keep(kept: &mut Vec<u8>, bytes: &[u8], most: usize) {
    let room = most.saturating_sub(kept.len());
    kept.extend_from_slice(bytes.get(..room).unwrap_or(bytes));
}

/// The content of a JSON string up to where it was cut in the middle of a character or of
/// an escape.
fn whole(value: &[u8]) -> &[u8] {
    let value = match std::str::from_utf8(value) {
        Err(error) if error.error_len().is_none() => {
            value.get(..error.valid_up_to()).unwrap_or_default()
        }
        _ => value,
    };
    let mut at = 0;
    while let Some(found) = memchr::memchr(b'\\', value.get(at..).unwrap_or_default()) {
        let escape = value.get(at + found..).unwrap_or_default();
        let length = match escape {
            // The first of a pair that means one character.
            [
                b'\\',
                b'u',
                b'd' | b'D',
                b'8' | b'9' | b'a' | b'b' | b'A' | b'B',
                ..,
            ] => 12,
            [b'\\', b'u', ..] => 6,
            _ => 2,
        };
        if escape.len() < length {
            return value.get(..at + found).unwrap_or_default();
        }
        at += found + length;
    }
    value
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn skimmed(line: &str, pieces: usize) -> String {
        let mut pieces = line.as_bytes().chunks(pieces);
        let mut skim = Skim::new(pieces.next().unwrap());
        pieces.for_each(|piece| skim.feed(piece));
        String::from_utf8(skim.finish()).unwrap()
    }

    #[test]
    fn keeps_what_an_event_says_and_no_more() {
        let long = "x".repeat(100_000);
        let line = format!(
            r#"{{"level":"warn","event":"blocked","url":"http://a.example/{long}","n":[1,{{"event":"no"}}],"scanner":"dlp","reason":"\u0041 \"b\"","time":"t"}}"#
        );
        let url = format!("http://a.example/{}", "x".repeat(LONGEST_VALUE - 17));
        let wanted = format!(
            r#"{{"event":"blocked","url":"{url}","scanner":"dlp","reason":"\u0041 \"b\""}}"#
        );
        for pieces in [1, 7, 65_536, 1_000_000] {
            assert_eq!(skimmed(&line, pieces), wanted, "{pieces}");
        }
    }

    #[test]
    fn cuts_no_character_and_no_escape_in_two() {
        for unit in ["é", "漢", "\\\\", "\\u00e9", "\\ud83d\\ude00", "😀"] {
            for shift in 0..13 {
                let url = format!("{}{}", "y".repeat(shift), unit.repeat(600));
                let line = format!(r#"{{"event":"blocked","url":"{url}"}}"#);
                let kept = skimmed(&line, 1000);
                let told: serde_json::Value = serde_json::from_str(&kept).unwrap();
                let whole: serde_json::Value = serde_json::from_str(&line).unwrap();
                let (told, whole) = (told["url"].as_str().unwrap(), &whole["url"]);
                assert!(whole.as_str().unwrap().starts_with(told), "{unit} {shift}");
                assert!(told.len() > 80, "{unit} {shift}: {told}");
            }
        }
    }

    #[test]
    fn says_what_a_line_that_was_cut_short_had_said() {
        assert_eq!(
            skimmed(r#"{"event":"blocked","url":"http://a"#, 10),
            r#"{"event":"blocked","url":"http://a"}"#
        );
        assert_eq!(skimmed("{", 1), "{}");
        assert_eq!(
            skimmed(r#"{"event":"a"} {"event":"b"}"#, 3),
            r#"{"event":"a"}"#
        );
        assert_eq!(skimmed(&"t".repeat(10_000), 100), "t".repeat(LONGEST_TEXT));
    }

    proptest! {
        #[test]
        fn survives_any_bytes_in_any_pieces(line: Vec<u8>, piece in 1_usize..40) {
            let json = [b"{\"event\":", line.as_slice()].concat();
            for line in [&line, &json] {
                let mut pieces = line.chunks(piece);
                let mut skim = Skim::new(pieces.next().unwrap_or_default());
                pieces.for_each(|piece| skim.feed(piece));
                let mut whole = Skim::new(line);
                whole.feed(b"");
                prop_assert_eq!(skim.finish(), whole.finish());
            }
        }
    }
}
