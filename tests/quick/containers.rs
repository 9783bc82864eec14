//! The image under a container engine, as an operator runs it: started, asked, stopped,
//! broken. With PIPELOCK_BIN in the image, all of it on pipelock itself.

mod day;

use std::fs;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::support::podman::{Engine, IMAGE, PATIENCE, engine, engine_of, result, write_manifest};
use crate::support::said::both;
use crate::support::skipped;
use crate::surroundings::Group;

const ENGINES: [&str; 2] = ["podman", "docker"];
const MANIFEST: &str = "bottle: {egress: {routes: [{host: a.example}]}}\n";

/// Starts a container of a bottle with these further options; its name is the bottle's.
fn start(engine: &Engine, name: &str, manifest: &str, options: &[&str]) {
    let bottle = engine.bottle(name, manifest);
    let volume = format!("{}:/etc/sidecar:ro", bottle.join("sidecar").display());
    let run = ["run", "--detach", "--name", name, "--volume", &volume];
    // As its own interval is five seconds.
    let sooner: &[&str] = match engine.program {
        "docker" => &["--health-interval=1s"],
        _ => &[],
    };
    engine.run(&[&run, sooner, options, &[IMAGE]].concat());
}

/// Stops it, which must not take the time until the engine kills, nor be anything but a stop.
fn assert_stops_clean(engine: &Engine, name: &str) -> Value {
    let begin = Instant::now();
    let said = engine.try_run(&["stop", name]);
    let took = begin.elapsed();
    assert!(said.status.success(), "{}", both(&said));
    // It kills after ten seconds, and podman says so.
    assert!(took < Duration::from_secs(10), "{name}: {took:?}");
    assert!(!both(&said).contains("SIGKILL"), "{said:?}");
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
            "--cap-add=CHOWN",
            "--cap-add=KILL",
            "--cap-add=SETGID",
            "--cap-add=SETPCAP",
            "--cap-add=SETUID",
            "--security-opt=no-new-privileges",
            "--tmpfs=/run",
        ],
        65534,
        0,
    ),
];

