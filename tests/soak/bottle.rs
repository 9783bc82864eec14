//! Manifests, as the dice have them.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use sidecar_init::ca::rfc3339;

use super::law::Allows;
use crate::support::random::Random;

/// Hosts that come and go, each with an address of its own, where requests to it arrive.
const HOSTS: [&str; 8] = [
    "h1.test", "h2.test", "h3.test", "h4.test", "h5.test", "h6.test", "h7.test", "h8.test",
];
/// What one entry allows.
const WILDCARD: &str = "*.wild.test";
const WILD: [&str; 2] = ["wild.test", "a.wild.test"];
/// In no manifest.
pub const NEVER: &str = "never.test";
/// In every one, at an address that pipelock keeps everybody from.
pub const INSIDE: &str = "inside.test";
pub const INSIDE_ADDRESS: &str = "10.77.0.1";
/// Of the two daemons beside pipelock: the agent's proxy, and another.
pub const AGENT_PORT: u16 = 8080;
const OTHER_PORT: u16 = 9000;

/// All that may be asked for, with their addresses.
pub fn names() -> Vec<(String, String)> {
    let coming = HOSTS.iter().chain(&WILD).chain([&NEVER]);
    let mut names: Vec<(String, String)> = coming
        .enumerate()
        .map(|(number, name)| ((*name).to_owned(), format!("127.1.0.{}", number + 1)))
        .collect();
    names.push((INSIDE.to_owned(), INSIDE_ADDRESS.to_owned()));
    names
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Route,
    Passed,
    /// Until that second of the clock, passed through or not.
    Granted(u64, bool),
}

/// What a manifest says.
#[derive(Clone)]
pub struct Bottle {
    hosts: BTreeMap<&'static str, Way>,
    wildcard: bool,
    /// Beside pipelock.
    pub daemons: usize,
    drain: usize,
    rate: usize,
}

impl Bottle {
    /// Everything is allowed and passed through.
    pub fn open() -> Self {
        Self {
            hosts: HOSTS.iter().map(|host| (*host, Way::Passed)).collect(),
            wildcard: true,
            daemons: 0,
            drain: 0,
            rate: 100_000,
        }
    }

    /// Nothing is allowed but a grant of two seconds.
    pub fn closed() -> Self {
        Self {
            hosts: BTreeMap::from([(HOSTS[0], Way::Granted(unix_time() + 2, false))]),
            wildcard: false,
            ..Self::open()
        }
    }

    /// Another, which differs in one thing or a few; what that is, in words.
    pub fn change(&mut self, random: &mut Random) -> String {
        let host = HOSTS[random.below(HOSTS.len())];
        match random.below(22) {
            0..=4 => {
                self.hosts.remove(host);
                format!("without {host}")
            }
            5..=8 => self.has(host, Way::Route),
            9..=11 => self.has(host, Way::Passed),
            12..=14 => {
                let until = unix_time() + 2 + random.below(9) as u64;
                let passed = random.below(2) == 0;
                self.has(host, Way::Granted(until, passed))
            }
            15 => {
                self.wildcard = !self.wildcard;
                format!("the wildcard: {}", self.wildcard)
            }
            16..=18 => {
                self.daemons = random.below(3);
                format!("{} daemons beside pipelock", self.daemons)
            }
            19 => {
                self.drain = random.below(2);
                self.rate += 1;
                format!("{} requests a minute, drained {} s", self.rate, self.drain)
            }
            20 => "the same again".to_owned(),
            _ => {
                let gone: Vec<&str> = self.hosts.keys().copied().collect();
                self.hosts.retain(|_, _| random.below(3) == 0);
                format!("{} of {} hosts are left", self.hosts.len(), gone.len())
            }
        }
    }

    fn has(&mut self, host: &'static str, way: Way) -> String {
        self.hosts.insert(host, way);
        format!("{host}: {way:?}")
    }

    /// Without what would change by itself within that time.
    pub fn settle(&mut self, time: Duration) {
        let end = unix_time() + time.as_secs();
        self.hosts
            .retain(|_, way| !matches!(way, Way::Granted(until, _) if *until <= end));
    }

