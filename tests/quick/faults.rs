//! Faults injected from outside: every way for the daemon to end, limits, full disks,
//! system calls that fail, processes that escape or stand still. Through the real binary,
//! as a child process and as PID 1 of a PID namespace.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nix::libc;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::support::{
    self, Bed, Console, End, Flood, Init, Place, namespace_arguments, others, places, proc_field,
    processor_ticks, skipped,
};

/// `Bed::new`'s grace period and the two seconds a stop may take beyond it.
const STOP_BOUND: Duration = Duration::from_secs(3);
/// An init gives up at this many failures within a minute.
const CRASH_LOOP: usize = 5;

fn ready(bed: Bed) -> Init {
    let mut init = bed.start(Place::Child);
    init.wait_ready();
    init
}

/// Each item once, on a few threads: most of the time is spent waiting.
fn in_parallel<T: Sync>(items: &[T], work: impl Fn(&T) + Sync) {
    let next = AtomicUsize::new(0);
    thread::scope(|scope| {
        for _ in 0..6 {
            scope.spawn(|| {
                while let Some(item) = items.get(next.fetch_add(1, Ordering::Relaxed)) {
                    work(item);
                }
            });
        }
    });
}

// Every way to end.

/// Ends one daemon after the other; the init must say of each what it was, and give up
/// at the last with the same words.
fn tells_the_ends(
    ends: &[i32],
    place: Place,
    end: impl Fn(&Init, i32),
    expected: impl Fn(i32) -> (i32, String),
) {
    let mut init = Bed::new().start(place);
    for (failures, number) in ends.iter().enumerate() {
        init.wait_for("it is ready", |status| {
            status["state"] == "ready" && status["failures"] == failures
        });
        end(&init, *number);
        let (code, text) = expected(*number);
        if failures + 1 == CRASH_LOOP {
            let end = init.wait_end();
            assert_eq!(end.code, 69);
            assert_eq!(end.result["last_exit"]["code"], code);
            let reason = format!("giving up after repeated failures: pipelock {text}");
            assert!(end.error().starts_with(&reason), "{}", end.error());
            assert_eq!(end.result["reaped"], CRASH_LOOP);
            return;
        }
        let status = init.wait_for("the end is told", |status| {
            status["failures"] == failures + 1
        });
        assert_eq!(status["last_exit"]["code"], code, "{number}");
        assert_eq!(status["last_exit"]["text"], text, "{number}");
    }
    assert_eq!(init.stop().0.code, 0);
}

#[test]
fn tells_every_signal_that_can_kill_a_daemon() {
    let harmless = [
        libc::SIGCHLD,
        libc::SIGCONT,
        libc::SIGSTOP,
        libc::SIGTSTP,
        libc::SIGTTIN,
        libc::SIGTTOU,
        libc::SIGURG,
        libc::SIGWINCH,
        // The C library's own: it catches them, and starts programs with them ignored.
        32,
        33,
    ];
    let deadly: Vec<i32> = (1..=64)
        .filter(|number| !harmless.contains(number))
        .collect();
    let places = places();
    let runs: Vec<_> = deadly
        .chunks(CRASH_LOOP)
        .enumerate()
        .map(|(number, ends)| (ends, places[number % places.len()]))
        .collect();
    in_parallel(&runs, |(ends, place)| {
        tells_the_ends(
            ends,
            *place,
            |init, number| {
                // SAFETY: plain numbers.
                #[allow(unsafe_code)]
                let sent = unsafe { libc::kill(init.daemon(), number) };
                assert_eq!(sent, 0, "{number}");
            },
            |number| {
                let name = Signal::try_from(number).map_or("real-time", Signal::as_str);
                (
                    128 + number,
                    format!("was killed by signal {number} ({name})"),
                )
            },
        );
    });
}

#[test]
fn tells_every_exit_code_of_a_daemon() {
    let codes: Vec<i32> = (0..=255).collect();
    let places = places();
    let runs: Vec<_> = codes
        .chunks(CRASH_LOOP)
        .enumerate()
        .map(|(number, ends)| (ends, places[number % places.len()]))
        .collect();
    in_parallel(&runs, |(ends, place)| {
        tells_the_ends(
            ends,
            *place,
            |init, code| {
                let pid = &init.status()["daemon"]["pid"];
                init.bed
                    .break_daemon(&format!("exit-now {pid}\nexit-code {code}"));
            },
            |code| (code, format!("exited with code {code}")),
        );
    });
}

#[test]
fn loses_no_end_of_an_orphan() {
    for place in places() {
        let mut init = Bed::new().with_faults("every-end").start_under(
            place,
            Console::Read,
            &["env", "SIDECAR_LOG=debug"],
        );
        init.wait_ready();
        let stopped = [libc::SIGSTOP, libc::SIGTSTP, libc::SIGTTIN, libc::SIGTTOU];
        init.wait_until("the orphans are reaped", |init| {
            (init.console().matches("reaped orphan").count() >= 256 + 64 - stopped.len())
                .then_some(())
        });
        let console = init.console();
        for code in 0..=255 {
            assert!(
                console.contains(&format!("which exited with code {code}\n")),
                "{code}"
            );
        }
        for number in (1..=64).filter(|number| !stopped.contains(number)) {
            // The C library's own, which it may catch.
            if [32, 33].contains(&number) {
                continue;
            }
            let harmless = [libc::SIGCHLD, libc::SIGCONT, libc::SIGURG, libc::SIGWINCH];
            let told = console.contains(&format!("which was killed by signal {number} ("));
            assert_eq!(told, !harmless.contains(&number), "{number}");
        }
        let (end, took) = init.stop();
        assert_eq!(end.code, 0);
        assert_eq!(
            end.result["reaped"],
            256 + 64 + 1,
            "the stopped ones too: {place:?}"
        );
        assert!(took < STOP_BOUND, "{took:?}");
    }
}

