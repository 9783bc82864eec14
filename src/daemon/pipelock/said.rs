//! What of the daemon's words may be kept and told to others. Pure.
//!
//! The daemon speaks of what agents send: a URL, a target or an error may hold the very
//! secret that was refused. So nothing of its words gets into a status, a report or a
//! notification but as [`Said`], and there is no other way to make one than to redact.

use std::borrow::Cow;
use std::fmt;

use serde::Serialize;

use super::events;
use crate::plain;

/// No more than this of one line or answer is kept, in characters.
const LONGEST: usize = 512;
/// Looked at of a line, in bytes: more than is kept, because stars are shorter than secrets.
const LOOKED_AT: usize = 8 * 1024;
/// So many characters in a row, a digit among them, may be a key. AWS key identifiers, the
/// shortest known, have 20.
const SUSPICIOUS: usize = 20;
/// Quoted words longer than this are no words.
const LONGEST_QUOTE: usize = 64;

/// What a line of ours begins with, and what goes before one of the daemon's that would too.
pub const OUR_PREFIX: &str = "sidecar-init:";
/// See [`OUR_PREFIX`].
pub const QUOTE_PREFIX: &str = "pipelock: ";

/// Words of the daemon's without what may be secret: one line, of bounded length, fit for
/// a terminal.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Said(String);

impl Said {
    /// A line of its output: of an event, what happened and why; of text, what is left of
    /// it without URLs, quotations and what may be a key.
    #[must_use]
    pub fn line(line: &[u8]) -> Self {
        if line.starts_with(b"{") {
            let told = events::in_words(line);
            return Self::of(told.as_bytes(), false);
        }
        let looked_at = line.get(..LOOKED_AT).unwrap_or(line);
        Self::of(looked_at, looked_at.len() < line.len())
    }

    /// Words from an answer of its, or about one.
    #[must_use]
    pub fn words(text: &str) -> Self {
        Self::line(text.trim_start_matches('{').as_bytes())
    }

    fn of(bytes: &[u8], cut: bool) -> Self {
        let plain = plain::line_of(bytes).replace('\t', " ");
        let told = redact(&plain, cut);
        let quote = if told.starts_with(OUR_PREFIX) {
            QUOTE_PREFIX
        } else {
            ""
        };
        Self([quote, &told].concat().chars().take(LONGEST).collect())
    }

    /// As text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Said {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Whether a name, or a part of one, may be a key that somebody carries out in it.
#[must_use]
pub fn may_be_a_key(part: &str) -> bool {
    part.len() >= SUSPICIOUS && part.bytes().any(|byte| byte.is_ascii_digit())
}

/// What keys, and encodings of anything, are made of.
fn part_of_a_key(c: char) -> bool {
    c.is_alphanumeric() || "-_+/=%~".contains(c)
}

/// `cut`: the text goes on, and its last word may be the beginning of something longer.
fn redact(text: &str, cut: bool) -> String {
    let mut told = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        if c == '"' || c == '`' {
            let (quotation, after) = quotation(rest, c);
            told.push(c);
            told.push_str(if is_harmless(quotation) {
                quotation
            } else {
                "*"
            });
            told.push(c);
            rest = after;
            continue;
        }
        if !part_of_a_key(c) {
            told.push(c);
            rest = rest.get(c.len_utf8()..).unwrap_or_default();
            continue;
        }
        let end = rest.find(|c| !part_of_a_key(c)).unwrap_or(rest.len());
        let (word, after) = rest.split_at_checked(end).unwrap_or((rest, ""));
        if let Some(after) = after.strip_prefix("://") {
            let end = after.find(char::is_whitespace).unwrap_or(after.len());
            let (address, after) = after.split_at_checked(end).unwrap_or((after, ""));
            told.push_str(&url(word, address));
            rest = after;
            continue;
        }
        let unfinished = cut && after.is_empty();
        told.push_str(if may_be_a_key(word) || unfinished {
            "*"
        } else {
            word
        });
        rest = after;
    }
    told
}

/// What stands between quotes at the start of `text`, and what comes after them; all of it
/// where they are not closed.
fn quotation(text: &str, quote: char) -> (&str, &str) {
    let inside = text.get(1..).unwrap_or_default();
    let mut escaped = false;
    let end = inside.find(|c| {
        let ends = c == quote && !escaped;
        escaped = c == '\\' && !escaped && quote == '"';
        ends
    });
    match end {
        Some(end) => (
            inside.get(..end).unwrap_or_default(),
            inside.get(end + 1..).unwrap_or_default(),
        ),
        None => ("*", ""),
    }
}

/// Plain words and names of settings, which is what the daemon's own complaints quote.
fn is_harmless(quotation: &str) -> bool {
    quotation.len() <= LONGEST_QUOTE
        && quotation
            .chars()
            .all(|c| c.is_ascii_alphabetic() || " _-".contains(c))
}

/// Of a URL its host alone, if that.
fn url(scheme: &str, address: &str) -> String {
    let host = events::authority(address);
    let bare = host.trim_end_matches(')');
    let told = |c: char| c.is_ascii_alphanumeric() || "-.:[]".contains(c);
    let host = if bare.chars().all(told) && !bare.split(['.', ':', '[', ']']).any(may_be_a_key) {
        Cow::Borrowed(bare)
    } else {
        Cow::Borrowed("*")
    };
    let scheme = if may_be_a_key(scheme) { "*" } else { scheme };
    let more = if host.len() < address.len() { "/*" } else { "" };
    format!("{scheme}://{host}{more}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_the_words_that_explain() {
        for line in [
            "Error: invalid config: strict mode requires at least one domain in api_allowlist",
            "listen tcp 127.0.0.1:8888: bind: address already in use",
            "goroutine 1 [running]:",
            "panic: out of memory",
            "yaml: line 3: field \"enforce_all\" not found",
            "bind: Os { code: 98, kind: AddrInUse, message: \"Address already in use\" }",
            "dial tcp: lookup a.example on 10.0.0.1:53: no such host",
        ] {
            assert_eq!(Said::line(line.as_bytes()).as_str(), line);
        }
    }

    #[test]
    fn keeps_no_url_no_quotation_and_no_key() {
        for (line, kept) in [
            (
                "Get http://u:pass@a.example/p?k=hunter2: refused",
                "Get http://a.example/* refused",
            ),
            (
                "http2: bogus greeting \"GET /hunter2 HTTP/1.1\\r\\nHost: \\\"x\"",
                "http2: bogus greeting \"*\"",
            ),
            ("key AKIAIOSFODNN7EXAMPLE.", "key *."),
            (
                "secret wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",
                "secret *",
            ),
            ("starts \"and hunter2 never ends", "starts \"*\""),
            (
                "see https://AKIAIOSFODNN7EXAMPLE.a.example now",
                "see https://*/* now",
            ),
            ("http:///x", "http:///*"),
            (
                "sidecar-init: result {}",
                "pipelock: sidecar-init: result {}",
            ),
            ("\x1b[31mred\ttab", "\\u001b[31mred tab"),
        ] {
            assert_eq!(Said::line(line.as_bytes()).as_str(), kept);
        }
    }

    #[test]
    fn a_secret_that_was_cut_off_is_no_less_a_secret() {
        let mut line = "x ".repeat(LOOKED_AT / 2 - 6).into_bytes();
        line.extend(b"AKIAIOSFODNN7EXAMPLE");
        let told = redact(&plain::line_of(&line[..LOOKED_AT]), true);
        assert!(told.ends_with("x *"), "{}", &told[told.len() - 30..]);
    }
}
