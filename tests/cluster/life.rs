//! What happens to a bottle in its life, what its agent sees meanwhile, and what is reported.

use std::cell::Cell;
use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use serde_json::Value;

use crate::bottle::{
    Bottle, MANIFEST, Watch, both, cluster, kubectl, longest_gap, path, process, say, try_kubectl,
    wait_for,
};

/// The manifest with another host allowed, or without the first.
const MORE: &str = "version: 1
slug: @
bottle: {egress: {routes: [{host: internet.test}, {host: other.test}]}}
";
const LESS: &str = "version: 1
slug: @
bottle: {egress: {routes: [{host: other.test}]}}
";

fn restarts(pod: &Value) -> i64 {
    pod["status"]["containerStatuses"][0]["restartCount"]
        .as_i64()
        .unwrap()
}

#[test]
fn a_bottle_is_admitted_ready_and_the_same_when_applied_again() {
    let Some(_turn) = cluster() else { return };
    let bottle = Bottle::make("life", MANIFEST);
    bottle.apply();
    let began = Instant::now();
    bottle.wait_ready();
    say(&format!(
        "  both Pods ready {:.1} s after the apply",
        began.elapsed().as_secs_f64()
    ));
    // Made again from the same manifest, it is the same to the byte.
    bottle.write(MANIFEST);
    let again = bottle.apply();
    let changed: Vec<&str> = again
        .lines()
        .filter(|line| !line.ends_with(" unchanged"))
        .collect();
    assert!(changed.is_empty(), "{changed:?}");
    assert_eq!(again.lines().count(), 10, "{again}");
    let namespace = kubectl(&["get", "namespace", &bottle.namespace, "-o", "yaml"]);
    assert!(namespace.contains("pod-security.kubernetes.io/enforce: restricted"));

    let status = bottle.status();
    assert_eq!(status["state"], "ready", "{status}");
    assert_eq!(status["daemon"]["sandbox_verified"], true, "{status}");
    assert_eq!(bottle.request("https://internet.test/"), 200);
    assert_eq!(bottle.request("https://other.test/"), 403);
    // What an operator types shows well.
    let words = bottle.kubectl(&[
        "exec",
        "deployment/pipelock",
        "--",
        "/sbin/sidecar-init",
        "status",
    ]);
    assert!(
        words.contains("ready") && words.contains("other.test"),
        "{words}"
    );
}

#[test]
fn a_changed_manifest_reaches_the_running_sidecar_sooner_when_its_pod_is_told() {
    let Some(_turn) = cluster() else { return };
    let bottle = Bottle::start("manifest", MANIFEST);
    assert_eq!(bottle.request("http://other.test/"), 403);
    // The kubelet looks at once after a Pod whose annotations have changed; and again, where it had
    // not heard of the changed manifest yet.
    let told = Cell::new((0, Instant::now()));
    let tell = |again: bool| {
        let (times, at) = told.get();
        if !again || at.elapsed() > Duration::from_secs(3) {
            told.set((times + 1, Instant::now()));
            let stamp = format!("sidecar/told={times}");
            let label = "app.kubernetes.io/component=pipelock";
            bottle.kubectl(&["annotate", "--overwrite", "pod", "-l", label, &stamp]);
        }
    };
    // The time from this manifest's apply until a request for the host comes to the code.
    let applied = |manifest: &str, is_told: bool, host: &str, code: u32| {
        bottle.write(manifest);
        bottle.apply();
        let began = Instant::now();
        if is_told {
            tell(false);
        }
        let url = format!("http://{host}/");
        wait_for(&format!("{url} comes to {code}"), || {
            if is_told {
                tell(true);
            }
            (bottle.request(&url) == code).then_some(())
        });
        began.elapsed()
    };
    let added = applied(MORE, true, "other.test", 200);
    let removed = applied(LESS, true, "internet.test", 403);
    // Not told: within the kubelet's period.
    let alone = applied(MANIFEST, false, "other.test", 403);
    say(&format!(
        "  a host added {:.1} s, removed {:.1} s after the Pod was annotated; removed {:.1} s after the apply alone",
        added.as_secs_f64(),
        removed.as_secs_f64(),
        alone.as_secs_f64()
    ));
    assert!(added < Duration::from_secs(15) && removed < Duration::from_secs(15));
    // A manifest that cannot be used is said, and changes nothing.
    let generation = bottle.status()["config"]["generation"].clone();
    let unusable =
        serde_json::json!({"data": {"manifest.yaml": "version: 1\nslugg: [\n"}}).to_string();
    bottle.kubectl(&[
        "patch",
        "configmap",
        "sidecar-manifest",
        "--patch",
        &unusable,
    ]);
    tell(false);
    let (status, _) = wait_for("the broken manifest is told", || {
        tell(true);
        let status = bottle.status();
        (!status["manifest_error"].is_null()).then_some(status)
    });
    assert_eq!(status["config"]["generation"], generation, "{status}");
    assert_eq!(bottle.request("http://internet.test/"), 200);
}

