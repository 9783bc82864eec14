//! The Kubernetes objects: against the schema, against `client.env`, and pipelock's Pod
//! really started, by podman.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::Command;

use crate::support::podman::{IMAGE, engine};
use crate::support::said::both;

const BASE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/image/kubernetes");

fn object(path: &str) -> String {
    fs::read_to_string(Path::new(BASE).join(path)).unwrap()
}

#[test]
fn every_object_keeps_to_the_schema() {
    let packages = concat!(env!("CARGO_MANIFEST_DIR"), "/target/tools/python");
    if !Path::new(packages).join("kubernetes_validate").is_dir() {
        // Not eprintln: the harness hides that of a test that passes.
        let _ = writeln!(
            std::io::stderr(),
            "NOT CHECKED: Kubernetes' schema, for want of kubernetes-validate: scripts/test installs it"
        );
        return;
    }
    let validate = |files: &[&str]| {
        Command::new("python3")
            .env("PYTHONPATH", packages)
            .current_dir(BASE)
            .args(["-m", "kubernetes_validate", "--strict"])
            .args(files)
            .output()
            .unwrap()
    };
    let said = validate(&[
        "base/pipelock.yaml",
        "base/agent.yaml",
        "base/network-policy.yaml",
        "bottle/namespace.yaml",
    ]);
    assert!(said.status.success(), "{}", both(&said));
    assert_eq!(
        both(&said).matches(" passed ").count(),
        7,
        "{}",
        both(&said)
    );
    // The validator does refuse what is wrong.
    let scratch = microvm::ScratchDir::new().unwrap();
    let wrong = scratch.join("wrong.yaml");
    fs::write(
        &wrong,
        object("base/pipelock.yaml").replace("replicas: 1", "replicsa: 1"),
    )
    .unwrap();
    assert!(!validate(&[wrong.to_str().unwrap()]).status.success());
}

/// The commands of docs/kubernetes.md up to what a cluster would be told, and what it would.
#[test]
fn kustomize_puts_a_bottle_together_with_and_without_a_machine_for_each_pod() {
    let kustomize = concat!(env!("CARGO_MANIFEST_DIR"), "/target/tools/bin/kustomize");
    if !Path::new(kustomize).exists() {
        let _ = writeln!(
            std::io::stderr(),
            "NOT CHECKED: what kustomize makes of image/kubernetes, for want of it: scripts/test \
             builds it where there is a Go of its time"
        );
        return;
    }
    let scratch = microvm::ScratchDir::new().unwrap();
    let bottles = scratch.join("my-bottles");
    let copied = Command::new("cp")
        .arg("-r")
        .arg(BASE)
        .arg(&bottles)
        .status();
    assert!(copied.unwrap().success());
    let make = || {
        let made = Command::new(bottles.join("new-bottle"))
            .env("SIDECAR_INIT", env!("CARGO_BIN_EXE_sidecar-init"))
            .args(["dev-agent", "bottle/manifest.yaml"])
            .current_dir(&bottles)
            .output()
            .unwrap();
        assert!(made.status.success(), "{}", both(&made));
    };
    let bottle = bottles.join("dev-agent");
    let contents = || -> Vec<(String, Vec<u8>)> {
        let files = fs::read_dir(&bottle).unwrap().map(|entry| entry.unwrap());
        let mut all: Vec<_> = files
            .map(|file| {
                let name = file.file_name().into_string().unwrap();
                (name, fs::read(file.path()).unwrap())
            })
            .collect();
        all.sort();
        all
    };
    make();
    let first = contents();
    // Made again it is the same, its CA too.
    make();
    assert_eq!(contents(), first);
    let build = || {
        let built = Command::new(kustomize)
            .arg("build")
            .arg(&bottle)
            .output()
            .unwrap();
        assert!(built.status.success(), "{}", both(&built));
        String::from_utf8(built.stdout).unwrap()
    };
    let count = |objects: &str, line: &str| objects.lines().filter(|it| it.trim() == line).count();

    let plain = build();
    for (kind, number) in [
        ("Namespace", 1),
        ("Deployment", 2),
        ("Service", 1),
        ("Secret", 1),
        ("ConfigMap", 2),
    ] {
        assert_eq!(
            count(&plain, &format!("kind: {kind}")),
            number,
            "{kind}\n{plain}"
        );
    }
    assert!(!plain.contains("runtimeClassName"));
    // The key is in the Secret, and the agent is given none.
    let key = fs::read_to_string(bottle.join("ca-key.pem")).unwrap();
    assert!(key.contains("EC PRIVATE KEY") && !plain.contains("EC PRIVATE KEY"));
    assert_eq!(plain.matches("ca-key.pem: ").count(), 1, "{plain}");
    // Both Pods name the certificate by its hash: a new one starts them anew.
    assert_eq!(plain.matches("name: pipelock-ca-").count(), 3, "{plain}");

    let file = bottle.join("kustomization.yaml");
    let text = fs::read_to_string(&file).unwrap();
    for machine in ["kata", "smolvm"] {
        let with = text.replace(
            "# components: [../components/kata]",
            &format!("components: [../components/{machine}]"),
        );
        assert_ne!(with, text);
        fs::write(&file, with).unwrap();
        let wanted = format!("runtimeClassName: {machine}");
        assert_eq!(count(&build(), &wanted), 2, "{machine}");
    }
    // Of a bundle nobody outside reaches pipelock's own port.
    let with = text.replace(
        "# components: [../components/kata]",
        "components: [../components/bundle]",
    );
    fs::write(&file, with).unwrap();
    let bundle = build();
    assert!(
        plain.contains("port: 8888") && !bundle.contains("8888"),
        "{bundle}"
    );
    for port in [8080, 9418, 9000] {
        // The Service, and the two policies.
        let wanted = format!("port: {port}");
        let lines = bundle
            .lines()
            .map(|line| line.trim_start_matches([' ', '-']));
        assert_eq!(lines.filter(|line| *line == wanted).count(), 3, "{bundle}");
    }
}

