//! A machine whose clock is wrong: at its start, while it runs, and while it is frozen.
//! What counts is what a client with the right time makes of the certificates.

use std::fs::{self, File};
use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use microvm::{
    BOOT_DEADLINE, Bundle, FileSystem, GUEST_ADDRESS, HOST_ADDRESS, Machine, MachineBuilder,
    Running, ScratchDir, Upstream, make_disk, read_status, wait_for_status,
};
use serde_json::Value;

use crate::support::fixture;

pub const PORT: u16 = 8888;
const DAY: i64 = 24 * 60 * 60;
/// Longer than anything here takes on a busy machine.
const PATIENCE: Duration = Duration::from_mins(1);

/// A manifest and an export, for a machine whose clock can be set.
pub struct Bed {
    bundle: Bundle,
    scratch: ScratchDir,
}

impl Bed {
    pub fn new() -> Self {
        let bed = Self {
            bundle: Bundle::from_target().unwrap(),
            scratch: ScratchDir::new().unwrap(),
        };
        for directory in ["manifest", "export"] {
            fs::create_dir(bed.scratch.join(directory)).unwrap();
        }
        let names = format!("upstream.test: {HOST_ADDRESS}");
        bed.write_manifest(&Self::manifest_text(&names));
        bed
    }

    /// A manifest that allows one host, and knows these names.
    pub fn manifest_text(names: &str) -> String {
        format!(
            "version: 1
slug: dated
bottle: {{egress: {{routes: [{{host: upstream.test}}]}}}}
network:
  internal_cidr: 10.0.2.0/24
  hosts: {{{names}}}
  address: {GUEST_ADDRESS}/24
  gateway: {HOST_ADDRESS}
supervisor: {{probe_seconds: 1}}
"
        )
    }

    pub fn write_manifest(&self, text: &str) {
        let new = self.scratch.join("new");
        fs::write(&new, text).unwrap();
        fs::rename(new, self.scratch.join("manifest/manifest.yaml")).unwrap();
    }

    pub fn machine(&self) -> MachineBuilder {
        Machine::builder(&self.bundle)
            .no_ip_argument()
            .manifest_dir(self.scratch.join("manifest"))
            .forward(PORT)
    }

    pub fn export(&self) -> PathBuf {
        self.scratch.join("export")
    }

    /// The bundle's root with the stepper in it.
    pub fn root_with_stepper(&self) -> PathBuf {
        let tree = self.scratch.join("root");
        let extracted = Command::new("fsck.erofs")
            .arg(format!("--extract={}", tree.display()))
            .arg("--preserve-perms")
            .arg(&self.bundle.root)
            .output()
            .unwrap();
        assert!(extracted.status.success(), "{extracted:?}");
        fixture::compile("stepper", &[], &tree.join("sbin/stepper"));
        let image = self.scratch.join("root.erofs");
        make_disk(FileSystem::Erofs, &tree, &image).unwrap();
        image
    }

    pub fn wait_for(&self, accepts: impl FnMut(&Value) -> bool) -> Value {
        wait_for_status(&self.export(), accepts, PATIENCE).unwrap()
    }

    /// Sets the machine's clock by so many seconds, the `number`th time.
    pub fn step(&self, number: u64, seconds: i64) {
        self.tell_stepper(number, &seconds.to_string());
    }

    /// The `number`th thing that the stepper is to do.
    pub fn tell_stepper(&self, number: u64, what: &str) {
        let new = self.scratch.join("new");
        fs::write(&new, what).unwrap();
        let place = format!("manifest/step-{number}");
        fs::rename(new, self.scratch.join(&place)).unwrap();
    }

    /// Whether a client whose clock says `time` accepts a leaf.
    fn accepts(&self, leaf: &str, time: i64) -> bool {
        let mut verify = Command::new("openssl")
            .args(["verify", "-x509_strict", "-attime", &time.to_string()])
            .arg("-CAfile")
            .arg(self.export().join("pipelock-ca.pem"))
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut input = verify.stdin.take().unwrap();
        input.write_all(leaf.as_bytes()).unwrap();
        drop(input);
        verify.wait().unwrap().success()
    }
}

/// This machine's time: the right one.
fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    since.as_secs().try_into().unwrap()
}

/// The certificate that the firewall shows for the one host there is.
fn leaf(running: &Running, upstream: &Upstream) -> String {
    let shown = Command::new("openssl")
        .args(["s_client", "-proxy"])
        .arg(running.forwarded(PORT).unwrap().to_string())
        .args(["-connect", &format!("upstream.test:{}", upstream.port())])
        .args(["-servername", "upstream.test"])
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
    let (_, rest) = shown
        .split_once("-----BEGIN CERTIFICATE-----")
        .unwrap_or_else(|| panic!("{shown}"));
    let (body, _) = rest.split_once("-----END CERTIFICATE-----").unwrap();
    format!("-----BEGIN CERTIFICATE-----{body}-----END CERTIFICATE-----\n")
}

