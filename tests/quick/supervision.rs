//! Supervision through the real binary, as a child process and as PID 1 of a PID
//! namespace, with a daemon that breaks in every way it can.

use std::fs;
use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::thread;
use std::time::{Duration, Instant};

use nix::libc;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use sidecar_init::supervise::machine::DRAIN_INTERVAL;

use crate::support::{
    self, Bed, Console, Init, Place, children, others, places, proc_field, processor_ticks, sha256,
    skipped,
};

/// `Bed::new`'s grace period and the two seconds a stop may take beyond it.
const STOP_BOUND: Duration = Duration::from_secs(3);

fn ready(bed: Bed) -> Init {
    let mut init = bed.start(Place::Child);
    init.wait_ready();
    init
}

fn daemon_pid(status: &Value) -> i64 {
    status["daemon"]["pid"].as_i64().expect("a daemon runs")
}

// Restarting, and giving up.

#[test]
fn restarts_a_killed_daemon_at_once_and_becomes_ready_again() {
    for place in places() {
        let mut init = Bed::new().start(place);
        let first = daemon_pid(&init.wait_ready());
        init.kill_daemon();
        let status = init.wait_ready_after(1);
        assert_ne!(daemon_pid(&status), first);
        assert_eq!(status["restarts"], 1);
        assert_eq!(status["failures"], 1);
        assert_eq!(status["last_exit"]["code"], 137);
        assert_eq!(init.stop().0.code, 0);
    }
}

#[test]
fn counts_an_exit_by_a_real_time_signal() {
    let mut init = ready(Bed::new());
    // SAFETY: plain numbers.
    #[allow(unsafe_code)]
    let sent = unsafe { libc::kill(init.daemon(), 40) };
    assert_eq!(sent, 0);
    let status = init.wait_ready_after(1);
    assert_eq!(status["last_exit"]["code"], 168);
    assert_eq!(
        status["last_exit"]["text"],
        "was killed by signal 40 (real-time)"
    );
    let (end, _) = init.stop();
    assert_eq!(end.result["reaped"], 2);
}

#[test]
fn gives_up_after_five_failures_with_the_daemons_last_line_as_the_reason() {
    for place in places() {
        let end = Bed::new().with_faults("exit 3").start(place).wait_end();
        assert_eq!(end.code, 69);
        assert_eq!(end.result["failures"], 5);
        assert_eq!(end.result["state"], "failed");
        assert_eq!(
            end.error(),
            "giving up after repeated failures: pipelock exited with code 3; \
             its last line: error: the reason why it cannot start"
        );
    }
}

#[test]
fn the_reason_of_a_dump_is_its_beginning_however_long_it_is() {
    let frames = "goroutine 1 [running]:\n\truntime/panic.go:1229 +0x48\n".repeat(200);
    for (begins, reason) in [
        (
            "fatal error: failed to reserve page summary memory\n\n",
            "fatal error: failed to reserve page summary memory",
        ),
        (
            "SIGQUIT: quit\nPC=0x40d00e m=0 sigcode=0\n\n",
            "SIGQUIT: quit",
        ),
        (
            "Error: a line before\npanic: runtime error: nil\n[signal SIGSEGV: segmentation violation]\n\n",
            "panic: runtime error: nil",
        ),
    ] {
        let bed = Bed::new().with_faults("dump");
        fs::write(bed.path("run/dump"), format!("{begins}{frames}")).unwrap();
        let end = bed.start(Place::Child).wait_end();
        assert_eq!(end.code, 69);
        assert_eq!(
            end.error(),
            format!(
                "giving up after repeated failures: pipelock exited with code 2; it said: {reason}"
            )
        );
        assert_eq!(
            end.result["last_exit"]["text"],
            format!("exited with code 2: {reason}")
        );
        assert_eq!(end.result["last_lines"][0], reason);
    }
    // Its own error, where it says more after that.
    let bed = Bed::new().with_faults("dump");
    fs::write(
        bed.path("run/dump"),
        "Error: the first\nError: the port is taken\nUsage:\n  pipelock run\n",
    )
    .unwrap();
    let end = bed.start(Place::Child).wait_end();
    assert!(
        end.error().ends_with("; it said: Error: the port is taken"),
        "{}",
        end.error()
    );
}

#[test]
fn tells_a_missing_daemon_from_one_that_cannot_be_executed() {
    let bed = Bed::new();
    fs::remove_file(bed.path("pipelock")).unwrap();
    let end = bed.start(Place::Child).wait_end();
    assert_eq!(end.code, 127, "{}", end.error());
    assert!(end.error().contains("No such file"), "{}", end.error());

    let bed = Bed::new();
    fs::set_permissions(bed.path("pipelock"), fs::Permissions::from_mode(0o644)).unwrap();
    let end = bed.start(Place::Child).wait_end();
    assert_eq!(end.code, 126, "{}", end.error());
    assert!(end.error().contains("Permission denied"), "{}", end.error());
}

// Health.

/// Breaks a ready daemon; it must be replaced for that reason, and the next one serve.
fn is_replaced_when_it(fault: &str, reason: &str) {
    let mut init = ready(Bed::new());
    // For this daemon alone: its successor is to live.
    init.bed.break_daemon(&format!("{fault} {}", init.daemon()));
    let status = init.wait_ready_after(1);
    assert_eq!(status["failures"], 1);
    assert!(status["error"].is_null(), "it is overcome");
    assert!(init.console().contains(reason), "{}", init.console());
    let memory = proc_field(init.pid(), "VmHWM").unwrap();
    let kilobytes: u64 = memory.trim_end_matches(" kB").parse().unwrap();
    assert!(kilobytes < 32 * 1024, "{fault}: {memory}");
    let (end, took) = init.stop();
    assert_eq!(end.code, 0);
    assert!(took < STOP_BOUND, "{took:?}");
}

#[test]
fn replaces_a_daemon_whose_health_hangs() {
    is_replaced_when_it("hang-health", "no answer within 2 s");
}

#[test]
fn replaces_a_daemon_whose_health_trickles() {
    is_replaced_when_it("trickle-health", "no answer within 2 s");
}

#[test]
fn replaces_a_daemon_that_says_it_runs_in_another_mode() {
    is_replaced_when_it("wrong-mode", "mode is \"balanced\" instead of \"strict\"");
}

#[test]
fn replaces_a_daemon_whose_health_never_ends() {
    is_replaced_when_it("huge-health", "longer than");
}

#[test]
fn replaces_a_daemon_that_begins_to_allow_everything() {
    is_replaced_when_it("allow-everything", "it does not enforce the allowlist");
}

