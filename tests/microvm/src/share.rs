//! A host directory for the guest, served over virtiofs by one `virtiofsd`.
//!
//! The daemon gets its listening socket as standard input, so that QEMU can connect
//! without anybody polling for it. It ends by itself when QEMU goes away.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::process::{Bound, bound_command, start};
use crate::{Error, ScratchDir};

/// Debian 13's package `virtiofsd` (Rust), then Debian 12's `qemu-system-common` (C).
const PROGRAMS: [(&str, Kind); 3] = [
    ("/usr/libexec/virtiofsd", Kind::Rust),
    ("/usr/lib/virtiofsd", Kind::Rust),
    ("/usr/lib/qemu/virtiofsd", Kind::C),
];

#[derive(Clone, Copy)]
enum Kind {
    Rust,
    C,
}

/// A running share.
#[derive(Debug)]
pub(crate) struct Share {
    pub(crate) tag: &'static str,
    pub(crate) socket: PathBuf,
    _daemon: Bound,
}

impl Share {
    /// Serve `directory` under `tag`.
    pub(crate) fn start(
        tag: &'static str,
        directory: &Path,
        scratch: &ScratchDir,
    ) -> Result<Share, Error> {
        let directory = directory
            .canonicalize()
            .map_err(Error::io(format!("share {}", directory.display())))?;
        let (program, kind) = PROGRAMS
            .into_iter()
            .find(|(program, _)| Path::new(program).is_file())
            .ok_or(Error::NoProgram {
                program: "virtiofsd",
                package: "qemu-system-common (12) or virtiofsd (13)",
            })?;
        let socket = scratch.join(format!("{tag}.sock"));
        let listener = UnixListener::bind(&socket)
            .map_err(Error::io(format!("listen on {}", socket.display())))?;
        let log = scratch.join(format!("{tag}.log"));
        let log = File::create(&log).map_err(Error::io(format!("make {}", log.display())))?;

        let mut command = daemon_command(program, kind, &directory);
        command
            .stdin(Stdio::from(OwnedFd::from(listener)))
            .stdout(Stdio::null())
            .stderr(Stdio::from(log));
        let daemon = start(command).map_err(Error::io(format!("start {program}")))?;
        Ok(Share {
            tag,
            socket,
            _daemon: daemon,
        })
    }
}

/// The guest may take what it knows of names and attributes for true for a minute, where
/// libkrun gives it five seconds, so that nothing can depend on luck. (Debian 13's daemon
/// gives one second, and has no option for more.)
///
/// Its sandbox needs root, or to be root in a user namespace of its own: an ordinary
/// user maps just itself. Files the guest's root writes then belong to that user.
fn daemon_command(program: &str, kind: Kind, directory: &Path) -> Command {
    let mut command = if is_root() {
        bound_command(program)
    } else {
        let mut command = bound_command("unshare");
        command
            .args(["--user", "--map-root-user", "--"])
            .arg(program);
        command
    };
    match kind {
        Kind::C => command
            .args([
                "--fd=0",
                "--rlimit-nofile=0",
                "-f",
                "-o",
                "sandbox=chroot,cache=auto,timeout=60,log_level=warn",
            ])
            .arg("-o")
            .arg(format!("source={}", directory.display())),
        Kind::Rust => command
            .args([
                "--fd=0",
                "--sandbox=chroot",
                "--cache=auto",
                "--log-level=warn",
                "--inode-file-handles=never",
            ])
            .arg("--shared-dir")
            .arg(directory),
    };
    command
}

fn is_root() -> bool {
    // The owner of our own /proc entry is our effective user.
    std::fs::metadata("/proc/self")
        .is_ok_and(|metadata| std::os::unix::fs::MetadataExt::uid(&metadata) == 0)
}
