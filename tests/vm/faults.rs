//! Faults in a machine: cut off while it writes, revoked in mid-stream, its console
//! stopped, stopped while it starts.

use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use microvm::{
    BOOT_DEADLINE, Bundle, Ending, GUEST_ADDRESS, HOST_ADDRESS, Machine, MachineBuilder,
    ScratchDir, connect_through, read_status, wait_for_status,
};
use serde_json::Value;

use crate::support::tunnels::{self, PASSED_THROUGH};

const PORT: u16 = 8888;
/// A removed host is out of reach this long after the edit.
const REVOKED_WITHIN: Duration = Duration::from_secs(5);

fn manifest(hosts: &[&str]) -> String {
    let mut routes = String::new();
    let mut names = Vec::new();
    for host in hosts {
        routes += &format!("      - host: {host}\n");
        names.push(format!("{host}: {HOST_ADDRESS}"));
    }
    format!(
        "version: 1\nslug: faults\nbottle:\n  egress:\n    routes:\n{routes}\
         network:\n  internal_cidr: 10.0.2.0/24\n  hosts: {{{}}}\n  address: {GUEST_ADDRESS}/24\n  gateway: {HOST_ADDRESS}\n",
        names.join(", ")
    )
}

struct Bed {
    bundle: Bundle,
    scratch: ScratchDir,
}

impl Bed {
    fn new(hosts: &[&str]) -> Self {
        let bed = Self {
            bundle: Bundle::from_target().unwrap(),
            scratch: ScratchDir::new().unwrap(),
        };
        for directory in ["manifest", "export"] {
            fs::create_dir(bed.scratch.join(directory)).unwrap();
        }
        bed.write(&manifest(hosts));
        bed
    }

    /// Replaces the manifest by rename.
    fn write(&self, text: &str) {
        let new = self.scratch.join("manifest/new");
        fs::write(&new, text).unwrap();
        fs::rename(new, self.scratch.join("manifest/manifest.yaml")).unwrap();
    }

    fn machine(&self) -> MachineBuilder {
        Machine::builder(&self.bundle)
            .no_ip_argument()
            .manifest_dir(self.scratch.join("manifest"))
            .export_dir(self.scratch.join("export"))
            .forward(PORT)
    }

    fn wait_for(&self, accepts: impl FnMut(&Value) -> bool) -> Value {
        wait_for_status(&self.scratch.join("export"), accepts, BOOT_DEADLINE).unwrap()
    }

    fn wait_ready(&self) -> Value {
        let status =
            self.wait_for(|status| status["state"] == "ready" || status["exit_code"].is_number());
        assert_eq!(status["state"], "ready", "{status}");
        status
    }
}

#[test]
fn a_removed_host_is_out_of_reach_in_time_through_tunnels_that_were_open_too() {
    for in_place in [false, true] {
        let bed = Bed::new(&["kept.test", PASSED_THROUGH]);
        let running = bed.machine().boot().unwrap();
        bed.wait_ready();
        let proxy = running.forwarded(PORT).unwrap();
        let tunnels = tunnels::open_tunnels(proxy, PASSED_THROUGH);
        let edited = Instant::now();
        if in_place {
            fs::write(
                bed.scratch.join("manifest/manifest.yaml"),
                manifest(&["kept.test"]),
            )
            .unwrap();
        } else {
            bed.write(&manifest(&["kept.test"]));
        }
        for (kind, after) in tunnels::gone_after(tunnels, edited) {
            assert!(after < REVOKED_WITHIN, "{kind}: {after:?}");
        }
        let status = bed.wait_for(|status| {
            status["config"]["applied_generation"] == 2 && status["state"] == "ready"
        });
        assert!(status["revocation"]["done_at"].is_string(), "{status}");
        assert_eq!(
            status["revocation"]["hosts"],
            serde_json::json!([PASSED_THROUGH])
        );
        let connect = |host: &str| connect_through(proxy, &format!("{host}:443")).unwrap().0;
        assert_eq!(connect(PASSED_THROUGH).status, 403);
        assert_ne!(connect("kept.test").status, 403);
    }
}