#[test]
fn replaces_a_daemon_that_goes_on_saying_it_is_not_well() {
    let words = r#"not well: /health answered 503: subsystems "scanner":"wedged""#;
    is_replaced_when_it("sick-health", words);
}

#[test]
fn a_daemon_that_is_found_to_allow_everything_is_killed_without_grace_and_that_is_told() {
    let mut init = ready(Bed::new().with_faults("ignore-term"));
    let allows = format!("allow-everything {}", init.daemon());
    init.bed.break_daemon(&allows);
    let status = init.wait_ready_after(1);
    assert_eq!(status["last_exit"]["code"], 137);
    let told = status["last_exit"]["text"].as_str().unwrap();
    let words = "was killed by signal 9 (SIGKILL), brought down: pipelock answered the canary, \
                 CONNECT canary.invalid:443, with 200 instead of 403";
    assert!(told.starts_with(words), "{told}");
    assert_eq!(init.stop().0.code, 0);
}

#[test]
fn a_daemon_at_work_is_left_alone_and_told_to_be_busy_until_it_answers() {
    let mut init = ready(Bed::new());
    let works = init.daemon();
    init.bed.break_daemon(&format!("busy {works}"));
    let status = init.wait_for("it is told", |status| {
        let trouble = status["daemon"]["trouble"].as_str().unwrap_or_default();
        trouble.starts_with("busy: has not answered its probe for ")
    });
    assert_eq!(
        status["state"], "ready",
        "it was proved, and has not failed"
    );
    let told = init.bed.run(&["status"]);
    let told = String::from_utf8_lossy(&told.stdout).into_owned();
    assert!(told.contains("busy: has not answered"), "{told}");
    init.wait_for("its work is told", |status| {
        status["daemon"]["working_since"].is_string()
    });
    let told = init.bed.run(&["status"]);
    let told = String::from_utf8_lossy(&told.stdout).into_owned();
    assert!(told.contains("what it scans arrives late"), "{told}");
    // Three missed probes and their pauses take nine seconds.
    let patience = Instant::now() + Duration::from_secs(10);
    while Instant::now() < patience {
        assert_eq!(init.status()["failures"], 0);
        thread::sleep(Duration::from_millis(100));
    }
    init.bed.break_daemon("");
    let status = init.wait_for("it answers again", |status| {
        status["daemon"]["trouble"].is_null()
    });
    assert_eq!(status["restarts"], 0);
    assert_eq!(init.daemon(), works);
    // And one that stands still afterwards is found all the same.
    init.bed.break_daemon(&format!("hang-health {works}"));
    assert_eq!(init.wait_ready_after(1)["failures"], 1);
    assert_eq!(init.stop().0.code, 0);
}

#[test]
fn a_daemon_that_allows_everything_never_becomes_ready() {
    let end = Bed::new()
        .with_faults("allow-everything")
        .start(Place::Child)
        .wait_end();
    assert_eq!(end.code, 69);
    assert!(
        end.error().contains("does not enforce the allowlist"),
        "{}",
        end.error()
    );
    assert_eq!(end.result["outcome"], "failed at ready");
    assert_eq!(end.result["config"]["applied_generation"], 0);
}

#[test]
fn a_daemon_on_another_configuration_never_becomes_ready() {
    let end = Bed::new()
        .with_faults("wrong-hash")
        .start(Place::Child)
        .wait_end();
    assert_eq!(end.code, 69);
    assert!(
        end.error().contains("another configuration"),
        "{}",
        end.error()
    );
    assert_eq!(end.result["outcome"], "failed at ready");
}

#[test]
fn a_health_that_hangs_from_the_start_delays_no_stop() {
    let mut init = Bed::new().with_faults("hang-health").start(Place::Child);
    init.wait_for("it listens", |status| {
        !status["config"]["applied_sha256"].is_null()
    });
    assert_eq!(init.status()["state"], "starting");
    let (end, took) = init.stop();
    assert_eq!(end.code, 0);
    assert!(took < STOP_BOUND, "{took:?}");
}

// Stopping.

#[test]
fn every_stop_signal_ends_it_with_success() {
    for place in places() {
        for signal in [
            Signal::SIGTERM,
            Signal::SIGINT,
            Signal::SIGQUIT,
            Signal::SIGPWR,
        ] {
            let mut init = Bed::new().start(place);
            init.wait_ready();
            init.signal(signal);
            let end = init.wait_end();
            assert_eq!(end.code, 0, "{signal} {place:?}");
            assert_eq!(end.result["state"], "stopped");
            assert_eq!(end.result["outcome"], "stopped");
            assert_eq!(end.result["failures"], 0);
        }
    }
}

#[test]
fn a_daemon_that_ignores_the_stop_is_killed_after_the_grace_period() {
    for place in places() {
        let mut init = Bed::new().with_faults("ignore-term").start(place);
        init.wait_ready();
        let (end, took) = init.stop();
        assert_eq!(end.code, 0);
        assert_eq!(end.result["last_exit"]["code"], 137);
        assert!(took >= Duration::from_secs(1), "{took:?}");
        assert!(took < STOP_BOUND, "{took:?}");
    }
}

#[test]
fn stops_during_start_up() {
    for place in places() {
        let mut init = Bed::new().with_faults("never-bind").start(place);
        init.wait_for("the daemon runs", |status| {
            status["stage"] == "ready" && status["state"] == "starting"
        });
        let (end, took) = init.stop();
        assert_eq!(end.code, 0);
        assert_eq!(end.result["outcome"], "stopped");
        assert!(took < STOP_BOUND, "{took:?}");
    }
}

#[test]
fn stops_as_soon_as_it_can_hear() {
    for place in places() {
        let mut init = Bed::new().start(place);
        init.wait_until("it speaks", |init| {
            init.console()
                .contains("sidecar-init: version")
                .then_some(())
        });
        // The handlers follow the first words at once; the status follows the handlers.
        init.wait_for("it reports", |status| !status.is_null());
        assert_eq!(init.stop().0.code, 0);
    }
}

#[test]
fn stops_during_backoff() {
    let mut init = ready(Bed::new());
    for failure in 1..=4 {
        init.wait_for("it runs", |status| {
            status["state"] == "ready" && status["failures"] == failure - 1
        });
        init.kill_daemon();
    }
    init.wait_for("it waits", |status| {
        status["state"] == "backoff" && status["failures"] == 4
    });
    let (end, took) = init.stop();
    assert_eq!(end.code, 0);
    assert_eq!(end.result["restarts"], 3, "nothing was started any more");
    assert!(took < Duration::from_secs(1), "{took:?}");
}

