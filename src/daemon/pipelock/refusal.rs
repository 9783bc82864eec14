//! A line about a refused request, and what of it may be told. Pure.

use std::borrow::Cow;
use std::net::{IpAddr, Ipv6Addr};

use serde::Deserialize;

use super::redact::{authority, may_be_a_key};
use super::refusals::{self, Row};

/// A string of a line, borrowed where it needs no unescaping.
#[derive(Debug, Deserialize)]
#[serde(transparent)]
pub(super) struct Text<'a>(#[serde(borrow)] pub(super) Cow<'a, str>);

/// What is read of an event: the fields of [`Line`].
pub(super) const FIELDS: [&str; 10] = [
    "event",
    "config_hash",
    "method",
    "error",
    "scanner",
    "reason",
    "url",
    "target",
    "connect_host",
    "action",
];

/// An event as JSON, read by the full parser or by [`super::flat`].
#[derive(Debug, Default, Deserialize)]
pub(super) struct Line<'a> {
    #[serde(borrow)]
    pub(super) event: Cow<'a, str>,
    #[serde(borrow, default)]
    pub(super) config_hash: Option<Text<'a>>,
    #[serde(borrow, default)]
    pub(super) method: Option<Text<'a>>,
    #[serde(borrow, default)]
    pub(super) error: Option<Text<'a>>,
    #[serde(borrow, default)]
    pub(super) scanner: Option<Text<'a>>,
    #[serde(borrow, default)]
    pub(super) reason: Option<Text<'a>>,
    #[serde(borrow, default)]
    pub(super) url: Option<Text<'a>>,
    #[serde(borrow, default)]
    pub(super) target: Option<Text<'a>>,
    #[serde(borrow, default)]
    pub(super) connect_host: Option<Text<'a>>,
    #[serde(borrow, default)]
    pub(super) action: Option<Text<'a>>,
    #[serde(default)]
    pub(super) size_bytes: Option<u64>,
}

/// A refused request, as pipelock logs it: with everything in it that may be secret.
/// Only what the methods give may leave this module.
#[derive(Debug)]
pub struct Refusal<'a>(pub(super) Line<'a>);

impl Refusal<'_> {
    /// What refused it, in pipelock's word: `allowlist`, `core_dlp`, …; `unknown` for what
    /// cannot be one.
    #[must_use]
    pub fn scanner(&self) -> &str {
        word(match self.0.event.as_ref() {
            "blocked" => text(self.0.scanner.as_ref()),
            "kill_switch_deny" => "kill_switch",
            "error" => "upstream",
            event => event,
        })
    }

    /// What the table says of it; `None` for what it does not know.
    #[must_use]
    pub fn row(&self) -> Option<&'static Row> {
        refusals::recognise(self.scanner(), self.said(), self.0.target.is_some())
    }

    /// Whether it was plain HTTP, to which interception and passing through do not apply.
    #[must_use]
    pub fn plain(&self) -> bool {
        text(self.0.url.as_ref()).starts_with("http://")
    }

    /// The bytes of a response that may have been cut; `None` for everything that was refused.
    #[must_use]
    pub fn cut_at(&self) -> Option<u64> {
        (self.0.event == "forward_http")
            .then_some(self.0.size_bytes)
            .flatten()
    }

    /// pipelock's whole reason.
    pub(super) fn said(&self) -> &str {
        let reason = match self.0.event.as_ref() {
            "error" => text(self.0.error.as_ref()),
            "body_dlp" => "request body contains secret",
            "header_dlp" => "request header contains secret",
            _ => text(self.0.reason.as_ref()),
        };
        // Of a redirect that plain HTTP followed: the URL is the one it led to.
        match reason.strip_prefix("redirect from ") {
            Some(rest) => rest.split_once(" blocked: ").map_or("", |(_, why)| why),
            None => reason,
        }
    }

    /// The host that was asked for, without port, path or credentials; as the client
    /// wrote it. `None` where the line does not say, or says what is no host.
    #[must_use]
    pub fn host(&self) -> Option<&str> {
        let line = &self.0;
        let host = [&line.target, &line.connect_host]
            .into_iter()
            .find_map(|text| text.as_ref())
            .map(|text| text.0.as_ref())
            .or_else(|| Some(authority(line.url.as_ref()?.0.split_once("://")?.1)))
            // A name and a port. What is longer may have lost the @ that would tell its
            // credentials from its host.
            .filter(|authority| authority.len() <= 300)?;
        let host = without_port(host);
        let host = host.strip_suffix('.').unwrap_or(host);
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._:".contains(&byte);
        // A second dot at the end is one of no name's, and pipelock keeps it.
        let is_one = !host.is_empty() && !host.ends_with('.') && host.len() <= 253;
        (is_one && host.bytes().all(plain)).then_some(host)
    }

    /// Whether the line says what was asked for. Where [`Self::host`] has none, that is no host.
    #[must_use]
    pub fn says_what_was_asked(&self) -> bool {
        let line = &self.0;
        let says = [&line.target, &line.connect_host, &line.url];
        says.into_iter().any(Option::is_some)
    }

    /// The private address that it was refused for, which pipelock names last or the client
    /// asked for itself. Asked of other refusals it may be any.
    #[must_use]
    pub fn address(&self) -> Option<IpAddr> {
        let named = self.said().rsplit_once(" internal IP ");
        let address = named.map_or(self.host(), |(_, address)| Some(address))?;
        Some(address.parse::<IpAddr>().ok()?.to_canonical())
    }

    /// Why, in the fixed part of pipelock's words. What follows is cut off, because it
    /// quotes the request: `high entropy query key "…"`.
    #[must_use]
    pub fn reason(&self) -> &str {
        self.reason_by(self.row())
    }

    /// The same, where its [`Self::row`] is known.
    #[must_use]
    pub fn reason_by(&self, row: Option<&'static Row>) -> &str {
        match row.map(Row::reason) {
            Some(Some(reason)) => reason,
            _ => fixed_part(self.said()),
        }
    }
}

