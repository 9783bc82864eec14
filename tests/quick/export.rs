//! The export and the run directory are written in by others too: what they plant there is
//! never followed, never waited for, and never keeps this start from being told. What is
//! exported is what was judged, and nothing else of any file.

use std::fs::{self, File, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::thread;
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;
use nix::sys::signal::Signal;
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use serde_json::Value;

use crate::support::{Bed, Init, Place, pipelock, skipped};

const EXPORTED: [&str; 8] = [
    "status.json",
    "denials.json",
    "report.json",
    "metrics.prom",
    "pipelock-ca.pem",
    "ca-bundle.pem",
    "client.env",
    "for-agents.md",
];

/// With pipelock itself, where one is named.
fn new_bed() -> Bed {
    let bed = Bed::new();
    if std::env::var_os("PIPELOCK_BIN").is_some() {
        pipelock::copy_into(&bed.path(""));
    }
    bed
}

fn exported(init: &Init, name: &str) -> Option<String> {
    fs::read_to_string(init.bed.path("run/export").join(name)).ok()
}

/// The status in the export, where it is a file and this start's.
fn told(init: &Init) -> Option<Value> {
    let path = init.bed.path("run/export/status.json");
    fs::symlink_metadata(&path)
        .ok()
        .filter(fs::Metadata::is_file)?;
    let told: Value = serde_json::from_slice(&fs::read(path).ok()?).ok()?;
    (told["boot_id"] == init.status()["boot_id"]).then_some(told)
}

fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

fn run(program: &str, arguments: &[&str]) -> bool {
    let output = Command::new(program).args(arguments).output();
    output.is_ok_and(|output| output.status.success())
}

// Keys.

/// A pair in `run`, and the key behind the certificate.
fn pair_with_key_in_the_certificate(bed: &Bed) {
    let (cert, key) = (bed.path("run/ca.crt"), bed.path("run/ca.key"));
    fs::create_dir_all(bed.path("run")).unwrap();
    let made = ca_command(&[&cert, &key]);
    assert!(made.status.success(), "{made:?}");
    let both = [fs::read(&cert).unwrap(), fs::read(&key).unwrap()].concat();
    fs::write(&cert, both).unwrap();
    if is_root() {
        std::os::unix::fs::chown(&key, Some(65534), Some(65534)).unwrap();
    }
}

fn ca_command(pair: &[&Path; 2]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_sidecar-init"))
        .arg("ca")
        .args(["--cert".as_ref(), pair[0].as_os_str()])
        .args(["--key".as_ref(), pair[1].as_os_str()])
        .output()
        .unwrap()
}

#[test]
fn a_key_behind_the_certificate_is_refused_and_goes_nowhere() {
    let bed = new_bed().with_export();
    pair_with_key_in_the_certificate(&bed);
    let end = bed.start(Place::Child).wait_end();
    assert_eq!(end.code, 78);
    assert!(
        end.error().contains("its file holds a private key as well"),
        "{}",
        end.error()
    );
    for name in EXPORTED {
        let text = fs::read_to_string(end.bed.path("run/export").join(name)).unwrap_or_default();
        assert!(!text.contains("PRIVATE KEY--"), "{name}");
    }
}

#[test]
fn nothing_but_certificates_goes_from_a_file_to_the_clients() {
    const SECRET: &str = "password: 5ecret";
    let bed = new_bed().with_export();
    let (cert, key) = (bed.path("run/ca.crt"), bed.path("run/ca.key"));
    assert!(ca_command(&[&cert, &key]).status.success());
    let pem = fs::read_to_string(&cert).unwrap();
    fs::write(&cert, format!("{SECRET}\n{pem}{SECRET}\n")).unwrap();
    if is_root() {
        std::os::unix::fs::chown(&key, Some(65534), Some(65534)).unwrap();
    }
    fs::create_dir(bed.path("trust")).unwrap();
    let pkcs8 = "MC4CAQAwBQYDK2VwBCIEIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f";
    let disguised = format!("-----BEGIN CERTIFICATE-----\n{pkcs8}\n-----END CERTIFICATE-----\n");
    let root = |between: &str| format!("{SECRET}\n{between}{pem}");
    fs::write(bed.path("trust/root.pem"), root(&disguised)).unwrap();
    let end = bed.start(Place::Child).wait_end();
    assert_eq!(end.code, 65);
    assert!(
        end.error()
            .contains("trust/root.pem: line 2: its PEM block is not an X.509 certificate"),
        "{}",
        end.error()
    );
    for name in EXPORTED {
        let text = fs::read_to_string(end.bed.path("run/export").join(name)).unwrap_or_default();
        assert!(!text.contains(pkcs8), "{name}");
    }
    fs::write(end.bed.path("trust/root.pem"), root("")).unwrap();
    let mut init = end.bed.start(Place::Child);
    init.wait_ready();
    assert_eq!(exported(&init, "pipelock-ca.pem"), Some(pem.clone()));
    let bundle = exported(&init, "ca-bundle.pem").unwrap();
    assert_eq!(bundle.matches(&pem).count(), 2);
    let upstream = fs::read_to_string(init.bed.path("run/upstream-roots.pem")).unwrap();
    assert_eq!(upstream.matches(&pem).count(), 1);
    for text in [bundle, upstream] {
        assert!(!text.contains(SECRET) && !text.contains(pkcs8), "{text}");
    }
    init.stop();
}

#[test]
fn the_command_says_what_it_wrote_where_and_what_a_pair_costs() {
    let bed = new_bed();
    let (cert, key) = (bed.path("ca.crt"), bed.path("ca.key"));
    let places = format!(
        "\n  certificate {}\n  key         {}\n",
        cert.display(),
        key.display()
    );
    for verb in ["generated: ", "usable: "] {
        let output = ca_command(&[&cert, &key]);
        let said = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success() && said.starts_with(verb), "{said}");
        assert!(said.ends_with(&places), "{said}");
    }
    // One that costs something.
    let made = run(
        "openssl",
        &[
            "req",
            "-x509",
            "-key",
            key.to_str().unwrap(),
            "-subj",
            "/CN=own",
            "-days",
            "2",
            "-addext",
            "keyUsage=critical,keyCertSign",
            "-addext",
            "nameConstraints=permitted;DNS:corp.example",
            "-out",
            cert.to_str().unwrap(),
        ],
    );
    assert!(made);
    let more = fs::read(&cert).unwrap().repeat(2);
    fs::write(&cert, more).unwrap();
    let output = ca_command(&[&cert, &key]);
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success() && said.contains(&places), "{said}");
    for words in [
        "name constraints (permitted: corp.example)",
        "more than one PEM block",
    ] {
        let warned = |line: &str| {
            let begin = format!("warning: {}: ", cert.display());
            line.starts_with(&begin) && line.contains(words)
        };
        assert!(said.lines().any(warned), "{words}: {said}");
    }
}