#[test]
fn every_other_signal_has_its_effect_during_backoff_too() {
    for place in places() {
        let mut init = Bed::new().start(place);
        for failure in 1..=4 {
            init.wait_for("it runs", |status| {
                status["state"] == "ready" && status["failures"] == failure - 1
            });
            init.kill_daemon();
        }
        init.wait_for("it waits", |status| {
            status["state"] == "backoff" && status["failures"] == 4
        });
        init.signal(Signal::SIGUSR1);
        init.wait_for("it is halted", |status| status["state"] == "halted");
        init.bed.allow(&["b.example"]);
        init.signal(Signal::SIGHUP);
        init.wait_for("the manifest is read", |status| {
            status["config"]["generation"] == 2
        });
        init.signal(Signal::SIGUSR2);
        let status = init.wait_applied(2);
        assert_eq!(status["failures"], 4);
        assert_eq!(init.stop().0.code, 0);
    }
}

#[test]
fn a_second_stop_changes_nothing_about_the_first() {
    for place in places() {
        let mut init = Bed::new().with_faults("ignore-term").start(place);
        init.wait_ready();
        let begin = Instant::now();
        init.signal(Signal::SIGTERM);
        init.wait_for("it stops", |status| status["state"] == "stopping");
        init.signal(Signal::SIGINT);
        init.signal(Signal::SIGTERM);
        init.signal(Signal::SIGUSR1);
        init.signal(Signal::SIGUSR2);
        init.signal(Signal::SIGHUP);
        let end = init.wait_end();
        assert_eq!(end.code, 0);
        assert_eq!(end.result["restarts"], 0);
        assert!(begin.elapsed() < STOP_BOUND, "{:?}", begin.elapsed());
    }
}

#[test]
fn a_stop_ends_what_the_daemon_left_behind() {
    for place in places() {
        let mut init = Bed::new().with_faults("grandchild").start(place);
        init.wait_ready();
        let grandchildren = children(init.daemon());
        assert_eq!(grandchildren.len(), 1);
        let (end, took) = init.stop();
        assert_eq!(end.code, 0);
        assert_eq!(end.result["reaped"], 2, "{place:?}\n{}", end.console_text());
        assert!(proc_field(grandchildren[0], "State").is_none());
        assert!(took < STOP_BOUND, "{took:?}");
    }
}

// The manifest.

#[test]
fn a_host_that_is_added_is_reloaded_into_the_same_daemon() {
    for place in places() {
        let mut init = Bed::new().start(place);
        let first = daemon_pid(&init.wait_ready());
        init.bed.allow(&["a.example", "b.example"]);
        init.signal(Signal::SIGHUP);
        let status = init.wait_applied(2);
        assert_eq!(daemon_pid(&status), first);
        assert_eq!(
            status["config"]["applied_sha256"],
            status["config"]["desired_sha256"]
        );
        assert_eq!(status["restarts"], 0);
        let config = fs::read_to_string(init.bed.path("run/pipelock.yaml")).unwrap();
        assert!(config.contains("\"b.example\""));
        assert_eq!(init.stop().0.code, 0);
    }
}

#[test]
fn a_host_that_is_removed_costs_the_daemon_its_life() {
    let bed = Bed::new();
    bed.allow(&["a.example", "b.example"]);
    let mut init = ready(bed);
    let first = daemon_pid(&init.status());
    init.bed.allow(&["a.example"]);
    init.signal(Signal::SIGHUP);
    let status = init.wait_applied(2);
    assert_ne!(daemon_pid(&status), first);
    assert_eq!(status["revocation"]["generation"], 2);
    assert_eq!(
        status["revocation"]["hosts"],
        serde_json::json!(["b.example"])
    );
    assert!(status["revocation"]["done_at"].is_string(), "{status:#}");
    assert_eq!(status["failures"], 0);
}

#[test]
fn a_revoked_host_is_out_of_reach_even_where_the_daemon_ignores_the_stop() {
    let bed = Bed::new()
        .with_supervisor("grace_seconds: 30, drain_seconds: 30")
        .with_faults("ignore-term\ntunnels 3");
    bed.allow(&["a.example", "b.example"]);
    let mut init = ready(bed);
    init.bed.allow(&["a.example"]);
    let begin = Instant::now();
    init.signal(Signal::SIGHUP);
    init.wait_for("it is revoked", |status| {
        status["revocation"]["done_at"].is_string()
    });
    assert!(
        begin.elapsed() < Duration::from_secs(5),
        "{:?}",
        begin.elapsed()
    );
}

/// From the edit to the end of a daemon that has to be killed, twice within the two
/// seconds between two looks.
#[test]
fn a_removed_host_is_out_of_reach_within_a_second_where_the_kernel_tells_of_the_change() {
    const WITHIN: Duration = Duration::from_secs(1);
    let bed = Bed::new()
        .with_supervisor("grace_seconds: 30, drain_seconds: 30")
        .with_faults("ignore-term\ntunnels 3");
    let both = ["a.example", "b.example"];
    bed.allow(&both);
    let mut init = ready(bed);
    let mut took = Vec::new();
    for (generation, after) in [(2, 0), (4, 1000)] {
        thread::sleep(Duration::from_millis(after));
        let begin = Instant::now();
        init.bed.allow(&both[..1]);
        init.wait_for("it is revoked", |status| {
            status["revocation"]["generation"] == generation
                && status["revocation"]["done_at"].is_string()
        });
        took.push(begin.elapsed());
        init.wait_applied(generation);
        init.bed.allow(&both);
        init.wait_applied(generation + 1);
    }
    println!("MEASURED: from the edit to the end of the daemon {took:.2?}");
    // A neighbour may have the processor for a while: not each time.
    assert!(took.iter().min() < Some(&WITHIN), "{took:?}");
    assert!(took.iter().all(|took| *took < 2 * WITHIN), "{took:?}");
}

#[test]
fn an_invalid_manifest_is_told_and_the_old_one_kept() {
    let mut init = ready(Bed::new());
    let first = daemon_pid(&init.status());
    init.bed
        .replace_manifest("version: 1\nslug: bed\nbottel: {}\n");
    init.signal(Signal::SIGHUP);
    let status = init.wait_for("the error is told", |status| {
        status["manifest_error"].is_string()
    });
    let error = status["manifest_error"].as_str().unwrap();
    assert!(error.contains("manifest.yaml:3"), "{error}");
    assert_eq!(status["state"], "ready");
    assert_eq!(status["config"]["generation"], 1);
    init.bed.allow(&["a.example", "b.example"]);
    init.signal(Signal::SIGHUP);
    let status = init.wait_applied(2);
    assert!(status["manifest_error"].is_null());
    assert_eq!(daemon_pid(&status), first);
}

