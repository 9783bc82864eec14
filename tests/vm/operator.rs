//! What the host reads from the export of a machine that it cannot look into.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::process::Command;
use std::time::Instant;

use microvm::{
    BOOT_DEADLINE, Bundle, Ending, FileSystem, GUEST_ADDRESS, HOST_ADDRESS, Machine,
    MachineBuilder, ScratchDir, connect_through, get_through, make_disk, make_empty_disk,
    read_status, vsock_device, wait_for_status,
};
use serde_json::Value;

const PORT: u16 = 8888;
const SECRET: &str = "AKIAIOSFODNN7EXAMPLE";

struct Bed {
    bundle: Bundle,
    scratch: ScratchDir,
}

impl Bed {
    fn new(bottle: &str) -> Self {
        let bed = Self {
            bundle: Bundle::from_target().unwrap(),
            scratch: ScratchDir::new().unwrap(),
        };
        for directory in ["manifest", "export"] {
            fs::create_dir(bed.scratch.join(directory)).unwrap();
        }
        bed.write(bottle);
        bed
    }

    /// Replaces the manifest by rename.
    fn write(&self, bottle: &str) {
        let new = self.scratch.join("manifest/new");
        fs::write(
            &new,
            format!(
                "version: 1\nslug: told\n{bottle}\nnetwork:\n  internal_cidr: 10.0.2.0/24\n  \
                 hosts: {{upstream.test: {HOST_ADDRESS}}}\n  address: {GUEST_ADDRESS}/24\n  gateway: {HOST_ADDRESS}\n"
            ),
        )
        .unwrap();
        fs::rename(new, self.scratch.join("manifest/manifest.yaml")).unwrap();
    }

    /// The bundle's root with `tests/fixtures/listener.rs` where its init was, and that
    /// beside it.
    fn root_with_listener(&self) -> PathBuf {
        let tree = self.scratch.join("tree");
        run(Command::new("fsck.erofs")
            .arg(format!("--extract={}", tree.display()))
            .arg(&self.bundle.root));
        let init = tree.join("sbin/sidecar-init");
        fs::rename(&init, tree.join("sbin/sidecar-init.real")).unwrap();
        let target = format!("{}-unknown-linux-musl", std::env::consts::ARCH);
        run(Command::new("rustc")
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .args(["--edition", "2024", "--target", &target])
            .args(["-C", "linker=rust-lld", "-C", "panic=abort", "-o"])
            .arg(&init)
            .arg("tests/fixtures/listener.rs"));
        fs::set_permissions(&init, fs::Permissions::from_mode(0o755)).unwrap();
        let root = self.scratch.join("root.erofs");
        make_disk(FileSystem::Erofs, &tree, &root).unwrap();
        root
    }

    fn export(&self, name: &str) -> PathBuf {
        self.scratch.join("export").join(name)
    }

    fn machine(&self) -> MachineBuilder {
        Machine::builder(&self.bundle)
            .no_ip_argument()
            .export_dir(self.scratch.join("export"))
            .manifest_dir(self.scratch.join("manifest"))
            .forward(PORT)
            .keyboard()
    }

    fn wait_ready(&self) -> Value {
        let status = wait_for_status(
            &self.scratch.join("export"),
            |status| status["state"] == "ready" || status["exit_code"].is_number(),
            BOOT_DEADLINE,
        );
        let status = status.unwrap();
        assert_eq!(status["state"], "ready", "{status}");
        status
    }
}

