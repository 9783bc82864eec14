//! Looks at the manifest, and reads it, in a process of its own: it may be on a share whose
//! host is gone, and whoever touches that one waits with it. Who looks goes on looking, at
//! its own pace, and says so each time; PID 1 knows by its silence that nothing answers, and
//! waits for nobody. At that pace it looks at the files that resolve names, too. Touches the kernel through [`crate::sys::errand`].

use std::ffi::CStr;
use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags};
use nix::sys::prctl::set_name;
use nix::unistd::pipe2;

use super::names::Names;
use crate::boot::clock;
use crate::sys::errand::{self, Errand};
use crate::sys::notices::Notices;
use crate::sys::signals::wait;
use crate::sys::watch::{INTERVAL, Watch};

/// Nothing answers where nobody has looked for so long: a look is due each [`INTERVAL`].
const SILENT_AFTER: Duration = INTERVAL.saturating_add(Duration::from_secs(3));
/// Somebody else is sent where one has been silent for so long: what it waits for may be
/// mounted anew. What is read slower than the largest manifest in this time cannot be used.
const GIVEN_UP_AFTER: Duration = Duration::from_secs(30);
/// Between the end of one and the next.
const PAUSE: Duration = Duration::from_secs(1);
/// Whoever is killed ends within this time, or is stuck in the kernel.
const LAST_PATIENCE: Duration = Duration::from_millis(100);

/// What its process is called.
const NAME: &CStr = c"sidecar-looker";

/// What it says: that it has looked and seen nothing new, what it has read, unasked or because
/// it was asked to, or which files resolve names.
const LOOKED: u8 = b'l';
const READ: u8 = b'r';
const ANSWER: u8 = b'a';
const NAMES: u8 = b'n';

/// What there is to know of the manifest, and of what else changes without a word.
#[derive(Debug, PartialEq, Eq)]
pub enum News {
    /// Somebody has looked.
    Looked,
    /// It was read; what the reader returned.
    Read(Vec<u8>),
    /// It was, because [`Looker::ask`] asked.
    Answer(Vec<u8>),
    /// Somebody has looked, and these files resolve names, where they need a grant of their own.
    Names(Names),
    /// It has not answered since, in seconds since 1970.
    Silent(u64),
    /// Nobody has looked since, for nobody could be sent, for this reason.
    Unsent(u64, Errno),
    /// It answers again, and is being read.
    Answers,
}

/// Has somebody look.
pub struct Looker<'a> {
    watched: Vec<PathBuf>,
    /// What is below is granted to the daemon.
    granted: &'a Path,
    read: &'a dyn Fn() -> Vec<u8>,
    sent: Option<Sent>,
    /// A reading was asked for and has not come.
    asked: bool,
    /// Why nobody could be sent the last time.
    unsent: Option<Errno>,
    /// When to send the next.
    next: Instant,
    heard_at: Instant,
    is_silent: bool,
}

/// Somebody who looks.
struct Sent {
    errand: Errand,
    /// A byte here asks for a reading.
    ask: File,
    /// When to give it up; `None` once it was.
    until: Option<Instant>,
}

impl<'a> Looker<'a> {
    /// Has somebody call `read` now, and again whenever one of `watched` has changed; and look
    /// which files resolve names, but those below the directory that is `granted`.
    pub fn send(
        watched: Vec<PathBuf>,
        granted: &'a Path,
        read: &'a dyn Fn() -> Vec<u8>,
    ) -> Result<Self, Errno> {
        let now = Instant::now();
        let mut looker = Self {
            watched,
            granted,
            read,
            sent: None,
            asked: false,
            unsent: None,
            next: now,
            heard_at: now,
            is_silent: false,
        };
        looker.sent = Some(looker.somebody(now)?);
        Ok(looker)
    }