#[test]
fn one_file_is_not_taken_for_both_halves_of_a_pair() {
    let bed = new_bed();
    let file = bed.path("both.pem");
    symlink("both.pem", bed.path("link.pem")).unwrap();
    for other in [file.clone(), bed.path("./both.pem"), bed.path("link.pem")] {
        let output = ca_command(&[&other, &file]);
        assert_eq!(output.status.code(), Some(78), "{output:?}");
        let says = String::from_utf8(output.stderr).unwrap();
        assert!(says.contains("cannot use one file for both"), "{says}");
        assert!(!file.exists(), "nothing was written");
    }
}

/// `ca`, killed at this system call; `None` where strace cannot do that.
fn killed_at(call: &str, pair: &[&Path; 2]) -> Option<Output> {
    let output = Command::new("strace")
        .args(["-qqq", "-o", "/dev/null", "-e"])
        .arg(format!("inject={call}"))
        .arg(env!("CARGO_BIN_EXE_sidecar-init"))
        .arg("ca")
        .args(["--cert".as_ref(), pair[0].as_os_str()])
        .args(["--key".as_ref(), pair[1].as_os_str()])
        .output()
        .ok()?;
    (!String::from_utf8_lossy(&output.stderr).contains("ptrace")).then_some(output)
}

#[test]
fn a_command_that_is_killed_between_its_two_files_leaves_a_pair_that_is_completed() {
    let mut completed = 0;
    for call in ["openat", "write", "fchmod", "fsync", "renameat"] {
        for number in 1.. {
            let bed = new_bed();
            let (cert, key) = (bed.path("ca.crt"), bed.path("ca.key"));
            let inject = format!("{call}:signal=KILL:when={number}");
            let Some(killed) = killed_at(&inject, &[&cert, &key]) else {
                skipped("a pair that is cut off", "strace cannot kill here");
                return;
            };
            if killed.status.success() {
                // There were no more calls of that kind.
                break;
            }
            let left = fs::read_to_string(&key).unwrap_or_default();
            let cut_off = !cert.exists() && !left.is_empty();
            let again = ca_command(&[&cert, &key]);
            let said = String::from_utf8(again.stdout.clone()).unwrap();
            if key.exists() && left.is_empty() && !again.status.success() {
                // It had its name, and nothing in it: whose it is nobody can know.
                let error = String::from_utf8(again.stderr.clone()).unwrap();
                assert!(error.contains("cannot use half a CA pair"), "{error}");
                continue;
            }
            assert!(again.status.success(), "{inject}: {again:?}");
            assert_eq!(said.starts_with("completed: "), cut_off, "{inject}: {said}");
            if cut_off {
                assert_eq!(fs::read_to_string(&key).unwrap(), left, "the key is kept");
                completed += 1;
            }
            let judged = ca_command(&[&cert, &key]);
            assert!(
                judged.stdout.starts_with(b"usable: "),
                "{inject}: {judged:?}"
            );
        }
    }
    assert!(completed >= 3, "{completed}");
}

