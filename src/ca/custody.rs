//! Handles the CA key in a process of its own, so that PID 1 never holds a byte of it:
//! a stack frame or a library's temporary cannot be wiped, a process can. Touches the
//! kernel: fork.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use nix::fcntl::OFlag;
use nix::libc;
use nix::poll::{PollFd, PollFlags};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{ForkResult, Pid, fork, pipe2};

use super::authority;
use crate::cli::Paths;
use crate::exit::{ExitCode, StartError};
use crate::status::{Ca, Word};
use crate::sys::reaper::{self, ExitReason};
use crate::sys::signals::{Signals, wait};

/// A stop gives the CA this long to be finished: with entropy at hand it takes
/// milliseconds, and a pair cut off between its two files is half a pair.
const STOP_PATIENCE: Duration = Duration::from_millis(300);

/// No code of [`ExitCode`].
const UNHEARD: i32 = 255;

/// A pair on its way, in a child that [`Making::finish`] waits for.
pub struct Making {
    child: Pid,
    /// What the child says; `None` once that was heard.
    answer: Option<File>,
}

/// Begins [`authority::prepare`] in a child. It needs no word of the manifest, and two
/// processors can do both at once.
#[allow(unsafe_code)]
pub fn begin(paths: &Paths, owner: Option<(u32, u32)>) -> Result<Making, StartError> {
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
                Ok((ca, certificate)) => (ExitCode::Success, tell(&ca, &certificate)),
                Err(StartError { code, text }) => (code, text),
            };
            let sent = File::from(write).write_all(answer.as_bytes());
            // An answer that was cut off is none.
            let code = sent.map_or(UNHEARD, |()| code.number().into());
            // SAFETY: ends without the parent's exit handlers.
            unsafe { libc::_exit(code) }
        }
        ForkResult::Parent { child } => Ok(Making {
            child,
            answer: Some(read.into()),
        }),
    }
}

impl Making {
    /// Waits for the pair; its process has ended when this returns. `None` where a stop
    /// was asked for before there was one: the child may be waiting for entropy, or for a
    /// share.
    pub fn finish(mut self, signals: &mut Signals) -> Result<Option<(Ca, String)>, StartError> {
        let heard = self
            .answer
            .as_mut()
            .and_then(|answer| hear(answer, Some(signals)));
        let Some(bytes) = heard else {
            return Ok(None);
        };
        self.answer = None;
        let ended = reaper::wait_for(self.child.as_raw());
        let answer = String::from_utf8(bytes).unwrap_or_default();
        let code = match ended {
            Some(ExitReason::Code(code)) => ExitCode::from_number(code),
            _ => None,
        };
        match (code, told(&answer)) {
            (Some(ExitCode::Success), Some(made)) => Ok(Some(made)),
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

impl Drop for Making {
    /// A start that ends before the pair was asked for leaves a whole one, or none: half a
    /// pair would refuse every later start.
    fn drop(&mut self) {
        if self
            .answer
            .as_mut()
            .is_some_and(|it| hear(it, None).is_none())
        {
            // Reaped with everything else: one that is stuck in the kernel may take a while.
            let _ = kill(self.child, Signal::SIGKILL);
        }
    }
}

/// Everything the child says; `None` if it has not said it [`STOP_PATIENCE`] after a stop
/// was asked for. Without signals one was.
fn hear(pipe: &mut File, mut signals: Option<&mut Signals>) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    let mut end = None;
    loop {
        let stops = signals.as_mut().is_none_or(|signals| signals.stop_asked());
        if end.is_none() && stops {
            end = Some(Instant::now() + STOP_PATIENCE);
        }
        let mut waiting = vec![PollFd::new(pipe.as_fd(), PollFlags::POLLIN)];
        let mut timeout = None;
        if let Some(end) = end {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return None;
            }
            timeout = Some(left);
        } else if let Some(signals) = &signals {
            waiting.push(PollFd::new(signals.as_fd(), PollFlags::POLLIN));
        }
        wait(&mut waiting, timeout);
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

/// What comes back of the CA, a line for each field, and the certificate: nothing of the
/// key.
fn tell(ca: &Ca, certificate: &str) -> String {
    [
        ca.fingerprint_sha256.as_str(),
        &ca.not_before,
        &ca.not_after,
        &ca.source.to_string(),
        certificate,
    ]
    .join("\n")
}

fn told(answer: &str) -> Option<(Ca, String)> {
    let mut fields = answer.splitn(5, '\n').map(str::to_owned);
    let ca = Ca {
        fingerprint_sha256: fields.next()?,
        not_before: fields.next()?,
        not_after: fields.next()?,
        source: Word::of(fields.next()?),
    };
    Some((ca, fields.next()?))
}
