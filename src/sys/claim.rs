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
use serde::{Deserialize, Serialize};

use crate::sys::files::{FileError, Room, read_kernel_file};
use crate::sys::process::pid_namespace;
use crate::sys::watch;

/// The locked file, in the run directory.
pub const FILE: &str = "lock";
/// An init that supervises and has not written for this long hangs: the loop comes round
/// at least at every look at the manifest.
const HUNG_AFTER: Duration = watch::INTERVAL.saturating_mul(5);

/// So many bytes of the file say when we were last heard of; who we are stands after them.
const BEAT: u64 = 21;

/// Why a run directory cannot be claimed.
#[derive(Debug)]
pub enum ClaimError {
    /// Another init runs with it.
    Taken(PathBuf),
    /// The file cannot be made, or the file system has no locks.
    Unlocked(FileError),
    /// A directory has its name, with something in it.
    Occupied(PathBuf),
}

/// The init that has a run directory, as it wrote itself into the lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    /// Its process.
    pub pid: i32,
    /// The PID namespace in which that is its number, by its inode; 0 where it has no `/proc`.
    pub namespace: u64,
    /// Whose the file is that says so: nobody else's process is meant.
    pub owner: u32,
}

/// A run directory that is ours until this process ends.
#[derive(Debug)]
pub struct Claim {
    file: File,
    beaten: Duration,
}

/// Claims `room`, a run directory, for the start of this identifier. The file is its owner's alone: whoever can open it
/// can lock it. One that others could open, or that is no file of ours, is replaced;
/// but a directory that has something in it is somebody's, and not ours to move.
pub fn claim(room: &Room, boot_id: &str) -> Result<Claim, ClaimError> {
    let path = room.path().join(FILE);
    let unlocked = |source| ClaimError::Unlocked(FileError::new("lock", &path, source));
    let file = match room.open_file(FILE, OFlag::O_RDWR | OFlag::O_CREAT) {
        Ok(file) if is_ours(&file).map_err(unlocked)? => match lock(&file) {
            Ok(()) => file,
            Err(Errno::EAGAIN | Errno::EACCES) if written_by_another(&file) => {
                return Err(ClaimError::Taken(room.path().to_owned()));
            }
            // A reader has no business there, and got in while the file was open to all.
            Err(Errno::EAGAIN | Errno::EACCES) => replace(room).map_err(unlocked)?,
            Err(errno) => return Err(unlocked(errno.into())),
        },
        Err(error) if error.kind() == io::ErrorKind::IsADirectory && has_entries(&path) => {
            return Err(ClaimError::Occupied(path));
        }
        // Another's file, a link, a pipe, a directory.
        _ => replace(room).map_err(unlocked)?,
    };
    let mut claim = Claim {
        file,
        beaten: Duration::ZERO,
    };
    claim.sign(boot_id);
    Ok(claim)
}

impl Claim {
    /// Writes who has it, behind the place of [`Claim::beat`]. Without it nobody finds us, and
    /// nothing else is amiss.
    fn sign(&mut self, boot_id: &str) {
        let namespace = pid_namespace().unwrap_or_default();
        let holder = format!("{} {namespace} {boot_id}\n", std::process::id());
        let _ = self.file.write_at(holder.as_bytes(), BEAT);
    }

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

impl Holder {
    /// Whether the process is the lock's owner's, by its effective user; false where `/proc`
    /// does not show it.
    #[must_use]
    pub fn is_the_owners(&self) -> bool {
        let status = read_kernel_file(format!("/proc/{}/status", self.pid)).unwrap_or_default();
        let users = status.lines().find_map(|line| line.strip_prefix("Uid:"));
        let effective = users.and_then(|users| users.split_whitespace().nth(1)?.parse().ok());
        effective == Some(self.owner)
    }
}

/// What a run directory's lock says.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seen {
    /// Whether an init has it, where that can be told.
    pub life: Option<Life>,
    /// Which, while it has.
    pub holder: Option<Holder>,
}

/// Whether the init lives that has a run directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Life {
    /// There is none.
    Gone,
    /// There is one, and its loop comes round.
    Lives,
    /// There is one that has not been heard of for so long.
    Hangs(Duration),
}

/// What the lock in `room`, a run directory, says; nothing where it cannot be opened. Whether the
/// init that has it wrote `status` is found there: until it has, that is an earlier start's, and is
/// taken away.
#[must_use]
pub fn look(room: &Room, status: &mut Vec<u8>) -> Seen {
    let Ok(file) = room.open_file(FILE, OFlag::O_RDONLY) else {
        return Seen::default();
    };
    let mut text = [0_u8; 128];
    // Before the question: whoever is found to live then had this number all the while.
    let holder = holder(&file, &mut text);
    let life = life(&file);
    let lives = matches!(life, Some(Life::Lives | Life::Hangs(_)));
    let holder = holder.filter(|_| lives);
    if let Some((_, boot_id)) = holder
        && !status.windows(boot_id.len().max(1)).any(|it| it == boot_id)
    {
        status.clear();
    }
    Seen {
        life,
        holder: holder.map(|(holder, _)| holder),
    }
}

/// Who signed it, and for which start; an older sidecar-init names none.
fn holder<'a>(file: &File, text: &'a mut [u8]) -> Option<(Holder, &'a [u8])> {
    let length = file.read_at(text, BEAT).ok()?;
    let text = std::str::from_utf8(text.get(..length)?).ok()?;
    let (pid, rest) = text.lines().next()?.split_once(' ')?;
    let (namespace, boot_id) = rest.split_once(' ').unwrap_or((rest, " "));
    let holder = Holder {
        // 0 and what is negative would be a whole group.
        pid: pid.parse().ok().filter(|pid| *pid > 0)?,
        namespace: namespace.parse().ok()?,
        owner: file.metadata().ok()?.uid(),
    };
    Some((holder, boot_id.as_bytes()))
}

/// Whether an init has the file locked; `None` where that cannot be told.
fn life(file: &File) -> Option<Life> {
    // Asks without locking: a probe must not be in the way of an init that starts.
    let mut found = whole_file(libc::F_RDLCK);
    fcntl(file, FcntlArg::F_OFD_GETLK(&mut found)).ok()?;
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

/// Whether a directory has something in it.
fn has_entries(directory: &Path) -> bool {
    std::fs::read_dir(directory).is_ok_and(|mut entries| entries.next().is_some())
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
