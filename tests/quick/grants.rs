//! What is granted until a time ends then, by itself: whatever becomes of the daemon, of the
//! manifest and of the init meanwhile.

use std::fs;
use std::process::{Command, Output};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use nix::sys::signal::Signal;
use serde_json::Value;
use sidecar_init::ca::rfc3339;

use crate::support::{Bed, Init, Place, init_program};

/// What a machine's own time may show beyond an end, in seconds.
const WITHIN: u64 = 5;

fn now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap()
        .as_secs()
}

/// Waits until the clock says this, and sees to it that it did not say so before.
fn sleep_until(seconds: u64) {
    let left = UNIX_EPOCH + Duration::from_secs(seconds);
    let left = left.duration_since(SystemTime::now());
    thread::sleep(left.expect("the machine is too slow for this test"));
}

/// The text of a manifest that allows `a.example`, and these as long.
fn granting(bed: &Bed, grants: &[(&str, u64)]) -> String {
    let mut text = "grants:\n".to_owned();
    for (host, until) in grants {
        text += &format!("- host: {host}\n  until: {}\n", rfc3339(*until));
    }
    bed.manifest_text(&["a.example"], &text)
}

fn grant(bed: &Bed, grants: &[(&str, u64)]) {
    bed.replace_manifest(&granting(bed, grants));
}

/// The configuration that the daemon runs on, or would start on.
fn config(init: &Init) -> String {
    fs::read_to_string(init.bed.path("run/pipelock.yaml")).unwrap()
}

fn grants_in_force(status: &Value) -> Vec<&str> {
    let grants = status["grants"].as_array().unwrap().iter();
    let grants = grants.filter(|grant| grant["in_force"] == true);
    grants.map(|it| it["host"].as_str().unwrap()).collect()
}

fn text(output: &[u8]) -> String {
    String::from_utf8(output.to_vec()).unwrap()
}

fn run_on(bed: &Bed, command: &str) -> Output {
    let mut command_line = Command::new(init_program());
    command_line
        .args([command, "--manifest"])
        .arg(bed.manifest());
    command_line.output().unwrap()
}

#[test]
fn a_grant_comes_into_force_is_told_and_ends_by_itself() {
    let mut init = Bed::new().with_export().start(Place::Child);
    let ready = init.wait_ready();
    let first = ready["daemon"]["pid"].clone();
    let until = now() + 12;
    let at = rfc3339(until);
    let later = until + 3600;
    grant(
        &init.bed,
        &[("soon.example", until), ("later.example", later)],
    );
    let status = init.wait_applied(2);
    assert_eq!(status["daemon"]["pid"], first, "reloaded, not restarted");
    assert_eq!(status["hosts_allowed"], 3);
    assert_eq!(
        status["grants"][0],
        serde_json::json!({"host": "soon.example", "until": at, "passthrough": false, "in_force": true})
    );
    assert!(config(&init).contains("soon.example"));
    let told = text(&init.bed.run(&["status"]).stdout);
    let says = told
        .lines()
        .find(|line| line.contains("soon.example"))
        .unwrap();
    assert!(
        says.starts_with("  granted      soon.example, ends in "),
        "{told}"
    );
    assert!(says.ends_with(&format!(" s, until {at}")), "{told}");
    let says = told
        .lines()
        .find(|line| line.contains("later.example"))
        .unwrap();
    assert!(
        says.contains("later.example, ends in 1 h, until "),
        "{told}"
    );

    // Nobody touches anything.
    let status = init.wait_for("it is revoked", |status| {
        status["revocation"]["done_at"].is_string() && status["config"]["applied_generation"] == 3
    });
    assert!(now() <= until + WITHIN, "{} s late", now() - until);
    assert!(status["revocation"]["done_at"].as_str().unwrap() >= at.as_str());
    assert_eq!(
        status["revocation"]["hosts"],
        serde_json::json!(["soon.example"])
    );
    assert_ne!(status["daemon"]["pid"], first, "with its tunnels");
    assert_eq!(status["failures"], 0);
    assert_eq!(status["hosts_allowed"], 2);
    assert_eq!(grants_in_force(&status), ["later.example"]);
    assert_eq!(status["grants"][1]["host"], "soon.example");
    assert_eq!(status["warnings"], ready["warnings"], "nothing is wrong");
    assert!(!config(&init).contains("soon.example"));
    assert!(config(&init).contains("later.example"));
    let told = text(&init.bed.run(&["status"]).stdout);
    assert!(
        told.contains("  granted      soon.example no more: ended "),
        "{told}"
    );
    // It is written by a process of its own.
    init.wait_until("the export says so, too", |init| {
        let export = fs::read(init.bed.path("run/export/status.json")).ok()?;
        let export: Value = serde_json::from_slice(&export).ok()?;
        (export == init.status()).then_some(())
    });

    let (end, _) = init.stop();
    let console = end.console_text();
    for (line, times) in [
        (format!("soon.example is granted until {at}"), 1),
        (format!("the grant of soon.example ended at {at}"), 1),
        ("soon.example revoked".to_owned(), 1),
        ("later.example is granted until".to_owned(), 1),
        ("the grant of later.example ended".to_owned(), 0),
    ] {
        assert_eq!(console.matches(&line).count(), times, "{line}\n{console}");
    }
}