#[test]
fn a_daemon_that_ends_before_fork_returns_is_not_taken_for_an_orphan() {
    let Some(strace) = tracer() else { return };
    // The child runs to its end while the parent is held inside fork.
    let slow_fork = "inject=clone,clone3,fork,vfork:delay_exit=100000";
    let end = Bed::new()
        .with_faults("exit 7")
        .start_under(
            Place::Child,
            Console::Read,
            &[&strace[..], &["-e", slow_fork]].concat(),
        )
        .wait_end();
    assert_eq!(end.code, 69);
    assert_eq!(end.result["reaped"], CRASH_LOOP);
    assert!(
        end.error().contains("pipelock exited with code 7"),
        "{}",
        end.error()
    );
}

// Processes that multiply, escape, and stand still.

#[test]
fn a_fork_bomb_is_stopped_with_the_daemon() {
    for place in places() {
        // Counted for the daemon's user, so that a few other tests fit in as well.
        let mut init = Bed::new().with_faults("fork-bomb").start_under(
            place,
            Console::Read,
            &["prlimit", "--nproc=300"],
        );
        init.wait_ready();
        let pid = init.daemon();
        init.wait_until("it has gone off", |_| (descendants(pid) > 60).then_some(()));
        let (end, took) = init.stop();
        assert_eq!(end.code, 0);
        assert!(took < STOP_BOUND, "{took:?}");
        assert!(proc_field(pid, "State").is_none());
        let left = processes_of(&end.bed);
        assert!(left.is_empty(), "{place:?}: {left:?}");
    }
}

fn descendants(pid: i32) -> usize {
    let mut all = children_of_threads(pid);
    let mut next = 0;
    while let Some(pid) = all.get(next) {
        let more = children_of_threads(*pid);
        all.extend(more);
        next += 1;
    }
    all.len()
}

/// A child belongs to the thread that forked it.
fn children_of_threads(pid: i32) -> Vec<i32> {
    let Ok(threads) = fs::read_dir(format!("/proc/{pid}/task")) else {
        return vec![];
    };
    threads
        .flatten()
        .filter_map(|thread| fs::read_to_string(thread.path().join("children")).ok())
        .flat_map(|text| {
            let pids = text.split_whitespace().filter_map(|pid| pid.parse().ok());
            pids.collect::<Vec<i32>>()
        })
        .collect()
}

/// Everybody who runs the bed's daemon.
fn processes_of(bed: &Bed) -> Vec<i32> {
    let program = bed.path("pipelock");
    let program = program.to_str().unwrap();
    fs::read_dir("/proc")
        .unwrap()
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|pid| {
            fs::read(format!("/proc/{pid}/cmdline"))
                .is_ok_and(|line| line.starts_with(program.as_bytes()))
        })
        .collect()
}

#[test]
fn who_escapes_by_setsid_goes_with_the_daemon_that_left_him() {
    for place in places() {
        let mut init = Bed::new().with_faults("escape").start(place);
        init.wait_ready();
        let escaped = |init: &Init| -> Vec<i32> {
            let daemon = init.daemon();
            let mut others = others(init.pid());
            others.retain(|pid| *pid != daemon);
            others
        };
        let first = init.wait_until("one has escaped", |init| {
            let others = escaped(init);
            (others.len() == 1).then(|| others[0])
        });
        assert_eq!(
            proc_field(first, "NSsid").map(|ids| ids.split_whitespace().last().map(str::to_owned)),
            proc_field(first, "NSpid").map(|ids| ids.split_whitespace().last().map(str::to_owned)),
            "it leads a session of its own"
        );
        init.kill_daemon();
        init.wait_ready_after(1);
        init.wait_until("the first one is gone", |_| {
            proc_field(first, "State").is_none().then_some(())
        });
        let (end, took) = init.stop();
        assert_eq!(end.code, 0);
        assert!(took < STOP_BOUND, "{took:?}");
        assert!(processes_of(&end.bed).is_empty(), "its successor neither");
    }
}

#[test]
fn stops_while_ten_thousand_orphans_are_being_made() {
    for place in places() {
        let mut init = Bed::new().with_faults("orphans 10000").start(place);
        init.wait_until("the storm has begun", |init| {
            (others(init.pid()).len() > 3).then_some(())
        });
        let (end, took) = init.stop();
        assert_eq!(end.code, 0);
        assert!(took < STOP_BOUND, "{took:?}");
        assert!(processes_of(&end.bed).is_empty());
    }
}

#[test]
fn a_daemon_that_stands_still_is_replaced_and_a_short_pause_is_forgiven() {
    let mut init = ready(Bed::new());
    let paused = init.daemon();
    signal(paused, Signal::SIGSTOP);
    init.wait_until("a probe is missed", |init| {
        init.console()
            .contains("missed a liveness probe")
            .then_some(())
    });
    signal(paused, Signal::SIGCONT);
    // Three in a row count; the answers in between start over.
    let healthy = Instant::now() + Duration::from_secs(3);
    while Instant::now() < healthy {
        assert_eq!(init.status()["failures"], 0);
        thread::sleep(Duration::from_millis(50));
    }
    signal(paused, Signal::SIGSTOP);
    let status = init.wait_ready_after(1);
    assert_eq!(status["failures"], 1);
    assert_eq!(
        status["last_exit"]["code"], 137,
        "a stopped process takes no SIGTERM"
    );
    assert!(proc_field(paused, "State").is_none());
    assert_eq!(init.stop().0.code, 0);
}

