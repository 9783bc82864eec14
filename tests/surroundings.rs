//! What surrounds the init is not always kind: signals nobody sends on purpose, closed
//! streams, filters around it, small control groups.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "the functions around the tests fail them by panicking"
)]

mod support;

use std::fs;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::libc;
use support::{Bed, Console, Place, places, proc_field, processor_ticks, skipped};

/// The program of `surrounded.rs`.
fn surrounded() -> String {
    let program = support::example("surrounded", "surrounded.rs");
    program.to_str().unwrap().to_owned()
}

// Signals.

/// What a signal of the table asks for is tested elsewhere; these end the init.
const STOPS: [i32; 4] = [libc::SIGINT, libc::SIGQUIT, libc::SIGTERM, libc::SIGPWR];

#[allow(unsafe_code)]
fn send(pid: i32, number: i32) {
    // SAFETY: plain numbers. The C library's typed ways know no real-time signal.
    assert_eq!(unsafe { libc::kill(pid, number) }, 0, "signal {number}");
}

#[test]
fn lives_through_every_signal_or_ends_with_a_result() {
    for place in places() {
        let mut init = Bed::new().start(place);
        let before = init.wait_ready();
        let meaningful = [libc::SIGKILL, libc::SIGSTOP, libc::SIGUSR1];
        for number in 1..=64 {
            if !STOPS.contains(&number) && !meaningful.contains(&number) {
                send(init.pid(), number);
            }
        }
        // Whoever lives does what it is told.
        init.bed.allow(&["a.example", "b.example"]);
        init.wait_applied(2);
        assert_eq!(init.status()["daemon"]["pid"], before["daemon"]["pid"]);
        let (end, _) = init.stop();
        assert_eq!(end.code, 0);
        for number in STOPS {
            let mut init = Bed::new().start(place);
            init.wait_ready();
            send(init.pid(), number);
            let end = init.wait_end();
            assert_eq!((end.code, &end.result["outcome"]), (0, &"stopped".into()));
        }
    }
}

#[test]
fn what_the_init_ignores_its_daemon_does_not() {
    let mut init = Bed::new().start(Place::Child);
    init.wait_ready();
    let ignored = |pid| u64::from_str_radix(&proc_field(pid, "SigIgn").unwrap(), 16).unwrap();
    assert_ne!(ignored(init.pid()) & (1 << 63), 0, "it ignores the last");
    assert_eq!(ignored(init.daemon()), 0);
}

// Descriptors and filters.

#[test]
fn starts_and_ends_with_its_standard_streams_closed() {
    let program = surrounded();
    for place in places() {
        let around = [&program, "close:0", "close:1", "close:2", "--"];
        let mut init = Bed::new().start_under(place, Console::Read, &around);
        init.wait_ready();
        send(init.pid(), libc::SIGTERM);
        assert_eq!(init.wait_end_unread(), 0);
    }
}

#[test]
fn says_what_is_missing_where_streams_are_closed_and_nothing_can_replace_them() {
    let bed = Bed::new();
    if !nix::unistd::geteuid().is_root() {
        return skipped("closed streams without /dev/null", "hiding /dev needs root");
    }
    let around = [
        "unshare",
        "--mount",
        "sh",
        "-c",
        "mount -t tmpfs none /dev && exec \"$@\"",
        "sh",
        &surrounded(),
        "close:0",
        "close:1",
        "close:2",
        "--",
    ];
    let mut init = bed.start_under(Place::Child, Console::Read, &around);
    let status = init.wait_for("it says why", |status| {
        status["failures"].as_u64() >= Some(1)
    });
    let error = status["error"].as_str().unwrap();
    assert!(error.contains("No such file or directory"), "{error}");
    assert_eq!(init.wait_end_unread(), 127);
}

#[test]
fn a_filter_that_refuses_what_it_lives_by_is_an_error_with_a_result() {
    for (refused, said) in [
        ("refuse:rt_sigaction=1", "cannot install signal handlers: "),
        ("refuse:ppoll=38", "cannot install signal handlers: "),
    ] {
        for place in places() {
            let around = [&surrounded(), refused, "--"];
            let init = Bed::new().start_under(place, Console::Read, &around);
            let end = init.wait_end();
            assert_eq!(end.code, 71, "{refused}: {}", end.console_text());
            assert!(end.error().starts_with(said), "{}", end.error());
        }
    }
}