#[test]
fn neither_a_longer_grant_nor_a_route_in_its_place_interrupts_anybody() {
    let mut init = Bed::new().start(Place::Child);
    let first = init.wait_ready()["daemon"]["pid"].clone();
    let until = now() + 9;
    grant(&init.bed, &[("b.example", until), ("c.example", until)]);
    init.wait_applied(2);
    // One is granted for longer, the other is allowed for good.
    let longer = format!(
        "grants: [{{host: b.example, until: \"{}\"}}]\n",
        rfc3339(until + 600)
    );
    let bed = &init.bed;
    bed.replace_manifest(&bed.manifest_text(&["a.example", "c.example"], &longer));
    let status = init.wait_applied(3);
    assert_eq!(status["daemon"]["pid"], first);
    sleep_until(until + 2);
    let status = init.status();
    assert_eq!(status["daemon"]["pid"], first);
    assert!(status["revocation"].is_null(), "{status}");
    assert_eq!(grants_in_force(&status), ["b.example"]);

    // And one that is removed is revoked at once.
    init.bed.allow(&["a.example", "c.example"]);
    let status = init.wait_applied(4);
    assert_ne!(status["daemon"]["pid"], first);
    assert_eq!(
        status["revocation"]["hosts"],
        serde_json::json!(["b.example"])
    );
    assert_eq!(status["grants"], serde_json::json!([]));
    assert_eq!(init.stop().0.code, 0);
}

#[test]
fn no_death_of_the_daemon_no_halt_and_no_stopped_init_carries_a_grant_over_its_end() {
    let mut init = Bed::new().start(Place::Child);
    init.wait_ready();

    // In a backoff: whoever is started after the end is started without it.
    let until = now() + 7;
    grant(&init.bed, &[("b.example", until)]);
    init.wait_applied(2);
    sleep_until(until - 1);
    for restarts in 1..=3 {
        init.kill_daemon();
        if restarts < 3 {
            init.wait_ready_after(restarts);
        }
    }
    let status = init.wait_for("it is over", |status| {
        status["config"]["applied_generation"] == 3
    });
    assert!(now() <= until + WITHIN, "{} s late", now() - until);
    assert_eq!(grants_in_force(&status), [""; 0]);
    assert!(!config(&init).contains("b.example"));

    // Halted over the end.
    let until = now() + 5;
    grant(&init.bed, &[("c.example", until)]);
    init.wait_applied(4);
    init.signal(Signal::SIGUSR1);
    init.wait_for("it is halted", |status| status["state"] == "halted");
    let status = init.wait_for("it is over", |status| status["config"]["generation"] == 5);
    assert!(now() <= until + WITHIN, "{} s late", now() - until);
    assert!(status["revocation"]["done_at"].is_string(), "{status}");
    init.signal(Signal::SIGUSR2);
    init.wait_applied(5);
    assert!(!config(&init).contains("c.example"));

    // The init itself does not run when the end comes.
    let until = now() + 6;
    grant(&init.bed, &[("d.example", until)]);
    init.wait_applied(6);
    let daemon = init.status()["daemon"]["pid"].clone();
    init.signal(Signal::SIGSTOP);
    sleep_until(until + 3);
    let begun = Instant::now();
    init.signal(Signal::SIGCONT);
    let status = init.wait_for("it is over", |status| {
        status["revocation"]["done_at"].is_string() && status["config"]["generation"] == 7
    });
    assert!(
        begun.elapsed() < Duration::from_secs(WITHIN),
        "{:?}",
        begun.elapsed()
    );
    assert_ne!(status["daemon"]["pid"], daemon);
    init.wait_applied(7);
    assert_eq!(init.stop().0.code, 0);
}

