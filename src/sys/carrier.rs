//! A process that writes where a write may never end, so that this one need not: a pipe
//! nobody reads, a terminal somebody stopped, a file on a disk that is frozen. Touches the
//! kernel: fork.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::time::Instant;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::libc;
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::signal::{SigSet, SigmaskHow, Signal, kill, sigprocmask};
use nix::unistd::{ForkResult, Pid, fork, pipe2};

use crate::sys::reaper;

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
    #[allow(unsafe_code)]
    pub fn start(target: RawFd) -> Result<Self, Errno> {
        let (load_read, load_write) = pipe2(OFlag::O_CLOEXEC)?;
        let (lost_read, lost_write) = pipe2(OFlag::O_CLOEXEC)?;
        for end in [&load_write, &lost_read] {
            fcntl(end, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
        }
        // For good in the carrier: what is sent to a terminal's whole group is not for it, and
        // our handlers there would write into our own signals' pipe.
        let mut before = SigSet::empty();
        sigprocmask(
            SigmaskHow::SIG_SETMASK,
            Some(&SigSet::all()),
            Some(&mut before),
        )?;
        let parent = nix::unistd::getpid();
        // SAFETY: the child calls nothing that allocates or locks, and never returns.
        let forked = unsafe { fork() };
        if !matches!(forked, Ok(ForkResult::Child)) {
            sigprocmask(SigmaskHow::SIG_SETMASK, Some(&before), None)?;
        }
        match forked? {
            ForkResult::Parent { child } => Ok(Self {
                pid: child,
                load: load_write.into(),
                lost: lost_read.into(),
            }),
            ForkResult::Child => {
                let ends = [load_read.as_raw_fd(), target, lost_write.as_raw_fd()];
                carry(parent.as_raw(), ends)
            }
        }
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

/// The carrier's life, with these for its 0, 1 and 2: its load, where that goes, and where
/// losses are told. Calls nothing that allocates or locks.
#[allow(unsafe_code)]
fn carry(parent: libc::pid_t, ends: [RawFd; 3]) -> ! {
    /// Where the kernel does not close a range: no descriptor of ours is higher.
    const HIGHEST: RawFd = 1024;
    let mut buffer = [0_u8; LOAD];
    // SAFETY: plain numbers, pointers to locals that live as long, and an end without the
    // parent's exit handlers. Nothing of the parent's is dropped, for nothing returns.
    unsafe {
        libc::prctl(libc::PR_SET_NAME, c"sidecar-console".as_ptr());
        libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL, 0, 0, 0);
        if libc::getppid() != parent {
            libc::_exit(1);
        }
        // Out of each other's way first: the target is 1 or 2 already.
        let copies = ends.map(|end| libc::fcntl(end, libc::F_DUPFD, 3));
        for (copy, number) in copies.into_iter().zip(0..) {
            if libc::dup2(copy, number) < 0 {
                libc::_exit(1);
            }
        }
        if libc::syscall(libc::SYS_close_range, 3, libc::c_uint::MAX, 0) != 0 {
            for number in 3..HIGHEST {
                libc::close(number);
            }
        }
        loop {
            let count = libc::read(0, buffer.as_mut_ptr().cast(), buffer.len());
            let Some(mut load) = usize::try_from(count).ok().and_then(|it| buffer.get(..it)) else {
                continue;
            };
            if load.is_empty() {
                libc::_exit(0);
            }
            while !load.is_empty() {
                let wrote = libc::write(1, load.as_ptr().cast(), load.len());
                let errno = Errno::last();
                if let Ok(wrote) = usize::try_from(wrote) {
                    load = load.get(wrote..).unwrap_or_default();
                    continue;
                }
                let lost = match errno {
                    Errno::EINTR => continue,
                    // Somebody else has made it non-blocking.
                    Errno::EAGAIN => {
                        let mut room = libc::pollfd {
                            fd: 1,
                            events: libc::POLLOUT,
                            revents: 0,
                        };
                        let none = std::ptr::null();
                        libc::ppoll(&raw mut room, 1, none, none.cast());
                        continue;
                    }
                    // There may be room for what comes later.
                    Errno::ENOSPC | Errno::EDQUOT | Errno::EFBIG => {
                        memchr::memchr_iter(b'\n', load).count() as u64
                    }
                    _ => GONE,
                };
                let told = lost.to_ne_bytes();
                libc::write(2, told.as_ptr().cast(), told.len());
                if lost == GONE {
                    libc::_exit(1);
                }
                load = &[];
            }
        }
    }
}
