//! The daemon's sandbox in a machine, tried from inside: the same attempts as
//! `lockdown.rs`, and the two that need a machine to themselves, all its processes and
//! all its memory.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use microvm::{
    BOOT_DEADLINE, Bundle, Ending, FileSystem, Machine, MachineBuilder, ScratchDir, make_disk,
    read_status, wait_for_status,
};
use serde_json::Value;

use crate::support::intruder::{self, Targets, answers, assert_stopped};

const MANIFEST: &str = "version: 1\nslug: attacked\nbottle: {}\n";

struct Bed {
    bundle: Bundle,
    scratch: ScratchDir,
}

impl Bed {
    /// A root file system in which the intruder stands in the daemon's place, setuid.
    fn with(last: &str) -> Self {
        let bed = Self {
            bundle: Bundle::from_target().unwrap(),
            scratch: ScratchDir::new().unwrap(),
        };
        for directory in ["manifest", "export"] {
            fs::create_dir(bed.scratch.join(directory)).unwrap();
            set_mode(&bed.scratch.join(directory), 0o755);
        }
        let manifest = bed.scratch.join("manifest/manifest.yaml");
        fs::write(&manifest, MANIFEST).unwrap();
        set_mode(&manifest, 0o644);

        let tree = bed.scratch.join("root");
        for directory in [
            "dev",
            "proc",
            "sys",
            "run",
            "tmp",
            "sbin",
            "usr/bin",
            "etc/sidecar",
            "var/tmp",
            "var/lib/sidecar",
        ] {
            fs::create_dir_all(tree.join(directory)).unwrap();
        }
        fs::write(tree.join("etc/passwd"), "root:x:0:0::/:\n").unwrap();
        for name in [
            "hosts",
            "resolv.conf",
            "pipelock-ca.pem",
            "pipelock-ca-key.pem",
        ] {
            symlink(format!("/run/sidecar/{name}"), tree.join("etc").join(name)).unwrap();
        }
        let init = std::env::var_os("SIDECAR_INIT_BIN").map_or_else(
            || {
                Path::new(env!("CARGO_MANIFEST_DIR"))
                    .join("target/x86_64-unknown-linux-musl/release/sidecar-init")
            },
            Into::into,
        );
        fs::copy(init, tree.join("sbin/sidecar-init")).unwrap();
        let program = tree.join("usr/bin/pipelock");
        let targets = Targets {
            manifest: "/etc/sidecar/manifest.yaml",
            other_program: "/usr/bin/other",
            last,
        };
        intruder::compile(&targets, &program);
        fs::copy(&program, tree.join("usr/bin/other")).unwrap();
        for name in ["pipelock", "other"] {
            set_mode(&tree.join("usr/bin").join(name), 0o4755);
        }
        make_disk(FileSystem::Erofs, &tree, &bed.scratch.join("root.erofs")).unwrap();
        bed
    }

    fn machine(&self) -> MachineBuilder {
        Machine::builder(&self.bundle)
            .root_override(self.scratch.join("root.erofs"))
            .manifest_dir(self.scratch.join("manifest"))
            .export_dir(self.scratch.join("export"))
            .keyboard()
    }

    /// The error of the machine's report, and what its kernel said about memory.
    fn report(&self) -> (String, Vec<String>) {
        let text = fs::read_to_string(self.scratch.join("export/report.json")).unwrap();
        let report: Value = serde_json::from_str(&text).unwrap();
        let error = report["status"]["error"].as_str().unwrap().to_owned();
        (
            error,
            serde_json::from_value(report["kernel"].clone()).unwrap(),
        )
    }

