//! From what the files say to what the manifest has: hosts that are denied anywhere are taken
//! out, each host is there once, and what is lost is said where it was.

use std::collections::{BTreeMap, BTreeSet};

use crate::manifest::quoted;
use crate::policy::{self, MODEL_HOST};

use super::found::{Entry, Found, Item, Said};
use super::host::{self, Meant, Stars};
use super::write;

/// The most entries that a manifest's list of single values may have.
const MOST_PASSED: usize = 4096;

/// A line of the manifest with its comments; or comments alone.
#[derive(Debug, Default)]
pub(super) struct Block {
    pub(super) above: Vec<String>,
    /// As YAML has it.
    pub(super) value: Option<String>,
    pub(super) beside: Option<String>,
}

/// What the manifest has.
#[derive(Debug, Default)]
pub(super) struct Plan {
    pub(super) head: Vec<String>,
    pub(super) routes: Vec<Block>,
    pub(super) networks: Vec<Block>,
    pub(super) passthrough: Vec<Block>,
    pub(super) tuning: Vec<Block>,
    /// How many times something is not carried over.
    pub(super) left: usize,
    /// The hosts of the routes, in byte order.
    hosts: Vec<String>,
    /// How many of them are passed through, and whether there is a network.
    passed: usize,
    has_network: bool,
    parts: Vec<Part>,
    denied: Denied,
    /// What is allowed so far, where the first rule decides.
    granted: Names,
    /// There, the first rule of each name, and what each is that denies.
    first: BTreeMap<String, usize>,
    firsts: Vec<Option<String>>,
}

/// A file of which nothing is decided yet.
#[derive(Debug)]
struct Part {
    found: Found,
    file: Option<String>,
}

/// A host that is allowed as long as nothing denies it.
struct Candidate {
    host: String,
    block: Block,
    apexes: Vec<String>,
}

impl Plan {
    /// What is imported, by name.
    pub(super) fn heading(&mut self, what: String) {
        self.head.push(what);
    }

    pub(super) fn add(&mut self, found: Found, file: Option<String>) {
        // Where a denial decides wherever it stands, those of all files come first. The first rule
        // decides among those of one file, and addresses are denied before any is allowed.
        for item in &found.routes {
            if let Item::Deny(entry) = item
                && (!found.first_decides || file.is_some() || host::is_address(&entry.text))
            {
                self.denied.add(entry, file.as_deref());
            }
        }
        if found.first_decides && file.is_none() {
            for item in &found.routes {
                let (entry, denies) = match item {
                    Item::Allow(entry) => (entry, false),
                    Item::Deny(entry) => (entry, true),
                    Item::Said(_) => continue,
                };
                if let Ok(meant) = host::meant(&entry.text, entry.stars) {
                    self.first.entry(meant.host).or_insert(self.firsts.len());
                    self.firsts.push(denies.then(|| Denied::by(entry, None)));
                }
            }
        }
        let here = place(None, file.as_deref());
        let unread = found.unread.iter().map(|what| format!("{what}{here}"));
        self.denied.unread.extend(unread);
        self.parts.push(Part { found, file });
    }

    /// Decides.
    pub(super) fn finish(mut self) -> Self {
        let parts = std::mem::take(&mut self.parts);
        let mut candidates = Vec::new();
        for Part { found, file } in &parts {
            let file = file.as_deref();
            for said in &found.head {
                let line = self.words(said, file);
                self.head.extend(line);
            }
            for item in &found.routes {
                let first_decides = found.first_decides && file.is_none();
                self.route(item, first_decides, file, &mut candidates);
            }
        }
        self.routes(candidates);
        for Part { found, file } in parts {
            let file = file.as_deref();
            if found.scans_the_model && self.allows(MODEL_HOST) {
                self.head.push(format!(
                    "wider than there: {MODEL_HOST} is passed through here, unopened and unscanned"
                ));
            }
            let named: BTreeSet<String> = found
                .passthrough
                .iter()
                .map(|entry| entry.text.trim().to_ascii_lowercase())
                .collect();
            for entry in found.passthrough {
                self.passed(entry, &named, file);
            }
            for entry in found.networks {
                self.network(&entry, file);
            }
            for (key, value, line) in found.tuning {
                self.tune(key, value, line, file);
            }
        }
        self
    }

