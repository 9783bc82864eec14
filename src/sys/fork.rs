//! Children of this program: how one is forked, and what it gives up of its parent.
//! Touches the kernel: the only fork.
//!
//! The program has one thread, so that a child owns a consistent heap and may run like any
//! other process. What can be called all the same where nothing may allocate or lock says so.

use std::os::fd::RawFd;
use std::panic::{AssertUnwindSafe, catch_unwind};

use nix::errno::Errno;
use nix::libc;
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::{SigSet, SigmaskHow, Signal, sigprocmask};
use nix::unistd::{ForkResult, Pid, getpid, getppid};

use crate::sys::signals::{self, Disposition};

/// No descriptor of this program's own is as high.
const HIGHEST: RawFd = 1024;

/// Forks a child that does `work` with this process's number and ends with the code that
/// returns, without the parent's exit handlers. Every signal is blocked in it, until it has
/// other dispositions: our handlers there would write into our own signals' pipe.
#[allow(unsafe_code)]
pub fn fork(work: impl FnOnce(Pid) -> i32) -> Result<Pid, Errno> {
    let mut before = SigSet::empty();
    sigprocmask(
        SigmaskHow::SIG_SETMASK,
        Some(&SigSet::all()),
        Some(&mut before),
    )?;
    let parent = getpid();
    // SAFETY: the program has one thread, so the child owns a consistent heap.
    let forked = unsafe { nix::unistd::fork() };
    if let Ok(ForkResult::Child) = forked {
        // No child goes on with what its parent was doing. (Where a panic aborts, it ends so.)
        end(catch_unwind(AssertUnwindSafe(|| work(parent))).unwrap_or(1));
    }
    sigprocmask(SigmaskHow::SIG_SETMASK, Some(&before), None)?;
    match forked? {
        ForkResult::Parent { child } => Ok(child),
        ForkResult::Child => end(1),
    }
}

/// Ends a child without its parent's exit handlers. Neither allocates nor locks.
#[allow(unsafe_code)]
pub fn end(code: i32) -> ! {
    // SAFETY: a plain number; nothing of ours runs after it.
    unsafe { libc::_exit(code) }
}

/// Lets a child not outlive its `parent`, and ends it with `code` where it has already. A
/// change of user takes this back (prctl(2)). Neither allocates nor locks.
pub fn die_with(parent: Pid, code: i32) {
    let _ = set_pdeathsig(Signal::SIGKILL);
    if getppid() != parent {
        end(code);
    }
}

/// Has these signals do what they do by default, or nothing, and lets all in. Neither
/// allocates nor locks.
pub fn reset_signals(numbers: impl IntoIterator<Item = i32>, to: Disposition) -> Result<(), Errno> {
    for number in numbers {
        // Refused only for KILL and STOP.
        let _ = signals::dispose(number, to);
    }
    sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None)
}

/// Closes every descriptor but those of `keep`: above all not the lock's is kept, which would
/// outlive the parent. For a child whose owners of descriptors are never dropped, because it
/// ends by [`end`]. Neither allocates nor locks.
#[allow(unsafe_code)]
pub fn close_all_but(keep: &[RawFd]) {
    let mut from = 0;
    loop {
        let next = keep.iter().copied().filter(|kept| *kept >= from).min();
        let kept = next.unwrap_or(RawFd::MAX);
        if from < kept && close_range(from, kept - 1, 0).is_err() {
            for number in from..kept.min(HIGHEST) {
                // SAFETY: a plain number, of which nothing of this process makes use.
                unsafe { libc::close(number) };
            }
        }
        if next.is_none() {
            return;
        }
        from = kept.saturating_add(1);
    }
}

#[allow(unsafe_code)]
fn close_range(first: RawFd, last: RawFd, flags: libc::c_uint) -> Result<(), Errno> {
    // SAFETY: plain numbers; both callers are about to give up what they own.
    let closed = unsafe { libc::syscall(libc::SYS_close_range, first, last, flags) };
    Errno::result(closed).map(drop)
}

