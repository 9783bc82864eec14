//! A host, a `host:port` or a URL a line, with comments; Squid's files of domains are such lists
//! too. Or a YAML or JSON list of them.

use serde_yaml::Value;

use super::found::{Found, Item, Said};
use super::host::Stars;
use super::place::{Lines, Place, split_comment};
use super::tree;

/// Words that deny what is behind them.
const DENIES: &str = "0.0.0.0 127.0.0.1 deny denied denies block blocked blacklist reject drop disallow except exclude not no";

fn denies(word: &str) -> bool {
    let word = word.trim_matches(['[', ']', ':']).to_ascii_lowercase();
    tree::listed(DENIES, &word)
}

pub(super) fn read(text: &str) -> Found {
    let mut found = Found::default();
    let mut above: Vec<String> = Vec::new();
    // Below a heading that denies.
    let mut is_denied = false;
    for (index, line) in text.lines().enumerate() {
        let (code, comment) = split_comment(line);
        let code = code.trim();
        if code.is_empty() {
            above.extend(comment.map(str::to_owned));
            continue;
        }
        let place = Place {
            line: Some(index + 1),
            above: std::mem::take(&mut above),
            beside: comment.map(str::to_owned),
        };
        if denies(code) || code.starts_with('[') && code.ends_with(']') || code.ends_with(':') {
            is_denied = denies(code);
            found.leave(code, &place, "it is a heading");
        } else if is_denied {
            found.deny(code, place, Stars::WithName);
        } else {
            put(&mut found, code, place);
        }
    }
    let rest = above.into_iter();
    found
        .routes
        .extend(rest.map(|comment| Item::Said(Said::Comment(comment))));
    found
}

pub(super) fn read_tree(tree: &Value, text: &str) -> Found {
    let mut found = Found::default();
    let mut lines = Lines::of(text);
    for (text, place) in tree::texts(tree, &[], &mut lines, &mut found) {
        put(&mut found, &text, place);
    }
    found
}

fn put(found: &mut Found, code: &str, place: Place) {
    let words = code.split_once(char::is_whitespace);
    let behind = words.filter(|(word, _)| denies(word)).map(|(_, rest)| rest);
    // Lists of what is kept out begin their lines so.
    let is_sign = matches!(
        code.as_bytes(),
        [b'!', ..] | [b'-' | b'~' | b'|', b'*' | b'.' | b'|' | b'0'..=b'9' | b'A'..=b'Z' | b'a'..=b'z', ..]
    );
    let sign = code.get(1..).filter(|_| is_sign);
    if let Some(denied) = sign.or(behind) {
        found.deny(denied.trim(), place, Stars::WithName);
    } else if words.is_some() {
        // So are addresses and names in hosts files, which block as often as they allow.
        found.leave(code, &place, "a line of a list has one host");
    } else {
        found.allow(code, place, Stars::Below);
    }
}