    fn route(
        &mut self,
        item: &Item,
        first_decides: bool,
        file: Option<&str>,
        candidates: &mut Vec<Candidate>,
    ) {
        let mut alone = |plan: &mut Self, said: &Said| {
            let above = plan.words(said, file).into_iter().collect();
            candidates.push(Candidate::comment(above));
        };
        let entry = match item {
            Item::Allow(entry) => entry,
            Item::Said(said) => return alone(self, said),
            Item::Deny(entry) => {
                if first_decides {
                    self.denied.add(entry, file);
                }
                let shown = quoted(&host::shown(&entry.text));
                let line = entry.place.line;
                let place = place(line, file);
                let denied = host::denied(&entry.text, entry.stars);
                let granted = match &denied {
                    host::Denied::Host(meant) => self.granted.touches(&meant.host),
                    _ => None,
                };
                let lost = |why| Said::lost(format!("the denial of {shown}"), why).at(line);
                let said = match denied {
                    _ if entry.refused.is_some() => {
                        Said::lost(&shown, entry.refused.as_deref().unwrap_or_default()).at(line)
                    }
                    _ if first_decides && granted.is_some() => Said::Note(format!(
                        "denied there, behind what allows it: {shown}{place}"
                    )),
                    host::Denied::Host(meant) if meant.is_part => {
                        Said::Note(format!("denied there: {shown}{place}"))
                    }
                    host::Denied::Addresses => {
                        lost("it names no host; see that no route allows it")
                    }
                    host::Denied::Unknown => lost("it names no host; nothing is allowed"),
                    _ => Said::Note(format!(
                        "denied there: {shown}{place}; what is not listed is refused here"
                    )),
                };
                return alone(self, &said);
            }
        };
        let mut above = entry.place.above.clone();
        let shown = quoted(&host::shown(&entry.text));
        let lost = |why: String| Said::lost(shown.clone(), why).at(entry.place.line);
        let (meant, why, beside) = match host::meant(&entry.text, entry.stars) {
            Err(why) => (None, Some(why), true),
            Ok(_) if entry.refused.is_some() => (None, entry.refused.clone(), true),
            Ok(meant) => {
                let why = self.denial(&meant);
                (Some(meant), why, false)
            }
        };
        let meant = match (meant, why) {
            (Some(meant), None) => meant,
            (_, why) => {
                above.extend(self.words(&lost(why.unwrap_or_default()), file));
                above.extend(entry.place.beside.clone().filter(|_| beside));
                candidates.push(Candidate::comment(above));
                return;
            }
        };
        let mut apexes = Vec::new();
        let mut said = meant.said;
        said.extend(entry.said.clone());
        if let [first, more @ ..] = &self.denied.unread[..] {
            let more = match more.len() {
                0 => String::new(),
                more => format!(" and of {more} more"),
            };
            let what = format!("the denial of {first}{more}");
            let lost = Said::lost(what, "it names no host: see that it is not this one");
            above.extend(self.words(&lost, None));
        }
        if let Some(by) = self.denied.parts.touches(&meant.host) {
            let why = "a host is allowed or it is not";
            let lost = Said::lost(format!("the denial of {by}"), why);
            above.extend(self.words(&lost, None));
        }
        if first_decides {
            let base = meant.host.strip_prefix("*.").unwrap_or(&meant.host);
            self.granted.add(base, String::new());
            self.granted.add(&meant.host, String::new());
        }
        for said in said {
            if let Said::Apex(base) = said {
                apexes.push(base);
            } else {
                let said = said.at(entry.place.line);
                above.extend(self.words(&said, file));
            }
        }
        candidates.push(Candidate {
            block: Block {
                above,
                value: None,
                beside: entry.place.beside.clone(),
            },
            host: meant.host,
            apexes,
        });
    }

    /// Why a host is not allowed that something denies.
    #[inline(never)]
    fn denial(&self, meant: &Meant) -> Option<String> {
        let by = self.denied.whole.touches(&meant.host);
        let address = || self.denied.addresses.as_deref();
        let by = by.or_else(|| address().filter(|_| host::is_address(&meant.host)));
        let by = by.or_else(|| {
            let base = meant.host.strip_prefix("*.")?;
            self.firsts.get(self.first(base)?)?.as_deref()
        })?;
        let wildcard = if meant.host.starts_with("*.") {
            ", and nothing can be taken out of a wildcard"
        } else {
            ""
        };
        Some(format!("{by} is denied{wildcard}"))
    }

    /// The first rule that fits a host, where the first decides.
    fn first(&self, host: &str) -> Option<usize> {
        let mut best = self.first.get(host);
        let mut name = host;
        while let Some((_, parent)) = name.split_once('.') {
            let found = self.first.get(&format!("*.{parent}"));
            best = best.into_iter().chain(found).min();
            name = parent;
        }
        best.copied()
    }

