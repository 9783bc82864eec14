//! Many bottles on one node: what each costs, and how long all take.

use std::fs;
use std::time::Instant;

use crate::bottle::{Bottle, MANIFEST, cluster, kubectl, object, say, wait_for};

/// As many as a node of two processors starts in a few minutes; `SIDECAR_BOTTLES` sets another number.
const BOTTLES: usize = 10;

/// What all processes of this name on the node have used.
#[derive(Debug, Default, Clone, Copy)]
struct Used {
    processes: usize,
    /// Proportional set size, in KiB.
    kib: u64,
    /// Processor time, in ticks of 10 ms.
    ticks: u64,
    /// Times it was put to sleep and waked up.
    wakeups: u64,
}

fn number(text: &str, key: &str) -> u64 {
    text.lines()
        .find_map(|line| {
            line.strip_prefix(key)?
                .split_whitespace()
                .next()?
                .parse()
                .ok()
        })
        .unwrap_or(0)
}

fn used(name: &str) -> Used {
    let mut all = Used::default();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let place = entry.path();
        let read = |file: &str| fs::read_to_string(place.join(file)).unwrap_or_default();
        if read("comm").trim() != name {
            continue;
        }
        all.processes += 1;
        all.kib += number(&read("smaps_rollup"), "Pss:");
        all.wakeups += number(&read("status"), "voluntary_ctxt_switches:");
        // After the name, which may have anything in it: user and system time are the 12th and 13th.
        let stat = read("stat");
        let fields: Vec<u64> = stat
            .rsplit(')')
            .next()
            .unwrap()
            .split_whitespace()
            .map(|field| field.parse().unwrap_or(0))
            .collect();
        all.ticks += fields[11] + fields[12];
    }
    all
}

#[test]
fn many_bottles_start_together_cost_little_and_follow_one_change() {
    let Some(_turn) = cluster() else { return };
    let bottles: usize = std::env::var("SIDECAR_BOTTLES").map_or(BOTTLES, |number| {
        number.parse().expect("a number of bottles")
    });
    let all: Vec<Bottle> = (0..bottles)
        .map(|number| Bottle::make(&format!("many-{number}"), MANIFEST))
        .collect();
    let before = object(&[
        "pods,configmaps,secrets,services,deployments.apps,replicasets.apps,networkpolicies,namespaces,serviceaccounts,endpointslices",
        "-A",
    ]);
    let objects = |list: &serde_json::Value| list["items"].as_array().unwrap().len();
    let began = Instant::now();
    for bottle in &all {
        bottle.apply();
    }
    let applied = began.elapsed();
    for bottle in &all {
        bottle.wait_ready();
    }
    let ready = began.elapsed();
    let after = object(&[
        "pods,configmaps,secrets,services,deployments.apps,replicasets.apps,networkpolicies,namespaces,serviceaccounts,endpointslices",
        "-A",
    ]);
    for bottle in &all {
        assert_eq!(
            bottle.request("http://internet.test/"),
            200,
            "{}",
            bottle.namespace
        );
        assert_eq!(
            bottle.request("http://other.test/"),
            403,
            "{}",
            bottle.namespace
        );
    }
    // Idle, with the kubelet's probes: what ten seconds cost.
    let [init, daemon] = ["sidecar-init", "pipelock"].map(used);
    let measured = Instant::now();
    std::thread::sleep(std::time::Duration::from_secs(10));
    let [init_later, daemon_later] = ["sidecar-init", "pipelock"].map(used);
    let seconds = measured.elapsed().as_secs_f64();
    assert!(
        init.processes >= bottles && daemon.processes >= bottles,
        "{init:?} {daemon:?}"
    );
    #[allow(clippy::cast_precision_loss, reason = "small numbers")]
    let each = |it: u64| it as f64 / bottles as f64;
    say(&format!(
        "  {bottles} bottles: applied in {:.1} s, all ready {:.1} s after the first apply; {:.1} objects each",
        applied.as_secs_f64(),
        ready.as_secs_f64(),
        each((objects(&after) - objects(&before)) as u64),
    ));
    for (name, first, later) in [
        ("sidecar-init", init, init_later),
        ("pipelock", daemon, daemon_later),
    ] {
        say(&format!(
            "  {name} of each: {:.1} MB; idle with its probe, in a minute: {:.0} ms of processor time, {:.0} wake-ups",
            each(later.kib) / 1000.0 * 1.024,
            each(later.ticks.saturating_sub(first.ticks)) * 10.0 * 60.0 / seconds,
            each(later.wakeups.saturating_sub(first.wakeups)) * 60.0 / seconds,
        ));
    }

    // One change to the policies of all: another port for pipelock is no way to it.
    let began = Instant::now();
    for bottle in &all {
        kubectl(&[
            "--namespace",
            &bottle.namespace,
            "delete",
            "networkpolicy",
            "agent",
        ]);
    }
    for bottle in &all {
        wait_for("the agent reaches nothing", || {
            (bottle.request("http://internet.test/") == 0).then_some(())
        });
    }
    say(&format!(
        "  the policy of all changed: in force everywhere {:.1} s later",
        began.elapsed().as_secs_f64()
    ));
}
