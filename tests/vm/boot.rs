//! The binary as PID 1 of a microVM, seen from outside: what it serves when the
//! manifest is good, what it says and how it ends when it is not.

use std::fs;
use std::path::Path;

use microvm::{
    BOOT_DEADLINE, Bundle, Ending, FileSystem, GUEST_ADDRESS, HOST_ADDRESS, Machine,
    MachineBuilder, Running, ScratchDir, Upstream, connect_through, get, make_disk,
    make_empty_disk, read_status, shipped_init, wait_for_status,
};
use serde_json::Value;

const PORT: u16 = 8888;

/// A manifest whose one host is the test's own upstream.
fn manifest() -> String {
    format!(
        "version: 1
slug: booted
bottle:
  egress:
    routes:
      - host: upstream.test
network:
  internal_cidr: 10.0.2.0/24
  hosts: {{upstream.test: {HOST_ADDRESS}}}
  address: {GUEST_ADDRESS}/24
  gateway: {HOST_ADDRESS}
"
    )
}

struct Bed {
    bundle: Bundle,
    scratch: ScratchDir,
}

impl Bed {
    /// Directories for a manifest and for the export, the manifest written.
    fn with(manifest: &[u8]) -> Self {
        let bed = Self {
            bundle: Bundle::from_target().unwrap(),
            scratch: ScratchDir::new().unwrap(),
        };
        for directory in ["manifest", "export"] {
            fs::create_dir(bed.scratch.join(directory)).unwrap();
        }
        fs::write(bed.scratch.join("manifest/manifest.yaml"), manifest).unwrap();
        bed
    }

    fn machine(&self) -> MachineBuilder {
        Machine::builder(&self.bundle)
            .no_ip_argument()
            // A word the kernel does not know goes to init, and here it is no command.
            .kernel_arg("halt")
            .export_dir(self.scratch.join("export"))
            .forward(PORT)
    }

    fn shared(&self) -> MachineBuilder {
        self.machine().manifest_dir(self.scratch.join("manifest"))
    }

    fn wait_ready(&self) -> Value {
        wait_for_status(
            &self.scratch.join("export"),
            |status| status["state"] == "ready" || status["exit_code"].is_number(),
            BOOT_DEADLINE,
        )
        .unwrap()
    }

    fn status(&self) -> Value {
        read_status(&self.scratch.join("export")).unwrap()
    }
}

/// From outside, through the forwarded port: it is the firewall, and it is on.
fn assert_serves_and_refuses(running: &Running) {
    let proxy = running.forwarded(PORT).unwrap();
    let health = get(proxy, "/health").unwrap();
    assert_eq!(health.status, 200);
    let health: Value = serde_json::from_str(&health.body).unwrap();
    assert_eq!(health["mode"], "strict", "{health}");
    assert_eq!(health["tls_interception_enabled"], true, "{health}");
    assert_eq!(health["forward_proxy_enabled"], true, "{health}");

    let upstream = Upstream::start("hello from upstream").unwrap();
    let (allowed, _tunnel) =
        connect_through(proxy, &format!("upstream.test:{}", upstream.port())).unwrap();
    assert_eq!(allowed.status, 200, "{allowed:?}");
    let (denied, _) = connect_through(proxy, "elsewhere.test:443").unwrap();
    assert_eq!(denied.status, 403, "{denied:?}");
    assert!(
        denied
            .body
            .contains("CONNECT blocked: domain not in allowlist: elsewhere.test"),
        "{denied:?}"
    );
}