#[test]
fn an_init_that_was_stopped_misses_nothing() {
    for place in places() {
        let mut init = Bed::new().start(place);
        init.wait_ready();
        let pid = init.pid();
        let stand_still = |init: &mut Init| {
            signal(pid, Signal::SIGSTOP);
            init.wait_until("it stands still", |_| {
                proc_field(pid, "State")
                    .is_some_and(|state| state.starts_with('T'))
                    .then_some(())
            });
        };
        stand_still(&mut init);
        init.kill_daemon();
        init.bed.allow(&["a.example", "b.example"]);
        init.signal(Signal::SIGHUP);
        signal(pid, Signal::SIGCONT);
        let status = init.wait_applied(2);
        assert_eq!(status["failures"], 1);

        stand_still(&mut init);
        init.kill_daemon();
        init.signal(Signal::SIGTERM);
        signal(pid, Signal::SIGCONT);
        let end = init.wait_end();
        assert_eq!(end.code, 0);
        assert_eq!(
            end.result["reaped"].as_u64(),
            end.result["restarts"].as_u64().map(|n| n + 1)
        );
    }
}

fn signal(pid: i32, signal: Signal) {
    kill(Pid::from_raw(pid), signal).unwrap();
}

// Its ears and its port.

#[test]
fn a_daemon_that_closes_its_output_is_kept_and_costs_no_processor_time() {
    let mut init = ready(Bed::new().with_faults("close-stdout"));
    let (begin, before) = (Instant::now(), processor_ticks(init.pid()));
    init.wait_until("a second has passed", |_| {
        (begin.elapsed() > Duration::from_secs(1)).then_some(())
    });
    let used = Duration::from_millis(10 * (processor_ticks(init.pid()) - before));
    assert!(used < begin.elapsed() / 4, "{used:?}");
    assert_eq!(init.status()["state"], "ready");
    // It can acknowledge nothing any more, so a reload becomes a restart.
    let first = init.status()["daemon"]["pid"].clone();
    init.bed.break_daemon("");
    init.bed.allow(&["a.example", "b.example"]);
    init.signal(Signal::SIGHUP);
    let status = init.wait_applied(2);
    assert_ne!(status["daemon"]["pid"], first);
    assert_eq!(init.stop().0.code, 0);
}

#[test]
fn a_daemon_that_binds_late_is_waited_for() {
    let mut init = Bed::new().with_faults("bind-late 1500").start(Place::Child);
    let status = init.wait_ready();
    assert_eq!(status["failures"], 0);
    let took = status["stages"]
        .as_array()
        .unwrap()
        .iter()
        .find(|stage| stage["stage"] == "ready");
    let took = took.unwrap()["took_us"].as_u64().unwrap();
    assert!(took >= 1_500_000, "{took}");
}

#[test]
fn a_port_that_is_taken_is_the_reason_it_gives_up() {
    let bed = Bed::new();
    let taken = TcpListener::bind(&bed.address).unwrap();
    let end = bed.start(Place::Child).wait_end();
    drop(taken);
    assert_eq!(end.code, 69);
    assert_eq!(end.result["outcome"], "failed at ready");
    assert!(
        end.result["last_lines"]
            .to_string()
            .contains("Address already in use"),
        "{}",
        end.result
    );
}

#[test]
fn another_firewall_on_its_port_does_not_make_it_ready() {
    let first = ready(Bed::new());
    // Late enough for the other's answers to come first.
    let mut bed = Bed::new().with_faults("bind-late 1500");
    bed.address.clone_from(&first.bed.address);
    bed.allow(&["a.example"]);
    let end = bed.start(Place::Child).wait_end();
    assert_eq!(end.code, 69);
    assert!(
        !end.console_text().contains("sidecar-init: ready"),
        "{}",
        end.console_text()
    );
    assert_eq!(first.status()["state"], "ready");
    assert_eq!(first.stop().0.code, 0);
}

/// For an ordinary user, who may not look into a process that is about to be gone, and for root
/// without the right to look into any, as in most containers.
#[test]
fn what_answers_on_anothers_port_is_never_taken_for_its_own_daemon() {
    if !nix::unistd::geteuid().is_root() {
        return skipped("other users", "to become one needs root");
    }
    let user = [
        "setpriv",
        "--reuid=12345",
        "--regid=12345",
        "--clear-groups",
    ];
    let blind = ["setpriv", "--bounding-set", "-sys_ptrace"];
    for who in [&user[..], &blind] {
        let new = || {
            let bed = Bed::new().with_any_daemon();
            for path in ["", "pipelock", "manifest.yaml"] {
                std::os::unix::fs::chown(bed.path(path), Some(12345), Some(12345)).unwrap();
            }
            bed
        };
        let mut first = new().start_under(Place::Child, Console::Read, who);
        first.wait_for("it is ready", |status| status["state"] == "ready");
        in_parallel(&[(); 12], |()| {
            let mut bed = new();
            bed.address.clone_from(&first.bed.address);
            bed.allow(&["a.example"]);
            let end = bed.start_under(Place::Child, Console::Read, who).wait_end();
            let console = end.console_text();
            assert!(
                !console.contains("sidecar-init: ready"),
                "{who:?}: {console}"
            );
            assert_eq!(end.code, 69, "{who:?}: {console}");
            let says = end.result.to_string().to_lowercase();
            assert!(
                says.contains("address already in use"),
                "{who:?}: {console}"
            );
        });
        assert_eq!(first.status()["state"], "ready");
        assert_eq!(first.stop().0.code, 0);
    }
}

/// Answers everybody with this status, as something does that is no firewall.
fn answer_everybody(listener: &TcpListener, status: u16) {
    let listener = listener.try_clone().unwrap();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            let _ = stream.read(&mut [0; 1024]);
            let _ = write!(stream, "HTTP/1.1 {status} X\r\nContent-Length: 2\r\n\r\nno");
        }
    });
}

