//! OpenSandbox's egress rules: the first that fits decides, a rule without an action denies, and
//! `*.name` does not stand for `name` (its egress component's policy).

use serde_yaml::Value;

use crate::manifest::escaped;

use super::found::{Entry, Found, Item, Said};
use super::host::Stars;
use super::place::Lines;
use super::tree;

const DEFAULTS: [&str; 2] = ["defaultAction", "default_action"];
/// Where a request to its server has the policy.
const WITHIN: [&str; 2] = ["networkPolicy", "network_policy"];

fn policy(tree: &Value) -> &Value {
    let within = WITHIN.iter().find_map(|key| tree.get(key));
    within.unwrap_or(tree)
}

pub(super) fn is(tree: &Value) -> bool {
    let policy = policy(tree);
    let rule = |rule: &Value| rule.get("target").is_some() || rule.get("action").is_some();
    DEFAULTS.iter().any(|key| policy.get(key).is_some())
        || policy.get("egress").is_some_and(|rules| {
            rules
                .as_sequence()
                .is_some_and(|rules| rules.iter().all(rule))
        })
}

pub(super) fn read(tree: &Value, text: &str) -> Found {
    let mut found = Found {
        first_decides: true,
        ..Found::default()
    };
    let mut lines = Lines::of(text);
    let policy = policy(tree);
    for key in DEFAULTS {
        let action = policy.get(key).and_then(tree::text).unwrap_or_default();
        if action.trim().eq_ignore_ascii_case("allow") {
            lines.enter(&[]);
            let line = lines.key(key);
            let why = "what is not listed is refused here";
            let what = format!("{key}: {}", escaped(&action));
            found.head.push(Said::lost(what, why).at(line));
        }
    }
    lines.enter(&["egress"]);
    for rule in tree::list(policy.get("egress")) {
        let field = |key| rule.get(key).and_then(tree::text).unwrap_or_default();
        let (action, target) = (field("action"), field("target"));
        if target.trim().is_empty() {
            let why = "it names no host";
            found.routes.push(Item::Said(Said::lost("a rule", why)));
            continue;
        }
        let place = lines.value(&target);
        let mut entry = Entry::new(&target, place, Stars::Below);
        let ports: Vec<String> = tree::list(rule.get("ports"))
            .into_iter()
            .filter_map(tree::text)
            .filter(|port| port != "443")
            .map(|port| escaped(&port))
            .collect();
        if !ports.is_empty() {
            let why = "every port of an allowed host is allowed";
            entry
                .said
                .push(Said::lost(format!("the ports {}", ports.join(", ")), why));
        }
        match action.trim().to_ascii_lowercase().as_str() {
            "allow" => found.routes.push(Item::Allow(entry)),
            "" | "deny" => found.routes.push(Item::Deny(entry)),
            _ => {
                let why = format!(
                    "the action {} is not known",
                    crate::manifest::quoted(&action)
                );
                found.leave(&entry.text, &entry.place, &why);
            }
        }
    }
    found
}