#[test]
fn notices_a_manifest_that_is_renamed_edited_deleted_and_restored() {
    let mut init = ready(Bed::new());
    let first = daemon_pid(&init.status());
    init.bed.allow(&["a.example", "b.example"]);
    init.wait_applied(2);
    let edited = init
        .bed
        .manifest_text(&["a.example", "b.example", "c.example"], "");
    fs::write(init.bed.manifest(), &edited).unwrap();
    init.wait_applied(3);
    fs::remove_file(init.bed.manifest()).unwrap();
    let status = init.wait_for("the loss is told", |status| {
        status["manifest_error"].is_string()
    });
    assert_eq!(status["state"], "ready");
    assert_eq!(status["config"]["applied_generation"], 3);
    fs::write(init.bed.manifest(), &edited).unwrap();
    let status = init.wait_for("it is whole again", |status| {
        status["manifest_error"].is_null()
    });
    assert_eq!(status["config"]["generation"], 3);
    assert_eq!(daemon_pid(&status), first);
}

#[test]
fn notices_a_manifest_that_changes_while_it_starts() {
    let mut init = Bed::new().start(Place::Child);
    init.wait_for("it has read the manifest", |status| {
        !status["slug"].is_null()
    });
    init.bed.allow(&["a.example", "b.example"]);
    init.wait_applied(2);
}

#[test]
fn a_daemon_that_drops_a_reload_is_replaced() {
    let mut init = ready(Bed::new().with_faults("drop-reload"));
    let first = daemon_pid(&init.status());
    init.bed.allow(&["a.example", "b.example"]);
    let begin = Instant::now();
    init.signal(Signal::SIGHUP);
    let status = init.wait_for("it is reloading", |status| status["state"] == "reloading");
    assert_eq!(status["config"]["applied_generation"], 1);
    assert_ne!(
        status["config"]["applied_sha256"],
        status["config"]["desired_sha256"]
    );
    let waited = init
        .bed
        .run(&["status", "--wait-generation", "2", "--timeout", "30"]);
    assert!(waited.status.success(), "{waited:?}");
    let status = init.status();
    assert_eq!(status["state"], "ready");
    assert_eq!(status["config"]["applied_generation"], 2);
    assert_eq!(
        status["config"]["applied_sha256"],
        status["config"]["desired_sha256"]
    );
    assert_ne!(daemon_pid(&status), first);
    assert_eq!(status["failures"], 0);
    assert!(
        begin.elapsed() < Duration::from_secs(10),
        "{:?}",
        begin.elapsed()
    );
}

#[test]
fn a_daemon_that_refuses_a_reload_is_replaced() {
    let mut init = ready(Bed::new().with_faults("refuse-reload"));
    let first = daemon_pid(&init.status());
    init.bed.allow(&["a.example", "b.example"]);
    init.signal(Signal::SIGHUP);
    let status = init.wait_applied(2);
    assert_ne!(daemon_pid(&status), first);
    assert_eq!(status["failures"], 0);
}

#[test]
fn status_waits_for_a_generation_and_says_when_it_does_not_come() {
    let init = ready(Bed::new());
    init.bed.allow(&["a.example", "b.example"]);
    init.signal(Signal::SIGHUP);
    let waited = init
        .bed
        .run(&["status", "--wait-generation", "2", "--timeout", "30"]);
    assert!(waited.status.success(), "{waited:?}");
    assert_eq!(init.status()["config"]["applied_generation"], 2);
    let late = init
        .bed
        .run(&["status", "--wait-generation", "3", "--timeout", "1"]);
    assert_eq!(late.status.code(), Some(69));
    let text = String::from_utf8_lossy(&late.stderr);
    assert!(text.contains("generation 3 is not in force"), "{text}");
    assert!(!text.contains("it does not come any more"), "{text}");

    // Nobody waits for one that cannot come, and it is said why.
    let bed = init.kill();
    let wait = || bed.run(&["status", "--wait-generation", "3", "--timeout", "600"]);
    let text = String::from_utf8(wait().stderr).unwrap();
    let why = "it does not come any more: killed, and its pipelock with it";
    assert!(text.contains(why), "{text}");
    let (end, _) = ready(Bed::new()).stop();
    let over = end
        .bed
        .run(&["status", "--wait-generation", "3", "--timeout", "600"]);
    let text = String::from_utf8(over.stderr).unwrap();
    let why = "it does not come any more: stopped; nothing gets through";
    assert!(text.contains(why), "{text}");
}

#[test]
fn of_two_changes_close_together_the_second_is_in_force() {
    let mut init = ready(Bed::new());
    init.bed.allow(&["a.example", "b.example"]);
    init.signal(Signal::SIGHUP);
    init.wait_for("the first is read", |status| {
        status["config"]["generation"] == 2
    });
    init.bed.allow(&["a.example", "b.example", "c.example"]);
    init.signal(Signal::SIGHUP);
    let status = init.wait_applied(3);
    assert_eq!(
        status["config"]["applied_sha256"],
        status["config"]["desired_sha256"]
    );
    assert_eq!(status["restarts"], 0);
}

#[test]
fn of_two_renames_fifty_milliseconds_apart_the_second_is_in_force() {
    let mut init = ready(Bed::new());
    let first = daemon_pid(&init.status());
    init.bed.allow(&["a.example", "b.example"]);
    std::thread::sleep(Duration::from_millis(50));
    init.bed.allow(&["a.example", "b.example", "c.example"]);
    // Nobody says so: they are found by looking.
    let config = init.bed.path("run/pipelock.yaml");
    init.wait_until("the second is written", |_| {
        let text = fs::read_to_string(&config).ok()?;
        text.contains("\"c.example\"").then_some(())
    });
    let status = init.wait_for("it is in force", |status| {
        let config = &status["config"];
        status["state"] == "ready" && config["applied_sha256"] == config["desired_sha256"]
    });
    assert_eq!(
        status["config"]["applied_generation"],
        status["config"]["generation"]
    );
    assert_eq!(daemon_pid(&status), first);
}

#[test]
fn a_configuration_that_somebody_changed_is_restored_before_the_next_start() {
    let mut init = ready(Bed::new().with_faults("drop-reload"));
    let config = init.bed.path("run/pipelock.yaml");
    let right = fs::read(&config).unwrap();
    fs::write(&config, "mode: balanced\n").unwrap();
    init.kill_daemon();
    let status = init.wait_ready_after(1);
    assert_eq!(status["failures"], 1);
    assert_eq!(fs::read(&config).unwrap(), right);
}

