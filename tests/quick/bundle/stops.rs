//! A stop while something is amiss: it ends within its one deadline, in the reverse order of the
//! start, and nobody is left or comes back.

use super::*;

/// The names of [`eight`], the last first.
const REVERSED: [&str; 7] = ["last", "three", "two", "one", "notes", "gate", "egress"];

/// How often each was started again.
fn restarts(status: &Value) -> Vec<u64> {
    let companions = status["daemons"].as_array().into_iter().flatten();
    let all = companions.map(|it| &it["restarts"]);
    all.chain([&status["restarts"]])
        .map(|it| it.as_u64().unwrap_or_default())
        .collect()
}

/// Where the console says that it stops.
fn from_the_stop(console: &str) -> &str {
    let at = console.find("SIGTERM: stopping").expect("it was told");
    &console[at..]
}

/// Each of these ended, in this order.
fn assert_ended_in(console: &str, names: &[&str]) {
    let lines: Vec<String> = names.iter().map(|it| format!("{it} (pid")).collect();
    let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
    assert_order(from_the_stop(console), &lines);
}

#[test]
fn eight_that_heed_no_signal_are_stopped_one_after_the_other_in_the_time_of_one() {
    let daemons = eight(ports())
        .lines()
        .map(|line| line.replacen("],", ", ignore-term],", 1) + "\n")
        .collect::<String>();
    let mut init = bed(&daemons).with_faults("ignore-term").start(Place::Child);
    let status = wait_all_ready(&mut init);
    assert_eq!(all(&status).len(), 8);
    let poller = Poller::of(&init, None);
    let console = stop(init, Some(poller));
    assert_ended_in(&console, &[&REVERSED[..], &["pipelock"]].concat());
}

#[test]
fn a_stop_while_all_crash_is_obeyed_and_none_of_them_comes_back() {
    let mut init = bed(&eight(ports())).start(Place::Child);
    let before = wait_all_ready(&mut init);
    let poller = Poller::of(&init, None);
    for (_, _, pid) in all(&before) {
        kill(Pid::from_raw(pid.unwrap()), Signal::SIGKILL).unwrap();
    }
    init.wait_for("they are down", |status| {
        all(status).iter().any(|(_, state, _)| state == "waiting")
    });
    let (first, end) = stopped(init, Some(poller));
    assert_eq!(restarts(&first), restarts(&end.result));
}

#[test]
fn a_stop_while_the_agent_s_proxy_is_deaf_to_all_waits_for_nothing_but_its_time() {
    let [agent, gate] = ports();
    let daemons = five(agent, gate).replace("@, egress,", "@, egress, ignore-term,");
    let mut init = bed(&daemons).start(Place::Child);
    wait_all_ready(&mut init);
    let poller = Poller::of(&init, Some(agent));
    tell(&init, "egress", "deaf");
    init.wait_for("it is found out", |status| {
        let trouble = daemon(status, "egress")["trouble"].as_str();
        trouble.is_some_and(|it| it.contains("silent"))
    });
    let console = stop(init, Some(poller));
    assert_ended_in(&console, &["notes", "gate", "egress", "pipelock"]);
}

#[test]
fn a_stop_while_pipelock_is_being_killed_stops_the_others_in_their_order_and_starts_no_other() {
    let [agent, gate] = ports();
    let mut init = bed(&five(agent, gate))
        .with_faults("ignore-term")
        .start(Place::Child);
    wait_all_ready(&mut init);
    let poller = Poller::of(&init, Some(agent));
    // What is revoked is revoked by another pipelock, and this one does not go by itself.
    let text = text(&init.bed, &five(agent, gate));
    init.bed
        .replace_manifest(&text.replace("a.example", "b.example"));
    init.wait_for("it is being ended", |status| {
        status["daemon"]["state"] == "stopping"
    });
    let (_, end) = stopped(init, Some(poller));
    assert_eq!(end.result["restarts"], 0);
    let console = end.console_text();
    assert_ended_in(&console, &["notes", "gate", "egress"]);
    assert_ended_in(&console, &["pipelock"]);

    // By somebody else, at the same moment.
    let mut init = bed(&five(agent, gate)).start(Place::Child);
    wait_all_ready(&mut init);
    let poller = Poller::of(&init, Some(agent));
    // It hears of both at once: of the end alone it would start another before it is asked to stop.
    init.signal(Signal::SIGSTOP);
    init.kill_daemon();
    for signal in [Signal::SIGTERM, Signal::SIGCONT] {
        init.signal(signal);
    }
    let (_, end) = asked_to_stop(init, Some(poller));
    let console = end.console_text();
    assert_ended_in(&console, &["notes", "gate", "egress"]);
    assert_eq!(end.result["restarts"], 0);
}

#[test]
fn a_stop_with_a_full_run_directory_is_a_stop_like_any_other() {
    if !nix::unistd::geteuid().is_root() {
        return skipped("a full run directory", "mounting needs root");
    }
    let [agent, gate] = ports();
    let mut init = changes::start_with_room(bed(&five(agent, gate)), "size=4m", "");
    wait_all_ready(&mut init);
    changes::fill(&init);
    let begun = Instant::now();
    init.signal(Signal::SIGTERM);
    let end = init.wait_end();
    assert!(
        begun.elapsed() < Duration::from_secs(4),
        "{:?}",
        begun.elapsed()
    );
    assert_eq!(end.code, 0, "{}", end.console_text());
    // The result is told where there is room for it.
    for (name, state, pid) in all(&end.result) {
        assert_eq!(pid, None, "{name}");
        assert!(state != "ready" && state != "stopping", "{name} is {state}");
    }
    assert_ended_in(
        &end.console_text(),
        &["notes", "gate", "egress", "pipelock"],
    );
    assert_eq!(left_of(&end.bed), Vec::<String>::new());
}

#[test]
fn the_end_for_one_that_cannot_live_keeps_the_order_of_those_on_its_two_sides() {
    let [agent, gate] = ports();
    let mut init = bed(&five(agent, gate)).start(Place::Child);
    let status = wait_all_ready(&mut init);
    tell(&init, "egress", "exit");
    kill(Pid::from_raw(pid_of(&status, "egress")), Signal::SIGKILL).unwrap();
    let end = init.wait_end();
    assert_eq!(end.code, 69, "{}", end.console_text());
    assert_order(
        &end.console_text(),
        &["notes (pid", "gate (pid", "pipelock (pid"],
    );
}

#[test]
fn one_that_cannot_live_is_named_and_reported_whether_the_bundle_ends_or_goes_on() {
    let mut init =
        bed("  missing: {exec: [/nonexistent/program], essential: false}\n").start(Place::Child);
    init.wait_for("the bundle goes on without it", |status| {
        status["state"] == "ready" && daemon(status, "missing")["state"] == "failed"
    });
    let report = init.wait_until("it is reported", |init| {
        let report = fs::read(init.bed.path("run/report.json")).ok()?;
        serde_json::from_slice::<Value>(&report).ok()
    });
    let told = daemon(&report["status"], "missing");
    assert_eq!(told["state"], "failed", "{report:#}");
    assert!(
        told["error"]
            .as_str()
            .unwrap()
            .contains("/nonexistent/program"),
        "{told}"
    );
    assert_eq!(report["status"]["exit_code"], Value::Null);
    stop(init, None);

    let end = bed("  missing: {exec: [/nonexistent/program]}\n")
        .start(Place::Child)
        .wait_end();
    assert_eq!(end.code, 127, "{}", end.console_text());
    assert!(
        end.error()
            .contains("missing: cannot execute /nonexistent/program"),
        "{}",
        end.error()
    );
}
