//! The stand-in's misbehaviours, which pipelock has no counterpart of: these
//! always run the stand-in.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::process::ExitStatusExt;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::bed::{Bed, Daemon, Rendered, free_port, standin, wait_for};

/// Starts the stand-in with faults beside it.
fn faulty(bed: &Bed, faults: &str) -> Daemon {
    bed.install(&bed.render(&Rendered::default()));
    let program = bed.path("pipelock");
    let _ = std::fs::remove_file(&program);
    std::os::unix::fs::symlink(standin(), &program).unwrap();
    bed.write("pipelock.faults", faults, 0o644);
    Daemon::spawn(bed.command(&program), free_port())
}

/// What `/health` sends within a time.
fn health_within(daemon: &Daemon, limit: Duration) -> Vec<u8> {
    let mut stream = wait_for("the port", || {
        TcpStream::connect(("127.0.0.1", daemon.port)).ok()
    });
    stream
        .write_all(b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        .unwrap();
    let until = Instant::now() + limit;
    let mut received = Vec::new();
    let mut chunk = vec![0; 65536];
    // A limit for all of it: a trickle never lets a single read time out.
    while let Some(left) = until
        .checked_duration_since(Instant::now())
        .filter(|d| !d.is_zero())
    {
        stream.set_read_timeout(Some(left)).unwrap();
        match stream.read(&mut chunk) {
            Ok(length @ 1..) => received.extend_from_slice(&chunk[..length]),
            _ => break,
        }
    }
    received
}

#[test]
fn refuses_a_fault_it_does_not_know() {
    let bed = Bed::new();
    let mut daemon = faulty(&bed, "alow-everything\n");
    assert_eq!(daemon.wait().code(), Some(3));
    daemon.says("\"alow-everything\" is not a fault");
}

#[test]
fn allows_everything_and_is_healthy_all_the_same() {
    let bed = Bed::new();
    let daemon = faulty(&bed, "allow-everything\n");
    daemon.wait_until_healthy();
    assert_eq!(daemon.health()["mode"], "strict");
    assert_eq!(daemon.connect("canary.invalid:443", "").0.status(), 200);
}

#[test]
fn hangs_trickles_or_floods_its_health() {
    let bed = Bed::new();
    let short = Duration::from_millis(500);
    assert!(health_within(&faulty(&bed, "hang-health\n"), short).is_empty());
    let trickled = health_within(
        &faulty(&bed, "trickle-health\n"),
        Duration::from_millis(1500),
    );
    assert!(trickled.starts_with(b"HTTP/1.1 200"));
    assert!(!trickled.windows(7).any(|w| w == b"healthy"));
    let huge = health_within(&faulty(&bed, "huge-health\n"), Duration::from_secs(5));
    assert!(huge.len() > 10_000_000, "only {}", huge.len());
    let garbage = health_within(&faulty(&bed, "garbage-health\n"), short);
    assert!(garbage.ends_with(b"healthy, believe me\n"));
}

#[test]
fn lies_about_mode_version_and_hash() {
    let bed = Bed::new();
    let daemon = faulty(&bed, "wrong-mode\nwrong-version\nwrong-hash\n");
    daemon.wait_until_healthy();
    let health = daemon.health();
    assert_eq!(health["mode"], "balanced");
    assert_eq!(health["version"], "9.9.9");
    assert_eq!(
        daemon.event("startup", |_| true)["config_hash"],
        "0".repeat(64)
    );
}

#[test]
fn never_binds_or_says_nothing_or_takes_its_time() {
    let bed = Bed::new();
    let daemon = faulty(&bed, "never-bind\n");
    daemon.event("startup", |_| true);
    std::thread::sleep(Duration::from_millis(200));
    assert!(TcpStream::connect(("127.0.0.1", daemon.port)).is_err());
    let daemon = faulty(&bed, "no-startup-event\n");
    daemon.wait_until_healthy();
    assert_eq!(daemon.count("startup"), 0);
    let since = Instant::now();
    let daemon = faulty(&bed, "slow-start 600\n");
    daemon.wait_until_healthy();
    assert!(since.elapsed() > Duration::from_millis(600));
}

#[test]
fn dies_as_it_is_told() {
    let bed = Bed::new();
    assert_eq!(faulty(&bed, "exit-at-start 42\n").wait().code(), Some(42));
    let mut daemon = faulty(&bed, "exit-after 100 7\n");
    daemon.event("startup", |_| true);
    assert_eq!(daemon.wait().code(), Some(7));
    for signal in [
        Signal::SIGSEGV as i32,
        Signal::SIGKILL as i32,
        Signal::SIGTERM as i32,
        40,
        64,
    ] {
        let mut daemon = faulty(&bed, &format!("die-by-signal {signal}\n"));
        assert_eq!(daemon.wait().signal(), Some(signal));
    }
}

#[test]
fn ignores_term_until_it_is_killed() {
    let bed = Bed::new();
    let mut daemon = faulty(&bed, "ignore-term\n");
    daemon.wait_until_healthy();
    daemon.signal(Signal::SIGTERM);
    daemon.signal(Signal::SIGINT);
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(daemon.health()["status"], "healthy");
    daemon.signal(Signal::SIGKILL);
    assert_eq!(daemon.wait().signal(), Some(9));
}

#[test]
fn drops_reloads() {
    let bed = Bed::new();
    let daemon = faulty(&bed, "drop-reload\n");
    daemon.wait_until_healthy();
    bed.install(&bed.render(&Rendered {
        allow: vec!["x.invalid".to_owned()],
        ..Rendered::default()
    }));
    daemon.signal(Signal::SIGHUP);
    std::thread::sleep(Duration::from_millis(400));
    assert_eq!(daemon.count("config_reload"), 0);
}

#[test]
fn writes_what_a_relay_has_to_stand() {
    let bed = Bed::new();
    let daemon = faulty(
        &bed,
        "flood-stdout 5\nlong-line 300000\nbinary-output\nno-final-newline\n",
    );
    daemon.wait_until_healthy();
    wait_for("a flood", || {
        let lines = daemon.stdout.lock().unwrap();
        (lines
            .iter()
            .filter(|l| l.contains("\"event\":\"flood\""))
            .count()
            > 1000)
            .then_some(())
    });
    let lines = daemon.stdout.lock().unwrap();
    assert!(lines.iter().any(|l| l.len() == 300_000));
    assert!(lines.iter().any(|l| l.contains('\u{fffd}')));
}

#[test]
fn leaves_a_grandchild_that_keeps_its_output_open() {
    let bed = Bed::new();
    for fault in ["leave-grandchild", "leave-grandchild-session"] {
        let mut daemon = faulty(&bed, &format!("{fault}\nexit-after 100 0\n"));
        let mut grandchild = None;
        wait_for("the grandchild", || {
            let mine = bed.path("pipelock").display().to_string();
            grandchild = std::fs::read_dir("/proc")
                .unwrap()
                .flatten()
                .find_map(|entry| {
                    let pid: i32 = entry.file_name().to_str()?.parse().ok()?;
                    let line = std::fs::read(entry.path().join("cmdline")).ok()?;
                    let line = String::from_utf8_lossy(&line).into_owned();
                    (line.starts_with(&mine) && line.contains("\0child\0")).then_some(pid)
                });
            grandchild
        });
        assert_eq!(daemon.wait().code(), Some(0));
        let pid = nix::unistd::Pid::from_raw(grandchild.unwrap());
        // Still there though its parent is gone.
        nix::sys::signal::kill(pid, Signal::SIGKILL).unwrap();
    }
}