#[test]
fn a_new_ca_starts_both_anew_and_is_the_one_that_is_served() {
    let Some(_turn) = cluster() else { return };
    let bottle = Bottle::start("ca", MANIFEST);
    let before = bottle.status()["ca"].clone();
    let pods = [bottle.pod("pipelock"), bottle.pod("agent")];
    for file in ["ca.pem", "ca-key.pem"] {
        fs::remove_file(bottle.directory().join(file)).unwrap();
    }
    bottle.write(MANIFEST);
    bottle.apply();
    bottle.wait_ready();
    let after = bottle.status()["ca"].clone();
    assert_ne!(
        before["fingerprint_sha256"], after["fingerprint_sha256"],
        "{before} {after}"
    );
    for (pod, component) in pods.iter().zip(["pipelock", "agent"]) {
        let (now, _) = wait_for("the old Pod is gone", || {
            let label = format!("app.kubernetes.io/component={component}");
            let names = bottle.kubectl(&["get", "pods", "-l", &label, "-o", "name"]);
            (names.lines().count() == 1).then(|| bottle.pod(component))
        });
        assert_ne!(
            pod["metadata"]["uid"], now["metadata"]["uid"],
            "{component}"
        );
    }
    let trusted = both(&bottle.agent(&["cat", "/run/sidecar-export/ca-bundle.pem"]));
    let own = fs::read_to_string(bottle.directory().join("ca.pem")).unwrap();
    assert!(trusted.contains(own.trim()), "{trusted}");
    assert_eq!(bottle.request("https://internet.test/"), 200);
}

#[test]
fn killed_it_is_back_and_says_so() {
    let Some(_turn) = cluster() else { return };
    let bottle = Bottle::start("killed", MANIFEST);
    let pod = bottle.pod("pipelock");

    let watch = Watch::begin(&bottle);
    wait_for("requests pass", || {
        (bottle.request("http://internet.test/") == 200).then_some(())
    });
    kill(process(&pod, "pipelock"), Signal::SIGKILL).unwrap();
    let (status, _) = wait_for("pipelock is back", || {
        let status = bottle.status();
        (status["restarts"] == 1 && status["state"] == "ready").then_some(status)
    });
    wait_for("requests pass", || {
        (bottle.request("http://internet.test/") == 200).then_some(())
    });
    let seen = watch.end();
    say(&format!(
        "  pipelock killed: {} requests, the longest time without an answer {:.2} s; {}",
        seen.len(),
        longest_gap(&seen),
        status["last_exit"]
    ));
    assert_eq!(restarts(&bottle.pod("pipelock")), 0);

    // The init: its container starts again, in the same Pod.
    let watch = Watch::begin(&bottle);
    kill(process(&pod, "sidecar-init"), Signal::SIGKILL).unwrap();
    wait_for("the container is started again", || {
        let now = bottle.pod("pipelock");
        (restarts(&now) == 1 && now["status"]["containerStatuses"][0]["ready"] == true)
            .then_some(())
    });
    wait_for("requests pass", || {
        (bottle.request("http://internet.test/") == 200).then_some(())
    });
    let seen = watch.end();
    let now = bottle.pod("pipelock");
    let ended = &now["status"]["containerStatuses"][0]["lastState"]["terminated"];
    say(&format!(
        "  the init killed: {} requests, the longest time without an answer {:.2} s; exit code {}",
        seen.len(),
        longest_gap(&seen),
        ended["exitCode"]
    ));
    assert_eq!(ended["exitCode"], 137, "{ended}");
    assert_eq!(now["metadata"]["uid"], pod["metadata"]["uid"]);
}

