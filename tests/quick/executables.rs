//! A daemon that cannot be executed: what is said of that, and by which code it ends.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
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
