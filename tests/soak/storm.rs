//! What is done to the init, by the dice: manifests, signals, kills, stalls; and a calm now and
//! then, in which all has to be as it was asked for.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use microvm::{Arch, shipped_init};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use super::bottle::{Bottle, NEVER, names};
use super::law::{LIMIT, Sample, growth};
use super::ledger::{Fault, Ledger};
use super::traffic::{self, Halt, World};
use super::watcher::{Newest, Told, Watcher, sample, told_processes};
use super::{Broken, Plan, say};
use crate::support::random::Random;
use crate::support::{
    Bed, Console, Init, PATIENCE, Place, child_known_as, looker, pipelock, proc_field,
    processor_ticks, sha256,
};

/// Five failures of a daemon within a minute end the bundle, as they should: fewer are caused.
const MOST_FAILURES: usize = 3;
const REMEMBERED: Duration = Duration::from_secs(70);
/// Of a storm, and what a calm may at least count on.
const STORM: Duration = Duration::from_secs(15);
const QUIET: Duration = Duration::from_secs(30);
/// What the init writes beyond this is forgotten.
const MOST_CONSOLE: u64 = 16 * 1024 * 1024;

pub struct Storm {
    plan: Plan,
    random: Random,
    world: Arc<World>,
    told: Arc<Mutex<Told>>,
    init: Init,
    worker: PathBuf,
    console: PathBuf,
    /// Where the manifests are put.
    manifest: PathBuf,
    bottle: Bottle,
    manifests: u64,
    halted: bool,
    /// Process, name, and when it may go on.
    stalled: Vec<(i32, String, Instant)>,
    failures: Vec<(String, Instant)>,
    samples: Vec<Sample>,
}

impl Storm {
    pub fn begin(plan: Plan, directory: &Path) -> Self {
        let bed = Bed::new()
            .with_export()
            .with_init(shipped_init(Arch::host()).unwrap());
        pipelock::copy_into(&bed.path(""));
        let worker = bed.path("worker");
        let copied = std::process::Command::new("cp")
            .arg(directory.join("worker"))
            .arg(&worker)
            .status();
        assert!(copied.unwrap().success());
        let ledger = Ledger::new(directory, bed.path("run/status.json"));
        let proxy = bed.address().parse().unwrap();
        let bypass = plan.broken == Some(Broken::Disobedient);
        let world = Arc::new(World::new(ledger, proxy, bypass));
        traffic::serve(&world);

        let bottle = Bottle::open();
        let text = bottle.text(bed.address(), &worker);
        bed.replace_manifest(&text);
        let mut manifest = bed.manifest();
        if bypass {
            // It goes on with the first one.
            manifest = bed.path("elsewhere.yaml");
            fs::write(&manifest, &text).unwrap();
        }
        let console = directory.join("console");
        let shell = "file=$1; shift; exec \"$@\" >>\"$file\" 2>&1";
        let prefix = ["sh", "-c", shell, "sh", console.to_str().unwrap()];
        let mut init = bed.start_under(Place::Namespace, Console::Drained, &prefix);
        init.wait_ready();
        let told = Arc::new(Mutex::new(Told {
            newest: None,
            asked: (0, Instant::now()),
            stopping: false,
        }));
        Self {
            random: Random::of(plan.seed),
            plan,
            world,
            told,
            worker,
            console,
            manifest,
            init,
            bottle,
            manifests: 0,
            halted: false,
            stalled: Vec::new(),
            failures: Vec::new(),
            samples: Vec::new(),
        }
    }

    fn ledger(&self) -> &Ledger {
        &self.world.ledger
    }

