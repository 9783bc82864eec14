//! pipelock's own configuration: what a manifest has keys for. `*.name` stands for `name` too in
//! its allowlist, but not in `passthrough_domains`.

use serde_yaml::Value;

use crate::manifest::{escaped, quoted};
use crate::policy::MODEL_HOST;

use super::found::{Found, Item, Said};
use super::host::Stars;
use super::place::Lines;
use super::tree;

const ALLOWLIST: &str = "api_allowlist";
const PASSTHROUGH: [&str; 2] = ["tls_interception", "passthrough_domains"];
const NETWORKS: [&str; 2] = ["ssrf", "ip_allowlist"];
const BLOCKLIST: [&str; 3] = ["fetch_proxy", "monitoring", "blocklist"];
const TRUSTED: &str = "trusted_domains";

/// Keys of ours, and where pipelock has them.
const NUMBERS: [(&str, &[&str]); 3] = [
    (
        "requests_per_minute",
        &["fetch_proxy", "monitoring", "max_requests_per_minute"],
    ),
    (
        "max_tunnel_seconds",
        &["forward_proxy", "max_tunnel_seconds"],
    ),
    (
        "idle_timeout_seconds",
        &["forward_proxy", "idle_timeout_seconds"],
    ),
];

/// What `scan_limit_mib` is rendered to: where, the unit in bytes, pipelock's own default.
const LIMITS: [(&[&str], u64, u64); 3] = [
    (&["tls_interception", "max_response_bytes"], 1, 5 << 20),
    (&["request_body_scanning", "max_body_bytes"], 1, 5 << 20),
    (&["fetch_proxy", "max_response_mb"], 1 << 20, 10 << 20),
];

/// Names of keys are shown so far.
const SHOWN: usize = 40;

/// Words in the name of a key that takes something back: pipelock has no such key there, and
/// takes none that it does not have.
const TAKES_BACK: &str = "deny denied block exclu disab enabled";

pub(super) fn is(tree: &Value) -> bool {
    let keys = [
        ALLOWLIST,
        "tls_interception",
        "forward_proxy",
        "fetch_proxy",
        "ssrf",
    ];
    keys.iter().any(|key| tree.get(key).is_some())
}

pub(super) fn read(tree: &Value, text: &str) -> Found {
    let mut found = Found::default();
    let lines = &mut Lines::of(text);
    looser(tree, lines, &mut found);
    for entry in tree::entries(tree, &[ALLOWLIST], Stars::WithName, lines, &mut found) {
        found.routes.push(Item::Allow(entry));
    }
    for entry in tree::entries(tree, &BLOCKLIST, Stars::WithName, lines, &mut found) {
        found.routes.push(Item::Deny(entry));
    }
    for (host, place) in tree::texts(tree, &[TRUSTED], lines, &mut found) {
        let why = "private networks are allowed by network.internal_cidr alone";
        let what = format!("{TRUSTED}: {}", quoted(&host));
        found
            .routes
            .push(Item::Said(Said::lost(what, why).at(place.line)));
    }
    found.passthrough = tree::entries(tree, &PASSTHROUGH, Stars::Below, lines, &mut found);
    found.networks = tree::entries(tree, &NETWORKS, Stars::Below, lines, &mut found);
    let opens = tree::get(tree, &["tls_interception", "enabled"]);
    let passes = |text: &str| text.trim().eq_ignore_ascii_case(MODEL_HOST);
    found.scans_the_model = opens.and_then(Value::as_bool) == Some(true)
        && !found.passthrough.iter().any(|entry| passes(&entry.text));
    numbers(tree, lines, &mut found);
    scan_limit(tree, lines, &mut found);
    others(tree, &mut found);
    let flag = |path: &[&str]| tree::get(tree, path).and_then(Value::as_bool);
    // Whatever is written there but that it is off.
    let switch = tree.get("kill_switch").filter(|it| !tree::is_nothing(it));
    let is_off =
        |switch: &&Value| switch.is_mapping() && switch.get("enabled").is_none_or(tree::is_nothing);
    if switch.is_some_and(|switch| !is_off(&switch)) {
        let line = line_of(&["kill_switch", "enabled"], lines);
        let line = line.or_else(|| line_of(&["kill_switch"], lines));
        let why = format!(
            "kill_switch.enabled (line {}) denies all",
            line.unwrap_or(0)
        );
        found.refuse(Some(why.clone()));
        found.stops = Some(why);
    }
    if flag(&["forward_proxy", "enabled"]) != Some(true) {
        let off = "wider than there: forward_proxy is not enabled there, and no tunnel is opened";
        found.head.push(Said::Note(off.to_owned()));
    }
    let mut keys = tree::pairs(Some(tree)).into_iter().map(|(key, _)| key);
    let taken = keys.find(|key| tree::has_one(TAKES_BACK, key));
    found.refuse(taken.map(|key| tree::stranger(&key)));
    found
}

