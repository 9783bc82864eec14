//! NVIDIA OpenShell's policies: `network_policies` with endpoints and the programs that may
//! reach them (its reference of the policy schema). `*` is one label, `**` any number, neither
//! stands for the domain itself.

use serde_yaml::Value;

use crate::manifest::{escaped, quoted};

use super::found::{Entry, Found, Item, Said};
use super::host::Stars;
use super::place::Lines;
use super::tree;

const POLICIES: &str = "network_policies";

/// What is read of an endpoint, or says nothing of what it allows.
const READ: &str =
    "host port ports path protocol tls enforcement access rules deny_rules allowed_ips";
/// What else it may have (its reader takes no other keys).
const OTHERS: &str = "allow_encoded_slash websocket_credential_rewrite \
    request_body_credential_rewrite allow_uninspected_credentials persisted_queries \
    graphql_persisted_queries graphql_max_body_bytes credential_signing signing_service \
    signing_region credential_binding json_rpc mcp name";
const SECTIONS: &str =
    "version filesystem_policy landlock process network_policies network_middlewares";

/// Names are shown so far.
const SHOWN: usize = 8;

pub(super) fn is(tree: &Value) -> bool {
    tree.get(POLICIES).is_some()
}

pub(super) fn read(tree: &Value, text: &str) -> Found {
    let mut found = Found::default();
    let mut lines = Lines::of(text);
    for key in ["network_middlewares"] {
        if tree.get(key).is_some_and(|value| !tree::is_nothing(value)) {
            lines.enter(&[]);
            let line = lines.key(key);
            let why = "nothing of the kind runs here";
            found.head.push(Said::lost(key, why).at(line));
        }
    }
    found.head.push(Said::Note(format!(
        "looked at: {POLICIES}; the other sections are of files and processes"
    )));
    lines.enter(&[POLICIES]);
    let policies = tree.get(POLICIES).filter(|it| !tree::is_nothing(it));
    if policies.is_some_and(|it| !it.is_mapping()) {
        let said = Said::lost(POLICIES, "its policies have no names");
        found.routes.push(Item::Said(said));
    }
    for (name, policy) in tree::pairs(tree.get(POLICIES)) {
        lines.key(&name);
        let programs = programs(policy);
        let binaries = tree::list(policy.get("binaries"));
        let mut binaries = binaries.into_iter();
        let known = tree::strangers(Some(policy), &["name endpoints binaries"])
            .or_else(|| binaries.find_map(|it| tree::strangers(Some(it), &["path harness"])));
        // Nobody may, but whom it names.
        let nobody = || {
            programs
                .is_none()
                .then(|| "its policy names no program that may".to_owned())
        };
        let refused = known.or_else(nobody);
        for endpoint in tree::list(policy.get("endpoints")) {
            let Some(host) = endpoint.get("host").and_then(tree::text) else {
                let why = "it names no host";
                let what = format!("an endpoint of {}", quoted(&name));
                found.routes.push(Item::Said(Said::lost(what, why)));
                continue;
            };
            let place = lines.value(&host);
            let mut entry = Entry::new(&host, place, Stars::OneLabel);
            let has_no_port = ["port", "ports"]
                .iter()
                .all(|key| !tree::list(endpoint.get(key)).iter().any(|it| !it.is_null()));
            let value = |key| endpoint.get(key).and_then(tree::text);
            let access = value("access");
            let rules = endpoint.get("rules");
            let is_checked = value("protocol").as_deref() == Some("rest");
            let has_no_rule = match rules {
                Some(rules) => tree::is_nothing(rules),
                None => is_checked && access.is_none(),
            };
            let access = access.unwrap_or_else(|| "full".to_owned());
            let is_wide = host.contains('*') && !host.trim_start_matches("*.").contains('.');
            let why = match (has_no_port, is_wide) {
                (true, _) => Some("it names no port"),
                (_, true) => Some("a wildcard of a whole top-level domain is refused there"),
                _ if has_no_rule => Some("it has no rule that allows a request"),
                _ if !tree::listed("full read-only read-write", &access) => {
                    Some("its access is not known")
                }
                _ => None,
            };
            let stranger = tree::strangers(Some(endpoint), &[READ, OTHERS]);
            let stranger = refused.clone().or(stranger);
            entry.refused = stranger.or_else(|| why.map(str::to_owned));
            entry.said = limits(endpoint);
            entry.said.extend(programs.clone());
            found.routes.push(Item::Allow(entry));
        }
    }
    found.refuse(tree::strangers(Some(tree), &[SECTIONS]));
    found
}

/// That some programs alone may reach what a policy names.
fn programs(policy: &Value) -> Option<Said> {
    let binaries = tree::list(policy.get("binaries"));
    let path = |binary: &Value| {
        binary
            .get("path")
            .and_then(tree::text)
            .or_else(|| tree::text(binary))
    };
    let paths: Vec<String> = binaries
        .into_iter()
        .filter_map(path)
        .map(|path| escaped(&path))
        .collect();
    if paths.is_empty() {
        return None;
    }
    let more = match paths.len().checked_sub(SHOWN) {
        Some(more @ 1..) => format!(" and {more} more"),
        _ => String::new(),
    };
    let shown: Vec<String> = paths.into_iter().take(SHOWN).collect();
    Some(Said::lost(
        format!("that {}{more} alone may", shown.join(", ")),
        "a host is allowed for every program",
    ))
}

/// What an endpoint says besides its host.
fn limits(endpoint: &Value) -> Vec<Said> {
    let mut said = Vec::new();
    let ports = tree::list(endpoint.get("port"))
        .into_iter()
        .chain(tree::list(endpoint.get("ports")));
    for port in ports.filter_map(tree::text).filter(|port| port != "443") {
        let why = "every port of an allowed host is allowed";
        said.push(Said::lost(format!("the port {}", escaped(&port)), why));
    }
    let has = |key| {
        endpoint
            .get(key)
            .is_some_and(|value| !tree::is_nothing(value))
    };
    if let Some(path) = endpoint.get("path").and_then(tree::text)
        && !matches!(path.as_str(), "" | "/" | "/*" | "/**" | "**")
    {
        let why = "a host is allowed with all its paths";
        said.push(Said::lost(format!("the path {}", quoted(&path)), why));
    }
    for (key, all, why) in [
        ("access", "full", "a host is allowed with all its methods"),
        (
            "protocol",
            "rest",
            "a host is allowed with all that HTTP is used for",
        ),
    ] {
        let value = endpoint.get(key).and_then(tree::text);
        if let Some(value) = value.filter(|value| value != all) {
            said.push(Said::lost(format!("{key}: {}", escaped(&value)), why));
        }
    }
    for (key, why) in [
        ("rules", "a host is allowed with all its methods and paths"),
        ("deny_rules", "nothing of an allowed host is denied"),
        (
            "allowed_ips",
            "private networks are allowed by network.internal_cidr alone",
        ),
    ] {
        if has(key) {
            said.push(Said::lost(key, why));
        }
    }
    if endpoint.get("tls").and_then(Value::as_str) == Some("skip") {
        let why = "what is not to be opened is named in pipelock.passthrough";
        said.push(Said::lost("tls: skip", why));
    }
    let others: Vec<String> = tree::pairs(Some(endpoint))
        .into_iter()
        .filter(|(key, value)| !tree::listed(READ, key) && !tree::is_nothing(value))
        .map(|(key, _)| escaped(&key))
        .take(SHOWN)
        .collect();
    if !others.is_empty() {
        said.push(Said::lost(
            others.join(", "),
            "nothing of the kind is done here",
        ));
    }
    said
}