#[test]
fn a_start_completes_a_pair_that_was_cut_off_and_refuses_half_of_anothers() {
    let bed = new_bed().with_export();
    let (cert, key) = (bed.path("run/ca.crt"), bed.path("run/ca.key"));
    fs::create_dir_all(bed.path("run")).unwrap();
    assert!(ca_command(&[&cert, &key]).status.success());
    if is_root() {
        std::os::unix::fs::chown(&key, Some(65534), Some(65534)).unwrap();
    }
    let whole = fs::read_to_string(&cert).unwrap();
    fs::remove_file(&cert).unwrap();
    let mut init = bed.start(Place::Child);
    init.wait_ready();
    assert_eq!(fs::read_to_string(&cert).unwrap(), whole);
    assert_eq!(exported(&init, "pipelock-ca.pem"), Some(whole));
    let (end, _) = init.stop();
    // Half of a pair that somebody made otherwise.
    fs::remove_file(&cert).unwrap();
    let both = fs::read_to_string(&key).unwrap();
    let (alone, _) = both.split_once("-----BEGIN CERTIFICATE").unwrap();
    fs::write(&key, alone).unwrap();
    let end = end.bed.start(Place::Child).wait_end();
    assert_eq!(end.code, 78);
    assert!(
        end.error().contains("cannot use half a CA pair"),
        "{}",
        end.error()
    );
    assert!(!cert.exists());
}

#[test]
fn several_that_make_a_pair_at_once_leave_one_that_matches() {
    for round in 0..12 {
        let bed = new_bed();
        let (cert, key) = (bed.path("ca.crt"), bed.path("ca.key"));
        let all: Vec<Output> = thread::scope(|scope| {
            let make = || ca_command(&[&cert, &key]);
            let threads: Vec<_> = (0..6).map(|_| scope.spawn(make)).collect();
            threads.into_iter().map(|it| it.join().unwrap()).collect()
        });
        let generated = |output: &&Output| output.stdout.starts_with(b"generated");
        assert_eq!(all.iter().filter(generated).count(), 1, "{round}: {all:?}");
        assert!(all.iter().all(|it| it.status.success()), "{round}: {all:?}");
        let judged = ca_command(&[&cert, &key]);
        assert!(judged.stdout.starts_with(b"usable"), "{round}: {judged:?}");
        let left = fs::read_dir(bed.path("")).unwrap().flatten();
        let hidden = left.filter(|it| it.file_name().as_encoded_bytes()[0] == b'.');
        assert_eq!(hidden.count(), 0, "no temporary file is left");
    }
}

// Modes and locks.

#[test]
fn a_run_directory_keeps_the_mode_that_somebody_chose() {
    let bed = new_bed();
    fs::create_dir(bed.path("run")).unwrap();
    fs::set_permissions(bed.path("run"), Permissions::from_mode(0o700)).unwrap();
    let mut init = bed.start(Place::Child);
    let mode = |bed: &Bed| fs::metadata(bed.path("run")).unwrap().mode() & 0o7777;
    if is_root() {
        let end = init.wait_end();
        let error = end.error();
        assert!(error.contains("chmod o+rx"), "{error}");
        assert!(error.contains("cannot read its configuration"), "{error}");
        assert_eq!(end.code, 69);
        assert_eq!(mode(&end.bed), 0o700);
    } else {
        init.wait_ready();
        assert_eq!(mode(&init.bed), 0o700);
        assert_eq!(init.stop().0.code, 0);
    }
}

/// A lock of the whole file, as long as the file lives.
fn lock(path: &Path, kind: libc::c_int) -> File {
    let file = File::options().read(true).write(true).open(path).unwrap();
    let lock = libc::flock {
        l_type: libc::c_short::try_from(kind).unwrap(),
        l_whence: 0,
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    };
    fcntl(&file, FcntlArg::F_OFD_SETLK(&lock)).unwrap();
    file
}

#[test]
fn a_reader_of_the_lock_stops_no_start_and_a_writer_does() {
    let bed = new_bed();
    fs::create_dir(bed.path("run")).unwrap();
    fs::write(bed.path("run/lock"), "").unwrap();
    fs::set_permissions(bed.path("run/lock"), Permissions::from_mode(0o644)).unwrap();
    let reader = lock(&bed.path("run/lock"), libc::F_RDLCK);
    let status = bed.run(&["status"]);
    assert_eq!(status.status.code(), Some(69), "{status:?}");
    let mut init = bed.start(Place::Child);
    init.wait_ready();
    let mode = fs::metadata(init.bed.path("run/lock")).unwrap().mode();
    assert_eq!(mode & 0o7777, 0o600, "nobody else can open it");
    drop(reader);
    init.signal(Signal::SIGKILL);
    init.wait_killed();
    assert_eq!(init.bed.run(&["healthcheck"]).status.code(), Some(1));

    let bed = new_bed();
    fs::create_dir(bed.path("run")).unwrap();
    fs::write(bed.path("run/lock"), "").unwrap();
    let _writer = lock(&bed.path("run/lock"), libc::F_WRLCK);
    let end = bed.start(Place::Child).without_status().wait_end();
    assert_eq!(end.code, 73);
    assert!(end.error().contains("another sidecar-init runs with it"));
}

