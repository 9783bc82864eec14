//! Takes out of words what may be secret: URLs, quotations, what may be a key. Pure.

use std::borrow::Cow;

/// So many characters in a row, a digit among them, may be a key. AWS key identifiers, the
/// shortest known, have 20.
const SUSPICIOUS: usize = 20;
/// Quoted words longer than this are no words.
const LONGEST_QUOTE: usize = 64;

/// Whether a name, or a part of one, may be a key that somebody carries out in it.
#[must_use]
pub fn may_be_a_key(part: &str) -> bool {
    part.len() >= SUSPICIOUS && part.bytes().any(|byte| byte.is_ascii_digit())
}

/// What keys, and encodings of anything, are made of.
fn part_of_a_key(c: char) -> bool {
    c.is_alphanumeric() || "-_+/=%~".contains(c)
}

/// A text without URLs, quotations and what may be a key. `cut`: the text goes on, and its last word may be the beginning of something longer.
#[must_use]
pub fn redact(text: &str, cut: bool) -> String {
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
    let host = authority(address);
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

/// `host:port` of what follows `://` in a URL, without the credentials.
pub(super) fn authority(rest: &str) -> &str {
    let end = rest.find(['/', '?', '#', '\\']).unwrap_or(rest.len());
    let authority = rest.get(..end).unwrap_or_default();
    authority
        .rsplit_once('@')
        .map_or(authority, |(_, host)| host)
}
