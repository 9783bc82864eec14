//! A daemon that says all the right things and refuses nothing.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use microvm::{Arch, BOOT_DEADLINE, Ending, FileSystem, ScratchDir, make_disk, shipped_init};

use super::bed::{Bottle, network, prepare};
use crate::support::upstream::program;

/// The stand-in whatever daemon the bundle has: only that one can be told to misbehave.
fn root_with_fault(fault: &str, scratch: &ScratchDir) -> PathBuf {
    let checkout = Path::new(env!("CARGO_MANIFEST_DIR"));
    let arch = Arch::chosen().unwrap();
    let tree = scratch.join("root");
    let staged = Command::new(checkout.join("image/stage"))
        .arg(&tree)
        .args([shipped_init(arch).unwrap(), program(arch, "pipelock")])
        .status()
        .unwrap();
    assert!(staged.success());
    // Behind the program itself: its sandbox lets it read no file beside it.
    let mut daemon = OpenOptions::new()
        .append(true)
        .open(tree.join("usr/bin/pipelock"))
        .unwrap();
    write!(daemon, "\n#faults\n{fault}").unwrap();
    drop(daemon);
    let image = scratch.join("root.erofs");
    make_disk(FileSystem::Erofs, &tree, &image).unwrap();
    image
}

#[test]
fn a_daemon_that_is_healthy_and_allows_everything_never_counts_as_ready() {
    let own = ScratchDir::new().unwrap();
    let image = root_with_fault("allow-everything\n", &own);
    let (machine, _scratch, _upstream) = prepare(Bottle {
        manifest: format!("version: 1\nslug: impostor\nbottle: {{}}\n{}", network("")),
        trust: false,
    });
    let running = machine.root_override(image).boot().unwrap();
    let result = running.wait_for_result(BOOT_DEADLINE).unwrap();
    assert_eq!(running.wait_end(BOOT_DEADLINE).unwrap(), Ending::Reset);
    assert_eq!(result["exit_code"], 69, "{result}");
    assert_eq!(result["stage"], "ready", "{result}");
    assert_eq!(result["state"], "failed", "{result}");
    let console = running.console();
    assert!(
        console
            .contains("answered the canary, CONNECT canary.invalid:443, with 200 instead of 403"),
        "{console}"
    );
    assert!(!console.contains("sidecar-init: ready"), "{console}");
    // Nor does it pass itself off as the real one.
    assert!(console.contains("stand-in for pipelock"), "{console}");
    assert!(console.contains("not a security product"), "{console}");
}
