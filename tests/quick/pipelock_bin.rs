//! Whoever names a pipelock for the image gets that one or an error, never another.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};

use microvm::{Arch, ScratchDir, shipped_init};

fn checkout() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// What `image/pipelock` makes of a `PIPELOCK_BIN`.
fn choose(pipelock_bin: &Path, scratch: &ScratchDir) -> Output {
    Command::new(checkout().join("image/pipelock"))
        .args([Arch::host().name().as_ref(), scratch.path()])
        .env("PIPELOCK_BIN", pipelock_bin)
        .output()
        .unwrap()
}

fn assert_refused(pipelock_bin: &Path, scratch: &ScratchDir, says: &str) {
    let chosen = choose(pipelock_bin, scratch);
    let complaint = String::from_utf8_lossy(&chosen.stderr);
    assert!(!chosen.status.success(), "{}", pipelock_bin.display());
    assert_eq!(chosen.stdout, b"", "it names a pipelock all the same");
    assert!(complaint.contains(says), "{complaint}");
}

#[test]
fn refuses_what_is_not_there_or_cannot_be_run() {
    let scratch = ScratchDir::new().unwrap();
    let missing = scratch.join("missing");
    assert_refused(&missing, &scratch, "is not an executable file");
    assert_refused(scratch.path(), &scratch, "is not an executable file");
    let plain = scratch.join("plain");
    fs::write(&plain, "no program").unwrap();
    assert_refused(&plain, &scratch, "is not an executable file");
}

#[test]
fn refuses_a_script_whatever_it_answers() {
    let scratch = ScratchDir::new().unwrap();
    let script = scratch.join("pipelock");
    fs::write(&script, "#!/bin/sh\necho pipelock version 2.3.0\n").unwrap();
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    assert_refused(&script, &scratch, "it is not an ELF executable");
}

#[test]
fn refuses_a_program_that_needs_libraries() {
    let scratch = ScratchDir::new().unwrap();
    assert_refused(Path::new("/bin/sh"), &scratch, "it is dynamically linked");
}

#[test]
fn refuses_a_static_program_that_does_not_say_it_is_pipelock() {
    let scratch = ScratchDir::new().unwrap();
    let init = shipped_init(Arch::host()).unwrap();
    assert!(init.is_file(), "{} is not built", init.display());
    assert_refused(&init, &scratch, "as pipelock: `");
}
