//! What was refused, counted by host, scanner and reason in bounded memory, and told
//! in `denials.json`. Pure but for reading that file.

use std::borrow::Cow;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::boot::clock;
use crate::ca::rfc3339;
use crate::daemon::pipelock::redact::may_be_a_key;
use crate::daemon::pipelock::refusal::Refusal;
use crate::daemon::pipelock::refusals::{self, Advice, Asked, InForce, Kind, Met, Row};
use crate::plain;
use crate::policy;
use crate::status::metrics::Refused;
use crate::status::schema::Word;
use crate::sys::files::Room;

/// The file's name, in the run directory and in the export.
pub const FILE: &str = "denials.json";
/// The schema's version.
const SCHEMA: u32 = 1;
/// Kinds of denials that are told; the file stays below [`LONGEST`] with the longest names.
const TOLD: usize = 100;
/// Bytes of the file, at most.
const LONGEST: usize = 128 * 1024;
/// Kinds that are counted: a few more, so that the last ones told are not accidents.
const COUNTED: usize = 128;
/// Between two writes. A client that is refused ten thousand times a second costs the
/// host no more than that.
const INTERVAL: Duration = Duration::from_secs(2);
/// Scanners that judge the host alone, and not what was sent there.
const JUDGE_THE_HOST: [&str; 9] = [
    "allowlist",
    "blocklist",
    "core_ssrf",
    "databudget",
    "ratelimit",
    "sni_mismatch",
    "ssrf",
    "tls_authority_mismatch",
    "tls_handshake_error",
];

/// One kind of denial.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Denial {
    /// The host that was asked for. `*` stands for labels that may be a secret; absent
    /// where pipelock does not say, or the name itself may hold what was refused.
    pub host: Option<String>,
    /// What refused it, in pipelock's word.
    #[serde(default)]
    pub scanner: String,
    /// Why, in the fixed part of pipelock's words.
    #[serde(default)]
    pub reason: String,
    /// At least this many times.
    pub count: u64,
    /// When it was counted first, RFC 3339 by the machine's clock; empty where a file says not.
    #[serde(default)]
    pub first_seen: String,
    /// And when last.
    #[serde(default)]
    pub last_seen: String,
    /// What it is; `None` for what is not known.
    pub kind: Option<Word<Kind>>,
    /// What happened to the request: it was refused, cut, or failed.
    pub verb: Cow<'static, str>,
    /// What it means, for a person.
    pub means: String,
    /// What to do if the request was wanted, by the manifest in force when this was written;
    /// `None` where nothing is known.
    pub advice: Option<String>,
}

/// The file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tally {
    /// The schema's version; raised when a field changes its meaning or goes away.
    #[serde(default)]
    pub schema: u32,
    /// The status's: denials are counted since the start of the init.
    pub boot_id: String,
    /// All denials.
    pub total: u64,
    /// Those of [`Tally::total`] that `denials` does not name.
    #[serde(default)]
    pub remainder: u64,
    /// What was cut, of which nothing else tells, and then the others; of both the most
    /// frequent first.
    pub denials: Vec<Denial>,
    /// When this was written, RFC 3339.
    #[serde(default)]
    pub updated: String,
}

#[derive(Debug)]
struct Counter {
    scanner: String,
    reason: String,
    row: Option<&'static Row>,
    met: Met,
    count: u64,
    /// Seconds since 1970, of the first and of the last of them.
    seen: (u64, u64),
    /// Counted for others that had this place before.
    inherited: u64,
}

/// Counts denials and tells them.
///
/// Space-saving (Metwally et al., 2005): once all places are taken, a new kind takes
/// the place of the rarest one and inherits its count. What is told is the count
/// without the inheritance, so never too much, and every kind that makes up more than
/// 1/128 of all denials has a place.
#[derive(Debug)]
pub struct Denials {
    boot_id: String,
    in_force: InForce,
    /// Clients refuse what the CA signs, whatever they trust: its time is over.
    ca_is_over: bool,
    total: u64,
    of_each_kind: Refused,
    /// Apart from the counters: what is searched for every denial lies together.
    hashes: Vec<u64>,
    counters: Vec<Counter>,
    unwritten: bool,
    next_write: Option<Instant>,
}

/// What no client can change.
const CA_IS_OVER: &str = "the CA is not valid now, and every client refuses it: status has a warning that says what to do";

impl Denials {
    /// Begins at nothing.
    #[must_use]
    pub fn new(boot_id: String) -> Self {
        Self {
            boot_id,
            in_force: InForce::default(),
            ca_is_over: false,
            total: 0,
            // The commonest is there from the start, at none: a rate begins there.
            of_each_kind: vec![(Some(Kind::NotAllowed), 0)],
            hashes: Vec::new(),
            counters: Vec::new(),
            unwritten: false,
            next_write: None,
        }
    }

