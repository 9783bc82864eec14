//! The image under a container engine, as an operator runs it: started, asked, stopped,
//! broken. With PIPELOCK_BIN in the image, all of it on pipelock itself.

use std::fs;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::support::podman::{self, Engine, PATIENCE, engine, result, write_manifest};
use crate::support::skipped;
use crate::surroundings::Group;

const MANIFEST: &str = "bottle: {egress: {routes: [{host: a.example}]}}\n";

/// Starts a container of a bottle with these further options; its name is the bottle's.
fn start(engine: &Engine, name: &str, manifest: &str, options: &[&str]) {
    let bottle = engine.bottle(name, manifest);
    let volume = format!("{}:/etc/sidecar:ro", bottle.join("sidecar").display());
    let run = ["run", "--detach", "--name", name, "--volume", &volume];
    engine.podman(&[&run, options, &["sidecar-init"]].concat());
}

/// Stops it, which must not take the time until podman kills, nor be anything but a stop.
fn assert_stops_clean(engine: &Engine, name: &str) -> Value {
    let begin = Instant::now();
    let said = engine.try_podman(&["stop", name]);
    let took = begin.elapsed();
    assert!(said.status.success(), "{}", podman::both(&said));
    // podman kills after ten seconds, and says so.
    assert!(took < Duration::from_secs(10), "{name}: {took:?}");
    assert!(!podman::both(&said).contains("SIGKILL"), "{said:?}");
    assert_eq!(engine.wait_end(name), 0, "{}", engine.logs(name));
    let result = result(&engine.logs(name));
    assert_eq!(result["exit_code"], 0, "{result}");
    assert_eq!(result["outcome"], "stopped", "{result}");
    result
}

