//! The bundle's other daemons in a machine, tried from inside by one that turned hostile: the
//! attempts of `tests/quick/companions.rs`, and the two that need a machine to themselves, all
//! its processes and all its memory.

use std::fs;
use std::io::Write;
use std::net::TcpStream;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::time::{Duration, Instant};

use microvm::{
    Arch, BOOT_DEADLINE, Bundle, FileSystem, Machine, Running, ScratchDir, make_disk, read_status,
    shipped_init, wait_for_status,
};
use serde_json::{Value, json};

use crate::support::hostile::{assert_held, read_answers};
use crate::support::{fixture, upstream};

/// Where the hostile daemon takes its orders, where its sibling listens, and nobody's port.
const OBEYS: u16 = 9000;
const SIBLINGS: u16 = 9001;
const NOBODYS: u16 = 9002;

const MANIFEST: &str = r#"
version: 1
slug: attacked
bottle: {}
daemons:
  sibling:
    exec: [/usr/bin/hostile, stay, directory=/run/sidecar/sibling, name=sibling, "address=127.0.0.1:9001"]
    listen: [9001]
    proxy: false
    memory_mib: 24
  hostile:
    exec: [/usr/bin/hostile, obey, "address=0.0.0.0:9000"]
    after: [sibling]
    listen: [9000]
    connect: [8888]
    files: [/usr/bin/granted]
    proxy: false
    memory_mib: 32
"#;

/// What it attacks, beside what the status says.
const TOLD: &str = "own=/run/sidecar/hostile
theirs=/run/sidecar/sibling
credentials=/run/sidecar/credentials/hostile/token
their-credentials=/run/sidecar/credentials/sibling/token
key=/run/sidecar/pipelock-ca-key.pem
config=/run/sidecar/pipelock.yaml
manifest=/etc/sidecar/manifest.yaml
status=/run/sidecar/status.json
init=1
sibling-name=sibling
init-name=sibling
other-program=/usr/bin/other
granted-program=/usr/bin/granted
allowed=127.0.0.1:8888
";

/// A root with the stand-in and the programs of the test.
fn root(scratch: &ScratchDir) {
    let tree = scratch.join("root");
    for directory in [
        "dev",
        "proc",
        "sys",
        "run",
        "tmp",
        "sbin",
        "usr/bin",
        "etc/sidecar",
        "var/tmp",
        "var/lib/sidecar",
    ] {
        fs::create_dir_all(tree.join(directory)).unwrap();
    }
    for name in [
        "hosts",
        "resolv.conf",
        "pipelock-ca.pem",
        "pipelock-ca-key.pem",
    ] {
        symlink(format!("/run/sidecar/{name}"), tree.join("etc").join(name)).unwrap();
    }
    let install = |from: &std::path::Path, to: &str| {
        fs::copy(from, tree.join(to)).unwrap();
        set_mode(&tree.join(to), 0o755);
    };
    install(&shipped_init(Arch::X86_64).unwrap(), "sbin/sidecar-init");
    let pipelock = upstream::program(Arch::X86_64, "pipelock");
    install(&pipelock, "usr/bin/pipelock");
    fixture::compile("hostile", &[], &scratch.join("hostile"));
    for name in ["hostile", "other", "granted"] {
        install(&scratch.join("hostile"), &format!("usr/bin/{name}"));
    }
    make_disk(FileSystem::Erofs, &tree, &scratch.join("root.erofs")).unwrap();
}

fn set_mode(path: &std::path::Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

/// The record of one of the others.
fn daemon<'a>(status: &'a Value, name: &str) -> &'a Value {
    let mut daemons = status["daemons"].as_array().unwrap().iter();
    daemons.find(|it| it["name"] == name).unwrap()
}

fn order(running: &Running, order: &str) {
    let mut orders = TcpStream::connect(running.forwarded(OBEYS).unwrap()).unwrap();
    orders.write_all(order.as_bytes()).unwrap();
}

/// The same until it is heard: it listens again only when it has carried out the one before, and
/// the forwarded port takes what nobody in the machine does.
fn order_until(running: &Running, what: &str, line: &str) {
    let end = Instant::now() + BOOT_DEADLINE;
    loop {
        order(running, what);
        if running.wait_for_line(line, Duration::from_secs(3)).is_ok() {
            return;
        }
        assert!(Instant::now() < end, "{line}: {}", running.console());
    }
}

