//! The host's end of a guest's vsock, served by rust-vmm's `vhost-device-vsock`: no
//! kernel module on the host, and no privileges.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::thread;
use std::time::{Duration, Instant};

use crate::process::{Bound, bound_command, start};
use crate::{Error, ScratchDir};

/// Any but the reserved 0 to 2.
const GUEST_CID: u32 = 3;
/// It listens a few milliseconds after its start.
const PATIENCE: Duration = Duration::from_secs(20);

/// Where `scripts/test` builds the device, if it is there.
#[must_use]
pub fn vsock_device() -> Option<PathBuf> {
    let built =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/tools/bin/vhost-device-vsock");
    built.is_file().then_some(built)
}

/// A running device.
#[derive(Debug)]
pub(crate) struct Vsock {
    pub(crate) socket: PathBuf,
    _device: Bound,
}

impl Vsock {
    /// Hand what the guest sends to port N of the host to the Unix socket `prefix_N`.
    pub(crate) fn start(prefix: &Path, scratch: &ScratchDir) -> Result<Vsock, Error> {
        let program = vsock_device().ok_or(Error::NoProgram {
            program: "vhost-device-vsock",
            package: "none: scripts/test builds it",
        })?;
        let socket = scratch.join("vsock.sock");
        let mut command = bound_command(program);
        command
            .arg("--guest-cid")
            .arg(GUEST_CID.to_string())
            .arg("--socket")
            .arg(&socket)
            .arg("--uds-path")
            .arg(prefix)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let device = start(command).map_err(Error::io("start vhost-device-vsock"))?;
        let deadline = Instant::now() + PATIENCE;
        while !is_listening(&socket) {
            if Instant::now() > deadline {
                return Err(Error::Timeout {
                    wanted: format!("{}", socket.display()),
                    waited: PATIENCE,
                    console: String::new(),
                });
            }
            thread::sleep(Duration::from_millis(5));
        }
        Ok(Vsock {
            socket,
            _device: device,
        })
    }
}

/// Whether somebody listens there, without a connection that would be taken for QEMU's:
/// the flags are `__SO_ACCEPTCON` (linux/net.h).
fn is_listening(socket: &Path) -> bool {
    let path = socket.display().to_string();
    std::fs::read_to_string("/proc/net/unix").is_ok_and(|sockets| {
        sockets
            .lines()
            .any(|line| line.ends_with(&path) && line.split_whitespace().nth(3) == Some("00010000"))
    })
}