    fn somebody(&self, now: Instant) -> Result<Sent, Errno> {
        let (asked, ask) = pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)?;
        let asked = File::from(asked);
        let errand = errand::send_for_long(&[asked.as_raw_fd()], |line| {
            // An error is the end of whoever wanted to know.
            let _ = self.look(&asked, line);
        })?;
        Ok(Sent {
            errand,
            ask: ask.into(),
            until: Some(now + GIVEN_UP_AFTER),
        })
    }

    /// What is listened to: PID 1 itself writes below the directory that is granted, all the
    /// time, and looks at what of that matters.
    fn noticed(&self) -> Vec<PathBuf> {
        let others = self.watched.iter();
        let others = others.filter(|path| path.parent() != Some(self.granted));
        others.cloned().collect()
    }

    /// The errand: reads, and goes on looking until nobody wants to know any more.
    fn look(&self, mut asked: &File, line: &mut File) -> std::io::Result<()> {
        // For whoever lists processes. Nothing depends on it.
        let _ = set_name(NAME);
        // Before it is read: what changes meanwhile is told.
        let mut notices = Notices::of(self.noticed());
        say(line, READ, &(self.read)())?;
        // Changes since are found, for it looks once more in any case.
        let mut watch = Watch::new(self.watched.clone(), Instant::now());
        let mut names_told = None;
        loop {
            let left = watch.deadline().saturating_duration_since(Instant::now());
            let told = notices.iter().map(AsFd::as_fd);
            let mut waiting: Vec<PollFd> = std::iter::once(asked.as_fd())
                .chain(told)
                .map(|fd| PollFd::new(fd, PollFlags::POLLIN))
                .collect();
            wait(&mut waiting, Some(left));
            drop(waiting);
            let mut bytes = [0; 64];
            let is_asked = match asked.read(&mut bytes) {
                Ok(0) => return Ok(()),
                Ok(_) => true,
                Err(error) if error.kind() == ErrorKind::WouldBlock => false,
                Err(error) => return Err(error),
            };
            let now = Instant::now();
            if notices.as_mut().is_some_and(Notices::take) {
                watch.hasten(now);
            }
            let is_due = now >= watch.deadline();
            if !is_asked && !is_due {
                continue;
            }
            if is_due && let Some(notices) = &mut notices {
                // What came since is no change that anybody is told of.
                notices.listen();
            }
            let has_changed = watch.look(now);
            if is_asked || has_changed {
                let kind = if is_asked { ANSWER } else { READ };
                say(line, kind, &(self.read)())?;
                continue;
            }
            let names = Names::outside(self.granted);
            if names_told == Some(names) {
                line.write_all(&[LOOKED])?;
            } else {
                say(line, NAMES, &names.to_bytes())?;
                names_told = Some(names);
            }
        }
    }

    /// Asks for a reading, whether something changed or not.
    pub fn ask(&mut self) {
        self.asked = true;
        if let Some(sent) = &self.sent {
            // A pipe that is full of questions asks already.
            let _ = (&sent.ask).write(&[0]);
        }
    }

    /// The process of the one who looks, until it is known to have ended.
    #[must_use]
    pub fn pid(&self) -> Option<i32> {
        self.sent.as_ref().map(|sent| sent.errand.pid())
    }

    /// Readable when there is something to hear.
    #[must_use]
    pub fn as_fd(&self) -> Option<BorrowedFd<'_>> {
        self.sent.as_ref().map(|sent| sent.errand.as_fd())
    }

    /// When [`Looker::advance`] has something to do that no descriptor shows.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        let silence = (!self.is_silent).then(|| self.heard_at + SILENT_AFTER);
        let next = match &self.sent {
            Some(sent) => sent.until,
            None => Some(self.next),
        };
        silence.into_iter().chain(next).min()
    }

    /// Hears what is said, notices silence, sends another where one was lost. Never waits.
    pub fn advance(&mut self, now: Instant) -> Vec<News> {
        let mut news = Vec::new();
        if let Some(sent) = &mut self.sent {
            let length = sent.errand.heard().len();
            let ended = sent.errand.hear();
            if sent.errand.heard().len() > length {
                self.heard_at = now;
                sent.until = sent.until.map(|_| now + GIVEN_UP_AFTER);
            }
            while let Some(said) = take(sent.errand.heard()) {
                self.asked &= !matches!(said, News::Answer(_));
                news.push(said);
            }
            if ended {
                self.sent = None;
                self.next = now + PAUSE;
            } else if sent.until.is_some_and(|until| now >= until) {
                sent.errand.kill();
                sent.until = None;
            }
        }
        if self.sent.is_none() && now >= self.next {
            self.next = now + PAUSE;
            match self.somebody(now) {
                Ok(sent) => {
                    self.sent = Some(sent);
                    self.unsent = None;
                    if self.asked {
                        self.ask();
                    }
                }
                Err(errno) => {
                    if self.unsent != Some(errno) {
                        log::warn!("nobody looks at the manifest: {}", errno.desc());
                    }
                    self.unsent = Some(errno);
                }
            }
        }
        if self.is_silent && !news.is_empty() {
            self.is_silent = false;
            if !news
                .iter()
                .any(|it| matches!(it, News::Read(_) | News::Answer(_)))
            {
                self.ask();
            }
            news.insert(0, News::Answers);
        } else if !self.is_silent && now >= self.heard_at + SILENT_AFTER {
            self.is_silent = true;
            let silent = now.saturating_duration_since(self.heard_at).as_secs();
            let since = clock::now().saturating_sub(silent);
            news.push(match self.unsent {
                Some(errno) => News::Unsent(since, errno),
                None => News::Silent(since),
            });
        }
        news
    }
}