    /// All of it; what there is to tell.
    pub fn rage(mut self) -> String {
        let begun = Instant::now();
        let end = begun + self.plan.time;
        self.put_bottle("everything");
        let status = self.init.bed.path("run/status.json");
        let watcher = Watcher::start(&self.world, &self.told, status, self.init.pid());
        let clients = traffic::ask(&self.world, self.plan.seed);
        match self.plan.broken {
            Some(Broken::Stuck) => {
                self.init.signal(Signal::SIGSTOP);
                self.init.kill_daemon();
            }
            Some(Broken::Disobedient) => {
                // Until there are some tunnels; and then for as long as it may take, and longer.
                self.wait(Duration::from_secs(2));
                self.bottle = Bottle::closed();
                self.put_bottle("nothing");
                self.halt();
                self.wait(2 * LIMIT);
            }
            None => {}
        }
        let mut minute = 1;
        while Instant::now() < end && !self.seen_enough() {
            let calm = (Instant::now() + STORM).min(end);
            while Instant::now() < calm && !self.seen_enough() {
                self.act();
                self.forget_console();
                let pause = 50 + self.random.below(1000) as u64;
                self.wait(Duration::from_millis(pause));
            }
            if self.plan.broken.is_some() {
                continue;
            }
            self.calm();
            if self.init.status()["exit_code"].is_u64() {
                break;
            }
            if begun.elapsed() > Duration::from_secs(60 * minute) {
                minute = begun.elapsed().as_secs() / 60 + 1;
                say(&self.progress(begun.elapsed()));
            }
        }
        let took = begun.elapsed();
        self.told.lock().unwrap().stopping = true;
        self.world.goes_on.store(false, Ordering::Relaxed);
        let world = Arc::clone(&self.world);
        let table = self.finish(took);
        for thread in clients.into_iter().chain([watcher]) {
            if thread.join().is_err() {
                world
                    .ledger
                    .fault(Fault::Ended, "a part of the soak panicked");
            }
        }
        world.ledger.write_faults();
        format!("{table}{}", world.ledger.table())
    }

    fn seen_enough(&self) -> bool {
        let wanted = self.plan.until();
        let seen = self.ledger().faults();
        let is_seen = |fault: &Fault| seen.iter().any(|(it, _)| it == fault);
        !wanted.is_empty() && wanted.iter().all(is_seen)
    }

    fn progress(&self, since: Duration) -> String {
        let counted = |what| self.ledger().counted(what);
        let memory = self.samples.last().map_or(0, |it| it.resident_kb);
        format!(
            "soak: {} min: {} manifests, {} kills, {} stalls, {} halts, {} requests answered, {} refused; \
             PID 1 holds {memory} KiB; {} faults",
            since.as_secs() / 60,
            self.manifests,
            counted("daemons killed"),
            counted("daemons stalled"),
            counted("halts"),
            counted("requests answered"),
            counted("requests refused"),
            self.ledger().faults().len()
        )
    }

    /// Waits, and lets go on meanwhile whose stall is over.
    fn wait(&mut self, time: Duration) {
        let end = Instant::now() + time;
        loop {
            let now = Instant::now();
            let init = self.init.pid();
            self.stalled.retain(|(pid, name, until)| {
                if now < *until {
                    return true;
                }
                // Only while it is the init's: its number may be another's by now.
                if crate::support::children(init).contains(pid) {
                    let _ = kill(Pid::from_raw(*pid), Signal::SIGCONT);
                }
                self.world.ledger.note(&format!("{name} goes on"));
                false
            });
            if now >= end {
                return;
            }
            thread::sleep((end - now).min(Duration::from_millis(20)));
        }
    }

    fn act(&mut self) {
        match self.random.below(100) {
            0..=44 => {
                let what = self.bottle.change(&mut self.random);
                self.put_bottle(&what);
            }
            45..=49 => {
                for _ in 0..2 {
                    let what = self.bottle.change(&mut self.random);
                    self.put_bottle(&what);
                    self.wait(Duration::from_millis(50));
                }
            }
            50..=59 => {
                let text = self.text();
                let (bytes, wrong) = Bottle::broken(&text, &mut self.random);
                self.put_broken(&bytes, wrong);
                if self.random.below(2) == 0 {
                    // Long enough to be named.
                    self.wait(LIMIT + Duration::from_secs(1));
                }
            }
            60..=66 => self.ask("a reload", Signal::SIGHUP, "reloads asked for"),
            67..=73 if !self.halted => self.halt(),
            67..=73 => self.resume(),
            74..=82 => {
                if let Some((pid, name)) = self.victim() {
                    self.ledger().note(&format!("{name} ({pid}) is killed"));
                    self.ledger().count("daemons killed");
                    let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
                }
            }
            83..=89 => {
                if let Some((pid, name)) = self.victim() {
                    let time = Duration::from_millis(300 + self.random.below(12_000) as u64);
                    self.ledger()
                        .note(&format!("{name} ({pid}) is stalled for {time:?}"));
                    self.ledger().count("daemons stalled");
                    let _ = kill(Pid::from_raw(pid), Signal::SIGSTOP);
                    self.stalled.push((pid, name, Instant::now() + time));
                }
            }
            // Long enough for what was removed to be judged.
            90..=93 => self.wait(LIMIT),
            94..=95 => {
                if let Some(looker) = looker(self.init.pid()) {
                    self.ledger().note("who looks at the manifest is killed");
                    self.ledger().count("lookers killed");
                    let _ = kill(Pid::from_raw(looker), Signal::SIGKILL);
                }
            }
            _ => {}
        }
    }

