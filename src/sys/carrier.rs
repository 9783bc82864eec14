//! A process that writes where a write may never end, so that this one need not: a pipe
//! nobody reads, a terminal somebody stopped, a file on a disk that is frozen. Touches the
//! kernel.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::time::Instant;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::libc;
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::prctl::set_name;
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, pipe2};

use crate::sys::{fork, reaper};

/// Said instead of a count: nobody will ever read it.
const GONE: u64 = u64::MAX;
/// Carried at once, in bytes.
const LOAD: usize = 16 * 1024;

/// One that runs, or has ended and is not reaped.
#[derive(Debug)]
pub struct Carrier {
    pid: Pid,
    load: File,
    /// The lines it lost, a number at a time; its end is the carrier's end.
    lost: File,
}

/// What has become of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It carries.
    Alive,
    /// It ended, and another may go on.
    Ended,
    /// So has whoever read.
    Gone,
}

impl Carrier {
    /// Starts one that writes to `target`.
    pub fn start(target: BorrowedFd) -> Result<Self, Errno> {
        let (load_read, load_write) = pipe2(OFlag::O_CLOEXEC)?;
        let (lost_read, lost_write) = pipe2(OFlag::O_CLOEXEC)?;
        for end in [&load_write, &lost_read] {
            fcntl(end, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
        }
        let ends = [load_read.as_fd(), target, lost_write.as_fd()];
        // Its signals stay blocked: what is sent to a terminal's whole group is not for it.
        let pid = fork::fork(|parent| {
            let _ = set_name(c"sidecar-console");
            fork::die_with(parent, 1);
            fork::close_all_but(&ends.map(|end| end.as_raw_fd()));
            carry(ends)
        })?;
        Ok(Self {
            pid,
            load: load_write.into(),
            lost: lost_read.into(),
        })
    }

    /// Its process.
    #[must_use]
    pub fn pid(&self) -> i32 {
        self.pid.as_raw()
    }

    /// Writable while it takes more.
    #[must_use]
    pub fn as_fd(&self) -> BorrowedFd<'_> {
        self.load.as_fd()
    }

    /// Hands it bytes; as many as it takes now.
    pub fn give(&self, bytes: &[u8]) -> Result<usize, Errno> {
        (&self.load)
            .write(bytes)
            .map_err(|error| Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO)))
    }

    /// The lines it has lost since it was asked last, and whether it goes on.
    pub fn ask(&mut self) -> (u64, Fate) {
        let mut lines = 0;
        loop {
            // Each number is written at once, and so never read in part.
            let mut number = [0; size_of::<u64>()];
            match self.lost.read(&mut number) {
                Ok(0) => return (lines, Fate::Ended),
                Ok(_) if u64::from_ne_bytes(number) == GONE => return (lines, Fate::Gone),
                Ok(_) => lines += u64::from_ne_bytes(number),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return (lines, Fate::Alive),
            }
        }
    }

    /// Lets it finish what it has until `end`, and ends it then; one that had to be ended is
    /// left to the loop that reaps everybody.
    pub fn finish(self, end: Instant) {
        drop(self.load);
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let mut waiting = [PollFd::new(self.lost.as_fd(), PollFlags::empty())];
            match ppoll(&mut waiting, Some(left.into()), None) {
                Err(Errno::EINTR) => {}
                Ok(ready) if ready > 0 => {
                    let _ = reaper::wait_for(self.pid.as_raw());
                    return;
                }
                _ => break,
            }
        }
        let _ = kill(self.pid, Signal::SIGKILL);
    }
}

/// The carrier's life: its load, where that goes, and where losses are told. The code it ends
/// with.
fn carry([load, target, lost]: [BorrowedFd; 3]) -> i32 {
    let mut buffer = [0_u8; LOAD];
    loop {
        match nix::unistd::read(load, &mut buffer) {
            Ok(0) => return 0,
            Ok(count) => {
                let lines = put(target, buffer.get(..count).unwrap_or_default());
                if lines > 0 {
                    let _ = nix::unistd::write(lost, &lines.to_ne_bytes());
                }
                if lines == GONE {
                    return 1;
                }
            }
            Err(_) => {}
        }
    }
}

/// Writes all of it, however long that takes; how many lines were lost.
fn put(target: BorrowedFd, mut load: &[u8]) -> u64 {
    while !load.is_empty() {
        match nix::unistd::write(target, load) {
            Ok(wrote) => load = load.get(wrote..).unwrap_or_default(),
            Err(Errno::EINTR) => {}
            // Somebody else has made it non-blocking.
            Err(Errno::EAGAIN) => {
                let _ = ppoll(&mut [PollFd::new(target, PollFlags::POLLOUT)], None, None);
            }
            // There may be room for what comes later.
            Err(Errno::ENOSPC | Errno::EDQUOT | Errno::EFBIG) => {
                return memchr::memchr_iter(b'\n', load).count() as u64;
            }
            Err(_) => return GONE,
        }
    }
    0
}
