//! YAML and JSON, read by `serde_yaml`. Every format asks for the same few things: each is in the
//! program once, and not in each of its callers.

use serde_yaml::Value;

use crate::manifest::quoted;

use super::found::{Entry, Found, Item, Said};
use super::host::{self, Stars};
use super::place::{Lines, Place};

/// So many brackets within each other: more than any format has, and few enough for a parser
/// that takes longer for each the deeper it is.
const DEEPEST: usize = 256;
/// What aliases may repeat, in bytes, were each of all there is before it.
const MOST_REPEATED: usize = 64 << 20;

/// Lists of what is denied, or may be: of one in them that is no text nobody can tell what it denies.
const DENIALS: &str = "deniedDomains deny ask blocklist entry";

/// What a name says that is of something that is denied, without blanks and signs.
const DENIES: &str =
    "deny denied denies denial block blacklist disallow exclu except forbid reject";

/// Whether a name says that what has it is denied, whatever letters and signs it is written with.
#[inline(never)]
pub(super) fn denies(name: &str) -> bool {
    let letters = name.chars().filter(|c| c.is_alphanumeric());
    let letters: String = letters.map(|c| c.to_ascii_lowercase()).collect();
    has_one(DENIES, &letters)
}

/// Why a text is not given to the parser, which would take minutes or gigabytes for it.
fn too_much(text: &str) -> Option<&'static str> {
    let (mut depth, mut deepest, mut aliases) = (0_usize, 0, 0_usize);
    let mut before = b' ';
    for byte in text.bytes() {
        match byte {
            b'[' | b'{' => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            b']' | b'}' => depth = depth.saturating_sub(1),
            b'*' if matches!(before, b' ' | b'\n' | b'[' | b',' | b'{') => aliases += 1,
            _ => {}
        }
        before = byte;
    }
    let entries = |line: &str| {
        line.split_whitespace()
            .take_while(|word| matches!(*word, "-" | "?"))
            .count()
    };
    let deepest = deepest.max(text.lines().map(entries).max().unwrap_or(0));
    if deepest > DEEPEST {
        return Some("brackets are nested too deep");
    }
    let repeats = text.contains('&') && aliases.saturating_mul(text.len()) > MOST_REPEATED;
    repeats.then_some("aliases repeat too much of it")
}

/// The document; else why it is none.
pub(super) fn parse(text: &str) -> Result<Value, String> {
    if let Some(why) = too_much(text) {
        return Err(why.to_owned());
    }
    let not_yaml = |error: serde_yaml::Error| format!("not YAML: {error}");
    let mut tree: Value = serde_yaml::from_str(text).map_err(not_yaml)?;
    tree.apply_merge().map_err(not_yaml)?;
    if all(&tree).iter().any(|it| matches!(it, Value::Tagged(_))) {
        return Err("it has a tag of YAML's, which no format has\nhint: put what begins with a ! between quotes".to_owned());
    }
    Ok(tree)
}

/// A document's values, each before what is in it. Not by calling itself: how deep a document is,
/// its author decides.
pub(super) fn all(tree: &Value) -> Vec<&Value> {
    let mut all = Vec::new();
    let mut left = vec![tree];
    while let Some(value) = left.pop() {
        all.push(value);
        let start = left.len();
        match value {
            Value::Sequence(list) => left.extend(list),
            Value::Mapping(map) => left.extend(map.values()),
            _ => {}
        }
        if let Some(added) = left.get_mut(start..) {
            added.reverse();
        }
    }
    all
}

/// Denies all hosts that are below a key that denies by its name, at any level, and that is not
/// `read`: paths from the top between blanks, with a `.` between keys, `*` for any key, each for all
/// below it too. Where none is below, nothing is allowed. They come before whatever else is there.
pub(super) fn denials(tree: &Value, read: &str, text_of: &str, found: &mut Found) {
    let mut lines = Lines::of(text_of);
    let mut path: Vec<String> = Vec::new();
    let mut items = Vec::new();
    let mut left = vec![(0, None, tree)];
    while let Some((depth, key, value)) = left.pop() {
        path.truncate(depth);
        if let Some(key) = key {
            path.push(key);
            let key = path.last().map_or("", String::as_str);
            if denies(key) {
                let line = lines.key(key);
                let is = |read: &str| {
                    let mut here = path.iter();
                    let fits = |key| here.next().is_some_and(|it| key == "*" || key == it);
                    read.split('.').all(fits)
                };
                if !read.split(' ').any(is) && !is_empty(value) {
                    below(&path.join("."), value, line, &mut items, found);
                    continue;
                }
            }
        }
        let start = left.len();
        match value {
            Value::Sequence(list) => left.extend(list.iter().map(|it| (path.len(), None, it))),
            Value::Mapping(map) => {
                left.extend(map.iter().map(|(key, it)| (path.len(), text(key), it)));
            }
            _ => {}
        }
        if let Some(added) = left.get_mut(start..) {
            added.reverse();
        }
    }
    found.routes.splice(0..0, items);
}

/// Whether nothing is said in it.
fn is_empty(value: &Value) -> bool {
    let holds = |it: &&Value| it.is_mapping() || it.is_sequence() || is_nothing(it);
    all(value).iter().all(holds)
}