    /// The routes, each host once, in the order in which each is there first.
    fn routes(&mut self, candidates: Vec<Candidate>) {
        let mut places: BTreeMap<String, usize> = BTreeMap::new();
        // What is said of each: as often as somebody likes.
        let mut told: BTreeSet<(usize, String)> = BTreeSet::new();
        for candidate in &candidates {
            places.insert(candidate.host.clone(), usize::MAX);
        }
        for mut candidate in candidates {
            // Where the domain is listed as well, its wildcard adds nothing.
            for base in candidate.apexes {
                if !places.contains_key(&base) {
                    let wider = format!("wider than there: \"*.{base}\" stands for {base} too");
                    candidate.block.above.push(wider);
                }
            }
            if candidate.host.is_empty() {
                self.routes.push(candidate.block);
                continue;
            }
            let here = self.routes.len();
            let place = places.entry(candidate.host.clone()).or_insert(here);
            if let Some(first) = self.routes.get_mut(*place) {
                let Block { above, beside, .. } = candidate.block;
                for comment in above.into_iter().chain(beside) {
                    if told.insert((*place, comment.clone())) {
                        first.above.push(comment);
                    }
                }
                continue;
            }
            *place = here;
            let all = candidate.block.above.iter().chain(&candidate.block.beside);
            told.extend(all.map(|comment| (here, comment.clone())));
            let host = policy::in_yaml(&candidate.host);
            candidate.block.value = Some(format!("- host: {host}"));
            self.routes.push(candidate.block);
        }
        for (host, place) in places {
            let Some(block) = self.routes.get_mut(place).filter(|it| it.value.is_some()) else {
                continue;
            };
            if write::is_told(block) {
                self.hosts.push(host);
                continue;
            }
            // Nobody would read why it is less than that.
            self.left += 1;
            block.value = None;
            let why = "more has to be said of it than is written beside a host";
            let lost = format!("not carried over: {}, because {why}", quoted(&host));
            block.above.insert(0, lost);
        }
        self.hosts.sort_unstable();
    }

    fn allows(&self, entry: &str) -> bool {
        policy::matching::allows_entry(&self.hosts, entry)
    }

    /// A host that is passed through; `named` are all that are.
    fn passed(&mut self, entry: Entry, named: &BTreeSet<String>, file: Option<&str>) {
        let shown = quoted(&host::shown(&entry.text));
        let what = format!("pass through {shown}");
        let line = entry.place.line;
        let mut above = entry.place.above;
        let mut value = None;
        let why = match host::meant(&entry.text, entry.stars) {
            Err(why) => Some(why),
            Ok(Meant { host, .. }) if !self.allows(&host) => {
                Some(format!("no route allows {host}"))
            }
            Ok(_) if self.passed >= MOST_PASSED => {
                Some(format!("a list may have {MOST_PASSED} entries"))
            }
            Ok(Meant { host, said, .. }) => {
                for said in said {
                    match said {
                        Said::Apex(base) if named.contains(&base) => {}
                        // The wildcard stands for the domain too, and that is allowed.
                        Said::Apex(base) => above.push(format!(
                            "wider than there: \"*.{base}\" passes {base} through too"
                        )),
                        said => above.extend(self.words(&said.at(entry.place.line), file)),
                    }
                }
                value = Some(format!("- {}", policy::in_yaml(&host)));
                None
            }
        };
        if let Some(why) = why {
            above.extend(self.words(&Said::lost(what, why).at(line), file));
        }
        self.passed += usize::from(value.is_some());
        self.passthrough.push(Block {
            above,
            value,
            beside: entry.place.beside,
        });
    }

    fn network(&mut self, entry: &Entry, file: Option<&str>) {
        let mut block = Block {
            above: entry.place.above.clone(),
            value: None,
            beside: entry.place.beside.clone(),
        };
        let why = match policy::cidr(&entry.text) {
            Err(refusal) => Some(refusal.message),
            Ok(_) if self.has_network => Some("network.internal_cidr is one network".to_owned()),
            Ok(cidr) => {
                self.has_network = true;
                block.value = Some(format!("internal_cidr: {}", policy::in_yaml(&cidr)));
                None
            }
        };
        if let Some(why) = why {
            let lost = Said::lost(quoted(&entry.text), why).at(entry.place.line);
            let said = self.words(&lost, file);
            block.above.extend(said);
        }
        self.networks.push(block);
    }

    fn tune(&mut self, key: &str, value: u64, line: Option<usize>, file: Option<&str>) {
        let most = u64::from(policy::most(key));
        let written = format!("{key}: {value}");
        let is_there = self.tuning.iter().find_map(|block| {
            let value = block.value.as_deref()?;
            value.starts_with(key).then(|| value == written)
        });
        let why = match is_there {
            Some(true) => return,
            Some(false) => Some("there is another above".to_owned()),
            None if !(1..=most).contains(&value) => Some(format!("a manifest takes 1 to {most}")),
            None => None,
        };
        let mut block = Block::default();
        match why {
            Some(why) => {
                let said = self.words(&Said::lost(written, why).at(line), file);
                block.above.extend(said);
            }
            None => block.value = Some(written),
        }
        self.tuning.push(block);
    }

