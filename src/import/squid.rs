//! Squid's configuration: `acl NAME dstdomain …` lines are lists, and `http_access` lines say
//! whether one is of what is allowed. `.name` stands for `name` and all below it.

use std::collections::BTreeMap;

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
/// Addresses that every client has.
const EVERYTHING: [&str; 5] = ["all", "0.0.0.0/0", "0.0.0.0/0.0.0.0", "::/0", "0/0"];
/// Words in the name of a list of what is to be kept out.
const KEEPS_OUT: [&str; 6] = ["block", "black", "deny", "denied", "bad", "malware"];

/// Whether a list of hosts' names is in it.
pub(super) fn has_names(text: &str) -> bool {
    let kind = |line: &str| {
        let mut words = line.split_whitespace();
        words.next().filter(|word| *word == "acl")?;
        words.nth(1).map(|kind| OF_NAMES.contains(&kind))
    };
    text.lines().any(|line| kind(line) == Some(true))
}

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

/// One `http_access` line: the first whose names all hold decides.
struct Access<'a> {
    line: usize,
    allows: bool,
    names: Vec<&'a str>,
}

/// What an `http_access` line makes of a list.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Use {
    /// Allowed, together with these others.
    Allow(Vec<String>),
    Deny,
    /// Allowed less than it names, which no manifest can say: why.
    Less(String),
}

pub(super) fn read(text: &str) -> Found {
    let joined = text.replace("\\\n", "  ").replace("\\\r\n", "   ");
    let joined = joined.as_str();
    let Lines {
        acls,
        accesses,
        wide,
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
    let mut rules = Rules::of(&acls, &wide);
    rules.follow(&accesses);
    found.head.append(&mut rules.said);
    for acl in acls {
        let uses = if accesses.is_empty() {
            &[Use::Allow(Vec::new())]
        } else {
            rules.uses.get(acl.name).map_or(&[][..], Vec::as_slice)
        };
        if OF_OTHERS.contains(&acl.kind) {
            others(&acl, uses, &mut found);
        } else {
            names(acl, uses, &mut found);
        }
    }
    found
}

/// What the `http_access` lines come to, one after the other.
struct Rules<'a> {
    /// The lists that a line can name: whether it is of hosts' names.
    lists: BTreeMap<&'a str, bool>,
    /// Lists that everything is in.
    wide: &'a [&'a str],
    uses: BTreeMap<&'a str, Vec<Use>>,
    /// What is in none of these is denied by now.
    within: Vec<&'a str>,
    /// The line that denies everything that comes to it.
    end: Option<usize>,
    said: Vec<Said>,
}

/// The names of one line, by what they are.
#[derive(Default)]
struct Names<'a> {
    hosts: Vec<&'a str>,
    not_hosts: Vec<&'a str>,
    conditions: Vec<&'a str>,
}

