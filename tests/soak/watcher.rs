//! Looks at the status and at `/proc`, all the time: whether what is told is so.

use std::collections::HashMap;
use std::fs;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::law::{LIMIT, Sample};
use super::ledger::Fault;
use super::traffic::World;
use crate::support::{child_known_as, children, proc_field};

const LOOK: Duration = Duration::from_millis(50);
/// On a machine that is busy, what is told may be so much older than what is, and a child that
/// has ended may wait for so long.
const BEHIND: Duration = Duration::from_secs(3);
const LOOKS: u32 = 20;
/// They only ever grow.
const COUNTERS: [&str; 10] = [
    "/config/generation",
    "/config/applied_generation",
    "/config/reloads",
    "/requests",
    "/restarts",
    "/failures",
    "/reaped",
    "/dropped_lines",
    "/revocation/generation",
    "/pid",
];

/// The newest manifest, as it was put there.
#[derive(Clone, PartialEq)]
pub struct Newest {
    pub sha256: String,
    /// What is wrong with it, where it cannot be used.
    pub wrong: Option<&'static str>,
    pub hosts_allowed: Option<u64>,
    pub put: Instant,
}

/// What the init was told.
pub struct Told {
    pub newest: Option<Newest>,
    /// Signals that ask for something, and since when there are so many.
    pub asked: (u64, Instant),
    /// Nobody is to be missing before it is.
    pub stopping: bool,
}

pub struct Watcher {
    world: Arc<World>,
    told: Arc<Mutex<Told>>,
    status: PathBuf,
    init: i32,
    doubts: HashMap<(Fault, String), (Instant, u32)>,
    counters: HashMap<&'static str, u64>,
    boot: Option<Value>,
    named: Option<String>,
}

impl Watcher {
    pub fn start(
        world: &Arc<World>,
        told: &Arc<Mutex<Told>>,
        status: PathBuf,
        init: i32,
    ) -> thread::JoinHandle<()> {
        let mut watcher = Self {
            world: Arc::clone(world),
            told: Arc::clone(told),
            status,
            init,
            doubts: HashMap::new(),
            counters: HashMap::new(),
            boot: None,
            named: None,
        };
        thread::spawn(move || {
            while watcher.world.goes_on() {
                watcher.look();
                thread::sleep(LOOK);
            }
        })
    }

    fn fault(&self, fault: Fault, what: &str) {
        self.world.ledger.fault(fault, what);
    }

    fn look(&mut self) {
        self.look_at_halt();
        let before = self.told.lock().unwrap().newest.clone();
        let read = Instant::now();
        let Ok(bytes) = fs::read(&self.status) else {
            return;
        };
        let Ok(status) = serde_json::from_slice::<Value>(&bytes) else {
            self.fault(Fault::StatusNotTrue, "half of a status");
            return;
        };
        self.world.ledger.count("looks at the status");
        if self.told.lock().unwrap().stopping {
            return;
        }
        self.look_at_counters(&status);
        if let Some(newest) = before {
            let same = self.told.lock().unwrap().newest.as_ref() == Some(&newest);
            if same && read > newest.put + LIMIT {
                self.look_at_manifest(&status, &newest);
            }
        }
        let mut doubtful = self.look_at_processes(&status);
        let told = self.told.lock().unwrap();
        if read > told.asked.1 + LIMIT && status["requests"] != told.asked.0 {
            let words = format!(
                "{} signals were sent, {} told",
                told.asked.0, status["requests"]
            );
            doubtful.push((Fault::StatusNotTrue, words));
        }
        drop(told);
        let halted = self.world.halt.lock().unwrap().wanted;
        if status["halted"] != halted {
            let words = format!("a halt is in force: {halted}; told: {}", status["halted"]);
            doubtful.push((Fault::StatusNotTrue, words));
        }
        if ["failed", "stopped", "stopping"]
            .iter()
            .any(|it| status["state"] == *it)
        {
            let words = format!("state {}: {}", status["state"], status["error"]);
            doubtful.push((Fault::Ended, words));
        }
        self.doubt(doubtful);
    }

    /// What is doubtful for long is a fault, once.
    fn doubt(&mut self, doubtful: Vec<(Fault, String)>) {
        self.doubts.retain(|doubt, _| doubtful.contains(doubt));
        for doubt in doubtful {
            let (since, looks) = self
                .doubts
                .entry(doubt.clone())
                .or_insert((Instant::now(), 0));
            *looks += 1;
            // Two looks with much time between them say that this process had to wait.
            if *looks >= LOOKS && since.elapsed() > BEHIND {
                *since += Duration::from_secs(3600);
                self.fault(doubt.0, &format!("for {BEHIND:?}: {}", doubt.1));
            }
        }
    }

    /// From when on nothing may be served: proved by the status, or the limit after the signal.
    fn look_at_halt(&self) {
        let asked = self.told.lock().unwrap().asked.0;
        let mut halt = self.world.halt.lock().unwrap();
        if !halt.wanted {
            return;
        }
        let status = fs::read(&self.status).unwrap_or_default();
        let status: Value = serde_json::from_slice(&status).unwrap_or_default();
        let told = status["state"] == "halted" && status["requests"] == asked;
        let late = halt.since.elapsed() > LIMIT;
        if halt.from.is_some() || !(told && status["port"]["closed"] == true || late) {
            return;
        }
        halt.from = Some(Instant::now());
        let took = halt.since.elapsed();
        drop(halt);
        self.world.ledger.took("slowest halt", took);
        if !told {
            let words = format!("halted {took:?} ago, and told to be {}", status["state"]);
            self.fault(Fault::StatusNotTrue, &words);
        }
    }

