//! Settings of coding agents: Claude Code's `settings.json`, and those of sandbox-runtime, which
//! have the same network section. A denial wins over what is allowed, `*.name` does not stand
//! for `name`, and a port may be behind either (sandbox-runtime's README and sandbox manager).

use serde_yaml::Value;

use crate::manifest::escaped;

use super::found::{Entry, Found, Item, Said};
use super::host::Stars;
use super::place::Lines;
use super::tree;

/// What both have in their network section.
const LISTS: [&str; 2] = ["allowedDomains", "deniedDomains"];
/// What that has besides, and the sections around it: none of it takes back a host.
const NETWORK: &str = "allowedDomains deniedDomains allowUnixSockets allowAllUnixSockets \
    allowLocalBinding allowManagedDomainsOnly allowMachLookup httpProxyPort socksProxyPort \
    mitmProxy parentProxy strictAllowlist";
const SANDBOX: &str = "network filesystem enabled failIfUnavailable autoAllowBashIfSandboxed \
    allowUnsandboxedCommands excludedCommands ignoreViolations enableWeakerNestedSandbox \
    enableWeakerNetworkIsolation ripgrep mandatoryDenySearchDepth allowPty seccomp \
    allowAppleEvents bwrapPath socatPath $schema";
const PERMISSIONS: &str =
    "allow ask deny defaultMode additionalDirectories disableBypassPermissionsMode disableAutoMode";
const ALLOW: &[&str] = &["permissions", "allow"];
const ASK: &[&str] = &["permissions", "ask"];
const DENY: &[&str] = &["permissions", "deny"];
const DISALLOWED: &[&str] = &["disallowedTools"];
const ASKED: &str = "somebody is asked there, each time";

/// A rule of WebFetch.
enum Fetch<'r> {
    Host(&'r str),
    /// The tool, whatever it fetches.
    Tool,
    /// It is not written as such a rule is.
    Odd,
}

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
    found.refuse(tree::strangers(Some(tree), &[SANDBOX]));
    found
}

pub(super) fn read_claude_code(tree: &Value, text: &str) -> Found {
    let mut found = Found::default();
    found.head.push(Said::Note(
        "looked at: sandbox.network, and the permissions of WebFetch, which are for every program here; \
         the others name no host"
            .to_owned(),
    ));
    let lines = &mut Lines::of(text);
    network(tree, &["sandbox", "network"], lines, &mut found);
    found.refuse(tree::strangers(tree.get("sandbox"), &[SANDBOX]));
    // Of a tool that is denied or asked about no rule allows anything.
    let permissions = tree.get("permissions");
    let mut refused = tree::strangers(permissions, &[PERMISSIONS]);
    let denied = "WebFetch is denied";
    for (path, why) in [(DENY, denied), (DISALLOWED, denied), (ASK, ASKED)] {
        let rules = tree::list(tree::get(tree, path));
        let is_tool = |rule: &&Value| matches!(rule.as_str().and_then(fetch), Some(Fetch::Tool));
        if rules.iter().any(is_tool) {
            refused.get_or_insert_with(|| why.to_owned());
            found.stops.get_or_insert_with(|| why.to_owned());
        }
    }
    for (list, path) in [
        ("allow", ALLOW),
        ("ask", ASK),
        ("deny", DENY),
        ("deny", DISALLOWED),
    ] {
        let rules = tree::texts(tree, path, lines, &mut found);
        for (rule, place) in rules {
            // Of a tool that is not known, what has a domain may be meant for this one.
            let is_odd = || list != "allow" && rule.to_ascii_lowercase().contains("domain:");
            let Some(host) = fetch(&rule).or_else(|| is_odd().then_some(Fetch::Odd)) else {
                continue;
            };
            let text = if let Fetch::Host(host) = host {
                host
            } else {
                &rule
            };
            let mut entry = Entry::new(text, place.clone(), Stars::Below);
            match (host, list) {
                (Fetch::Tool, "deny") => {
                    found.leave(&rule, &place, "it denies a tool, and no host");
                }
                (Fetch::Tool, _) => found.leave(&rule, &place, "it names no host"),
                (Fetch::Host(_), "allow") => {
                    entry.refused.clone_from(&refused);
                    found.routes.push(Item::Allow(entry));
                }
                (Fetch::Odd, "allow") => {
                    found.leave(&rule, &place, "a rule is written WebFetch(domain:HOST)");
                }
                _ => {
                    if list == "ask" {
                        entry.refused = Some(ASKED.to_owned());
                    }
                    found.routes.push(Item::Deny(entry));
                }
            }
        }
    }
    found
}

/// What a rule says of WebFetch, if it is one of it.
fn fetch(rule: &str) -> Option<Fetch<'_>> {
    const TOOL: &str = "WebFetch";
    let rule = rule.trim();
    // Of every tool, or of those that begin so.
    if rule
        .strip_suffix('*')
        .is_some_and(|start| TOOL.starts_with(start))
    {
        return Some(Fetch::Tool);
    }
    let (tool, rest) = rule.split_at_checked(TOOL.len())?;
    if !tool.eq_ignore_ascii_case(TOOL) || rest.starts_with(char::is_alphanumeric) {
        return None;
    }
    let inside = rest
        .strip_prefix('(')
        .and_then(|rest| rest.strip_suffix(')'));
    let domain = inside.and_then(|inside| inside.strip_prefix("domain:"));
    Some(match (tool == TOOL, rest, inside, domain.map(str::trim)) {
        (_, "", ..) | (_, _, Some("" | "*"), _) | (_, _, _, Some("" | "*")) => Fetch::Tool,
        (true, _, _, Some(host)) => Fetch::Host(host),
        _ => Fetch::Odd,
    })
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
    found.refuse(tree::strangers(tree::get(tree, path), &[NETWORK]));
}