#[test]
fn no_bottle_is_made_of_a_name_or_a_manifest_that_is_none() {
    let scratch = microvm::ScratchDir::new().unwrap();
    let made = |slug: &str, manifest: &str| {
        let file = scratch.join("manifest.yaml");
        fs::write(&file, manifest).unwrap();
        Command::new(Path::new(BASE).join("new-bottle"))
            .env("SIDECAR_INIT", env!("CARGO_BIN_EXE_sidecar-init"))
            .arg(slug)
            .arg(&file)
            .arg(scratch.join("made"))
            .output()
            .unwrap()
    };
    let long = "a".repeat(57);
    for slug in [
        "", "Bottle", "a_b", "-a", "a-", "../a", "a b", "base", "bottle", &long,
    ] {
        let said = made(slug, "version: 1\nslug: a\nbottle: {}\n");
        assert!(!said.status.success(), "{slug}");
        let wanted = format!("cannot make a bottle called \"{slug}\"");
        assert!(both(&said).starts_with(&wanted), "{}", both(&said));
    }
    let said = made("a", "version: 1\nslug: a\nbotle: {}\n");
    assert!(!said.status.success());
    assert!(
        both(&said).contains("botle: unknown key"),
        "{}",
        both(&said)
    );
    assert!(!scratch.join("made").exists());
}

#[test]
fn the_agent_has_the_variables_of_client_env() {
    let Some(engine) = engine() else { return };
    let bottle = engine.bottle("variables", "bottle: {}\n");
    let volumes = [
        ("sidecar", "/etc/sidecar"),
        ("export", "/run/sidecar/export"),
    ]
    .map(|(from, to)| format!("--volume={}:{to}", bottle.join(from).display()));
    engine.run(&[
        "run",
        "--detach",
        "--name=variables",
        "--network=none",
        &volumes[0],
        &volumes[1],
        IMAGE,
    ]);
    engine.wait_healthy("variables");
    let variables = fs::read_to_string(bottle.join("export/client.env")).unwrap();
    let wanted: Vec<&str> = variables
        .lines()
        .filter_map(|line| Some(line.split_once('=')?.0))
        // It names a file of the export, which a Pod of another network does not share.
        .filter(|name| *name != "SIDECAR_FOR_AGENTS")
        .collect();
    let agent = object("base/agent.yaml");
    let given: Vec<&str> = agent
        .lines()
        .filter_map(|line| {
            line.trim()
                .strip_prefix("- {name: ")?
                .split_once(", value: ")
        })
        .map(|(name, _)| name)
        .collect();
    assert_eq!(given, wanted);
}

#[test]
fn pipelock_s_pod_is_ready_when_podman_plays_it() {
    let Some(engine) = engine() else { return };
    // Without the Secret, which podman's play does not mount with a mode: the init makes
    // its own CA. The Service is passed over, and so is the readiness probe.
    let pod = object("base/pipelock.yaml")
        .replace("image: sidecar-init", &format!("image: {IMAGE}\n          imagePullPolicy: Never"))
        .replace(
            "          args: [run, --cert, /etc/pipelock-ca/ca.pem, --key, /etc/pipelock-ca/ca-key.pem]\n",
            "          args: [run, --require-sandbox]\n",
        )
        .replace("            - {name: ca, mountPath: /etc/pipelock-ca, readOnly: true}\n", "")
        .replace(
            "          projected:
            defaultMode: 0440
            sources:
              - secret: {name: pipelock-ca}
              - configMap: {name: pipelock-ca}
",
            "          emptyDir: {}
",
        );
    assert!(
        !pod.contains("ca.pem") && pod.contains("--require-sandbox"),
        "{pod}"
    );
    let manifest = object("bottle/manifest.yaml");
    let indented: String = manifest
        .lines()
        .map(|line| format!("    {line}\n"))
        .collect();
    let objects = format!(
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: sidecar-manifest}}\ndata:\n  manifest.yaml: |\n{indented}---\n{pod}"
    );
    let file = engine.scratch.join("pod.yaml");
    fs::write(&file, objects).unwrap();
    engine.run(&["network", "create", "--internal", "inside"]);
    engine.run(&["play", "kube", "--network=inside", file.to_str().unwrap()]);
    // Older podmans number the Pods of a Deployment.
    let names = engine.run(&["ps", "--format={{.Names}}"]);
    let name = names
        .lines()
        .find(|name| name.ends_with("-pipelock"))
        .unwrap();
    let probe = ["exec", name, "/sbin/sidecar-init", "healthcheck"];
    engine.wait_until(name, "its probe passes", || {
        engine.try_run(&probe).status.success().then_some(())
    });
    let status = engine.status(name);
    assert_eq!(status["slug"], "dev-agent", "{status}");
    assert_eq!(status["daemon"]["uid"], 65534, "{status}");
    assert_eq!(status["daemon"]["sandbox_verified"], true, "{status}");
    engine.run(&["stop", name]);
    assert_eq!(engine.wait_end(name), 0, "{}", engine.logs(name));
}
