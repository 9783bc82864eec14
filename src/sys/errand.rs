//! A process of its own for what may never come back: a share whose host is gone, a file
//! system that is frozen. PID 1 waits for its answer as long as it wants to, and no longer.
//! Touches the kernel through [`crate::sys::fork`].

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, pipe2};

use crate::sys::fork;
use crate::sys::reaper::{self, ExitReason};
use crate::sys::signals::{Disposition, TABLE, wait};

/// The last byte of an answer that is whole.
const WHOLE: u8 = b'.';

/// Adds a part to what an errand says: its length first, so that nobody takes a piece of it
/// for the whole.
pub fn add_part(said: &mut Vec<u8>, part: &[u8]) {
    said.extend((part.len() as u64).to_le_bytes());
    said.extend(part);
}

/// The part that what was said begins with, and what follows it; `None` where it has not
/// arrived whole.
#[must_use]
pub fn first_part(said: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = said.split_first_chunk()?;
    let length = usize::try_from(u64::from_le_bytes(*length)).ok()?;
    rest.split_at_checked(length)
}

/// Somebody who was sent and has not come back.
#[derive(Debug)]
pub struct Errand {
    pid: Pid,
    answer: File,
    heard: Vec<u8>,
    ended: Option<ExitReason>,
}

/// Sends somebody to do `work`, with no descriptor of this program but those of `keep`.
/// What `work` returns is the answer. It ends with this process.
pub fn send(keep: &[RawFd], work: impl FnOnce() -> Vec<u8>) -> Result<Errand, Errno> {
    send_for_long(keep, |line| answer(line, work()))
}

/// [`send`], of somebody who leaves nothing half done: no signal ends it but SIGKILL, and this
/// process's end does not.
pub fn send_to_finish(keep: &[RawFd], work: impl FnOnce() -> Vec<u8>) -> Result<Errand, Errno> {
    start(keep, |line, _| {
        let _ = fork::reset_signals(meant(), Disposition::Ignored);
        answer(line, work());
    })
}

/// [`send`], of somebody who says what it wants to, when it wants to, until it ends.
pub fn send_for_long(keep: &[RawFd], work: impl FnOnce(&mut File)) -> Result<Errand, Errno> {
    start(keep, |line, parent| {
        fork::die_with(parent, 1);
        let _ = fork::reset_signals(meant(), Disposition::Default);
        work(line);
    })
}

fn answer(line: &mut File, mut answer: Vec<u8>) {
    answer.push(WHOLE);
    let _ = line.write_all(&answer);
}

/// The signals that have a handler here; what is ignored may stay so.
fn meant() -> impl Iterator<Item = i32> {
    TABLE.into_iter().map(|(number, _)| number)
}

fn start(keep: &[RawFd], work: impl FnOnce(&mut File, Pid)) -> Result<Errand, Errno> {
    let mut work = Some(work);
    start_one(keep, &mut |line, parent| {
        if let Some(work) = work.take() {
            work(line, parent);
        }
    })
}

/// One for all errands: what differs is `work` alone, and the program is to be small.
fn start_one(keep: &[RawFd], work: &mut dyn FnMut(&mut File, Pid)) -> Result<Errand, Errno> {
    let (read, write) = pipe2(OFlag::O_CLOEXEC)?;
    fcntl(&read, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
    let keep = [keep, &[write.as_raw_fd()]].concat();
    let pid = fork::fork(|parent| {
        fork::close_all_but(&keep);
        work(&mut File::from(write), parent);
        0
    })?;
    Ok(Errand {
        pid,
        answer: read.into(),
        heard: Vec::new(),
        ended: None,
    })
}

impl Errand {
    /// Readable when there is something to hear.
    #[must_use]
    pub fn as_fd(&self) -> BorrowedFd<'_> {
        self.answer.as_fd()
    }

    /// Its process, until it is reaped.
    #[must_use]
    pub fn pid(&self) -> i32 {
        self.pid.as_raw()
    }

    /// Hears what there is to hear now; true once it has ended, and is reaped.
    pub fn hear(&mut self) -> bool {
        loop {
            let mut buffer = [0_u8; 8192];
            match self.answer.read(&mut buffer) {
                Ok(0) => break,
                Ok(count) => self
                    .heard
                    .extend_from_slice(buffer.get(..count).unwrap_or_default()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return false,
                Err(_) => break,
            }
        }
        // It is ending; where the loop was faster there is nothing left to reap.
        self.ended = reaper::wait_for(self.pid.as_raw());
        true
    }

    /// What was heard and not taken.
    pub fn heard(&mut self) -> &mut Vec<u8> {
        &mut self.heard
    }

    /// What there is to hear now: nothing while it is away; then its answer, or none where
    /// it ended without one.
    pub fn listen(&mut self) -> Option<Option<Vec<u8>>> {
        if !self.hear() {
            return None;
        }
        let mut answer = std::mem::take(&mut self.heard);
        Some((answer.pop() == Some(WHOLE)).then_some(answer))
    }

    /// How it ended, as far as that was learned when its answer was heard.
    #[must_use]
    pub fn ended(&self) -> Option<ExitReason> {
        self.ended
    }

    /// Listens for so long. Nothing where it has not come back by then.
    pub fn wait(&mut self, patience: Duration) -> Option<Option<Vec<u8>>> {
        let end = Instant::now() + patience;
        loop {
            let heard = self.listen();
            let left = end.saturating_duration_since(Instant::now());
            if heard.is_some() || left.is_zero() {
                return heard;
            }
            let mut waiting = [PollFd::new(self.answer.as_fd(), PollFlags::POLLIN)];
            wait(&mut waiting, Some(left));
        }
    }

    /// Gives it up. One that is stuck in the kernel dies when it comes out.
    pub fn kill(&self) {
        let _ = kill(self.pid, Signal::SIGKILL);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn brings_the_answer_whole_or_none() {
        let long = vec![b'x'; 300_000];
        let mut errand = send(&[], || long.clone()).unwrap();
        assert_eq!(errand.wait(Duration::from_secs(60)), Some(Some(long)));
        let mut errand = send(&[], || std::process::abort()).unwrap();
        assert_eq!(errand.wait(Duration::from_secs(60)), Some(None));
    }

    #[test]
    fn is_waited_for_no_longer_than_wanted() {
        let mut errand = send(&[], || {
            loop {
                std::thread::sleep(Duration::from_secs(60));
            }
        })
        .unwrap();
        assert_eq!(errand.wait(Duration::from_millis(20)), None);
        errand.kill();
        assert_eq!(errand.wait(Duration::from_secs(60)), Some(None));
    }

    #[test]
    fn takes_no_descriptor_along_but_those_it_is_given() {
        let kept = File::open("/").unwrap();
        let other = File::open("/").unwrap();
        let (kept, other) = (kept.as_raw_fd(), other.as_raw_fd());
        let is_open = |fd: RawFd| nix::fcntl::fcntl(unsafe_borrow(fd), FcntlArg::F_GETFD).is_ok();
        let mut errand = send(&[kept], || {
            vec![
                u8::from(is_open(kept)),
                u8::from(is_open(other)),
                u8::from(is_open(2)),
            ]
        })
        .unwrap();
        assert_eq!(
            errand.wait(Duration::from_secs(60)),
            Some(Some(vec![1, 0, 0]))
        );
    }

    #[allow(unsafe_code)]
    fn unsafe_borrow(fd: RawFd) -> BorrowedFd<'static> {
        // SAFETY: only asked about.
        unsafe { BorrowedFd::borrow_raw(fd) }
    }
}
