//! A host, a `host:port` or a URL a line, with comments; Squid's files of domains are such lists
//! too. Or a YAML or JSON list of them.

use serde_yaml::Value;

use super::found::{Found, Item, Said};
use super::host::Stars;
use super::place::{Lines, Place, split_comment};
use super::tree;

pub(super) fn read(text: &str) -> Found {
    let mut found = Found::default();
    let mut above: Vec<String> = Vec::new();
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
        put(&mut found, code, place);
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
    // So are addresses and names in hosts files, which block as often as they allow.
    if code.contains(char::is_whitespace) {
        found.leave(code, &place, "a line of a list has one host");
    } else if let Some(denied) = code.strip_prefix('!') {
        found.deny(denied, place, Stars::WithName);
    } else {
        found.allow(code, place, Stars::Below);
    }
}
