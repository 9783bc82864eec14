//! Handles the CA key in a process of its own, so that PID 1 never holds a byte of it:
//! a stack frame or a library's temporary cannot be wiped, a process can. Touches the
//! kernel through [`crate::sys::errand`].

use std::time::Duration;

use nix::poll::{PollFd, PollFlags};

use super::authority::{self, Placed};
use crate::cli::Paths;
use crate::exit::{ExitCode, StartError};
use crate::status::{Ca, Word};
use crate::sys::errand::{self, Errand};
use crate::sys::signals::{Signals, wait};

/// A stop gives the CA this long to be finished: with entropy at hand it takes
/// milliseconds, and a pair cut off between its two files is half a pair.
const STOP_PATIENCE: Duration = Duration::from_millis(300);

/// A pair on its way, by an errand that [`Making::finish`] waits for.
pub struct Making {
    errand: Errand,
    heard: bool,
    answer: Option<Vec<u8>>,
}

/// Begins [`authority::prepare`] in a child. It needs no word of the manifest, and two
/// processors can do both at once.
pub fn begin(paths: &Paths, owner: Option<(u32, u32)>) -> Result<Making, StartError> {
    let errand = errand::send_to_finish(|| {
        let (code, text) = match authority::prepare(paths, owner) {
            Ok(placed) => (ExitCode::Success, tell(&placed)),
            Err(error) => (error.code, error.to_string()),
        };
        [&[code.number()], text.as_bytes()].concat()
    });
    match errand {
        Ok(errand) => Ok(Making {
            errand,
            heard: false,
            answer: None,
        }),
        Err(errno) => Err(StartError::system(format!(
            "cannot fork for the CA: {}",
            errno.desc()
        ))),
    }
}

impl Making {
    /// Waits for the pair; its process has ended when this returns. `None` where a stop
    /// was asked for before there was one: the child may be waiting for entropy, or for a
    /// share.
    pub fn finish(mut self, signals: &mut Signals) -> Result<Option<(Ca, String)>, StartError> {
        if !self.hear(Some(signals)) {
            return Ok(None);
        }
        let answer = self.answer.take();
        let answer = answer.and_then(|answer| String::from_utf8(answer).ok());
        let code = |number: u8| ExitCode::from_number(number.into());
        match answer.as_deref().and_then(|it| it.split_at_checked(1)) {
            Some((number, text)) => match number.bytes().next().and_then(code) {
                Some(ExitCode::Success) => told(text).map(Some).ok_or_else(|| self.is_lost()),
                Some(code) => Err(StartError::new(code, text)),
                None => Err(self.is_lost()),
            },
            None => Err(self.is_lost()),
        }
    }

    fn is_lost(&self) -> StartError {
        let ended = self.errand.ended();
        let ended = ended.map_or_else(|| "is lost".to_owned(), |reason| reason.to_string());
        StartError::new(
            ExitCode::Internal,
            format!("internal error: the process that makes the CA {ended}"),
        )
    }

    /// Waits for what the child answers, if anything; false if it has not [`STOP_PATIENCE`]
    /// after a stop was asked for. Without signals one was.
    fn hear(&mut self, mut signals: Option<&mut Signals>) -> bool {
        loop {
            let stops = signals.as_mut().is_none_or(|signals| signals.stop_asked());
            let heard = if stops {
                self.errand.wait(STOP_PATIENCE)
            } else {
                self.errand.listen()
            };
            if let Some(answer) = heard {
                (self.heard, self.answer) = (true, answer);
            }
            if self.heard || stops {
                return self.heard;
            }
            let mut waiting = vec![PollFd::new(self.errand.as_fd(), PollFlags::POLLIN)];
            if let Some(signals) = &signals {
                waiting.push(PollFd::new(signals.as_fd(), PollFlags::POLLIN));
            }
            wait(&mut waiting, None);
        }
    }
}

impl Drop for Making {
    /// A start that ends before the pair was asked for leaves a whole one, or none: half a
    /// pair would refuse every later start.
    fn drop(&mut self) {
        if !self.heard && !self.hear(None) {
            // Reaped with everything else: one that is stuck in the kernel may take a while.
            self.errand.kill();
        }
    }
}

/// What comes back of the CA, field after field: nothing of the key.
fn tell(placed: &Placed) -> String {
    let ca = &placed.ca;
    let source = ca.source.to_string();
    let mut fields = vec![
        ca.fingerprint_sha256.as_str(),
        &ca.not_before,
        &ca.not_after,
        &source,
        &placed.certificate,
    ];
    fields.extend(placed.warnings.iter().map(String::as_str));
    fields.join("\0")
}

/// The warnings are said here: the console is this process's.
fn told(answer: &str) -> Option<(Ca, String)> {
    let mut fields = answer.split('\0').map(str::to_owned);
    let ca = Ca {
        fingerprint_sha256: fields.next()?,
        not_before: fields.next()?,
        not_after: fields.next()?,
        source: Word::of(fields.next()?),
    };
    let certificate = fields.next()?;
    for warning in fields {
        log::warn!("{warning}");
    }
    Some((ca, certificate))
}
