//! A console that takes nothing, of every kind there is: the init does what it is told all
//! the same, and at once.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::support::{self, Bed, Console, Init, Place, places, skipped};

/// On a machine that has other things to do as well.
const AT_ONCE: Duration = Duration::from_secs(3);

/// A daemon that says more than any console keeps for a reader that does not come.
fn talkative() -> Bed {
    Bed::new().with_faults("flood 2")
}

/// Lines were dropped, so that nothing more fits anywhere.
fn wait_full(init: &mut Init) {
    init.wait_for("the console is full", |status| {
        status["dropped_lines"].as_u64() >= Some(1) && status["state"] == "ready"
    });
}

fn obeys(init: Init, what: &str) {
    let init = halts(init, what);
    let begin = Instant::now();
    init.signal(Signal::SIGTERM);
    assert_eq!(init.wait_end_unread(), 0, "{what}");
    let took = begin.elapsed();
    assert!(took < AT_ONCE, "{what}: stopped after {took:?}");
}

fn halts(mut init: Init, what: &str) -> Init {
    let begin = Instant::now();
    init.signal(Signal::SIGUSR1);
    init.wait_for("it is halted", |status| status["state"] == "halted");
    let took = begin.elapsed();
    assert!(took < AT_ONCE, "{what}: halted after {took:?}");
    init
}

fn is_root(what: &str) -> bool {
    let root = nix::unistd::geteuid().is_root();
    if !root {
        skipped(what, "it needs root");
    }
    root
}

const WITHOUT_PROC: [&str; 6] = [
    "unshare",
    "--mount",
    "sh",
    "-c",
    "mount -t tmpfs none /proc && exec \"$@\"",
    "sh",
];

#[test]
fn a_pipe_or_a_socket_that_nobody_reads() {
    for place in places() {
        for console in [Console::Stuck, Console::StuckSocket] {
            let mut init = talkative().start_on(place, console);
            wait_full(&mut init);
            obeys(init, &format!("{console:?} in {place:?}"));
        }
    }
}

#[test]
fn a_pipe_or_a_socket_that_nobody_reads_without_proc() {
    if !is_root("consoles without /proc") {
        return;
    }
    for console in [Console::Stuck, Console::StuckSocket] {
        let mut init = talkative().start_under(Place::Child, console, &WITHOUT_PROC);
        wait_full(&mut init);
        obeys(init, &format!("{console:?}"));
    }
}

#[test]
fn a_pipe_of_another_user_that_nobody_reads() {
    if !is_root("another user's console") {
        return;
    }
    let bed = talkative();
    // The pipe is the test's, and cannot be opened again by whom it is given to.
    nix::unistd::chown(&bed.path("run"), Some(65534.into()), Some(65534.into())).unwrap();
    let user = [
        "setpriv",
        "--reuid=65534",
        "--regid=65534",
        "--clear-groups",
    ];
    let mut init = bed.start_under(Place::Child, Console::Stuck, &user);
    wait_full(&mut init);
    obeys(init, "another user's pipe");
}

#[test]
fn a_terminal_that_somebody_stopped() {
    let ways: &[&[&str]] = if is_root("a terminal without /proc") {
        &[&[], &WITHOUT_PROC]
    } else {
        &[&[]]
    };
    for way in ways {
        // Both streams go there, and wait from the first line on.
        let bed = Bed::new().with_faults("flood 2");
        let mut init = bed.start_under(Place::Child, Console::Terminal, way);
        init.type_on_terminal(b"\x13");
        wait_full(&mut init);
        obeys(init, &format!("a stopped terminal, {way:?}"));
    }
}

#[test]
fn what_was_written_before_the_end_arrives_by_whatever_way() {
    if !is_root("consoles without /proc") {
        return;
    }
    let init = Bed::new()
        .with_any_daemon()
        .start_under(Place::Child, Console::Read, &WITHOUT_PROC);
    let mut init = init;
    init.wait_for("it is ready", |status| status["state"] == "ready");
    // The last line is the result: the harness looks.
    let (end, _) = init.stop();
    assert_eq!(end.code, 0);
    assert!(end.console_text().contains("SIGTERM: stopping"));
    let bed = Bed::new().with_any_daemon();
    let log = bed.path("log");
    let into_file = format!("exec \"$@\" 2> {}", log.display());
    for place in places() {
        let around = ["sh", "-c", &into_file, "sh"];
        let mut init = Bed::new()
            .with_any_daemon()
            .start_under(place, Console::Read, &around);
        let status = init.wait_ready();
        assert_eq!(
            status["reaped"], 0,
            "no process is taken for an orphan: {status}"
        );
        init.signal(Signal::SIGTERM);
        assert_eq!(init.wait_end_unread(), 0);
        let text = assert_ends_with_result(&log);
        assert!(text.contains("SIGTERM: stopping"), "{text}");
    }
}