#[test]
fn a_server_of_anothers_on_the_port_is_not_what_is_told_but_that_it_is_taken() {
    for (status, around) in [
        (404, &[][..]),
        (200, &[]),
        (404, &["setpriv", "--bounding-set", "-sys_ptrace"]),
    ] {
        if !around.is_empty() && !nix::unistd::geteuid().is_root() {
            continue;
        }
        let bed = Bed::new().with_any_daemon();
        let taken = TcpListener::bind(&bed.address).unwrap();
        answer_everybody(&taken, status);
        let end = bed
            .start_under(Place::Child, Console::Read, around)
            .wait_end();
        assert_eq!(end.code, 69);
        assert!(!end.error().contains("/health"), "{}", end.console_text());
        let says = end.result.to_string().to_lowercase();
        assert!(
            says.contains("address already in use"),
            "{}",
            end.console_text()
        );
    }
}

#[test]
fn a_port_that_becomes_free_in_time_is_taken() {
    let bed = Bed::new();
    let taken = TcpListener::bind(&bed.address).unwrap();
    let mut init = bed.start(Place::Child);
    init.wait_for("it has failed", |status| {
        status["failures"].as_u64() >= Some(2)
    });
    drop(taken);
    init.wait_ready_after(2);
    assert_eq!(init.stop().0.code, 0);
}

// Halting.

#[test]
fn nothing_gets_through_while_halted_however_often_the_daemon_was_killed() {
    for place in places() {
        let mut init = Bed::new().start(place);
        for _ in 0..4 {
            init.wait_ready();
            assert_eq!(
                connect_to_allowed(&init),
                Some(200),
                "as it should otherwise"
            );
            // Both at once: whichever the init sees first, the halt wins.
            init.kill_daemon();
            init.signal(Signal::SIGUSR1);
            init.wait_for("it is halted", |status| status["state"] == "halted");
            for _ in 0..50 {
                assert_eq!(connect_to_allowed(&init), None);
            }
            assert!(others(init.pid()).is_empty());
            init.signal(Signal::SIGUSR2);
            init.wait_for("it is resumed", |status| status["halted"] == false);
        }
        assert_eq!(init.stop().0.code, 0);
    }
}

/// What a CONNECT to an allowed host is answered with; `None` where nobody answers.
fn connect_to_allowed(init: &Init) -> Option<u16> {
    let proxy = init.bed.address.parse().unwrap();
    let answered = microvm::connect_through(proxy, "a.example:443").ok();
    answered.map(|(response, _)| response.status)
}

// Files and directories.

#[test]
fn a_directory_that_vanishes_and_comes_back_costs_nothing_but_restarts() {
    let mut init = ready(Bed::new());
    let (here, away) = (init.bed.path(""), init.bed.path("").with_extension("away"));
    let away =
        std::path::PathBuf::from(away.to_str().unwrap().trim_end_matches('/').to_owned() + "-away");
    fs::rename(&here, &away).unwrap();
    init.signal(Signal::SIGHUP);
    init.wait_until("the loss is told", |init| {
        init.console()
            .contains("the old one stays in force")
            .then_some(())
    });
    let away_status = || -> Value {
        serde_json::from_slice(&fs::read(away.join("run/status.json")).unwrap()).unwrap()
    };
    let inside = away_status()["daemon"]["pid"].as_i64().unwrap();
    signal(i32::try_from(inside).unwrap(), Signal::SIGKILL);
    // Told where the directory is now: it was opened once.
    init.wait_until("it cannot be started", |_| {
        (away_status()["failures"].as_u64() >= Some(1)).then_some(())
    });
    fs::rename(&away, &here).unwrap();
    let status = init.wait_for("it is ready and whole", |status| {
        status["state"] == "ready"
            && status["failures"].as_u64() >= Some(1)
            && status["manifest_error"].is_null()
    });
    assert_eq!(status["config"]["applied_generation"], 1);
    assert_eq!(init.stop().0.code, 0);
}

/// As a shell line before `exec`: a file system of its own for the bed's run directory.
fn with_mount(bed: Bed, options: &str, more: &str) -> Option<Init> {
    let arguments = match namespace_arguments() {
        Ok(arguments) => arguments,
        Err(why) => {
            skipped("file systems that are full or read-only", &why);
            return None;
        }
    };
    let mut line = vec!["unshare", "--mount"];
    if arguments.contains(&"-Ur") {
        line.push("-Ur");
    }
    let run = bed.path("run");
    let script = format!(
        "set -e; run={}; mkdir -p $run; mount -t tmpfs -o mode=755,{options} bed $run; {more}; exec \"$@\"",
        run.display()
    );
    line.extend(["sh", "-c", &script, "sh"]);
    Some(
        bed.start_under(Place::Child, Console::Read, &line)
            .with_own_mounts(),
    )
}

/// Writes until nothing fits any more.
fn fill(path: &std::path::Path) {
    let mut file = fs::File::create(path).unwrap();
    while file.write_all(&[b'x'; 512]).is_ok() {}
}

#[test]
fn a_full_run_directory_stops_neither_restarts_nor_the_truth() {
    let Some(mut init) = with_mount(Bed::new(), "size=256k", ":") else {
        return;
    };
    init.wait_ready();
    let filler = init.seen_path("run/filler");
    fill(&filler);
    init.kill_daemon();
    // Its own space is enough for the status, and the configuration is there already.
    let status = init.wait_ready_after(1);
    assert_eq!(status["failures"], 1);
    // A new configuration does not fit: that is said, and nothing false.
    init.bed.allow(&["b.example"]);
    init.signal(Signal::SIGHUP);
    let status = init.wait_for("it cannot be written", |status| {
        status["error"]
            .as_str()
            .is_some_and(|error| error.contains("No space left on device"))
    });
    assert_eq!(status["config"]["generation"], 2);
    assert_eq!(status["config"]["applied_generation"], 1);
    fs::remove_file(filler).unwrap();
    init.wait_applied(2);
    assert_eq!(init.stop().0.code, 0);
}

