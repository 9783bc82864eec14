//! Settings of coding agents: Claude Code's `settings.json`, and those of sandbox-runtime, which
//! have the same network section. A denial wins over what is allowed, `*.name` does not stand
//! for `name`, and a port may be behind either (sandbox-runtime's README and sandbox manager).

use serde_yaml::Value;

use crate::manifest::escaped;

use super::found::{Found, Item, Said};
use super::host::Stars;
use super::place::Lines;
use super::tree;

/// What both have in their network section.
const LISTS: [&str; 2] = ["allowedDomains", "deniedDomains"];

pub(super) fn is_sandbox_runtime(tree: &Value) -> bool {
    has_lists(tree, &["network"])
}

pub(super) fn is_claude_code(tree: &Value) -> bool {
    let fetches = |value: &Value| value.as_str().is_some_and(|rule| fetch(rule).is_some());
    has_lists(tree, &["sandbox", "network"])
        || tree::pairs(tree.get("permissions"))
            .iter()
            .any(|(_, rules)| tree::list(Some(rules)).into_iter().any(fetches))
}

fn has_lists(tree: &Value, path: &[&str]) -> bool {
    let network = tree::get(tree, path);
    network.is_some_and(|network| LISTS.iter().any(|list| network.get(list).is_some()))
}

pub(super) fn read_sandbox_runtime(tree: &Value, text: &str) -> Found {
    let mut found = Found::default();
    network(tree, &["network"], &mut Lines::of(text), &mut found);
    found
}

pub(super) fn read_claude_code(tree: &Value, text: &str) -> Found {
    let mut found = Found::default();
    found.head.push(Said::Note(
        "looked at: sandbox.network, and the permissions of WebFetch; the others name no host"
            .to_owned(),
    ));
    let lines = &mut Lines::of(text);
    network(tree, &["sandbox", "network"], lines, &mut found);
    for list in ["allow", "ask", "deny"] {
        let rules = tree::texts(tree, &["permissions", list], lines, &mut found);
        for (rule, place) in rules {
            let Some(host) = fetch(&rule) else {
                continue;
            };
            match (host, list) {
                ("", "deny") => found.leave(&rule, &place, "it denies a tool, and no host"),
                ("", _) => found.leave(&rule, &place, "it names no host"),
                (host, "allow") => found.allow(host, place, Stars::Below),
                (host, "deny") => found.deny(host, place, Stars::Below),
                _ => {
                    found.leave(&rule, &place, "somebody is asked there, each time");
                }
            }
        }
    }
    found
}

/// The host of a rule that is of WebFetch; empty where it names none.
fn fetch(rule: &str) -> Option<&str> {
    let rest = rule.trim().strip_prefix("WebFetch")?;
    if rest.is_empty() {
        return Some(rest);
    }
    let inside = rest.strip_prefix('(')?.strip_suffix(')')?;
    Some(inside.strip_prefix("domain:").unwrap_or_default().trim())
}

fn network(tree: &Value, path: &[&str], lines: &mut Lines, found: &mut Found) {
    let below = |key| [path, &[key]].concat();
    for (list, is_allowed) in LISTS.into_iter().zip([true, false]) {
        for entry in tree::entries(tree, &below(list), Stars::Below, lines, found) {
            found.routes.push(if is_allowed {
                Item::Allow(entry)
            } else {
                Item::Deny(entry)
            });
        }
    }
    for (key, value) in tree::pairs(tree::get(tree, path)) {
        if !LISTS.contains(&key.as_str()) && !tree::is_nothing(value) {
            lines.enter(path);
            let line = lines.key(&key);
            let what = format!("{}.{}", path.join("."), escaped(&key));
            let said = Said::lost(what, "a manifest has no key for it").at(line);
            found.head.push(said);
        }
    }
}
