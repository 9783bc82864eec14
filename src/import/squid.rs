//! Squid's configuration: `acl NAME dstdomain …` lines are lists, and `http_access` lines say
//! whether one is of what is allowed. `.name` stands for `name` and all below it.

use std::collections::BTreeMap;

use crate::manifest::{escaped, quoted};

use super::found::{Entry, Found, Item, Said};
use super::host::Stars;
use super::place::{Place, split_comment};
use super::tree;

/// Lists of names.
const OF_NAMES: &str = "dstdomain ssl::server_name";
/// Lists of what may be a name, or of what stands for one; lists of lists.
const OF_OTHERS: &str =
    "dstdom_regex ssl::server_name_regex url_regex urlpath_regex dst dstdomain_regex any-of all-of";
/// Addresses that every client has.
const EVERYTHING: &str = "all 0.0.0.0/0 0.0.0.0/0.0.0.0 ::/0 0/0";
/// So many `http_access` lines may say something else of one list, and so many lists may each be
/// all that is let through: who writes more has a program for it, and we no time without an end.
const MOST: usize = 16;
const TOO_MANY: &str = "more lines of http_access name it than are followed";
/// Words in the name of a list of what is to be kept out.
const KEEPS_OUT: &str = "block black deny denied bad malware";

/// Whether a list of hosts' names is in it.
pub(super) fn has_names(text: &str) -> bool {
    let kind = |line: &str| {
        let mut words = line.split_whitespace();
        words.next().filter(|word| *word == "acl")?;
        words.nth(1).map(|kind| tree::listed(OF_NAMES, kind))
    };
    text.lines().any(|line| kind(line) == Some(true))
}

