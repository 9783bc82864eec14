//! The whole bundle in a machine: the example as scripts/run boots it, and parts that Python and
//! git run.

use std::fs;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use microvm::{
    Arch, BOOT_DEADLINE, Bundle, GUEST_ADDRESS, HOST_ADDRESS, Machine, Running, ScratchDir,
    shipped_init, wait_for_status,
};
use serde_json::Value;

use crate::support::chain::{
    BOTTLE, DEBIAN, EGRESS, GATE, INJECTED, OTHER, PARTS, PLACE, REVOKED, SECRET, SUPERVISE, TOKEN,
    Upstream, egress, others, write_token,
};
use crate::support::interception::certify;
use crate::support::skipped;

/// Python, emulated, takes ten seconds to its first line, three times, and mitmproxy half a
/// minute to its.
const READY_DEADLINE: Duration = Duration::from_secs(240);

/// In 256 MiB what mitmproxy is made of does not stay in memory and is read from the root again
/// and again: it is not there after five minutes.
const MEMORY_MIB: u32 = 1024;

fn checkout() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn said(output: &Output) -> String {
    let both = [&output.stdout[..], &output.stderr[..]].concat();
    String::from_utf8_lossy(&both).into_owned()
}

fn run(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", said(&output));
    said(&output)
}

/// A bundle with these directories in its root. `PIPELOCK_BIN` is what it says.
fn build(with: &[&Path], output: &Path) -> Bundle {
    let mut build = Command::new(checkout().join("image/build"));
    for tree in with {
        build.arg("--with").arg(tree);
    }
    build.env("SIDECAR_INIT_BIN", shipped_init(Arch::X86_64).unwrap());
    run(build.arg("x86_64").arg("--output").arg(output));
    Bundle::in_directory(Arch::X86_64, output).unwrap()
}

#[test]
fn the_example_comes_up_in_order_and_shows_a_request_that_passes_the_chain() {
    let scratch = ScratchDir::new().unwrap();
    let programs = scratch.join("programs");
    let example = checkout().join("image/example");
    run(Command::new(example.join("programs"))
        .arg("x86_64")
        .arg(&programs));
    build(&[&programs], &scratch.join("bundle"));
    let shown = run(Command::new(env!("CARGO"))
        .current_dir(checkout())
        .args([
            "run",
            "--quiet",
            "--locked",
            "--package",
            "microvm",
            "--",
            "--once",
            "--manifest",
        ])
        .arg(example.join("bundle.yaml"))
        .env("SIDECAR_ARCH", "x86_64")
        .env("SIDECAR_BUNDLE", scratch.join("bundle")));
    let at = |words: &str| {
        shown
            .find(words)
            .unwrap_or_else(|| panic!("no {words:?} in {shown}"))
    };
    let order = [
        "egress: ready",
        "git-gate: ready",
        "supervise: ready",
        "X-Passed: egress",
        "GET http://supervise",
    ];
    assert!(order.map(at).is_sorted(), "{shown}");
    assert!(!shown.contains("WRONG"), "{shown}");
}

#[test]
fn a_root_takes_no_file_that_the_image_has_and_is_the_same_again() {
    let scratch = ScratchDir::new().unwrap();
    let tree = scratch.join("tree");
    fs::create_dir_all(tree.join("usr/bin")).unwrap();
    fs::write(tree.join("usr/bin/part"), "a part").unwrap();
    let first = build(&[&tree], &scratch.join("first"));
    run(Command::new("touch")
        .arg("--date=@1")
        .arg(tree.join("usr/bin/part")));
    let again = build(&[&tree], &scratch.join("again"));
    assert_eq!(fs::read(first.root).unwrap(), fs::read(again.root).unwrap());
    for (path, words) in [
        (
            "usr/bin/pipelock",
            "the image has a /usr/bin/pipelock of its own",
        ),
        ("etc/hosts", "the image has a /etc/hosts of its own"),
        ("dev", "the image has a /dev of its own"),
    ] {
        let other = scratch.join(path.replace('/', "-"));
        let file = other.join(path);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(file, "another").unwrap();
        let refused = Command::new(checkout().join("image/build"))
            .args(["x86_64", "--with"])
            .arg(&other)
            .arg("--output")
            .arg(scratch.join("refused"))
            .env("SIDECAR_INIT_BIN", shipped_init(Arch::X86_64).unwrap())
            .output()
            .unwrap();
        assert!(
            !refused.status.success() && said(&refused).contains(words),
            "{}",
            said(&refused)
        );
        assert!(!scratch.join("refused/root.erofs").exists());
    }
}