#[test]
fn whatever_stands_in_the_locks_place_is_replaced_and_hangs_nobody() {
    let plants: [&dyn Fn(&Path); 4] = [
        &|path| mkfifo(path, Mode::S_IRWXU).unwrap(),
        &|path| symlink("victim", path).unwrap(),
        &|path| fs::hard_link(path.with_file_name("victim"), path).unwrap(),
        &|path| fs::create_dir(path).unwrap(),
    ];
    for plant in plants {
        let bed = new_bed();
        fs::create_dir(bed.path("run")).unwrap();
        fs::write(bed.path("run/victim"), "untouched").unwrap();
        plant(&bed.path("run/lock"));
        assert_eq!(bed.run(&["status"]).status.code(), Some(69));
        let mut init = bed.start(Place::Child);
        init.wait_ready();
        assert_eq!(init.bed.run(&["healthcheck"]).status.code(), Some(0));
        let victim = fs::read_to_string(init.bed.path("run/victim")).unwrap();
        assert_eq!(victim, "untouched");
        init.signal(Signal::SIGKILL);
        init.wait_killed();
        assert_eq!(init.bed.run(&["healthcheck"]).status.code(), Some(1));
    }
}

#[test]
fn a_pipe_in_the_export_hangs_no_reader_of_it() {
    let mut init = new_bed().with_export().start(Place::Child);
    init.wait_ready();
    init.wait_until("the export has it", |init| {
        told(init).filter(|told| told["state"] == "ready")
    });
    let export = init.bed.path("run/export");
    mkfifo(&export.join("lock"), Mode::S_IRWXU).unwrap();
    let ask = |command: &str| {
        Command::new("timeout")
            .args(["20", env!("CARGO_BIN_EXE_sidecar-init"), command])
            .args(["--run-dir".as_ref(), export.as_os_str()])
            .output()
            .unwrap()
    };
    for command in ["status", "healthcheck"] {
        let output = ask(command);
        assert_eq!(output.status.code(), Some(0), "{command}: {output:?}");
    }
    for name in ["status.json", "denials.json"] {
        fs::remove_file(export.join(name)).unwrap();
        mkfifo(&export.join(name), Mode::S_IRWXU).unwrap();
    }
    for command in ["status", "healthcheck"] {
        let says = ask(command);
        assert!(matches!(says.status.code(), Some(1 | 69)), "{says:?}");
    }
    init.stop();
}

#[test]
fn an_init_that_does_not_move_is_said_to_hang() {
    let mut init = new_bed().start(Place::Child);
    init.wait_ready();
    assert_eq!(init.bed.run(&["healthcheck"]).status.code(), Some(0));
    init.signal(Signal::SIGSTOP);
    init.wait_until("the probe fails", |init| {
        thread::sleep(Duration::from_millis(200));
        (!init.bed.run(&["healthcheck"]).status.success()).then_some(())
    });
    let says = init.bed.run(&["healthcheck"]);
    let says = String::from_utf8(says.stderr).unwrap();
    assert!(
        says.contains("hung: sidecar-init has not been heard of for "),
        "{says}"
    );
    assert!(says.trim_end().ends_with("; it was ready then"), "{says}");
    let status = init.bed.run(&["status"]);
    let status = String::from_utf8(status.stdout).unwrap();
    assert!(status.contains(": hung; "), "{status}");
    init.signal(Signal::SIGCONT);
    init.wait_until("it moves again", |init| {
        init.bed
            .run(&["healthcheck"])
            .status
            .success()
            .then_some(())
    });
    assert_eq!(init.stop().0.code, 0);
}

// What is planted.

#[test]
fn no_link_is_followed_out_of_the_run_directory_or_the_export() {
    for directory in ["run", "run/export"] {
        for to in ["victim", "pipelock.yaml"] {
            let bed = new_bed().with_export();
            let (victim, room) = (bed.path(to), bed.path(directory));
            fs::write(&victim, "untouched").unwrap();
            for name in EXPORTED {
                symlink(&victim, room.join(name)).unwrap();
                // What a program that knows our names would foresee.
                symlink(&victim, room.join(format!(".{name}.new"))).unwrap();
            }
            let mut init = bed.start(Place::Child);
            init.wait_ready();
            init.wait_until("the export has it", |init| {
                told(init).filter(|told| told["state"] == "ready")
            });
            for name in EXPORTED {
                let _ = fs::remove_file(room.join(name));
                symlink(&victim, room.join(name)).unwrap();
            }
            init.bed.allow(&["b.example"]);
            init.signal(Signal::SIGHUP);
            init.wait_until("it is told", |init| {
                told(init).filter(|told| told["config"]["applied_generation"] == 2)
            });
            let end = init.stop().0;
            assert_eq!(end.code, 0);
            assert_eq!(fs::read_to_string(&victim).unwrap(), "untouched");
        }
    }
}

#[test]
fn the_key_is_never_made_where_clients_read_nor_under_the_name_of_a_copy() {
    for name in ["export/ca.key", "served-ca-key.pem"] {
        let bed = new_bed().with_export();
        let key = format!("--key={}", bed.path("run").join(name).display());
        // The last one counts.
        let end = bed.with_argument(&key).start(Place::Child).wait_end();
        assert_eq!(end.code, 78, "{}", end.error());
        assert!(
            end.error()
                .contains("hint: name other files with --cert and --key"),
            "{}",
            end.error()
        );
        assert!(!end.bed.path("run").join(name).exists());
    }
}