#[test]
fn boots_from_a_share_serves_refuses_and_stops_clean() {
    let bed = Bed::with(manifest().as_bytes());
    let stale = bed.scratch.join("export/pipelock-ca.pem");
    fs::write(&stale, "a certificate of an earlier boot").unwrap();
    let running = bed.shared().keyboard().boot().unwrap();

    let status = bed.wait_ready();
    assert_eq!(status["state"], "ready", "{status}");
    assert_eq!(status["mode"], "machine");
    assert_eq!(status["slug"], "booted");
    assert_eq!(status["outcome"], "running");
    assert_eq!(status["daemon"]["uid"], 65534);
    assert_eq!(status["daemon"]["sandbox_verified"], true);
    assert_eq!(status["daemon"]["sandbox_missing"], Value::Array(vec![]));
    assert_eq!(
        status["config"]["applied_sha256"],
        status["config"]["desired_sha256"]
    );
    assert_serves_and_refuses(&running);
    assert_exported_certificate_is_the_reported_one(&status, &bed.scratch.join("export"));

    running.control_alt_delete().unwrap();
    let result = running.wait_for_result(BOOT_DEADLINE).unwrap();
    assert_eq!(running.wait_end(BOOT_DEADLINE).unwrap(), Ending::Reset);
    assert_eq!(result["exit_code"], 0, "{result}");
    assert_eq!(result["state"], "stopped");
    assert_eq!(
        bed.status(),
        result,
        "the export's last word is the console's"
    );
    let console = running.console();
    let last = console
        .lines()
        .rfind(|line| line.starts_with("sidecar-init:"));
    assert!(
        last.is_some_and(|line| line.contains("result {")),
        "{last:?}"
    );
    assert!(!console.contains("Kernel panic"), "{console}");
}

fn assert_exported_certificate_is_the_reported_one(status: &Value, export: &Path) {
    let output = std::process::Command::new("openssl")
        .args(["x509", "-noout", "-fingerprint", "-sha256", "-in"])
        .arg(export.join("pipelock-ca.pem"))
        .output()
        .expect("openssl is needed for this test");
    let printed = String::from_utf8_lossy(&output.stdout)
        .replace(':', "")
        .to_lowercase();
    let reported = status["ca"]["fingerprint_sha256"].as_str().unwrap();
    assert!(printed.contains(reported), "{printed} {reported}");
    let files: Vec<_> = fs::read_dir(export)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    assert!(
        files.iter().all(|name| !name.contains("key")),
        "the key is never exported: {files:?}"
    );
}

#[test]
fn is_ready_with_an_address_of_ipv6_whatever_it_listens_on() {
    for listen in ["0.0.0.0:8888", "[::]:8888", "[fd00::15]:8888"] {
        let manifest = format!(
            "slug: booted\nbottle: {{}}\npipelock: {{listen: \"{listen}\"}}\n\
             network: {{address: \"fd00::15/64\", gateway: \"fd00::2\"}}\n"
        );
        let bed = Bed::with(manifest.as_bytes());
        let running = bed.shared().boot().unwrap();
        let status = bed.wait_ready();
        assert_eq!(status["state"], "ready", "{listen}: {status}");
        assert_eq!(status["failures"], 0, "{listen}: {status}");
        let variables = fs::read_to_string(bed.scratch.join("export/client.env")).unwrap();
        let proxy = "HTTPS_PROXY=http://[fd00::15]:8888\n";
        assert!(variables.contains(proxy), "{listen}: {variables}");
        drop(running);
    }
}

#[test]
fn serves_where_the_kernel_has_no_ipv6() {
    for listen in ["0.0.0.0:8888", "[::]:8888"] {
        let manifest = format!("{}pipelock: {{listen: \"{listen}\"}}\n", manifest());
        let bed = Bed::with(manifest.as_bytes());
        let running = bed.shared().kernel_arg("ipv6.disable=1").boot().unwrap();
        let status = bed.wait_ready();
        assert_eq!(status["state"], "ready", "{listen}: {status}");
        assert_serves_and_refuses(&running);
    }
}

#[test]
fn boots_from_a_block_device_of_either_file_system() {
    for kind in [FileSystem::Erofs, FileSystem::Ext4] {
        let bed = Bed::with(manifest().as_bytes());
        let image = bed.scratch.join("manifest.img");
        make_disk(kind, &bed.scratch.join("manifest"), &image).unwrap();
        let running = bed.machine().manifest_disk(kind, &image).boot().unwrap();
        let status = bed.wait_ready();
        assert_eq!(status["state"], "ready", "{kind:?}: {status}");
        assert_serves_and_refuses(&running);
    }
}