/// The first number that is no standard stream.
const FIRST: RawFd = 3;
/// Without `/proc`, every number is tried up to this limit: a fifth of a second. The
/// kernel's own limit is the same where nobody raised it (`fs.nr_open`).
const MOST_TRIED: libc::rlim_t = 1 << 20;

/// Has the exec close everything above the standard streams: a runtime may have left
/// something open without close-on-exec. Neither allocates nor locks.
///
/// close_range(2) can be missing (before Linux 5.11) or refused by a filter around us.
/// Then each open descriptor is marked by itself; an error where it is not known which
/// are open.
pub fn close_on_exec() -> Result<(), Errno> {
    // Its flag is an unsigned 4.
    let Err(refused) = close_range(FIRST, RawFd::MAX, libc::CLOSE_RANGE_CLOEXEC) else {
        return Ok(());
    };
    if mark_listed().is_ok() {
        return Ok(());
    }
    match nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE) {
        Ok((_, most)) if most <= MOST_TRIED => {
            (FIRST..RawFd::try_from(most).unwrap_or(RawFd::MAX)).try_for_each(mark)
        }
        _ => Err(refused),
    }
}

/// One that is not open needs no mark.
#[allow(unsafe_code)]
fn mark(number: RawFd) -> Result<(), Errno> {
    // SAFETY: plain numbers; the descriptor stays what it is until the exec.
    let marked = unsafe { libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC) };
    match Errno::result(marked) {
        Ok(_) | Err(Errno::EBADF) => Ok(()),
        Err(errno) => Err(errno),
    }
}

/// Marks what `/proc/self/fd` lists; to mark one changes nothing of the list.
fn mark_listed() -> Result<(), Errno> {
    /// `struct linux_dirent64`: inode, offset, length of the record, type, name.
    const LENGTH: usize = 16;
    const NAME: usize = 19;
    let directory = open_own_descriptors()?;
    let mut buffer = [0_u8; 2048];
    loop {
        let filled = list(directory, &mut buffer)?;
        if filled == 0 {
            // Itself close-on-exec.
            return Ok(());
        }
        let mut records = buffer.get(..filled).unwrap_or_default();
        while let Some((record, rest)) = records
            .get(LENGTH..LENGTH + 2)
            .and_then(|length| length.try_into().ok())
            .and_then(|length| records.split_at_checked(u16::from_ne_bytes(length).into()))
            .filter(|(record, _)| !record.is_empty())
        {
            if let Some(number) = record.get(NAME..).and_then(leading_number)
                && number >= FIRST
            {
                mark(number)?;
            }
            records = rest;
        }
    }
}

#[allow(unsafe_code)]
fn open_own_descriptors() -> Result<RawFd, Errno> {
    let flags = libc::O_RDONLY | libc::O_DIRECTORY | libc::O_CLOEXEC;
    // SAFETY: a string that ends in a zero. std's and nix's own ways to one may allocate.
    Errno::result(unsafe { libc::open(c"/proc/self/fd".as_ptr(), flags) })
}

/// The next records of a directory; how many bytes of them.
#[allow(unsafe_code)]
fn list(directory: RawFd, buffer: &mut [u8]) -> Result<usize, Errno> {
    let (call, length) = (libc::SYS_getdents64, buffer.len());
    // SAFETY: the buffer is ours and as long as said.
    let filled = unsafe { libc::syscall(call, directory, buffer.as_mut_ptr(), length) };
    Errno::result(filled).map(|filled| usize::try_from(filled).unwrap_or(0))
}

/// A name of decimal digits that ends in a zero; `None` for "." and "..".
fn leading_number(name: &[u8]) -> Option<RawFd> {
    let end = name.iter().position(|byte| *byte == 0)?;
    let digits = std::str::from_utf8(name.get(..end)?).ok()?;
    digits.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_numbers_as_the_kernel_writes_names() {
        assert_eq!(leading_number(b"17\0\0\0\0\0"), Some(17));
        for name in [&b".\0"[..], b"..\0", b"17", b"\0", b""] {
            assert_eq!(leading_number(name), None, "{name:?}");
        }
    }
}