pub(super) fn is(text: &str) -> bool {
    text.lines().any(|line| {
        let mut words = line.split_whitespace();
        match words.next() {
            Some("acl") => words.nth(1).is_some_and(|kind| {
                tree::listed(OF_NAMES, kind) || tree::listed(OF_OTHERS, kind) || kind == "port"
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
    /// Allowed, under these conditions.
    Allow(String),
    Deny,
    /// Allowed less than it names, which no manifest can say: why.
    Less(String),
}

pub(super) fn read(text: &str) -> Found {
    let mut joined = String::with_capacity(text.len());
    for line in text.lines() {
        joined.push_str(line.trim_end_matches('\\'));
        joined.push(if goes_on(line) { ' ' } else { '\n' });
    }
    let joined = joined.as_str();
    let Lines {
        acls,
        accesses,
        wide,
        others: left,
        narrowing,
        condition,
    } = lines(text, joined);
    let mut found = Found::default();
    for (line, code) in narrowing {
        let said = Said::lost(escaped(code), "it is no rule of access that is read");
        found.head.push(said.at(Some(line)));
    }
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
    let allowed = [Use::Allow(String::new())];
    for acl in &acls {
        let uses = if accesses.is_empty() {
            &allowed
        } else {
            let uses = rules.list(acl.name).and_then(|list| rules.uses.get(list));
            uses.map_or(&[][..], Vec::as_slice)
        };
        if tree::listed(OF_NAMES, acl.kind) {
            names(acl, uses, &mut found);
        } else {
            others(acl, uses, &mut found);
        }
    }
    found
        .refuse(condition.map(|line| format!("line {line} is a condition, which is not followed")));
    found
}

/// What the `http_access` lines come to, one after the other. Lists are told by their places.
struct Rules<'a> {
    acls: &'a [Acl<'a>],
    /// The first of each name, in small letters; everything is in those that have no place.
    lists: BTreeMap<String, usize>,
    uses: Vec<Vec<Use>>,
    /// What is in none of these is denied by now, where anything is.
    within: Option<Vec<usize>>,
    /// The line that denies everything that comes to it.
    end: Option<usize>,
    said: Vec<Said>,
}

/// The names of one line, by what they are.
#[derive(Default)]
struct Names<'a> {
    hosts: Vec<usize>,
    not_hosts: Vec<usize>,
    /// Lists of something else, which are conditions too.
    others: Vec<usize>,
    conditions: Vec<&'a str>,
}

impl<'a> Rules<'a> {
    fn of(acls: &'a [Acl<'a>], wide: &[&str]) -> Self {
        let mut lists = BTreeMap::new();
        for name in wide.iter().chain(&["all"]) {
            lists.insert(name.to_ascii_lowercase(), usize::MAX);
        }
        for (index, acl) in acls.iter().enumerate() {
            lists.entry(acl.name.to_ascii_lowercase()).or_insert(index);
        }
        Self {
            acls,
            lists,
            uses: vec![Vec::new(); acls.len()],
            within: None,
            end: None,
            said: Vec::new(),
        }
    }

    fn follow(&mut self, accesses: &[Access]) {
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

    /// A list by its name, whatever letters it has for it.
    #[inline(never)]
    fn list(&self, name: &str) -> Option<usize> {
        let name = name.trim_start_matches('!').to_ascii_lowercase();
        self.lists.get(&name).copied()
    }

    fn names<'n>(&self, access: &Access<'n>) -> Names<'n> {
        let mut names = Names::default();
        for name in &access.names {
            let list = self.list(name);
            let acl = list.and_then(|list| self.acls.get(list));
            let is_not = name.starts_with('!');
            let Some((list, acl)) = list.zip(acl) else {
                if list.is_none() || is_not {
                    names.conditions.push(name);
                }
                continue;
            };
            if !tree::listed(OF_NAMES, acl.kind) {
                names.others.push(list);
                names.conditions.push(name);
            } else if is_not {
                names.not_hosts.push(list);
            } else {
                names.hosts.push(list);
            }
        }
        names
    }

    #[inline(never)]
    fn each(&mut self, lists: &[usize], usage: &Use) {
        for list in lists {
            let Some(uses) = self.uses.get_mut(*list) else {
                continue;
            };
            // Said once.
            if uses.contains(usage) {
                continue;
            }
            let is_over = matches!(uses.first(), Some(Use::Less(why)) if why == TOO_MANY);
            if *usage == Use::Deny || uses.len() < MOST && !is_over {
                uses.push(usage.clone());
            } else {
                uses.retain(|it| *it == Use::Deny);
                uses.insert(0, Use::Less(TOO_MANY.to_owned()));
            }
        }
    }

    fn allow(&mut self, access: &Access, names: &Names) {
        // A list of something else is told of where it is, as one that is allowed.
        self.each(&names.others, &Use::Allow(String::new()));
        self.each(&names.not_hosts, &Use::Deny);
        let within = self.within.clone();
        let is_named = !names.hosts.is_empty();
        let mut lists = names.hosts.clone();
        if !is_named {
            lists.extend(within.iter().flatten());
        }
        if lists.is_empty() {
            if names.others.is_empty() && names.not_hosts.is_empty() && within.is_none() {
                let line = access.line;
                let said = format!("line {line} allows every host: not carried over");
                self.said.push(Said::Note(said));
            }
            return;
        }
        let out = within.filter(|it| !lists.iter().all(|list| it.contains(list)));
        if is_named && lists.len() > 1 || out.is_some() {
            let all = lists.iter().chain(out.iter().flatten()).take(3);
            let all = all.filter_map(|list| self.acls.get(*list));
            let all: Vec<String> = all.map(|acl| escaped(acl.name)).collect();
            let why = format!(
                "line {} allows what is in {} together, and a manifest has no such thing",
                access.line,
                all.join(" and ")
            );
            return self.each(&lists, &Use::Less(why));
        }
        let is_condition = |name: &&&str| {
            let list = self.list(name);
            name.starts_with('!')
                || list.is_none_or(|list| list != usize::MAX && !lists.contains(&list))
        };
        let conditions = access.names.iter().filter(is_condition);
        let conditions: Vec<String> = conditions.map(|it| escaped(it)).collect();
        self.each(&lists, &Use::Allow(conditions.join(", ")));
    }

    fn deny(&mut self, access: &Access, names: &Names) {
        let Names {
            hosts,
            not_hosts,
            others,
            conditions,
        } = names;
        if !hosts.is_empty() {
            self.each(hosts, &Use::Deny);
        } else if !conditions.is_empty() {
            self.each(others, &Use::Deny);
            if others.len() < conditions.len() || !not_hosts.is_empty() {
                let all: Vec<String> = access.names.iter().map(|it| escaped(it)).collect();
                let what = format!("the denial of {}", all.join(" "));
                let why = "a host is allowed for everybody, at all times";
                self.said.push(Said::lost(what, why).at(Some(access.line)));
            }
        } else if not_hosts.is_empty() {
            self.end = Some(access.line);
        } else {
            // `deny !list` is how an allowlist is written.
            let mut within = self.within.take().unwrap_or_else(|| not_hosts.clone());
            let mut out = within.clone();
            within.retain(|it| not_hosts.contains(it));
            out.retain(|it| !not_hosts.contains(it));
            let mut why = format!("line {} denies what is in it alone", access.line);
            if within.len() > MOST {
                out.append(&mut within);
                TOO_MANY.clone_into(&mut why);
            }
            self.each(&out, &Use::Less(why));
            self.within = Some(within);
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
    /// What of that may take away something that is allowed.
    narrowing: Vec<(usize, &'a str)>,
    /// The first line that decides whether others are read.
    condition: Option<usize>,
}

/// Whether the next line belongs to this one, which a comment has none of.
fn goes_on(line: &str) -> bool {
    line.ends_with('\\') && !line.trim_start().starts_with('#')
}

fn lines<'a>(text: &str, joined: &'a str) -> Lines<'a> {
    let (mut acls, mut accesses) = (Vec::new(), Vec::new());
    let (mut wide, mut others) = (Vec::new(), Vec::new());
    let (mut narrowing, mut condition) = (Vec::new(), None);
    let mut above = Vec::new();
    // A line that goes on takes as many of the text's as it has.
    let mut numbers = 0_usize;
    let mut ends = text.lines().map(goes_on);
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
                if words.clone().any(|value| tree::listed(EVERYTHING, value)) && kind == "src" {
                    wide.push(name);
                }
                if !tree::listed(OF_NAMES, kind) && !tree::listed(OF_OTHERS, kind) {
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
            Some("if") => condition = condition.or(Some(number)),
            Some(word) => {
                if word == "include" || words.any(|it| matches!(it, "deny" | "terminate")) {
                    narrowing.push((number, code.trim()));
                }
                others.push((number, word));
            }
        }
        above.clear();
    }
    Lines {
        acls,
        accesses,
        wide,
        others,
        narrowing,
        condition,
    }
}

