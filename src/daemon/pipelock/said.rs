//! What of the daemon's words may be kept and told to others. Pure.
//!
//! The daemon speaks of what agents send: a URL, a target or an error may hold the very
//! secret that was refused. So nothing of its words gets into a status, a report or a
//! notification but as [`Said`], and there is no other way to make one than to redact.

use std::fmt;

use serde::Serialize;

use super::redact::redact;
use super::refusal::in_words;
use crate::plain;

/// No more than this of one line or answer is kept, in characters.
const LONGEST: usize = 512;
/// Looked at of a line, in bytes: more than is kept, because stars are shorter than secrets.
const LOOKED_AT: usize = 8 * 1024;
/// What a line of ours begins with, and what goes before one of the daemon's that would too.
pub const OUR_PREFIX: &str = "sidecar-init:";
/// See [`OUR_PREFIX`].
pub const QUOTE_PREFIX: &str = "pipelock: ";

/// What a line of its output says of its own end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Weight {
    /// Why it ends: the line that begins a dump. The first of these is the reason, and what
    /// follows it only where.
    Fatal,
    /// What it could not do. The last of these is the reason.
    Error,
}

/// How much a line weighs; `None` for what is about something else, as events are about
/// requests.
#[must_use]
pub fn weigh(line: &[u8]) -> Option<Weight> {
    const FATAL: [&[u8]; 3] = [b"fatal error: ", b"panic: ", b"[signal "];
    // Most lines end here.
    match line.first()? {
        b'f' | b'p' | b'[' if FATAL.iter().any(|begin| line.starts_with(begin)) => {
            Some(Weight::Fatal)
        }
        b'S' if names_a_signal(line) => Some(Weight::Fatal),
        b'e' | b'E' if line.get(1..6) == Some(b"rror:") => Some(Weight::Error),
        _ => None,
    }
}

/// `SIGQUIT: quit`, as Go begins a dump for a signal.
fn names_a_signal(line: &[u8]) -> bool {
    let name = line.strip_prefix(b"SIG").unwrap_or_default();
    let end = name.iter().position(|byte| !byte.is_ascii_uppercase());
    end.is_some_and(|end| end > 0 && name.get(end..end + 2) == Some(b": "))
}

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
            let told = in_words(line);
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
    fn tells_the_reason_for_an_end_from_what_is_said_beside_it() {
        for (line, weight) in [
            (
                "fatal error: failed to reserve page summary memory",
                Some(Weight::Fatal),
            ),
            (
                "panic: runtime error: index out of range",
                Some(Weight::Fatal),
            ),
            (
                "[signal SIGSEGV: segmentation violation code=0x1]",
                Some(Weight::Fatal),
            ),
            ("SIGQUIT: quit", Some(Weight::Fatal)),
            (
                "Error: listen tcp 127.0.0.1:8888: bind: address already in use",
                Some(Weight::Error),
            ),
            ("error: no such file", Some(Weight::Error)),
            ("errors are many", None),
            ("SIG: x", None),
            ("SIGQUIT", None),
            ("goroutine 1 [running]:", None),
            ("\truntime/panic.go:1229 +0x48", None),
            (r#"{"event":"error","error":"dial tcp"}"#, None),
            ("", None),
        ] {
            assert_eq!(weigh(line.as_bytes()), weight, "{line}");
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
