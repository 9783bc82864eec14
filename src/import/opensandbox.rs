//! OpenSandbox's egress rules: the first that fits decides, a rule without an action denies, and
//! `*.name` does not stand for `name` (its egress component's policy).

use serde_yaml::Value;

use crate::manifest::{escaped, quoted};

use super::found::{Entry, Found, Item, Said};
use super::host::Stars;
use super::place::{Lines, Place};
use super::tree;

const DEFAULTS: [&str; 2] = ["defaultAction", "default_action"];
/// What a policy and a rule have besides.
const KNOWN: [&str; 2] = ["egress defaultAction default_action", "action target ports"];
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
        let action = action.trim().to_ascii_lowercase();
        if target.trim().is_empty() {
            let why = "it names no host";
            found.routes.push(Item::Said(Said::lost("a rule", why)));
            if action != "allow" {
                // Nobody can tell what it denies.
                found.deny("a rule without a target", Place::default(), Stars::Below);
            }
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
        match action.as_str() {
            "allow" => {
                entry.refused = tree::strangers(Some(rule), &[KNOWN[1]]);
                found.routes.push(Item::Allow(entry));
                continue;
            }
            "" | "deny" => {}
            _ => entry.refused = Some(format!("the action {} is not known", quoted(&action))),
        }
        found.routes.push(Item::Deny(entry));
    }
    found.refuse(tree::strangers(Some(policy), &[KNOWN[0]]));
    let places = WITHIN.iter().chain(&["egress"]);
    if places.filter(|key| tree.get(key).is_some()).count() > 1 {
        found.refuse(Some(
            "there are several policies, and one is read".to_owned(),
        ));
    }
    found
}
