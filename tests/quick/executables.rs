//! A daemon that cannot be executed, or cannot get at what it lives on: what is said of that,
//! before it is tried where that can be, and by which code it ends.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;

use nix::unistd::geteuid;

use crate::support::{Bed, Console, End, Place, skipped};

fn chmod(path: &Path, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

fn end_of(bed: Bed) -> End {
    bed.start(Place::Child).wait_end()
}

/// The bed's directory, its own, and one below it that only root may enter.
fn private(bed: &Bed) -> std::path::PathBuf {
    let private = bed.path("private");
    fs::create_dir(&private).unwrap();
    chmod(&private, 0o700);
    private
}

fn moved_to(directory: &Path, bed: Bed, option: &str, name: &str) -> Bed {
    let place = directory.join(name);
    bed.with_argument(option)
        .with_argument(place.to_str().unwrap())
}

// Private directories.

/// What is in the private directory, the code, what pipelock cannot do, and how it gets there.
type Case = (&'static str, i32, &'static str, fn(&Path, Bed) -> Bed);

#[test]
fn names_the_directory_that_keeps_pipelock_out_before_it_is_started() {
    if !geteuid().is_root() {
        return skipped(
            "private directories",
            "as root alone the daemon is another user",
        );
    }
    let cases: [Case; 5] = [
        ("the program", 126, "be executed", |directory, bed| {
            let moved = Command::new("mv")
                .arg(bed.path("pipelock"))
                .arg(directory)
                .status();
            assert!(moved.unwrap().success());
            moved_to(directory, bed, "--daemon", "pipelock")
        }),
        (
            "the run directory",
            69,
            "read its configuration",
            |directory, bed| moved_to(directory, bed, "--run-dir", "run"),
        ),
        (
            "the certificate",
            78,
            "read the CA certificate",
            |directory, bed| moved_to(directory, bed, "--cert", "ca.pem"),
        ),
        ("the key", 78, "read the CA key", |directory, bed| {
            moved_to(directory, bed, "--key", "ca.key")
        }),
        (
            "by a link",
            69,
            "read its configuration",
            |directory, bed| {
                symlink(directory, bed.path("link")).unwrap();
                let link = bed.path("link");
                moved_to(&link, bed, "--run-dir", "run")
            },
        ),
    ];
    for (what, code, does, place) in cases {
        let bed = Bed::new().with_any_daemon();
        let directory = private(&bed);
        for run in [directory.join("run"), bed.path("run")] {
            fs::create_dir(run).unwrap();
        }
        let init = place(&directory, bed).start(Place::Child).without_status();
        let end = init.wait_end();
        let path = directory.display();
        let wanted = format!(
            "pipelock cannot {does}: it runs as 65534:65534, and the mode of {path} is 0700\n\
             hint: chmod o+x {path}, or name a place outside of it"
        );
        assert_eq!(end.error(), wanted, "{what}");
        assert_eq!(end.code, code, "{what}: {}", end.console_text());
        assert_eq!(end.result["failures"], 0, "{what}: it was started");
    }
}

#[test]
fn names_a_directory_once_that_keeps_pipelock_out_of_everything() {
    if !geteuid().is_root() {
        return skipped(
            "private directories",
            "as root alone the daemon is another user",
        );
    }
    // As `mktemp -d` makes one.
    let bed = Bed::new().with_any_daemon();
    let whole = bed.path("");
    chmod(&whole, 0o700);
    let end = end_of(bed);
    assert_eq!(end.code, 126, "{}", end.console_text());
    assert_eq!(end.error().matches("is 0700").count(), 1, "{}", end.error());
    // What is advised helps.
    chmod(&whole, 0o701);
    let mut init = end.bed.start(Place::Child);
    init.wait_ready();
    assert_eq!(init.stop().0.code, 0);
}

#[test]
fn a_list_that_lets_pipelock_in_is_believed_before_the_mode() {
    if !geteuid().is_root() {
        return skipped(
            "access control lists",
            "as root alone the daemon is another user",
        );
    }
    let bed = Bed::new().with_any_daemon();
    chmod(&bed.path(""), 0o700);
    let set = Command::new("setfacl")
        .args(["-m", "u:65534:x"])
        .arg(bed.path(""))
        .status();
    if !set.is_ok_and(|status| status.success()) {
        return skipped(
            "access control lists",
            "there is no setfacl, or the file system has none",
        );
    }
    let mut init = bed.start(Place::Child);
    init.wait_ready();
    assert_eq!(init.stop().0.code, 0);
}

#[test]
fn a_daemon_that_is_not_there_is_said_not_to_be_wherever_it_is_not() {
    let bed = Bed::new();
    let directory = private(&bed);
    let end = end_of(moved_to(&directory, bed, "--daemon", "pipelock"));
    assert_eq!(end.code, 127, "{}", end.console_text());
    let program = directory.join("pipelock");
    let wanted = format!(
        "cannot execute {}: No such file or directory",
        program.display()
    );
    assert!(end.error().ends_with(&wanted), "{}", end.error());
}

// Programs.

/// The end of an init whose daemon is this.
fn end_with(bytes: &[u8]) -> End {
    let bed = Bed::new();
    let program = bed.path("pipelock");
    fs::remove_file(&program).unwrap();
    // By another process: a file that is open for writing anywhere cannot be executed.
    fs::write(bed.path("bytes"), bytes).unwrap();
    let copied = Command::new("cp")
        .arg(bed.path("bytes"))
        .arg(&program)
        .status();
    assert!(copied.unwrap().success());
    chmod(&program, 0o755);
    end_of(bed)
}

fn replaced(bytes: &[u8], from: &[u8], to: &[u8]) -> Vec<u8> {
    assert_eq!(from.len(), to.len());
    let at = bytes.windows(from.len()).position(|it| it == from).unwrap();
    [&bytes[..at], to, &bytes[at + from.len()..]].concat()
}

#[test]
fn names_what_a_program_needs_and_is_not_there() {
    let end = end_with(b"#!/nowhere/python3 -I\n");
    let lacks =
        "No such file or directory: its first line names \"/nowhere/python3\", which is not there";
    assert!(end.error().contains(lacks), "{}", end.error());
    assert_eq!(end.code, 127);

    let end = end_with(b"#!/bin/sh\r\nexit 0\r\n");
    assert!(
        end.error().contains(r#"names "/bin/sh\r", which"#),
        "{}",
        end.error()
    );
    assert!(end.error().contains("as dos2unix does"), "{}", end.error());
    assert_eq!(end.code, 127);

    // A program that is linked to its loader, as every Debian has one.
    let program = fs::read("/bin/true").unwrap();
    let Some(at) = program.windows(8).position(|it| it == b"/ld-linu") else {
        return skipped("a missing loader", "/bin/true is linked to none of glibc's");
    };
    let loader = &program[at..at + 9];
    let end = end_with(&replaced(&program, loader, b"/ld-other"));
    let error = end.error();
    assert!(
        error.contains("No such file or directory: its loader /lib"),
        "{error}"
    );
    assert!(
        error.contains("/ld-other") && error.contains("link it statically"),
        "{error}"
    );
    assert_eq!(end.code, 127);
}

#[test]
fn says_why_a_file_that_is_there_cannot_be_executed() {
    let of = |end: &End, lacks: &str| {
        assert!(end.error().contains(lacks), "{}", end.error());
        assert_eq!(end.code, 126);
    };
    of(&end_with(b""), "Exec format error: it is empty");
    of(
        &end_with(b"exit 0\n"),
        "it is neither a program nor a script that begins with #!",
    );
    let mut foreign = fs::read("/bin/true").unwrap();
    foreign[18..20].copy_from_slice(&22_u16.to_le_bytes());
    let machine = std::env::consts::ARCH;
    of(
        &end_with(&foreign),
        &format!("it is a program for s390x, and this machine is {machine}"),
    );

    let bed = Bed::new();
    fs::remove_file(bed.path("pipelock")).unwrap();
    fs::create_dir(bed.path("pipelock")).unwrap();
    of(&end_of(bed), "pipelock is a directory");

    let bed = Bed::new();
    chmod(&bed.path("pipelock"), 0o644);
    let hint = format!("hint: chmod +x {}", bed.path("pipelock").display());
    of(&end_of(bed), &hint);
    if geteuid().is_root() {
        let bed = Bed::new();
        chmod(&bed.path("pipelock"), 0o700);
        let hint = format!("hint: chmod o+x {}", bed.path("pipelock").display());
        of(&end_of(bed), &hint);
    }
}

#[test]
fn says_that_an_interpreter_is_where_the_sandbox_lets_nothing_be_executed() {
    let bed = Bed::new();
    let copied = Command::new("cp")
        .args(["/bin/sh"])
        .arg(bed.path("shell"))
        .status();
    assert!(copied.unwrap().success());
    let script = format!("#!{}\nexit 0\n", bed.path("shell").display());
    fs::write(bed.path("script"), script).unwrap();
    chmod(&bed.path("script"), 0o755);
    let script = bed.path("script");
    let init = bed
        .with_argument("--daemon")
        .with_argument(script.to_str().unwrap())
        .start(Place::Child);
    let end = init.wait_end();
    if end.result["daemon"]["landlock"] == 0 {
        return skipped("an interpreter out of reach", "this kernel has no Landlock");
    }
    assert_eq!(end.code, 126, "{}", end.console_text());
    let wanted = "is where the sandbox lets nothing be executed\nhint: have it in /bin, ";
    assert!(end.error().contains(wanted), "{}", end.error());
}

#[test]
fn says_that_a_program_is_on_a_file_system_without_programs() {
    if !geteuid().is_root() {
        return skipped("a mount without programs", "mounting needs root");
    }
    let bed = Bed::new();
    let directory = bed.path("noexec");
    fs::create_dir(&directory).unwrap();
    let program = directory.join("pipelock");
    let mount = format!(
        "mount -t tmpfs -o noexec,mode=755 none {0} && cp {1} {0}/pipelock && exec \"$@\"",
        directory.display(),
        bed.path("pipelock").display()
    );
    let around = ["unshare", "--mount", "sh", "-c", &mount, "sh"];
    let end = bed
        .with_argument("--daemon")
        .with_argument(program.to_str().unwrap())
        .start_under(Place::Child, Console::Read, &around)
        .wait_end();
    assert_eq!(end.code, 126, "{}", end.console_text());
    let wanted = format!(
        "{} is on a file system that is mounted noexec",
        program.display()
    );
    assert!(end.error().contains(&wanted), "{}", end.error());
}
