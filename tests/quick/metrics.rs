//! `metrics.prom` in the export: Prometheus' text format, and what the status says.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use crate::support::{Bed, Init, Place};

/// The values by name and the one label that is not in every sample.
type Samples = BTreeMap<String, u64>;

/// What a file in the text format says (version 0.0.4 of it, and of that what a collector takes
/// without a complaint): HELP and TYPE before a metric's samples, which stand together; no sample
/// twice; a line feed at the end.
fn parse(text: &str) -> Samples {
    assert!(text.ends_with('\n'), "{text}");
    let is_name = |name: &str| {
        let mut letters = name.chars();
        letters.next().is_some_and(|c| c.is_ascii_alphabetic())
            && letters.all(|c| c.is_ascii_alphanumeric() || c == '_')
    };
    let (mut families, mut samples) = (Vec::<(String, String)>::new(), Samples::new());
    let (mut seen, mut help) = (BTreeSet::new(), String::new());
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, words) = rest.split_once(' ').unwrap();
            assert!(is_name(name) && !words.contains('\\'), "{line}");
            help = name.to_owned();
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').unwrap();
            assert!(["counter", "gauge"].contains(&kind), "{line}");
            assert_eq!(kind == "counter", name.ends_with("_total"), "{line}");
            assert_eq!(name, help, "{line}");
            assert!(families.iter().all(|(other, _)| other != name), "{line}");
            families.push((name.to_owned(), kind.to_owned()));
        } else {
            let (name, rest) = line.split_once('{').unwrap();
            assert_eq!(families.last().unwrap().0, name, "{line}");
            let (labels, value) = rest.split_once("} ").unwrap();
            let mut own = String::new();
            let mut names = BTreeSet::new();
            for label in labels.split(',') {
                let (label, quoted) = label.split_once('=').unwrap();
                let value = quoted.strip_prefix('"').unwrap().strip_suffix('"').unwrap();
                assert!(is_name(label) && !value.contains(['"', '\\']), "{line}");
                assert!(names.insert(label.to_owned()), "{line}");
                if !["slug", "boot_id"].contains(&label) {
                    own = format!("{{{value}}}");
                }
            }
            assert!(
                names.contains("slug") && names.contains("boot_id"),
                "{line}"
            );
            assert!(seen.insert((name.to_owned(), labels.to_owned())), "{line}");
            let name = name.strip_prefix("sidecar_init_").unwrap();
            samples.insert(format!("{name}{own}"), value.parse().unwrap());
        }
    }
    samples
}

/// Waits until the file says this, of a metric each.
fn wait_metrics(init: &mut Init, what: &str, wanted: &[(&str, u64)]) -> Samples {
    init.wait_until(what, |init| {
        let text = std::fs::read_to_string(init.bed.path("run/export/metrics.prom")).ok()?;
        let samples = parse(&text);
        let is_so = |(name, value): &(&str, u64)| samples.get(*name) == Some(value);
        wanted.iter().all(is_so).then_some(samples)
    })
}

#[test]
fn the_export_has_the_status_in_numbers_that_prometheus_reads() {
    let line = |host: &str| {
        format!(
            r#"{{"event":"blocked","method":"CONNECT","target":"{host}:443","scanner":"allowlist","reason":"domain not in allowlist: {host}"}}"#
        )
    };
    let lines = [line("b.example"), line("c.example")].join("\n") + "\n";
    let mut init = Bed::new()
        .with_export()
        .with_lines(&lines)
        .start(Place::Child);
    let status = init.wait_ready();
    let samples = wait_metrics(
        &mut init,
        "it is ready in numbers",
        &[
            ("ready", 1),
            ("halted", 0),
            ("generation", 1),
            ("applied_generation", 1),
            ("manifest_refused", 0),
            ("daemon_ready{pipelock}", 1),
            ("daemon_restarts_total{pipelock}", 0),
            ("refusals_total{not-allowed}", 2),
        ],
    );
    let version = format!("info{{{}}}", status["version"].as_str().unwrap());
    assert_eq!(samples.get(&version), Some(&1), "{samples:?}");
    let text = std::fs::read_to_string(init.bed.path("run/export/metrics.prom")).unwrap();
    let own = format!("{{slug={},boot_id={}", status["slug"], status["boot_id"]);
    assert!(text.contains(&own), "{own}\n{text}");
    // As the status tells the same in words.
    let ends = samples["ca_not_after_timestamp_seconds"];
    let date = std::process::Command::new("date")
        .args(["-u", "+%Y-%m-%dT%H:%M:%SZ", "-d", &format!("@{ends}")])
        .output()
        .unwrap();
    let date = String::from_utf8(date.stdout).unwrap();
    assert_eq!(Value::from(date.trim()), status["ca"]["not_after"]);

    init.kill_daemon();
    init.wait_ready_after(1);
    let restarted = [
        ("ready", 1),
        ("daemon_restarts_total{pipelock}", 1),
        ("daemon_failures_total{pipelock}", 1),
    ];
    wait_metrics(&mut init, "a restart is counted", &restarted);
    init.bed.replace_manifest("slug: bed\n");
    let refused = [("manifest_refused", 1), ("generation", 1)];
    wait_metrics(&mut init, "the manifest is refused", &refused);
    init.bed.allow(&["a.example", "b.example"]);
    let followed = [("manifest_refused", 0), ("applied_generation", 2)];
    wait_metrics(&mut init, "the next is followed", &followed);
    assert!(init.bed.run(&["halt"]).status.success());
    let halted = [("ready", 0), ("halted", 1), ("daemon_ready{pipelock}", 0)];
    wait_metrics(&mut init, "it is halted", &halted);
    let (end, _) = init.stop();
    assert_eq!(end.code, 0);
    let text = std::fs::read_to_string(end.bed.path("run/export/metrics.prom")).unwrap();
    assert_eq!(parse(&text)["ready"], 0);
}
