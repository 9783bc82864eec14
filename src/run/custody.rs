//! Handles the CA key in a process of its own, so that PID 1 never holds a byte of it:
//! a stack frame or a library's temporary cannot be wiped, a process can. Touches the
//! kernel: fork.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use nix::fcntl::OFlag;
use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{ForkResult, fork, pipe2};

use super::{StartError, authority};
use crate::cli::Paths;
use crate::exit::ExitCode;
use crate::status::Ca;
use crate::supervise::reaper::{self, ExitReason};
use crate::supervise::signals::Signals;

/// A stop gives the CA this long to be finished: with entropy at hand it takes
/// milliseconds, and a pair cut off between its two files is half a pair.
const STOP_PATIENCE: Duration = Duration::from_millis(300);

/// No code of [`ExitCode`].
const UNHEARD: i32 = 255;

/// [`authority::prepare`] in a child; it ends before this returns. `None` where a stop was
/// asked for before there was a CA: the child may be waiting for entropy, or for a share.
#[allow(unsafe_code)]
pub fn prepare(
    paths: &Paths,
    owner: Option<(u32, u32)>,
    signals: &mut Signals,
) -> Result<Option<Ca>, StartError> {
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
            let (code, answer) = match authority::prepare(paths, owner) {
                Ok(ca) => (ExitCode::Success, tell(&ca)),
                Err(StartError { code, text }) => (code, text),
            };
            let sent = File::from(write).write_all(answer.as_bytes());
            // An answer that was cut off is none.
            let code = sent.map_or(UNHEARD, |()| code.number().into());
            // SAFETY: ends without the parent's exit handlers.
            unsafe { libc::_exit(code) }
        }
        ForkResult::Parent { child } => {
            drop(write);
            let Some(bytes) = hear(File::from(read), signals) else {
                // Reaped with everything else: one that is stuck in the kernel may take a while.
                let _ = kill(child, Signal::SIGKILL);
                return Ok(None);
            };
            let ended = reaper::wait_for(child.as_raw());
            let answer = String::from_utf8(bytes).unwrap_or_default();
            let code = match ended {
                Some(ExitReason::Code(code)) => ExitCode::from_number(code),
                _ => None,
            };
            match (code, told(&answer)) {
                (Some(ExitCode::Success), Some(ca)) => Ok(Some(ca)),
                (Some(code), _) if code != ExitCode::Success && !answer.is_empty() => {
                    Err(StartError { code, text: answer })
                }
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

/// Everything the child says; `None` if it has not said it [`STOP_PATIENCE`] after a stop
/// was asked for.
fn hear(mut pipe: File, signals: &mut Signals) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    let mut end = None;
    loop {
        if end.is_none() && signals.stop_asked() {
            end = Some(Instant::now() + STOP_PATIENCE);
        }
        let mut waiting = vec![PollFd::new(pipe.as_fd(), PollFlags::POLLIN)];
        let mut timeout = PollTimeout::NONE;
        match end {
            None => waiting.push(PollFd::new(signals.as_fd(), PollFlags::POLLIN)),
            Some(end) => {
                let left = end.saturating_duration_since(Instant::now());
                if left.is_zero() {
                    return None;
                }
                timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::ZERO);
            }
        }
        // EINTR: a signal, which is looked for above.
        let _ = poll(&mut waiting, timeout);
        let speaks = waiting.first().and_then(PollFd::any) == Some(true);
        if speaks {
            let mut buffer = [0_u8; 4096];
            match pipe.read(&mut buffer) {
                Ok(count) if count > 0 => bytes.extend(buffer.iter().take(count)),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // Its end; and what an error cut off is no answer.
                _ => return Some(bytes),
            }
        }
    }
}

/// What comes back of the CA, a line for each field: nothing of the key.
fn tell(ca: &Ca) -> String {
    [
        ca.fingerprint_sha256.as_str(),
        &ca.not_before,
        &ca.not_after,
        &ca.source,
    ]
    .join("\n")
}

fn told(answer: &str) -> Option<Ca> {
    let mut lines = answer.lines().map(str::to_owned);
    Some(Ca {
        fingerprint_sha256: lines.next()?,
        not_before: lines.next()?,
        not_after: lines.next()?,
        source: lines.next()?,
    })
}