#[test]
fn an_export_that_is_a_link_is_left_alone_and_that_is_told() {
    let bed = new_bed();
    fs::create_dir_all(bed.path("run")).unwrap();
    fs::create_dir(bed.path("elsewhere")).unwrap();
    fs::write(bed.path("elsewhere/status.json"), "untouched").unwrap();
    symlink("../elsewhere", bed.path("run/export")).unwrap();
    let mut init = bed.start(Place::Child);
    let status = init.wait_ready();
    let warnings = status["warnings"].to_string();
    assert!(warnings.contains("run/export: "), "{warnings}");
    let end = init.stop().0;
    let elsewhere = fs::read_dir(end.bed.path("elsewhere")).unwrap();
    assert_eq!(elsewhere.count(), 1);
}

#[test]
fn a_directory_in_a_names_place_does_not_keep_an_old_status_alive() {
    for planted in EXPORTED {
        let bed = new_bed().with_export();
        let export = bed.path("run/export");
        for name in EXPORTED {
            fs::write(export.join(name), r#"{"boot_id":"old","state":"ready"}"#).unwrap();
        }
        fs::remove_file(export.join(planted)).unwrap();
        fs::create_dir_all(export.join(planted).join("not/empty")).unwrap();
        let mut init = bed.start(Place::Child);
        init.wait_ready();
        init.wait_until("the export has this start's", |init| {
            told(init).filter(|told| told["state"] == "ready")
        });
        for name in EXPORTED {
            let text = exported(&init, name).unwrap_or_default();
            assert!(!text.contains("\"old\""), "{planted}: {name} is old");
        }
        let (end, _) = init.stop();
        assert_eq!(end.code, 0);
    }
}

/// Makes a file what not even root can replace, until it is dropped.
struct Immutable(PathBuf);

impl Immutable {
    fn make(path: PathBuf) -> Option<Self> {
        let set = run("chattr", &["+i", path.to_str().unwrap()]);
        set.then_some(Self(path))
    }
}

impl Drop for Immutable {
    fn drop(&mut self) {
        run("chattr", &["-i", self.0.to_str().unwrap()]);
    }
}

#[test]
fn a_file_that_cannot_be_replaced_keeps_no_other_from_being_told() {
    for planted in EXPORTED {
        let bed = new_bed().with_export();
        let export = bed.path("run/export");
        for name in EXPORTED {
            fs::write(export.join(name), r#"{"boot_id":"old","state":"ready"}"#).unwrap();
        }
        let Some(immutable) = Immutable::make(export.join(planted)) else {
            return skipped("immutable files in the export", "chattr +i is refused");
        };
        let mut init = bed.start(Place::Child);
        init.wait_for("it is told elsewhere", |status| {
            status["state"] == "ready" && status["warnings"].to_string().contains(planted)
        });
        for name in EXPORTED.into_iter().filter(|name| *name != planted) {
            let text = exported(&init, name).unwrap_or_default();
            assert!(!text.contains("\"old\""), "{planted}: {name} is old");
        }
        drop(immutable);
        init.wait_for("the warning goes", |status| {
            !status["warnings"].to_string().contains(planted)
        });
        init.wait_until("the export has it", |init| {
            told(init).filter(|told| {
                told["state"] == "ready" && told["warnings"] == init.status()["warnings"]
            })
        });
        assert_eq!(init.stop().0.code, 0);
    }
}

#[test]
fn directories_that_are_named_like_temporary_files_go_or_are_told_of_once() {
    let bed = new_bed().with_export();
    for place in ["run", "run/export"] {
        fs::create_dir(bed.path(place).join(".sidecar-init-empty")).unwrap();
        fs::create_dir_all(bed.path(place).join(".sidecar-init-full/something")).unwrap();
    }
    let mut init = bed.start(Place::Child);
    let warnings = init.wait_ready()["warnings"].to_string();
    for (place, name) in [
        ("run", "the run directory has 1 "),
        ("run/export", "the export has 1 "),
    ] {
        assert!(!init.bed.path(place).join(".sidecar-init-empty").exists());
        assert!(init.bed.path(place).join(".sidecar-init-full").exists());
        assert!(warnings.contains(name), "{warnings}");
    }
    // Another export is swept again.
    let export = init.bed.path("run/export");
    fs::rename(&export, init.bed.path("aside")).unwrap();
    fs::create_dir_all(export.join(".sidecar-init-other/something")).unwrap();
    init.wait_until("it is told there", told);
    let (end, _) = init.stop();
    let console = end.console_text();
    assert_eq!(
        console.matches("warning: the export has 1 ").count(),
        1,
        "{console}"
    );
}

// A file system that does not answer.

/// An ext4 of its own on the bed's export, which can be frozen. To be dropped before the
/// bed, whose directory could not be removed otherwise.
struct Freezer(PathBuf);

impl Freezer {
    fn on_export_of(bed: &Bed) -> Option<Self> {
        let (image, export) = (bed.path("image"), bed.path("run/export"));
        let file = File::create(&image).unwrap();
        file.set_len(8 << 20).unwrap();
        let [image, at] = [&image, &export].map(|path| path.to_str().unwrap());
        let made =
            run("mkfs.ext4", &["-q", "-F", image]) && run("mount", &["-o", "loop", image, at]);
        if !made {
            skipped("a frozen export", "no loop device can be mounted");
        }
        made.then(|| Self(export))
    }

    fn freeze(&self) {
        assert!(run("fsfreeze", &["-f", self.0.to_str().unwrap()]));
        // Whoever fails meanwhile could not even clean up.
        let at = self.0.clone();
        thread::spawn(move || {
            thread::sleep(Duration::from_secs(100));
            run("fsfreeze", &["-u", at.to_str().unwrap()]);
        });
    }

    fn thaw(&self) {
        assert!(run("fsfreeze", &["-u", self.0.to_str().unwrap()]));
    }
}

impl Drop for Freezer {
    fn drop(&mut self) {
        let at = self.0.to_str().unwrap();
        run("fsfreeze", &["-u", at]);
        run("umount", &["-l", at]);
    }
}

#[test]
fn a_frozen_export_delays_neither_a_revocation_nor_a_halt_nor_the_end() {
    let bed = new_bed().with_export();
    bed.allow(&["a.example", "b.example"]);
    let Some(freezer) = Freezer::on_export_of(&bed) else {
        return;
    };
    let mut init = bed.start(Place::Child);
    let freezer = freezer;
    init.wait_ready();
    freezer.freeze();
    let begun = Instant::now();
    init.bed.allow(&["a.example"]);
    init.wait_for("the host is revoked", |status| {
        status["revocation"]["done_at"].is_string() && status["config"]["applied_generation"] == 2
    });
    assert!(
        begun.elapsed() < Duration::from_secs(20),
        "{:?}",
        begun.elapsed()
    );
    init.signal(Signal::SIGUSR1);
    init.wait_for("it is halted", |status| status["state"] == "halted");
    let status = init.wait_for("the silence is told", |status| {
        status["warnings"]
            .to_string()
            .contains("the export has not answered since ")
    });
    assert_eq!(status["halted"], true);
    assert_eq!(
        init.bed.run(&["status"]).status.code(),
        Some(0),
        "it does not hang"
    );
    init.signal(Signal::SIGUSR2);
    init.wait_ready();
    freezer.thaw();
    init.wait_for("the warning goes", |status| {
        !status["warnings"].to_string().contains("has not answered")
    });
    init.wait_until("the export has it", |init| {
        told(init)
            .filter(|told| told["state"] == "ready" && told["config"]["applied_generation"] == 2)
    });
    // And once more, for the end.
    freezer.freeze();
    init.kill_daemon();
    init.wait_ready_after(2);
    let (end, took) = init.stop();
    drop(freezer);
    assert_eq!(end.code, 0);
    assert!(took < Duration::from_secs(8), "{took:?}");
    assert!(
        end.console_text().contains("the export"),
        "{}",
        end.console_text()
    );
}

#[test]
fn a_start_with_a_frozen_export_goes_on_without_it() {
    let bed = new_bed().with_export();
    let Some(freezer) = Freezer::on_export_of(&bed) else {
        return;
    };
    fs::write(bed.path("run/export/status.json"), r#"{"boot_id":"old"}"#).unwrap();
    freezer.freeze();
    let begun = Instant::now();
    let mut init = bed.start(Place::Child);
    let freezer = freezer;
    let status = init.wait_ready();
    assert!(
        begun.elapsed() < Duration::from_secs(20),
        "{:?}",
        begun.elapsed()
    );
    assert_eq!(told(&init), None, "{status}");
    freezer.thaw();
    init.wait_until("the export has it", |init| {
        told(init).filter(|told| told["state"] == "ready")
    });
    assert!(exported(&init, "pipelock-ca.pem").is_some());
    // A killed init leaves nobody behind whose descriptors keep its lock.
    freezer.freeze();
    init.kill_daemon();
    init.wait_ready_after(1);
    init.signal(Signal::SIGKILL);
    init.wait_killed();
    assert_eq!(init.bed.run(&["healthcheck"]).status.code(), Some(1));
}

/// Plants, for as long as it lives, whatever a name of ours could be in the way of.
const NEIGHBOUR: &str = r#"
    i=0
    while :; do
        for place in run run/export; do
            for name in status.json denials.json report.json metrics.prom pipelock-ca.pem ca-bundle.pem client.env for-agents.md \
                .status.json.new .pipelock.yaml.new; do
                i=$((i + 1))
                rm -rf "$place/$name" 2>/dev/null
                case $((i % 5)) in
                0) ln -sT "$PWD/victim" "$place/$name" ;;
                1) mkfifo "$place/$name" ;;
                2) mkdir "$place/$name" && mkdir "$place/$name/not-empty" ;;
                3) ln -sT "$PWD/run/pipelock.yaml" "$place/$name" ;;
                4) ln -sT "$PWD/outside" "$place/$name" ;;
                esac 2>/dev/null
            done
        done
        rm -rf run/export/lock 2>/dev/null; mkfifo run/export/lock 2>/dev/null
    done