    fn status(&self) -> Value {
        read_status(&self.scratch.join("export")).unwrap()
    }
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

#[test]
fn an_intruder_is_stopped_at_every_turn_and_leaves_no_process() {
    let bed = Bed::with("processes");
    let running = bed.machine().boot().unwrap();
    running
        .wait_for_line("intruder: finished", BOOT_DEADLINE)
        .unwrap();
    let status = bed.status();
    let daemon = &status["daemon"];
    assert_eq!(daemon["sandbox_missing"], Value::Array(vec![]), "{status}");
    assert_eq!(daemon["sandbox_verified"], true, "{status}");
    assert_eq!(daemon["cgroup"], true);
    assert_eq!(daemon["seccomp"], true);
    assert!(daemon["landlock"].as_u64() >= Some(6), "{status}");

    let answers = answers(&running.console());
    // The control group's pids.max is 512; the intruder itself is one of them.
    assert_eq!(answers["processes"], "511 and then 11", "pids.max: EAGAIN");
    // The root is an erofs, which refuses before Landlock is asked.
    let read_only = ["create /", "write its program"];
    assert_stopped(&answers, &read_only);
    for attempt in read_only {
        assert!(
            ["13", "30"].contains(&answers[attempt].as_str()),
            "{answers:?}"
        );
    }

    running.control_alt_delete().unwrap();
    let result = running.wait_for_result(BOOT_DEADLINE).unwrap();
    assert_eq!(running.wait_end(BOOT_DEADLINE).unwrap(), Ending::Reset);
    assert_eq!(result["exit_code"], 0, "{result}");
    // Every process it left was killed with it, and reaped.
    assert!(result["reaped"].as_u64() >= Some(512), "{result}");
}

#[test]
fn a_daemon_that_eats_all_memory_dies_alone_and_is_reported_as_what_it_was() {
    let bed = Bed::with("memory");
    let running = bed.machine().memory_mib(128).boot().unwrap();
    let status = wait_for_status(
        &bed.scratch.join("export"),
        |status| status["restarts"].as_u64() >= Some(1),
        BOOT_DEADLINE,
    )
    .unwrap();
    let text = status["last_exit"]["text"].as_str().unwrap();
    assert!(
        text.starts_with("was killed by signal 9 (SIGKILL): out of memory, its limit is "),
        "{status}"
    );
    // Five such ends are a crash loop; the machine itself lives to say so.
    let result = running.wait_for_result(BOOT_DEADLINE).unwrap();
    assert_eq!(running.wait_end(BOOT_DEADLINE).unwrap(), Ending::Reset);
    assert_eq!(result["exit_code"], 69, "{result}");
    let console = running.console();
    assert!(!console.contains("Kernel panic"), "{console}");
    assert!(console.contains("intruder: memory"), "{console}");

    let (error, kernel) = bed.report();
    let says = "pipelock was killed by signal 9 (SIGKILL): out of memory, its limit is ";
    assert!(error.contains(says), "{error}");
    // Its group's limit comes first: the machine is never short itself.
    let killed = |line: &String| {
        line.contains("Memory cgroup out of memory: Killed process") && line.contains("(pipelock)")
    };
    assert!(kernel.iter().any(killed), "{kernel:?}");
    let global = |line: &String| line.contains("] Out of memory: ") || line.contains("global_oom");
    assert!(!kernel.iter().any(global), "{kernel:?}");
}

#[test]
fn a_daemon_that_is_killed_with_memory_to_spare_is_not_reported_as_out_of_it() {
    let bed = Bed::with("itself");
    let running = bed.machine().boot().unwrap();
    let result = running.wait_for_result(BOOT_DEADLINE).unwrap();
    assert_eq!(running.wait_end(BOOT_DEADLINE).unwrap(), Ending::Reset);
    assert_eq!(result["exit_code"], 69, "{result}");
    assert_eq!(
        result["last_exit"]["text"],
        "was killed by signal 9 (SIGKILL)"
    );
    // The same signal as when memory runs out, and no word of that.
    let (error, kernel) = bed.report();
    let says = "pipelock was killed by signal 9 (SIGKILL); its last line: intruder: itself";
    assert!(error.ends_with(says), "{error}");
    assert!(kernel.is_empty(), "{kernel:?}");
}

#[test]
fn the_kernels_command_line_decides_whether_a_hole_is_fatal() {
    // A script's interpreter is one hole that every kernel has.
    let bed = Bed::with("");
    let tree = bed.scratch.join("root");
    let program = tree.join("usr/bin/pipelock");
    fs::write(&program, "#!/usr/bin/other\n").unwrap();
    set_mode(&program, 0o755);
    fs::remove_file(bed.scratch.join("root.erofs")).unwrap();
    make_disk(FileSystem::Erofs, &tree, &bed.scratch.join("root.erofs")).unwrap();

    let running = bed.machine().boot().unwrap();
    let result = running.wait_for_result(BOOT_DEADLINE).unwrap();
    assert_eq!(running.wait_end(BOOT_DEADLINE).unwrap(), Ending::Reset);
    assert_eq!(result["exit_code"], 71, "{result}");
    assert_eq!(result["outcome"], "failed at spawn");
    assert!(!running.console().contains("intruder: "));

    let argument = "sidecar.require-sandbox=no";
    let running = bed.machine().kernel_arg(argument).boot().unwrap();
    running
        .wait_for_line("intruder: finished", BOOT_DEADLINE)
        .unwrap();
    let missing = bed.status()["daemon"]["sandbox_missing"].to_string();
    assert!(missing.contains("is not a static program"), "{missing}");
}