#[test]
fn a_machine_cut_off_while_it_writes_leaves_whole_files_and_no_old_ca_beside_a_new_boot() {
    let bed = Bed::new(&["kept.test"]);
    let export = bed.scratch.join("export");
    let mut boots: Vec<(String, String)> = Vec::new();
    // Cut off at the first status, in the middle of the start, and when it is ready.
    for cut in [
        "\"stage\":\"mounts\"",
        "\"stage\":\"ca\"",
        "\"state\":\"ready\"",
        "\"state\":\"ready\"",
    ] {
        let running = bed.machine().boot().unwrap();
        let old = boots.last().cloned();
        let seen = AtomicBool::new(false);
        let mut last = None;
        let deadline = Instant::now() + BOOT_DEADLINE;
        while !seen.load(Ordering::Relaxed) {
            assert!(Instant::now() < deadline, "{}", running.console());
            let certificate = fs::read_to_string(export.join("pipelock-ca.pem")).ok();
            let Ok(text) = fs::read_to_string(export.join("status.json")) else {
                continue;
            };
            let status: Value = serde_json::from_str(&text).expect("never half a status");
            let boot = status["boot_id"].to_string();
            if let Some(certificate) = &certificate {
                assert!(
                    certificate.ends_with("-----END CERTIFICATE-----\n"),
                    "{certificate}"
                );
            }
            if old.as_ref().is_some_and(|(id, _)| *id == boot) {
                continue;
            }
            // The certificate was read before the status: it can only be older.
            let now = fs::read_to_string(export.join("pipelock-ca.pem")).unwrap_or_default();
            for (_, earlier) in &boots {
                assert!(
                    earlier.is_empty() || now != *earlier,
                    "an old CA beside a new boot"
                );
            }
            last = Some((boot, now));
            // A stage may be over before it is seen: whatever comes later will do.
            let reached = text.contains(cut) || text.contains("\"state\":\"ready\"");
            seen.store(reached, Ordering::Relaxed);
        }
        // By SIGKILL: nobody in the machine is asked.
        nix::sys::signal::kill(
            nix::unistd::Pid::from_raw(i32::try_from(running.pid()).unwrap()),
            nix::sys::signal::Signal::SIGKILL,
        )
        .unwrap();
        drop(running);
        boots.extend(last);
        let left = read_status(&export).unwrap();
        assert_ne!(left["outcome"], "stopped", "it was cut off: {left}");
    }
    let running = bed.machine().keyboard().boot().unwrap();
    running
        .wait_for_line("sidecar-init: ready", BOOT_DEADLINE)
        .unwrap();
    let status = bed.wait_ready();
    let this = status["boot_id"].to_string();
    assert!(boots.iter().all(|(id, _)| *id != this));
    let mut names: Vec<_> = fs::read_dir(&export)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.starts_with('.'))
        .collect();
    names.sort();
    assert!(
        names.is_empty(),
        "remainders of the boots that were cut off: {names:?}"
    );
}

#[test]
fn ctrl_alt_del_during_the_start_and_twice_is_a_clean_stop() {
    let bed = Bed::new(&["kept.test"]);
    let running = bed.machine().keyboard().boot().unwrap();
    running
        .wait_for_line("sidecar-init: version", BOOT_DEADLINE)
        .unwrap();
    bed.wait_for(|status| status["stage"] != "mode");
    running.control_alt_delete().unwrap();
    // It may have ended by then.
    let _ = running.control_alt_delete();
    let result = running.wait_for_result(BOOT_DEADLINE).unwrap();
    assert_eq!(running.wait_end(BOOT_DEADLINE).unwrap(), Ending::Reset);
    assert_eq!(result["exit_code"], 0, "{result}");
    assert_eq!(result["outcome"], "stopped", "{result}");
    assert!(!running.console().contains("Kernel panic"));
}

#[test]
fn a_network_that_cannot_be_configured_ends_the_start_there() {
    let bed = Bed::new(&["kept.test"]);
    let text = manifest(&["kept.test"]);
    let text: Vec<&str> = text
        .lines()
        .filter(|line| !line.contains("address:") && !line.contains("gateway:"))
        .collect();
    bed.write(&text.join("\n"));
    // Nothing leads to this gateway.
    let argument = format!("ip={GUEST_ADDRESS}::192.168.77.1:255.255.255.0::eth0:off");
    let running = bed.machine().kernel_arg(argument).boot().unwrap();
    let result = running.wait_for_result(BOOT_DEADLINE).unwrap();
    assert_eq!(running.wait_end(BOOT_DEADLINE).unwrap(), Ending::Reset);
    assert_eq!(result["exit_code"], 71, "{result}");
    assert_eq!(result["outcome"], "failed at network", "{result}");
}

#[test]
fn a_console_that_nobody_reads_stops_nothing_else() {
    /// A pipe's, on the way from QEMU to this test.
    const BUFFER: usize = 64 * 1024;
    let bed = Bed::new(&["kept.test"]);
    let running = bed.machine().boot().unwrap();
    bed.wait_ready();
    // Control-S as well: this driver does not heed it, and nothing must depend on that.
    running.type_on_console(b"\x13").unwrap();
    running.hold_console(true);
    let proxy = running.forwarded(PORT).unwrap();
    // A line of the daemon each, and more of them than fit in.
    for number in 0..2 * BUFFER / 200 {
        // Another name each time: pipelock counts by domain, and limits the count.
        let elsewhere = format!("elsewhere-{number}.test:443");
        let (refused, _) = connect_through(proxy, &elsewhere).unwrap();
        assert_eq!(refused.status, 403);
    }
    let held = running.console_position();
    bed.write(&manifest(&["kept.test", "added.test"]));
    bed.wait_for(|status| {
        status["state"] == "ready" && status["config"]["applied_generation"] == 2
    });
    assert_eq!(running.console_position(), held, "it was read");
    running.type_on_console(b"\x11").unwrap();
    running.hold_console(false);
    bed.write(&manifest(&["kept.test"]));
    running
        .wait_for_line_after(held, "generation 3", BOOT_DEADLINE)
        .unwrap();
}
