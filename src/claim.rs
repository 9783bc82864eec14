//! One init to a run directory, and whether it still lives. Touches the file system.
//!
//! A lock is the one sign of life that no kill leaves behind: the kernel drops it with
//! the process, while `status.json` would say "ready" for ever.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;

use crate::install::FileError;

/// The locked file, in the run directory.
pub const FILE: &str = "lock";

/// Why a run directory cannot be claimed.
#[derive(Debug)]
pub enum ClaimError {
    /// Another init runs with it.
    Taken(PathBuf),
    /// The file cannot be made, or the file system has no locks.
    Unlocked(FileError),
}

/// Claims `run_dir` until this process ends.
pub fn claim(run_dir: &Path) -> Result<(), ClaimError> {
    let path = run_dir.join(FILE);
    let unlocked = |source| ClaimError::Unlocked(FileError::new("lock", &path, source));
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o644)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
        .open(&path)
        .map_err(unlocked)?;
    match fcntl(&file, FcntlArg::F_OFD_SETLK(&whole_file(libc::F_WRLCK))) {
        Ok(_) => {
            // Held by the open file: it may be closed by the kernel alone.
            std::mem::forget(file);
            Ok(())
        }
        Err(Errno::EAGAIN | Errno::EACCES) => Err(ClaimError::Taken(run_dir.to_owned())),
        Err(errno) => Err(unlocked(io::Error::from(errno))),
    }
}

/// Whether an init runs with `run_dir`; `None` where that cannot be told.
#[must_use]
pub fn is_claimed(run_dir: &Path) -> Option<bool> {
    let file = File::open(run_dir.join(FILE)).ok()?;
    let mut found = whole_file(libc::F_RDLCK);
    // Asks without locking: a probe must not be in the way of an init that starts.
    fcntl(&file, FcntlArg::F_OFD_GETLK(&mut found)).ok()?;
    Some(libc::c_int::from(found.l_type) != libc::F_UNLCK)
}

#[allow(
    clippy::cast_possible_truncation,
    reason = "the C library's constants are ints, its field is a short"
)]
fn whole_file(kind: libc::c_int) -> libc::flock {
    libc::flock {
        l_type: kind as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    }
}
