//! The init with a daemon that really proxies, in a storm: manifests, signals, kills, stalls and
//! traffic by the dice, under load, and what must hold is looked at all the time. `scripts/soak`
//! has it go on for as long as one likes; without `SOAK_MINUTES` it is a short one. And three that
//! see it notice what is broken.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that cannot go on fails by panicking"
)]

mod bottle;
mod law;
mod ledger;
mod storm;
#[allow(dead_code, reason = "the quick tests need the rest of it")]
#[path = "../support/mod.rs"]
mod support;
mod traffic;
mod watcher;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use microvm::ScratchDir;
use serde_json::Value;

use support::said::say;

use ledger::Fault;
use storm::Storm;
use support::interception::Running;

/// Of a soak that nobody asked to be longer.
const SHORT: Duration = Duration::from_secs(25);
/// Until something that is broken has to be noticed.
const NOTICED: Duration = Duration::from_secs(90);
/// Of the short ones: the same dice every time.
const SEED: u64 = 20;

/// What is broken on purpose.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Broken {
    /// The init never sees another manifest than its first, nor any halt; and some of the
    /// clients go around the firewall.
    Disobedient,
    /// The init hangs: PID 1 is stopped.
    Stuck,
}

/// What is to be done.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    time: Duration,
    seed: u64,
    /// How many loops keep processors busy.
    load: u64,
    broken: Option<Broken>,
}

impl Plan {
    /// As the environment says it.
    fn read() -> Self {
        let number = |name: &str| -> Option<u64> {
            let text = std::env::var(name).ok()?;
            Some(
                text.parse()
                    .unwrap_or_else(|_| panic!("{name} is no number: {text}")),
            )
        };
        let processors = std::thread::available_parallelism().unwrap().get() as u64;
        let minutes = number("SOAK_MINUTES").map(|it| Duration::from_secs(60 * it));
        Self {
            time: minutes.unwrap_or(SHORT),
            seed: number("SOAK_SEED").unwrap_or(SEED),
            load: number("SOAK_LOAD").unwrap_or(processors),
            broken: None,
        }
    }

    /// For the process that carries it out.
    fn words(&self) -> String {
        let broken = match self.broken {
            None => "nothing",
            Some(Broken::Disobedient) => "disobedient",
            Some(Broken::Stuck) => "stuck",
        };
        format!(
            "{} {} {} {broken}",
            self.time.as_secs(),
            self.seed,
            self.load
        )
    }

    fn of(words: &str) -> Self {
        let words: Vec<&str> = words.split(' ').collect();
        let number = |word: &str| -> u64 { word.parse().unwrap() };
        Self {
            time: Duration::from_secs(number(words[0])),
            seed: number(words[1]),
            load: number(words[2]),
            broken: match words[3] {
                "disobedient" => Some(Broken::Disobedient),
                "stuck" => Some(Broken::Stuck),
                _ => None,
            },
        }
    }

    fn broken(broken: Broken) -> Self {
        Self {
            time: NOTICED,
            seed: SEED,
            load: 0,
            broken: Some(broken),
        }
    }

    /// It may end when these have been noticed.
    fn until(&self) -> &'static [Fault] {
        match self.broken {
            Some(Broken::Disobedient) => &[
                Fault::RemovedHostAnswers,
                Fault::RemovedHostsTunnelIsOpen,
                Fault::GrantOutlivesItsEnd,
                Fault::ServedWhileHalted,
                Fault::PastTheFirewall,
                Fault::StatusNotTrue,
                Fault::ManifestNotNamed,
            ],
            Some(Broken::Stuck) => &[Fault::Zombie, Fault::StatusNotTrue, Fault::ManifestNotNamed],
            None => &[],
        }
    }

    /// Where what it has seen is.
    fn directory(&self) -> PathBuf {
        let name = match self.broken {
            None => format!("seed-{}", self.seed),
            Some(broken) => format!("{broken:?}").to_lowercase(),
        };
        Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("target/soak")
            .join(name)
    }
}

