//! The two ways smolmachines starts the sidecar, on its kernel: as the container that smolvm
//! makes of an image inside its guest, by the very crun it ships; and as the machine's own
//! init, as libkrun does when it is told so. Its hypervisor and its network are QEMU's here.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use microvm::{
    BOOT_DEADLINE, Bundle, Ending, FileSystem, Machine, MachineBuilder, Running, ScratchDir,
    Upstream, connect_through, get, make_disk, wait_for_status,
};
use serde_json::{Value, json};

const PORT: u16 = 8888;

/// The guest's own address is in it: it is what `client.env` names.
const MANIFEST: &str = "version: 1
slug: smol
bottle: {egress: {routes: [{host: 10.0.2.2}]}}
network: {internal_cidr: 10.0.2.0/24, address: 10.0.2.15/24}
";

/// Every capability, as smolvm gives them to an image.
const CAPABILITIES: [&str; 41] = [
    "AUDIT_CONTROL",
    "AUDIT_READ",
    "AUDIT_WRITE",
    "BLOCK_SUSPEND",
    "BPF",
    "CHECKPOINT_RESTORE",
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "IPC_LOCK",
    "IPC_OWNER",
    "KILL",
    "LEASE",
    "LINUX_IMMUTABLE",
    "MAC_ADMIN",
    "MAC_OVERRIDE",
    "MKNOD",
    "NET_ADMIN",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_RAW",
    "PERFMON",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYSLOG",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_CHROOT",
    "SYS_MODULE",
    "SYS_NICE",
    "SYS_PACCT",
    "SYS_PTRACE",
    "SYS_RAWIO",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "WAKE_ALARM",
];