#[test]
fn takes_its_address_from_the_kernels_argument_where_the_manifest_has_none() {
    let text = manifest();
    let text: Vec<&str> = text
        .lines()
        .filter(|line| !line.contains("address:") && !line.contains("gateway:"))
        .collect();
    let bed = Bed::with(text.join("\n").as_bytes());
    let running = Machine::builder(&bed.bundle)
        .manifest_dir(bed.scratch.join("manifest"))
        .export_dir(bed.scratch.join("export"))
        .forward(PORT)
        .boot()
        .unwrap();
    let status = bed.wait_ready();
    assert_eq!(status["state"], "ready", "{status}");
    assert_serves_and_refuses(&running);
}

#[test]
fn boots_and_serves_in_eighty_mebibytes() {
    let bed = Bed::with(manifest().as_bytes());
    let running = bed.shared().memory_mib(80).boot().unwrap();
    let status = bed.wait_ready();
    assert_eq!(status["state"], "ready", "{status}");
    assert_serves_and_refuses(&running);
}

#[test]
fn ignores_what_the_kernel_passes_on_and_warns_of_its_own_misspelt_arguments() {
    let bed = Bed::with(manifest().as_bytes());
    let running = bed
        .shared()
        .kernel_arg("somebody.elses=1 --strange bare")
        .kernel_arg("sidecar.exprot=virtiofs:x")
        .boot()
        .unwrap();
    let status = bed.wait_ready();
    assert_eq!(status["state"], "ready", "{status}");
    assert!(
        status["warnings"].to_string().contains("sidecar.exprot"),
        "{status}"
    );
    assert_serves_and_refuses(&running);
}

#[test]
fn keeps_its_ca_on_a_state_volume_and_makes_a_new_one_without() {
    let bed = Bed::with(manifest().as_bytes());
    let image = bed.scratch.join("state.img");
    make_empty_disk(&image).unwrap();
    let boot = |keep: bool| {
        let mut builder = bed.shared().keyboard();
        if keep {
            builder = builder.state_disk(&image);
        }
        let running = builder.boot().unwrap();
        // The export still holds the last boot's status until this one has mounted it.
        let first_line = running.wait_for_line("sidecar-init: ready", BOOT_DEADLINE);
        first_line.unwrap();
        let status = bed.wait_ready();
        running.control_alt_delete().unwrap();
        assert_eq!(running.wait_end(BOOT_DEADLINE).unwrap(), Ending::Reset);
        let ca = &status["ca"];
        (
            status["boot_id"].to_string(),
            ca["fingerprint_sha256"].to_string(),
            ca["source"].as_str().unwrap().to_owned(),
        )
    };
    let (boots, cas): (Vec<_>, Vec<_>) = [boot(true), boot(true), boot(false)]
        .into_iter()
        .map(|(id, fingerprint, source)| (id, (fingerprint, source)))
        .unzip();
    assert_ne!(boots[0], boots[1]);
    assert_eq!(cas[0].1, "generated");
    assert_eq!(cas[1], (cas[0].0.clone(), "kept".to_owned()));
    assert_eq!(cas[2].1, "generated");
    assert_ne!(cas[2].0, cas[0].0);
}

/// What a boot that cannot succeed has to leave behind.
struct Failure {
    what: &'static str,
    stage: &'static str,
    code: u8,
    says: &'static str,
}