fn assert_ends_with_result(log: &Path) -> String {
    let text = fs::read_to_string(log).unwrap();
    let last = text.lines().last().unwrap();
    assert!(last.starts_with("sidecar-init: result {"), "{text}");
    text
}

/// A file system of its own on a file, gone with this.
struct Disk {
    directory: PathBuf,
    frozen: bool,
}

impl Disk {
    /// With so many KiB; none where this machine mounts nothing.
    fn new(kib: u32, directory: &Path) -> Option<Self> {
        let image = directory.with_extension("image");
        fs::create_dir(directory).unwrap();
        let file = fs::File::create(&image).unwrap();
        file.set_len(u64::from(kib) * 1024).unwrap();
        drop(file);
        let run = |program: &str, arguments: &[&str]| {
            let mut command = Command::new(program);
            command.args(arguments).arg(&image);
            command
        };
        let made = run("mkfs.ext4", &["-q", "-F", "-O", "^has_journal"]).status();
        let mounted = made.is_ok_and(|made| made.success())
            && run("mount", &["-o", "loop"])
                .arg(directory)
                .status()
                .is_ok_and(|mounted| mounted.success());
        mounted.then(|| Self {
            directory: directory.to_owned(),
            frozen: false,
        })
    }

    /// Until this is gone, or a test that hangs has failed long ago: what waits for a frozen
    /// disk cannot be killed, and its parent would wait for it.
    fn freeze(&mut self) {
        let directory = self.directory.clone();
        fsfreeze("--freeze", &directory);
        self.frozen = true;
        std::thread::spawn(move || {
            std::thread::sleep(support::PATIENCE / 2);
            fsfreeze("--unfreeze", &directory);
        });
    }
}

fn fsfreeze(what: &str, directory: &Path) {
    let mut command = Command::new("fsfreeze");
    command.arg(what).arg(directory).stderr(Stdio::null());
    let _ = command.status();
}

impl Drop for Disk {
    fn drop(&mut self) {
        if self.frozen {
            fsfreeze("--unfreeze", &self.directory);
        }
        let end = Instant::now() + support::PATIENCE;
        // Who was stuck in it takes a moment to leave.
        while Instant::now() < end {
            let left = Command::new("umount").arg(&self.directory).status();
            if left.is_ok_and(|left| left.success()) {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

#[test]
fn a_file_on_a_disk_that_is_frozen() {
    if !is_root("a frozen disk") {
        return;
    }
    let place = Bed::new().with_any_daemon();
    let Some(mut disk) = Disk::new(8 * 1024, &place.path("disk")) else {
        return skipped("a frozen disk", "no file system can be made and mounted");
    };
    let into_file = format!("exec \"$@\" 2> {}/log", disk.directory.display());
    let around = ["sh", "-c", &into_file, "sh"];
    let mut init = Bed::new()
        .with_any_daemon()
        .start_under(Place::Child, Console::Read, &around);
    init.wait_ready();
    disk.freeze();
    obeys(init, "a frozen disk");
}

/// Whoever carries lines there goes with the rest at the end, and no other can be had.
#[test]
fn a_file_gets_the_result_where_nobody_can_be_sent_with_it() {
    let place = Bed::new();
    let log = place.path("log");
    let into_file = format!("exec \"$@\" 2> {}", log.display());
    let around = ["sh", "-c", &into_file, "sh"];
    let mut init = Bed::new()
        .with_any_daemon()
        .start_under(Place::Child, Console::Read, &around);
    init.wait_ready();
    // As many as it has: none is left for a pipe.
    let set = Command::new("prlimit")
        .args(["--pid", &init.pid().to_string(), "--nofile=10:"])
        .status();
    assert!(set.unwrap().success());
    init.signal(Signal::SIGTERM);
    init.wait_end_unread();
    assert_ends_with_result(&log);
}

#[test]
fn a_file_on_a_disk_that_is_full() {
    if !is_root("a full disk") {
        return;
    }
    let place = Bed::new().with_any_daemon();
    let Some(disk) = Disk::new(512, &place.path("disk")) else {
        return skipped("a full disk", "no file system can be made and mounted");
    };
    let log = disk.directory.join("log");
    let into_file = format!("exec \"$@\" 2> {}", log.display());
    let around = ["sh", "-c", &into_file, "sh"];
    let mut init = talkative().start_under(Place::Child, Console::Read, &around);
    wait_full(&mut init);
    let init = halts(init, "a full disk");
    // There is room again, and the result is told.
    fs::File::options()
        .write(true)
        .open(&log)
        .unwrap()
        .set_len(0)
        .unwrap();
    init.signal(Signal::SIGTERM);
    assert_eq!(init.wait_end_unread(), 0);
    let text = String::from_utf8_lossy(&fs::read(&log).unwrap()).into_owned();
    let last = text.lines().last().unwrap_or_default();
    assert!(last.starts_with("sidecar-init: result {"), "{last}");
    assert!(text.contains("lines dropped"), "{text}");
}