/// A way to start it: name, options, the daemon's user, and how many sentences the status
/// has about what its sandbox lacks.
type Posture = (&'static str, &'static [&'static str], u32, usize);

const POSTURES: [Posture; 5] = [
    ("plain", &[], 65534, 0),
    ("nobody", &["--user=65534"], 65534, 1),
    // The daemon has the init's user, root without any capability: said, and not the best.
    (
        "root-confined",
        &[
            "--read-only",
            "--cap-drop=all",
            "--security-opt=no-new-privileges",
            "--tmpfs=/run",
        ],
        0,
        1,
    ),
    (
        "nobody-confined",
        &[
            "--user=65534",
            "--read-only",
            "--cap-drop=all",
            "--security-opt=no-new-privileges",
            "--tmpfs=/run",
        ],
        65534,
        0,
    ),
    // As image/compose.yaml has it: a user of its own for the daemon, and nothing more.
    (
        "apart",
        &[
            "--read-only",
            "--cap-drop=all",
            "--cap-add=CHOWN,KILL,SETGID,SETPCAP,SETUID",
            "--security-opt=no-new-privileges",
            "--tmpfs=/run",
        ],
        65534,
        0,
    ),
];

#[test]
fn is_ready_healthy_and_stops_clean_however_it_is_started() {
    let Some(engine) = engine() else { return };
    for (name, options, uid, missing) in POSTURES {
        start(
            &engine,
            name,
            MANIFEST,
            &[&["--network=none"], options].concat(),
        );
        let status = engine.wait_healthy(name);
        assert_eq!(status["state"], "ready", "{name}: {status}");
        assert_eq!(status["mode"], "container", "{name}");
        assert_eq!(status["daemon"]["uid"], uid, "{name}: {status}");
        assert_eq!(status["daemon"]["sandbox_verified"], true, "{name}");
        let said = status["daemon"]["sandbox_missing"].as_array().unwrap();
        assert_eq!(said.len(), missing, "{name}: {said:?}");
        assert_stops_clean(&engine, name);
    }
}

/// The environment that its daemon was given.
fn environment_of_daemon(engine: &Engine, name: &str, status: &Value) -> String {
    let init = engine.inspect(name, "{{.State.Pid}}");
    let daemon = &status["daemon"]["pid"];
    let seen = format!("/proc/{init}/root/proc/{daemon}/environ");
    let read = engine.command("cat").arg(seen).output().unwrap();
    let text = String::from_utf8(read.stdout).unwrap();
    text.trim_end_matches('\0').replace('\0', " ")
}

#[test]
fn counts_with_the_memory_of_its_container_and_of_what_is_around_that() {
    let Some(engine) = engine() else { return };
    let counts = |name: &str, option: &str, wanted: &str| {
        start(&engine, name, MANIFEST, &["--network=none", option]);
        let status = engine.wait_healthy(name);
        let environment = environment_of_daemon(&engine, name, &status);
        assert_eq!(environment, wanted, "{name}");
        // It is removed with the container, and a group that is not empty cannot be.
        engine.podman(&["rm", "--force", name]);
    };
    counts("small", "--memory=128m", "GOMEMLIMIT=96MiB");
    // No limit of its own, in a group that has one and that it does not see.
    let Some(group) = Group::new(64 << 20) else {
        return skipped(
            "a container in a control group",
            "no control group can be made",
        );
    };
    let outer = group.0.parent().unwrap();
    let Ok(parent) = outer.strip_prefix("/sys/fs/cgroup/memory") else {
        return skipped(
            "a container in a control group",
            "version 2 tells nothing of what is around a container",
        );
    };
    let parent = format!("--cgroup-parent=/{}", parent.display());
    counts("within", &parent, "GOMEMLIMIT=48MiB");
}

#[test]
fn says_what_is_wrong_and_exits_by_its_code() {
    let Some(engine) = engine() else { return };
    start(
        &engine,
        "typo",
        "bottle: {}\nbottel: {}\n",
        &["--network=none"],
    );
    assert_eq!(engine.wait_end("typo"), 65);
    let log = engine.logs("typo");
    assert!(
        log.contains("manifest.yaml:4: bottel: unknown key"),
        "{log}"
    );
    assert!(log.contains("hint: did you mean \"bottle\"?"), "{log}");

    engine.podman(&[
        "run",
        "--detach",
        "--name=bare",
        "--network=none",
        "sidecar-init",
    ]);
    assert_eq!(engine.wait_end("bare"), 66);
    let log = engine.logs("bare");
    assert!(
        log.contains("cannot read /etc/sidecar/manifest.yaml: No such file"),
        "{log}"
    );
}

#[test]
fn gives_up_on_a_crash_loop_with_its_code_and_the_daemons_last_words() {
    let Some(engine) = engine() else { return };
    // A program that the image's kernel can run and that ends at once: the init itself,
    // which knows no --config.
    let program = std::env::var("SIDECAR_INIT_BIN").unwrap_or_else(|_| {
        let arch = std::env::consts::ARCH;
        format!(
            "{}/target/{arch}-unknown-linux-musl/release/sidecar-init",
            env!("CARGO_MANIFEST_DIR")
        )
    });
    let volume = format!("--volume={program}:/usr/bin/pipelock:ro");
    start(&engine, "loop", MANIFEST, &["--network=none", &volume]);
    assert_eq!(engine.wait_end("loop"), 69);
    let log = engine.logs("loop");
    assert!(log.contains("giving up after repeated failures"), "{log}");
    assert!(log.contains("invalid option '--config'"), "{log}");
    assert_eq!(result(&log)["outcome"], "failed at ready", "{log}");
}

#[test]
fn every_line_of_the_daemon_arrives_in_the_log() {
    const REFUSED: usize = 400;
    let Some(engine) = engine() else { return };
    engine.make_agent_image();
    start(&engine, "talkative", MANIFEST, &["--network=none"]);
    engine.wait_healthy("talkative");
    // One line for each refusal; curl's own globbing makes the names.
    let url = format!("http://host[1-{REFUSED}].example/");
    engine.podman(&[
        "run",
        "--rm",
        "--network=container:talkative",
        "my-agent",
        "curl",
        "--silent",
        "--proxy",
        "http://127.0.0.1:8888",
        &url,
    ]);
    assert_stops_clean(&engine, "talkative");
    let log = engine.logs("talkative");
    let missing: Vec<usize> = (1..=REFUSED)
        .filter(|number| !log.contains(&format!("host{number}.example")))
        .collect();
    assert!(missing.is_empty(), "{missing:?} of {REFUSED} are missing");
    assert_eq!(result(&log)["dropped_lines"], 0);
}

#[test]
fn follows_a_manifest_that_is_replaced_by_a_symlink_as_kubernetes_does() {
    let Some(engine) = engine() else { return };
    let bottle = engine.bottle("linked", MANIFEST);
    // A ConfigMap's volume: the file is a link into a directory that is a link itself.
    let volume = engine.scratch.join("volume");
    let lay_out = |number: u32| {
        let data = volume.join(format!("..{number}"));
        fs::create_dir_all(&data).unwrap();
        fs::copy(
            bottle.join("sidecar/manifest.yaml"),
            data.join("manifest.yaml"),
        )
        .unwrap();
        let new = volume.join("..data_tmp");
        std::os::unix::fs::symlink(format!("..{number}"), &new).unwrap();
        fs::rename(new, volume.join("..data")).unwrap();
    };
    lay_out(1);
    std::os::unix::fs::symlink("..data/manifest.yaml", volume.join("manifest.yaml")).unwrap();
    let mount = format!("{}:/etc/sidecar:ro", volume.display());
    engine.podman(&[
        "run",
        "--detach",
        "--name=linked",
        "--network=none",
        "--volume",
        &mount,
        "sidecar-init",
    ]);
    engine.wait_healthy("linked");
    write_manifest(&bottle, "bottle: {}\n");
    lay_out(2);
    let status = engine.wait_until("linked", "the removed host is revoked", || {
        let status = engine.status("linked");
        (status["config"]["applied_generation"] == 2 && status["state"] == "ready")
            .then_some(status)
    });
    assert_eq!(status["revocation"]["hosts"][0], "a.example", "{status}");
    assert!(PATIENCE > Duration::ZERO);
    assert_stops_clean(&engine, "linked");
}

/// The commands that a document prints under a heading, as one script.
fn commands(document: &str, heading: &str) -> String {
    let path = format!("{}/{document}", env!("CARGO_MANIFEST_DIR"));
    let text = fs::read_to_string(path).unwrap();
    let (_, section) = text.split_once(&format!("{heading}\n")).unwrap();
    let (_, block) = section.split_once("```sh\n").unwrap();
    block.split_once("```").unwrap().0.to_owned()
}

/// What the README shows was tried where it comes from, or is said not to have been.
#[test]
fn the_readme_shows_the_lines_of_the_documents() {
    let read = |document: &str| {
        fs::read_to_string(format!("{}/{document}", env!("CARGO_MANIFEST_DIR"))).unwrap()
    };
    let readme = read("README.md");
    for (document, heading, fence) in [
        ("docs/containers.md", "## One container", "```sh\n"),
        ("docs/containers.md", "### The agent", "```sh\n"),
        ("docs/smolmachines.md", "## The sidecar", "```\n"),
        ("docs/kubernetes.md", "## One bottle", "```\n"),
    ] {
        let text = read(document);
        let (_, section) = text.split_once(&format!("{heading}\n")).unwrap();
        let (_, block) = section.split_once(fence).unwrap();
        let (lines, _) = block.split_once("```").unwrap();
        assert!(
            readme.contains(&format!("{fence}{lines}```")),
            "README.md does not show what stands in {document} under {heading}:\n{lines}"
        );
    }
}

/// A directory as the documentation expects it: a checkout's files and a manifest.
fn directory(engine: &Engine, name: &str, manifest: &str) -> std::path::PathBuf {
    let directory = engine.scratch.join(name);
    fs::create_dir_all(directory.join("image")).unwrap();
    fs::copy(
        concat!(env!("CARGO_MANIFEST_DIR"), "/image/compose.yaml"),
        directory.join("image/compose.yaml"),
    )
    .unwrap();
    let manifest = format!("version: 1\nslug: documented\n{manifest}");
    fs::write(directory.join("manifest.yaml"), manifest).unwrap();
    directory
}

/// A page on a network, at a name of its own.
fn start_upstream(engine: &Engine, network: &str) {
    let page = engine.scratch.join("page");
    fs::create_dir_all(&page).unwrap();
    fs::write(page.join("index.html"), "the page\n").unwrap();
    let volume = format!("{}:/page:ro", page.display());
    let server = "exec /usr/bin/python3 -u -m http.server --directory /page 80";
    engine.podman(&[
        "run",
        "--detach",
        "--name=upstream.test",
        "--network",
        network,
        "--volume=/usr:/usr:ro",
        "--volume",
        &volume,
        "my-agent",
        "sh",
        "-c",
        server,
    ]);
    engine.wait_until("upstream.test", "it listens", || {
        engine
            .logs("upstream.test")
            .contains("Serving HTTP")
            .then_some(())
    });
}

const ONE_HOST: &str = "bottle: {egress: {routes: [{host: upstream.test}]}}
network: {internal_cidr: 10.0.0.0/8}
";

/// That an agent gets what is allowed, nothing else, and has no other way.
fn assert_agent_is_confined(ask: impl Fn(&str) -> String) {
    assert_eq!(ask("curl -sS http://upstream.test/"), "the page");
    let refused = ask("curl -sS http://elsewhere.test/");
    assert_eq!(refused, "blocked: domain not in allowlist: elsewhere.test");
    let past =
        ask("curl -sS --noproxy upstream.test --max-time 5 http://upstream.test/ || echo no way");
    assert!(past.contains("no way"), "{past}");
    let trust = ask("grep -c BEGIN /run/sidecar-export/ca-bundle.pem");
    assert!(trust.parse::<u32>().unwrap() > 100, "{trust}");
}

#[test]
fn the_documented_commands_confine_an_agent() {
    let Some(engine) = engine() else { return };
    engine.make_agent_image();
    let here = directory(&engine, "documented", ONE_HOST);
    engine.shell(&here, &commands("docs/containers.md", "## One container"));
    start_upstream(&engine, "outside");
    assert_agent_is_confined(|script| {
        let agent = commands("docs/containers.md", "### The agent");
        let quoted = format!("sh -c '{script}'");
        let asked = engine.shell(
            &here,
            &agent.replace("my-agent", &format!("my-agent {quoted}")),
        );
        asked.trim().to_owned()
    });
    let end = engine.shell(&here, &commands("docs/containers.md", "### The end"));
    assert!(end.contains("pipelock"), "{end}");
    assert_eq!(engine.wait_end("pipelock"), 0);
}

#[test]
fn the_compose_file_confines_its_agent() {
    let Some(engine) = engine() else { return };
    engine.make_agent_image();
    let here = directory(&engine, "composed", ONE_HOST);
    engine.shell(&here, &commands("docs/containers.md", "## Compose"));
    start_upstream(&engine, "image_outside");
    assert_agent_is_confined(|script| {
        engine.podman(&["exec", "image_agent_1", "sh", "-c", script])
    });
    let status = engine.status("image_pipelock_1");
    let missing = status["daemon"]["sandbox_missing"].as_array().unwrap();
    assert!(missing.is_empty(), "{missing:?}");
    // The CA outlives the container.
    let before = status["ca"]["fingerprint_sha256"].clone();
    engine.podman(&["restart", "image_pipelock_1"]);
    let status = engine.wait_healthy("image_pipelock_1");
    assert_eq!(status["ca"]["fingerprint_sha256"], before);
    assert_eq!(status["ca"]["source"], "kept");
}