#[test]
fn a_start_after_the_end_passes_the_grant_over_and_says_so() {
    let bed = Bed::new();
    let until = now() - 60;
    grant(&bed, &[("b.example", until), ("c.example", until + 3600)]);
    let mut init = bed.start(Place::Child);
    let status = init.wait_ready();
    assert_eq!(status["config"]["generation"], 1);
    assert_eq!(grants_in_force(&status), ["c.example"]);
    assert_eq!(status["grants"][1]["host"], "b.example");
    assert!(status["revocation"].is_null());
    let config = config(&init);
    assert!(
        config.contains("c.example") && !config.contains("b.example"),
        "{config}"
    );
    let (end, _) = init.stop();
    let console = end.console_text();
    let line = format!(
        "the grant of b.example is passed over: it ended at {}",
        rfc3339(until)
    );
    assert_eq!(console.matches(&line).count(), 1, "{console}");

    // As the commands say.
    let checked = run_on(&end.bed, "check");
    assert!(checked.status.success(), "{checked:?}");
    let checked = text(&checked.stdout);
    for line in [
        format!(
            "grants[0].until: the grant of \"b.example\" ended at {}, and is passed over\n",
            rfc3339(until)
        ),
        "hint: remove it, or write another time\n".to_owned(),
        "granted: c.example, ends in ".to_owned(),
        "valid; slug bed, 2 host(s) allowed\n".to_owned(),
    ] {
        assert!(checked.contains(&line), "{line}\n{checked}");
    }
    let rendered = run_on(&end.bed, "render");
    let (rendered, said) = (text(&rendered.stdout), text(&rendered.stderr));
    assert!(rendered.contains("c.example") && !rendered.contains("b.example"));
    assert!(
        said.contains("granted: b.example no more: ended "),
        "{said}"
    );
    let mut report = Command::new(init_program());
    report
        .args(["check", "--json", "--manifest"])
        .arg(end.bed.manifest());
    let report: Value = serde_json::from_slice(&report.output().unwrap().stdout).unwrap();
    assert_eq!(report["valid"], true);
    assert_eq!(report["hosts_allowed"], 2);
    assert_eq!(
        report["grants"][0],
        serde_json::json!({"host": "b.example", "until": rfc3339(until), "passthrough": false, "in_force": false})
    );
}

#[test]
fn whoever_asks_for_what_was_granted_is_told_until_when() {
    let lines = |host: &str| {
        format!(
            r#"{{"event":"blocked","method":"CONNECT","target":"{host}:443","scanner":"allowlist","reason":"domain not in allowlist: {host}"}}"#
        ) + "\n"
    };
    let bed =
        Bed::new().with_lines(&(lines("b.example") + &lines("x.c.example") + &lines("d.example")));
    let until = now() - 60;
    let soon = now() + 600;
    grant(
        &bed,
        &[
            ("b.example", until),
            ("\"*.c.example\"", until),
            ("d.example", soon),
        ],
    );
    let mut init = bed.start(Place::Child);
    init.wait_ready();
    let denials = init.wait_until("it is told", |init| {
        let bytes = fs::read(init.bed.path("run/denials.json")).ok()?;
        let denials: Value = serde_json::from_slice(&bytes).ok()?;
        (denials["total"] == 3).then_some(denials)
    });
    let advice = |host: &str| {
        let all = denials["denials"].as_array().unwrap();
        let denial = all.iter().find(|denial| denial["host"] == host).unwrap();
        denial["advice"].as_str().unwrap().to_owned()
    };
    let at = rfc3339(until);
    assert_eq!(
        advice("b.example"),
        format!(
            "it was allowed until {at}. was it meant for longer? sidecar-init grant b.example, or write another time as the until of its grant: host: b.example"
        )
    );
    assert!(advice("x.c.example").ends_with("host: \"*.c.example\""));
    assert_eq!(
        advice("d.example"),
        format!(
            "nothing to do: it is allowed since, until {}",
            rfc3339(soon)
        )
    );
    assert_eq!(init.stop().0.code, 0);
}
