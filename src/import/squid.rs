//! Squid's configuration: `acl NAME dstdomain …` lines are lists, and `http_access` lines say
//! whether one is of what is allowed. `.name` stands for `name` and all below it.

use crate::manifest::{escaped, quoted};

use super::found::{Entry, Found, Item, Said};
use super::host::Stars;
use super::place::{Place, split_comment};

/// Lists of names.
const OF_NAMES: [&str; 2] = ["dstdomain", "ssl::server_name"];
/// Lists of what may be a name, or of what stands for one.
const OF_OTHERS: [&str; 6] = [
    "dstdom_regex",
    "ssl::server_name_regex",
    "url_regex",
    "urlpath_regex",
    "dst",
    "dstdomain_regex",
];
/// Words in the name of a list of what is to be kept out.
const KEEPS_OUT: [&str; 6] = ["block", "black", "deny", "denied", "bad", "malware"];

pub(super) fn is(text: &str) -> bool {
    text.lines().any(|line| {
        let mut words = line.split_whitespace();
        match words.next() {
            Some("acl") => words.nth(1).is_some_and(|kind| {
                OF_NAMES.contains(&kind) || OF_OTHERS.contains(&kind) || kind == "port"
            }),
            Some("http_access") => matches!(words.next(), Some("allow" | "deny")),
            _ => false,
        }
    })
}

/// One `acl` line.
struct Acl<'a> {
    name: &'a str,
    kind: &'a str,
    values: Vec<&'a str>,
    place: Place,
}

/// One `http_access` line.
struct Access<'a> {
    allows: bool,
    names: Vec<&'a str>,
}

/// What an `http_access` line makes of a list.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Use {
    /// Allowed, together with these others.
    Allow(Vec<String>),
    Deny,
}

pub(super) fn read(text: &str) -> Found {
    let joined = text.replace("\\\n", "  ").replace("\\\r\n", "   ");
    let joined = joined.as_str();
    let Lines {
        acls,
        accesses,
        others: left,
    } = lines(text, joined);
    let mut found = Found::default();
    if let Some((first, word)) = left.first() {
        let word = quoted(word);
        found.head.push(Said::Note(match left.len() - 1 {
            0 => format!("line {first}, {word}, is no list of hosts and no rule of access: left out"),
            more => format!(
                "line {first}, {word}, and {more} more are no lists of hosts and no rules of access: left out"
            ),
        }));
    }
    if accesses.is_empty() {
        found.head.push(Said::Note(
            "no http_access line is there: its lists are taken for what is allowed".to_owned(),
        ));
    }
    for acl in acls {
        let uses = uses(&acl, &accesses);
        if OF_OTHERS.contains(&acl.kind) {
            others(&acl, &uses, &mut found);
        } else {
            names(acl, &uses, &mut found);
        }
    }
    found
}

/// The lines of a configuration.
struct Lines<'a> {
    acls: Vec<Acl<'a>>,
    accesses: Vec<Access<'a>>,
    /// Whatever else there is: the number and the first word of each.
    others: Vec<(usize, &'a str)>,
}

fn lines<'a>(text: &str, joined: &'a str) -> Lines<'a> {
    let (mut acls, mut accesses, mut others) = (Vec::new(), Vec::new(), Vec::new());
    let mut above = Vec::new();
    // A line that goes on takes as many of the text's as it has.
    let mut numbers = 0_usize;
    let mut ends = text.lines().map(|line| line.ends_with('\\'));
    for line in joined.lines() {
        numbers += 1;
        let number = numbers;
        while ends.next() == Some(true) {
            numbers += 1;
        }
        let (code, comment) = split_comment(line);
        let mut words = code.split_whitespace();
        match words.next() {
            None => {
                match comment {
                    Some(comment) => above.push(comment.to_owned()),
                    None => above.clear(),
                }
                continue;
            }
            Some("acl") => {
                let (Some(name), Some(kind)) = (words.next(), words.next()) else {
                    others.push((number, "acl"));
                    continue;
                };
                if !OF_NAMES.contains(&kind) && !OF_OTHERS.contains(&kind) {
                    others.push((number, "acl"));
                    above.clear();
                    continue;
                }
                let is_option = |word: &&str| word.starts_with(['-', '+']);
                let values = words.skip_while(is_option).collect();
                let place = Place {
                    line: Some(number),
                    above: std::mem::take(&mut above),
                    beside: comment.map(str::to_owned),
                };
                acls.push(Acl {
                    name,
                    kind,
                    values,
                    place,
                });
            }
            Some("http_access") => {
                let allows = match words.next() {
                    Some("allow") => true,
                    Some("deny") => false,
                    _ => {
                        others.push((number, "http_access"));
                        continue;
                    }
                };
                let names = words.filter(|name| *name != "all").collect();
                accesses.push(Access { allows, names });
            }
            Some(word) => others.push((number, word)),
        }
        above.clear();
    }
    Lines {
        acls,
        accesses,
        others,
    }
}

