//! Squid's configuration: `acl NAME dstdomain …` lines are lists, and `http_access` lines say
//! whether one is of what is allowed. `.name` stands for `name` and all below it.

use std::collections::{BTreeMap, BTreeSet};

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
/// Words in the name of a list of what is to be kept out, besides those that say so of any key.
const KEEPS_OUT: &str = "block black bad malware";
const NO_RULE: &str = "no http_access line was there that allows or denies it";
/// Lists that Squid has of itself.
const OWN: &str = "all manager localhost to_localhost to_linklocal connect";

/// Whether a list of hosts' names is in it.
pub(super) fn has_names(text: &str) -> bool {
    let kind = |line: &str| {
        let line = line.to_ascii_lowercase();
        let mut words = line.split_whitespace();
        words.next().filter(|word| *word == "acl")?;
        words.nth(1).map(|kind| tree::listed(OF_NAMES, kind))
    };
    text.lines().any(|line| kind(line) == Some(true))
}

pub(super) fn is(text: &str) -> bool {
    text.lines().any(|line| {
        let line = line.to_ascii_lowercase();
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
    /// In small letters.
    kind: String,
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
    let (joined, numbers) = join(text);
    let Lines {
        acls,
        accesses,
        wide,
        known,
        others: left,
        narrowing,
        condition,
    } = lines(&joined, numbers);
    let mut found = Found::default();
    for (line, code) in narrowing {
        found
            .unread
            .push(format!("{} (line {line})", escaped(code)));
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
        found.has_no_rules = true;
        found.head.push(Said::Note(
            "no http_access line is there: its lists are taken for what is allowed".to_owned(),
        ));
    }
    let mut rules = Rules::of(&acls, &wide, &known);
    rules.follow(&accesses);
    found.head.append(&mut rules.said);
    found.unread.append(&mut rules.unread);
    let allowed = [Use::Allow(NO_RULE.to_owned())];
    for acl in &acls {
        let uses = if accesses.is_empty() {
            &allowed
        } else {
            let uses = rules.list(acl.name).and_then(|list| rules.uses.get(list));
            uses.map_or(&[][..], Vec::as_slice)
        };
        if tree::listed(OF_NAMES, &acl.kind) {
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
    /// All that have a name here, in small letters, and what denies a list that has none.
    known: BTreeSet<String>,
    unread: Vec<String>,
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
    fn of(acls: &'a [Acl<'a>], wide: &[&str], known: &[&str]) -> Self {
        let known = known.iter().map(|name| name.to_ascii_lowercase());
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
            known: known.collect(),
            unread: Vec::new(),
        }
    }

    /// Whether a list is nowhere in this file, and not Squid's own.
    fn is_elsewhere(&self, name: &str) -> bool {
        let name = name.trim_start_matches('!').to_ascii_lowercase();
        !self.known.contains(&name) && !tree::listed(OWN, &name)
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
            if !tree::listed(OF_NAMES, &acl.kind) {
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
                // Another file may say which hosts are in it.
                if access.names.iter().any(|it| self.is_elsewhere(it)) {
                    let all = all.join(" ");
                    self.unread.push(format!("{all} (line {})", access.line));
                }
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
    /// Names of lists that everything is in, and of all lists.
    wide: Vec<&'a str>,
    known: Vec<&'a str>,
    /// Whatever else there is: the number and the first word of each.
    others: Vec<(usize, &'a str)>,
    /// What of that may take away something that is allowed.
    narrowing: Vec<(usize, &'a str)>,
    /// The first line that decides whether others are read.
    condition: Option<usize>,
}

/// The lines as Squid joins them, each with the number of its first: neither a comment nor an empty
/// line ends one that goes on. A `\\` within a word stays there, so that it is no host.
fn join(text: &str) -> (String, Vec<usize>) {
    let (mut joined, mut numbers) = (String::with_capacity(text.len()), Vec::new());
    let mut goes_on = false;
    for (index, line) in text.lines().enumerate() {
        let line = line.split('\r').next().unwrap_or_default().trim_start();
        let is_comment = line.starts_with('#');
        if goes_on && (line.is_empty() || is_comment) {
            continue;
        }
        if !goes_on {
            numbers.push(index + 1);
        }
        let part = line.strip_suffix('\\').filter(|_| !is_comment);
        goes_on = part.is_some();
        let part = part.filter(|part| part.ends_with(char::is_whitespace) || part.is_empty());
        joined.push_str(part.unwrap_or(line));
        joined.push_str(if goes_on { "" } else { "\n" });
    }
    (joined, numbers)
}

fn lines(joined: &str, numbers: Vec<usize>) -> Lines<'_> {
    let (mut acls, mut accesses) = (Vec::new(), Vec::new());
    let (mut wide, mut others) = (Vec::new(), Vec::new());
    let (mut narrowing, mut condition) = (Vec::new(), None);
    let (mut above, mut known) = (Vec::new(), Vec::new());
    for (line, number) in joined.lines().zip(numbers) {
        let (code, comment) = split_comment(line);
        let mut words = code.split_whitespace();
        let first = words.next();
        match first.map(str::to_ascii_lowercase).as_deref() {
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
                known.push(name);
                let kind = kind.to_ascii_lowercase();
                if words.clone().any(|value| tree::listed(EVERYTHING, value)) && kind == "src" {
                    wide.push(name);
                }
                if !tree::listed(OF_NAMES, &kind) && !tree::listed(OF_OTHERS, &kind) {
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
                let action = words.next().map(str::to_ascii_lowercase);
                let allows = match action.as_deref() {
                    Some("allow") => true,
                    Some("deny") => false,
                    _ => {
                        narrowing.push((number, code.trim()));
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
                let denies = |it: &str| tree::denies(it) || it.eq_ignore_ascii_case("terminate");
                if word == "include" || words.any(denies) {
                    narrowing.push((number, code.trim()));
                }
                others.push((number, first.unwrap_or_default()));
            }
        }
        above.clear();
    }
    Lines {
        acls,
        accesses,
        wide,
        known,
        others,
        narrowing,
        condition,
    }
}

/// A list that names no hosts.
fn others(acl: &Acl, uses: &[Use], found: &mut Found) {
    let line = acl.place.line;
    let what = format!("acl {} {}", escaped(acl.name), acl.kind);
    let why = match acl.kind.as_str() {
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
        let is_kept_out = tree::has_one(KEEPS_OUT, &lower) || tree::denies(&lower);
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
                    if others == NO_RULE {
                        entry.said.push(Said::Note(NO_RULE.to_owned()));
                    } else if !others.is_empty() {
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