#[test]
fn deleted_evicted_drained_or_with_a_new_image_it_comes_back_and_lets_nothing_past() {
    let Some(_turn) = cluster() else { return };
    let bottle = Bottle::start(
        "moved",
        &format!("supervisor: {{drain_seconds: 3}}\n{MANIFEST}"),
    );
    let replaced = |what: &str, act: &dyn Fn(&str)| {
        let old = bottle.pod("pipelock");
        let name = old["metadata"]["name"].as_str().unwrap();
        let watch = Watch::begin(&bottle);
        wait_for("requests pass", || {
            (bottle.request("http://internet.test/") == 200).then_some(())
        });
        let began = Instant::now();
        act(name);
        wait_for("another Pod is ready", || {
            let label = "app.kubernetes.io/component=pipelock";
            let pods = bottle.kubectl(&["get", "pods", "-l", label, "-o", "name"]);
            if pods.lines().count() != 1 || pods.contains(name) {
                return None;
            }
            (bottle.pod("pipelock")["status"]["containerStatuses"][0]["ready"] == true)
                .then_some(())
        });
        wait_for("requests pass", || {
            (bottle.request("http://internet.test/") == 200).then_some(())
        });
        let whole = began.elapsed();
        let seen = watch.end();
        say(&format!(
            "  {what}: passes again {:.1} s later; the longest time without an answer {:.1} s in {} requests",
            whole.as_secs_f64(),
            longest_gap(&seen),
            seen.len()
        ));
    };
    replaced("deleted", &|name| {
        bottle.kubectl(&["delete", "pod", name, "--wait=false"]);
    });
    replaced("evicted", &|name| {
        let eviction = serde_json::json!({
            "apiVersion": "policy/v1", "kind": "Eviction",
            "metadata": {"name": name, "namespace": bottle.namespace},
        });
        let file = bottle.directory().join("eviction.json");
        fs::write(&file, eviction.to_string()).unwrap();
        let place = format!(
            "/api/v1/namespaces/{}/pods/{name}/eviction",
            bottle.namespace
        );
        kubectl(&["create", "--raw", &place, "-f", path(&file)]);
    });
    replaced("its node drained", &|_| {
        let said = try_kubectl(&[
            "drain",
            "node",
            "--pod-selector=app.kubernetes.io/component=pipelock",
            "--delete-emptydir-data",
            "--timeout=60s",
        ]);
        // The node is the only one: open it again for the Pod's successor.
        kubectl(&["uncordon", "node"]);
        assert!(said.status.success(), "{}", both(&said));
    });
    let tagged = Command::new("ctr")
        .args(["--namespace", "k8s.io", "images", "tag", "--force"])
        .args([
            "localhost/sidecar-init:0.1.0",
            "localhost/sidecar-init:next",
        ])
        .output()
        .unwrap();
    assert!(tagged.status.success(), "{}", both(&tagged));
    replaced("a new image", &|_| {
        let file = bottle.directory().join("kustomization.yaml");
        let text = fs::read_to_string(&file).unwrap();
        fs::write(&file, text.replace("newTag: \"0.1.0\"", "newTag: next")).unwrap();
        bottle.apply();
    });
}
