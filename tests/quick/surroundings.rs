//! What surrounds the init is not always kind: signals nobody sends on purpose, closed
//! streams, filters around it, small control groups.

use std::fs;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use microvm::{Arch, shipped_init};
use nix::libc;
use serde_json::{Value, json};

use crate::support::{
    self, Bed, Console, Place, fixture, places, proc_field, processor_ticks, skipped,
};

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
        let mut init = Bed::new().with_any_daemon().start(place);
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
            let mut init = Bed::new().with_any_daemon().start(place);
            init.wait_ready();
            send(init.pid(), number);
            let end = init.wait_end();
            assert_eq!((end.code, &end.result["outcome"]), (0, &"stopped".into()));
        }
    }
}

#[test]
fn what_the_init_ignores_its_daemon_does_not() {
    let mut init = Bed::new().with_any_daemon().start(Place::Child);
    init.wait_ready();
    let ignored = |pid| u64::from_str_radix(&proc_field(pid, "SigIgn").unwrap(), 16).unwrap();
    assert_ne!(ignored(init.pid()) & (1 << 63), 0, "it ignores the last");
    assert_eq!(ignored(init.daemon()), 0);
}

#[test]
fn a_halt_is_heeded_among_refusals_and_390_000_hosts() {
    // The shipped one: judging so many hosts takes a minute without its optimizations.
    let program = std::env::var_os("SIDECAR_INIT_BIN")
        .map_or_else(|| shipped_init(Arch::host()).unwrap(), PathBuf::from);
    assert!(program.exists(), "{} is not built", program.display());
    let bed = Bed::new().with_init(program).with_faults("flood-secrets 0");
    let hosts: Vec<String> = (0..390_000)
        .map(|n| format!("\"*.h{n}.example\""))
        .collect();
    let hosts: Vec<&str> = hosts.iter().map(String::as_str).collect();
    bed.allow(&hosts);
    let mut init = bed.start_on(Place::Child, Console::Drained);
    let counted = |init: &support::Init| -> Option<Value> {
        let text = fs::read_to_string(init.bed.path("run/denials.json")).ok()?;
        serde_json::from_str(&text).ok()
    };
    // Not until it is ready, which all that talk may delay.
    init.wait_until("refusals are counted", |init| {
        (counted(init)?["total"].as_u64() >= Some(1000)).then_some(())
    });
    let begin = Instant::now();
    send(init.pid(), libc::SIGUSR1);
    init.wait_for("it is halted", |status| status["state"] == "halted");
    let took = begin.elapsed();
    println!("halted after {took:?}");
    assert!(took < Duration::from_secs(2), "{took:?}");
    let denial = counted(&init).unwrap()["denials"][0].clone();
    assert_eq!(denial["scanner"], "body_dlp", "{denial}");
    assert_eq!(
        denial["host"],
        Value::Null,
        "it is not allowed, so not named"
    );
}

// Descriptors and filters.

#[test]
fn starts_and_ends_with_its_standard_streams_closed() {
    let program = surrounded();
    for place in places() {
        let around = [&program, "close:0", "close:1", "close:2", "--"];
        let mut init = Bed::new()
            .with_any_daemon()
            .start_under(place, Console::Read, &around);
        init.wait_ready();
        send(init.pid(), libc::SIGTERM);
        assert_eq!(init.wait_end_unread(), 0);
    }
}

#[test]
fn says_what_is_missing_where_streams_are_closed_and_nothing_can_replace_them() {
    let bed = Bed::new().with_any_daemon();
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
    assert!(
        error.contains("cannot open /dev/null as the input of "),
        "{error}"
    );
    assert!(error.contains("No such file or directory"), "{error}");
    // Not the daemon is missing.
    assert_eq!(init.wait_end_unread(), 69);
}