"#;

#[test]
fn a_status_that_somebody_removes_is_told_again() {
    let mut init = new_bed().with_export().start(Place::Child);
    let boot_id = init.wait_ready()["boot_id"].clone();
    let places = ["run/status.json", "run/export/status.json"].map(|place| init.bed.path(place));
    for spoil in [
        (|path| fs::remove_file(path).unwrap()) as fn(&Path),
        |path| fs::write(path, "{}").unwrap(),
    ] {
        // The export first: it is told what the run directory is, and that again once that
        // one's is found spoilt.
        for path in places.iter().rev() {
            spoil(path);
        }
        for path in &places {
            init.wait_until("it is told again", |_| {
                let told: Value = serde_json::from_slice(&fs::read(path).ok()?).ok()?;
                (told["boot_id"] == boot_id && told["state"] == "ready").then_some(())
            });
        }
    }
    assert!(init.bed.run(&["healthcheck"]).status.success());
    assert_eq!(init.stop().0.code, 0);
}

#[test]
fn an_export_that_is_emptied_or_replaced_is_told_everything_again() {
    let mut init = new_bed().with_export().start(Place::Child);
    let boot_id = init.wait_ready()["boot_id"].clone();
    let export = init.bed.path("run/export");
    let whole = |init: &mut Init| {
        init.wait_until("all of it is there", |_| {
            let told: Value =
                serde_json::from_slice(&fs::read(export.join("status.json")).ok()?).ok()?;
            let ready = told["boot_id"] == boot_id && told["state"] == "ready";
            let names = [
                "pipelock-ca.pem",
                "ca-bundle.pem",
                "client.env",
                "for-agents.md",
            ];
            (ready && names.iter().all(|name| export.join(name).is_file())).then_some(())
        });
    };
    whole(&mut init);
    fs::remove_file(export.join("client.env")).unwrap();
    fs::remove_file(export.join("status.json")).unwrap();
    whole(&mut init);

    // With what an earlier boot might have left.
    let earlier = init.bed.path("earlier");
    fs::create_dir(&earlier).unwrap();
    fs::write(earlier.join("status.json"), r#"{"state":"ready"}"#).unwrap();
    fs::rename(&export, init.bed.path("aside")).unwrap();
    fs::rename(&earlier, &export).unwrap();
    whole(&mut init);

    fs::remove_dir_all(&export).unwrap();
    init.wait_for("it is missed", |status| {
        status["warnings"]
            .to_string()
            .contains("not there any more")
    });
    fs::create_dir(&export).unwrap();
    whole(&mut init);
    init.wait_for("it is missed no more", |status| {
        !status["warnings"].to_string().contains("export")
    });
    assert_eq!(init.stop().0.code, 0);
}

#[test]
fn an_export_that_is_made_after_the_start_is_told_everything() {
    let mut init = new_bed().start(Place::Child);
    init.wait_ready();
    let export = init.bed.path("run/export");
    // What is no directory is no export, and is said to be none for as long.
    symlink(init.bed.path(""), &export).unwrap();
    init.wait_for("it is said why nobody is told", |status| {
        let warnings = status["warnings"].to_string();
        warnings.contains("the host is told nothing in the export: ")
    });
    fs::remove_file(&export).unwrap();
    init.wait_for("nothing is wrong", |status| {
        !status["warnings"].to_string().contains("export")
    });
    fs::create_dir(&export).unwrap();
    for name in EXPORTED.into_iter().filter(|name| *name != "report.json") {
        init.wait_until(&format!("{name} is there"), |init| exported(init, name));
    }
    init.wait_until("it is this start's", |init| {
        told(init).filter(|told| told["state"] == "ready")
    });
    // And is kept so.
    init.bed.allow(&["a.example", "b.example"]);
    init.wait_until("a change is told there", |init| {
        let page = exported(init, "for-agents.md")?;
        let status = told(init)?;
        (page.contains("b.example") && status["config"]["applied_generation"] == 2).then_some(())
    });
    assert_eq!(init.stop().0.code, 0);
}

/// Changes a file where it stands, and has it look as old as before.
fn forge(path: &Path) {
    let modified = fs::metadata(path).unwrap().modified().unwrap();
    let mut bytes = fs::read(path).unwrap();
    *bytes.last_mut().unwrap() = b'!';
    fs::write(path, bytes).unwrap();
    let file = File::options().write(true).open(path).unwrap();
    file.set_modified(modified).unwrap();
}

/// A file, and what somebody does to it.
type Spoil = (&'static str, fn(&Path));

#[test]
fn a_file_of_the_export_that_somebody_changed_is_put_back() {
    const NAMES: [&str; 7] = [
        "status.json",
        "metrics.prom",
        "denials.json",
        "pipelock-ca.pem",
        "ca-bundle.pem",
        "client.env",
        "for-agents.md",
    ];
    let mut init = new_bed().with_export().start(Place::Child);
    init.wait_ready();
    init.wait_until("the export has it", |init| {
        told(init).filter(|told| told["state"] == "ready")
    });
    let export = init.bed.path("run/export");
    let before = NAMES.map(|name| exported(&init, name).unwrap());
    // In place or by another file, of the same length or another, and what a link leads to may
    // be changed later; one that is none of ours is not ours to tell.
    let spoil: [Spoil; 8] = [
        ("status.json", |path| fs::write(path, "{}").unwrap()),
        ("denials.json", |path| forge(path)),
        ("metrics.prom", |path| forge(path)),
        ("pipelock-ca.pem", |path| {
            fs::copy(path, path.with_extension("copy")).unwrap();
            fs::remove_file(path).unwrap();
            symlink("pipelock-ca.copy", path).unwrap();
        }),
        ("ca-bundle.pem", |path| forge(path)),
        ("client.env", |path| {
            let new = path.with_extension("new");
            fs::write(&new, "HTTPS_PROXY=http://elsewhere.example:8888\n").unwrap();
            fs::rename(new, path).unwrap();
        }),
        ("for-agents.md", |path| forge(path)),
        ("report.json", |path| fs::write(path, "{}").unwrap()),
    ];
    for (name, spoil) in spoil {
        spoil(&export.join(name));
    }
    for (name, before) in NAMES.into_iter().zip(&before) {
        init.wait_until(&format!("{name} is put back"), |init| {
            let is_file = fs::symlink_metadata(export.join(name)).ok()?.is_file();
            let text = exported(init, name)?;
            // It tells of the others.
            let is_whole = match name {
                "status.json" => told(init).is_some_and(|told| told["state"] == "ready"),
                "metrics.prom" => text.starts_with("# HELP ") && text.ends_with('\n'),
                _ => text == *before,
            };
            (is_file && is_whole).then_some(())
        });
    }
    init.wait_until("the report that is none of ours is gone", |_| {
        (!export.join("report.json").exists()).then_some(())
    });
    let warnings = init.status()["warnings"].to_string();
    for name in NAMES {
        let said = format!("somebody else changed {name} in the export; it was put back");
        assert!(warnings.contains(&said), "{name}: {warnings}");
    }
    assert_eq!(init.stop().0.code, 0);
}

/// A status that is written anew before anybody has looked.
#[test]
fn a_change_that_is_written_over_is_told_all_the_same() {
    let mut init = new_bed().with_export().start(Place::Child);
    init.wait_ready();
    init.wait_until("the export has it", |init| {
        told(init).filter(|told| told["state"] == "ready")
    });
    fs::write(init.bed.path("run/export/status.json"), "{}").unwrap();
    assert_eq!(init.bed.run(&["halt"]).status.code(), Some(0));
    let said = "somebody else changed status.json in the export; it was put back";
    init.wait_for("it is told", |status| {
        status["warnings"].to_string().contains(said)
    });
    init.wait_until("the export tells it", |init| {
        told(init).filter(|told| told["warnings"].to_string().contains(said))
    });
    assert_eq!(
        init.console().matches(said).count(),
        1,
        "{}",
        init.console()
    );
    assert_eq!(init.stop().0.code, 0);
}

/// A minute by the clock: `scripts/test quick` leaves it out.
mod at_length {
    use super::*;

    #[test]
    fn a_hostile_neighbour_reaches_nothing_outside_and_delays_nothing() {
        const NOBODY_IN_PARTICULAR: u32 = 12345;
        let bed = new_bed().with_export();
        fs::write(bed.path("victim"), "untouched").unwrap();
        fs::create_dir(bed.path("outside")).unwrap();
        for directory in ["run", "run/export"] {
            fs::set_permissions(bed.path(directory), Permissions::from_mode(0o755)).unwrap();
            if is_root() {
                let owner = Some(NOBODY_IN_PARTICULAR);
                std::os::unix::fs::chown(bed.path(directory), owner, owner).unwrap();
            }
        }
        let mut init = bed.start(Place::Child);
        init.wait_ready();
        let mut neighbour = Command::new("sh");
        neighbour
            .args(["-c", NEIGHBOUR])
            .current_dir(init.bed.path(""));
        if is_root() {
            neighbour
                .uid(NOBODY_IN_PARTICULAR)
                .gid(NOBODY_IN_PARTICULAR);
        }
        let mut neighbour = neighbour.spawn().unwrap();
        let end = Instant::now() + Duration::from_secs(60);
        let mut generation = 1;
        while Instant::now() < end {
            generation += 1;
            let host = format!("h{generation}.example");
            init.bed.allow(&["a.example", &host]);
            init.signal(Signal::SIGHUP);
            // What stands in the status' place may be a pipe: the console alone is read.
            let says = format!("generation {generation}: ");
            init.wait_until("the manifest is followed", |init| {
                init.console().contains(&says).then_some(())
            });
            // An immutable directory refuses even root for a while.
            let export = init.bed.path("run/export");
            let immutable = Immutable::make(export);
            thread::sleep(Duration::from_millis(500));
            drop(immutable);
        }
        neighbour.kill().unwrap();
        neighbour.wait().unwrap();
        init.bed.allow(&["a.example", "last.example"]);
        init.signal(Signal::SIGHUP);
        init.wait_until("this start's status is told", |init| {
            told(init).filter(|told| {
                told["state"] == "ready" && told["config"]["applied_generation"] == generation + 1
            })
        });
        assert_eq!(
            fs::read_to_string(init.bed.path("victim")).unwrap(),
            "untouched"
        );
        assert_eq!(fs::read_dir(init.bed.path("outside")).unwrap().count(), 0);
        assert_eq!(init.stop().0.code, 0);
    }
}