/// A small file system of its own for a directory; gone with its owner.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn on(directory: PathBuf) -> Option<Self> {
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=1m,mode=755", "small"])
            .arg(&directory)
            .output()
            .unwrap();
        if !mounted.status.success() {
            // Not eprintln: the harness hides that of a test that passes.
            let _ = writeln!(
                std::io::stderr(),
                "NOT CHECKED: a full disk on the host: {}",
                String::from_utf8_lossy(&mounted.stderr).trim()
            );
            return None;
        }
        Some(Self(directory))
    }

    /// Writes until nothing fits any more, and takes what others free until this holds.
    fn fill_until(&self, mut holds: impl FnMut() -> bool) {
        let mut file = fs::File::create(self.0.join("filler")).unwrap();
        let end = Instant::now() + BOOT_DEADLINE;
        loop {
            let full = file.write_all(&[b'x'; 512]).is_err();
            if full && holds() {
                return;
            }
            assert!(Instant::now() < end, "a full disk is not noticed");
        }
    }

    fn make_room(&self) {
        fs::remove_file(self.0.join("filler")).unwrap();
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: the share's daemon may have it open still.
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[track_caller]
fn run(command: &mut Command) {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {output:?}");
}

#[test]
fn the_export_answers_for_clients_and_refusals_and_a_deaf_listener_harms_nobody() {
    let bed = Bed::new("bottle: {egress: {routes: [{host: upstream.test}]}}");
    for name in [
        "pipelock-ca.pem",
        "ca-bundle.pem",
        "client.env",
        "denials.json",
        "report.json",
    ] {
        fs::write(bed.export(name), "stale").unwrap();
    }
    let running = bed
        .machine()
        .kernel_arg("NOTIFY_SOCKET=vsock-stream:1:9999")
        .boot()
        .unwrap();
    let status = bed.wait_ready();

    let text = fs::read_to_string(bed.export("client.env")).unwrap();
    let proxy = format!("http_proxy=http://{GUEST_ADDRESS}:{PORT}\n");
    assert!(text.contains(&proxy), "{text}");
    let ca = fs::read_to_string(bed.export("pipelock-ca.pem")).unwrap();
    let bundle = fs::read_to_string(bed.export("ca-bundle.pem")).unwrap();
    assert!(bundle.ends_with(&ca) && ca.contains("BEGIN CERTIFICATE"));
    assert!(
        bundle.matches("BEGIN CERTIFICATE").count() > 50,
        "the image's public roots"
    );
    assert!(!bed.export("report.json").exists());

    let proxy = running.forwarded(PORT).unwrap();
    for _ in 0..3 {
        let (answer, _) = connect_through(proxy, "elsewhere.test:443").unwrap();
        assert_eq!(answer.status, 403);
    }
    let answer = get_through(proxy, &format!("http://upstream.test/?key={SECRET}")).unwrap();
    assert_eq!(answer.status, 403, "{answer:?}");
    let end = Instant::now() + BOOT_DEADLINE;
    let denials = loop {
        let text = fs::read_to_string(bed.export("denials.json")).unwrap_or_default();
        let denials: Value = serde_json::from_str(&text).unwrap_or_default();
        if denials["total"] == 4 {
            assert!(!text.contains(SECRET), "{text}");
            break denials;
        }
        assert!(Instant::now() < end, "{text}\n{}", running.console());
        std::thread::sleep(std::time::Duration::from_millis(20));
    };
    assert_eq!(denials["boot_id"], status["boot_id"]);
    assert_eq!(denials["denials"][0]["host"], "elsewhere.test");
    assert_eq!(denials["denials"][0]["count"], 3);
    assert_eq!(denials["denials"][1]["host"], "upstream.test");

    // The kernel hands it to its init; nobody listens there.
    let console = running.console();
    assert_eq!(
        console.matches("cannot notify NOTIFY_SOCKET").count(),
        1,
        "{console}"
    );
    running.control_alt_delete().unwrap();
    assert_eq!(
        running.wait_for_result(BOOT_DEADLINE).unwrap()["exit_code"],
        0
    );
    assert_eq!(running.wait_end(BOOT_DEADLINE).unwrap(), Ending::Reset);
}

#[test]
fn a_failed_start_leaves_a_report_with_the_kernels_view() {
    let bed = Bed::new("botle: {}");
    let running = bed.machine().boot().unwrap();
    let result = running.wait_for_result(BOOT_DEADLINE).unwrap();
    assert_eq!(result["exit_code"], 65, "{result}");
    running.wait_end(BOOT_DEADLINE).unwrap();
    let text = fs::read_to_string(bed.export("report.json")).unwrap();
    let report: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(report["status"]["boot_id"], result["boot_id"]);
    assert_eq!(
        report["status"],
        read_status(&bed.scratch.join("export")).unwrap()
    );
    assert_eq!(
        report["kernel"],
        Value::Array(vec![]),
        "nothing was killed: {text}"
    );
    assert!(!text.contains("PRIVATE KEY"), "{text}");
    assert!(!bed.export("client.env").exists());
}

#[test]
fn a_listener_on_the_vsock_loopback_hears_everything_in_order() {
    let bed = Bed::new("bottle: {egress: {routes: [{host: upstream.test}]}}");
    let running = bed
        .machine()
        .root_override(bed.root_with_listener())
        .kernel_arg("NOTIFY_SOCKET=vsock:1:9999")
        .kernel_arg("WATCHDOG_USEC=2000000")
        .boot()
        .unwrap();
    let mut position = 0;
    let mut hear = |line: &str| {
        let line = format!("listener: {line}");
        let heard = running.wait_for_line_after(position, &line, BOOT_DEADLINE);
        heard.unwrap();
        position += running.console()[position..].find(&line).unwrap() + line.len();
    };
    hear("STATUS=starting");
    hear("READY=1");
    hear("STATUS=ready; what is not allowed is refused");
    bed.wait_ready();
    hear("WATCHDOG=1");
    bed.write("bottle: {egress: {routes: [{host: upstream.test}, {host: added.test}]}}");
    hear("RELOADING=1");
    hear("MONOTONIC_USEC=");
    hear("READY=1");
    running.control_alt_delete().unwrap();
    hear("STOPPING=1");
    running.wait_end(BOOT_DEADLINE).unwrap();
    let console = running.console();
    assert!(!console.contains("cannot notify"), "{console}");
    assert!(!console.contains("listener: cannot"), "{console}");
}

#[test]
fn the_host_hears_over_vsock_when_the_machine_is_ready_and_when_it_ends() {
    if vsock_device().is_none() {
        // Not eprintln: the harness hides that of a test that passes.
        let _ = writeln!(
            std::io::stderr(),
            "NOT CHECKED: a vsock from guest to host, because vhost-device-vsock is not built"
        );
        return;
    }
    let bed = Bed::new("bottle: {egress: {routes: [{host: upstream.test}]}}");
    let prefix = bed.scratch.join("vsock");
    let listener = UnixListener::bind(bed.scratch.join("vsock_9999")).unwrap();
    let (tell, told) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut message = String::new();
            // One connection, one message: what systemd's vsock-stream means.
            let _ = stream.unwrap().read_to_string(&mut message);
            if tell.send(message).is_err() {
                return;
            }
        }
    });
    let hear = |wanted: &str| loop {
        let message = told.recv_timeout(BOOT_DEADLINE).unwrap();
        if message.contains(wanted) {
            return message;
        }
    };
    let running = bed
        .machine()
        .vsock(&prefix)
        .kernel_arg("NOTIFY_SOCKET=vsock-stream:2:9999")
        .boot()
        .unwrap();
    assert_eq!(
        hear("READY=1"),
        "READY=1\nSTATUS=ready; what is not allowed is refused\n"
    );
    assert_eq!(bed.wait_ready()["state"], "ready");
    running.control_alt_delete().unwrap();
    assert_eq!(hear("STOPPING=1"), "STOPPING=1\n");
    running.wait_end(BOOT_DEADLINE).unwrap();
    let console = running.console();
    assert!(!console.contains("cannot notify"), "{console}");
}

