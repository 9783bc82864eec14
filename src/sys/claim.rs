//! One init to a run directory, and whether it still lives. Touches the file system.
//!
//! A lock is the one sign of life that no kill leaves behind: the kernel drops it with
//! the process, while `status.json` would say "ready" for ever. What is written in the
//! locked file is the other one: a process that hangs keeps its lock.

use std::fs::{File, Permissions};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::libc;
use nix::time::{ClockId, clock_gettime};

use crate::supervise::watch;
use crate::sys::files::{FileError, Room};

/// The locked file, in the run directory.
pub const FILE: &str = "lock";
/// An init that supervises and has not written for this long hangs: the loop comes round
/// at least at every look at the manifest.
const HUNG_AFTER: Duration = watch::INTERVAL.saturating_mul(5);

/// Why a run directory cannot be claimed.
#[derive(Debug)]
pub enum ClaimError {
    /// Another init runs with it.
    Taken(PathBuf),
    /// The file cannot be made, or the file system has no locks.
    Unlocked(FileError),
}

/// A run directory that is ours until this process ends.
#[derive(Debug)]
pub struct Claim {
    file: File,
    beaten: Duration,
}

/// Claims `run_dir`, opened as `room`. The file is its owner's alone: whoever can open it
/// can lock it. One that others could open, or that is no file of ours, is replaced.
pub fn claim(run_dir: &Path, room: &Room) -> Result<Claim, ClaimError> {
    let path = run_dir.join(FILE);
    let unlocked = |source| ClaimError::Unlocked(FileError::new("lock", &path, source));
    let file = match room.open_file(FILE, OFlag::O_RDWR | OFlag::O_CREAT) {
        Ok(file) if is_ours(&file).map_err(unlocked)? => match lock(&file) {
            Ok(()) => file,
            Err(Errno::EAGAIN | Errno::EACCES) if written_by_another(&file) => {
                return Err(ClaimError::Taken(run_dir.to_owned()));
            }
            // A reader has no business there, and got in while the file was open to all.
            Err(Errno::EAGAIN | Errno::EACCES) => replace(room).map_err(unlocked)?,
            Err(errno) => return Err(unlocked(errno.into())),
        },
        // Another's file, a link, a pipe, a directory.
        _ => replace(room).map_err(unlocked)?,
    };
    Ok(Claim {
        file,
        beaten: Duration::ZERO,
    })
}

impl Claim {
    /// Writes that we live, at most once a second.
    pub fn beat(&mut self) {
        let now = since_boot();
        if now.saturating_sub(self.beaten) >= Duration::from_secs(1) {
            self.beaten = now;
            // Of one length, so that nobody reads a part. A disk that is full has room for
            // what is there already.
            let _ = self
                .file
                .write_at(format!("{:020}\n", now.as_secs()).as_bytes(), 0);
        }
    }
}

/// What a run directory's lock says of the init that has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Life {
    /// There is none.
    Gone,
    /// There is one, and its loop comes round.
    Lives,
    /// There is one that has not been heard of for so long.
    Hangs(Duration),
}

/// Whether an init runs with `room`, a run directory; `None` where that cannot be told.
#[must_use]
pub fn look(room: &Room) -> Option<Life> {
    let file = room.open_file(FILE, OFlag::O_RDONLY).ok()?;
    // Asks without locking: a probe must not be in the way of an init that starts.
    let mut found = whole_file(libc::F_RDLCK);
    fcntl(&file, FcntlArg::F_OFD_GETLK(&mut found)).ok()?;
    if libc::c_int::from(found.l_type) == libc::F_UNLCK {
        return Some(Life::Gone);
    }
    let mut text = [0_u8; 20];
    let beaten = file
        .read_exact_at(&mut text, 0)
        .ok()
        .and_then(|()| std::str::from_utf8(&text).ok()?.parse().ok());
    let silent = beaten.map(|at| since_boot().saturating_sub(Duration::from_secs(at)));
    Some(match silent {
        Some(silent) if silent >= HUNG_AFTER => Life::Hangs(silent),
        _ => Life::Lives,
    })
}

/// Whether nobody else could have opened the file, once its mode is right; and that it has
/// no other name, for what is written in it.
fn is_ours(file: &File) -> io::Result<bool> {
    let metadata = file.metadata()?;
    if metadata.uid() != nix::unistd::geteuid().as_raw() || metadata.nlink() != 1 {
        return Ok(false);
    }
    if metadata.mode() & 0o077 != 0 {
        file.set_permissions(Permissions::from_mode(0o600))?;
    }
    Ok(true)
}

/// Whether what keeps us from locking is another's lock for writing: another init's.
fn written_by_another(file: &File) -> bool {
    let mut found = whole_file(libc::F_WRLCK);
    let asked = fcntl(file, FcntlArg::F_OFD_GETLK(&mut found));
    asked.is_err() || libc::c_int::from(found.l_type) != libc::F_RDLCK
}

/// A file of our own in the place of whatever is there, locked before it has the name.
fn replace(room: &Room) -> io::Result<File> {
    let (temporary, file) = room.create_temporary()?;
    lock(&file)?;
    room.rename(&temporary, FILE)?;
    Ok(file)
}

fn lock(file: &File) -> Result<(), Errno> {
    // Held by the open file: closed by the kernel alone.
    fcntl(file, FcntlArg::F_OFD_SETLK(&whole_file(libc::F_WRLCK))).map(drop)
}

/// Time that no clock's setting changes, and that goes on while the machine sleeps.
fn since_boot() -> Duration {
    clock_gettime(ClockId::CLOCK_BOOTTIME).map_or(Duration::ZERO, Duration::from)
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