fn assert_ready_healthy_and_stops_clean(engine: &Engine) {
    for (name, options, uid, missing) in POSTURES {
        start(
            engine,
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
        assert_stops_clean(engine, name);
    }
}

#[test]
fn is_ready_healthy_and_stops_clean_however_it_is_started() {
    let Some(engine) = engine() else { return };
    assert_ready_healthy_and_stops_clean(&engine);
}

#[test]
fn is_ready_healthy_and_stops_clean_however_docker_starts_it() {
    let Some(engine) = engine_of("docker") else {
        return;
    };
    assert_ready_healthy_and_stops_clean(&engine);
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
    for program in ENGINES {
        let Some(engine) = engine_of(program) else {
            continue;
        };
        assert_counts_with_its_memory(&engine);
    }
}

fn assert_counts_with_its_memory(engine: &Engine) {
    let counts = |name: &str, option: &str, wanted: &str| {
        start(engine, name, MANIFEST, &["--network=none", option]);
        let status = engine.wait_healthy(name);
        let environment = environment_of_daemon(engine, name, &status);
        assert_eq!(environment, wanted, "{name}");
        // It is removed with the container, and a group that is not empty cannot be.
        engine.run(&["rm", "--force", name]);
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

    engine.run(&["run", "--detach", "--name=bare", "--network=none", IMAGE]);
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
    engine.run(&[
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
    engine.run(&[
        "run",
        "--detach",
        "--name=linked",
        "--network=none",
        "--volume",
        &mount,
        IMAGE,
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
    engine.run(&[
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

/// Of a bottle that may reach one host, on a network as the engine makes them.
fn one_host(engine: &Engine) -> String {
    let networks = match engine.program {
        "docker" => "172.16.0.0/12",
        _ => "10.0.0.0/8",
    };
    format!(
        "bottle: {{egress: {{routes: [{{host: upstream.test}}]}}}}\nnetwork: {{internal_cidr: {networks}}}\n"
    )
}

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

/// The commands that the README prints for a container, as they stand: to start it, and to
/// start its agent. For Docker each `podman` is a `docker`, as it says there.
fn commands_of_the_readme(engine: &Engine) -> [String; 2] {
    let text = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/README.md")).unwrap();
    let (_, section) = text.split_once("**In a container**").unwrap();
    let (section, _) = section.split_once("**On smolmachines**").unwrap();
    let blocks: Vec<String> = section
        .split("```sh\n")
        .skip(1)
        .map(|block| block.split("```").next().unwrap())
        .map(|block| block.replace("podman", engine.program))
        .collect();
    blocks.try_into().unwrap()
}

fn assert_the_readme_confines_an_agent(engine: &Engine) {
    engine.make_agent_image();
    let here = directory(engine, "documented", &one_host(engine));
    let [pipelock, agent] = commands_of_the_readme(engine);
    engine.shell(&here, &pipelock);
    let logged = engine.logs("pipelock");
    assert!(!logged.contains("running outside a container"), "{logged}");
    start_upstream(engine, "outside");
    assert_agent_is_confined(|script| {
        let asked = agent.replace("my-agent", &format!("my-agent sh -c '{script}'"));
        engine.shell(&here, &asked).trim().to_owned()
    });
    let end = commands("docs/containers.md", "### The end");
    let end = engine.shell(&here, &end.replace("podman", engine.program));
    assert!(end.contains("pipelock"), "{end}");
    assert_eq!(engine.wait_end("pipelock"), 0);
}

#[test]
fn the_commands_of_the_readme_confine_an_agent() {
    let Some(engine) = engine() else { return };
    assert_the_readme_confines_an_agent(&engine);
}

#[test]
fn the_commands_of_the_readme_confine_an_agent_of_docker() {
    let Some(engine) = engine_of("docker") else {
        return;
    };
    assert_the_readme_confines_an_agent(&engine);
}

/// What docs/containers.md adds for another user, to the commands that stand in the README.
const AS_ANOTHER: &str = "--user 65534";
const ITS_OWN: &str = "--tmpfs /run/sidecar:mode=1777";

fn assert_another_user_is_told_what_it_lacks(engine: &Engine) {
    let here = directory(engine, "another", &one_host(engine));
    let [pipelock, _] = commands_of_the_readme(engine);
    let (create, rest) = pipelock.split_once("--read-only").unwrap();
    let (rest, _) = rest.split_once("until ").unwrap();
    let script = |options: &str| format!("{create}{options} --read-only{rest}");
    engine.shell(&here, &script(AS_ANOTHER));
    assert_eq!(engine.wait_end("pipelock"), 73);
    let error = result(&engine.logs("pipelock"))["error"].clone();
    assert_eq!(
        error,
        "cannot write /run/sidecar/status.json: Permission denied: it belongs to 0:0, its mode is 0755, and this \
         init is 65534:65534\nhint: engines make the parent of a mount so; give it a file system of its own: \
         --tmpfs /run/sidecar:mode=1777"
    );
    engine.run(&["rm", "pipelock"]);
    for network in ["inside", "outside"] {
        engine.run(&["network", "rm", network]);
    }
    // What is advised helps, and what is then missing is said.
    engine.shell(&here, &script(&format!("{AS_ANOTHER} {ITS_OWN}")));
    let status = engine.wait_until("pipelock", "it is ready", || {
        let status = engine.status("pipelock");
        (status["state"] == "ready").then_some(status)
    });
    assert_eq!(status["mode"], "container", "{status}");
    let export = here.join("export");
    let logs = engine.wait_until("pipelock", "it says so", || {
        let logs = engine.logs("pipelock");
        logs.contains("the export is not up to date")
            .then_some(logs)
    });
    let hint = "it belongs to 0:0, its mode is 0755, and this init is 65534:65534";
    assert!(logs.contains(hint), "{logs}");
    assert!(logs.contains("hint: chown 65534 it on the host"), "{logs}");
    std::os::unix::fs::chown(&export, Some(65534), None).unwrap();
    engine.wait_until("pipelock", "the export is told", || {
        export.join("client.env").exists().then_some(())
    });
    assert_stops_clean(engine, "pipelock");
}

#[test]
fn another_user_is_told_what_the_mounts_of_the_readme_lack() {
    for program in ENGINES {
        if let Some(engine) = engine_of(program) {
            assert_another_user_is_told_what_it_lacks(&engine);
        }
    }
    let document =
        fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/containers.md")).unwrap();
    for told in [AS_ANOTHER, ITS_OWN, "chown 65534 export"] {
        assert!(document.contains(&format!("`{told}`")), "{told}");
    }
}

#[test]
fn a_root_that_cannot_be_written_is_told_with_what_it_takes() {
    let Some(engine) = engine_of("docker") else {
        return;
    };
    // podman mounts a tmpfs there unasked.
    start(
        &engine,
        "bare",
        MANIFEST,
        &["--network=none", "--read-only"],
    );
    assert_eq!(engine.wait_end("bare"), 73);
    let error = result(&engine.logs("bare"))["error"].clone();
    assert_eq!(
        error,
        "cannot create directory /run/sidecar: Read-only file system\nhint: have a file system that can be written \
         mounted there: --tmpfs /run"
    );
}

#[test]
fn the_compose_file_confines_its_agent() {
    let Some(engine) = engine() else { return };
    engine.make_agent_image();
    let here = directory(&engine, "composed", &one_host(&engine));
    engine.shell(&here, &commands("docs/containers.md", "## Compose"));
    start_upstream(&engine, "image_outside");
    assert_agent_is_confined(|script| engine.run(&["exec", "image_agent_1", "sh", "-c", script]));
    let status = engine.status("image_pipelock_1");
    let missing = status["daemon"]["sandbox_missing"].as_array().unwrap();
    assert!(missing.is_empty(), "{missing:?}");
    // The CA outlives the container.
    let before = status["ca"]["fingerprint_sha256"].clone();
    engine.run(&["restart", "image_pipelock_1"]);
    let status = engine.wait_healthy("image_pipelock_1");
    assert_eq!(status["ca"]["fingerprint_sha256"], before);
    assert_eq!(status["ca"]["source"], "kept");
}
