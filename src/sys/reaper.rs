//! Reaps every exited child. Touches the kernel: the only waits in the program.
//!
//! One owner: nothing else may call `wait`, `waitpid` or `Child::wait`, because two
//! callers steal each other's exits. PIDs are plain numbers here, recorded by the
//! spawner before the loop reaps again.

use std::fmt;

use nix::errno::Errno;
use nix::libc;
use nix::sys::prctl::set_child_subreaper;

use crate::sys::files::read_kernel_file;

/// Children reaped before the loop looks at anything else, so that a storm of
/// orphans cannot keep a stop request waiting.
pub const BATCH: usize = 64;

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExitReason {
    /// By itself, with this code.
    Code(i32),
    /// By this signal, real-time signals included.
    Signal(i32),
}

impl ExitReason {
    /// Decodes a wait status. nix's `WaitStatus` has no room for real-time signals
    /// and reports such a child, already reaped, as `EINVAL`.
    #[must_use]
    pub fn from_wait_status(status: i32) -> Self {
        if libc::WIFSIGNALED(status) {
            Self::Signal(libc::WTERMSIG(status))
        } else {
            Self::Code(libc::WEXITSTATUS(status))
        }
    }

    /// The shell's convention: the code, or 128 and the signal.
    #[must_use]
    pub fn shell_code(self) -> i32 {
        match self {
            Self::Code(code) => code,
            Self::Signal(signal) => 128 + signal,
        }
    }
}

impl fmt::Display for ExitReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Code(code) => write!(f, "exited with code {code}"),
            Self::Signal(signal) => {
                write!(f, "was killed by signal {signal}")?;
                match nix::sys::signal::Signal::try_from(*signal) {
                    Ok(name) => write!(f, " ({name})"),
                    Err(_) => write!(f, " (real-time)"),
                }
            }
        }
    }
}

/// A child that ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exit {
    /// Its process id, free for reuse from now on.
    pub pid: i32,
    /// How it ended.
    pub reason: ExitReason,
}

/// What a drain found.
#[derive(Debug, Default)]
pub struct Reaped {
    /// The children reaped, oldest first.
    pub exits: Vec<Exit>,
    /// True when the batch was full and there may be more.
    pub more: bool,
    /// True when no child, alive or dead, is left.
    pub childless: bool,
}

/// Reaps up to [`BATCH`] exited children without waiting. SIGCHLD coalesces, so one
/// signal says nothing about how many there are.
#[must_use]
pub fn reap_exited_children() -> Reaped {
    let mut reaped = Reaped::default();
    while reaped.exits.len() < BATCH {
        match wait(-1, libc::WNOHANG) {
            Next::Exit(exit) => reaped.exits.push(exit),
            Next::NoneExited => return reaped,
            Next::Childless => {
                reaped.childless = true;
                return reaped;
            }
        }
    }
    reaped.more = true;
    reaped
}

/// Our children, dead ones included; none where `/proc` does not tell (proc(5),
/// `/proc/pid/task/tid/children`).
#[must_use]
pub fn children() -> Vec<i32> {
    read_kernel_file(format!("/proc/self/task/{}/children", std::process::id()))
        .unwrap_or_default()
        .split_whitespace()
        .filter_map(|pid| pid.parse().ok())
        .collect()
}

/// Whether a child has ended, without reaping it.
#[must_use]
#[allow(unsafe_code)]
pub fn has_ended(pid: i32) -> bool {
    let Ok(id) = libc::id_t::try_from(pid) else {
        return false;
    };
    // SAFETY: all zeroes is a value of it, as the kernel leaves it for "none has".
    let mut found: libc::siginfo_t = unsafe { std::mem::zeroed() };
    let options = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT;
    // SAFETY: the structure is ours and lives through the call.
    let waited = unsafe { libc::waitid(libc::P_PID, id, &raw mut found, options) };
    // SAFETY: the kernel has filled it in for a child, or left it zero.
    waited == 0 && unsafe { found.si_pid() } == pid
}

/// Waits for one child that is known to end, and reaps it. For a child of the init's
/// own, between stages; anybody else's exit is left to [`reap_exited_children`].
#[must_use]
pub fn wait_for(pid: i32) -> Option<ExitReason> {
    match wait(pid, 0) {
        Next::Exit(exit) => Some(exit.reason),
        Next::NoneExited | Next::Childless => None,
    }
}

/// Makes this process the parent of its descendants' orphans, as PID 1 is anyway.
pub fn adopt_orphans() -> Result<(), Errno> {
    set_child_subreaper(true)
}

enum Next {
    Exit(Exit),
    NoneExited,
    Childless,
}

#[allow(unsafe_code)]
fn wait(pid: i32, options: i32) -> Next {
    loop {
        let mut status = 0;
        // SAFETY: `status` is a valid place for an int for the length of the call.
        let pid = unsafe { libc::waitpid(pid, &raw mut status, options) };
        match pid {
            0 => return Next::NoneExited,
            pid if pid > 0 => {
                let reason = ExitReason::from_wait_status(status);
                return Next::Exit(Exit { pid, reason });
            }
            _ if Errno::last() == Errno::EINTR => {}
            // ECHILD; EINVAL cannot be, the options are fixed.
            _ => return Next::Childless,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decodes_every_exit_code_and_every_signal() {
        for code in 0..=255 {
            let reason = ExitReason::from_wait_status(code << 8);
            assert_eq!(reason, ExitReason::Code(code));
            assert_eq!(reason.shell_code(), code);
        }
        for signal in 1..=64 {
            for core_dumped in [0, 0x80] {
                let reason = ExitReason::from_wait_status(signal | core_dumped);
                assert_eq!(reason, ExitReason::Signal(signal));
                assert_eq!(reason.shell_code(), 128 + signal);
            }
        }
    }

    #[test]
    fn names_signals_and_calls_the_unnamed_real_time() {
        assert_eq!(
            ExitReason::Signal(9).to_string(),
            "was killed by signal 9 (SIGKILL)"
        );
        assert_eq!(
            ExitReason::Signal(40).to_string(),
            "was killed by signal 40 (real-time)"
        );
    }
}