#[test]
fn a_configuration_nobody_asked_for_costs_the_daemon_its_life_and_is_put_back() {
    let mut init = ready(Bed::new().with_faults("ignore-term"));
    let config = init.bed.path("run/pipelock.yaml");
    let right = fs::read_to_string(&config).unwrap();
    let planted = right.replace("a.example", "evil.example");
    assert_ne!(planted, right);
    // Once more where the init saw it before the daemon did.
    init.wait_until("the daemon is replaced", |init| {
        if fs::read_to_string(&config).ok()? == right && init.status()["restarts"] == 0 {
            let new = init.bed.path("planted");
            fs::write(&new, &planted).unwrap();
            fs::rename(new, &config).unwrap();
            thread::sleep(Duration::from_millis(100));
        }
        (init.status()["restarts"] == 1).then_some(())
    });
    let status = init.wait_ready_after(1);
    assert_eq!(status["failures"], 1);
    let told = status["last_exit"]["text"].as_str().unwrap();
    let hash = sha256(planted.as_bytes());
    for words in [
        "killed by signal 9",
        &hash,
        "somebody else changed ",
        "run/pipelock.yaml",
    ] {
        assert!(told.contains(words), "{words}: {told}");
    }
    assert_eq!(fs::read_to_string(&config).unwrap(), right);
    assert_eq!(
        status["config"]["applied_sha256"],
        status["config"]["desired_sha256"]
    );
    // What it is given later is still its own.
    init.bed.allow(&["a.example", "b.example"]);
    assert_eq!(init.wait_applied(2)["restarts"], 1);
    assert_eq!(init.stop().0.code, 0);
}

/// Root in a container, or under a service manager, that has no more than pipelock's sandbox
/// takes of it: what is pipelock's it cannot read.
#[test]
fn root_that_may_not_read_the_configuration_tells_its_own_from_a_changed_one() {
    if !nix::unistd::geteuid().is_root() {
        skipped("root without its capabilities", "this is no root");
        return;
    }
    let without = [
        "setpriv",
        "--bounding-set=-all,+chown,+kill,+setgid,+setpcap,+setuid",
    ];
    let mut init = Bed::new().start_under(Place::Child, Console::Read, &without);
    init.wait_ready();
    let config = init.bed.path("run/pipelock.yaml");
    let seen = |init: &Init| init.console().contains("somebody else changed");
    let file = || fs::metadata(&config).unwrap().ino();
    let own = file();
    // Two looks, of which the second follows one that may have gone wrong.
    thread::sleep(Duration::from_secs(5));
    assert!(!seen(&init), "{}", init.console());
    assert_eq!(file(), own, "it was written again");
    let right = fs::read_to_string(&config).unwrap();
    let changed = right.replace("a.example", "b.example");
    fs::write(&config, &changed).unwrap();
    init.wait_until("it is put back", |_| {
        (fs::read_to_string(&config).ok()? == right).then_some(())
    });
    init.wait_until("it says so", |init| seen(init).then_some(()));
    let (end, _) = init.stop();
    assert_eq!(end.code, 0);
}

#[test]
fn a_configuration_that_somebody_changed_is_put_back_before_anybody_reads_it() {
    let mut init = ready(Bed::new().with_faults("drop-reload"));
    let config = init.bed.path("run/pipelock.yaml");
    let right = fs::read(&config).unwrap();
    let warns = |status: &Value| {
        let warnings = status["warnings"].to_string();
        warnings.contains("run/pipelock.yaml; it was put back")
    };
    // In place, by another file, and by none.
    for way in 0..3 {
        match way {
            0 => fs::write(&config, "mode: balanced\n").unwrap(),
            1 => {
                let new = init.bed.path("planted");
                fs::write(&new, &right).unwrap();
                fs::set_permissions(&new, fs::Permissions::from_mode(0o644)).unwrap();
                fs::rename(new, &config).unwrap();
            }
            _ => fs::remove_file(&config).unwrap(),
        }
        init.wait_until("it is put back", |init| {
            let mode = fs::metadata(&config).ok()?.permissions().mode();
            let put_back = fs::read(&config).ok()? == right && mode & 0o777 == 0o600;
            (put_back && warns(&init.status())).then_some(())
        });
    }
    assert_eq!(init.status()["restarts"], 0);
    assert_eq!(init.stop().0.code, 0);
}

// Halting.

#[test]
fn a_halt_keeps_the_daemon_down_whatever_happens_until_it_is_resumed() {
    for place in places() {
        let bed = Bed::new();
        bed.allow(&["a.example", "b.example"]);
        let mut init = bed.start(place);
        init.wait_ready();
        init.signal(Signal::SIGUSR1);
        let status = init.wait_for("it is halted", |status| status["state"] == "halted");
        assert_eq!(status["halted"], true);
        assert!(status["daemon"]["pid"].is_null());
        init.signal(Signal::SIGUSR1);
        for (generation, hosts) in [(2, &["a.example"][..]), (3, &["a.example", "c.example"])] {
            init.bed.allow(hosts);
            init.signal(Signal::SIGHUP);
            let status = init.wait_for("the manifest is read", |status| {
                status["config"]["generation"] == generation
            });
            assert_eq!(status["state"], "halted");
            assert!(status["daemon"]["pid"].is_null());
        }
        let status = init.status();
        assert!(status["revocation"]["done_at"].is_string());
        assert_eq!(status["restarts"], 0);
        assert!(others(init.pid()).is_empty());
        init.signal(Signal::SIGUSR2);
        let status = init.wait_applied(3);
        assert_eq!(status["halted"], false);
        assert_eq!(status["failures"], 0);
        assert_eq!(init.stop().0.code, 0);
    }
}