#[test]
fn a_manifest_that_memory_does_not_bear_is_refused_and_the_old_one_kept() {
    let bed = Bed::new();
    let meminfo = bed.path("meminfo");
    let say_available = |kib: u32| {
        // Into the same file, which is mounted.
        fs::write(
            &meminfo,
            format!("MemTotal: 81920 kB\nMemAvailable: {kib} kB\n"),
        )
        .unwrap();
    };
    say_available(40 << 10);
    let more = format!("mount --bind {} /proc/meminfo", meminfo.display());
    let Some(mut init) = with_mount(bed, "size=8m", &more) else {
        return;
    };
    let first = init.wait_ready();
    let long = |init: &Init, bytes: usize| {
        let comment = format!("#{}\n", "x".repeat(bytes));
        init.bed
            .manifest_text(&["a.example", "b.example"], &comment)
    };
    // A thirty-second of 40 MiB.
    let allowed = (40 << 20) / 32;
    init.bed.replace_manifest(&long(&init, allowed));
    init.signal(Signal::SIGHUP);
    let status = init.wait_for("the error is told", |status| {
        status["manifest_error"].is_string()
    });
    let error = status["manifest_error"].as_str().unwrap();
    let figures =
        "larger than 1310720 bytes, the most that 40 MiB of available memory allow\nhint: ";
    assert!(error.contains(figures), "{error}");
    assert_eq!(status["state"], "ready");
    assert_eq!(status["config"]["generation"], 1);
    assert_eq!(status["daemon"]["pid"], first["daemon"]["pid"]);

    // No shortage keeps a host from being revoked by a manifest of ordinary size.
    say_available(0);
    init.bed.replace_manifest(&long(&init, 120_000));
    init.signal(Signal::SIGHUP);
    let status = init.wait_applied(2);
    assert!(status["manifest_error"].is_null());
    assert_eq!(init.stop().0.code, 0);
}

#[test]
fn a_run_directory_that_stays_full_ends_with_the_reason() {
    let Some(mut init) = with_mount(Bed::new(), "size=256k", ":") else {
        return;
    };
    init.wait_ready();
    fill(&init.seen_path("run/filler"));
    init.bed.allow(&["b.example"]);
    init.signal(Signal::SIGHUP);
    let end = init.wait_end();
    assert_eq!(end.code, 69);
    assert!(
        end.error().contains("No space left on device"),
        "{}",
        end.error()
    );
    assert_eq!(
        end.result["revocation"]["hosts"],
        serde_json::json!(["a.example"])
    );
    assert!(end.result["revocation"]["done_at"].is_string());
}

#[test]
fn a_run_directory_that_was_full_is_warned_of_no_longer_than_it_is() {
    let Some(mut init) = with_mount(Bed::new(), "size=256k", ":") else {
        return;
    };
    init.wait_ready();
    let filler = init.seen_path("run/filler");
    fill(&filler);
    // Longer than any before: what stood there goes first, and leaves too little.
    let wrong: String = (0..100)
        .map(|it| format!("unknown_key_{it}: 1\n"))
        .collect();
    init.bed.replace_manifest(&wrong);
    init.wait_until("there is no space", |init| {
        init.console().contains("No space left").then_some(())
    });
    fs::remove_file(filler).unwrap();
    init.wait_for("it is told, and that it was full is not", |status| {
        status["manifest_error"].is_string() && !status["warnings"].to_string().contains("No space")
    });
    assert_eq!(init.stop().0.code, 0);
}

#[test]
fn a_drain_that_cannot_be_written_ends_in_time_all_the_same() {
    let bed = Bed::new()
        .with_supervisor("grace_seconds: 1, drain_seconds: 2")
        .with_faults("tunnels 1");
    let Some(mut init) = with_mount(bed, "size=256k", ":") else {
        return;
    };
    // The faults are beside its configuration, which is elsewhere now.
    fs::write(init.seen_path("run/faults"), "tunnels 1").unwrap();
    init.wait_ready();
    fill(&init.seen_path("run/filler"));
    let (end, took) = init.stop();
    assert_eq!(end.code, 0);
    let warnings = end.result["warnings"].to_string();
    assert!(warnings.contains("No space left on device"), "{warnings}");
    assert!(took > Duration::from_secs(2), "{took:?}");
    assert!(took < Duration::from_secs(2) + STOP_BOUND, "{took:?}");
}

#[test]
fn a_run_directory_that_is_read_only_ends_the_start_at_once() {
    let Some(init) = with_mount(Bed::new(), "ro", ":") else {
        return;
    };
    let end = init.wait_end();
    assert_eq!(end.code, 73);
    assert_eq!(end.result["outcome"], "failed at mounts");
    assert!(
        end.error().contains("Read-only file system"),
        "{}",
        end.error()
    );
}

#[test]
fn one_file_that_does_not_fit_keeps_nobody_from_looking_after_the_others() {
    // The bundle is ten times that.
    let export = "mkdir $run/export; mount -t tmpfs -o size=20k,mode=755 bed $run/export";
    let Some(mut init) = with_mount(Bed::new(), "size=4m", export) else {
        return;
    };
    init.wait_ready();
    let place = init.seen_path("run/export/client.env");
    let before = init.wait_until("the clients are told", |_| fs::read_to_string(&place).ok());
    let status = init.wait_for("the lack is told", |status| {
        status["warnings"].to_string().contains("ca-bundle.pem")
    });
    assert_eq!(status["state"], "ready");
    fs::write(&place, "HTTPS_PROXY=http://elsewhere.example\n").unwrap();
    init.wait_until("it is put back", |_| {
        fs::read_to_string(&place)
            .ok()
            .filter(|text| *text == before)
    });
    assert_eq!(init.stop().0.code, 0);
}