    /// As a comment; what is lost is counted.
    #[inline(never)]
    fn words(&mut self, said: &Said, file: Option<&str>) -> Option<String> {
        Some(match said {
            Said::Lost { what, line, why } => {
                self.left += 1;
                let place = place(*line, file);
                format!("not carried over: {what}{place}, because {why}")
            }
            Said::Depth(base) => format!(
                "wider than there: \"*.{base}\" stands for {base} too, and for all below it"
            ),
            Said::Apex(base) => {
                format!("wider than there: \"*.{base}\" stands for {base} too")
            }
            Said::Note(text) | Said::Comment(text) => text.clone(),
        })
        .filter(|text| !text.is_empty())
    }
}

impl Candidate {
    #[inline(never)]
    fn comment(above: Vec<String>) -> Self {
        Self {
            host: String::new(),
            block: Block {
                above,
                ..Block::default()
            },
            apexes: Vec::new(),
        }
    }
}

/// Where it was, in a comment.
#[inline(never)]
fn place(line: Option<usize>, file: Option<&str>) -> String {
    match (file, line) {
        (Some(file), Some(line)) => format!(" ({file}, line {line})"),
        (None, Some(line)) => format!(" (line {line})"),
        (Some(file), None) => format!(" ({file})"),
        (None, None) => String::new(),
    }
}

/// What is denied: hosts as a whole, and parts of hosts; networks; what no name can be told of.
#[derive(Debug, Default)]
struct Denied {
    whole: Names,
    parts: Names,
    addresses: Option<String>,
    unread: Vec<String>,
}

impl Denied {
    /// A denial as it was written, and where.
    fn by(entry: &Entry, file: Option<&str>) -> String {
        let shown = quoted(&host::shown(&entry.text));
        shown + &place(entry.place.line, file)
    }

    fn add(&mut self, entry: &Entry, file: Option<&str>) {
        let by = Self::by(entry, file);
        match host::denied(&entry.text, entry.stars) {
            host::Denied::Host(meant) => {
                // Ports and methods beside the host.
                let is_part = meant.is_part || !entry.said.is_empty();
                let names = if is_part {
                    &mut self.parts
                } else {
                    &mut self.whole
                };
                if let Some(base) = meant.host.strip_prefix("*.")
                    && entry.is_with_its_name()
                {
                    names.add(base, by.clone());
                }
                names.add(&meant.host, by);
            }
            // What it covers is not known exactly: all that it may cover.
            host::Denied::Names(names) => {
                for name in names {
                    let base = name.strip_prefix("*.").unwrap_or(&name);
                    self.whole.add(base, by.clone());
                    self.whole.add(&name, by.clone());
                }
            }
            host::Denied::Addresses => self.addresses = Some(by),
            host::Denied::Unknown => self.whole.everything = Some(by),
        }
    }
}

impl Entry {
    /// Whether a wildcard stands for the domain itself.
    fn is_with_its_name(&self) -> bool {
        self.stars == Stars::WithName || self.text.trim_start().starts_with('.')
    }
}

/// Hosts and `*.domain`s, which stand for what is below the domain, by their labels from the last
/// to the first; each with what named it.
#[derive(Debug, Default)]
struct Names {
    by_labels: BTreeMap<String, String>,
    everything: Option<String>,
}

impl Names {
    #[inline(never)]
    fn add(&mut self, host: &str, by: String) {
        self.by_labels.entry(backwards(host)).or_insert(by);
    }

    /// What has a name in common with the host; `*.domain` is for the domain too here, as a
    /// manifest's is.
    #[inline(never)]
    fn touches(&self, host: &str) -> Option<&str> {
        let get = |key: &str| self.by_labels.get(key).map(String::as_str);
        let base = host.strip_prefix("*.").unwrap_or(host);
        let above = || {
            let mut name = base;
            while let Some((_, parent)) = name.split_once('.') {
                let found = get(&format!("{}.*", backwards(parent)));
                if found.is_some() {
                    return found;
                }
                name = parent;
            }
            None
        };
        let below = || {
            if base == host {
                return None;
            }
            let start = format!("{}.", backwards(base));
            let mut range = self.by_labels.range(start.clone()..);
            let (key, by) = range.next()?;
            key.starts_with(&start).then_some(by.as_str())
        };
        self.everything
            .as_deref()
            .or_else(|| get(&backwards(base)))
            .or_else(above)
            .or_else(below)
    }
}

#[inline(never)]
fn backwards(host: &str) -> String {
    let labels: Vec<&str> = host.rsplit('.').collect();
    labels.join(".")
}