fn manifest(bottle: &str) -> String {
    format!(
        "version: 1\nslug: chain\nbottle: {bottle}\n\
         network: {{internal_cidr: 10.0.2.0/24, hosts: {{{INJECTED}: {HOST_ADDRESS}, {OTHER}: {HOST_ADDRESS}, supervise: {GUEST_ADDRESS}}}}}\n\
         pipelock: {{listen: \"127.0.0.1:8888\", requests_per_minute: 600}}\n\
         daemons:\n{}{}supervisor: {{grace_seconds: 2, probe_seconds: 5}}\n",
        egress(PLACE, "/run/sidecar"),
        others(PLACE)
    )
}

fn is_ready(status: &Value) -> bool {
    status["state"] == "ready"
}

/// Whose certificates are trusted, beside the manifest.
fn trust(scratch: &ScratchDir) {
    certify(scratch.path(), &[INJECTED, OTHER]);
    let trust = scratch.join("manifest/trust");
    fs::create_dir(&trust).unwrap();
    fs::copy(scratch.join("root.pem"), trust.join("root.pem")).unwrap();
}

fn wait_until_all_are_ready(running: &Running, scratch: &ScratchDir, began: Instant) {
    let status = wait_for_status(
        &scratch.join("export"),
        |status| {
            let daemons = status["daemons"].as_array();
            is_ready(status) && daemons.is_some_and(|all| all.iter().all(is_ready))
        },
        READY_DEADLINE,
    );
    let status = status.unwrap_or_else(|error| panic!("{error}\n{}", running.console()));
    let _ = std::io::Write::write_fmt(
        &mut std::io::stderr(),
        format_args!(
            "Python's three daemons are ready after {:.0} s\n",
            began.elapsed().as_secs_f64()
        ),
    );
    for daemon in status["daemons"].as_array().unwrap() {
        assert_eq!(daemon["sandbox_verified"], true, "{daemon}");
        assert_eq!(daemon["cgroup"], true, "{daemon}");
    }
}

fn write(scratch: &ScratchDir, bottle: &str) {
    fs::write(scratch.join("new"), manifest(bottle)).unwrap();
    fs::rename(scratch.join("new"), scratch.join("manifest/manifest.yaml")).unwrap();
}

fn assert_a_revocation_cuts(
    running: &Running,
    scratch: &ScratchDir,
    agent: &dyn Fn(&str) -> Command,
    page: &dyn Fn(&str, &str) -> String,
) {
    // An open stream ends with the host's permission, and supervise with its switch.
    let events = scratch.join("events");
    let mut stream = agent(&format!(
        "exec {} -N > \"$W/events\"",
        page(INJECTED, "/events")
    ))
    .stderr(Stdio::null())
    .spawn()
    .unwrap();
    let end = Instant::now() + BOOT_DEADLINE;
    while fs::metadata(&events).map_or(0, |file| file.len()) < 60 {
        assert!(Instant::now() < end, "no stream\n{}", running.console());
        std::thread::sleep(Duration::from_millis(50));
    }
    write(scratch, REVOKED);
    while stream.try_wait().unwrap().is_none() {
        assert!(
            Instant::now() < end,
            "the stream goes on\n{}",
            running.console()
        );
        std::thread::sleep(Duration::from_millis(50));
    }
    wait_for_status(
        &scratch.join("export"),
        |status| is_ready(status) && status["config"]["applied_generation"] == 2,
        BOOT_DEADLINE,
    )
    .unwrap();
    for (script, words) in [
        (page(INJECTED, "/again"), "403 Forbidden"),
        (
            format!("$CURL http://supervise:{SUPERVISE}/"),
            "domain not in allowlist",
        ),
    ] {
        let said = said(&agent(&script).output().unwrap());
        assert!(said.contains(words), "{script}: {said}");
    }
}