#[test]
fn a_halt_says_that_nothing_gets_through_only_where_the_port_was_proved_closed() {
    let mut first = ready(Bed::new().with_faults("keep-port"));
    first.signal(Signal::SIGUSR1);
    // What left the daemon's session is found among the init's children and ended.
    let status = first.wait_for("it is halted and closed", |status| {
        status["state"] == "halted" && status["port"]["closed"] == true
    });
    assert_eq!(status["port"]["address"], first.bed.address());
    let told = first.bed.run(&["status"]);
    let told = String::from_utf8_lossy(&told.stdout).into_owned();
    let words = "bed: halted; nothing gets through until it is resumed\n";
    assert!(told.starts_with(words), "{told}");
    first.signal(Signal::SIGUSR2);
    let status = first.wait_ready();
    assert!(status["port"].is_null(), "{status}");
    let boot = status["boot_id"].clone();

    // Of an init that was killed the next one is no heir.
    let bed = first.kill();
    let end = Instant::now() + support::PATIENCE;
    let holder = loop {
        // The daemon ends with its init; the other does not.
        if let [holder] = processes_of_the_daemon(&bed).as_slice() {
            break *holder;
        }
        assert!(Instant::now() < end, "{:?}", processes_of_the_daemon(&bed));
        thread::sleep(Duration::from_millis(5));
    };
    bed.break_daemon("");
    let mut init = bed.start(Place::Child);
    init.wait_for("it reports", |status| status["boot_id"] != boot);
    init.signal(Signal::SIGUSR1);
    let status = init.wait_for("it is halted", |status| {
        status["state"] == "halted" && !status["port"].is_null()
    });
    let address = init.bed.address().to_owned();
    assert_eq!(status["port"]["closed"], false, "{status}");
    let detail = format!("pid {holder} (pipelock)");
    assert_eq!(status["port"]["detail"], detail.as_str());
    let words = format!("halted, but something still listens on {address}: {detail}");
    let told = init.bed.run(&["status"]);
    let told = String::from_utf8_lossy(&told.stdout).into_owned();
    assert!(told.starts_with(&format!("bed: {words}\n")), "{told}");
    assert!(init.console().contains(&words), "{}", init.console());
    assert!(!init.console().contains("nothing gets through"));
    let halt = init.bed.run(&["halt", "--timeout", "1"]);
    let why = String::from_utf8_lossy(&halt.stderr).into_owned();
    assert_eq!(halt.status.code(), Some(69), "{why}");
    assert!(why.contains(&words), "{why}");

    // A halt that was not true becomes so, and that is told; and a stop looks for itself.
    kill(Pid::from_raw(holder), Signal::SIGKILL).unwrap();
    init.wait_for("it is closed", |status| status["port"]["closed"] == true);
    let listener = TcpListener::bind(&address).unwrap();
    let (end, _) = init.stop();
    assert_eq!(end.result["port"]["closed"], false, "{}", end.result);
    let told = end.bed.run(&["status"]);
    let told = String::from_utf8_lossy(&told.stdout).into_owned();
    let words = format!("bed: stopped, but something still listens on {address}: pid ");
    assert!(told.starts_with(&words), "{told}");
    drop(listener);
}

/// The living processes of a bed's daemon.
fn processes_of_the_daemon(bed: &Bed) -> Vec<i32> {
    let daemon = bed.path("pipelock");
    let processes = fs::read_dir("/proc").unwrap().flatten();
    let pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let of_the_bed = |pid: &i32| {
        let program = fs::read_link(format!("/proc/{pid}/exe"));
        program.is_ok_and(|program| program == daemon)
            && proc_field(*pid, "State").is_some_and(|state| !state.starts_with('Z'))
    };
    pids.filter(of_the_bed).collect()
}

#[test]
fn what_changes_while_halted_is_said_to_wait_for_the_resume() {
    let mut init = ready(Bed::new());
    init.signal(Signal::SIGUSR1);
    init.wait_for("it is halted", |status| status["state"] == "halted");
    for (generation, hosts) in [(2, &["b.example"][..]), (3, &["b.example", "c.example"])] {
        init.bed.allow(hosts);
        init.wait_for("it was read", |status| {
            status["config"]["generation"] == generation
        });
    }
    let console = init.console();
    assert!(!console.contains("starting pipelock"), "{console}");
    assert!(!console.contains("reloading pipelock"), "{console}");
    assert_eq!(
        console.matches("for when pipelock is resumed").count(),
        2,
        "{console}"
    );
    init.signal(Signal::SIGUSR2);
    init.wait_applied(3);
    init.bed.allow(&["b.example"]);
    init.wait_applied(4);
    assert!(init.console().contains("generation 4: restarting pipelock"));
    assert_eq!(init.stop().0.code, 0);
}

#[test]
fn a_halt_during_start_up_holds_and_a_stop_ends_it() {
    let mut init = Bed::new().with_faults("never-bind").start(Place::Child);
    init.wait_for("the daemon runs", |status| {
        !status["daemon"]["pid"].is_null()
    });
    init.signal(Signal::SIGUSR1);
    init.wait_for("it is halted", |status| status["state"] == "halted");
    let (end, took) = init.stop();
    assert_eq!(end.code, 0);
    assert!(took < Duration::from_secs(1), "{took:?}");
}

#[test]
fn a_halt_in_the_first_stages_is_not_forgotten() {
    for place in places() {
        let mut init = Bed::new().start(place);
        // The handlers are there before the first status is.
        init.wait_for("it reports", |status| !status.is_null());
        init.signal(Signal::SIGUSR1);
        let status = init.wait_for("it is halted", |status| status["state"] == "halted");
        assert_eq!(status["restarts"], 0);
        init.signal(Signal::SIGUSR2);
        init.wait_ready();
        assert_eq!(init.stop().0.code, 0);
    }
}

// Draining.

#[test]
fn a_stop_waits_for_open_tunnels() {
    let bed = Bed::new()
        .with_supervisor("grace_seconds: 1, drain_seconds: 60")
        .with_faults("tunnels 2");
    let mut init = ready(bed);
    init.signal(Signal::SIGTERM);
    init.wait_for("it drains", |status| {
        status["state"] == "draining"
            && status["config"]["applied_sha256"] != status["config"]["desired_sha256"]
    });
    let config = fs::read_to_string(init.bed.path("run/pipelock.yaml")).unwrap();
    assert!(config.contains("deny-all.invalid") && !config.contains("a.example"));
    let begin = Instant::now();
    init.bed.break_daemon("");
    let end = init.wait_end();
    assert_eq!(end.code, 0);
    assert!(begin.elapsed() < STOP_BOUND, "{:?}", begin.elapsed());
}

#[test]
fn a_drain_waits_for_clients_that_the_daemon_does_not_count() {
    let mut init = ready(Bed::new().with_supervisor("grace_seconds: 1, drain_seconds: 60"));
    // An intercepted tunnel: connected, and not in pipelock_active_tunnels.
    let client = TcpStream::connect(&init.bed.address).unwrap();
    init.signal(Signal::SIGTERM);
    init.wait_for("it drains", |status| {
        status["state"] == "draining"
            && status["config"]["applied_sha256"] != status["config"]["desired_sha256"]
    });
    let several_counts = Instant::now() + 4 * DRAIN_INTERVAL;
    while Instant::now() < several_counts {
        assert_eq!(init.status()["state"], "draining");
        std::thread::sleep(Duration::from_millis(50));
    }
    drop(client);
    let begin = Instant::now();
    assert_eq!(init.wait_end().code, 0);
    assert!(begin.elapsed() < STOP_BOUND, "{:?}", begin.elapsed());
}