/// A list that names no hosts.
fn others(acl: &Acl, uses: &[Use], found: &mut Found) {
    let line = acl.place.line;
    let what = format!("acl {} {}", escaped(acl.name), acl.kind);
    let why = match acl.kind {
        "dst" => "hosts are allowed by their names, not by where they lead",
        "any-of" | "all-of" => "a manifest has no lists of lists",
        _ => "a regular expression is no host",
    };
    let said = if uses.contains(&Use::Deny) {
        let here = line.map_or_else(String::new, |line| format!(" (line {line})"));
        found.unread.push(what.clone() + &here);
        let why = format!("{why}; see that no route allows what it denied");
        Said::lost(format!("the denial of {what}"), why)
    } else {
        Said::lost(what, why)
    };
    found.routes.push(Item::Said(said.at(line)));
}

fn names(acl: &Acl, uses: &[Use], found: &mut Found) {
    let name = acl.name;
    let lower = name.to_ascii_lowercase();
    let line = acl.place.line;
    for (index, value) in acl.values.iter().enumerate() {
        let here = if index == 0 {
            acl.place.clone()
        } else {
            Place {
                line,
                ..Place::default()
            }
        };
        if value.starts_with('"') {
            let why = if uses.contains(&Use::Deny) {
                found
                    .unread
                    .push(format!("{value} (line {})", line.unwrap_or(0)));
                "it is another file, of what is denied: name it as well, with a ! before each line"
            } else {
                "it is another file: name it as well"
            };
            found.leave(value.trim_matches('"'), &here, why);
            continue;
        }
        if uses.is_empty() {
            let why = format!("no http_access line uses {}", quoted(name));
            found.leave(value, &here, &why);
            continue;
        }
        let is_kept_out = tree::has_one(KEEPS_OUT, &lower);
        for usage in uses {
            let place = here.clone();
            match usage {
                Use::Deny => found.deny(value, place, Stars::WithName),
                Use::Less(why) => found.leave(value, &place, why),
                Use::Allow(_) if value.contains('*') => {
                    found.leave(value, &place, "a * is no wildcard of Squid's");
                }
                Use::Allow(_) if is_kept_out => {
                    let why = format!("by its name, {} is what is kept out", quoted(name));
                    found.leave(value, &place, &why);
                }
                Use::Allow(others) => {
                    let mut entry = Entry::new(value, place, Stars::WithName);
                    if !others.is_empty() {
                        let what = format!("the condition {others}");
                        let why = "a host is allowed for everybody, at all times";
                        entry.said.push(Said::lost(what, why));
                    }
                    found.routes.push(Item::Allow(entry));
                }
            }
        }
    }
}