#[test]
fn an_export_that_is_full_or_read_only_never_hurts_the_daemon() {
    let export = "mkdir $run/export; mount -t tmpfs -o size=64k,mode=755 bed $run/export";
    let old = "echo '{\"boot_id\":\"old\"}' > $run/export/status.json; echo old > $run/export/pipelock-ca.pem";
    let full = "dd if=/dev/zero of=$run/export/filler 2>/dev/null || true";
    for more in [
        format!("{old}; mount -o remount,ro $run/export"),
        full.to_owned(),
        format!("{old}; {full}"),
    ] {
        let Some(mut init) = with_mount(Bed::new(), "size=1m", &format!("{export}; {more}")) else {
            return;
        };
        let status = init.wait_ready();
        let warnings = status["warnings"].to_string();
        assert!(warnings.contains("run/export"), "{more}: {warnings}");
        let read =
            |name: &str| fs::read_to_string(init.seen_path(&format!("run/export/{name}"))).ok();
        let certificate = read("pipelock-ca.pem");
        let told = read("status.json").map(|text| serde_json::from_str::<Value>(&text).unwrap());
        match told {
            Some(told) if told["boot_id"] == "old" => {
                assert_eq!(certificate.as_deref(), Some("old\n"), "{more}");
            }
            _ => assert_ne!(certificate.as_deref(), Some("old\n"), "{more}"),
        }
        init.kill_daemon();
        init.wait_ready_after(1);
        assert_eq!(init.stop().0.code, 0, "{more}");
    }
}

// Limits.

#[test]
fn without_descriptors_it_gives_up_with_that_reason_and_a_result() {
    let init = ready(Bed::new());
    let set = Command::new("prlimit")
        .args(["--pid", &init.pid().to_string(), "--nofile=4:"])
        .status();
    assert!(set.unwrap().success());
    init.kill_daemon();
    let end = init.without_status().wait_end();
    assert_eq!(end.code, 71);
    assert_eq!(end.result["failures"], CRASH_LOOP);
    assert!(
        end.error().contains("Too many open files"),
        "{}",
        end.error()
    );
    assert!(processes_of(&end.bed).is_empty());
}

/// No more than three descriptors can be waited for with such a limit, and it has more open.
#[test]
fn below_its_own_number_of_descriptors_it_still_hears_of_every_end() {
    let init = ready(Bed::new());
    let daemon = init.daemon();
    let set = Command::new("prlimit")
        .args(["--pid", &init.pid().to_string(), "--nofile=3:"])
        .status();
    assert!(set.unwrap().success());
    // The probe that finds none left takes the status away.
    let status = init.bed.path("run/status.json");
    let end = Instant::now() + Duration::from_secs(60);
    while status.exists() {
        assert!(Instant::now() < end, "the limit is not felt");
        thread::sleep(Duration::from_millis(10));
    }
    let _ = kill(Pid::from_raw(daemon), Signal::SIGKILL);
    let end = init.without_status().wait_end();
    assert_eq!(end.code, 71);
    let error = end.error().to_owned();
    assert!(error.contains("Too many open files"), "{error}");
}

#[test]
fn without_process_ids_it_gives_up_as_the_operating_systems_doing() {
    if !nix::unistd::geteuid().is_root() {
        return skipped("a limit of processes", "to become another user needs root");
    }
    let bed = Bed::new();
    for path in ["", "pipelock", "manifest.yaml"] {
        std::os::unix::fs::chown(bed.path(path), Some(12346), Some(12346)).unwrap();
    }
    let user = [
        "setpriv",
        "--reuid=12346",
        "--regid=12346",
        "--clear-groups",
    ];
    let mut init = bed.start_under(Place::Child, Console::Read, &user);
    init.wait_ready();
    // As that user: root may lack the right to limit another.
    limit(&user, init.pid(), "--nproc=1:");
    init.kill_daemon();
    let end = init.wait_end();
    assert_eq!(end.code, 71, "{}", end.error());
    assert_eq!(end.result["failures"], CRASH_LOOP);
    assert!(end.error().contains("cannot fork for "), "{}", end.error());
}

fn limit(who: &[&str], pid: i32, of: &str) {
    let pid = pid.to_string();
    let line = [who, &["prlimit", "--pid", &pid, of]].concat();
    let set = Command::new(line[0]).args(&line[1..]).status();
    assert!(set.unwrap().success());
}

#[test]
fn without_descriptors_nobody_else_is_said_to_have_changed_or_silenced_anything() {
    // A probe would need a descriptor, too.
    let mut init = ready(Bed::new().with_supervisor("grace_seconds: 1, probe_seconds: 600"));
    limit(&[], init.pid(), "--nofile=4:");
    let looker = support::looker(init.pid());
    kill(Pid::from_raw(looker.unwrap()), Signal::SIGKILL).unwrap();
    let console = init.wait_until("it is told", |init| {
        let console = init.console();
        console.contains("cannot read ").then_some(console)
    });
    assert!(
        console.contains(": nobody could be sent to look since "),
        "{console}"
    );
    assert!(console.contains("Too many open files"), "{console}");
    limit(&[], init.pid(), "--nofile=1024:");
    let status = init.wait_for("it looks again", |status| {
        status["state"] == "ready" && status["manifest_error"].is_null()
    });
    let told = format!("{}{status}", init.console());
    for untrue in ["somebody else changed", "has not answered"] {
        assert!(!told.contains(untrue), "{untrue}: {told}");
    }
    assert_eq!(init.stop().0.code, 0);
}