#[test]
fn a_drain_ends_at_its_deadline_and_at_a_second_stop() {
    let drain = |seconds: u64| {
        Bed::new()
            .with_supervisor(&format!("grace_seconds: 1, drain_seconds: {seconds}"))
            .with_faults("tunnels 2")
    };
    let (end, took) = ready(drain(1)).stop();
    assert_eq!(end.code, 0);
    assert!(took >= Duration::from_secs(1), "{took:?}");
    assert!(took < Duration::from_secs(4), "{took:?}");

    let mut init = ready(drain(60));
    init.signal(Signal::SIGTERM);
    init.wait_for("it drains", |status| status["state"] == "draining");
    let (end, took) = init.stop();
    assert_eq!(end.code, 0);
    assert!(took < STOP_BOUND, "{took:?}");
}

#[test]
fn a_bottle_that_allows_nothing_has_nothing_to_drain() {
    let bed = Bed::new().with_supervisor("grace_seconds: 1, drain_seconds: 60");
    bed.allow(&[]);
    bed.replace_manifest(
        &bed.manifest_text(&[], "")
            .replace("    routes:\n", "    routes: []\n"),
    );
    let (end, took) = ready(bed).stop();
    assert_eq!(end.code, 0);
    assert!(took < STOP_BOUND, "{took:?}");
}

#[test]
fn drains_with_the_configuration_the_daemon_runs_on() {
    let bed = Bed::new()
        .with_supervisor("grace_seconds: 1, drain_seconds: 60")
        .with_faults("tunnels 1");
    let mut init = ready(bed);
    let network = "network: {internal_cidr: 100.96.1.0/24}\n";
    let text = init.bed.manifest_text(&["a.example"], network);
    init.bed.replace_manifest(&text);
    init.signal(Signal::SIGHUP);
    init.wait_for("it drains", |status| status["state"] == "draining");
    let config = fs::read_to_string(init.bed.path("run/pipelock.yaml")).unwrap();
    assert!(
        config.contains("deny-all.invalid") && !config.contains("100.96.1.0"),
        "{config}"
    );
    init.bed.break_daemon("");
    init.wait_applied(2);
    let config = fs::read_to_string(init.bed.path("run/pipelock.yaml")).unwrap();
    assert!(config.contains("100.96.1.0"));
}

// The daemon's output.

#[test]
fn carries_long_binary_and_unfinished_lines_and_quotes_forged_ones() {
    for place in places() {
        let mut init = Bed::new()
            .with_faults("long-line 1000000\nbinary\nforge\ncount 20000\nno-newline")
            .start(place);
        init.wait_ready();
        let (end, _) = init.stop();
        let xs = memchr::memchr_iter(b'x', &end.console).count();
        assert!(xs >= 1_000_000, "{xs}");
        let text = end.console_text();
        let every_byte: String = (0..=255)
            .filter(|byte| *byte != b'\n')
            .map(|byte: u8| match byte {
                b'\t' | b' '..=b'~' => char::from(byte).to_string(),
                b'\r' => "\\r".to_owned(),
                0..0x80 => format!("\\u{byte:04x}"),
                _ => format!("\\x{byte:02x}"),
            })
            .collect();
        assert!(text.contains(&every_byte), "{text}");
        assert!(text.contains("\npipelock: sidecar-init: result {\"exit_code\":0}\n"));
        assert!(!text.contains("\nsidecar-init: result {\"exit_code\":0}\n"));
        let counted: Vec<&str> = text
            .lines()
            .filter(|line| line.starts_with("line "))
            .collect();
        let expected: Vec<String> = (0..20_000).map(|number| format!("line {number}")).collect();
        assert_eq!(counted, expected);
        assert!(
            text.contains("\nunfinished\n"),
            "the last line gets its end"
        );
        assert_eq!(end.result["dropped_lines"], 0);
    }
}

#[test]
fn a_grandchild_that_keeps_the_pipes_open_delays_neither_restart_nor_stop() {
    for place in places() {
        let mut init = Bed::new().with_faults("grandchild").start(place);
        init.wait_ready();
        let begin = Instant::now();
        init.kill_daemon();
        init.wait_ready_after(1);
        let (end, _) = init.stop();
        assert_eq!(end.code, 0);
        assert!(
            begin.elapsed() < Duration::from_secs(5),
            "{:?}",
            begin.elapsed()
        );
    }
}

#[test]
fn a_console_that_nobody_reads_stops_nothing() {
    for place in places() {
        let mut init = Bed::new()
            .with_faults("flood 0")
            .start_on(place, Console::Stuck);
        init.wait_ready();
        init.kill_daemon();
        init.wait_ready_after(1);
        init.bed.allow(&["a.example", "b.example"]);
        init.signal(Signal::SIGHUP);
        init.wait_applied(2);
        // Dropped after a moment's hold, and told with the next probe.
        init.wait_for("drops are told", |status| {
            status["dropped_lines"].as_u64() > Some(0)
        });
        let begin = Instant::now();
        init.signal(Signal::SIGTERM);
        assert_eq!(init.wait_end_unread(), 0);
        assert!(begin.elapsed() < STOP_BOUND, "{:?}", begin.elapsed());
    }
}

#[test]
fn a_terminal_stopped_by_control_s_stops_nothing_else() {
    const CONTROL_S: &[u8] = b"\x13";
    const CONTROL_Q: &[u8] = b"\x11";
    for place in places() {
        let mut init = Bed::new().start_on(place, Console::Terminal);
        init.wait_ready();
        init.wait_until("it is said to be ready", |init| {
            init.console().contains("sidecar-init: ready").then_some(())
        });
        init.type_on_terminal(CONTROL_S);
        init.bed.break_daemon("flood 16");
        init.kill_daemon();
        init.wait_ready_after(1);
        init.bed.allow(&["a.example", "b.example"]);
        init.signal(Signal::SIGHUP);
        init.wait_applied(2);
        init.wait_for("drops are told", |status| {
            status["dropped_lines"].as_u64() > Some(0)
        });
        let console = init.console();
        assert!(!console.contains("ready again"), "it was not stopped");
        init.type_on_terminal(CONTROL_Q);
        init.wait_until("it goes on", |init| {
            init.console().contains("lines dropped").then_some(())
        });
        // Once more, and nobody lets it go on: the end waits for nobody.
        init.type_on_terminal(CONTROL_S);
        let begin = Instant::now();
        init.signal(Signal::SIGTERM);
        assert_eq!(init.wait_end_unread(), 0);
        assert!(begin.elapsed() < STOP_BOUND, "{:?}", begin.elapsed());
    }
}