#[test]
fn a_filter_that_refuses_what_it_lives_by_is_an_error_with_a_result() {
    for (refused, said) in [
        ("refuse:rt_sigaction=1", "cannot install signal handlers: "),
        ("refuse:ppoll=38", "cannot install signal handlers: "),
    ] {
        for place in places() {
            let around = [&surrounded(), refused, "--"];
            let init = Bed::new()
                .with_any_daemon()
                .start_under(place, Console::Read, &around);
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
    // The daemon that breaks does so here: Rust's runtime asks for poll(2), Go's does not.
    let end = Bed::new()
        .start_under(Place::Child, Console::Read, &around)
        .wait_end();
    assert_eq!(end.code, 69, "{}", end.console_text());
    assert!(end.error().contains("SIGABRT"), "{}", end.error());
}

/// What the process has open beside its streams, as the kernel names it.
fn open_files(pid: i32) -> Vec<String> {
    let open = fs::read_dir(format!("/proc/{pid}/fd")).unwrap();
    open.filter_map(|entry| fs::read_link(entry.unwrap().path()).ok())
        .map(|target| target.to_string_lossy().into_owned())
        .collect()
}

#[test]
fn leaves_the_daemon_no_descriptor_where_they_cannot_be_closed_at_once() {
    let program = surrounded();
    for refused in ["refuse:close_range=1", "refuse:close_range=38"] {
        let around = [&program, "leak:7", "leak:400", refused, "--"];
        let mut init =
            Bed::new()
                .with_any_daemon()
                .start_under(Place::Child, Console::Read, &around);
        init.wait_ready();
        let leaked = |pid| open_files(pid).contains(&"/etc/passwd".to_owned());
        assert!(leaked(init.pid()), "nothing was there to leak");
        assert!(!leaked(init.daemon()), "{refused}");
        assert_eq!(init.stop().0.code, 0);
    }
}

#[test]
fn leaves_the_daemon_no_descriptor_where_nobody_lists_them() {
    if !nix::unistd::geteuid().is_root() {
        return skipped("descriptors without /proc", "hiding /proc needs root");
    }
    let program = surrounded();
    let without_proc = [
        "unshare",
        "--mount",
        "sh",
        "-c",
        "mount -t tmpfs none /proc && exec \"$@\"",
        "sh",
    ];
    let leaks = ["leak:7", "refuse:close_range=1"];
    let around = [
        &without_proc[..],
        &[&program, "limit:1024"],
        &leaks,
        &["--"],
    ]
    .concat();
    let mut init = Bed::new()
        .with_any_daemon()
        .start_under(Place::Child, Console::Read, &around);
    init.wait_for("it is ready", |status| status["state"] == "ready");
    assert!(!open_files(init.daemon()).contains(&"/etc/passwd".to_owned()));
    assert_eq!(init.stop().0.code, 0);
    // Trying a thousand million numbers would take minutes: no daemon, and the reason.
    let beyond = ((1 << 20) + 1).to_string();
    let allowed = fs::read_to_string("/proc/sys/fs/nr_open").unwrap();
    if allowed.trim().parse::<u64>().unwrap() < beyond.parse().unwrap() {
        return skipped("a huge limit of descriptors", "fs.nr_open is lower");
    }
    let limit = format!("limit:{beyond}");
    let around = [&without_proc[..], &[&program, &limit], &leaks, &["--"]].concat();
    let end = Bed::new()
        .with_any_daemon()
        .start_under(Place::Child, Console::Read, &around)
        .wait_end();
    let error = end.error();
    assert!(
        error.contains("keep this process's open files from"),
        "{error}"
    );
}

#[test]
fn a_descriptor_that_was_inherited_all_the_same_is_a_hole() {
    let program = surrounded();
    // Filters that lie, with and without the way to compare open files.
    for lies in [
        &["refuse:close_range=0"][..],
        &["refuse:close_range=0", "refuse:kcmp=38"],
    ] {
        let around = [&[&program, "leak:7"], lies, &["--"]].concat();
        let end = Bed::new()
            .with_any_daemon()
            .start_under(Place::Child, Console::Read, &around)
            .wait_end();
        assert_eq!(end.code, 69, "{}", end.console_text());
        assert!(
            end.error()
                .contains("it inherited descriptor 7, /etc/passwd"),
            "{}",
            end.error()
        );
    }
}

// What can be seen of the daemon.

/// A `/proc` with these options, and root without the right to look into others.
fn behind(options: &str) -> Vec<String> {
    let mount = format!("mount -t proc -o {options} proc /proc && exec \"$@\"");
    ["unshare", "--mount", "sh", "-c", &mount, "sh"]
        .into_iter()
        .chain(["setpriv", "--bounding-set", "-sys_ptrace"])
        .map(str::to_owned)
        .collect()
}

#[test]
fn a_proc_that_hides_the_daemon_is_said_to_hide_it() {
    if !nix::unistd::geteuid().is_root() {
        return skipped("hidden processes", "mounting /proc needs root");
    }
    let unseen = "could not be read back: /proc does not show it";
    for options in ["hidepid=4", "hidepid=2,gid=12345", "hidepid=1,gid=12345"] {
        let around = behind(options);
        let around: Vec<&str> = around.iter().map(String::as_str).collect();
        let mut init =
            Bed::new()
                .with_any_daemon()
                .start_under(Place::Child, Console::Read, &around);
        let status = init.wait_for("it is ready", |status| status["state"] == "ready");
        assert_eq!(status["daemon"]["sandbox_verified"], false, "{options}");
        let warnings = status["warnings"].to_string();
        assert!(warnings.contains(unseen), "{options}: {warnings}");
        assert_eq!(init.stop().0.code, 0);
    }
    let around = behind("hidepid=4");
    let around: Vec<&str> = around.iter().map(String::as_str).collect();
    let end = sleeping()
        .with_argument("--require-sandbox")
        .start_under(Place::Child, Console::Read, &around)
        .wait_end();
    assert_eq!(end.code, 69);
    let error = end.error();
    assert!(error.contains(unseen), "{error}");
}

#[test]
fn the_proc_of_another_namespace_is_not_believed() {
    if !nix::unistd::geteuid().is_root() {
        return skipped("another namespace's /proc", "a PID namespace needs root");
    }
    let another = ["unshare", "--pid", "--fork", "--kill-child"];
    let mut init = Bed::new()
        .with_any_daemon()
        .start_under(Place::Child, Console::Read, &another);
    let status = init.wait_for("it is ready", |status| status["state"] == "ready");
    let warnings = status["warnings"].to_string();
    assert!(
        warnings.contains("could not be read back: /proc is another PID namespace's"),
        "{warnings}"
    );
    drop(init);
    let end = sleeping()
        .with_argument("--require-sandbox")
        .start_under(Place::Child, Console::Read, &another)
        .wait_end();
    assert_eq!(end.code, 71);
    let error = end.error();
    assert!(
        error.contains("/proc is another PID namespace's"),
        "{error}"
    );
}

// `--require-sandbox`.

/// A bed whose daemon is a static program, which never becomes ready.
fn sleeping() -> Bed {
    let bed = Bed::new().with_any_daemon();
    fs::remove_file(bed.path("pipelock")).unwrap();
    fixture::compile("sleeper", &[], &bed.path("pipelock"));
    bed
}

#[test]
fn a_daemon_replaced_by_a_script_is_judged_again() {
    let wide = "is not a static program";
    for required in [false, true] {
        let mut bed = sleeping();
        if required {
            bed = bed.with_argument("--require-sandbox");
        }
        let mut init = bed.start(Place::Child);
        let confined = |status: &Value| status["daemon"]["sandbox_verified"] == true;
        let status = init.wait_for("it is confined", confined);
        assert_eq!(status["daemon"]["sandbox_missing"], json!([]));
        let [program, aside, script] = ["pipelock", "aside", "script"].map(|it| init.bed.path(it));
        // By another process: a file that is open for writing anywhere cannot be executed.
        let writes = "printf '#!/bin/sh\\nexec sleep 60\\n' > \"$0\" && chmod 755 \"$0\"";
        let written = Command::new("sh")
            .args(["-c", writes])
            .arg(&script)
            .status();
        assert!(written.unwrap().success());
        fs::rename(&program, &aside).unwrap();
        fs::rename(&script, &program).unwrap();
        init.kill_daemon();
        if required {
            let end = init.wait_end();
            assert_eq!(end.code, 69, "{}", end.console_text());
            assert!(end.error().contains("without its whole sandbox"));
            assert!(end.error().contains(wide), "{}", end.error());
            continue;
        }
        let status = init.wait_for("the script is confined", |status| {
            confined(status)
                && status["daemon"]["sandbox_missing"]
                    .to_string()
                    .contains(wide)
        });
        assert!(status["warnings"].to_string().contains(wide), "{status}");
        fs::rename(&aside, &program).unwrap();
        init.kill_daemon();
        let status = init.wait_for("the program is back", |status| {
            confined(status) && status["daemon"]["sandbox_missing"] == json!([])
        });
        assert!(!status["warnings"].to_string().contains(wide), "{status}");
        assert_eq!(init.stop().0.code, 0);
    }
}

// The watchdog.

#[test]
fn a_watchdog_of_two_microseconds_costs_next_to_nothing() {
    let bed = Bed::new().with_any_daemon();
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
pub struct Group(pub PathBuf);

impl Group {
    /// With this limit in bytes; `None` where none can be made.
    pub fn new(limit: u64) -> Option<Self> {
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
    let mut init = Bed::new()
        .with_any_daemon()
        .start_under(Place::Child, Console::Read, &around);
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
    let refused = Bed::new().with_any_daemon();
    refused.replace_manifest(&text);
    let end = refused
        .start_under(Place::Child, Console::Read, &around)
        .wait_end();
    assert_eq!(end.code, 66, "{}", end.console_text());
    let error = end.error();
    assert!(error.contains("MiB of available memory allow"), "{error}");
}
