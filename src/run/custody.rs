//! Handles the CA key in a process of its own, so that PID 1 never holds a byte of it:
//! a stack frame or a library's temporary cannot be wiped, a process can. Touches the
//! kernel: fork.

use std::fs::File;
use std::io::{Read, Write};

use nix::fcntl::OFlag;
use nix::libc;
use nix::unistd::{ForkResult, fork, pipe2};
use serde::{Deserialize, Serialize};

use super::{StartError, authority};
use crate::cli::Paths;
use crate::exit::ExitCode;
use crate::status::Ca;
use crate::supervise::reaper;

/// What comes back: nothing of the key.
#[derive(Serialize, Deserialize)]
enum Answer {
    Ready(Ca),
    Failed { code: ExitCode, text: String },
}

/// [`authority::prepare`] in a child; it ends before this returns.
#[allow(unsafe_code)]
pub fn prepare(paths: &Paths, owner: Option<(u32, u32)>) -> Result<Ca, StartError> {
    let failed = |what: &str, why: &str| {
        StartError::new(ExitCode::OperatingSystem, format!("cannot {what}: {why}"))
    };
    let (read, write) =
        pipe2(OFlag::O_CLOEXEC).map_err(|errno| failed("make a pipe for the CA", errno.desc()))?;
    // SAFETY: the program has one thread, so the child owns a consistent heap and may
    // run like any other process; it never returns from this function.
    match unsafe { fork() }.map_err(|errno| failed("fork for the CA", errno.desc()))? {
        ForkResult::Child => {
            drop(read);
            let answer = match authority::prepare(paths, owner) {
                Ok(ca) => Answer::Ready(ca),
                Err(StartError { code, text }) => Answer::Failed { code, text },
            };
            // An answer that cannot be sent is none: the parent says so.
            let bytes = serde_json::to_vec(&answer).unwrap_or_default();
            let sent = File::from(write).write_all(&bytes);
            // SAFETY: ends without the parent's exit handlers.
            unsafe { libc::_exit(i32::from(sent.is_err())) }
        }
        ForkResult::Parent { child } => {
            drop(write);
            let mut bytes = Vec::new();
            let heard = File::from(read).read_to_end(&mut bytes);
            let ended = reaper::wait_for(child.as_raw());
            match (heard, serde_json::from_slice(&bytes)) {
                (Ok(_), Ok(Answer::Ready(ca))) => Ok(ca),
                (Ok(_), Ok(Answer::Failed { code, text })) => Err(StartError { code, text }),
                _ => Err(StartError::new(
                    ExitCode::Internal,
                    format!(
                        "internal error: the process that makes the CA {}",
                        ended.map_or_else(|| "is lost".to_owned(), |reason| reason.to_string())
                    ),
                )),
            }
        }
    }
}