#[test]
fn however_few_descriptors_it_is_given_it_ends_with_a_result() {
    let bed = Bed::new();
    for number in 4..12 {
        for file in [false, true] {
            let log = bed.path("log");
            let mut command = Command::new("prlimit");
            command
                .arg(format!("--nofile={number}"))
                .arg(env!("CARGO_BIN_EXE_sidecar-init"))
                .arg("run")
                .args(["--manifest".into(), bed.manifest()])
                .args(["--run-dir".into(), bed.path("run")])
                .stdin(std::process::Stdio::null())
                .stdout(std::process::Stdio::null());
            if file {
                command.stderr(fs::File::create(&log).unwrap());
            }
            let output = command.output().unwrap();
            let said = if file {
                fs::read(&log).unwrap()
            } else {
                output.stderr
            };
            let said = String::from_utf8(said).unwrap();
            let last = said.lines().last().unwrap_or_default();
            let what = format!("{number}, file: {file}: {said}");
            assert!(last.starts_with("sidecar-init: result {"), "{what}");
            let code = format!("\"exit_code\":{},", output.status.code().unwrap());
            assert!(last.contains(&code), "{what}");
        }
    }
}

// System calls that fail.

/// `strace` without a word, so that only its injections are felt.
pub fn tracer() -> Option<Vec<&'static str>> {
    let arguments = vec!["strace", "-D", "-qqq", "-o", "/dev/null"];
    let tried = Command::new("strace")
        .args([
            "-qqq",
            "-o",
            "/dev/null",
            "-e",
            "inject=getpid:error=EPERM",
            "true",
        ])
        .output();
    match tried {
        Ok(output) if output.status.success() => Some(arguments),
        Ok(output) => {
            skipped(
                "system calls that fail",
                &String::from_utf8_lossy(&output.stderr),
            );
            None
        }
        Err(error) => {
            skipped("system calls that fail", &format!("strace: {error}"));
            None
        }
    }
}

/// One system call that fails, and what has to come of it.
struct Failing {
    call: &'static str,
    /// Only where it is about this file of the bed, or, behind a `=`, about this name;
    /// empty for all.
    path: &'static str,
    stage: &'static str,
    code: i32,
    says: &'static str,
}

const fn failing(
    call: &'static str,
    path: &'static str,
    stage: &'static str,
    code: i32,
    says: &'static str,
) -> Failing {
    Failing {
        call,
        path,
        stage,
        code,
        says,
    }
}

// The first fork and the first pipe are the CA's; what the daemon's filter has seen is no
// longer for strace to change.
const START_UP: [Failing; 23] = [
    // First, because it takes half a minute.
    failing(
        "getrandom:error=EAGAIN",
        "",
        "ca",
        71,
        "cannot generate a key: the kernel's random generator was not seeded within 30 s",
    ),
    failing(
        "rt_sigaction:error=EINVAL:when=12+",
        "",
        "mode",
        71,
        "cannot install signal handlers: Invalid argument",
    ),
    failing(
        "mkdir:error=EACCES",
        "run",
        "mounts",
        73,
        "cannot create directory",
    ),
    failing(
        "renameat:error=ENOSPC",
        "=status.json",
        "mounts",
        73,
        "run/status.json: No space left on device",
    ),
    failing(
        "fchmod:error=ENOSPC:when=1",
        "",
        "mounts",
        73,
        "run/status.json: No space left on device",
    ),
    failing(
        "openat:error=EIO",
        "manifest.yaml",
        "manifest",
        66,
        "manifest.yaml: I/O error",
    ),
    failing(
        "read:error=EIO",
        "manifest.yaml",
        "manifest",
        66,
        "manifest.yaml: I/O error",
    ),
    failing(
        "openat:error=EMFILE",
        "manifest.yaml",
        "manifest",
        66,
        "Too many open files",
    ),
    failing(
        "getrandom:error=ENOSYS",
        "",
        "ca",
        71,
        "cannot get random bytes: Function not implemented",
    ),
    failing(
        "openat:error=ENOSPC:when=2",
        "run/ca.key",
        "ca",
        73,
        "run/ca.key: No space left on device",
    ),
    failing(
        "write:error=ENOSPC",
        "run/ca.key",
        "ca",
        73,
        "run/ca.key: No space left on device",
    ),
    failing(
        "fsync:error=EIO",
        "run/ca.key",
        "ca",
        73,
        "run/ca.key: I/O error",
    ),
    failing(
        "renameat:error=EROFS",
        "=ca.crt",
        "ca",
        73,
        "run/ca.crt: Read-only file system",
    ),
    failing(
        "fchmod:error=ENOSPC:when=2",
        "",
        "ca",
        73,
        "run/ca.crt: No space left on device",
    ),
    failing(
        "pwrite64:error=ENOSPC:when=1",
        "",
        "ca",
        73,
        "cannot keep a copy of the CA pair in",
    ),
    failing(
        "renameat:error=EROFS",
        "=pipelock.yaml",
        "config",
        73,
        "run/pipelock.yaml: Read-only file system",
    ),
    failing(
        "fsync:error=ENOSPC:when=1",
        "",
        "config",
        73,
        "run/pipelock.yaml: No space left on device",
    ),
    failing(
        "prctl:error=EINVAL",
        "",
        "spawn",
        71,
        "cannot become the reaper of orphans: Invalid argument",
    ),
    failing(
        "openat:error=EMFILE",
        "/dev/null",
        "spawn",
        71,
        "Too many open files",
    ),
    failing(
        "pipe2:error=EMFILE:when=4+",
        "",
        "spawn",
        71,
        "cannot fork for",
    ),
    failing(
        "clone,clone3,fork,vfork:error=ENOMEM:when=3+",
        "",
        "spawn",
        71,
        "Out of memory",
    ),
    failing(
        "clone,clone3,fork,vfork:error=EAGAIN:when=3+",
        "",
        "spawn",
        71,
        "Try again",
    ),
    failing(
        "dup2,dup3:error=EMFILE",
        "",
        "spawn",
        71,
        "Too many open files",
    ),
];