#[test]
fn clones_pushes_questions_and_a_token_get_through_a_machine_with_mitmproxy_and_git() {
    let scratch = ScratchDir::new().unwrap();
    assert!(
        Path::new(DEBIAN).exists(),
        "cannot find {DEBIAN}\nhint: scripts/test makes it; or image/debian-tree {DEBIAN} git python3 mitmproxy"
    );
    if !Path::new(DEBIAN).join("usr/bin/mitmdump").exists() {
        skipped("mitmproxy in a machine", "this system's packages have none");
        return;
    }
    let bundle = build(
        &[Path::new(DEBIAN), Path::new(PARTS)],
        &scratch.join("bundle"),
    );
    for directory in ["manifest", "export"] {
        fs::create_dir(scratch.join(directory)).unwrap();
    }
    trust(&scratch);
    write(&scratch, BOTTLE);
    write_token(&scratch.join("manifest"), TOKEN);
    let upstream = Upstream::start(Command::new("env"), "", scratch.path(), ("127.0.0.1", 0));
    let running = Machine::builder(&bundle)
        .manifest_dir(scratch.join("manifest"))
        .export_dir(scratch.join("export"))
        .memory_mib(MEMORY_MIB)
        .forward(EGRESS)
        .forward(GATE)
        .boot()
        .unwrap();
    let began = Instant::now();
    wait_until_all_are_ready(&running, &scratch, began);
    let (proxy, gate) = (
        running.forwarded(EGRESS).unwrap(),
        running.forwarded(GATE).unwrap(),
    );
    let port = upstream.port;
    let agent = |script: &str| {
        let mut agent = Command::new("sh");
        agent.args(["-euc", script]).env("W", scratch.path()).env(
            "CURL",
            format!(
                "curl -sSv --max-time 60 --cacert {}/export/ca-bundle.pem --proxy http://{proxy}",
                scratch.path().display()
            ),
        );
        agent
    };
    let page = |host: &str, path: &str| format!("$CURL https://{host}:{port}{path}");
    for (script, words) in [
        (page(INJECTED, "/page"), "the page"),
        (page(OTHER, "/page"), "the page"),
        (
            page(INJECTED, "/secret") + " --data-binary " + SECRET,
            "AWS Access ID",
        ),
        (
            format!("$CURL http://elsewhere.test:{port}/"),
            "domain not in allowlist",
        ),
        (
            "$CURL https://elsewhere.test/".to_owned(),
            "refused HTTP CONNECT request: 403 Forbidden",
        ),
        (
            format!("$CURL http://supervise:{SUPERVISE}/approvals -d may-i"),
            "somebody will look",
        ),
        (
            format!(
                "git clone -q http://{gate}/work.git \"$W/work\"; git -C \"$W/work\" push origin HEAD:agent/x"
            ),
            "HEAD -> agent/x",
        ),
        (
            format!("git -C \"$W/work\" push origin HEAD:refs/heads/x || true # {gate}"),
            "403",
        ),
    ] {
        let said = said(&agent(&script).output().unwrap());
        assert!(
            said.contains(words),
            "{script}: {said}\n{}",
            running.console()
        );
        assert!(!said.contains(TOKEN), "{script}: {said}");
    }
    let token = Value::from(format!("Bearer {TOKEN}"));
    assert_eq!(
        upstream.authorizations(INJECTED, "/page", 1),
        [token],
        "{}",
        running.console()
    );
    assert_eq!(upstream.authorizations(OTHER, "/page", 1), [Value::Null]);
    assert!(upstream.authorizations(INJECTED, "/secret", 0).is_empty());

    assert_a_revocation_cuts(&running, &scratch, &agent, &page);
    assert!(upstream.authorizations(INJECTED, "/again", 0).is_empty());
}
