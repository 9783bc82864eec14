//! Many bottles on one node: what each costs, and how long all take.

use std::fs;
use std::time::Instant;

use crate::bottle::{Bottle, MANIFEST, cluster, kubectl, object, say, wait_for};

/// As many as a node of two processors starts in a few minutes; `SIDECAR_BOTTLES` sets another number.
const BOTTLES: usize = 10;

/// The processes of a bottle: ours, the agent, and what the cluster has beside each Pod's.
const NAMES: [&str; 5] = [
    "sidecar-init",
    "pipelock",
    "sleep",
    "catatonit",
    "containerd-shim",
];

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

/// Of the node's memory what is in use, in KiB: its caches are not.
fn in_use() -> u64 {
    let text = fs::read_to_string("/proc/meminfo").unwrap();
    number(&text, "MemTotal:") - number(&text, "MemAvailable:")
}

/// How many watches the API server serves.
fn watches() -> u64 {
    let metrics = kubectl(&["get", "--raw", "/metrics"]);
    let lines = metrics.lines().filter(|line| {
        line.starts_with("apiserver_longrunning_requests{") && line.contains("verb=\"WATCH\"")
    });
    let values = lines.map(|line| line.rsplit(' ').next().unwrap().parse::<u64>().unwrap());
    values.sum()
}

/// The objects that a bottle is made of, and those that the cluster adds.
fn objects() -> u64 {
    const KINDS: &str = "pods,configmaps,secrets,services,deployments.apps,replicasets.apps,networkpolicies,\
        namespaces,serviceaccounts,endpointslices";
    let list = object(&[KINDS, "-A"]);
    list["items"].as_array().unwrap().len() as u64
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
    let (objects_before, watches_before, in_use_before) = (objects(), watches(), in_use());
    let server_before = used("kube-apiserver");
    let began = Instant::now();
    for bottle in &all {
        bottle.apply();
    }
    let applied = began.elapsed();
    for bottle in &all {
        bottle.wait_ready();
    }
    let ready = began.elapsed();
    let (objects_after, watches_after, in_use_after) = (objects(), watches(), in_use());
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
    let first = NAMES.map(used);
    let measured = Instant::now();
    std::thread::sleep(std::time::Duration::from_secs(10));
    let later = NAMES.map(used);
    let seconds = measured.elapsed().as_secs_f64();
    assert!(first.iter().all(|it| it.processes >= bottles), "{first:?}");
    #[allow(clippy::cast_precision_loss, reason = "small numbers")]
    let each = |it: u64| it as f64 / bottles as f64;
    say(&format!(
        "  {bottles} bottles: applied in {:.1} s, all ready {:.1} s after the first apply; {:.1} objects each",
        applied.as_secs_f64(),
        ready.as_secs_f64(),
        each(objects_after - objects_before),
    ));
    let megabytes = |kib: u64| each(kib) / 1000.0 * 1.024;
    say(&format!(
        "  of each: {:.1} MB of the node's memory, {:.1} watches at the API server, which has {:.1} MB more of its own",
        megabytes(in_use_after.saturating_sub(in_use_before)),
        each(watches_after.saturating_sub(watches_before)),
        megabytes(used("kube-apiserver").kib.saturating_sub(server_before.kib)),
    ));
    for ((name, first), later) in NAMES.iter().zip(first).zip(later) {
        say(&format!(
            "  {name} of each: {:.1} MB; idle with its probe, in a minute: {:.0} ms of processor time, {:.0} wake-ups",
            megabytes(later.kib),
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
