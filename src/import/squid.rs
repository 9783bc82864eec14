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
/// Lists that are made of lists.
const OF_LISTS: [&str; 2] = ["any-of", "all-of"];
/// So many `http_access` lines may say something else of one list, and so many lists may each be
/// all that is let through: who writes more has a program for it, and we no time without an end.
const MOST: usize = 16;
const TOO_MANY: &str = "more lines of http_access name it than are followed";
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
    for acl in acls {
        let uses = if accesses.is_empty() {
            &[Use::Allow(Vec::new())]
        } else {
            let name = rules.list(acl.name).map(|(name, _)| name);
            name.and_then(|name| rules.uses.get(name))
                .map_or(&[][..], Vec::as_slice)
        };
        if OF_OTHERS.contains(&acl.kind) {
            others(&acl, uses, &mut found);
        } else {
            names(acl, uses, &mut found);
        }
    }
    found
        .refuse(condition.map(|line| format!("line {line} is a condition, which is not followed")));
    found
}

/// What the `http_access` lines come to, one after the other.
struct Rules<'a> {
    /// The lists that a line can name, whatever letters it has for it: its name, and what it is of.
    lists: BTreeMap<String, (&'a str, Of)>,
    /// What lists of lists are made of.
    made: BTreeMap<&'a str, Vec<&'a str>>,
    uses: BTreeMap<&'a str, Vec<Use>>,
    /// What is in none of these is denied by now, where anything is.
    within: Option<Vec<&'a str>>,
    /// The line that denies everything that comes to it.
    end: Option<usize>,
    said: Vec<Said>,
}

/// What is in a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Of {
    Names,
    Others,
    Everything,
    Lists,
}

/// The names of one line, by what they are.
#[derive(Default)]
struct Names<'a> {
    hosts: Vec<&'a str>,
    not_hosts: Vec<&'a str>,
    conditions: Vec<&'a str>,
}