/// What the `http_access` lines make of a list; without any it is allowed.
fn uses(acl: &Acl, accesses: &[Access]) -> Vec<Use> {
    if accesses.is_empty() {
        return vec![Use::Allow(Vec::new())];
    }
    let mut uses = Vec::new();
    for access in accesses {
        for name in &access.names {
            let (name, is_negated) = match name.strip_prefix('!') {
                Some(name) => (name, true),
                None => (*name, false),
            };
            if name != acl.name {
                continue;
            }
            // `deny !list` is how an allowlist is written, and `allow !list` its contrary.
            uses.push(if access.allows == is_negated {
                Use::Deny
            } else {
                let others = access.names.iter().map(|other| escaped(other));
                let others = others.filter(|other| other.trim_start_matches('!') != name);
                Use::Allow(others.collect())
            });
            if access.allows != is_negated && !access.allows {
                // A denial of all else says nothing of the others.
                if let Some(Use::Allow(others)) = uses.last_mut() {
                    others.clear();
                }
            }
        }
    }
    // Said once.
    uses.dedup();
    uses
}

/// A list that names no hosts.
fn others(acl: &Acl, uses: &[Use], found: &mut Found) {
    let line = acl.place.line;
    let what = format!("acl {} {}", escaped(acl.name), acl.kind);
    let why = match acl.kind {
        "dst" => "hosts are allowed by their names, not by where they lead",
        _ => "a regular expression is no host",
    };
    let said = if uses.contains(&Use::Deny) {
        let why = format!("{why}; see that no route allows what it denied");
        Said::lost(format!("the denial of {what}"), why)
    } else {
        Said::lost(what, why)
    };
    found.routes.push(Item::Said(said.at(line)));
}

fn names(acl: Acl, uses: &[Use], found: &mut Found) {
    let Acl {
        name,
        values,
        mut place,
        ..
    } = acl;
    let lower = name.to_ascii_lowercase();
    let line = place.line;
    for value in values {
        let here = std::mem::replace(
            &mut place,
            Place {
                line,
                ..Place::default()
            },
        );
        if value.starts_with('"') {
            found.leave(
                value.trim_matches('"'),
                &here,
                "it is another file: name it as well",
            );
            continue;
        }
        if uses.is_empty() {
            let why = format!("no http_access line uses {}", quoted(name));
            found.leave(value, &here, &why);
            continue;
        }
        let is_kept_out = KEEPS_OUT.iter().any(|word| lower.contains(word));
        for usage in uses {
            let place = here.clone();
            match usage {
                Use::Deny => found.deny(value, place, Stars::WithName),
                Use::Allow(_) if is_kept_out => {
                    let why = format!("by its name, {} is what is kept out", quoted(name));
                    found.leave(value, &place, &why);
                }
                Use::Allow(others) => {
                    let mut entry = Entry::new(value, place, Stars::WithName);
                    if !others.is_empty() {
                        let what = format!("the condition {}", others.join(", "));
                        let why = "a host is allowed for everybody, at all times";
                        entry.said.push(Said::lost(what, why));
                    }
                    found.routes.push(Item::Allow(entry));
                }
            }
        }
    }
}
