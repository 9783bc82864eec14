//! Faults in a machine: cut off while it writes, revoked in mid-stream, its console
//! stopped, stopped while it starts.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

use std::fs;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use microvm::{
    BOOT_DEADLINE, Bundle, Ending, GUEST_ADDRESS, HOST_ADDRESS, Machine, MachineBuilder,
    ScratchDir, connect_through, read_status, wait_for_status,
};
use serde_json::Value;

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

/// Sends without end to whoever connects, until its client is gone; idle where `silent`.
fn serve_streams(silent: bool) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            thread::spawn(move || stream_until_gone(stream, silent));
        }
    });
    port
}

fn stream_until_gone(mut stream: TcpStream, silent: bool) {
    if silent {
        let _ = stream.read(&mut [0; 64]);
        // Half closed by the client: the other half stays until it is gone altogether.
        thread::sleep(Duration::from_mins(2));
        return;
    }
    while stream.write_all(b"streaming ").is_ok() {
        thread::sleep(Duration::from_millis(20));
    }
}

fn tunnel(proxy: SocketAddr, host: &str, port: u16) -> TcpStream {
    let (answer, stream) = connect_through(proxy, &format!("{host}:{port}")).unwrap();
    assert_eq!(answer.status, 200, "{answer:?}");
    stream
}

/// Reads until the stream ends, by whatever; when that was.
fn ends_at(mut stream: TcpStream) -> Instant {
    stream
        .set_read_timeout(Some(Duration::from_secs(20)))
        .unwrap();
    let mut buffer = [0; 4096];
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => return Instant::now(),
            Ok(_) => {}
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                panic!("the tunnel is still open")
            }
            Err(_) => return Instant::now(),
        }
    }
}

#[test]
fn a_removed_host_is_out_of_reach_in_time_through_tunnels_that_were_open_too() {
    let bed = Bed::new(&["kept.test", "removed.test"]);
    let running = bed.machine().boot().unwrap();
    bed.wait_ready();
    let proxy = running.forwarded(PORT).unwrap();
    let (streaming, silent) = (serve_streams(false), serve_streams(true));
    let half_closed = tunnel(proxy, "removed.test", silent);
    half_closed.shutdown(Shutdown::Write).unwrap();
    let tunnels = [
        tunnel(proxy, "removed.test", silent),
        tunnel(proxy, "removed.test", streaming),
        half_closed,
    ];
    let edited = Instant::now();
    bed.write(&manifest(&["kept.test"]));
    let ends: Vec<Instant> = thread::scope(|scope| {
        let readers: Vec<_> = tunnels
            .into_iter()
            .map(|stream| scope.spawn(|| ends_at(stream)))
            .collect();
        readers
            .into_iter()
            .map(|reader| reader.join().unwrap())
            .collect()
    });
    for (kind, end) in ["idle", "streaming", "half closed"].iter().zip(ends) {
        let took = end - edited;
        assert!(took < REVOKED_WITHIN, "{kind}: {took:?}");
    }
    let status = bed.wait_for(|status| {
        status["config"]["applied_generation"] == 2 && status["state"] == "ready"
    });
    assert!(status["revocation"]["done_at"].is_string(), "{status}");
    assert_eq!(
        status["revocation"]["hosts"],
        serde_json::json!(["removed.test"])
    );
    let (refused, _) = connect_through(proxy, &format!("removed.test:{streaming}")).unwrap();
    assert_eq!(refused.status, 403);
    drop(tunnel(proxy, "kept.test", streaming));
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
fn a_console_stopped_by_control_s_stops_nothing_else() {
    let bed = Bed::new(&["kept.test"]);
    let running = bed.machine().boot().unwrap();
    bed.wait_ready();
    running.type_on_console(b"\x13").unwrap();
    let stopped = running.console_position();
    let proxy = running.forwarded(PORT).unwrap();
    // More refusals than a console's buffers hold lines.
    for _ in 0..40 {
        let (refused, _) = connect_through(proxy, "elsewhere.test:443").unwrap();
        assert_eq!(refused.status, 403);
    }
    bed.write(&manifest(&["kept.test", "added.test"]));
    bed.wait_for(|status| {
        status["state"] == "ready" && status["config"]["applied_generation"] == 2
    });
    let silent = !running.console()[stopped..].contains("generation 2");
    let _ = writeln!(
        std::io::stderr(),
        "OBSERVED: control-S {} this kernel's virtio console",
        if silent { "stops" } else { "does not stop" }
    );
    running.type_on_console(b"\x11").unwrap();
    running
        .wait_for_line_after(stopped, "generation 2", BOOT_DEADLINE)
        .unwrap();
}