/// What the export says was refused; at a machine's start there is nothing of it.
fn told(bed: &Bed) -> Value {
    let text = fs::read_to_string(bed.export("denials.json")).unwrap_or_default();
    serde_json::from_str(&text).unwrap_or_else(|_| serde_json::json!({"total": 0}))
}

#[test]
fn a_full_disk_on_the_host_stops_no_traffic_and_is_made_up_for_when_there_is_room() {
    let bed = Bed::new("bottle: {egress: {routes: [{host: upstream.test}]}}");
    let Some(disk) = SmallDisk::on(bed.scratch.join("export")) else {
        return;
    };
    let running = bed.machine().boot().unwrap();
    bed.wait_ready();
    let proxy = running.forwarded(PORT).unwrap();
    let be_refused = || {
        let (answer, _) = connect_through(proxy, "elsewhere.test:443").unwrap();
        assert_eq!(answer.status, 403);
    };
    let says = "cannot write /run/sidecar/export/denials.json: No space left on device";
    let mut refused = 0;
    disk.fill_until(|| {
        if running.console().contains(says) {
            return true;
        }
        // Room that the machine itself made, by replacing a file, may have taken the last
        // news: there must be more.
        if told(&bed)["total"] == refused {
            be_refused();
            refused += 1;
        }
        false
    });
    be_refused();
    // The manifest is followed meanwhile.
    bed.write("bottle: {egress: {routes: [{host: upstream.test}, {host: added.test}]}}");
    running
        .wait_for_line("generation 2", BOOT_DEADLINE)
        .unwrap();
    be_refused();
    disk.make_room();
    be_refused();
    let end = Instant::now() + BOOT_DEADLINE;
    while told(&bed)["total"] != refused + 3 {
        assert!(
            Instant::now() < end,
            "{}\n{}",
            told(&bed),
            running.console()
        );
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    let status = wait_for_status(
        &bed.scratch.join("export"),
        |status| {
            status["config"]["applied_generation"] == 2
                && !status["warnings"].to_string().contains("export")
        },
        BOOT_DEADLINE,
    )
    .unwrap();
    assert_eq!(status["state"], "ready", "{status}");
    let console = running.console();
    assert!(
        console.contains("the export is up to date again"),
        "{console}"
    );
    // Told when what is missing changes, not at each try.
    assert!(console.matches(says).count() <= 3, "{console}");
    running.control_alt_delete().unwrap();
    assert_eq!(
        running.wait_for_result(BOOT_DEADLINE).unwrap()["exit_code"],
        0
    );
}

/// Looks at the export, as a host that waits for the machine would, until it is ready or
/// `enough`: before this boot has a CA, there is no certificate beside its status.
fn watch_export(bed: &Bed, earlier: &[String], enough: impl Fn() -> bool) -> Option<Value> {
    const BEFORE_THE_CA: [&str; 5] = ["mounts", "clock", "manifest", "network", "config"];
    let end = Instant::now() + BOOT_DEADLINE;
    let read = || -> Option<Value> {
        let text = fs::read_to_string(bed.export("status.json")).ok()?;
        let status: Value = serde_json::from_str(&text).expect("never half a status");
        let boot = status["boot_id"].as_str().unwrap();
        (!earlier.iter().any(|old| old == boot)).then_some(status)
    };
    while !enough() {
        assert!(Instant::now() < end, "never ready");
        std::thread::sleep(std::time::Duration::from_millis(1));
        let Some(_) = read() else { continue };
        let certificate = fs::read_to_string(bed.export("pipelock-ca.pem"));
        // Later than the certificate, so it was true of this boot when that was read.
        let Some(status) = read() else { continue };
        if let Ok(certificate) = certificate {
            let whole = certificate.ends_with("-----END CERTIFICATE-----\n");
            assert!(whole, "{certificate}");
            let stage = status["stage"].as_str().unwrap();
            assert!(!BEFORE_THE_CA.contains(&stage), "an old CA: {status}");
        }
        if status["state"] == "ready" {
            return Some(status);
        }
    }
    None
}

#[test]
fn a_machine_killed_while_it_writes_its_ca_to_the_state_volume_starts_again_with_one() {
    let bed = Bed::new("bottle: {}");
    let state = bed.scratch.join("state.img");
    make_empty_disk(&state).unwrap();
    let boot = || bed.machine().state_disk(&state).boot().unwrap();

    let running = boot();
    let key_is_there = || {
        let image = fs::read(&state).unwrap();
        memchr::memmem::find(&image, b"BEGIN EC PRIVATE KEY").is_some()
    };
    let ready = watch_export(&bed, &[], key_is_there);
    // By SIGKILL: nobody in the machine is asked.
    nix::sys::signal::kill(
        nix::unistd::Pid::from_raw(i32::try_from(running.pid()).unwrap()),
        nix::sys::signal::Signal::SIGKILL,
    )
    .unwrap();
    drop(running);
    assert_eq!(ready, None, "killed before it was ready");

    let mut boots: Vec<String> = Vec::new();
    let mut fingerprints = Vec::new();
    if let Ok(left) = read_status(&bed.scratch.join("export")) {
        boots.push(left["boot_id"].as_str().unwrap().to_owned());
    }
    for round in 0..2 {
        let running = boot();
        let status = watch_export(&bed, &boots, || false).unwrap();
        boots.push(status["boot_id"].as_str().unwrap().to_owned());
        fingerprints.push(status["ca"]["fingerprint_sha256"].to_string());
        if round == 1 {
            assert_eq!(status["ca"]["source"], "kept", "{status}");
        }
        running.control_alt_delete().unwrap();
        assert_eq!(running.wait_end(BOOT_DEADLINE).unwrap(), Ending::Reset);
    }
    assert_eq!(fingerprints[0], fingerprints[1]);
}
