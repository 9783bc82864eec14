//! A share whose host does not answer any more stops nobody but who reads it for us.

use std::fs;
use std::process::Command;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use sidecar_init::ca::rfc3339;

use crate::support::share::{Host, Share};
use crate::support::{Bed, End, Init, Place, looker, pipelock, skipped};

/// A bed whose manifest is on a share, and the share: its files are those of `host`.
fn shared_bed(hosts: &[&str]) -> Option<(Bed, Share)> {
    let bed = Bed::new();
    if std::env::var_os("PIPELOCK_BIN").is_some() {
        pipelock::copy_into(&bed.path(""));
    }
    for name in ["host", "share"] {
        fs::create_dir(bed.path(name)).unwrap();
    }
    write_manifest(&bed, hosts);
    let Some(share) = Share::mount(&bed.path("host"), &bed.path("share")) else {
        skipped("a share that hangs", "no FUSE file system can be mounted");
        return None;
    };
    let manifest = bed.path("share/manifest.yaml");
    let bed = bed.with_argument(&format!("--manifest={}", manifest.display()));
    Some((bed, share))
}

/// The host's side of it.
fn write_manifest(bed: &Bed, hosts: &[&str]) {
    let new = bed.path("host/manifest.new");
    fs::write(&new, bed.manifest_text(hosts, "")).unwrap();
    fs::rename(new, bed.path("host/manifest.yaml")).unwrap();
}

fn wait_silent(init: &mut Init) {
    let status = init.wait_for("the silence is told", |status| {
        let error = status["manifest_error"].as_str().unwrap_or_default();
        error.contains("its file system has not answered since 20")
    });
    let said = status["manifest_error"].as_str().unwrap();
    assert!(said.starts_with("cannot read /"), "{said}");
    // Nor does who asks for the status wait.
    let told = init.bed.run(&["status"]);
    assert!(told.status.success(), "{told:?}");
    let told = String::from_utf8(told.stdout).unwrap();
    assert!(told.contains("has not answered since"), "{told}");
}

/// Without a word that it was stuck, and without the share.
fn ended(init: Init) -> End {
    let (end, took) = init.stop();
    assert_eq!((end.code, &end.result["outcome"]), (0, &"stopped".into()));
    assert!(took < Duration::from_secs(8), "{took:?}");
    end
}

#[test]
fn a_manifest_that_does_not_answer_stops_nothing() {
    for host in [Host::Deaf, Host::Mute] {
        let Some((bed, share)) = shared_bed(&["a.example", "b.example"]) else {
            return;
        };
        let mut init = bed.start(Place::Child);
        let share = share;
        init.wait_ready();
        share.becomes(host);
        write_manifest(&init.bed, &["a.example"]);
        wait_silent(&mut init);
        assert!(init.bed.run(&["healthcheck"]).status.success());
        assert_eq!(init.status()["config"]["generation"], 1);

        // It reaps and starts again, halts, resumes, and hears who asks for a reading.
        init.kill_daemon();
        init.wait_ready_after(1);
        init.signal(Signal::SIGHUP);
        init.signal(Signal::SIGUSR1);
        init.wait_for("it is halted", |status| status["state"] == "halted");
        init.signal(Signal::SIGUSR2);
        init.wait_ready();

        let begun = Instant::now();
        share.becomes(Host::Answers);
        init.wait_for("the host is revoked", |status| {
            status["revocation"]["done_at"].is_string()
                && status["config"]["applied_generation"] == 2
                && status["manifest_error"].is_null()
        });
        let took = begun.elapsed();
        assert!(took < Duration::from_secs(15), "{host:?}: {took:?}");

        share.becomes(host);
        wait_silent(&mut init);
        let end = ended(init);
        drop(share);
        let console = end.console_text();
        assert!(console.contains("answers again"), "{console}");
    }
}