impl<'a> Rules<'a> {
    fn of(acls: &[Acl<'a>], wide: &[&'a str]) -> Self {
        let mut lists = BTreeMap::new();
        let mut made: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        lists.insert("all".to_owned(), ("all", Of::Everything));
        for name in wide {
            lists.insert(name.to_ascii_lowercase(), (*name, Of::Everything));
        }
        for acl in acls {
            let of = match acl.kind {
                kind if OF_NAMES.contains(&kind) => Of::Names,
                kind if OF_LISTS.contains(&kind) => Of::Lists,
                _ => Of::Others,
            };
            let lower = acl.name.to_ascii_lowercase();
            let (name, _) = *lists.entry(lower).or_insert((acl.name, of));
            if of == Of::Lists {
                made.entry(name).or_default().extend(&acl.values);
            }
        }
        Self {
            lists,
            made,
            uses: BTreeMap::new(),
            within: None,
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

    /// A list by its name.
    fn list(&self, name: &str) -> Option<(&'a str, Of)> {
        let name = name.trim_start_matches('!').to_ascii_lowercase();
        self.lists.get(&name).copied()
    }

    fn is_wide(&self, name: &str) -> bool {
        !name.starts_with('!') && matches!(self.list(name), Some((_, Of::Everything)))
    }

    fn names(&self, access: &Access<'a>) -> Names<'a> {
        let mut names = Names::default();
        for name in access
            .names
            .iter()
            .copied()
            .filter(|name| !self.is_wide(name))
        {
            match (self.list(name), name.starts_with('!')) {
                (Some((list, Of::Names)), false) => names.hosts.push(list),
                (Some((list, Of::Names)), true) => names.not_hosts.push(list),
                _ => names.conditions.push(name),
            }
        }
        names
    }

    fn each(&mut self, lists: &[&'a str], usage: &Use) {
        for list in lists {
            let uses = self.uses.entry(list).or_default();
            // Said once.
            if !uses.contains(usage) {
                let is_over = matches!(uses.first(), Some(Use::Less(why)) if why == TOO_MANY);
                if *usage == Use::Deny || uses.len() < MOST && !is_over {
                    uses.push(usage.clone());
                } else {
                    uses.retain(|it| *it == Use::Deny);
                    uses.insert(0, Use::Less(TOO_MANY.to_owned()));
                }
            }
        }
    }

    fn allow(&mut self, access: &Access<'a>, names: &Names<'a>) {
        // A list of something else is told of where it is, as one that is allowed.
        let told = self.others(&names.conditions);
        self.each(&told, &Use::Allow(Vec::new()));
        self.each(&names.not_hosts, &Use::Deny);
        let within = self.within.clone();
        let lists = match (&within, &names.hosts[..]) {
            (Some(within), []) => within.clone(),
            (_, hosts) => hosts.to_vec(),
        };
        let out = within
            .as_ref()
            .filter(|it| !lists.iter().all(|list| it.contains(list)));
        match &lists[..] {
            [] if told.is_empty() && names.not_hosts.is_empty() && within.is_none() => {
                self.said.push(Said::Note(format!(
                    "line {} allows every host: not carried over",
                    access.line
                )));
            }
            [] => {}
            several if several.len() > 1 && !names.hosts.is_empty() || out.is_some() => {
                let within = out.into_iter().flatten();
                let all = several.iter().chain(within).take(3);
                let all: Vec<String> = all.map(|it| escaped(it)).collect();
                let why = format!(
                    "line {} allows what is in {} together, and a manifest has no such thing",
                    access.line,
                    all.join(" and ")
                );
                self.each(several, &Use::Less(why));
            }
            _ => {
                let is_list = |it: &str| lists.iter().any(|list| it.eq_ignore_ascii_case(list));
                let conditions = access.names.iter().filter(|it| !is_list(it));
                let conditions = conditions.filter(|it| !self.is_wide(it));
                let conditions = conditions.map(|it| escaped(it)).collect();
                self.each(&lists, &Use::Allow(conditions));
            }
        }
    }

    /// The lists of something else than names among these; of one that is made of lists, those.
    fn others(&self, names: &[&'a str]) -> Vec<&'a str> {
        let mut others = Vec::new();
        for name in names {
            match self.list(name) {
                Some((list, Of::Lists)) => {
                    let made = self.made.get(list).into_iter().flatten();
                    others.push(list);
                    others.extend(made.filter_map(|it| self.list(it)).map(|(list, _)| list));
                }
                Some((list, Of::Others)) => others.push(list),
                _ => {}
            }
        }
        others
    }

    fn deny(&mut self, access: &Access<'a>, names: &Names<'a>) {
        match (
            &names.hosts[..],
            &names.not_hosts[..],
            &names.conditions[..],
        ) {
            ([], [], []) => self.end = Some(access.line),
            // `deny !list` is how an allowlist is written.
            ([], lists, []) => {
                let mut within = self.within.take().unwrap_or_else(|| lists.to_vec());
                let mut out = within.clone();
                within.retain(|it| lists.contains(it));
                out.retain(|it| !lists.contains(it));
                let why = format!("line {} denies what is in it alone", access.line);
                self.each(&out, &Use::Less(why));
                self.within = Some(within);
            }
            ([], _, conditions) => {
                let told = self.others(conditions);
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
    /// What of that may take away something that is allowed.
    narrowing: Vec<(usize, &'a str)>,
    /// The first line that decides whether others are read.
    condition: Option<usize>,
}

fn lines<'a>(text: &str, joined: &'a str) -> Lines<'a> {
    let (mut acls, mut accesses) = (Vec::new(), Vec::new());
    let (mut wide, mut others) = (Vec::new(), Vec::new());
    let (mut narrowing, mut condition) = (Vec::new(), None);
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
                if ![&OF_NAMES[..], &OF_OTHERS, &OF_LISTS]
                    .concat()
                    .contains(&kind)
                {
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
        kind if OF_LISTS.contains(&kind) => "a manifest has no lists of lists",
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
        let is_kept_out = KEEPS_OUT.iter().any(|word| lower.contains(word));
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
