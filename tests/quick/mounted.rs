//! How a manifest comes to be where it is read: one that is mounted by itself is no name that
//! another file could get, and whoever replaces it on the host has to be told.

use std::fs;
use std::process::Command;

use serde_json::Value;

use crate::support::{Bed, Console, Init, Place, skipped};

/// An init that has these of `host/` mounted in their places, each by itself.
fn start(mounts: &[(&str, &str)]) -> Option<Init> {
    if !nix::unistd::geteuid().is_root() {
        skipped("a manifest that is mounted", "mounting needs root");
        return None;
    }
    let bed = Bed::new().with_any_daemon();
    for directory in ["host", "etc"] {
        fs::create_dir(bed.path(directory)).unwrap();
    }
    fs::write(
        bed.path("host/manifest.yaml"),
        bed.manifest_text(&["a.example"], ""),
    )
    .unwrap();
    let pair = ["--cert", "host/root.pem", "--key", "host/root.key"];
    let made = Command::new(env!("CARGO_BIN_EXE_sidecar-init"))
        .current_dir(bed.path(""))
        .arg("ca")
        .args(pair)
        .output();
    assert!(made.unwrap().status.success());
    let daemon = Some(65534);
    std::os::unix::fs::chown(bed.path("host/root.key"), daemon, daemon).unwrap();
    let mut commands = String::new();
    for (from, to) in mounts {
        let (from, to) = (bed.path(from), bed.path(to));
        if from.is_file() {
            fs::create_dir_all(to.parent().unwrap()).unwrap();
            fs::write(&to, "").unwrap();
        }
        commands += &format!("mount --bind '{}' '{}'; ", from.display(), to.display());
    }
    commands += "exec \"$@\"";
    let manifest = bed.path("etc/manifest.yaml");
    let bed = bed.with_argument(&format!("--manifest={}", manifest.display()));
    let around = ["unshare", "--mount", "sh", "-ec", &commands, "sh"];
    let mut init = bed.start_under(Place::Child, Console::Read, &around);
    init.wait_ready();
    Some(init)
}

/// What the status warns of, but for the daemon's version.
fn warnings(status: &Value) -> Vec<&str> {
    let all = status["warnings"].as_array().unwrap().iter();
    let all = all.map(|warning| warning.as_str().unwrap());
    all.filter(|warning| warning.contains("mounted by itself"))
        .collect()
}

#[test]
fn a_manifest_that_is_mounted_by_itself_is_said_never_to_be_replaced() {
    let Some(mut init) = start(&[("host/manifest.yaml", "etc/manifest.yaml")]) else {
        return;
    };
    let (host, seen) = (
        init.bed.path("host/manifest.yaml"),
        init.bed.path("etc/manifest.yaml"),
    );
    let seen = seen.display();
    let said = format!("{seen} is mounted by itself: a file that replaces it never arrives here");
    let status = init.status();
    assert!(
        matches!(warnings(&status)[..], [it] if it.starts_with(&said)),
        "{status}"
    );
    assert!(init.console().contains(&format!("warning: {said}")));

    // What is written into it does arrive.
    let hosts = ["a.example", "b.example"];
    fs::write(&host, init.bed.manifest_text(&hosts, "")).unwrap();
    init.wait_applied(2);

    // And now as editors, and everybody who wants it whole, do.
    let new = host.with_extension("new");
    fs::write(&new, init.bed.manifest_text(&["a.example"], "")).unwrap();
    fs::rename(new, &host).unwrap();
    let said = format!("{seen} is mounted by itself, and where it comes from it was replaced");
    let status = init.wait_for("it is said that the file is the old one", |status| {
        status["warnings"].to_string().contains(&said)
    });
    assert_eq!(warnings(&status).len(), 1, "{status}");
    assert_eq!(status["config"]["applied_generation"], 2);
    let told = init.bed.run(&["status"]);
    let told = String::from_utf8(told.stdout).unwrap();
    assert!(told.contains(&said), "{told}");
    assert_eq!(init.stop().0.code, 0);
}

#[test]
fn a_manifest_in_a_directory_that_is_mounted_is_replaced_without_a_word() {
    let Some(mut init) = start(&[("host", "etc")]) else {
        return;
    };
    let status = init.status();
    assert_eq!(warnings(&status), Vec::<&str>::new());
    let new = init.bed.path("host/new");
    fs::write(
        &new,
        init.bed.manifest_text(&["a.example", "b.example"], ""),
    )
    .unwrap();
    fs::rename(new, init.bed.path("host/manifest.yaml")).unwrap();
    let status = init.wait_applied(2);
    assert_eq!(warnings(&status), Vec::<&str>::new());
    assert_eq!(init.stop().0.code, 0);
}

#[test]
fn a_root_or_a_ca_that_is_mounted_by_itself_is_said_never_to_be_replaced() {
    let mounts = [
        ("host/manifest.yaml", "etc/manifest.yaml"),
        ("host/root.pem", "etc/trust/root.pem"),
        ("host/root.pem", "run/ca.crt"),
        ("host/root.key", "run/ca.key"),
    ];
    let Some(init) = start(&mounts) else {
        return;
    };
    let status = init.status();
    for file in ["etc/trust/root.pem", "run/ca.crt", "run/ca.key"] {
        let said = format!("{} is mounted by itself: ", init.bed.path(file).display());
        let all = warnings(&status);
        let of_file = all.iter().filter(|it| it.starts_with(&said));
        assert_eq!(of_file.count(), 1, "{file}: {status}");
    }
    assert_eq!(init.stop().0.code, 0);
}