/// Boots, waits for the end, and checks console, status and ending against `failure`.
fn assert_fails(bed: &Bed, builder: MachineBuilder, failure: &Failure) {
    let Failure {
        what,
        stage,
        code,
        says,
    } = *failure;
    let running = builder.boot().unwrap();
    let result = running.wait_for_result(BOOT_DEADLINE).unwrap();
    assert_eq!(
        running.wait_end(BOOT_DEADLINE).unwrap(),
        Ending::Reset,
        "{what}"
    );
    assert_eq!(result["exit_code"], code, "{what}: {result}");
    assert_eq!(result["state"], "failed", "{what}: {result}");
    assert_eq!(result["stage"], stage, "{what}: {result}");
    assert_eq!(result["outcome"], format!("failed at {stage}"), "{what}");
    let error = result["error"].as_str().unwrap();
    assert!(error.contains(says), "{what}: {error}");
    let console = running.console();
    assert!(
        console.contains(&format!(
            "sidecar-init: error: {}",
            error.lines().next().unwrap()
        )),
        "{what}: {console}"
    );
    assert!(!console.contains("Kernel panic"), "{what}: {console}");
    assert_eq!(bed.status(), result, "{what}");
    let left: Vec<_> = fs::read_dir(bed.scratch.join("export"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.starts_with('.'))
        .collect();
    assert!(left.is_empty(), "{what}: half-written files: {left:?}");
}

#[test]
fn names_what_is_wrong_with_a_manifest_and_ends() {
    let aliases = "version: 1\nslug: &a {b: *a}\nbottle: *a\n";
    let long = [
        b"version: 1\nslug: x\nbottle: {}\n#".to_vec(),
        vec![b'x'; 16 << 20],
    ]
    .concat();
    let cases: Vec<(Vec<u8>, Failure)> = [
        (b"version: 1\nslug: x\nbottel: {}\n".to_vec(), "an unknown key", 65, "manifest.yaml:3: bottel"),
        (b"version: 2\nslug: x\nbottle: {}\n".to_vec(), "another version", 65, "manifest.yaml:1: version"),
        (b"".to_vec(), "an empty file", 65, "manifest.yaml"),
        (b"\x7fELF\x02\x01\x01\0\0\0".to_vec(), "a binary file", 65, "manifest.yaml"),
        (b"version: 1\nslug: x\nbottle: {egress: {rou".to_vec(), "a truncated file", 65, "manifest.yaml"),
        (aliases.into(), "a recursive alias", 65, "manifest.yaml:2"),
        (long, "a manifest that is too large", 66, "MiB of available memory allow"),
        (b"version: 1\nslug: x\nbottle: {egress: {routes: [{host: 'https://pypi.example/simple'}]}}\n".to_vec(), "a URL for a host", 65, "write \"pypi.example\""),
        (b"version: 1\nslug: x\nbottle: {egress: {routes: [{host: 'pypi.example:443'}]}}\n".to_vec(), "a port in a host", 65, "manifest.yaml:3: bottle.egress.routes[0].host"),
        (b"version: 1\nslug: x\nbottle: {egress: {routes: [{host: 'a\"b'}]}}\n".to_vec(), "a quote in a host", 65, "manifest.yaml:3: bottle.egress.routes[0].host"),
        (b"version: 1\nslug: x\nbottle: {}\nnetwork: {internal_cidr: 10.0.2.1/24}\n".to_vec(), "a CIDR with host bits", 65, "10.0.2.0/24"),
    ]
    .into_iter()
    .map(|(bytes, what, code, says)| (bytes, Failure { what, stage: "manifest", code, says }))
    .collect();
    for (bytes, failure) in &cases {
        let bed = Bed::with(bytes);
        assert_fails(&bed, bed.shared(), failure);
    }
}

/// What costs the most memory for its size: 16 MiB of it take 280 MB to judge.
#[test]
fn refuses_a_manifest_that_would_exhaust_a_small_machine() {
    let mut text = b"version: 1\nslug: x\nbottle: {egress: {routes: [".to_vec();
    while text.len() < (16 << 20) - 8 {
        text.extend(b"{},");
    }
    text.extend(b"]}}\n");
    let bed = Bed::with(&text);
    let failure = Failure {
        what: "16 MiB of routes",
        stage: "manifest",
        code: 66,
        says: "MiB of available memory allow",
    };
    assert_fails(&bed, bed.shared().memory_mib(80), &failure);

    // As many of them as the machine itself says it can bear.
    let error = bed.status()["error"].as_str().unwrap().to_owned();
    let most = error.split_once("larger than ").unwrap().1;
    let most: usize = most.split_once(" bytes").unwrap().0.parse().unwrap();
    text.truncate(most - 256 * 1024);
    let end = text.iter().rposition(|byte| *byte == b',').unwrap();
    text.truncate(end);
    text.extend(b"]}}\n");
    let bed = Bed::with(&text);
    let running = bed.shared().memory_mib(80).boot().unwrap();
    running
        .wait_for_line("ready: pipelock", BOOT_DEADLINE)
        .unwrap();
}

#[test]
fn names_a_manifest_that_cannot_be_read_and_ends() {
    let bed = Bed::with(b"");
    let path = bed.scratch.join("manifest/manifest.yaml");

    fs::remove_file(&path).unwrap();
    let missing = Failure {
        what: "no manifest",
        stage: "manifest",
        code: 66,
        says: "cannot read /etc/sidecar/manifest.yaml: No such file",
    };
    assert_fails(&bed, bed.shared(), &missing);

    let no_share = Failure {
        what: "no share",
        stage: "manifest",
        code: 66,
        says: "no share has the tag \"sidecar\"",
    };
    assert_fails(&bed, bed.machine(), &no_share);

    let no_disk = Failure {
        what: "no disk",
        stage: "manifest",
        code: 66,
        says: "the machine has no disk /dev/vdz",
    };
    assert_fails(
        &bed,
        bed.machine().kernel_arg("sidecar.mount=ext4:/dev/vdz"),
        &no_disk,
    );

    fs::create_dir(&path).unwrap();
    let directory = Failure {
        what: "a directory",
        stage: "manifest",
        code: 66,
        says: "it is a directory, not a regular file",
    };
    assert_fails(&bed, bed.shared(), &directory);
    fs::remove_dir(&path).unwrap();

    let made = std::process::Command::new("mkfifo")
        .arg(&path)
        .status()
        .unwrap();
    assert!(made.success());
    let fifo = Failure {
        what: "a FIFO",
        stage: "manifest",
        code: 66,
        says: "a device, pipe or socket, not a regular file",
    };
    assert_fails(&bed, bed.shared(), &fifo);
}

#[test]
fn names_a_daemon_that_is_missing_or_not_executable_and_ends() {
    let bed = Bed::with(manifest().as_bytes());
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
        "var/lib/sidecar",
    ] {
        fs::create_dir_all(tree.join(directory)).unwrap();
    }
    let init = shipped_init(bed.bundle.arch).unwrap();
    fs::copy(init, tree.join("sbin/sidecar-init")).unwrap();
    for (name, target) in [
        ("hosts", "hosts"),
        ("resolv.conf", "resolv.conf"),
        ("pipelock-ca.pem", "pipelock-ca.pem"),
        ("pipelock-ca-key.pem", "pipelock-ca-key.pem"),
    ] {
        std::os::unix::fs::symlink(
            format!("/run/sidecar/{target}"),
            tree.join("etc").join(name),
        )
        .unwrap();
    }
    let image = bed.scratch.join("root.erofs");
    make_disk(FileSystem::Erofs, &tree, &image).unwrap();
    let missing = Failure {
        what: "no daemon",
        stage: "spawn",
        code: 127,
        says: "cannot execute /usr/bin/pipelock: No such file",
    };
    assert_fails(&bed, bed.shared().root_override(&image), &missing);

    fs::write(tree.join("usr/bin/pipelock"), "no program").unwrap();
    make_disk(FileSystem::Erofs, &tree, &image).unwrap();
    let not_executable = Failure {
        what: "not executable",
        stage: "spawn",
        code: 126,
        says: "cannot execute /usr/bin/pipelock: Permission denied",
    };
    assert_fails(&bed, bed.shared().root_override(&image), &not_executable);
}

#[test]
fn refuses_a_clock_decades_ahead() {
    let bed = Bed::with(manifest().as_bytes());
    // The PC's clock has two digits for the year; Linux takes 70 to 99 for 19xx.
    let ahead = Failure {
        what: "2068",
        stage: "clock",
        code: 71,
        says: "cannot trust the clock: it says 2068-01-01",
    };
    assert_fails(&bed, bed.shared().rtc_base("2068-01-01T00:00:00"), &ahead);
}
