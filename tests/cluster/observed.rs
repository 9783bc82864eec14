//! What a cluster's own tools see of a bottle: `kubectl` and a node exporter.

use std::process::{Child, Command, Stdio};

use crate::bottle::{Bottle, MANIFEST, both, cluster, say, wait_for};

/// Where the kubelet has each Pod's volume `export`.
const EXPORTS: &str = "/var/lib/kubelet/pods/*/volumes/kubernetes.io~empty-dir/export";
const ADDRESS: &str = "127.0.0.1:9100";

struct Exporter(Child);

impl Drop for Exporter {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What it serves; nothing while it does not yet.
fn scraped() -> Option<String> {
    let url = format!("http://{ADDRESS}/metrics");
    let said = Command::new("curl")
        .args(["-s", "-f", "--noproxy", "*", &url])
        .output()
        .unwrap();
    let text = String::from_utf8(said.stdout).unwrap();
    said.status.success().then_some(text)
}

#[test]
fn a_node_exporter_collects_every_bottle_s_metrics_and_the_log_names_what_was_refused() {
    let Some(_turn) = cluster() else { return };
    let bottles = ["seen", "seen-too"].map(|slug| Bottle::start(slug, MANIFEST));
    let _exporter = Exporter(
        Command::new("node_exporter")
            .args(["--collector.disable-defaults", "--collector.textfile"])
            .args([
                format!("--collector.textfile.directory={EXPORTS}"),
                format!("--web.listen-address={ADDRESS}"),
            ])
            .stderr(Stdio::null())
            .spawn()
            .unwrap(),
    );
    assert_eq!(bottles[0].request("http://other.test/"), 403);
    let [seen, too] = ["seen", "seen-too"].map(|slug| format!("slug=\"{slug}\""));
    let (text, _) = wait_for("both are collected", || {
        let text = scraped()?;
        let has = |name: &str, own: &str, value: &str| {
            text.lines().any(|line| {
                let of = line.starts_with(&format!("sidecar_init_{name}{{")) && line.contains(own);
                of && line.ends_with(&format!("}} {value}"))
            })
        };
        let all = has("ready", &seen, "1")
            && has("ready", &too, "1")
            && has("refusals_total", &seen, "1")
            && has("refusals_total", &too, "0");
        all.then_some(text)
    });
    assert!(text.contains("\nnode_textfile_scrape_error 0\n"), "{text}");
    let own: Vec<&str> = text
        .lines()
        .filter(|line| line.starts_with("sidecar_init_") && line.contains(&seen))
        .collect();
    say(&format!(
        "  collected of each bottle: {} samples",
        own.len()
    ));

    let log = bottles[0].kubectl(&["logs", "deployment/pipelock"]);
    assert!(log.contains("other.test"), "{log}");
    let told = bottles[0].try_kubectl(&[
        "exec",
        "deployment/pipelock",
        "--",
        "/sbin/sidecar-init",
        "status",
    ]);
    assert!(
        both(&told).contains("other.test: not in the allowlist"),
        "{}",
        both(&told)
    );
}