    fn look_at_counters(&mut self, status: &Value) {
        for counter in COUNTERS {
            let Some(now) = status.pointer(counter).and_then(Value::as_u64) else {
                continue;
            };
            let before = self.counters.insert(counter, now).unwrap_or(now);
            if now < before || counter == "/pid" && now != 1 {
                self.fault(
                    Fault::StatusNotTrue,
                    &format!("{counter} was {before} and is {now}"),
                );
            }
        }
        let config = &status["config"];
        if config["applied_generation"].as_u64() > config["generation"].as_u64() {
            self.fault(
                Fault::StatusNotTrue,
                &format!("applied before it was there: {config}"),
            );
        }
        let boot = self.boot.get_or_insert_with(|| status["boot_id"].clone());
        if *boot != status["boot_id"] || status["clock_steps"] != 0 {
            let words = format!("another boot, or another clock: {}", status["clock_steps"]);
            self.fault(Fault::StatusNotTrue, &words);
        }
    }

    /// It has been there for longer than it may take until it is read and named.
    fn look_at_manifest(&mut self, status: &Value, newest: &Newest) {
        let config = &status["config"];
        let expected = match newest.wrong {
            Some(_) => {
                config["refused_sha256"] == *newest.sha256 && status["manifest_error"].is_string()
            }
            None => {
                config["manifest_sha256"] == *newest.sha256
                    && config["refused_sha256"].is_null()
                    && status["manifest_error"].is_null()
            }
        };
        let key = format!("{}{:?}", newest.sha256, newest.put);
        if self.named.as_ref() == Some(&key) && expected {
            return;
        }
        if expected {
            self.world.ledger.count(match newest.wrong {
                Some(_) => "manifests refused, each named",
                None => "manifests in force, each named",
            });
        } else {
            let words = format!(
                "{} ({}), put there {:?} ago: {config}, {}",
                newest.sha256,
                newest.wrong.unwrap_or("a good one"),
                newest.put.elapsed(),
                status["manifest_error"]
            );
            if self.named.as_ref() != Some(&key) {
                self.fault(Fault::ManifestNotNamed, &words);
            }
        }
        if newest.wrong.is_none()
            && let Some(hosts) = newest.hosts_allowed
            && status["hosts_allowed"] != hosts
        {
            let words = format!(
                "{hosts} hosts are allowed, told {}",
                status["hosts_allowed"]
            );
            self.fault(Fault::StatusNotTrue, &words);
        }
        self.named = Some(key);
    }

    fn look_at_processes(&self, status: &Value) -> Vec<(Fault, String)> {
        let mut doubtful = Vec::new();
        let told = told_processes(status);
        let mut known = Vec::new();
        for (name, state, pid) in &told {
            let Some(pid) = pid else {
                if state == "ready" {
                    doubtful.push((
                        Fault::StatusNotTrue,
                        format!("{name} is ready without a process"),
                    ));
                }
                continue;
            };
            match child_known_as(self.init, *pid) {
                Some(outside) => known.push(outside),
                None => doubtful.push((
                    Fault::StatusNotTrue,
                    format!("{name} is told to be {pid}, which is no child"),
                )),
            }
        }
        for child in children(self.init) {
            let name = proc_field(child, "Name").unwrap_or_default();
            if proc_field(child, "State").is_some_and(|it| it.starts_with('Z')) {
                doubtful.push((Fault::Zombie, format!("{child} ({name})")));
            } else if ["pipelock", "worker"].contains(&name.as_str()) && !known.contains(&child) {
                let words = format!("{child} ({name}) runs, and is not told of");
                doubtful.push((Fault::StatusNotTrue, words));
            }
        }
        if !fs::exists(format!("/proc/{}", self.init)).unwrap() {
            doubtful.push((Fault::Ended, "PID 1 is gone".to_owned()));
        }
        doubtful
    }
}

/// pipelock and those beside it: name, state, process as it sees itself.
pub fn told_processes(status: &Value) -> Vec<(String, String, Option<i64>)> {
    let word = |it: &Value| it.as_str().unwrap_or_default().to_owned();
    let pipelock = &status["daemon"];
    // By itself it has a state of its own where there are others.
    let state = if pipelock["state"].is_string() {
        &pipelock["state"]
    } else {
        &status["state"]
    };
    let mut all = vec![("pipelock".to_owned(), word(state), pipelock["pid"].as_i64())];
    let others = status["daemons"].as_array().into_iter().flatten();
    all.extend(others.map(|it| (word(&it["name"]), word(&it["state"]), it["pid"].as_i64())));
    all
}

/// What PID 1 holds: the least of a few looks, for what it asks others to do comes and goes.
pub fn sample(init: i32, daemons: u64) -> Sample {
    let look = || Sample {
        resident_kb: proc_field(init, "VmRSS")
            .and_then(|it| it.trim_end_matches(" kB").parse().ok())
            .unwrap_or(0),
        descriptors: fs::read_dir(format!("/proc/{init}/fd")).map_or(0, |all| all.count() as u64),
        children: children(init).len() as u64,
        daemons,
    };
    let mut least = look();
    for _ in 0..20 {
        thread::sleep(LOOK);
        let now = look();
        least.resident_kb = least.resident_kb.min(now.resident_kb);
        least.descriptors = least.descriptors.min(now.descriptors);
        least.children = least.children.min(now.children);
    }
    least
}
