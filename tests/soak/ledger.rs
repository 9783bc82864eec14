//! What was done, what was counted, and what must not be: written down as it happens, in a
//! directory that is the evidence.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

/// What must not be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Fault {
    RemovedHostAnswers,
    RemovedHostsTunnelIsOpen,
    GrantOutlivesItsEnd,
    ServedWhileHalted,
    PastTheFirewall,
    StatusNotTrue,
    ManifestNotNamed,
    NotServing,
    Zombie,
    Growth,
    Ended,
}

impl Fault {
    pub const ALL: [Self; 11] = [
        Self::RemovedHostAnswers,
        Self::RemovedHostsTunnelIsOpen,
        Self::GrantOutlivesItsEnd,
        Self::ServedWhileHalted,
        Self::PastTheFirewall,
        Self::StatusNotTrue,
        Self::ManifestNotNamed,
        Self::NotServing,
        Self::Zombie,
        Self::Growth,
        Self::Ended,
    ];

    pub fn words(self) -> &'static str {
        match self {
            Self::RemovedHostAnswers => "a removed host answers later than 5 s",
            Self::RemovedHostsTunnelIsOpen => "a tunnel to a removed host is open later than 5 s",
            Self::GrantOutlivesItsEnd => "a grant outlives its end by 5 s",
            Self::ServedWhileHalted => "something is served while halted",
            Self::PastTheFirewall => "a request gets past the firewall",
            Self::StatusNotTrue => "the status is not true",
            Self::ManifestNotNamed => "a manifest is not named within 5 s",
            Self::NotServing => "what is allowed is not served",
            Self::Zombie => "a zombie stays",
            Self::Growth => "PID 1 grows",
            Self::Ended => "the init ends, or does not end as asked",
        }
    }

    pub fn of(words: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|it| it.words() == words)
    }
}

/// More of one kind are the same again.
const MOST_ALIKE: usize = 20;
/// The status is kept beside the first ones.
const MOST_SNAPSHOTS: usize = 20;

#[derive(Default)]
struct Figures {
    counts: BTreeMap<&'static str, u64>,
    slowest: BTreeMap<&'static str, Duration>,
    faults: Vec<(Fault, String)>,
}

pub struct Ledger {
    pub began: Instant,
    directory: PathBuf,
    status: PathBuf,
    journal: Mutex<File>,
    figures: Mutex<Figures>,
}

impl Ledger {
    /// In this directory; `status` is what is kept of each fault.
    pub fn new(directory: &Path, status: PathBuf) -> Self {
        fs::create_dir_all(directory.join("manifests")).unwrap();
        Self {
            began: Instant::now(),
            directory: directory.to_owned(),
            status,
            journal: Mutex::new(File::create(directory.join("journal")).unwrap()),
            figures: Mutex::default(),
        }
    }

    /// Microseconds since the beginning: what requests carry.
    pub fn stamp(&self, at: Instant) -> u64 {
        u64::try_from((at - self.began).as_micros()).unwrap()
    }

    pub fn time_of(&self, stamp: u64) -> Instant {
        self.began + Duration::from_micros(stamp)
    }

    pub fn note(&self, what: &str) {
        let at = self.began.elapsed().as_secs_f64();
        let _ = writeln!(self.journal.lock().unwrap(), "{at:10.3} {what}");
    }

    pub fn count(&self, what: &'static str) {
        *self.figures.lock().unwrap().counts.entry(what).or_default() += 1;
    }

    pub fn counted(&self, what: &str) -> u64 {
        let figures = self.figures.lock().unwrap();
        figures.counts.get(what).copied().unwrap_or(0)
    }

    pub fn took(&self, what: &'static str, time: Duration) {
        let mut figures = self.figures.lock().unwrap();
        let slowest = figures.slowest.entry(what).or_default();
        *slowest = time.max(*slowest);
    }

    pub fn fault(&self, fault: Fault, what: &str) {
        let number = {
            let mut figures = self.figures.lock().unwrap();
            let alike = figures.faults.iter().filter(|(it, _)| *it == fault);
            if alike.count() >= MOST_ALIKE {
                return;
            }
            figures.faults.push((fault, what.to_owned()));
            figures.faults.len()
        };
        self.note(&format!("FAULT: {}: {what}", fault.words()));
        if number <= MOST_SNAPSHOTS {
            let kept = self.directory.join(format!("status-{number}.json"));
            let _ = fs::copy(&self.status, kept);
        }
    }

    pub fn faults(&self) -> Vec<(Fault, String)> {
        self.figures.lock().unwrap().faults.clone()
    }

    pub fn keep_manifest(&self, number: u64, text: &[u8]) {
        let name = format!("manifests/{number:05}.yaml");
        fs::write(self.directory.join(name), text).unwrap();
    }

    /// For whoever started this.
    pub fn write_faults(&self) {
        let faults: Vec<Value> = self
            .faults()
            .iter()
            .map(|(fault, what)| json!({"fault": fault.words(), "what": what}))
            .collect();
        let bytes = serde_json::to_vec_pretty(&faults).unwrap();
        fs::write(self.directory.join("faults.json"), bytes).unwrap();
    }

    pub fn table(&self) -> String {
        let figures = self.figures.lock().unwrap();
        let mut table = String::new();
        for (what, count) in &figures.counts {
            writeln!(table, "| {what} | {count} |").unwrap();
        }
        for (what, time) in &figures.slowest {
            writeln!(table, "| {what} | {:.2} s |", time.as_secs_f64()).unwrap();
        }
        writeln!(table, "| faults | {} |", figures.faults.len()).unwrap();
        table
    }
}