/// Runs it in namespaces of its own, of which nothing outlives it, and returns what it has
/// found; `None` where there are no such namespaces.
fn soak(plan: Plan) -> Option<Vec<(Fault, String)>> {
    let namespaces = match support::namespace_arguments() {
        Ok(arguments) => arguments,
        Err(why) => {
            support::skipped("a soak", &why);
            return None;
        }
    };
    let directory = plan.directory();
    let _ = fs::remove_dir_all(&directory);
    fs::create_dir_all(&directory).unwrap();
    let mut hosts = "127.0.0.1 localhost\n".to_owned();
    for (name, address) in bottle::names() {
        hosts += &format!("{address} {name}\n");
    }
    fs::write(directory.join("hosts"), hosts).unwrap();
    // Made by this process alone, for all of them at once.
    let copied = Command::new("cp")
        .arg(support::fixture::worker())
        .arg(directory.join("worker"))
        .status();
    assert!(copied.unwrap().success());
    // In a PID namespace of its own it is called as every other is there.
    let scratch = ScratchDir::new().unwrap();
    let script = format!(
        "ip link set lo up; ip address add {}/32 dev lo; mount --bind \"$1/hosts\" /etc/hosts; shift; exec \"$@\"",
        bottle::INSIDE_ADDRESS
    );
    let run = Command::new("unshare")
        .args(namespaces)
        .args(["--net", "sh", "-euc", &script, "sh"])
        .arg(&directory)
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "inside", "--ignored", "--nocapture"])
        .env("SOAK_PLAN", plan.words())
        .env("TMPDIR", scratch.path())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .status()
        .unwrap();
    let found = fs::read(directory.join("faults.json"));
    let evidence = directory.display();
    assert!(
        run.success() && found.is_ok(),
        "the soak itself ended with {run}, see above and {evidence}"
    );
    let found: Vec<Value> = serde_json::from_slice(&found.unwrap()).unwrap();
    let word = |it: &Value| it.as_str().unwrap().to_owned();
    let found = found.iter().map(|it| {
        let fault = Fault::of(&word(&it["fault"])).unwrap();
        (fault, word(&it["what"]))
    });
    Some(found.collect())
}

#[test]
#[ignore = "the others run it, in namespaces of its own"]
fn inside() {
    let Ok(words) = std::env::var("SOAK_PLAN") else {
        support::skipped("a soak", "it is not in namespaces of its own");
        return;
    };
    let plan = Plan::of(&words);
    let directory = plan.directory();
    // Each in a session of its own, as the daemons are: the kernel shares the processors out by
    // session (`sched_autogroup_enabled`).
    let _load: Vec<Running> = (0..plan.load)
        .map(|_| {
            let mut busy = Command::new("setsid");
            Running(
                busy.args(["sh", "-c", "while :; do :; done"])
                    .spawn()
                    .unwrap(),
            )
        })
        .collect();
    let table = Storm::begin(plan, &directory).rage();
    fs::write(directory.join("summary"), &table).unwrap();
    if plan.broken.is_none() {
        say(&format!(
            "seed {}, {} busy loops:\n{table}",
            plan.seed, plan.load
        ));
    }
}

#[test]
fn a_storm_of_changes_kills_stalls_and_halts_changes_nothing_of_what_must_hold() {
    let plan = Plan::read();
    if std::env::var_os("PIPELOCK_BIN").is_none() {
        say("the soak's daemon is the stand-in: PIPELOCK_BIN names no pipelock");
    }
    let Some(faults) = soak(plan) else { return };
    let directory = plan.directory();
    let lines: Vec<String> = faults
        .iter()
        .map(|(fault, what)| format!("{}: {what}", fault.words()))
        .collect();
    assert!(
        faults.is_empty(),
        "{} faults with seed {}, evidence in {}:\n{}",
        faults.len(),
        plan.seed,
        directory.display(),
        lines.join("\n")
    );
}

fn assert_noticed(broken: Broken) {
    let plan = Plan::broken(broken);
    let Some(faults) = soak(plan) else { return };
    for wanted in plan.until() {
        assert!(
            faults.iter().any(|(fault, _)| fault == wanted),
            "not noticed: {}; only {faults:#?}",
            wanted.words()
        );
    }
}

#[test]
fn a_soak_notices_an_init_that_revokes_nothing_and_never_halts_and_who_goes_around_the_firewall() {
    assert_noticed(Broken::Disobedient);
}

#[test]
fn a_soak_notices_an_init_that_hangs() {
    assert_noticed(Broken::Stuck);
}