#[test]
fn a_clock_that_is_set_while_it_runs_costs_no_client_its_certificates_and_no_daemon() {
    let bed = Bed::new();
    let upstream = Upstream::start("not asked for more than a connection").unwrap();
    let running = bed
        .machine()
        .root_override(bed.root_with_stepper())
        .kernel_arg("init=/sbin/stepper")
        .export_dir(bed.export())
        .boot()
        .unwrap();
    let first = bed.wait_for(|status| status["state"] == "ready");
    assert_eq!(first["clock_steps"], 0, "{first}");
    let old = leaf(&running, &upstream);
    assert!(bed.accepts(&old, now()));
    // It hands the same one out as long as nothing happens.
    assert_eq!(leaf(&running, &upstream), old);

    // A frozen machine: nothing is noticed, nothing is missed.
    running.pause().unwrap();
    std::thread::sleep(Duration::from_secs(4));
    running.resume().unwrap();

    let mut old = old;
    for (number, seconds, way) in [(1, DAY, "ahead"), (2, -DAY, "back")] {
        bed.step(number, seconds);
        let status = bed.wait_for(|status| status["clock_steps"] == number);
        assert_eq!(status["last_clock_step"], seconds, "{status}");
        running
            .wait_for_line(&format!("the clock was set {way} by 86400 s"), PATIENCE)
            .unwrap();
        let right = now() + if number == 1 { DAY } else { 0 };
        assert!(!bed.accepts(&old, right), "nothing would have been wrong");
        let mark = running.console_position();
        let renewed = |status: &Value| {
            status["clock_steps"] == number
                && status["state"] == "ready"
                && leaf(&running, &upstream) != old
        };
        bed.wait_for(renewed);
        let new = leaf(&running, &upstream);
        assert!(bed.accepts(&new, right), "{}", running.console());
        // Two liveness probes later it still serves: no interval follows that clock.
        let _ = running.wait_for_line_after(mark, "missed", Duration::from_secs(3));
        let status = read_status(&bed.export()).unwrap();
        assert_eq!(status["restarts"], 0, "{}", running.console());
        assert_eq!(status["daemon"]["pid"], first["daemon"]["pid"]);
        assert_eq!(status["config"]["generation"], 1);
        old = new;
    }

    // Before the CA's own first day no client can be helped; that is said.
    bed.step(3, -3 * DAY);
    let status = bed.wait_for(|status| status["clock_steps"] == 3);
    assert!(
        status["warnings"]
            .to_string()
            .contains("the CA is not valid"),
        "{status}"
    );
}

#[test]
fn a_machine_that_starts_in_1970_learns_the_time_from_the_hosts_files() {
    let bed = Bed::new();
    let upstream = Upstream::start("not asked for more than a connection").unwrap();
    let machine = bed.machine().rtc_base("1970-01-01T00:00:00");
    let running = machine.clone().export_dir(bed.export()).boot().unwrap();
    let status = bed.wait_for(|status| status["state"] == "ready");
    assert!(
        status["warnings"]
            .to_string()
            .contains("the clock said 1970-01-01"),
        "{status}"
    );
    assert!(bed.accepts(&leaf(&running, &upstream), now()), "{status}");
    drop(running);

    // Without an export the manifest's own date is the latest that is known.
    let manifest = File::open(bed.scratch.join("manifest/manifest.yaml")).unwrap();
    manifest.set_modified(UNIX_EPOCH).unwrap();
    let running = machine.boot().unwrap();
    for line in ["nothing tells this machine the time", "sidecar-init: ready"] {
        running.wait_for_line(line, PATIENCE).unwrap();
    }
}

#[test]
fn a_machine_that_starts_in_2200_says_why_it_does_not() {
    let bed = Bed::new();
    // QEMU counts its clock's seconds in 32 bits: the machine sees 2063.
    let machine = bed.machine().rtc_base("2200-01-01T00:00:00");
    let running = machine.boot().unwrap();
    let result = running.wait_for_result(PATIENCE).unwrap();
    assert_eq!(result["exit_code"], 71, "{result}");
    assert_eq!(result["outcome"], "failed at clock");
    let error = result["error"].as_str().unwrap();
    assert!(
        error.starts_with("cannot trust the clock: it says "),
        "{error}"
    );
}

/// Nothing random anywhere: the kernel gathers until it has enough, and no key is made of
/// less. Where it does not gather in time, that is the reason for which the start fails.
#[test]
fn without_any_entropy_it_waits_for_the_kernel() {
    let bed = Bed::new();
    let running = bed
        .machine()
        .export_dir(bed.export())
        .no_entropy()
        .kernel_arg("loglevel=7")
        .boot()
        .unwrap();
    let told = |status: &Value| status["state"] == "ready" || status["exit_code"].is_number();
    let status = wait_for_status(&bed.export(), told, BOOT_DEADLINE).unwrap();
    let console = running.console();
    assert_eq!(status["state"], "ready", "{status}\n{console}");
    let seeded = console.find("random: crng init done").expect(&console);
    let generated = console.find("CA generated").expect(&console);
    let started = console.find("sidecar-init: version").expect(&console);
    assert!(started < seeded && seeded < generated, "{console}");
}