    /// The first file, which says that nothing was refused yet.
    pub fn begin(&mut self) {
        self.unwritten = true;
    }

    /// What was told is to be told once more.
    pub fn tell_again(&mut self) {
        self.unwritten = true;
        self.next_write = None;
    }

    /// Advises and counts by this manifest from now on.
    pub fn judge_by(&mut self, in_force: InForce) {
        if self.in_force != in_force {
            self.in_force = in_force;
            // What has been written advises by the old one, to whoever has just followed it.
            self.unwritten |= self.total > 0;
            self.next_write = None;
        }
    }

    /// Whether the CA's time is over, or has not begun, from now on.
    pub fn ca_is_over(&mut self, over: bool) {
        if self.ca_is_over != over {
            self.ca_is_over = over;
            self.unwritten |= self.total > 0;
        }
    }

    /// Counts one, at `now`, in seconds since 1970. The allowlist decides whether a host's name may be told that was refused
    /// for what was sent there.
    pub fn count(&mut self, refusal: &Refusal, now: u64) {
        if refusal
            .cut_at()
            .is_some_and(|bytes| !self.in_force.cuts_at(bytes))
        {
            return;
        }
        self.total += 1;
        self.unwritten = true;
        let (scanner, row) = (refusal.scanner(), refusal.row());
        let of_kind = row.map(|row| row.kind);
        let mut known = self.of_each_kind.iter_mut();
        match known.find(|(kind, _)| *kind == of_kind) {
            Some((_, count)) => *count += 1,
            None => self.of_each_kind.push((of_kind, 1)),
        }
        let reason = refusal.reason_by(row);
        let named = refusal.host();
        let host = named.and_then(|host| {
            let tellable = JUDGE_THE_HOST.contains(&scanner) || self.in_force.allows(host);
            tellable.then(|| without_suspicious_labels(host)).flatten()
        });
        let cut = host.map(str::len) < named.map(str::len);
        let hash = hash(host.unwrap_or_default());
        // Else the two are one.
        let plain = refusal.plain() && row.is_some_and(Row::minds_plain);
        let kind = |row: Option<&Row>| row.map(|row| row.kind);
        let address = match kind(row) {
            Some(Kind::PrivateAddress) => refusal.address(),
            _ => None,
        };
        let no_host = named.is_none() && refusal.says_what_was_asked();
        let same = |counter: &Counter| {
            counter.scanner == scanner
                && counter.reason == reason
                && kind(counter.row) == kind(row)
                && counter.met.plain == plain
                && match (&counter.met.host, host) {
                    (Asked::Host(known), Some(host)) => match known.strip_prefix("*.") {
                        Some(known) => cut && known.eq_ignore_ascii_case(host),
                        None => !cut && known.eq_ignore_ascii_case(host),
                    },
                    (Asked::Untold, None) => !no_host,
                    (Asked::NoHost, None) => no_host,
                    (Asked::Host(_), None) | (Asked::Untold | Asked::NoHost, Some(_)) => false,
                }
        };
        let known = self.hashes.iter().zip(&mut self.counters);
        for (other, counter) in known {
            if *other == hash && same(counter) {
                counter.count += 1;
                counter.seen.1 = now;
                counter.met.limits = self.in_force.limits();
                counter.met.address = address;
                return;
            }
        }
        let asked = match host {
            Some(host) => {
                let star = if cut { "*." } else { "" };
                Asked::Host(format!("{star}{}", host.to_ascii_lowercase()))
            }
            None if no_host => Asked::NoHost,
            None => Asked::Untold,
        };
        let counter = Counter {
            scanner: scanner.to_owned(),
            reason: reason.to_owned(),
            row,
            met: Met {
                host: asked,
                plain,
                limits: self.in_force.limits(),
                address,
            },
            count: 1,
            seen: (now, now),
            inherited: 0,
        };
        self.add(hash, counter);
    }

    fn add(&mut self, hash: u64, mut counter: Counter) {
        if self.counters.len() >= COUNTED
            && let Some((rarest, _)) = self
                .counters
                .iter()
                .enumerate()
                .min_by_key(|(_, counter)| counter.count)
        {
            counter.inherited = self.counters.swap_remove(rarest).count;
            self.hashes.swap_remove(rarest);
            counter.count += counter.inherited;
        }
        self.counters.push(counter);
        self.hashes.push(hash);
    }

