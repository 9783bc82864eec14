//! One init to a run directory, and nothing that outlives it: what is left of an init that
//! was killed says so.

use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::support::{self, Bed, Place};

const PATIENCE: Duration = Duration::from_secs(20);

fn wait_until(what: &str, mut look: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !look() {
        assert!(Instant::now() < end, "waited in vain until {what}");
        thread::sleep(Duration::from_millis(2));
    }
}

#[test]
fn a_second_init_leaves_the_first_alone() {
    let mut first = Bed::new().start(Place::Child);
    let before = first.wait_ready();
    let second = first.bed.run(&["run"]);
    assert_eq!(second.status.code(), Some(73), "{second:?}");
    let said = String::from_utf8_lossy(&second.stderr).into_owned();
    let directory = first.bed.path("run");
    assert!(
        said.contains(&format!(
            "cannot use {}: another sidecar-init runs with it",
            directory.display()
        )) && said.contains("hint: end that one, or name another directory with --run-dir"),
        "{said}"
    );
    let after = first.status();
    assert_eq!(after["boot_id"], before["boot_id"]);
    assert_eq!(after["state"], "ready");
    let (end, _) = first.stop();
    assert_eq!(end.code, 0);
}

#[test]
fn nothing_of_a_killed_init_counts_as_ready() {
    let mut init = Bed::new().start(Place::Child);
    init.wait_ready();
    let healthy = init.bed.run(&["healthcheck"]);
    assert!(healthy.status.success(), "{healthy:?}");

    init.signal(Signal::SIGKILL);
    init.wait_killed();
    assert_eq!(init.status()["state"], "ready", "nobody could correct it");

    let health = init.bed.run(&["healthcheck"]);
    assert_eq!(health.status.code(), Some(1));
    assert_eq!(
        String::from_utf8_lossy(&health.stderr),
        "sidecar-init: not ready: the sidecar-init that wrote the status was killed\n"
    );
    let words = init.bed.run(&["status"]);
    let words = String::from_utf8_lossy(&words.stdout).into_owned();
    assert!(
        words.starts_with(
            "bed: killed, and its pipelock with it; nobody looked whether its port is closed\n"
        ),
        "{words}"
    );
    let json = init.bed.run(&["status", "--json"]);
    let json: Value = serde_json::from_slice(&json.stdout).unwrap();
    assert_eq!(json["state"], "killed");
}

#[test]
fn the_daemon_does_not_outlive_its_init() {
    let mut init = Bed::new().start(Place::Child);
    init.wait_ready();
    let daemon = init.daemon();
    init.signal(Signal::SIGKILL);
    init.wait_killed();
    wait_until("the daemon is gone", || {
        // A zombie is nobody's firewall any more; whoever adopted it reaps it.
        support::proc_field(daemon, "State").is_none_or(|state| state.starts_with('Z'))
    });
}
