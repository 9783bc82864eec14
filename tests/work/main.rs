//! Work gets through: real clients at the sizes people have, each passed through and opened by
//! the firewall, with whatever daemon there is (`PIPELOCK_BIN`, else the stand-in). Passed
//! through it works, as fast as without the init; opened it is refused in words, or late.
//! `docs/clients.md` says what follows for each client.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod bed;
mod cases;
#[allow(dead_code, reason = "the quick tests need the rest of it")]
#[path = "../support/mod.rs"]
mod support;

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::support::said::say;
use crate::support::tools;
use bed::{Bed, Daemon, Done, OPENED, PASSED};
use cases::{Case, Opened};

/// What is wanted of the speed of pipelock alone.
const SPEED: f64 = 0.9;
/// How often the two are compared before they count as as fast, and before they do not.
const PAIRS: std::ops::RangeInclusive<usize> = 2..=32;

/// One test after the other: they measure.
fn turn() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// How a case fared that is passed through.
struct Passed {
    best: Duration,
    /// Beside pipelock alone: 1 is as fast.
    speed: f64,
    said: String,
}

/// Runs a case passed through, with the init and without, both at the same time: what else
/// the machine does then slows both. All pairs together, or the one in the middle where a few
/// are far off.
fn pass_through(bed: &Bed, case: &Case) -> Result<Passed, String> {
    let mut best = Duration::MAX;
    let mut totals = [Duration::ZERO; 2];
    let mut speeds = Vec::new();
    for pair in 1.. {
        let [ours, alone] = std::thread::scope(|scope| {
            let start = |daemon| scope.spawn(move || bed.client(daemon, PASSED, &case.script));
            // The first is ahead of the other: in turn.
            let (ours, alone) = if pair % 2 == 1 {
                let ours = start(Daemon::Ours);
                (ours, start(Daemon::Alone))
            } else {
                let alone = start(Daemon::Alone);
                (start(Daemon::Ours), alone)
            };
            [ours, alone].map(|run| run.join().unwrap())
        });
        for (done, who) in [
            (&ours, "through the init"),
            (&alone, "through pipelock alone"),
        ] {
            if !done.works {
                return Err(format!("passed {who}, it fails: {}", done.said));
            }
        }
        best = best.min(ours.took);
        totals[0] += ours.took;
        totals[1] += alone.took;
        speeds.push(alone.took.as_secs_f64() / ours.took.as_secs_f64());
        speeds.sort_by(f64::total_cmp);
        let total = totals[1].as_secs_f64() / totals[0].as_secs_f64();
        let speed = total.max(speeds[(pair - 1) / 2]);
        if pair >= *PAIRS.start() && speed >= SPEED {
            return Ok(Passed {
                best,
                speed,
                said: ours.said,
            });
        }
        if pair == *PAIRS.end() {
            return Err(format!(
                "passed through, {speed:.2} of the speed of pipelock alone: {totals:?} for {pair}"
            ));
        }
    }
    unreachable!("one of the two is returned")
}

/// Runs a case through a host that is opened, and returns what it did and what was told.
fn open(bed: &Bed, case: &Case) -> Result<(Done, String), String> {
    let script = case.opened_script.as_ref().unwrap_or(&case.script);
    let done = bed.client(Daemon::Ours, OPENED, script);
    if matches!(case.opened, Opened::Works) != done.works {
        return Err(format!("opened, it works: {}: {}", done.works, done.said));
    }
    let told = match case.opened {
        Opened::Works => "works".to_owned(),
        Opened::Fails(words) => {
            let line = done.said.lines().find(|line| line.contains(words));
            let line = line.ok_or(format!("opened, it does not say {words:?}: {}", done.said))?;
            line.to_owned()
        }
        Opened::Refused(words, advised) => {
            let host = format!("{}.{OPENED}", case.service);
            let advised = advised.replace("HOST", &host);
            let (means, advice) = bed.told(&host, words).map_err(|denials| {
                format!(
                    "opened, no refusal has the words {words:?}: {denials}\n{}",
                    done.said
                )
            })?;
            if !advice.contains(&advised) {
                return Err(format!("no advice of {advised:?}: {advice}"));
            }
            format!("{means}; {advice}")
        }
    };
    Ok((done, told))
}

#[test]
fn clients_work_passed_through_and_are_told_why_not_where_they_are_opened() {
    let _turn = turn();
    // For one that looks into a single case.
    let only = std::env::var("WORK_ONLY").unwrap_or_default();
    // Every case has the same domain: all of their requests count together.
    let bed = Bed::start(", requests_per_minute: 6000");
    let mut rows = Vec::new();
    let mut failures = Vec::new();
    for case in cases::cases() {
        let name = format!("{}: {}", case.client, case.what);
        if !name.contains(&only) {
            continue;
        }
        if !tools::is_here(case.probe) {
            say(&format!("NOT CHECKED: {name}: the client is not here"));
            continue;
        }
        match (pass_through(&bed, &case), open(&bed, &case)) {
            (Ok(passed), Ok((opened, told))) => {
                let first = passed
                    .said
                    .lines()
                    .find(|line| line.contains("first event"));
                rows.push(format!(
                    "| {name} | {:.1} s, {:.2}{} | {:.1} s | {told} |",
                    passed.best.as_secs_f64(),
                    passed.speed,
                    first.map(|line| format!(", {line}")).unwrap_or_default(),
                    opened.took.as_secs_f64()
                ));
                say(rows.last().unwrap());
            }
            (passed, opened) => {
                for failure in [passed.err(), opened.err()].into_iter().flatten() {
                    say(&format!("FAILED: {name}: {failure}"));
                    failures.push(format!("{name}: {failure}"));
                }
            }
        }
    }
    say("| client | passed through, speed beside pipelock alone | opened | told |");
    say("|---|---|---|---|");
    for row in rows {
        say(&row);
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[test]
fn an_install_of_a_hundred_packages_is_one_tunnel_passed_through_and_too_many_requests_opened() {
    let _turn = turn();
    let probe = "npm --version";
    if !tools::is_here(probe) {
        say("NOT CHECKED: npm: a hundred packages: the client is not here");
        return;
    }
    // With pipelock's own sixty requests a minute.
    let bed = Bed::start("");
    let install = |domain, options| {
        let script = format!(
            "npm install {options} --registry https://npm.$D/ many && [ \"$(ls node_modules | wc -l)\" = 101 ]"
        );
        bed.client(Daemon::Ours, domain, &script)
    };
    let passed = install(PASSED, "");
    assert!(passed.works, "{}\n{}", passed.said, bed.status());
    // npm waits ten seconds and more before it asks again.
    let opened = install(OPENED, "--fetch-retries 0");
    assert!(!opened.works, "{}", opened.said);
    assert!(opened.said.contains("429"), "{}", opened.said);
    let host = format!("npm.{OPENED}");
    let (means, advice) = bed.told(&host, "too many requests").unwrap();
    assert!(advice.contains("requests_per_minute: 600"), "{advice}");
    // And so says the command, to whom denials.json is too much.
    let status = bed.status();
    for words in [&host, &means, &advice] {
        assert!(status.contains(words.as_str()), "{status}");
    }
    say(&format!(
        "| npm: a hundred packages | {:.1} s | {:.1} s | {means}; {advice} |",
        passed.took.as_secs_f64(),
        opened.took.as_secs_f64()
    ));
}