    fn tell(&self, counter: &Counter) -> Denial {
        let advice = counter
            .row
            .map(|row| self.in_force.advice(row, &counter.met));
        Denial {
            host: counter.met.host.named().map(str::to_owned),
            scanner: counter.scanner.clone(),
            reason: counter.reason.clone(),
            count: counter.count - counter.inherited,
            first_seen: rfc3339(counter.seen.0),
            last_seen: rfc3339(counter.seen.1),
            kind: counter.row.map(|row| row.kind.into()),
            verb: counter.row.map_or("refused", |row| row.kind.verb()).into(),
            means: counter.row.map_or_else(
                || refusals::means_unknown(&counter.scanner, &counter.reason),
                |row| row.means(&counter.reason),
            ),
            advice: match counter.row.map(|row| row.kind) {
                Some(Kind::CaNotTrusted | Kind::HandshakeFailed) if self.ca_is_over => {
                    Some(CA_IS_OVER.to_owned())
                }
                _ => advice.as_ref().map(Advice::text),
            },
        }
    }

    /// How many there were of each kind, none forgotten.
    #[must_use]
    pub fn of_each_kind(&self) -> &Refused {
        &self.of_each_kind
    }

    /// What the file says.
    #[must_use]
    pub fn tally(&self) -> Tally {
        // Inserted in order: a hundred of them, and a second sort would be 4 KiB of code.
        let mut denials: Vec<Denial> = Vec::with_capacity(COUNTED);
        for counter in &self.counters {
            let denial = self.tell(counter);
            let before = |other: &Denial| {
                // A client that was refused knows it; one whose answer was cut has an end
                // that looks like any.
                let key = |denial: &Denial| (denial.verb != "cut", std::cmp::Reverse(denial.count));
                (key(other), &other.host, &other.scanner, &other.reason)
                    < (key(&denial), &denial.host, &denial.scanner, &denial.reason)
            };
            let at = denials.partition_point(before);
            denials.insert(at, denial);
        }
        denials.truncate(TOLD);
        let told: u64 = denials.iter().map(|denial| denial.count).sum();
        Tally {
            schema: SCHEMA,
            boot_id: self.boot_id.clone(),
            total: self.total,
            remainder: self.total - told,
            denials,
            updated: rfc3339(clock::now()),
        }
    }

    /// When there is something to write; `None` while there is nothing.
    #[must_use]
    pub fn deadline(&self, now: Instant) -> Option<Instant> {
        self.unwritten.then(|| self.next_write.unwrap_or(now))
    }

    /// The file, if it is time to write it.
    pub fn tick(&mut self, now: Instant) -> Option<String> {
        let due = self.deadline(now).is_some_and(|deadline| now >= deadline);
        if due {
            self.next_write = Some(now + INTERVAL);
        }
        due.then(|| self.take()).flatten()
    }

    /// The file, if it is not written yet.
    pub fn take(&mut self) -> Option<String> {
        std::mem::take(&mut self.unwritten).then(|| plain::json(&self.tally(), 0))
    }
}

/// The name after its last label that may be a secret; `None` where nothing is left.
fn without_suspicious_labels(host: &str) -> Option<&str> {
    let mut rest = host;
    let mut kept = host;
    while let Some((label, after)) = rest.split_once('.') {
        if may_be_a_key(label) {
            kept = after;
        }
        rest = after;
    }
    (!may_be_a_key(rest) || rest.contains(':')).then_some(kept)
}