    /// A daemon that may fail once more.
    fn victim(&mut self) -> Option<(i32, String)> {
        let told = told_processes(&self.init.status());
        let (name, _, pid) = told.get(self.random.below(told.len()))?.clone();
        let pid = child_known_as(self.init.pid(), pid?)?;
        self.failures.retain(|(_, at)| at.elapsed() < REMEMBERED);
        let failed = self.failures.iter().filter(|(it, _)| *it == name).count();
        let is_stalled = self.stalled.iter().any(|(it, _, _)| *it == pid);
        if failed >= MOST_FAILURES || is_stalled {
            return None;
        }
        self.failures.push((name.clone(), Instant::now()));
        Some((pid, name))
    }

    fn text(&self) -> String {
        self.bottle.text(self.init.bed.address(), &self.worker)
    }

    fn put_bottle(&mut self, what: &str) {
        let text = self.text();
        let allows = self.bottle.allows();
        self.world.law.lock().unwrap().announce(&allows);
        self.write(text.as_bytes());
        let now = Instant::now();
        self.world.law.lock().unwrap().put(&allows, now);
        *self.world.passed.lock().unwrap() = self.bottle.passed();
        self.ledger().count("manifests put there");
        self.put(text.as_bytes(), None, what);
    }

    fn put_broken(&mut self, bytes: &[u8], wrong: &'static str) {
        // Both sides of the rename: from the one on it may be read, until the other the one
        // before it.
        self.world.law.lock().unwrap().spoil(Instant::now());
        self.write(bytes);
        self.ledger().count("broken manifests put there");
        self.put(bytes, Some(wrong), wrong);
    }

    fn write(&mut self, bytes: &[u8]) {
        if self.random.below(6) == 0 {
            fs::write(&self.manifest, bytes).unwrap();
            return;
        }
        let new = self.manifest.with_extension("new");
        fs::write(&new, bytes).unwrap();
        fs::rename(new, &self.manifest).unwrap();
    }

    fn put(&mut self, bytes: &[u8], wrong: Option<&'static str>, what: &str) {
        self.manifests += 1;
        self.ledger().keep_manifest(self.manifests, bytes);
        self.ledger()
            .note(&format!("manifest {}: {what}", self.manifests));
        self.told.lock().unwrap().newest = Some(Newest {
            sha256: sha256(bytes),
            wrong,
            hosts_allowed: self.bottle.hosts_allowed(2 * LIMIT),
            put: Instant::now(),
        });
    }

    /// Sends a signal, and waits until it is told to have come: two that wait are one.
    fn ask(&mut self, what: &str, signal: Signal, count: &'static str) {
        self.ledger().note(what);
        self.ledger().count(count);
        let asked = {
            let mut told = self.told.lock().unwrap();
            told.asked = (told.asked.0 + 1, Instant::now());
            told.asked.0
        };
        self.init.signal(signal);
        let sent = Instant::now();
        while self.init.status()["requests"].as_u64() < Some(asked) {
            if sent.elapsed() > LIMIT {
                let words = format!("{what} is not told to have been asked for");
                self.ledger().fault(Fault::StatusNotTrue, &words);
                break;
            }
            self.wait(Duration::from_millis(20));
        }
        self.ledger()
            .took("slowest signal to be told", sent.elapsed());
    }

    fn halt(&mut self) {
        self.halted = true;
        *self.world.halt.lock().unwrap() = Halt {
            wanted: true,
            since: Instant::now(),
            from: None,
        };
        if self.plan.broken == Some(Broken::Disobedient) {
            return;
        }
        self.ask("a halt", Signal::SIGUSR1, "halts");
    }

    fn resume(&mut self) {
        if self.plan.broken == Some(Broken::Disobedient) {
            return;
        }
        self.halted = false;
        {
            let mut halt = self.world.halt.lock().unwrap();
            (halt.wanted, halt.from) = (false, None);
        }
        self.ask("a resume", Signal::SIGUSR2, "resumes");
    }

