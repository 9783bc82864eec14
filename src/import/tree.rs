//! YAML and JSON, read by `serde_yaml`. Every format asks for the same few things: each is in the
//! program once, and not in each of its callers.

use serde_yaml::Value;

use crate::manifest::quoted;

use super::found::{Entry, Found};
use super::host::Stars;
use super::place::{Lines, Place};

/// So many brackets within each other: more than any format has, and few enough for a parser
/// that takes longer for each the deeper it is.
const DEEPEST: usize = 256;
/// What aliases may repeat, in bytes, were each of all there is before it.
const MOST_REPEATED: usize = 64 << 20;

/// Lists of what is denied, or may be: of one in them that is no text nobody can tell what it denies.
const DENIALS: &str = "deniedDomains deny ask blocklist entry";

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