#[test]
fn a_companion_that_turns_hostile_is_stopped_and_what_it_uses_up_nobody_else_lacks() {
    let scratch = ScratchDir::new().unwrap();
    for directory in ["manifest", "export"] {
        fs::create_dir(scratch.join(directory)).unwrap();
        set_mode(&scratch.join(directory), 0o755);
    }
    fs::write(scratch.join("manifest/manifest.yaml"), MANIFEST).unwrap();
    set_mode(&scratch.join("manifest/manifest.yaml"), 0o644);
    for name in ["hostile", "sibling"] {
        let given = scratch.join("manifest/credentials").join(name);
        fs::create_dir_all(&given).unwrap();
        fs::write(given.join("token"), format!("hidden of {name}")).unwrap();
    }
    root(&scratch);
    let export = scratch.join("export");
    let running = Machine::builder(&Bundle::from_target().unwrap())
        .root_override(scratch.join("root.erofs"))
        .manifest_dir(scratch.join("manifest"))
        .export_dir(&export)
        .forward(OBEYS)
        .boot()
        .unwrap();
    let before = wait_for_status(
        &export,
        |status| {
            let daemons = status["daemons"].as_array();
            daemons.is_some_and(|all| all.len() == 2 && all.iter().all(|it| it["state"] == "ready"))
        },
        BOOT_DEADLINE,
    )
    .unwrap();
    for name in ["sibling", "hostile"] {
        let daemon = daemon(&before, name);
        assert_eq!(daemon["sandbox_missing"], json!([]), "{daemon}");
        assert_eq!(daemon["sandbox_verified"], true, "{daemon}");
        assert_eq!(daemon["cgroup"], true, "{daemon}");
    }

    let sibling = daemon(&before, "sibling");
    order(
        &running,
        &format!(
            "attack\n{TOLD}sibling={}\ntheir-user={}\ntheir-address=127.0.0.1:{SIBLINGS}\n\
             forbidden=127.0.0.1:{SIBLINGS}\nown-port=127.0.0.1:{OBEYS}\nother-port=127.0.0.1:{NOBODYS}\n",
            sibling["pid"], sibling["uid"]
        ),
    );
    // The last attempt.
    running
        .wait_for_line("\"set the clock\"", BOOT_DEADLINE)
        .unwrap();
    // The root is an erofs, which refuses before Landlock is asked.
    let but = [("make a file in /var/tmp", "30")];
    assert_held(&read_answers(&running.console()), &[], &but);

    assert!(!running.console().contains("hidden of "));
    for file in fs::read_dir(&export).unwrap() {
        let path = file.unwrap().path();
        let text = fs::read(&path).unwrap_or_default();
        let found = memchr::memmem::find(&text, b"hidden of ");
        assert_eq!(found, None, "{}", path.display());
    }
    // What its host replaces reaches it, and what is no file is not taken for one.
    let hosts = scratch.join("manifest/credentials/hostile");
    fs::create_dir(hosts.join("directory")).unwrap();
    running
        .wait_for_line("hostile keeps the credentials that it has", BOOT_DEADLINE)
        .unwrap();
    fs::remove_dir(hosts.join("directory")).unwrap();
    fs::write(hosts.join("new"), "hidden of hostile again").unwrap();
    fs::rename(hosts.join("new"), hosts.join("token")).unwrap();
    running
        .wait_for_line("the credentials of hostile were replaced", BOOT_DEADLINE)
        .unwrap();

    // pids.max is 256, and it is one of them.
    order_until(&running, "processes\n", "\"255 and then 11\"");
    order_until(&running, "memory\n", "\"memory\", \"answer\": \"begun\"");
    let after = wait_for_status(
        &export,
        |status| daemon(status, "hostile")["restarts"].as_u64() >= Some(1),
        BOOT_DEADLINE,
    )
    .unwrap();
    let text = daemon(&after, "hostile")["last_exit"]["text"].to_string();
    assert!(
        text.contains("out of memory, its limit is 32 MiB"),
        "{text}"
    );
    // Neither of the others has noticed, and all that it started is gone with it.
    let now = read_status(&export).unwrap();
    assert_eq!(daemon(&now, "sibling")["pid"], sibling["pid"]);
    assert_eq!(now["daemon"]["pid"], before["daemon"]["pid"], "{now}");
    assert_eq!(now["restarts"], 0, "{now}");
    wait_for_status(
        &export,
        |status| status["reaped"].as_u64() >= Some(256),
        BOOT_DEADLINE,
    )
    .unwrap();
    let console = running.console();
    assert!(!console.contains("Kernel panic"), "{console}");
    let global = |line: &&str| line.contains("] Out of memory: ") || line.contains("global_oom");
    assert_eq!(console.lines().find(global), None);
}