#[test]
fn every_step_of_the_start_that_fails_is_named_with_its_stage_and_code() {
    let Some(strace) = tracer() else { return };
    in_parallel(&START_UP, |case| {
        let what = format!("{} {}", case.call, case.path);
        let bed = Bed::new();
        let inject = format!("inject={}", case.call);
        let path = if case.path.starts_with('/') {
            case.path.to_owned()
        } else if let Some(name) = case.path.strip_prefix('=') {
            name.to_owned()
        } else {
            bed.path(case.path).to_str().unwrap().to_owned()
        };
        let mut line = strace.clone();
        line.extend(["-f", "-e", &inject]);
        if !case.path.is_empty() {
            line.extend(["-P", &path]);
        }
        let mut init = bed.start_under(Place::Child, Console::Read, &line);
        if matches!(case.stage, "mode" | "mounts") {
            init = init.without_status();
        }
        let end: End = init.wait_end();
        assert_eq!(end.code, case.code, "{what}: {}", end.error());
        assert_eq!(end.result["stage"], case.stage, "{what}");
        assert_eq!(
            end.result["outcome"],
            format!("failed at {}", case.stage),
            "{what}"
        );
        assert_eq!(end.result["state"], "failed", "{what}");
        assert!(end.error().contains(case.says), "{what}: {}", end.error());
        let mut left: Vec<String> = fs::read_dir(end.bed.path("run"))
            .map(|entries| {
                entries
                    .map(|entry| entry.unwrap().file_name().into_string().unwrap())
                    .filter(|name| name.starts_with('.'))
                    .collect()
            })
            .unwrap_or_default();
        left.sort();
        assert!(left.is_empty(), "{what}: half-written files: {left:?}");
    });
}

#[test]
fn a_stop_does_not_wait_for_entropy_that_does_not_come() {
    let Some(strace) = tracer() else { return };
    let line = [&strace[..], &["-f", "-e", "inject=getrandom:error=EAGAIN"]].concat();
    let mut init = Bed::new().start_under(Place::Child, Console::Read, &line);
    init.wait_for("it waits for entropy", |status| status["stage"] == "ca");
    let (end, took) = init.stop();
    assert_eq!(end.code, 0);
    assert_eq!(end.result["outcome"], "stopped");
    assert!(took < STOP_BOUND, "{took:?}");
    assert!(
        !end.bed.path("run/ca.key").exists(),
        "nor is there half a pair"
    );
}

/// The pair is made while the manifest is read. A failed start leaves it whole, or where
/// it cannot be had in time, not there.
#[test]
fn a_start_that_fails_beside_the_making_of_the_ca_leaves_no_half_pair() {
    let Some(strace) = tracer() else { return };
    let never = [&strace[..], &["-f", "-e", "inject=getrandom:error=EAGAIN"]].concat();
    for (line, made) in [(&[][..], true), (&never[..], false)] {
        let bed = Bed::new();
        bed.replace_manifest("version: 2\n");
        let began = Instant::now();
        let end = bed
            .start_under(Place::Child, Console::Read, line)
            .wait_end();
        assert!(began.elapsed() < STOP_BOUND, "{:?}", began.elapsed());
        assert_eq!(
            (end.code, end.result["stage"].as_str()),
            (65, Some("manifest"))
        );
        for file in ["run/ca.crt", "run/ca.key"] {
            assert_eq!(end.bed.path(file).exists(), made, "{file}, {line:?}");
        }
    }
}

#[test]
fn a_spawn_that_fails_for_want_of_memory_is_tried_again() {
    let Some(strace) = tracer() else { return };
    for error in ["ENOMEM", "EAGAIN"] {
        let inject = format!("inject=clone,clone3,fork,vfork:error={error}:when=3..4");
        let mut init = Bed::new().start_under(
            Place::Child,
            Console::Read,
            &[&strace[..], &["-e", &inject]].concat(),
        );
        init.wait_ready();
        init.kill_daemon();
        let status = init.wait_for("it is ready again", |status| {
            status["state"] == "ready" && status["failures"] == 3
        });
        assert_eq!(status["restarts"], 1);
        assert_eq!(init.stop().0.code, 0);
    }
}

/// A minute by the clock: `scripts/test quick` leaves it out.
mod at_length {
    use super::*;

    #[test]
    fn a_flood_of_idle_connections_is_an_overload_and_never_a_crash_loop() {
        let bed = Bed::new();
        let limits = ["prlimit", "--nofile=64:128"];
        let mut init = bed.start_under(Place::Child, Console::Read, &limits);
        init.wait_ready();
        let all = || ("128".to_owned(), "128".to_owned());
        assert_eq!(support::most_descriptors(init.daemon()), all());
        let flood = Flood::of(200, init.bed.address());
        init.wait_for("it is told", |status| {
            status["daemon"]["trouble"] == "overloaded: its 128 descriptors are in use"
        });
        // Three misses each take nine seconds: five within a minute would be a crash loop. A
        // start that the flood outlasts takes thirty.
        let end = Instant::now() + Duration::from_secs(52);
        let status = init.wait_for("it was restarted again and again", |status| {
            status["failures"].as_u64() >= Some(5) || Instant::now() > end
        });
        assert!(status["failures"].as_u64() >= Some(2), "{status}");
        let told = status["last_exit"]["text"].as_str().unwrap();
        let words = "brought down: pipelock was overloaded: its 128 descriptors are in use";
        assert!(told.ends_with(words), "{told}");
        drop(flood);
        init.wait_for("it serves", |status| {
            status["state"] == "ready" && status["daemon"]["trouble"].is_null()
        });
        assert_eq!(init.stop().0.code, 0);
    }
}
