//! YAML and JSON, read by `serde_yaml`. Every format asks for the same few things: each is in the
//! program once, and not in each of its callers.

use std::fmt;

use serde::de::{
    DeserializeSeed, Deserializer, EnumAccess, Error, IgnoredAny, MapAccess, SeqAccess,
    VariantAccess, Visitor,
};
use serde_yaml::Value;

use crate::manifest::quoted;

use super::found::{Entry, Found, Item, Said};
use super::host::{self, Stars};
use super::place::{Lines, Place};

/// So many brackets within each other: more than any format has, and few enough for a parser
/// that takes longer for each the deeper it is.
const DEEPEST: usize = 256;
/// What a document may take with all that its aliases repeat, in bytes, besides itself.
const MOST_REPEATED: usize = 64 << 20;
/// What a value takes, about, and what it takes at least of a text.
const EACH: usize = 64;

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
    let (mut depth, mut deepest) = (0_usize, 0);
    for byte in text.bytes() {
        match byte {
            b'[' | b'{' => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            b']' | b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
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
    // The parser repeats whatever an alias stands for.
    let mut left = MOST_REPEATED.saturating_add(text.len().saturating_mul(EACH / 2 + 1));
    let repeats = text.contains('&') && {
        let _ = Size(&mut left).deserialize(serde_yaml::Deserializer::from_str(text));
        left == 0
    };
    repeats.then_some("aliases repeat too much of it")
}

/// Goes through a document and keeps nothing of it, as long as something is left of so many bytes.
struct Size<'a>(&'a mut usize);

impl Size<'_> {
    #[inline(never)]
    fn take<E: Error>(&mut self, bytes: usize) -> Result<(), E> {
        *self.0 = self.0.saturating_sub(EACH + bytes);
        if *self.0 == 0 {
            return Err(E::custom(""));
        }
        Ok(())
    }
}

impl<'de> DeserializeSeed<'de> for Size<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<(), D::Error> {
        from.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Size<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("anything")
    }

    fn visit_bool<E: Error>(mut self, _: bool) -> Result<(), E> {
        self.take(0)
    }

    fn visit_i64<E: Error>(mut self, _: i64) -> Result<(), E> {
        self.take(0)
    }

    fn visit_u64<E: Error>(mut self, _: u64) -> Result<(), E> {
        self.take(0)
    }

    fn visit_f64<E: Error>(mut self, _: f64) -> Result<(), E> {
        self.take(0)
    }

    fn visit_unit<E: Error>(mut self) -> Result<(), E> {
        self.take(0)
    }

    fn visit_str<E: Error>(mut self, text: &str) -> Result<(), E> {
        self.take(text.len())
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut list: A) -> Result<(), A::Error> {
        self.take(0)?;
        while list.next_element_seed(Size(&mut *self.0))?.is_some() {}
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<(), A::Error> {
        self.take(0)?;
        while map.next_key_seed(Size(&mut *self.0))?.is_some() {
            map.next_value_seed(Size(&mut *self.0))?;
        }
        Ok(())
    }

    fn visit_enum<A: EnumAccess<'de>>(self, tagged: A) -> Result<(), A::Error> {
        let (IgnoredAny, value) = tagged.variant()?;
        value.newtype_variant_seed(self)
    }
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