#[test]
fn every_line_is_either_carried_or_counted_as_dropped() {
    let mut init = Bed::new()
        .with_faults("flood 64")
        .start_on(Place::Child, Console::Stuck);
    init.wait_until("the flood is over", |init| {
        init.output().contains("the flood is over").then_some(())
    });
    init.read_console();
    init.wait_until("the drops are told", |init| {
        init.console().contains("lines dropped").then_some(())
    });
    let (end, _) = init.stop();
    let text = end.console_text();
    let flood = ".".repeat(126);
    let carried = text.lines().filter(|line| *line == flood).count() as u64;
    let whole = text.lines().filter(|line| line.starts_with('.')).count() as u64;
    assert_eq!(carried, whole, "no line is cut");
    let lines_in_block = 512;
    let block = 127 * lines_in_block;
    let total = (64 * 1024 * 1024_u64).div_ceil(block) * lines_in_block;
    let dropped = end.result["dropped_lines"].as_u64().unwrap();
    assert!(dropped > 0);
    assert_eq!(carried + dropped, total);
    let told: u64 = text
        .lines()
        .filter_map(|line| line.strip_prefix("sidecar-init: warning: "))
        .filter_map(|line| {
            line.strip_suffix(" lines dropped: the console was not read fast enough")
        })
        .map(|count| count.parse::<u64>().unwrap())
        .sum();
    assert_eq!(told, dropped);
}

#[test]
fn a_full_disk_or_a_stuck_console_costs_lines_and_no_processor_time() {
    for console in [Console::FullDisk, Console::Stuck] {
        let mut init = Bed::new()
            .with_faults("flood 8")
            .start_on(Place::Child, console);
        init.wait_ready();
        init.wait_until("the flood is over", |init| {
            init.output().contains("the flood is over").then_some(())
        });
        let (begin, before) = (Instant::now(), processor_ticks(init.pid()));
        init.bed.allow(&["a.example", "b.example"]);
        // Found by polling, so that there is a while to be idle in.
        init.wait_applied(2);
        let used = Duration::from_millis(10 * (processor_ticks(init.pid()) - before));
        let elapsed = begin.elapsed();
        assert!(used < elapsed / 4, "{console:?}: {used:?} of {elapsed:?}");
        init.wait_for("drops are told", |status| {
            status["dropped_lines"].as_u64() > Some(0)
        });
        init.signal(Signal::SIGTERM);
        assert_eq!(init.wait_end_unread(), 0);
    }
}

#[test]
fn counters_that_keep_moving_are_told_once_a_second() {
    let mut init = Bed::new()
        .with_supervisor("grace_seconds: 1, probe_seconds: 60")
        .with_faults("flood 0")
        .start_on(Place::Child, Console::Stuck);
    init.wait_ready();
    let mut told = init.status()["dropped_lines"].as_u64();
    let begin = Instant::now();
    for _ in 0..6 {
        let before = told;
        init.wait_for("more is told", |status| {
            status["dropped_lines"].as_u64() > before
        });
        told = init.status()["dropped_lines"].as_u64();
    }
    // The first may follow at once, and the watch of the manifest has its say meanwhile.
    assert!(
        begin.elapsed() > Duration::from_secs(3),
        "{:?}",
        begin.elapsed()
    );
    init.signal(Signal::SIGTERM);
    assert_eq!(init.wait_end_unread(), 0);
}

/// Megabytes that the relay has to carry in a second where somebody reads.
const RELAYED_EACH_SECOND: f64 = 300.0;

#[test]
fn relays_three_hundred_megabytes_in_a_second_of_processor_time() {
    const MEGABYTES: u32 = 1024;
    let shipped = shipped_init();
    let mut init = Bed::new()
        .with_faults(&format!("flood {MEGABYTES}"))
        .start_under(
            Place::Child,
            Console::Drained,
            // Instead of the one that is debugged, which follows.
            &["sh", "-c", "shift; exec \"$0\" \"$@\"", &shipped],
        );
    let begin = Instant::now();
    init.wait_until("the flood is over", |init| {
        init.output().contains("the flood is over").then_some(())
    });
    let elapsed = begin.elapsed().as_secs_f64();
    // Its own time: how much of it the machine gives is another matter.
    let used = 0.01 * f64::from(u32::try_from(processor_ticks(init.pid())).unwrap());
    assert_eq!(init.stop().0.code, 0);
    let megabytes = f64::from(MEGABYTES);
    let _ = writeln!(
        std::io::stderr(),
        "MEASURED: the relay carries {:.0} MB in a second of its own time; {:.0} MB/s came through",
        megabytes / used,
        megabytes / elapsed
    );
    assert!(megabytes / used > RELAYED_EACH_SECOND, "{used} s");
}

/// The release build, which the scripts make before the tests.
fn shipped_init() -> String {
    std::env::var("SIDECAR_INIT_BIN").unwrap_or_else(|_| {
        let path = format!(
            "{}/target/{}-unknown-linux-musl/release/sidecar-init",
            env!("CARGO_MANIFEST_DIR"),
            std::env::consts::ARCH
        );
        assert!(
            fs::exists(&path).unwrap(),
            "cannot find {path}\nhint: cargo build --release --target {}-unknown-linux-musl",
            std::env::consts::ARCH
        );
        path
    })
}

// Orphans.

#[test]
fn an_orphan_that_was_reaped_is_told_without_another_event() {
    let mut init = Bed::new()
        .with_supervisor("grace_seconds: 1, probe_seconds: 60")
        .with_faults("escape")
        .start_under(Place::Child, Console::Read, &["env", "SIDECAR_LOG=debug"]);
    init.wait_ready();
    // The last that happens by itself for a minute.
    init.wait_until("the manifest was read again", |init| {
        init.console()
            .contains("asks for the same as before")
            .then_some(())
    });
    assert_eq!(init.status()["reaped"], 0);
    let daemon = init.daemon();
    let mut orphans = others(init.pid());
    orphans.retain(|pid| *pid != daemon);
    let orphan = orphans[0];
    kill(Pid::from_raw(orphan), Signal::SIGKILL).unwrap();
    let begin = Instant::now();
    init.wait_for("it is told", |status| status["reaped"] == 1);
    assert!(
        begin.elapsed() < Duration::from_secs(10),
        "{:?}",
        begin.elapsed()
    );
}

#[test]
fn reaps_ten_thousand_orphans_while_the_daemon_is_killed_and_restarted() {
    for place in places() {
        let mut init = Bed::new().with_faults("orphans 5000").start(place);
        init.wait_ready();
        init.kill_daemon();
        init.wait_ready_after(1);
        let pid = init.pid();
        // Zombies are children too, and so are orphans that have yet to end.
        init.wait_until("the daemon alone is left", |init| {
            (others(pid) == [init.daemon()]).then_some(())
        });
        let (end, _) = init.stop();
        assert_eq!(end.code, 0);
        assert_eq!(end.result["reaped"], 10_002, "{place:?}");
    }
}