/// FNV-1a: what it finds is compared, so nobody gains by a collision. Of the host alone, for
/// one host is rarely refused in more ways than a few.
fn hash(host: &str) -> u64 {
    let lower = host.bytes().map(|byte| byte.to_ascii_lowercase());
    lower.fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

/// One denial in a line, for people.
#[must_use]
pub fn explain(denial: &Denial) -> String {
    let host = denial.host.as_deref().unwrap_or("(host not told)");
    format!("{} × {host}: {}", denial.count, denial.means)
}

/// The command that allows it for a time, where there is one. `places`: what that has to be told
/// where the files are not where they usually are.
#[must_use]
pub fn command(denial: &Denial, places: &str) -> Option<String> {
    let advice = denial.advice.as_ref();
    let kind = denial.kind.as_ref();
    let is_new = advice.is_some_and(|it| it.contains(refusals::ASKS));
    let host = denial.host.as_ref().filter(|host| {
        // Whose labels are not told would be granted with all that is beside it. And the file may be
        // another's: what is no host is no word to paste into a shell.
        is_new
            && kind == Some(&Word::Known(Kind::NotAllowed))
            && !host.starts_with("*.")
            && policy::normalize(host).is_ok()
    });
    host.map(|host| format!("sidecar-init grant {host}{places}"))
}

/// What to do about one if it was wanted, a line each: what the manifest has to have, and the
/// command that has it so for a time, where there is one that is not named there; `places`: as of
/// [`command`].
pub fn remedies(denial: &Denial, places: &str) -> impl Iterator<Item = String> {
    let advice = denial.advice.clone();
    let is_named = |command: &String| advice.as_ref().is_some_and(|it| it.contains(command));
    let command = command(denial, places).filter(|command| !is_named(command));
    let command = command.map(|command| format!("or for half an hour: {command}"));
    advice.into_iter().chain(command)
}

/// The bytes of the file in `room`, for [`parse`]; none where none can be read.
#[must_use]
pub fn read(room: &Room) -> Vec<u8> {
    room.read(FILE, LONGEST).unwrap_or_default()
}

/// What such a file says.
#[must_use]
pub fn parse(bytes: &[u8]) -> Option<Tally> {
    let mut told: Tally = serde_json::from_slice(bytes).ok()?;
    for denial in &mut told.denials {
        // As in a status, nothing is printed as it stands in the file.
        let texts = [&mut denial.scanner, &mut denial.reason, &mut denial.means];
        let more = denial.host.iter_mut().chain(&mut denial.advice);
        let more = more.chain([&mut denial.first_seen, &mut denial.last_seen]);
        for text in more.chain(texts) {
            *text = plain::line(text);
        }
        denial.verb = plain::line(&denial.verb).into();
    }
    Some(told)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::boot::mode::Mode;
    use crate::daemon::pipelock::events::{Heard, parse};

    fn refuse(denials: &mut Denials, host: &str, scanner: &str, reason: &str) {
        let line = format!(
            r#"{{"event":"blocked","method":"CONNECT","target":"{host}:443","scanner":"{scanner}","reason":"{reason}"}}"#
        );
        let Some(Heard::Refusal(refusal)) = parse(line.as_bytes()) else {
            panic!("{line}")
        };
        denials.count(&refusal, clock::now());
    }

    #[test]
    fn a_client_that_refuses_an_expired_ca_is_not_told_to_trust_it() {
        let mut denials = counting();
        let line = br#"{"event":"blocked","method":"CONNECT","target":"a.example:443","scanner":"tls_handshake_error","reason":"remote error: tls: expired certificate"}"#;
        let Some(Heard::Refusal(refusal)) = parse(line) else {
            panic!("it is no refusal")
        };
        denials.count(&refusal, clock::now());
        let advice = |denials: &Denials| denials.tally().denials[0].advice.clone().unwrap();
        assert!(advice(&denials).contains("ca-bundle.pem"));
        denials.ca_is_over(true);
        assert_eq!(advice(&denials), CA_IS_OVER);
        denials.ca_is_over(false);
        assert!(advice(&denials).contains("ca-bundle.pem"));
    }

    fn manifest(pipelock: &str, hosts: &[&str]) -> InForce {
        let routes: Vec<String> = hosts
            .iter()
            .map(|host| format!("{{host: \"{host}\"}}"))
            .collect();
        let text = format!(
            "version: 1\nslug: a\nbottle: {{egress: {{routes: [{}]}}}}\npipelock: {{{pipelock}}}\n",
            routes.join(", ")
        );
        InForce::of(
            &crate::policy::read(text.as_bytes(), false, 0)
                .unwrap()
                .policy,
            Mode::Machine,
        )
    }

    fn counting() -> Denials {
        let mut denials = Denials::new(String::new());
        denials.judge_by(manifest("", &["*.allowed.example", "a.example"]));
        denials
    }

    fn told(report: &Tally) -> Vec<(Option<&str>, &str, u64)> {
        report
            .denials
            .iter()
            .map(|denial| {
                (
                    denial.host.as_deref(),
                    denial.scanner.as_str(),
                    denial.count,
                )
            })
            .collect()
    }

    #[test]
    fn counts_by_host_scanner_and_reason_whatever_the_case() {
        let mut denials = Denials::new("id".to_owned());
        for host in ["no.example", "NO.example", "no.example."] {
            refuse(
                &mut denials,
                host,
                "allowlist",
                "domain not in allowlist: no.example",
            );
        }
        refuse(
            &mut denials,
            "a.example",
            "ratelimit",
            "rate limit exceeded for a.example",
        );
        let report = denials.tally();
        assert_eq!(
            told(&report),
            [
                (Some("no.example"), "allowlist", 3),
                (Some("a.example"), "ratelimit", 1)
            ]
        );
        assert_eq!((report.total, report.remainder), (4, 0));
    }

    #[test]
    fn stays_small_and_finds_the_frequent_among_endless_names() {
        let mut denials = Denials::new("x".repeat(36));
        let long = format!("{}.{}.{}", "a".repeat(63), "b".repeat(63), "c".repeat(63));
        for number in 0..20_000 {
            let name = format!("n{number}.{long}.example");
            refuse(
                &mut denials,
                &name,
                "allowlist",
                &"domain not in allowlist ".repeat(9),
            );
            if number % 50 == 0 {
                refuse(
                    &mut denials,
                    "wanted.example",
                    "allowlist",
                    "domain not in allowlist: w",
                );
            }
        }
        let report = denials.tally();
        let json = serde_json::to_string(&report).unwrap();
        assert!(json.len() < LONGEST, "{}", json.len());
        assert_eq!(report.denials.len(), 100);
        assert_eq!(report.denials[0].host.as_deref(), Some("wanted.example"));
        assert!((1..=400).contains(&report.denials[0].count), "{report:?}");
        assert!(report.denials[0].count > 390, "{:?}", report.denials[0]);
        let told: u64 = report.denials.iter().map(|denial| denial.count).sum();
        assert_eq!((report.total, told + report.remainder), (20_400, 20_400));
        assert!(denials.counters.len() <= COUNTED && denials.hashes.len() <= COUNTED);
    }

    #[test]
    fn tells_no_name_that_may_hold_what_was_refused() {
        let mut denials = counting();
        for (host, scanner) in [
            ("akiaiosfodnn7example.evil.example", "allowlist"),
            ("hunter2.evil.example", "core_dlp"),
            ("akiaiosfodnn7example", "allowlist"),
            ("hunter2.allowed.example", "core_dlp"),
        ] {
            refuse(&mut denials, host, scanner, "r");
            refuse(&mut denials, host, scanner, "r");
        }
        assert_eq!(
            told(&denials.tally()),
            [
                (None, "allowlist", 2),
                (None, "core_dlp", 2),
                (Some("*.evil.example"), "allowlist", 2),
                (Some("hunter2.allowed.example"), "core_dlp", 2),
            ]
        );
    }

    #[test]
    fn writes_at_once_and_then_no_more_than_every_two_seconds() {
        let now = Instant::now();
        let mut denials = Denials::new(String::new());
        assert_eq!(denials.deadline(now), None);
        refuse(&mut denials, "no.example", "allowlist", "r");
        assert_eq!(denials.deadline(now), Some(now));
        denials.tick(now);
        assert_eq!(denials.deadline(now), None);
        refuse(&mut denials, "no.example", "allowlist", "r");
        assert_eq!(denials.deadline(now), Some(now + INTERVAL));
        denials.tick(now + INTERVAL / 2);
        assert_eq!(denials.deadline(now), Some(now + INTERVAL));
        denials.tick(now + INTERVAL);
        assert_eq!(denials.deadline(now), None);
    }

    fn advice(denials: &Denials) -> String {
        denials.tally().denials[0].advice.clone().unwrap()
    }

    #[test]
    fn names_the_line_that_would_allow_it_as_long_as_it_is_not_there() {
        let mut denials = counting();
        refuse(
            &mut denials,
            "pypi.org",
            "allowlist",
            "domain not in allowlist: pypi.org",
        );
        let denial = denials.tally().denials[0].clone();
        assert_eq!(denial.means, "not in the allowlist");
        assert_eq!(denial.kind, Some(Kind::NotAllowed.into()));
        assert!(advice(&denials).ends_with("routes: - host: pypi.org"));
        denials.judge_by(manifest(
            "",
            &["*.allowed.example", "a.example", "pypi.org"],
        ));
        assert_eq!(advice(&denials), "nothing to do: it is allowed since");
    }

    #[test]
    fn advises_a_limit_only_above_the_one_that_was_met() {
        let mut denials = counting();
        let too_large = "request body exceeds max_body_bytes (5242880)";
        refuse(&mut denials, "a.example", "body_dlp", too_large);
        let denial = denials.tally().denials[0].clone();
        assert_eq!(denial.means, "the request is larger than pipelock scans");
        let said = advice(&denials);
        assert_eq!(
            said,
            "was it meant? under pipelock: write passthrough: [a.example]; then nothing that goes there or comes \
             from there is scanned; or write scan_limit_mib: 20, which scans it at less than half a megabyte a \
             second and takes several times its size in memory"
        );
        let hosts = ["*.allowed.example", "a.example"];
        denials.judge_by(manifest("scan_limit_mib: 20", &hosts));
        assert_eq!(advice(&denials), "nothing to do: the limit is 20 MiB since");
        refuse(&mut denials, "a.example", "body_dlp", too_large);
        let said = advice(&denials);
        assert!(
            said.contains("or write scan_limit_mib: 80, which"),
            "{said}"
        );
        denials.judge_by(manifest("passthrough: [a.example]", &hosts));
        let said = advice(&denials);
        assert!(said.contains("passed through"), "{said}");
        denials.judge_by(manifest("", &["b.example"]));
        let said = advice(&denials);
        assert!(said.contains("no longer allowed"), "{said}");
    }

    #[test]
    fn advises_a_host_more_beside_those_that_are_passed_through() {
        let mut denials = counting();
        let hosts = ["*.allowed.example", "a.example", "b.example"];
        denials.judge_by(manifest("passthrough: [b.example]", &hosts));
        for host in ["a.example", "x.allowed.example"] {
            refuse(
                &mut denials,
                host,
                "length",
                "URL length 9999 exceeds maximum 2048",
            );
        }
        assert!(
            advice(&denials).starts_with(
                "was it meant? under pipelock: add a.example to passthrough; then nothing"
            ),
            "{}",
            advice(&denials)
        );
    }

    #[test]
    fn advises_the_right_type_before_no_scanning() {
        let mut denials = counting();
        let no_form = "invalid application/x-www-form-urlencoded body: invalid URL escape";
        refuse(&mut denials, "a.example", "body_dlp", no_form);
        assert_eq!(
            advice(&denials),
            "was it meant? give it the Content-Type of what it is, as in curl -H 'Content-Type: \
             application/octet-stream'; or under pipelock: write passthrough: [a.example]; then nothing that goes \
             there or comes from there is scanned"
        );
        denials.judge_by(manifest("passthrough: [a.example]", &["a.example"]));
        assert!(advice(&denials).starts_with("nothing to do: "));
    }

    #[test]
    fn advises_the_network_of_the_address_that_was_met() {
        for (cidr, reason, wanted) in [
            (
                "",
                "SSRF blocked: a.example resolves to internal IP 10.1.2.3",
                "under network: write internal_cidr: 10.1.2.3/32",
            ),
            (
                "",
                "SSRF blocked: a.example resolves to internal IP fd00::7",
                "under network: write internal_cidr: fd00::7/128",
            ),
            (
                "",
                "SSRF blocked: DNS returned no addresses for a.example",
                "its network has to be network.internal_cidr; the log has its address",
            ),
            (
                "10.9.0.0/16",
                "SSRF blocked: a.example resolves to internal IP 10.1.2.3",
                "network.internal_cidr, which is one network, has to hold 10.1.2.3 as well",
            ),
        ] {
            let mut denials = counting();
            let text = format!(
                "version: 1\nslug: a\nbottle: {{egress: {{routes: [host: a.example]}}}}\nnetwork: {{internal_cidr: '{cidr}'}}\n"
            );
            let judgement = crate::policy::read(text.as_bytes(), false, 0).unwrap();
            denials.judge_by(InForce::of(&judgement.policy, Mode::Machine));
            refuse(&mut denials, "a.example", "ssrf", reason);
            assert_eq!(advice(&denials), format!("was it meant? {wanted}"));
        }
    }

    /// The manifest's text with what is advised to be written, where anything is.
    fn followed(advice: &str) -> Option<String> {
        let mut routes = "{host: \"*.wild.example\"}".to_owned();
        let mut pipelock = String::new();
        if let Some((_, route)) = advice.split_once("- host: ") {
            routes += &format!(", {{host: {route}}}");
        } else if let Some((_, keys)) = advice.split_once("under pipelock: write ") {
            let keys = keys.split("; ").next()?;
            pipelock = keys.split(", which").next()?.to_owned();
        } else {
            return None;
        }
        Some(format!(
            "slug: a\nbottle: {{egress: {{routes: [{routes}]}}}}\npipelock: {{{pipelock}}}\n"
        ))
    }

    /// What is advised for a host that was refused is a line that allows it, by the rules that
    /// `check` has, or that there is none.
    fn advised(host: &str) -> Option<InForce> {
        let mut denials = Denials::new(String::new());
        denials.judge_by(manifest("", &["*.wild.example"]));
        let reason = format!("domain not in allowlist: {host}");
        refuse(&mut denials, host, "allowlist", &reason);
        let advice = advice(&denials);
        let Some(text) = followed(&advice) else {
            let none = "no key of the manifest changes that: ";
            let elsewhere = advice.ends_with("; the log has its name");
            assert!(advice.starts_with(none) || elsewhere, "{host}: {advice}");
            return None;
        };
        match crate::policy::read(text.as_bytes(), true, 0) {
            Ok(judgement) => Some(InForce::of(&judgement.policy, Mode::Machine)),
            Err(problems) => panic!("{host}: {advice}: {problems:?}"),
        }
    }

    #[test]
    fn advises_a_route_that_allows_the_host_or_says_that_none_can() {
        let long = format!("{}.example", "a".repeat(63));
        let longest = format!("{long}.{}c", "b.".repeat(90));
        for host in [
            "corp.example",
            "corp.example.",
            "API.Example",
            "a_b.example",
            "_dmarc.example",
            "xn--bcher-kva.example",
            "null",
            "true",
            "1e3",
            "no",
            "localhost",
            "10.0.0.1",
            "[2001:db8::1]",
            "[2001:DB8::1]",
            "[::1]",
            &long,
            &longest,
        ] {
            let in_force = advised(host).unwrap_or_else(|| panic!("{host}"));
            let asked = host.trim_matches(['[', ']']);
            assert!(in_force.allows(asked), "{host}: {in_force:?}");
        }
        let label = "a".repeat(64);
        let name = format!("{longest}c");
        for host in [
            "",
            ".",
            "a..b",
            ".corp.example",
            "corp.example..",
            "-a.example",
            "a-.example",
            "10.1",
            "127.1",
            "010.0.0.1",
            "0x7f.1",
            "0x7f000001",
            "2130706433",
            "0o17",
            "a.1",
            // Allowed it could be, and would never resolve.
            "x.canary.invalid",
            "[2001:db8:0::1]",
            "[::ffff:10.0.0.1]",
            "[fe80::1%eth0]",
            "*.example",
            "a*.example",
            "a'b.example",
            "b\u{fc}cher.example",
            &label,
            &name,
            // A secret, perhaps: its name is not told, and could be allowed.
            "akiaiosfodnn7example",
        ] {
            assert_eq!(advised(host), None, "{host}");
        }
        let mut denials = counting();
        for host in ["a..b", "[2001:db8:0::1]", "a'b.example"] {
            refuse(
                &mut denials,
                host,
                "allowlist",
                "domain not in allowlist: x",
            );
        }
        let told: Vec<_> = denials.tally().denials;
        let advice: Vec<_> = told
            .iter()
            .map(|it| it.advice.as_deref().unwrap())
            .collect();
        assert_eq!(
            advice,
            [
                "no key of the manifest changes that: what was asked for is no host name; the log has it",
                "no key of the manifest changes that: \"2001:db8:0::1\" is not a host name: pipelock compares \
                 addresses as text, and this is not the shortest form (RFC 5952); the client has to ask for \
                 2001:db8::1",
                "no key of the manifest changes that: \"a..b\" is not a host name: it has an empty label",
            ]
        );
    }

    #[test]
    fn advises_nothing_under_pipelock_that_check_would_refuse() {
        let in_force = manifest("", &["*.wild.example"]);
        for host in ["a.wild.example", "-a.wild.example", "a..wild.example"] {
            for (row, plain) in refusals::TABLE
                .iter()
                .flat_map(|row| [(row, false), (row, true)])
            {
                let met = Met {
                    host: Asked::Host(host.to_owned()),
                    plain,
                    limits: in_force.limits(),
                    address: None,
                };
                let advice = in_force.advice(row, &met).text();
                let written = ["passthrough: [", "add a.wild"]
                    .iter()
                    .any(|it| advice.contains(it));
                assert!(host == "a.wild.example" || !written, "{host}: {advice}");
                if let Some(text) = followed(&advice) {
                    let judged = crate::policy::read(text.as_bytes(), true, 0);
                    assert!(judged.is_ok(), "{host}: {advice}: {judged:?}");
                }
            }
        }
        // Above the largest there is nothing to be advised.
        for (set, wanted) in [
            (
                "6000",
                "was it meant? under pipelock: write requests_per_minute: 12000",
            ),
            (
                "600000",
                "was it meant? under pipelock: write requests_per_minute: 1000000",
            ),
            (
                "1000000",
                "no key of the manifest changes that: requests_per_minute is the largest there is",
            ),
        ] {
            let mut denials = Denials::new(String::new());
            denials.judge_by(manifest("", &["a.example"]));
            let pipelock = format!("requests_per_minute: {set}");
            let reason = "rate limit exceeded for a.example";
            refuse(&mut denials, "a.example", "ratelimit", reason);
            denials.judge_by(manifest(&pipelock, &["a.example"]));
            let done = format!("nothing to do: {set} requests a minute are allowed since");
            assert_eq!(advice(&denials), done);
            refuse(&mut denials, "a.example", "ratelimit", reason);
            assert_eq!(advice(&denials), wanted);
        }
    }

    proptest! {
        #[test]
        fn whatever_host_is_refused_the_advice_is_a_line_that_allows_it(
            host in "[a-cA-C0-2_*x.-]{1,12}(\\.example)?\\.?",
        ) {
            if let Some(in_force) = advised(&host) {
                prop_assert!(in_force.allows(&host), "{host}: {in_force:?}");
            }
        }
    }

    #[test]
    fn names_what_was_cut_before_what_was_refused_more_often() {
        let mut denials = counting();
        for _ in 0..3 {
            refuse(
                &mut denials,
                "no.example",
                "allowlist",
                "domain not in allowlist: no.example",
            );
        }
        for reason in [
            "dlp: AWS Access ID",
            "injection: Override",
            "injection: Override",
        ] {
            let reason = format!("sse stream finding: {reason}");
            refuse(&mut denials, "a.example", "sse_stream", &reason);
        }
        let report = denials.tally();
        let told: Vec<_> = report
            .denials
            .iter()
            .map(|denial| (&*denial.verb, denial.count))
            .collect();
        assert_eq!(told, [("cut", 2), ("cut", 1), ("refused", 3)]);
    }

    #[test]
    fn the_longest_names_with_the_longest_advice_stay_below_what_is_read() {
        let host = format!("{}.example", vec!["a".repeat(19); 12].join("."));
        for row in refusals::TABLE {
            let mut denials = counting();
            denials.judge_by(manifest("passthrough: [b.example]", &["b.example", &host]));
            let counter = Counter {
                scanner: "a".repeat(40),
                reason: "a".repeat(96),
                row: Some(row),
                met: Met {
                    host: Asked::Host(host.clone()),
                    plain: true,
                    limits: InForce::default().limits(),
                    address: Some("fd00:1111:2222:3333:4444:5555:6666:7777".parse().unwrap()),
                },
                count: 1_000_000,
                seen: (0, 1),
                inherited: 0,
            };
            let one = serde_json::to_string(&denials.tell(&counter)).unwrap();
            assert!(one.len() * TOLD < LONGEST - 1024, "{}: {one}", one.len());
        }
    }

    #[test]
    fn quotes_what_it_does_not_know_and_advises_nothing() {
        let mut denials = counting();
        refuse(
            &mut denials,
            "a.example",
            "wormhole",
            "wormhole collapsed: k=AKIA",
        );
        let denial = denials.tally().denials[0].clone();
        assert_eq!(
            denial.means,
            "pipelock says \"wormhole collapsed\" (wormhole)"
        );
        assert_eq!((denial.kind, denial.advice), (None, None));
    }

    #[test]
    fn counts_a_response_over_plain_http_as_cut_at_the_limit_alone() {
        let mut denials = counting();
        for (mib, told) in [(10, 1), (9, 1), (11, 1), (10, 2)] {
            let line = format!(
                r#"{{"event":"forward_http","method":"GET","url":"http://a.example/x","status_code":200,"size_bytes":{},"duration_ms":1.5}}"#,
                mib << 20
            );
            let Some(Heard::Refusal(refusal)) = parse(line.as_bytes()) else {
                panic!("{line}")
            };
            denials.count(&refusal, clock::now());
            assert_eq!(denials.tally().total, told, "{mib}");
        }
        let denial = denials.tally().denials[0].clone();
        assert_eq!((&*denial.verb, denial.count), ("cut", 2));
        let said = advice(&denials);
        assert!(
            said.contains("or write scan_limit_mib: 40, which"),
            "{said}"
        );
        let served = br#"{"event":"forward_http","method":"GET","url":"http://a.example/x","status_code":200,"size_bytes":7,"duration_ms":1.5}"#;
        assert!(parse(served).is_none());
    }

    #[test]
    fn what_is_no_host_is_in_no_command_to_paste() {
        let denial = |host: &str| Denial {
            host: Some(host.to_owned()),
            scanner: "allowlist".to_owned(),
            reason: String::new(),
            count: 1,
            first_seen: String::new(),
            last_seen: String::new(),
            kind: Some(Word::Known(Kind::NotAllowed)),
            verb: Cow::Borrowed("refused"),
            means: String::new(),
            advice: Some("was it meant? write a line".to_owned()),
        };
        let wanted = "sidecar-init grant a.example";
        assert_eq!(command(&denial("a.example"), "").as_deref(), Some(wanted));
        for host in [
            "a.example; touch /tmp/x #",
            "$(touch x)",
            "`id`",
            "--manifest=/etc/x",
            "a.example\nreboot",
            "*.example",
            "",
        ] {
            assert_eq!(command(&denial(host), ""), None, "{host}");
        }
    }
}