/// What is looser there than any manifest is.
fn looser(tree: &Value, lines: &mut Lines, found: &mut Found) {
    for (key, strict) in [("mode", "strict"), ("enforce", "true")] {
        let Some(value) = tree.get(key).and_then(tree::text) else {
            continue;
        };
        if value != strict {
            lines.enter(&[]);
            let line = lines.key(key);
            let why = "what is not listed is refused here";
            let what = format!("{key}: {}", escaped(&value));
            found.head.push(Said::lost(what, why).at(line));
        }
    }
}

/// The line of the key that these lead to.
fn line_of(path: &[&str], lines: &mut Lines) -> Option<usize> {
    let (key, above) = path.split_last()?;
    lines.enter(above);
    lines.key(key)
}

fn numbers(tree: &Value, lines: &mut Lines, found: &mut Found) {
    for (key, path) in NUMBERS {
        let Some(value) = tree::get(tree, path).filter(|value| !value.is_null()) else {
            continue;
        };
        let line = line_of(path, lines);
        if let Some(number) = value.as_u64() {
            found.tuning.push((key, number, line));
        } else {
            let what = path.join(".");
            found
                .head
                .push(Said::lost(what, "it is no number").at(line));
        }
    }
}

fn scan_limit(tree: &Value, lines: &mut Lines, found: &mut Found) {
    let bytes = LIMITS.map(|(path, unit, default)| {
        let set = tree::get(tree, path).and_then(Value::as_u64);
        set.map_or(default, |value| value.saturating_mul(unit))
    });
    let defaults = LIMITS.map(|(_, _, default)| default);
    if bytes == defaults {
        return;
    }
    let [first, rest @ ..] = bytes;
    if rest.iter().all(|other| *other == first) && first % (1 << 20) == 0 {
        let line = LIMITS.iter().find_map(|(path, ..)| line_of(path, lines));
        found.tuning.push(("scan_limit_mib", first >> 20, line));
        return;
    }
    for (((path, unit, default), bytes), _) in LIMITS.into_iter().zip(bytes).zip(defaults) {
        if bytes != default {
            let why = "pipelock.scan_limit_mib is one number of MiB for all three limits";
            let what = format!("{}: {}", path.join("."), bytes / unit);
            found
                .head
                .push(Said::lost(what, why).at(line_of(path, lines)));
        }
    }
}

/// The names of what is not read.
fn others(tree: &Value, found: &mut Found) {
    let mut read: Vec<Vec<&str>> = vec![
        vec!["version"],
        vec!["mode"],
        vec!["enforce"],
        vec![ALLOWLIST],
        vec![TRUSTED],
        BLOCKLIST.to_vec(),
        PASSTHROUGH.to_vec(),
        NETWORKS.to_vec(),
    ];
    read.extend(NUMBERS.iter().map(|(_, path)| path.to_vec()));
    read.extend(LIMITS.iter().map(|(path, ..)| path.to_vec()));
    let mut names = Vec::new();
    unread(tree, &mut Vec::new(), &read, &mut names);
    if names.is_empty() {
        return;
    }
    let more = match names.len().checked_sub(SHOWN) {
        Some(more @ 1..) => format!(" and {more} more"),
        _ => String::new(),
    };
    names.truncate(SHOWN);
    found.head.push(Said::lost(
        format!("{}{more}", names.join(", ")),
        "a manifest has no key for it",
    ));
}

/// Goes down as far as something below is read: three keys, whatever the document is.
fn unread(tree: &Value, path: &mut Vec<String>, read: &[Vec<&str>], names: &mut Vec<String>) {
    for (key, value) in tree::pairs(Some(tree)) {
        path.push(key);
        let is_there = |keys: &Vec<&str>| path.iter().zip(keys).all(|(here, key)| here == key);
        let below = read
            .iter()
            .filter(|keys| keys.len() >= path.len() && is_there(keys));
        let mut lengths = below.map(Vec::len);
        let is_on =
            path.last().is_some_and(|key| key == "enabled") && value.as_bool() == Some(true);
        match lengths.next() {
            Some(length) if length == path.len() => {}
            Some(_) if value.is_mapping() => unread(value, path, read, names),
            _ if is_on || tree::is_nothing(value) => {}
            _ => names.push(escaped(&path.join("."))),
        }
        path.pop();
    }
}