/// The daemon of these tests is written in Rust, whose runtime aborts where poll(2) is
/// refused: the init tells that as it tells any other end.
#[cfg(target_arch = "x86_64")]
#[test]
fn a_filter_that_refuses_poll_does_not_keep_the_init_from_telling() {
    let around = [&surrounded(), "refuse:poll=1", "--"];
    let end = Bed::new()
        .start_under(Place::Child, Console::Read, &around)
        .wait_end();
    assert_eq!(end.code, 69, "{}", end.console_text());
    assert!(end.error().contains("SIGABRT"), "{}", end.error());
}

// The watchdog.

#[test]
fn a_watchdog_of_two_microseconds_costs_next_to_nothing() {
    let bed = Bed::new();
    let name = bed.path("notify");
    let socket = UnixDatagram::bind(&name).unwrap();
    let mut init = bed
        .with_environment("NOTIFY_SOCKET", name.to_str().unwrap())
        .with_environment("WATCHDOG_USEC", "2")
        .start(Place::Child);
    init.wait_ready();
    let before = processor_ticks(init.pid());
    let mut told = 0;
    let end = Instant::now() + Duration::from_secs(2);
    while Instant::now() < end {
        socket
            .set_read_timeout(Some(Duration::from_millis(500)))
            .unwrap();
        let mut message = [0; 4096];
        let length = socket.recv(&mut message).unwrap();
        told += u32::from(message[..length].starts_with(b"WATCHDOG=1"));
    }
    let ticks = processor_ticks(init.pid()) - before;
    assert!((2..=25).contains(&told), "{told} times");
    assert!(ticks < 20, "{ticks} ticks of two hundred");
}

// Memory.

/// A control group of this test's own, empty again at its end.
struct Group(PathBuf);

impl Group {
    /// With this limit in bytes; `None` where none can be made.
    fn new(limit: u64) -> Option<Self> {
        static NUMBER: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let name = format!("sidecar-init-{}-{number}", std::process::id());
        let (mount, file) = if Path::new("/sys/fs/cgroup/memory").is_dir() {
            ("/sys/fs/cgroup/memory", "memory.limit_in_bytes")
        } else {
            ("/sys/fs/cgroup", "memory.max")
        };
        let outer = Path::new(mount).join(name);
        // The limit is the outer one's: what is nested has none of its own.
        fs::create_dir(&outer).ok()?;
        let group = Self(outer.join("inner"));
        fs::write(outer.join(file), limit.to_string()).ok()?;
        if file == "memory.max" {
            fs::write(outer.join("cgroup.subtree_control"), "+memory").ok()?;
        }
        fs::create_dir(&group.0).ok()?;
        Some(group)
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let end = Instant::now() + support::PATIENCE;
        // Killed processes take a moment to leave.
        while self.0.exists() && fs::remove_dir(&self.0).is_err() && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(10));
        }
        let _ = fs::remove_dir(self.0.parent().unwrap());
    }
}

#[test]
fn counts_with_the_limit_of_a_control_group_around_its_own() {
    let Some(group) = Group::new(64 << 20) else {
        return skipped("a control group's limit", "no control group can be made");
    };
    let around = [
        &surrounded(),
        &format!("cgroup:{}", group.0.display()),
        "--",
    ];
    let mut init = Bed::new().start_under(Place::Child, Console::Read, &around);
    init.wait_ready();
    let environment = fs::read(format!("/proc/{}/environ", init.daemon())).unwrap();
    let environment = String::from_utf8_lossy(&environment).into_owned();
    assert_eq!(environment.trim_end_matches('\0'), "GOMEMLIMIT=48MiB");
    // Of a manifest that would take more than there is, the reason; and nobody is killed.
    let mut text = init.bed.manifest_text(&["a.example"], "");
    text.push_str(&format!("# {}\n", "x".repeat(78)).repeat((15 << 20) / 81));
    init.bed.replace_manifest(&text);
    let status = init.wait_for("it is refused", |status| {
        status["manifest_error"].is_string()
    });
    let error = status["manifest_error"].as_str().unwrap();
    assert!(error.contains("MiB of available memory allow"), "{error}");
    assert_eq!(status["state"], "ready");
    assert_eq!(init.stop().0.code, 0);
    let refused = Bed::new();
    refused.replace_manifest(&text);
    let end = refused
        .start_under(Place::Child, Console::Read, &around)
        .wait_end();
    assert_eq!(end.code, 66, "{}", end.console_text());
    let error = end.error();
    assert!(error.contains("MiB of available memory allow"), "{error}");
}