/// The hosts below a key that denies.
fn below(key: &str, value: &Value, line: Option<usize>, items: &mut Vec<Item>, found: &mut Found) {
    let place = || Place {
        line,
        ..Place::default()
    };
    let here = line.map_or_else(String::new, |line| format!(" (line {line})"));
    found.head.push(Said::Note(format!(
        "denied: whatever host is below the key {}{here}, which denies by its name",
        quoted(key)
    )));
    let mut deny = |text: &str| {
        let entry = Entry::new(text, place(), Stars::WithName);
        items.push(Item::Deny(entry));
    };
    let mut has_hosts = false;
    for value in all(value) {
        let keys = value.as_mapping().into_iter().flat_map(|map| map.keys());
        for text in keys.chain([value]).filter_map(Value::as_str) {
            if host::has_hosts(text) {
                has_hosts = true;
                deny(text);
            }
        }
    }
    if !has_hosts {
        // A star is every host.
        deny(&format!("* below {key}"));
    }
}

/// Why nothing is carried over of what a mapping allows: it has a key that is none of these,
/// between blanks, and that may take the permission back.
#[inline(never)]
pub(super) fn strangers(tree: Option<&Value>, known: &[&str]) -> Option<String> {
    let keys = tree.and_then(Value::as_mapping)?.keys();
    let mut keys = keys.map(|key| text(key).unwrap_or_default());
    keys.find(|key| !known.iter().any(|known| listed(known, key)))
        .map(|key| stranger(&key))
}

/// Whether a word is one of those between blanks.
#[inline(never)]
pub(super) fn listed(words: &str, word: &str) -> bool {
    words.split(' ').any(|it| it == word)
}

/// Whether one of those between blanks is in a text.
#[inline(never)]
pub(super) fn has_one(words: &str, text: &str) -> bool {
    words.split(' ').any(|it| text.contains(it))
}

#[inline(never)]
pub(super) fn stranger(key: &str) -> String {
    let key = quoted(key);
    format!("the key {key} beside it is not known, and may take it back")
}

/// Whether a text that is no YAML was meant for it: JSON, or keys that a format is known by.
pub(super) fn is_meant(text: &str) -> bool {
    const KEYS: &str = "api_allowlist tls_interception forward_proxy fetch_proxy network_policies \
        egress jobs network";
    text.trim_start().starts_with('{')
        || text.lines().any(|line| {
            line.starts_with("- ")
                || line
                    .split_once(':')
                    .is_some_and(|(key, _)| listed(KEYS, key))
        })
}

/// What is below these keys.
#[inline(never)]
pub(super) fn get<'v>(tree: &'v Value, path: &[&str]) -> Option<&'v Value> {
    path.iter().try_fold(tree, |value, key| value.get(key))
}

/// A single value's text.
#[inline(never)]
pub(super) fn text(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(value) => Some(value.to_string()),
        _ => None,
    }
}

/// Whether it says nothing: null, false, an empty text or collection.
#[inline(never)]
pub(super) fn is_nothing(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(value) => !value,
        Value::String(text) => text.is_empty(),
        Value::Sequence(list) => list.is_empty(),
        Value::Mapping(map) => map.is_empty(),
        Value::Number(_) | Value::Tagged(_) => false,
    }
}

/// The keys of a mapping with what is below each.
#[inline(never)]
pub(super) fn pairs(tree: Option<&Value>) -> Vec<(String, &Value)> {
    let map = tree.and_then(Value::as_mapping).into_iter().flatten();
    map.filter_map(|(key, value)| Some((text(key)?, value)))
        .collect()
}

/// The entries of a list, a single value for a list of one; nothing for what is not there.
#[inline(never)]
pub(super) fn list(tree: Option<&Value>) -> Vec<&Value> {
    match tree {
        Some(Value::Sequence(list)) => list.iter().collect(),
        Some(Value::Null) | None => Vec::new(),
        Some(one) => vec![one],
    }
}

/// The texts of the list below these keys, each with its place; what is no text is left.
#[inline(never)]
pub(super) fn texts(
    tree: &Value,
    path: &[&str],
    lines: &mut Lines,
    found: &mut Found,
) -> Vec<(String, Place)> {
    lines.enter(path);
    let mut texts = Vec::new();
    for value in list(get(tree, path)) {
        if let Some(text) = text(value) {
            let place = lines.value(&text);
            texts.push((text, place));
            continue;
        }
        let name = path.last().copied().unwrap_or("entry");
        found.leave(name, &Place::default(), "an entry of it is no text");
        if listed(DENIALS, name) && !is_nothing(value) {
            found.deny("an entry that is no text", Place::default(), Stars::Below);
        }
    }
    texts
}

/// As [`texts`], as entries.
#[inline(never)]
pub(super) fn entries(
    tree: &Value,
    path: &[&str],
    stars: Stars,
    lines: &mut Lines,
    found: &mut Found,
) -> Vec<Entry> {
    let texts = texts(tree, path, lines, found);
    let entries = texts.into_iter();
    entries
        .map(|(text, place)| Entry::new(&text, place, stars))
        .collect()
}