    /// Nothing more is asked of it: now all has to come about.
    fn calm(&mut self) {
        for (_, _, until) in &mut self.stalled {
            *until = Instant::now();
        }
        self.wait(Duration::ZERO);
        if self.halted {
            self.resume();
        }
        self.bottle.settle(QUIET);
        self.put_bottle("a calm");
        let Some(daemons) = self.come_about() else {
            return;
        };
        let allows = self.bottle.allows();
        for (name, _) in names() {
            let answer = self.world.get(&name);
            let served = if allows.contains_key(&name) {
                self.is_served(&name)
            } else {
                name == NEVER || answer != Some(200)
            };
            if !served {
                let words = format!("{name} (allowed: {})", allows.contains_key(&name));
                self.ledger().fault(Fault::NotServing, &words);
            }
        }
        if let Some(name) = self.bottle.passed().first()
            && self.world.open_tunnel(name).is_none()
        {
            let words = format!("no tunnel to {name}");
            self.ledger().fault(Fault::NotServing, &words);
        }
        self.samples.push(sample(self.init.pid(), daemons));
        self.ledger().note(&format!("{:?}", self.samples.last()));
        self.ledger().count("calms");
        if let Some(grown) = growth(&self.samples) {
            self.ledger().fault(Fault::Growth, &grown);
        }
    }

    /// Waits until the newest manifest is in force and everything ready; how many daemons.
    fn come_about(&mut self) -> Option<u64> {
        let begun = Instant::now();
        let newest = self.told.lock().unwrap().newest.clone().unwrap();
        let wanted = self.bottle.daemons;
        let is_so = |status: &Value| {
            let config = &status["config"];
            let told = told_processes(status);
            status["state"] == "ready"
                && config["manifest_sha256"] == *newest.sha256
                && config["generation"] == config["applied_generation"]
                && told.len() == 1 + wanted
                && told.iter().all(|(_, state, _)| state == "ready")
        };
        loop {
            let status = self.init.status();
            if is_so(&status) {
                self.ledger()
                    .took("slowest calm to come about", begun.elapsed());
                return Some(wanted as u64);
            }
            if begun.elapsed() > PATIENCE || status["exit_code"].is_u64() {
                let words = format!("no calm within {:?}: {status}", begun.elapsed());
                self.ledger().fault(Fault::NotServing, &words);
                return None;
            }
            self.wait(Duration::from_millis(20));
        }
    }

    /// Whether a host that is allowed answers: a grant may have ended a moment ago, and taken
    /// this request with its daemon.
    fn is_served(&self, name: &str) -> bool {
        let begun = Instant::now();
        while begun.elapsed() < 2 * LIMIT {
            if self.world.get(name) == Some(200) {
                return true;
            }
            thread::sleep(Duration::from_millis(100));
        }
        false
    }

    fn forget_console(&self) {
        let long = fs::metadata(&self.console).is_ok_and(|it| it.len() > MOST_CONSOLE);
        if long {
            // It is written at its end, wherever that is.
            let _ = fs::copy(&self.console, self.console.with_extension("before"));
            let _ = fs::File::options()
                .write(true)
                .open(&self.console)
                .and_then(|it| it.set_len(0));
        }
    }

    fn finish(self, took: Duration) -> String {
        let status = self.init.status();
        let world = Arc::clone(&self.world);
        let mut table = format!("| seconds | {} |\n", took.as_secs());
        if proc_field(self.init.pid(), "VmRSS").is_some() {
            let ticks = processor_ticks(self.init.pid());
            let (seconds, hundredths) = (ticks / 100, ticks % 100);
            table += &format!("| processor time of PID 1 | {seconds}.{hundredths:02} s |\n");
        }
        for what in ["restarts", "failures", "reaped"] {
            table += &format!("| {what}, told | {} |\n", status[what]);
        }
        table += &format!("| generations | {} |\n", status["config"]["generation"]);
        for (which, sample) in [
            ("first", self.samples.first()),
            ("last", self.samples.last()),
        ] {
            if let Some(it) = sample {
                table += &format!(
                    "| PID 1, {which} calm | {} KiB, {} descriptors, {} children, {} daemons beside pipelock |\n",
                    it.resident_kb, it.descriptors, it.children, it.daemons
                );
            }
        }
        if let Some(most) = self.samples.iter().map(|it| it.resident_kb).max() {
            table += &format!("| PID 1, the most of all calms | {most} KiB |\n");
        }
        if self.plan.broken.is_some() || status["exit_code"].is_u64() {
            return table;
        }
        let begun = Instant::now();
        let (end, _) = self.init.stop();
        world.ledger.took("the stop", begun.elapsed());
        // A second of grace, one of draining, two more, and one for the machine.
        if end.code != 0 || begun.elapsed() > Duration::from_secs(5) {
            let words = format!("stopped with {} after {:?}", end.code, begun.elapsed());
            world.ledger.fault(Fault::Ended, &words);
        }
        table
    }
}
