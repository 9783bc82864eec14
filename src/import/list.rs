//! A host, a `host:port` or a URL a line, with comments; Squid's files of domains are such lists
//! too. Or a YAML or JSON list of them.

use serde_yaml::Value;

use super::found::{Entry, Found, Item, Said};
use super::host::{self, Stars};
use super::place::{Lines, Place, split_comment};
use super::tree;

/// Words that deny what is behind them, besides those that say so of any key.
const DENIES: &str = "0.0.0.0 127.0.0.1 drop not no";
const ODD: &str = "a line of a list has one host; the hosts in it are denied";
const UNKNOWN: &str = "it stands below a heading that is not known to allow";
/// Of such words a heading is whose list is allowed.
const ALLOWS: &str = "allow allowed allowlist whitelist hosts domains packages";

/// Whether a word that names no host denies.
fn denies(word: &str) -> bool {
    let lower = word.to_ascii_lowercase();
    tree::listed(DENIES, &lower) || !lower.contains('.') && tree::denies(&lower)
}

/// What stands below the last heading.
#[derive(Clone, Copy, Default)]
enum Below {
    #[default]
    Allowed,
    Denied,
    /// Nobody can tell.
    Unknown,
}

#[derive(Default)]
struct Reader {
    found: Found,
    below: Below,
}

pub(super) fn read(text: &str) -> Found {
    let mut reader = Reader::default();
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
        reader.put(code, place);
    }
    let rest = above.into_iter();
    let rest = rest.map(|comment| Item::Said(Said::Comment(comment)));
    reader.found.routes.extend(rest);
    reader.found
}

pub(super) fn read_tree(tree: &Value, text: &str) -> Found {
    let mut reader = Reader::default();
    let mut lines = Lines::of(text);
    for (text, place) in tree::texts(tree, &[], &mut lines, &mut reader.found) {
        reader.put(&text, place);
    }
    reader.found
}

impl Reader {
    fn put(&mut self, code: &str, place: Place) {
        let Self { found, below } = self;
        let code = code.trim();
        let meant = host::meant(code, Stars::Below);
        let words = code.split(|c: char| !c.is_alphanumeric() && !matches!(c, '.' | '-' | '_'));
        let words: Vec<&str> = words.filter(|word| !word.is_empty()).collect();
        let is_name = |word: &&str| {
            let word = word.trim_matches('.');
            word.contains('.') && host::meant(word, Stars::Below).is_ok()
        };
        let has_name = words.iter().any(is_name)
            || code.contains("::")
            || meant.as_ref().is_ok_and(|meant| meant.host.contains(':'));
        // Lists of what is kept out begin their lines so.
        let is_sign = matches!(
            code.as_bytes(),
            [b'!', ..] | [b'-' | b'~' | b'|', b'*' | b'.' | b'|' | b'0'..=b'9' | b'A'..=b'Z' | b'a'..=b'z', ..]
        );
        if let Some(denied) = code.get(1..).filter(|_| is_sign) {
            return found.deny(denied.trim(), place, Stars::WithName);
        }
        let is_word = |word: &&str| tree::listed(ALLOWS, &word.to_ascii_lowercase());
        let is_allowing = !words.is_empty() && words.iter().all(is_word);
        let is_denying = words.iter().any(|word| denies(word));
        let is_heading = is_allowing
            || is_denying
            || (meant.is_err() || code.starts_with('['))
                && (code.contains(char::is_whitespace)
                    || code.ends_with(':')
                    || code.starts_with(['[', '=', '-', '<', '(', '*']));
        if is_heading && !has_name && words.iter().any(|word| word.contains(char::is_alphabetic)) {
            *below = match (is_denying, is_allowing) {
                (true, _) => Below::Denied,
                (_, true) => Below::Allowed,
                _ => Below::Unknown,
            };
            let is_marked = is_allowing || is_denying || code.starts_with(['[', '=']);
            let why = if is_marked || code.ends_with(':') {
                "it is a heading"
            } else {
                "a line of a list has one host"
            };
            return found.leave(code, &place, why);
        }
        // A host that is not the name in it, or that stands behind a word that denies.
        let is_part = |host: &str| !host.contains(['.', ':']) && has_name;
        let before = code.rfind('@').or_else(|| code.find("://"));
        let before = before.and_then(|at| code.get(..at)).unwrap_or_default();
        let why = match &meant {
            Ok(meant) if is_part(&meant.host) || tree::denies(before) => ODD.to_owned(),
            Ok(_) => String::new(),
            Err(_) if code.contains(char::is_whitespace) => ODD.to_owned(),
            Err(why) => why.clone(),
        };
        let is_network = meant.is_err() && host::is_address(code);
        let is_odd = !why.is_empty() && has_name && !is_network;
        // What it would be read as otherwise is not what it names.
        let names: Vec<&str> = words.iter().copied().filter(|word| is_name(word)).collect();
        let names = names.join(" ");
        let text = if is_odd && meant.is_ok() {
            &names
        } else {
            code
        };
        let mut entry = Entry::new(text, place, Stars::Below);
        if is_odd || matches!(below, Below::Denied) {
            entry.stars = Stars::WithName;
            entry.refused = Some(why).filter(|why| !why.is_empty());
            return found.routes.push(Item::Deny(entry));
        }
        entry.refused = match below {
            Below::Unknown => Some(UNKNOWN.to_owned()),
            _ => Some(why).filter(|why| !why.is_empty()),
        };
        found.routes.push(Item::Allow(entry));
    }
}
