//! Handles the CA key in a process of its own, so that PID 1 never holds a byte of it:
//! a stack frame or a library's temporary cannot be wiped, a process can. Touches the
//! kernel through [`crate::sys::errand`].

use std::fs::File;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags};

use super::authority::{self, Custody, Placed};
use crate::exit::{ExitCode, StartError};
use crate::status::{Ca, Word};
use crate::sys::errand::{self, Errand};
use crate::sys::signals::{Signals, wait};

/// A stop gives the CA this long to be finished: with entropy at hand it takes
/// milliseconds, and a pair cut off between its two files is half a pair.
const STOP_PATIENCE: Duration = Duration::from_millis(300);
/// A pair that changed may lie on a share that does not answer: it is given up after so long,
/// and looked at again with the next change.
const JUDGING_PATIENCE: Duration = Duration::from_secs(30);
/// Two small files in the run directory.
const PUTTING_PATIENCE: Duration = Duration::from_secs(2);

/// A pair that was judged, and a copy of it that only a process of its own ever reads.
#[derive(Debug)]
pub struct Kept {
    /// What is told of it.
    pub placed: Placed,
    /// See [`authority::new_copy`].
    pub copy: File,
}

/// A pair on its way, by an errand that [`Making::finish`] waits for.
pub struct Making {
    errand: Errand,
    copy: Option<File>,
    heard: bool,
    answer: Option<Vec<u8>>,
}

/// Begins [`authority::prepare`] in a child. It needs no word of the manifest, and two
/// processors can do both at once.
pub fn begin(custody: Custody) -> Result<Making, StartError> {
    let copy = authority::new_copy(custody.run)?;
    let errand = errand::send_to_finish(&[copy.as_raw_fd()], || {
        answer(authority::prepare(custody, &copy))
    });
    match errand {
        Ok(errand) => Ok(Making {
            errand,
            copy: Some(copy),
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
    pub fn finish(mut self, signals: &mut Signals) -> Result<Option<Kept>, StartError> {
        if !self.hear(Some(signals)) {
            return Ok(None);
        }
        hear_answer(self.answer.take()).map_or_else(
            || {
                Err(StartError::new(
                    ExitCode::Internal,
                    format!(
                        "internal error: the process that makes the CA {}",
                        fate(&self.errand)
                    ),
                ))
            },
            |heard| {
                let copy = self.copy.take();
                heard.map(|placed| copy.map(|copy| Kept { placed, copy }))
            },
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

/// A pair that changed, being judged by somebody who is not waited for.
#[derive(Debug)]
pub struct Judging {
    errand: Errand,
    copy: Option<File>,
    /// When it is given up; `None` once it was.
    until: Option<Instant>,
}

impl Custody<'_> {
    /// What tells whether the pair that lies there is the one that was judged.
    #[must_use]
    pub fn marks(&self) -> String {
        authority::marks(self.files)
    }

    /// Sends somebody for [`authority::judge_again`].
    pub fn judge_again(&self, now: Instant) -> Result<Judging, StartError> {
        let copy = authority::new_copy(self.run)?;
        let errand = errand::send(&[copy.as_raw_fd()], || {
            answer(authority::judge_again(*self, &copy))
        });
        Ok(Judging {
            errand: errand.map_err(|errno| {
                StartError::system(format!("cannot fork for the CA: {}", errno.desc()))
            })?,
            copy: Some(copy),
            until: Some(now + JUDGING_PATIENCE),
        })
    }

    /// Has somebody put a pair back into the run directory, and waits for that: it is about to
    /// be read there.
    pub fn put_back(&self, copy: &File) -> Result<(), StartError> {
        let keep = [copy.as_raw_fd(), self.run.descriptor().as_raw_fd()];
        let mut errand = errand::send(&keep, || {
            let done = authority::put_back(copy, self.run, self.owner);
            done.map_or_else(|error| error.to_string(), |()| String::new())
                .into_bytes()
        })
        .map_err(|errno| StartError::system(format!("cannot fork for the CA: {}", errno.desc())))?;
        let answer = errand.wait(PUTTING_PATIENCE);
        let why = match answer {
            Some(Some(why)) if why.is_empty() => return Ok(()),
            Some(Some(why)) => String::from_utf8_lossy(&why).into_owned(),
            Some(None) => format!("cannot put back the CA pair: its process {}", fate(&errand)),
            None => {
                errand.kill();
                "cannot put back the CA pair: the run directory does not answer".to_owned()
            }
        };
        Err(StartError::new(ExitCode::CannotWrite, why))
    }
}

impl Judging {
    /// Readable when it has come back.
    #[must_use]
    pub fn as_fd(&self) -> BorrowedFd<'_> {
        self.errand.as_fd()
    }

    /// Its process, until it is reaped.
    #[must_use]
    pub fn pid(&self) -> i32 {
        self.errand.pid()
    }

    /// When [`Judging::advance`] has something to do that no descriptor shows.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        self.until
    }

    /// What became of it; `None` while it is away. Never waits.
    pub fn advance(&mut self, now: Instant) -> Option<Result<Kept, StartError>> {
        if let Some(answer) = self.errand.listen() {
            return Some(match (hear_answer(answer), self.copy.take()) {
                (Some(heard), Some(copy)) => heard.map(|placed| Kept { placed, copy }),
                _ => Err(StartError::system(format!(
                    "cannot judge the CA pair: the process that reads it {}",
                    fate(&self.errand)
                ))),
            });
        }
        if self.until.is_some_and(|until| now >= until) {
            self.errand.kill();
            self.until = None;
        }
        None
    }
}

fn fate(errand: &Errand) -> String {
    let ended = errand.ended();
    ended.map_or_else(|| "is lost".to_owned(), |reason| reason.to_string())
}

fn answer(result: Result<Placed, StartError>) -> Vec<u8> {
    let (code, text) = match result {
        Ok(placed) => (ExitCode::Success, tell(&placed)),
        Err(error) => (error.code, error.to_string()),
    };
    [&[code.number()], text.as_bytes()].concat()
}

/// What an answer says; `None` where it is none.
fn hear_answer(answer: Option<Vec<u8>>) -> Option<Result<Placed, StartError>> {
    let answer = String::from_utf8(answer?).ok()?;
    let (number, text) = answer.split_at_checked(1)?;
    match ExitCode::from_number(number.bytes().next()?.into())? {
        ExitCode::Success => told(text).map(Ok),
        code => Some(Err(StartError::new(code, text))),
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
        &placed.marks,
    ];
    fields.extend(placed.warnings.iter().map(String::as_str));
    fields.join("\0")
}

fn told(answer: &str) -> Option<Placed> {
    let mut fields = answer.split('\0').map(str::to_owned);
    let ca = Ca {
        fingerprint_sha256: fields.next()?,
        not_before: fields.next()?,
        not_after: fields.next()?,
        source: Word::of(fields.next()?),
    };
    Some(Placed {
        ca,
        certificate: fields.next()?,
        marks: fields.next()?,
        warnings: fields.collect(),
    })
}
