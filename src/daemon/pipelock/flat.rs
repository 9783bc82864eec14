//! A line of JSON in the form that pipelock gives nearly all of its own: one object without
//! blanks, of strings without escapes, whole numbers and words. Pure.
//!
//! What is of this form is read as the full parser reads it, in a quarter of the time; of
//! anything else this says nothing, and the full parser judges.

use std::borrow::Cow;
use std::ops::Range;

use super::refusal::{Line, Text};

/// Whether the line has a byte that a string cannot have as it is, or a backslash. Eight
/// bytes in each step, as in [`crate::plain`].
pub(super) fn has_escapes(line: &[u8]) -> bool {
    const EACH: u64 = u64::MAX / 0xff;
    const HIGH: u64 = 0x80 * EACH;
    let (words, rest) = line.as_chunks::<8>();
    let mut last = [b' '; 8];
    if let Some(last) = last.get_mut(..rest.len()) {
        last.copy_from_slice(rest);
    }
    words.iter().chain([&last]).any(|word| {
        let word = u64::from_ne_bytes(*word);
        let slash = word ^ (u64::from(b'\\') * EACH);
        // Bit 7 of some byte is set if any is below a blank, or zero: Bit Twiddling Hacks,
        // "Determine if a word has a byte less than n".
        let control = word.wrapping_sub(0x20 * EACH) & !word;
        let is_slash = slash.wrapping_sub(EACH) & !slash;
        (control | is_slash) & HIGH != 0
    })
}

/// The line's fields; `None` where it is not of this form.
pub(super) fn read(line: &[u8]) -> Option<Line<'_>> {
    if !line.starts_with(b"{") || has_escapes(line) {
        return None;
    }
    let text = std::str::from_utf8(line).ok()?;
    let mut event = None;
    let mut read = Line::default();
    let mut at = 1;
    loop {
        let key = string(line, at)?;
        at = key.end + 1;
        if line.get(at) != Some(&b':') {
            return None;
        }
        at += 1;
        let key = line.get(key)?;
        let field = match key {
            b"event" => Some(&mut event),
            b"config_hash" => Some(&mut read.config_hash),
            b"method" => Some(&mut read.method),
            b"error" => Some(&mut read.error),
            b"scanner" => Some(&mut read.scanner),
            b"reason" => Some(&mut read.reason),
            b"url" => Some(&mut read.url),
            b"target" => Some(&mut read.target),
            b"connect_host" => Some(&mut read.connect_host),
            b"action" => Some(&mut read.action),
            _ => None,
        };
        match (string(line, at), field) {
            // There twice.
            (Some(_), Some(Some(_))) => return None,
            (Some(value), Some(field)) => {
                at = value.end + 1;
                *field = Some(Text(Cow::Borrowed(text.get(value)?)));
            }
            (Some(_), None) if key == SIZE => return None,
            (Some(value), None) => at = value.end + 1,
            (None, Some(_)) => return None,
            (None, None) => {
                let (number, after) = word(text.get(at..)?)?;
                at = text.len() - after.len();
                if key == SIZE && read.size_bytes.replace(number?).is_some() {
                    return None;
                }
            }
        }
        match line.get(at)? {
            b',' => at += 1,
            b'}' if at + 1 == line.len() => break,
            _ => return None,
        }
    }
    read.event = event?.0;
    Some(read)
}

const SIZE: &[u8] = b"size_bytes";

/// Where the content of the string is that begins there.
fn string(line: &[u8], at: usize) -> Option<Range<usize>> {
    if line.get(at) != Some(&b'"') {
        return None;
    }
    let begin = at + 1;
    let length = memchr::memchr(b'"', line.get(begin..)?)?;
    Some(begin..begin + length)
}

/// The value that is no string, which number it is, and what follows it.
fn word(text: &str) -> Option<(Option<u64>, &str)> {
    const LONGEST: usize = 18;
    for word in ["true", "false", "null"] {
        if let Some(after) = text.strip_prefix(word) {
            return Some((None, after));
        }
    }
    let end = text.bytes().position(|byte| !byte.is_ascii_digit())?;
    let (digits, after) = text.split_at_checked(end)?;
    let is_one = digits == "0" || !digits.starts_with('0') && digits.len() <= LONGEST;
    let number = digits.parse().ok().filter(|_| is_one)?;
    Some((Some(number), after))
}