impl<'a> Rules<'a> {
    fn of(acls: &[Acl<'a>], wide: &'a [&'a str]) -> Self {
        let lists = acls
            .iter()
            .map(|acl| (acl.name, OF_NAMES.contains(&acl.kind)));
        Self {
            lists: lists.collect(),
            wide,
            uses: BTreeMap::new(),
            within: Vec::new(),
            end: None,
            said: Vec::new(),
        }
    }

    fn follow(&mut self, accesses: &[Access<'a>]) {
        for access in accesses {
            let names = self.names(access);
            if let Some(end) = self.end {
                if access.allows {
                    let why = format!("line {end} has denied everything before it is allowed");
                    self.each(&names.hosts, &Use::Less(why));
                }
            } else if access.allows {
                self.allow(access, &names);
            } else {
                self.deny(access, &names);
            }
        }
        // What no line decides is the contrary of the last.
        if let Some(last) = accesses.last().filter(|it| !it.allows)
            && self.end.is_none()
        {
            let rest = Access {
                line: last.line,
                allows: true,
                names: Vec::new(),
            };
            self.allow(&rest, &Names::default());
        }
    }

    fn is_wide(&self, name: &str) -> bool {
        name == "all" || self.wide.contains(&name)
    }

    fn names(&self, access: &Access<'a>) -> Names<'a> {
        let mut names = Names::default();
        for name in access
            .names
            .iter()
            .copied()
            .filter(|name| !self.is_wide(name))
        {
            let list = name.trim_start_matches('!');
            match (self.lists.get(list) == Some(&true), name == list) {
                (true, true) => names.hosts.push(list),
                (true, false) => names.not_hosts.push(list),
                (false, _) => names.conditions.push(name),
            }
        }
        names
    }

    fn each(&mut self, lists: &[&'a str], usage: &Use) {
        for list in lists {
            let uses = self.uses.entry(list).or_default();
            // Said once.
            if !uses.contains(usage) {
                uses.push(usage.clone());
            }
        }
    }

    fn allow(&mut self, access: &Access<'a>, names: &Names<'a>) {
        // A list of something else is told of where it is, as one that is allowed.
        let others = |name: &&&str| self.lists.get(name.trim_start_matches('!')) == Some(&false);
        let told: Vec<&str> = names.conditions.iter().filter(others).copied().collect();
        self.each(&told, &Use::Allow(Vec::new()));
        self.each(&names.not_hosts, &Use::Deny);
        let lists = if names.hosts.is_empty() {
            self.within.clone()
        } else {
            names.hosts.clone()
        };
        let mut together: Vec<&str> = lists.iter().chain(&self.within).copied().collect();
        together.sort_unstable();
        together.dedup();
        match together[..] {
            [] if told.is_empty() && names.not_hosts.is_empty() => {
                self.said.push(Said::Note(format!(
                    "line {} allows every host: not carried over",
                    access.line
                )));
            }
            [] => {}
            [list] => {
                let conditions = access.names.iter().filter(|it| **it != list);
                let conditions = conditions.filter(|it| !self.is_wide(it));
                let conditions = conditions.map(|it| escaped(it)).collect();
                self.each(&[list], &Use::Allow(conditions));
            }
            _ => {
                let all: Vec<String> = together.iter().map(|it| escaped(it)).collect();
                let why = format!(
                    "line {} allows what is in {} together, and a manifest has no such thing",
                    access.line,
                    all.join(" and ")
                );
                self.each(&lists, &Use::Less(why));
            }
        }
    }

    fn deny(&mut self, access: &Access<'a>, names: &Names<'a>) {
        match (
            &names.hosts[..],
            &names.not_hosts[..],
            &names.conditions[..],
        ) {
            ([], [], []) => self.end = Some(access.line),
            // `deny !list` is how an allowlist is written.
            ([], [list], []) => self.within.push(list),
            ([], _, conditions) => {
                let told = conditions.iter().map(|it| it.trim_start_matches('!'));
                let told: Vec<&str> = told.filter(|it| self.lists.contains_key(it)).collect();
                self.each(&told, &Use::Deny);
                if told.len() < conditions.len() || !names.not_hosts.is_empty() {
                    let all: Vec<String> = access.names.iter().map(|it| escaped(it)).collect();
                    self.said.push(Said::Note(format!(
                        "not carried over: the denial of {} (line {}), because a host is allowed for \
                         everybody, at all times",
                        all.join(" "),
                        access.line
                    )));
                }
            }
            (hosts, ..) => {
                let hosts = hosts.to_vec();
                self.each(&hosts, &Use::Deny);
            }
        }
    }
}

/// The lines of a configuration.
struct Lines<'a> {
    acls: Vec<Acl<'a>>,
    accesses: Vec<Access<'a>>,
    /// Names of lists that everything is in.
    wide: Vec<&'a str>,
    /// Whatever else there is: the number and the first word of each.
    others: Vec<(usize, &'a str)>,
}

fn lines<'a>(text: &str, joined: &'a str) -> Lines<'a> {
    let (mut acls, mut accesses) = (Vec::new(), Vec::new());
    let (mut wide, mut others) = (Vec::new(), Vec::new());
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
                if words.clone().any(|value| EVERYTHING.contains(&value)) && kind == "src" {
                    wide.push(name);
                }
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
                accesses.push(Access {
                    line: number,
                    allows,
                    names: words.collect(),
                });
            }
            Some(word) => others.push((number, word)),
        }
        above.clear();
    }
    Lines {
        acls,
        accesses,
        wide,
        others,
    }
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
                Use::Less(why) => found.leave(value, &place, why),
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
