//! Which of three places the init is in. Touches the kernel: `/proc`.

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use serde::{Deserialize, Serialize};

use crate::sys::process::pid_namespace;

/// The initial PID namespace's inode, fixed in the kernel (`PROC_PID_INIT_INO`).
const INITIAL_PID_NAMESPACE: u64 = 4_026_531_836;

/// Where the init runs; decides what is its job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// PID 1 of a machine: mounts, network, clock and the power are its job.
    Machine,
    /// PID 1 of a container: a runtime has prepared everything.
    Container,
    /// Any other process: the foreground of a terminal, a service manager.
    Child,
}

impl Mode {
    /// The word used in `status.json`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Machine => "machine",
            Self::Container => "container",
            Self::Child => "child",
        }
    }

    /// Whether this process is PID 1.
    #[must_use]
    pub fn is_init(self) -> bool {
        self != Self::Child
    }
}

/// Finds out. A machine's init starts without `/proc`, so it is mounted for the
/// question, and taken away again where the answer is a container's.
#[must_use]
pub fn detect() -> Mode {
    if std::process::id() != 1 {
        return Mode::Child;
    }
    if let Some(inode) = pid_namespace() {
        return from_namespace(inode);
    }
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    let mounted = mount(Some("proc"), "/proc", Some("proc"), flags, None::<&str>).is_ok();
    let mode = pid_namespace().map_or(Mode::Container, from_namespace);
    if mounted && mode == Mode::Container {
        // Refused only if something is using it already, which then may keep it.
        let _ = umount2("/proc", MntFlags::MNT_DETACH);
    }
    mode
}

fn from_namespace(inode: u64) -> Mode {
    if inode == INITIAL_PID_NAMESPACE {
        Mode::Machine
    } else {
        Mode::Container
    }
}