    pub fn text(&self, listen: &str, worker: &Path) -> String {
        let (mut routes, mut passed, mut grants) = (String::new(), Vec::new(), String::new());
        let mut route = |host: &str| writeln!(routes, "      - host: \"{host}\"").unwrap();
        route(INSIDE);
        if self.wildcard {
            route(WILDCARD);
        }
        for (host, way) in &self.hosts {
            match way {
                Way::Route => route(host),
                Way::Passed => {
                    route(host);
                    passed.push(*host);
                }
                Way::Granted(until, through) => writeln!(
                    grants,
                    "  - {{host: {host}, until: {}, passthrough: {through}}}",
                    rfc3339(*until)
                )
                .unwrap(),
            }
        }
        let worker = worker.display();
        let mut text = format!(
            "version: 1\nslug: soak\nbottle:\n  egress:\n    routes:\n{routes}network: {{internal_cidr: 127.0.0.0/8}}\n\
             pipelock:\n  listen: \"{listen}\"\n  requests_per_minute: {}\n  passthrough: [{}]\n\
             supervisor: {{grace_seconds: 1, probe_seconds: 1, drain_seconds: {}}}\n",
            self.rate,
            passed.join(", "),
            self.drain
        );
        if !grants.is_empty() {
            write!(text, "grants:\n{grants}").unwrap();
        }
        if self.daemons > 0 {
            write!(
                text,
                "daemons:\n  egress: {{exec: [{worker}, egress, listen={AGENT_PORT}, \"through={listen}\"], \
                 listen: [{AGENT_PORT}], connect: [8888], ready: {{tcp: {AGENT_PORT}}}, agent_proxy: {AGENT_PORT}}}\n"
            )
            .unwrap();
        }
        if self.daemons > 1 {
            writeln!(
                text,
                "  notes: {{exec: [{worker}, notes, listen={OTHER_PORT}], listen: [{OTHER_PORT}], \
                 ready: {{http: \"{OTHER_PORT}/\"}}, proxy: false, essential: false}}"
            )
            .unwrap();
        }
        text
    }

    pub fn allows(&self) -> Allows {
        let mut allows = Allows::new();
        if self.wildcard {
            allows.extend(WILD.iter().map(|name| ((*name).to_owned(), None)));
        }
        for (host, way) in &self.hosts {
            let until = match way {
                Way::Granted(until, _) => Some(instant_of(*until)),
                Way::Route | Way::Passed => None,
            };
            allows.insert((*host).to_owned(), until);
        }
        allows
    }

    /// How many hosts the status is to say are allowed; nothing where a grant has ended so
    /// lately, or ends so soon, that either number is right.
    pub fn hosts_allowed(&self, unsure: Duration) -> Option<u64> {
        let now = unix_time();
        let unsure = unsure.as_secs();
        let mut count = 1 + u64::from(self.wildcard);
        for way in self.hosts.values() {
            match way {
                Way::Granted(until, _) if until.abs_diff(now) <= unsure => return None,
                Way::Granted(until, _) if *until < now => {}
                _ => count += 1,
            }
        }
        Some(count)
    }

    /// Hosts to which a tunnel carries whatever its client likes.
    pub fn passed(&self) -> Vec<String> {
        let passed = |way: &Way| matches!(way, Way::Passed | Way::Granted(_, true));
        let hosts = self.hosts.iter().filter(|(_, way)| passed(way));
        hosts.map(|(host, _)| (*host).to_owned()).collect()
    }

    /// A manifest that cannot be used, and what is wrong with it.
    pub fn broken(text: &str, random: &mut Random) -> (Vec<u8>, &'static str) {
        let edited = |from: &str, to: &str| text.replacen(from, to, 1).into_bytes();
        match random.below(9) {
            0 => (edited("slug: soak", "slug: Soak It"), "a slug with a blank"),
            1 => (
                edited("slug: soak", "slug: soak\nnonsense: 1"),
                "a key that nobody knows",
            ),
            2 => (edited(INSIDE, "https://inside.test/"), "a URL for a host"),
            3 => (
                edited("routes:", "routes: ["),
                "a bracket that nobody closes",
            ),
            4 => (edited("version: 1", "version: 9"), "another version"),
            5 => (Vec::new(), "nothing at all"),
            6 => ((0..=255).collect(), "bytes that are no text"),
            7 => {
                // Half of one may be valid: this one ends within quotes.
                let end = text.find('"').unwrap() + 3;
                (text[..end].into(), "one that ends in the middle of a name")
            }
            _ => (
                edited("slug: soak", "slug: soak\nslug: soak"),
                "a key twice",
            ),
        }
    }
}

fn unix_time() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap()
        .as_secs()
}

fn instant_of(second: u64) -> Instant {
    let time = UNIX_EPOCH + Duration::from_secs(second);
    let (now, clock) = (Instant::now(), SystemTime::now());
    match time.duration_since(clock) {
        Ok(left) => now + left,
        Err(ago) => now.checked_sub(ago.duration()).unwrap(),
    }
}