#[test]
fn a_start_on_a_share_that_does_not_answer_says_what_it_waits_for_and_hears_a_stop() {
    for (host, goes_on) in [
        (Host::Deaf, false),
        (Host::Mute, false),
        (Host::Deaf, true),
        (Host::Mute, true),
    ] {
        let Some((bed, share)) = shared_bed(&["a.example"]) else {
            return;
        };
        share.becomes(host);
        let mut init = bed.start(Place::Child);
        let share = share;
        wait_silent(&mut init);
        assert_eq!(init.status()["stage"], "manifest");
        assert_eq!(init.bed.run(&["healthcheck"]).status.code(), Some(1));
        if goes_on {
            share.becomes(Host::Answers);
            assert!(init.wait_ready()["manifest_error"].is_null());
        }
        let end = ended(init);
        drop((share, end));
    }
}

/// What is granted until a time needs nobody to say that it is over.
#[test]
fn a_grant_ends_in_time_while_the_manifest_does_not_answer() {
    for host in [Host::Deaf, Host::Mute] {
        let Some((bed, share)) = shared_bed(&["a.example"]) else {
            return;
        };
        let mut init = bed.start(Place::Child);
        let share = share;
        init.wait_ready();
        let until = SystemTime::now() + Duration::from_secs(12);
        let until = until.duration_since(UNIX_EPOCH).unwrap().as_secs();
        let grants = format!("grants: [{{host: b.example, until: {}}}]\n", rfc3339(until));
        let granting = init.bed.manifest_text(&["a.example"], &grants);
        fs::write(init.bed.path("host/manifest.yaml"), granting).unwrap();
        init.wait_applied(2);
        share.becomes(host);
        wait_silent(&mut init);
        assert_eq!(init.status()["hosts_allowed"], 2, "it was silent too late");
        let status = init.wait_for("the grant is over", |status| {
            status["config"]["applied_generation"] == 3
        });
        let over = UNIX_EPOCH + Duration::from_secs(until);
        let late = SystemTime::now().duration_since(over).unwrap();
        assert!(late < Duration::from_secs(5), "{host:?}: {late:?}");
        assert_eq!(
            status["revocation"]["hosts"],
            serde_json::json!(["b.example"])
        );
        let end = ended(init);
        drop((share, end));
    }
}

#[test]
fn whoever_looks_at_the_manifest_is_replaced() {
    let mut init = Bed::new().start(Place::Child);
    let mut hosts = vec!["a.example"];
    for (generation, host) in [(2, "b.example"), (3, "c.example")] {
        init.wait_ready();
        let looker = init.wait_until("somebody looks", |init| looker(init.pid()));
        kill(Pid::from_raw(looker), Signal::SIGKILL).unwrap();
        hosts.push(host);
        init.bed.allow(&hosts);
        init.wait_applied(generation);
    }
    assert_eq!(init.status()["reaped"], 0, "it is no orphan");
    let warnings = init.status()["warnings"].to_string();
    assert!(!warnings.contains("somebody else changed"), "{warnings}");
    ended(init);
}

#[test]
fn a_status_that_does_not_answer_is_given_up() {
    for host in [Host::Deaf, Host::Mute] {
        let Some((bed, share)) = shared_bed(&["a.example"]) else {
            return;
        };
        let told = r#"{"schema":1,"state":"ready"}"#;
        fs::write(bed.path("host/status.json"), told).unwrap();
        let run = |line: &str| {
            let mut command = Command::new(env!("CARGO_BIN_EXE_sidecar-init"));
            command.args(line.split(' ')).arg("--run-dir");
            command.arg(bed.path("share")).output().unwrap()
        };
        for line in ["status", "healthcheck"] {
            let output = run(line);
            assert!(output.status.success(), "{output:?}");
        }
        share.becomes(host);
        for (line, seconds, code) in [
            ("status --timeout 2", 2, 69),
            ("status --json --timeout 1", 1, 69),
            ("status --wait-generation 3 --timeout 1", 1, 69),
            ("healthcheck --timeout 1", 1, 1),
            ("healthcheck", 5, 1),
        ] {
            let begun = Instant::now();
            let output = run(line);
            let took = begun.elapsed();
            assert_eq!(output.status.code(), Some(code), "{line}: {output:?}");
            let says = String::from_utf8(output.stderr).unwrap();
            assert!(
                says.contains("status.json: its file system has not answered within "),
                "{says}"
            );
            let (least, most) = (
                Duration::from_secs(seconds),
                Duration::from_secs(seconds + 3),
            );
            assert!(took >= least && took < most, "{line}: {took:?}");
        }
        drop(share);
    }
}
