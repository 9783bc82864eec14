//! The daemon's sandbox, tried from inside; what the init does where it may not build
//! all of it; and where the CA key is not. Most of it needs root, and says so.

use std::fs;
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use microvm::ScratchDir;
use serde_json::Value;

use crate::support::intruder::{self, Targets, answers, assert_stopped};

const PATIENCE: Duration = Duration::from_secs(20);

/// A directory everybody may enter, with a manifest and a setuid-root intruder.
struct Bed {
    scratch: ScratchDir,
}

impl Bed {
    fn new() -> Self {
        let scratch = ScratchDir::new().unwrap();
        open_to_everybody(scratch.path());
        // Free now.
        let port = std::net::TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
            .port();
        let bed = Self { scratch };
        let manifest = format!(
            "version: 1\nslug: locked-down-slug\nbottle: {{}}\npipelock: {{listen: \"127.0.0.1:{port}\"}}\n"
        );
        fs::write(bed.path("manifest.yaml"), manifest).unwrap();
        fs::create_dir(bed.path("run")).unwrap();
        intruder::compile(
            &Targets {
                manifest: bed.path("manifest.yaml").to_str().unwrap(),
                other_program: bed.path("other").to_str().unwrap(),
                last: "",
            },
            &bed.path("intruder"),
        );
        // Not fs::copy: whatever another test forks meanwhile would hold the file open for
        // writing, and such a file cannot be executed.
        let copied = Command::new("cp")
            .args([bed.path("intruder"), bed.path("other")])
            .status();
        assert!(copied.unwrap().success());
        bed.set_mode("intruder", 0o4755);
        bed.set_mode("other", 0o4755);
        bed.set_mode("manifest.yaml", 0o644);
        bed
    }

    fn path(&self, name: &str) -> PathBuf {
        self.scratch.join(name)
    }

    fn set_mode(&self, name: &str, mode: u32) {
        fs::set_permissions(self.path(name), fs::Permissions::from_mode(mode)).unwrap();
    }

    /// Starts the init behind `wrapper`, a program that ends in executing its arguments.
    fn start(&self, wrapper: &[&str], options: &[&str]) -> Init {
        let init = env!("CARGO_BIN_EXE_sidecar-init");
        let words: Vec<&str> = wrapper.iter().copied().chain([init, "run"]).collect();
        let output = fs::File::create(self.path("output")).unwrap();
        let child = Command::new(words[0])
            .args(&words[1..])
            .args(options)
            .args(["--manifest", self.path("manifest.yaml").to_str().unwrap()])
            .args(["--daemon", self.path("intruder").to_str().unwrap()])
            .args(["--run-dir", self.path("run").to_str().unwrap()])
            .args(["--cert", self.path("run/ca.pem").to_str().unwrap()])
            .args(["--key", self.path("run/key.pem").to_str().unwrap()])
            .stdin(Stdio::null())
            .stdout(output.try_clone().unwrap())
            .stderr(output)
            .spawn()
            .unwrap();
        Init(child)
    }

    fn output(&self) -> String {
        String::from_utf8_lossy(&fs::read(self.path("output")).unwrap()).into_owned()
    }

    fn status(&self) -> Value {
        serde_json::from_slice(&fs::read(self.path("run/status.json")).unwrap()).unwrap()
    }

    /// The status that says what was read back of the sandbox: the intruder does not wait
    /// for that.
    fn verified(&self) -> Value {
        self.status_once(|status| status["daemon"]["sandbox_verified"] == true)
    }