impl Drop for Looker<'_> {
    /// It is no orphan, to be counted with what is left at the end.
    fn drop(&mut self) {
        if let Some(sent) = &mut self.sent {
            sent.errand.kill();
            let _ = sent.errand.wait(LAST_PATIENCE);
        }
    }
}

/// Says what was found, at once: the other side wakes for each piece.
fn say(line: &mut File, kind: u8, found: &[u8]) -> std::io::Result<()> {
    let mut said = vec![kind];
    errand::add_part(&mut said, found);
    line.write_all(&said)
}

/// Takes the first thing that was said, if all of it has arrived.
fn take(heard: &mut Vec<u8>) -> Option<News> {
    let kind = *heard.first()?;
    if kind == LOOKED {
        heard.remove(0);
        return Some(News::Looked);
    }
    let (read, rest) = errand::first_part(heard.get(1..)?)?;
    let (length, begins) = (read.len(), heard.len() - rest.len());
    let rest = heard.split_off(begins);
    let mut read = std::mem::replace(heard, rest);
    read.drain(..begins - length);
    Some(match kind {
        ANSWER => News::Answer(read),
        NAMES => News::Names(Names::from_bytes(&read)),
        _ => News::Read(read),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_nothing_that_has_not_arrived_whole() {
        let mut bytes = vec![LOOKED, READ, 3, 0, 0, 0, 0, 0, 0, 0];
        bytes.extend(b"abc");
        bytes.extend([LOOKED, ANSWER, 0, 0, 0, 0, 0, 0, 0, 0]);
        let wanted = [
            News::Looked,
            News::Read(b"abc".to_vec()),
            News::Looked,
            News::Answer(Vec::new()),
        ];
        for size in 1..bytes.len() {
            let (mut heard, mut taken) = (Vec::new(), Vec::new());
            for piece in bytes.chunks(size) {
                heard.extend(piece);
                while let Some(said) = take(&mut heard) {
                    taken.push(said);
                }
            }
            assert_eq!(taken, wanted, "in pieces of {size}");
            assert!(heard.is_empty());
        }
    }

    #[test]
    fn whoever_is_silent_is_said_to_be_and_is_replaced() {
        let read = || -> Vec<u8> {
            loop {
                std::thread::sleep(Duration::from_secs(60));
            }
        };
        let mut looker = Looker::send(Vec::new(), Path::new("/"), &read).unwrap();
        let first = looker.sent.as_ref().unwrap().errand.pid();
        let begun = looker.heard_at;
        assert_eq!(looker.advance(begun + INTERVAL), []);
        assert_eq!(looker.deadline(), Some(begun + SILENT_AFTER));
        let news = looker.advance(begun + SILENT_AFTER);
        assert!(matches!(news[..], [News::Silent(since)] if since <= clock::now()));
        assert_eq!(looker.advance(begun + SILENT_AFTER * 2), [], "said once");
        let late = looker.deadline().unwrap();
        assert!(late >= begun + GIVEN_UP_AFTER, "not at once");
        assert_eq!(looker.advance(late), []);
        let mut waiting = [PollFd::new(looker.as_fd().unwrap(), PollFlags::POLLIN)];
        wait(&mut waiting, Some(Duration::from_secs(60)));
        assert_eq!(looker.advance(late), []);
        assert!(looker.sent.is_none(), "it was killed");
        let next = looker.deadline().unwrap();
        assert_eq!(next, late + PAUSE);
        assert_eq!(looker.advance(next), []);
        assert!(looker.pid().is_some_and(|pid| pid != first));
    }

    #[test]
    fn reads_at_once_and_when_it_is_asked() {
        let read = || b"read".to_vec();
        let mut looker = Looker::send(Vec::new(), Path::new("/"), &read).unwrap();
        let bytes = || b"read".to_vec();
        for wanted in [
            News::Read(bytes()),
            News::Answer(bytes()),
            News::Answer(bytes()),
        ] {
            let mut news = Vec::new();
            while !news.contains(&wanted) {
                let mut waiting = [PollFd::new(looker.as_fd().unwrap(), PollFlags::POLLIN)];
                wait(&mut waiting, Some(Duration::from_secs(60)));
                news = looker.advance(looker.heard_at);
            }
            looker.ask();
        }
    }
}