pub(super) fn text<'a>(text: Option<&'a Text>) -> &'a str {
    text.map_or("", |text| text.0.as_ref())
}

/// One of pipelock's names for things.
fn word(text: &str) -> &str {
    const LONGEST: usize = 40;
    let is_word = text.len() <= LONGEST
        && text
            .bytes()
            .all(|byte| byte.is_ascii_lowercase() || byte == b'_');
    if is_word { text } else { "unknown" }
}

fn without_port(host: &str) -> &str {
    if let Some(rest) = host.strip_prefix('[') {
        let address = rest.split_once(']').map_or("", |(address, _)| address);
        // `[redacted-url]` is no host.
        return ipv6(address);
    }
    match host.split_once(':') {
        // More colons than one: an IPv6 address without brackets has no port.
        Some((name, port)) if !port.contains(':') => name,
        Some(_) => ipv6(host),
        None => host,
    }
}

/// The address; empty for anything else that has colons.
fn ipv6(text: &str) -> &str {
    text.parse::<Ipv6Addr>().map_or("", |_| text)
}

/// A reason up to where it begins to speak of the request. The names of patterns are
/// pipelock's own and stay.
fn fixed_part(reason: &str) -> &str {
    const LONGEST: usize = 96;
    const NAMES: [&str; 4] = [
        "DLP match: ",
        "contains secret: ",
        "finding: injection: ",
        "finding: dlp: ",
    ];
    let names_patterns = NAMES
        .iter()
        .find_map(|words| Some(reason.find(words)? + words.len()))
        .filter(|from| {
            let before = reason.get(..*from).unwrap_or_default();
            before
                .bytes()
                .all(|byte| byte.is_ascii_alphabetic() || b" :-_".contains(&byte))
        });
    let from = names_patterns.unwrap_or(0);
    let rest = reason.get(from..).unwrap_or_default();
    let part_of_a_name = |c: char| {
        c == ' '
            || c == '-'
            || c == '_'
            || c.is_ascii_alphabetic()
            || (names_patterns.is_some() && (c == ',' || c.is_ascii_digit()))
    };
    let mut end = rest.find(|c| !part_of_a_name(c)).unwrap_or(rest.len());
    if names_patterns.is_none() {
        for word in [" for ", " from ", " of "] {
            end = end.min(rest.find(word).unwrap_or(end));
        }
    }
    let end = (from + end).min(LONGEST);
    let mut told = reason.get(..end).unwrap_or_default();
    if let Some(key) = told.split([' ', ',', ':']).find(|word| may_be_a_key(word)) {
        told = told.split(key).next().unwrap_or_default();
    }
    told.trim_end()
}

/// Of a line of JSON what says what happened: the event, and of a refusal what refused it
/// and why, in pipelock's fixed words. Its URL and target are left out, because they may
/// hold the very secret that was refused (`core_dlp` logs the whole URL).
pub(super) fn in_words(line: &[u8]) -> String {
    let Ok(line) = serde_json::from_slice::<Line>(line) else {
        return "(a line of JSON that is no event)".to_owned();
    };
    let reloads = text(line.method.as_ref()) == "CONFIG_RELOAD";
    let error = line.error.as_ref().filter(|_| reloads);
    let error = text(error).to_owned();
    let scanner = word(text(line.scanner.as_ref())).to_owned();
    let event = word(&line.event).to_owned();
    let is_error = event == "error";
    let refusal = Refusal(line);
    let reason = if is_error { "" } else { refusal.reason() };
    let said = [&event, &scanner, reason, &error];
    let said: Vec<&str> = said.into_iter().filter(|part| !part.is_empty()).collect();
    said.join(": ")
}