    /// The first status of which `holds` is true.
    fn status_once(&self, holds: impl Fn(&Value) -> bool) -> Value {
        let end = Instant::now() + PATIENCE;
        loop {
            let status = self.status();
            if holds(&status) {
                return status;
            }
            assert!(Instant::now() < end, "{status}");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Until the intruder has tried everything, or nothing more will come.
    fn wait_finished(&self, init: &mut Init) -> String {
        let end = Instant::now() + PATIENCE;
        loop {
            let output = self.output();
            let ended = init.0.try_wait().unwrap().is_some();
            if output.contains("intruder: finished") {
                assert!(!ended && self.status()["state"] != "stopping", "{output}");
                return output;
            }
            if ended {
                return output;
            }
            assert!(Instant::now() < end, "{output}");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

/// An init that is stopped with the test.
struct Init(Child);

impl Drop for Init {
    fn drop(&mut self) {
        // The init stops what it started; a kill would leave that behind.
        let pid = nix::unistd::Pid::from_raw(self.0.id().try_into().unwrap());
        let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM);
        let _ = self.0.wait();
    }
}

fn open_to_everybody(directory: &Path) {
    fs::set_permissions(directory, fs::Permissions::from_mode(0o755)).unwrap();
}

fn is_root() -> bool {
    let root = nix::unistd::geteuid().is_root();
    if !root {
        eprintln!("NOT CHECKED: it takes root to start a daemon as another user");
    }
    root
}

fn sentences(list: &Value) -> Vec<&str> {
    list.as_array()
        .unwrap()
        .iter()
        .map(|sentence| sentence.as_str().unwrap())
        .collect()
}

#[test]
fn an_intruder_is_stopped_at_every_turn() {
    if !is_root() {
        return;
    }
    let bed = Bed::new();
    let mut init = bed.start(&["env"], &["--require-sandbox"]);
    let output = bed.wait_finished(&mut init);
    let status = bed.verified();
    assert_eq!(status["daemon"]["sandbox_missing"], Value::Array(vec![]));
    assert_eq!(status["daemon"]["sandbox_verified"], true, "{status}");
    assert_eq!(status["daemon"]["uid"], 65534);
    assert!(status["daemon"]["landlock"].as_u64() >= Some(6), "{status}");
    assert_eq!(status["daemon"]["seccomp"], true);
    assert_stopped(&answers(&output), &[]);
}

#[test]
fn a_root_without_the_right_capabilities_says_what_it_could_not_do() {
    if !is_root() {
        return;
    }
    let bed = Bed::new();
    let wrapper = ["setpriv", "--bounding-set", "-setuid,-setgid,-setpcap"];
    let mut init = bed.start(&wrapper, &[]);
    let output = bed.wait_finished(&mut init);
    let status = bed.verified();
    let missing = sentences(&status["daemon"]["sandbox_missing"]);
    assert_eq!(missing.len(), 2, "{missing:?}");
    assert!(
        missing[0].starts_with("the daemon runs as root"),
        "{missing:?}"
    );
    assert!(
        missing[1].starts_with("the capability bounding set"),
        "{missing:?}"
    );
    for sentence in missing {
        assert!(
            output.contains(sentence),
            "said on the console too: {output}"
        );
    }
    assert_eq!(status["daemon"]["sandbox_verified"], true, "{status}");
    // The same user as the init and as every file: what stands does so by itself.
    // "become root" changes nothing for a root, and its setuid file neither.
    // A program that runs is not opened for writing by its owner either: ETXTBSY.
    let changed = [
        "become root",
        "execute its own setuid file",
        "write its program",
    ];
    assert_stopped(&answers(&output), &changed);
    assert_ne!(answers(&output)["write its program"], "done");
}

#[test]
fn an_unprivileged_init_confines_a_daemon_of_its_own_user() {
    if !is_root() {
        return;
    }
    let bed = Bed::new();
    let owner = Some(nix::unistd::Uid::from_raw(4242));
    nix::unistd::chown(&bed.path("run"), owner, None).unwrap();
    let wrapper = [
        "setpriv",
        "--reuid",
        "4242",
        "--regid",
        "4242",
        "--clear-groups",
    ];
    let mut init = bed.start(&wrapper, &[]);
    let output = bed.wait_finished(&mut init);
    let status = bed.verified();
    let missing = sentences(&status["daemon"]["sandbox_missing"]);
    assert_eq!(missing.len(), 2, "{missing:?}");
    assert!(
        missing[0].contains("runs as uid 4242, like the init"),
        "{missing:?}"
    );
    assert_eq!(status["daemon"]["uid"], 4242);
    assert_eq!(status["daemon"]["sandbox_verified"], true, "{status}");
    // Only Landlock keeps one process of a user from signalling another.
    assert_stopped(&answers(&output), &[]);
}

#[test]
fn an_init_that_may_gain_no_privileges_itself_still_confines() {
    if !is_root() {
        return;
    }
    let bed = Bed::new();
    let mut init = bed.start(&["setpriv", "--no-new-privs"], &["--require-sandbox"]);
    let output = bed.wait_finished(&mut init);
    assert_eq!(bed.verified()["daemon"]["sandbox_verified"], true);
    assert_stopped(&answers(&output), &[]);
}

/// In a mount namespace of its own, where `$0` is the scratch directory.
fn with_mounts<'a>(bed: &'a Bed, commands: &'a str) -> [&'a str; 7] {
    let directory = bed.scratch.path().to_str().unwrap();
    ["unshare", "--mount", "--", "sh", "-ec", commands, directory]
}

#[test]
fn a_read_only_root_changes_nothing() {
    if !is_root() {
        return;
    }
    let bed = Bed::new();
    let commands = "mount --bind \"$0\" \"$0\"; mount -o remount,bind,ro /; exec \"$@\"";
    let mut init = bed.start(&with_mounts(&bed, commands), &["--require-sandbox"]);
    let output = bed.wait_finished(&mut init);
    assert_eq!(
        bed.verified()["daemon"]["sandbox_verified"],
        true,
        "{output}"
    );
    let answers = answers(&output);
    // EROFS comes first where the mount refuses before Landlock is asked.
    for attempt in ["create /tmp", "mkdir /tmp", "symlink /tmp", "create /"] {
        assert!(
            ["13", "30"].contains(&answers[attempt].as_str()),
            "{answers:?}"
        );
    }
    assert_stopped(
        &answers,
        &["create /tmp", "mkdir /tmp", "symlink /tmp", "create /"],
    );
}

#[test]
fn without_proc_the_sandbox_is_applied_and_said_not_to_be_verified() {
    if !is_root() {
        return;
    }
    let bed = Bed::new();
    let commands = "mount -t tmpfs none /proc; exec \"$@\"";
    let mut init = bed.start(&with_mounts(&bed, commands), &[]);
    let output = bed.wait_finished(&mut init);
    let status = bed.status_once(|status| {
        sentences(&status["warnings"])
            .iter()
            .any(|text| text.contains("could not be read back"))
    });
    assert_eq!(status["daemon"]["sandbox_verified"], false);
    assert_stopped(
        &answers(&output)
            .into_iter()
            .map(|(attempt, answer)| match attempt.as_str() {
                // There is none to read.
                "read the init's status"
                | "read the init's environment"
                | "open the init's memory"
                    if answer == "2" =>
                {
                    (attempt, "13".to_owned())
                }
                _ => (attempt, answer),
            })
            .collect(),
        &[],
    );
}

#[test]
fn a_sandbox_that_is_required_and_incomplete_is_a_failed_start() {
    if !is_root() {
        return;
    }
    let without_proc = "mount -t tmpfs none /proc; exec \"$@\"";
    let bed = Bed::new();
    let cases: [(&[&str], &str); 2] = [
        (
            &["setpriv", "--bounding-set", "-setpcap"],
            "emptying it needs CAP_SETPCAP",
        ),
        (&with_mounts(&bed, without_proc), "there is no /proc"),
    ];
    for (wrapper, why) in cases {
        let mut init = bed.start(wrapper, &["--require-sandbox"]);
        let exit = init.0.wait().unwrap();
        let status = bed.status();
        assert_eq!(exit.code(), Some(71), "{}", bed.output());
        assert_eq!(status["outcome"], "failed at spawn", "{status}");
        let error = status["error"].as_str().unwrap();
        assert!(error.starts_with("cannot start the daemon without its whole sandbox: "));
        assert!(error.contains(why), "{error}");
        assert!(
            !bed.output().contains("intruder: "),
            "it was never started: {}",
            bed.output()
        );
    }
}

#[test]
fn a_script_may_run_its_interpreter_and_the_status_says_what_that_costs() {
    if !is_root() {
        return;
    }
    let bed = Bed::new();
    fs::write(
        bed.path("intruder"),
        "#!/bin/sh\necho intruder: runs; cat /etc/passwd; echo intruder: finished; exec sleep 60\n",
    )
    .unwrap();
    bed.set_mode("intruder", 0o755);
    let mut init = bed.start(&["env"], &[]);
    let output = bed.wait_finished(&mut init);
    assert!(output.contains("intruder: runs"), "{output}");
    assert!(!output.contains("root:"), "{output}");
    let status = bed.status();
    let missing = sentences(&status["daemon"]["sandbox_missing"]);
    assert!(
        missing.len() == 1 && missing[0].contains("is not a static program"),
        "{missing:?}"
    );
}

/// Every readable byte of a process's memory.
fn memory(pid: u32) -> Vec<u8> {
    let maps = fs::read_to_string(format!("/proc/{pid}/maps")).unwrap();
    let mut memory = fs::File::open(format!("/proc/{pid}/mem")).unwrap();
    let mut bytes = Vec::new();
    for line in maps.lines() {
        let (range, rest) = line.split_once(' ').unwrap();
        if !rest.starts_with('r') || rest.contains("[vvar") || rest.contains("[vsyscall]") {
            continue;
        }
        let (from, to) = range.split_once('-').unwrap();
        let [from, to] = [from, to].map(|number| u64::from_str_radix(number, 16).unwrap());
        memory.seek(SeekFrom::Start(from)).unwrap();
        let mut part = vec![0; usize::try_from(to - from).unwrap()];
        memory.read_exact(&mut part).unwrap();
        bytes.extend_from_slice(&part);
    }
    bytes
}

fn decode_base64(text: &str) -> Vec<u8> {
    const ALPHABET: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut bytes = Vec::new();
    let (mut bits, mut length) = (0_u32, 0);
    for byte in text.bytes().filter(|byte| ALPHABET.contains(byte)) {
        let digit = ALPHABET.iter().position(|letter| *letter == byte).unwrap();
        bits = bits << 6 | u32::try_from(digit).unwrap();
        length += 6;
        if length >= 8 {
            length -= 8;
            bytes.push((bits >> length & 0xff) as u8);
        }
    }
    bytes
}

/// Every form the private scalar of a SEC1 P-256 key is likely to have in a memory or
/// a file: binary either way round, hexadecimal, the lines of the PEM file.
fn forms(pem: &str) -> Vec<Vec<u8>> {
    let lines: Vec<&str> = pem.lines().filter(|line| !line.contains("-----")).collect();
    let der = decode_base64(&lines.concat());
    // SEQUENCE, INTEGER 1, OCTET STRING of 32 bytes.
    assert_eq!(der[2..7], [2, 1, 1, 4, 32], "{der:?}");
    let scalar = der[7..39].to_vec();
    let reversed: Vec<u8> = scalar.iter().rev().copied().collect();
    let hexadecimal: String = scalar.iter().map(|byte| format!("{byte:02x}")).collect();
    let mut forms = vec![
        // Half a scalar is as bad: a register's spill need not be whole.
        scalar[..16].to_vec(),
        scalar[16..].to_vec(),
        reversed[..16].to_vec(),
        reversed[16..].to_vec(),
        hexadecimal.clone().into_bytes(),
        hexadecimal.to_uppercase().into_bytes(),
    ];
    // The scalar is in the first 39 bytes: 52 digits. What follows is the public key.
    forms.push(lines[0].as_bytes()[12..52].to_vec());
    forms
}

fn holds(haystack: &[u8], needle: &[u8]) -> bool {
    memchr::memmem::find(haystack, needle).is_some()
}

#[test]
fn the_key_is_in_its_file_and_nowhere_else() {
    if !is_root() {
        return;
    }
    let bed = Bed::new();
    // Twice: a pair generated, and the same pair provided.
    for source in ["generated", "provided"] {
        let mut init = bed.start(&["env", "SIDECAR_LOG=trace"], &[]);
        bed.wait_finished(&mut init);
        assert_eq!(bed.status()["ca"]["source"], source);
        let pid = init.0.id();
        let key = fs::metadata(bed.path("run/key.pem")).unwrap();
        assert_eq!(key.permissions().mode() & 0o7777, 0o600);
        assert_eq!(std::os::unix::fs::MetadataExt::uid(&key), 65534);
        let forms = forms(&fs::read_to_string(bed.path("run/key.pem")).unwrap());

        let mut places = vec![
            ("its memory".to_owned(), memory(pid)),
            ("its output".to_owned(), bed.output().into_bytes()),
        ];
        for name in ["environ", "cmdline"] {
            places.push((
                name.to_owned(),
                fs::read(format!("/proc/{pid}/{name}")).unwrap(),
            ));
        }
        for file in fs::read_dir(bed.path("run")).unwrap() {
            let file = file.unwrap();
            if file.file_name() != "key.pem" {
                places.push((
                    file.path().display().to_string(),
                    fs::read(file.path()).unwrap(),
                ));
            }
        }
        // The search finds what is there.
        for needle in ["locked-down-slug", bed.path("run").to_str().unwrap()] {
            assert!(holds(&places[0].1, needle.as_bytes()), "{needle:?}");
        }
        assert!(holds(
            &fs::read(bed.path("run/key.pem")).unwrap(),
            &forms[6]
        ));
        assert!(
            places.len() >= 7,
            "status, configuration and certificate too"
        );
        for (place, bytes) in &places {
            for (number, form) in forms.iter().enumerate() {
                assert!(
                    !holds(bytes, form),
                    "{source}: form {number} of the key is in {place}"
                );
            }
        }
    }
}

#[test]
fn the_inits_memory_is_closed_and_makes_no_core() {
    let bed = Bed::new();
    bed.set_mode("intruder", 0o755);
    let mut init = bed.start(&["env"], &[]);
    bed.wait_finished(&mut init);
    let limits = fs::read_to_string(format!("/proc/{}/limits", init.0.id())).unwrap();
    let core = limits
        .lines()
        .find(|line| line.starts_with("Max core file size"))
        .unwrap();
    let words: Vec<&str> = core.split_whitespace().collect();
    assert_eq!(words[4..6], ["0", "0"], "{core}");
    // /proc/<pid> of a process that is not dumpable belongs to root.
    let directory = fs::metadata(format!("/proc/{}", init.0.id())).unwrap();
    assert_eq!(std::os::unix::fs::MetadataExt::uid(&directory), 0);
}