fn shell(script: &str, arguments: &[&Path]) -> String {
    let output = Command::new("sh")
        .args(["-euc", script, "sh"])
        .args(arguments)
        .output()
        .unwrap();
    assert!(output.status.success(), "{script}: {output:?}");
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

fn checkout(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// The root that smolmachines gives its guests, unpacked.
fn guest_root() -> PathBuf {
    let found = Command::new(checkout("image/guest-root")).output().unwrap();
    assert!(found.status.success(), "{found:?}");
    String::from_utf8(found.stdout).unwrap().trim().into()
}

/// The image's root file system, as an engine lays it out.
fn unpack_image(root: &Path) {
    let archive = checkout("target/bundle/oci/sidecar-init.tar");
    assert!(
        archive.is_file(),
        "cannot find {}\nhint: image/oci builds it",
        archive.display()
    );
    let manifest = shell("tar -xOf \"$1\" manifest.json", &[&archive]);
    let manifest: Value = serde_json::from_str(&manifest).unwrap();
    fs::create_dir_all(root).unwrap();
    for layer in manifest[0]["Layers"].as_array().unwrap() {
        let layer = Path::new(layer.as_str().unwrap());
        shell(
            "tar -xOf \"$1\" \"$2\" >\"$3.layer\"; tar -xf \"$3.layer\" -C \"$3\"; rm \"$3.layer\"",
            &[&archive, layer, root],
        );
    }
}

/// What smolvm asks of crun for an image: namespaces of its own but for the network, every
/// capability, /proc as it is, a read-only /sys, memory for /run and /tmp, then the volumes.
fn container() -> Value {
    let mount = |destination: &str, kind: &str, options: &[&str]| json!({"destination": destination, "type": kind, "source": kind, "options": options});
    let bind = |source: &str, destination: &str, more: &[&str]| {
        let options = [&["bind", "rprivate"], more].concat();
        json!({"destination": destination, "type": "bind", "source": source, "options": options})
    };
    let capabilities: Vec<String> = CAPABILITIES
        .iter()
        .map(|name| format!("CAP_{name}"))
        .collect();
    json!({
        "ociVersion": "1.0.2",
        "process": {
            "user": {"uid": 0, "gid": 0},
            "args": ["/sbin/sidecar-init"],
            "env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
            "cwd": "/",
            "capabilities": {
                "bounding": capabilities, "effective": capabilities, "permitted": capabilities,
            },
            "rlimits": [{"type": "RLIMIT_NOFILE", "hard": 1024, "soft": 1024}],
            "noNewPrivileges": false,
        },
        "root": {"path": "/tmp/root", "readonly": false},
        "hostname": "sidecar",
        "mounts": [
            mount("/proc", "proc", &["nosuid", "noexec", "nodev"]),
            mount("/dev", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
            mount("/dev/pts", "devpts", &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"]),
            mount("/dev/shm", "tmpfs", &["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]),
            mount("/sys", "sysfs", &["nosuid", "noexec", "nodev", "ro"]),
            mount("/sys/fs/cgroup", "cgroup2", &["nosuid", "noexec", "nodev", "rw"]),
            mount("/run", "tmpfs", &["nosuid", "nodev", "mode=0755", "size=65536k"]),
            mount("/tmp", "tmpfs", &["nosuid", "nodev", "mode=1777"]),
            bind("/run/manifest", "/etc/sidecar", &["ro"]),
            bind("/run/export", "/run/sidecar/export", &[]),
        ],
        "linux": {"namespaces": [{"type": "pid"}, {"type": "mount"}, {"type": "ipc"}, {"type": "uts"}]},
    })
}

struct Bed {
    bundle: Bundle,
    scratch: ScratchDir,
}

impl Bed {
    fn new() -> Self {
        let bed = Self {
            bundle: Bundle::from_target().unwrap(),
            scratch: ScratchDir::new().unwrap(),
        };
        for directory in ["manifest", "export"] {
            fs::create_dir(bed.scratch.join(directory)).unwrap();
        }
        fs::write(bed.scratch.join("manifest/manifest.yaml"), MANIFEST).unwrap();
        bed
    }

    fn machine(&self) -> MachineBuilder {
        Machine::builder(&self.bundle)
            .no_ip_argument()
            .manifest_dir(self.scratch.join("manifest"))
            .share("export", self.scratch.join("export"))
            .forward(PORT)
    }

    fn wait_ready(&self, running: &Running) -> Value {
        let status = wait_for_status(
            &self.scratch.join("export"),
            |status| status["state"] == "ready" || status["exit_code"].is_number(),
            BOOT_DEADLINE,
        );
        let status = status.unwrap_or_else(|error| panic!("{error}\n{}", running.console()));
        assert_eq!(status["state"], "ready", "{status}\n{}", running.console());
        status
    }
}

/// From outside, as the agent's machine would see it.
fn assert_serves_and_refuses(running: &Running) {
    let proxy = running.forwarded(PORT).unwrap();
    assert_eq!(get(proxy, "/health").unwrap().status, 200);
    let upstream = Upstream::start("hello from upstream").unwrap();
    let (allowed, _tunnel) =
        connect_through(proxy, &format!("10.0.2.2:{}", upstream.port())).unwrap();
    assert_eq!(allowed.status, 200, "{allowed:?}");
    let (denied, _) = connect_through(proxy, "elsewhere.test:443").unwrap();
    assert_eq!(denied.status, 403, "{denied:?}");
}

#[test]
fn smolvm_s_container_in_its_guest_serves_follows_and_stops_in_time() {
    let bed = Bed::new();
    let tree = bed.scratch.join("tree");
    let (guest, own) = (guest_root(), checkout("tests/fixtures/smolvm-guest"));
    shell(
        "cp -a \"$1\" \"$2\"; cp \"$3\" \"$2/sbin/guest\"; chmod 755 \"$2/sbin/guest\"",
        &[&guest, &tree, &own],
    );
    unpack_image(&tree.join("image/root"));
    fs::write(tree.join("image/config.json"), container().to_string()).unwrap();
    make_disk(FileSystem::Erofs, &tree, &bed.scratch.join("root.erofs")).unwrap();
    let running = bed
        .machine()
        .root_override(bed.scratch.join("root.erofs"))
        .kernel_arg("init=/sbin/guest")
        .boot()
        .unwrap();

    let status = bed.wait_ready(&running);
    assert_eq!(status["mode"], "container", "{status}");
    assert_eq!(status["daemon"]["uid"], 65534, "{status}");
    assert_eq!(status["daemon"]["sandbox_verified"], true, "{status}");
    assert_eq!(status["daemon"]["sandbox_missing"], json!([]), "{status}");
    assert_serves_and_refuses(&running);
    let client = fs::read_to_string(bed.scratch.join("export/client.env")).unwrap();
    assert!(
        client.contains("HTTPS_PROXY=http://10.0.2.15:8888\n"),
        "{client}"
    );
    assert!(bed.scratch.join("export/ca-bundle.pem").is_file());

    running.type_on_console(b"look\n").unwrap();
    running
        .wait_for_line("guest: healthy", BOOT_DEADLINE)
        .unwrap();

    // The share says nothing of a change; it is seen all the same.
    let new = bed.scratch.join("manifest/new");
    fs::write(&new, MANIFEST.replace("{host: 10.0.2.2}", "")).unwrap();
    fs::rename(&new, bed.scratch.join("manifest/manifest.yaml")).unwrap();
    wait_for_status(
        &bed.scratch.join("export"),
        |status| status["config"]["applied_generation"] == 2 && status["state"] == "ready",
        BOOT_DEADLINE,
    )
    .unwrap();

    running.type_on_console(b"stop\n").unwrap();
    let result = running.wait_for_result(BOOT_DEADLINE).unwrap();
    assert_eq!(result["exit_code"], 0, "{result}");
    running
        .wait_for_line("guest: the container has ended with 0", BOOT_DEADLINE)
        .unwrap();
    assert_eq!(running.wait_end(BOOT_DEADLINE).unwrap(), Ending::Reset);
    let console = running.console();
    assert!(!console.contains("guest: killed"), "{console}");
}

#[test]
fn is_the_machine_s_init_on_a_virtiofs_root_that_libkrun_has_prepared() {
    let bed = Bed::new();
    let tree = bed.scratch.join("tree");
    unpack_image(&tree);
    // Not in the image, but in libkrun's init: the few commands of the script.
    shell(
        "mkdir -p \"$2/bin\" \"$2/lib\"; cp \"$1/bin/busybox\" \"$2/bin/\"; cp \"$1\"/lib/ld-musl-* \"$2/lib/\"; \
         cp \"$3\" \"$2/sbin/krun-init\"; chmod 755 \"$2/sbin/krun-init\"",
        &[&guest_root(), &tree, &checkout("tests/fixtures/krun-init")],
    );
    let running = bed
        .machine()
        .share("root", &tree)
        .kernel_arg("root=root")
        .kernel_arg("rootfstype=virtiofs")
        .kernel_arg("rw")
        .kernel_arg("init=/sbin/krun-init")
        .kernel_arg("sidecar.export=virtiofs:export")
        .kernel_arg("sidecar.log=debug")
        .keyboard()
        .boot()
        .unwrap();

    let status = bed.wait_ready(&running);
    assert_eq!(status["mode"], "machine", "{status}");
    assert_eq!(status["daemon"]["sandbox_missing"], json!([]), "{status}");
    assert_serves_and_refuses(&running);

    running.control_alt_delete().unwrap();
    let result = running.wait_for_result(BOOT_DEADLINE).unwrap();
    assert_eq!(result["exit_code"], 0, "{result}");
    assert_eq!(running.wait_end(BOOT_DEADLINE).unwrap(), Ending::Reset);
    // The exit code was offered to a VMM that knows nothing of it, and that was all.
    let console = running.console();
    assert!(
        console.contains("no libkrun takes the exit code: "),
        "{console}"
    );
    assert!(!console.contains("Kernel panic"), "{console}");
}
