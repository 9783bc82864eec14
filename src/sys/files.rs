//! Puts files where they belong: whole or not at all, with exact mode and owner, and
//! where others write too, never through a link. Touches the file system.

use std::ffi::{CString, OsStr};
use std::fmt;
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat, renameat};
use nix::libc;
use nix::sys::stat::{Mode, fchmod, fstat, fstatat, mkdirat};
use nix::unistd::{
    Gid, Uid, UnlinkatFlags, fchownat, getegid, geteuid, setfsgid, setfsuid, unlinkat,
};

use crate::plain;
use crate::sys::process::is_shortage;
use crate::sys::random;

/// Does something to files with the rights of this user: what it has closed may be closed to a
/// root as well, which in a container need not have `CAP_DAC_OVERRIDE`, and where it may have
/// put anything it is led no further than it gets itself. Of this thread alone (setfsuid(2));
/// who may not become another stays who it is.
pub fn as_user<T>(user: Option<(u32, u32)>, does: impl FnOnce() -> T) -> T {
    let Some((uid, gid)) = user else {
        return does();
    };
    let group = setfsgid(Gid::from_raw(gid));
    let owner = setfsuid(Uid::from_raw(uid));
    let done = does();
    setfsuid(owner);
    setfsgid(group);
    done
}

/// Who may read a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Access {
    /// Permission bits.
    pub mode: u32,
    /// User and group; `None` leaves the init's own.
    pub owner: Option<(u32, u32)>,
}

impl Access {
    /// Everybody may read it.
    pub const PUBLIC: Self = Self {
        mode: 0o644,
        owner: None,
    };

    /// Its owner alone may read and write it.
    #[must_use]
    pub fn private(owner: Option<(u32, u32)>) -> Self {
        Self { mode: 0o600, owner }
    }
}

/// A file that could not be written or read.
#[derive(Debug)]
pub struct FileError {
    verb: &'static str,
    path: PathBuf,
    source: io::Error,
}

impl FileError {
    /// `cannot <verb> <path>: <source>`
    #[must_use]
    pub fn new(verb: &'static str, path: &Path, source: io::Error) -> Self {
        Self {
            verb,
            path: path.to_owned(),
            source,
        }
    }

    /// Whether there was nothing at that path.
    #[must_use]
    pub fn is_missing(&self) -> bool {
        matches!(
            self.source.kind(),
            io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
        )
    }

    /// What could not be written or read.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What the kernel said, as the standard library sorts it.
    #[must_use]
    pub fn kind(&self) -> io::ErrorKind {
        self.source.kind()
    }

    /// Whether there is more of it than was to be read.
    #[must_use]
    pub fn is_too_large(&self) -> bool {
        self.source.kind() == io::ErrorKind::FileTooLarge
    }
}

impl fmt::Display for FileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A name that somebody else gave may hold a line feed.
        let path = plain::line_of(self.path.as_os_str().as_encoded_bytes());
        write!(f, "cannot {} {path}: ", self.verb)?;
        match self.source.raw_os_error() {
            Some(raw) => f.write_str(nix::errno::Errno::from_raw(raw).desc()),
            None => write!(f, "{}", self.source),
        }
    }
}

impl std::error::Error for FileError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.source)
    }
}

/// Device, number and size of a file, and when it and what is known of it were changed last.
pub type Mark = [i64; 7];

/// When a file was changed last, as its file system says: seconds since 1970, and nanoseconds.
pub type Modified = (i64, i64);

fn modified(metadata: &fs::Metadata) -> Modified {
    (metadata.mtime(), metadata.mtime_nsec())
}

/// A file as it was read, to be replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Original {
    mark: Option<Mark>,
    modified: Modified,
    mode: u32,
    owner: (u32, u32),
}

impl Original {
    /// When it was changed last.
    #[must_use]
    pub fn modified(&self) -> Modified {
        self.modified
    }
}

/// How the name of a file ends that is being edited, and of the lock of whoever edits it.
const BEING_EDITED: &str = ".sidecar-init";
const LOCKED: &str = ".sidecar-lock";

/// What became of a file that was to be replaced.
#[derive(Debug, PartialEq, Eq)]
pub enum Replaced {
    /// It is; and why it may be the old one again after a loss of power, where that is so.
    Done(Option<Errno>),
    /// Another stands there by now, and nothing was done.
    Changed,
}

/// That nobody else edits a file, until this is dropped.
#[derive(Debug)]
pub struct EditLock<'a> {
    room: &'a Room,
    name: String,
    /// What is locked; closed behind the removal of its name. None where a stranger's is there.
    file: Option<File>,
}

impl Drop for EditLock<'_> {
    fn drop(&mut self) {
        if self.file.is_some() {
            let flags = UnlinkatFlags::NoRemoveDir;
            let _ = unlinkat(&self.room.fd, self.name.as_str(), flags);
        }
    }
}

/// A directory that was opened once. Others may write in it too, so what is done in it is
/// done below this descriptor, to a name of one component that is never followed where it
/// is a link, under temporary names that nobody can guess or have planted before: nothing
/// outside can be reached. openat2(2) would add nothing, for there is no path to resolve.
#[derive(Debug)]
pub struct Room {
    fd: OwnedFd,
    /// For words alone.
    path: PathBuf,
}

impl Room {
    /// Opens the directory at `path`, which is made where there is none.
    pub fn open_or_make(path: &Path) -> Result<Self, FileError> {
        ensure_directory(path)?;
        Self::open(path)
    }

    /// Opens the directory at `path`, wherever links on the way there lead.
    pub fn open(path: &Path) -> Result<Self, FileError> {
        // A path without a directory is a name in the one we are in.
        let nowhere = path.as_os_str().is_empty();
        let place = if nowhere { Path::new(".") } else { path };
        nix::fcntl::open(place, ROOM, Mode::empty())
            .map(|fd| Self {
                fd,
                path: path.to_owned(),
            })
            .map_err(|errno| FileError::new("open directory", path, errno.into()))
    }

    /// Opens a directory in this one; `None` where there is nothing. Asks nothing of the
    /// file system that is mounted there (open(2), `O_PATH`), which may not answer.
    pub fn enter(&self, name: &str) -> Result<Option<Self>, FileError> {
        match openat(&self.fd, name, ROOM | OFlag::O_NOFOLLOW, Mode::empty()) {
            Ok(fd) => Ok(Some(Self {
                fd,
                path: self.path.join(name),
            })),
            Err(Errno::ENOENT) => Ok(None),
            Err(errno) => Err(self.failed("open directory", name, errno)),
        }
    }

    /// A directory in this one, with this access, made where there is none. What is in it
    /// stays; what has its name and is no directory goes out of the way. One that is another's
    /// may be closed to this init: it can be named then, and entered by nobody here.
    pub fn make(&self, name: &str, access: Access) -> Result<Self, FileError> {
        let failed = |errno| self.failed("make directory", name, errno);
        let mode = Mode::from_bits_truncate(access.mode);
        let flags = OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let find = || openat(&self.fd, name, flags | OFlag::O_PATH, Mode::empty());
        let open = || openat(&self.fd, name, flags | OFlag::O_RDONLY, Mode::empty());
        let there = match find() {
            Err(Errno::ENOTDIR | Errno::ELOOP | Errno::ENOENT) => {
                self.remove(name)?;
                mkdirat(&self.fd, name, mode)
                    .and_then(|()| find())
                    .map_err(failed)?
            }
            found => found.map_err(failed)?,
        };
        let give = |fd: &OwnedFd, uid, gid| {
            let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
            fchownat(fd, c"", Some(uid), Some(gid), AtFlags::AT_EMPTY_PATH)
                .map_err(|errno| FileError::new("give away", &self.path.join(name), errno.into()))
        };
        let is = fstat(&there).map_err(failed)?;
        let (is_mode, is_owner) = (is.st_mode & 0o7777, (is.st_uid, is.st_gid));
        let mut opened = None;
        if is_mode != access.mode || access.owner.is_some_and(|owner| owner != is_owner) {
            // A root without CAP_DAC_OVERRIDE and CAP_FOWNER neither opens nor changes what it
            // has given away: it is taken back first.
            if access.owner.is_some() {
                give(&there, geteuid().as_raw(), getegid().as_raw())?;
            }
            let fd = open().map_err(failed)?;
            // Whatever the umask made of it.
            fchmod(&fd, mode).map_err(failed)?;
            if let Some((uid, gid)) = access.owner {
                give(&fd, uid, gid)?;
            }
            opened = Some(fd);
        }
        let fd = opened.or_else(|| open().ok()).unwrap_or(there);
        Ok(Self {
            fd,
            path: self.path.join(name),
        })
    }

    /// Where it is, as it was opened.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its descriptor.
    #[must_use]
    pub fn descriptor(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Whose it is and who we are, for where it cannot be written: a clause without a subject's
    /// name.
    #[must_use]
    pub fn whose(&self) -> String {
        let (own, group) = (nix::unistd::geteuid(), nix::unistd::getegid());
        match nix::sys::stat::fstat(&self.fd) {
            Ok(status) => format!(
                "it belongs to {}:{}, its mode is {:04o}, and this init is {own}:{group}",
                status.st_uid,
                status.st_gid,
                status.st_mode & 0o7777
            ),
            Err(errno) => errno.desc().to_owned(),
        }
    }

    /// The same directory by another descriptor.
    pub fn try_clone(&self) -> io::Result<Self> {
        Ok(Self {
            fd: self.fd.try_clone()?,
            path: self.path.clone(),
        })
    }

    /// Replaces `name` by `bytes`, whole or not at all, without waiting for a disk: for
    /// what is worthless after this boot. A directory of that name goes out of the way.
    pub fn publish(&self, name: &str, bytes: &[u8], access: Access) -> Result<(), FileError> {
        self.put(OsStr::new(name), bytes, access, false)
            .map_err(|errno| self.failed("write", name, errno))
    }

    /// [`Room::publish`], and on the disk when it returns.
    pub fn install(&self, name: &str, bytes: &[u8], access: Access) -> Result<(), FileError> {
        self.put(OsStr::new(name), bytes, access, true)
            .map_err(|errno| self.failed("write", name, errno))
    }

    /// Whether `name` is already what [`Room::install`] would make it.
    #[must_use]
    pub fn is_installed(&self, name: &str, bytes: &[u8], access: Access) -> bool {
        self.compare(name, bytes, access).unwrap_or(false)
    }

    /// The same of what another may have put there; `None` where the machine has nothing left
    /// to look with. Root without its capabilities may not read what is another user's: where
    /// that `is_new`, it goes by the rest that it sees. Of a change the [`Mark`] tells.
    #[must_use]
    pub fn is_still_installed(
        &self,
        name: &str,
        bytes: &[u8],
        access: Access,
        is_new: bool,
    ) -> Option<bool> {
        match self.compare(name, bytes, access) {
            Err(error) if is_shortage(errno_of(&error)) => None,
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied && is_new => {
                Some(self.looks_installed(name, bytes.len(), access))
            }
            compared => Some(compared.unwrap_or(false)),
        }
    }

    fn compare(&self, name: &str, bytes: &[u8], access: Access) -> io::Result<bool> {
        let file = self.open_file(name, OFlag::O_RDONLY)?;
        let metadata = file.metadata()?;
        let owner = (metadata.uid(), metadata.gid());
        Ok(metadata.permissions().mode() & 0o7777 == access.mode
            && access.owner.is_none_or(|wanted| wanted == owner)
            && metadata.len() == bytes.len() as u64
            && read_up_to(file, bytes.len())? == bytes)
    }

    /// A regular file of this length, mode and owner.
    fn looks_installed(&self, name: &str, length: usize, access: Access) -> bool {
        let seen = fstatat(&self.fd, name, AtFlags::AT_SYMLINK_NOFOLLOW);
        seen.is_ok_and(|it| {
            it.st_mode == libc::S_IFREG | access.mode
                && access
                    .owner
                    .is_none_or(|owner| owner == (it.st_uid, it.st_gid))
                && usize::try_from(it.st_size) == Ok(length)
        })
    }

    /// Reads a regular file of at most `limit` bytes; a link is none.
    pub fn read(&self, name: &str, limit: usize) -> Result<Vec<u8>, FileError> {
        self.open_file(name, OFlag::O_RDONLY)
            .and_then(|file| read_whole(file, limit))
            .map(|(bytes, _)| bytes)
            .map_err(|source| FileError::new("read", &self.path.join(name), source))
    }

    /// Reads a regular file that is to be replaced by an edited one.
    pub fn read_to_edit(&self, name: &str, limit: usize) -> Result<(Vec<u8>, Original), FileError> {
        let read = || {
            let file = self.open_file(name, OFlag::O_RDONLY)?;
            let mark = self.mark(name);
            let (bytes, metadata) = read_whole(file, limit)?;
            let original = Original {
                mark,
                modified: modified(&metadata),
                mode: metadata.permissions().mode() & 0o7777,
                owner: (metadata.uid(), metadata.gid()),
            };
            Ok((bytes, original))
        };
        read().map_err(|source| FileError::new("read", &self.path.join(name), source))
    }

    /// Keeps others from editing a file of this name and owner so as well; `None` while another
    /// does. It is a lock (flock(2)) on a file of its own that none but that owner can open:
    /// whoever may merely read here makes nobody wait. Whoever may write here, and is neither
    /// that owner nor this user nor root, makes nobody wait either: what such a one has put
    /// there is no lock, and [`Self::replace`] alone sees to it that no other's edit is lost.
    pub fn lock_to_edit(
        &self,
        name: &str,
        original: &Original,
    ) -> Result<Option<EditLock<'_>>, FileError> {
        let name = format!(".{name}{LOCKED}");
        let lock = || {
            let new = OFlag::O_RDWR | OFlag::O_CREAT | OFlag::O_EXCL;
            let file = match self.open_file(&name, new) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                    let owners = [original.owner.0, geteuid().as_raw(), 0];
                    if self.owner(&name).is_some_and(|it| !owners.contains(&it)) {
                        return Ok(Some(None));
                    }
                    self.open_file(&name, OFlag::O_RDWR)?
                }
                made => {
                    let file = made?;
                    // Root's own would keep the owner away. A share may refuse it.
                    let (uid, gid) = original.owner;
                    let _ = fchown(&file, Some(uid), Some(gid));
                    file
                }
            };
            match file.try_lock() {
                Ok(()) => {}
                Err(fs::TryLockError::WouldBlock) => return Ok(None),
                Err(fs::TryLockError::Error(error)) => return Err(error),
            }
            // Whoever had it before may have taken the name away since it was opened.
            let metadata = file.metadata()?;
            let is_it = self.identity(&name) == Some((metadata.dev(), metadata.ino()));
            Ok(is_it.then_some(Some(file)))
        };
        match lock() {
            Ok(file) => Ok(file.map(|file| EditLock {
                room: self,
                name,
                file,
            })),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(FileError::new("lock", &self.path.join(&name), error)),
        }
    }

    /// Replaces a file that was read by `bytes`, whole or not at all, with the owner and the
    /// mode it has. An error is one of before: nothing was changed. One at a time: what a cut
    /// leaves is the next one's to take away.
    pub fn replace(
        &self,
        name: &str,
        bytes: &[u8],
        original: &Original,
    ) -> Result<Replaced, FileError> {
        let temporary = format!(".{name}{BEING_EDITED}");
        match unlinkat(&self.fd, temporary.as_str(), UnlinkatFlags::NoRemoveDir) {
            Ok(()) | Err(Errno::ENOENT) => {}
            Err(errno) => return Err(self.failed("remove", &temporary, errno)),
        }
        let replaced = self.exchange(&temporary, name, bytes, original);
        if !matches!(replaced, Ok(Replaced::Done(_))) {
            let _ = unlinkat(&self.fd, temporary.as_str(), UnlinkatFlags::NoRemoveDir);
        }
        replaced.map_err(|source| FileError::new("write", &self.path.join(name), source))
    }

    fn exchange(
        &self,
        temporary: &str,
        name: &str,
        bytes: &[u8],
        original: &Original,
    ) -> io::Result<Replaced> {
        let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_CLOEXEC;
        let file = openat(&self.fd, temporary, flags | OFlag::O_NOFOLLOW, PRIVATE)?;
        let mut file = File::from(file);
        let metadata = file.metadata()?;
        // A share may refuse it even to who would change nothing.
        let is_owners = (metadata.uid(), metadata.gid()) == original.owner;
        let access = Access {
            mode: original.mode,
            owner: (!is_owners).then_some(original.owner),
        };
        fill(&mut file, bytes, access, true)?;
        if self.mark(name) != original.mark {
            return Ok(Replaced::Changed);
        }
        renameat(&self.fd, temporary, &self.fd, name)?;
        Ok(Replaced::Done(self.sync().err()))
    }

    /// Opens a regular file without waiting, whatever else may be there instead.
    pub fn open_file(&self, name: &str, flags: OFlag) -> io::Result<File> {
        let flags = flags | NEVER_WAIT | OFlag::O_NOFOLLOW;
        let fd = openat(&self.fd, name, flags, PRIVATE).map_err(|errno| match errno {
            Errno::ELOOP => io::Error::new(
                io::ErrorKind::InvalidInput,
                "it is a link, and those are not followed here",
            ),
            errno => errno.into(),
        })?;
        let file = File::from(fd);
        insist_on_regular(&file.metadata()?)?;
        Ok(file)
    }

    /// Takes `name` away, where there is one; a directory goes out of the way.
    pub fn remove(&self, name: &str) -> Result<(), FileError> {
        match unlinkat(&self.fd, name, UnlinkatFlags::NoRemoveDir) {
            Ok(()) | Err(Errno::ENOENT) => Ok(()),
            Err(Errno::EISDIR | Errno::EPERM) if self.set_aside(OsStr::new(name)) => Ok(()),
            Err(errno) => Err(self.failed("remove", name, errno)),
        }
    }

    /// A file of our own without a name, open for reading and writing.
    pub fn create_nameless(&self) -> Result<File, FileError> {
        let created = self.create_temporary().and_then(|(name, file)| {
            unlinkat(&self.fd, name.as_str(), UnlinkatFlags::NoRemoveDir).map(|()| file)
        });
        created.map_err(|errno| FileError::new("write a file in", &self.path, errno.into()))
    }

    /// What tells the file of that name, and its content, from another in its place; `None`
    /// where none can be looked at.
    #[must_use]
    pub fn mark(&self, name: &str) -> Option<Mark> {
        let status = fstatat(&self.fd, name, AtFlags::AT_SYMLINK_NOFOLLOW).ok()?;
        Some([
            status.st_dev.cast_signed(),
            status.st_ino.cast_signed(),
            status.st_size,
            status.st_mtime,
            status.st_mtime_nsec,
            status.st_ctime,
            status.st_ctime_nsec,
        ])
    }

    /// Device and number of what has this name here, or of this directory for an empty one;
    /// `None` where there is nothing.
    #[must_use]
    pub fn identity(&self, name: &str) -> Option<(u64, u64)> {
        let flags = AtFlags::AT_SYMLINK_NOFOLLOW | AtFlags::AT_EMPTY_PATH;
        let status = fstatat(&self.fd, name, flags).ok()?;
        Some((status.st_dev, status.st_ino))
    }

    fn owner(&self, name: &str) -> Option<u32> {
        let status = fstatat(&self.fd, name, AtFlags::AT_SYMLINK_NOFOLLOW).ok()?;
        Some(status.st_uid)
    }

    /// Takes away what starts that were cut off have left of temporary files, and empty
    /// directories of such names. How many directories stay, for there is something in them.
    #[must_use]
    pub fn sweep(&self) -> usize {
        // Somebody may have put a million of other names there.
        const MOST_LOOKED_AT: usize = 1024;
        let read_only = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let Ok(mut entries) = nix::dir::Dir::openat(&self.fd, ".", read_only, Mode::empty()) else {
            return 0;
        };
        let mut stay = 0;
        for entry in entries.iter().take(MOST_LOOKED_AT).flatten() {
            if entry
                .file_name()
                .to_bytes()
                .starts_with(TEMPORARY.as_bytes())
            {
                let remove = |flags| unlinkat(&self.fd, entry.file_name(), flags);
                if let Err(Errno::EISDIR | Errno::EPERM) = remove(UnlinkatFlags::NoRemoveDir)
                    && let Err(Errno::ENOTEMPTY | Errno::EEXIST) = remove(UnlinkatFlags::RemoveDir)
                {
                    stay += 1;
                }
            }
        }
        stay
    }

    fn failed(&self, verb: &'static str, name: &str, errno: Errno) -> FileError {
        FileError::new(verb, &self.path.join(name), errno.into())
    }

    /// A temporary file beside it, rename; and for a `durable` one, fsync of both.
    fn put(&self, name: &OsStr, bytes: &[u8], access: Access, durable: bool) -> Result<(), Errno> {
        let (temporary, mut file) = self.create_temporary()?;
        let done = fill(&mut file, bytes, access, durable)
            .map_err(|error| errno_of(&error))
            .and_then(|()| self.rename(&temporary, name))
            .and_then(|()| if durable { self.sync() } else { Ok(()) });
        if done.is_err() {
            // Never leave a half-written file; the error that matters is the first one.
            let _ = unlinkat(&self.fd, temporary.as_str(), UnlinkatFlags::NoRemoveDir);
        }
        done
    }

    /// A new file of our own, open for writing, under a name that was nobody's.
    pub fn create_temporary(&self) -> Result<(String, File), Errno> {
        // A name that is there already is an accident.
        const TRIES: usize = 8;
        let mut refused = Errno::EEXIST;
        for _ in 0..TRIES {
            let name = random_name();
            let flags = OFlag::O_RDWR | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_CLOEXEC;
            match openat(&self.fd, name.as_str(), flags | OFlag::O_NOFOLLOW, PRIVATE) {
                Ok(fd) => return Ok((name, File::from(fd))),
                Err(Errno::EEXIST) => refused = Errno::EEXIST,
                Err(errno) => return Err(errno),
            }
        }
        Err(refused)
    }

    /// Gives a file its name, whatever had that name before.
    pub fn rename(&self, temporary: &str, name: impl AsRef<OsStr>) -> Result<(), Errno> {
        // Whoever plants directories may be as fast as we are, but not for ever.
        const TRIES: usize = 4;
        let name = name.as_ref();
        let mut renamed = renameat(&self.fd, temporary, &self.fd, name);
        for _ in 0..TRIES {
            let stands_there = matches!(
                renamed,
                Err(Errno::EISDIR | Errno::EEXIST | Errno::ENOTEMPTY)
            );
            if !stands_there || !self.set_aside(name) {
                break;
            }
            renamed = renameat(&self.fd, temporary, &self.fd, name);
        }
        renamed
    }

    /// Takes a directory away where it is empty, and gives it another name where not.
    fn set_aside(&self, name: &OsStr) -> bool {
        unlinkat(&self.fd, name, UnlinkatFlags::RemoveDir).is_ok()
            || renameat(&self.fd, name, &self.fd, random_name().as_str()).is_ok()
    }

    fn sync(&self) -> Result<(), Errno> {
        let read_only = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        nix::unistd::fsync(openat(&self.fd, ".", read_only, Mode::empty())?)
    }
}

const ROOM: OFlag = OFlag::O_PATH
    .union(OFlag::O_DIRECTORY)
    .union(OFlag::O_CLOEXEC);
/// A FIFO without a writer or a terminal must not hang PID 1, or become its own.
const NEVER_WAIT: OFlag = OFlag::O_NONBLOCK
    .union(OFlag::O_NOCTTY)
    .union(OFlag::O_CLOEXEC);
const PRIVATE: Mode = Mode::S_IRUSR.union(Mode::S_IWUSR);
/// How the names of temporary files begin.
const TEMPORARY: &str = ".sidecar-init-";

/// A name that cannot be foreseen, and is no secret: an unseeded generator serves too.
fn random_name() -> String {
    static TAKEN: AtomicU32 = AtomicU32::new(0);
    let mut bytes = [0_u8; 8];
    // Where there are none it is a new name at least.
    random::fill_insecurely(&mut bytes);
    let number = TAKEN.fetch_add(1, Ordering::Relaxed);
    format!("{TEMPORARY}{:016x}{number:x}", u64::from_ne_bytes(bytes))
}

fn errno_of(error: &io::Error) -> Errno {
    error.raw_os_error().map_or(Errno::EIO, Errno::from_raw)
}

/// Replaces `path` by `bytes`, so that a cut at any moment leaves the old file or the
/// new one: a temporary file beside it, fsync, rename, fsync of the directory. Where
/// `path` is a symbolic link its target is replaced and the link stays: that is how
/// a read-only `/etc` points into `/run`.
pub fn install(path: &Path, bytes: &[u8], access: Access) -> Result<(), FileError> {
    replace(path, bytes, access, true)
}

/// [`install`] without waiting for a disk, for a file that somebody named.
pub fn publish(path: &Path, bytes: &[u8], access: Access) -> Result<(), FileError> {
    replace(path, bytes, access, false)
}

fn replace(path: &Path, bytes: &[u8], access: Access, durable: bool) -> Result<(), FileError> {
    let target = follow_link(path);
    let name = target.file_name().unwrap_or_default();
    Room::open(target.parent().unwrap_or(Path::new("/")))?
        .put(name, bytes, access, durable)
        .map_err(|errno| FileError::new("write", path, errno.into()))
}

/// Creates the file at `path`, through a link as [`install`] does, and fails where there
/// is one: of several that try, one succeeds. A cut leaves a part of it.
pub fn create(path: &Path, bytes: &[u8], access: Access) -> Result<(), FileError> {
    let target = follow_link(path);
    let write = || -> io::Result<()> {
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&target)?;
        fill(&mut file, bytes, access, true).inspect_err(|_| {
            let _ = fs::remove_file(&target);
        })
    };
    write().map_err(|source| FileError::new("create", path, source))
}

fn fill(file: &mut File, bytes: &[u8], access: Access, durable: bool) -> io::Result<()> {
    file.write_all(bytes)?;
    // Before it is somebody else's: that one's mode only CAP_FOWNER could set.
    file.set_permissions(Permissions::from_mode(access.mode))?;
    if let Some((uid, gid)) = access.owner {
        fchown(&*file, Some(uid), Some(gid))?;
    }
    if durable { file.sync_all() } else { Ok(()) }
}

/// Where a link at `path` leads, one level: the image's links are direct. Another user's
/// is none: what it points at is not that user's to choose.
fn follow_link(path: &Path) -> PathBuf {
    let ours = |metadata: &fs::Metadata| {
        let owner = metadata.uid();
        owner == 0 || owner == nix::unistd::geteuid().as_raw()
    };
    match fs::read_link(path) {
        Ok(target) if fs::symlink_metadata(path).is_ok_and(|it| ours(&it)) => {
            path.parent().unwrap_or(Path::new("/")).join(target)
        }
        _ => path.to_owned(),
    }
}

/// Whether two paths lead to one file, or would once it is there.
#[must_use]
pub fn is_same_place(one: &Path, other: &Path) -> bool {
    let place = |path: &Path| {
        let target = follow_link(path);
        let directory = target.parent().unwrap_or(Path::new("/"));
        let directory = Path::new(".").join(directory).canonicalize().ok()?;
        Some(directory.join(target.file_name()?))
    };
    let file = |path: &Path| {
        let metadata = fs::metadata(path).ok()?;
        Some((metadata.dev(), metadata.ino()))
    };
    one == other
        || place(one).is_some_and(|it| Some(it) == place(other))
        || file(one).is_some_and(|it| Some(it) == file(other))
}

/// Reads a regular file of at most `limit` bytes. Anything else at that path, a FIFO
/// or a device, is refused before it could make PID 1 wait.
pub fn read_bounded(path: &Path, limit: usize) -> Result<Vec<u8>, FileError> {
    read_bounded_dated(path, limit).map(|(bytes, _)| bytes)
}

/// [`read_bounded`], and when it was changed last.
pub fn read_bounded_dated(path: &Path, limit: usize) -> Result<(Vec<u8>, Modified), FileError> {
    OpenOptions::new()
        .read(true)
        .custom_flags(NEVER_WAIT.bits())
        .open(path)
        .and_then(|file| read_whole(file, limit))
        .map(|(bytes, metadata)| (bytes, modified(&metadata)))
        .map_err(|source| FileError::new("read", path, source))
}

/// With what was known of it before.
fn read_whole(file: File, limit: usize) -> io::Result<(Vec<u8>, fs::Metadata)> {
    let metadata = file.metadata()?;
    insist_on_regular(&metadata)?;
    let length = usize::try_from(metadata.len()).unwrap_or(limit).min(limit);
    let bytes = read_onto(Vec::with_capacity(length + 1), file, limit)?;
    Ok((bytes, metadata))
}

fn insist_on_regular(metadata: &fs::Metadata) -> io::Result<()> {
    if metadata.is_file() {
        return Ok(());
    }
    let kind = if metadata.is_dir() {
        "a directory"
    } else {
        "a device, pipe or socket"
    };
    Err(io::Error::new(
        io::ErrorKind::InvalidInput,
        format!("it is {kind}, not a regular file"),
    ))
}

/// One of the kernel's own files: they say that they are empty, and a buffer that grows
/// from nothing would ask eight times.
pub fn read_kernel_file(path: impl AsRef<Path>) -> io::Result<String> {
    let mut text = String::with_capacity(4096);
    File::open(path)?.take(u64::MAX).read_to_string(&mut text)?;
    Ok(text)
}

/// Reads to the end, but fails beyond `limit` bytes, whatever the size claims to be.
pub fn read_up_to(source: impl Read, limit: usize) -> io::Result<Vec<u8>> {
    read_onto(Vec::new(), source, limit)
}

fn read_onto(mut bytes: Vec<u8>, source: impl Read, limit: usize) -> io::Result<Vec<u8>> {
    source.take(limit as u64 + 1).read_to_end(&mut bytes)?;
    if bytes.len() > limit {
        return Err(io::Error::new(
            io::ErrorKind::FileTooLarge,
            format!("it is larger than {limit} bytes"),
        ));
    }
    Ok(bytes)
}

/// How a file has its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standing {
    /// It is mounted right there; false as well where the kernel does not say (before 5.8).
    pub is_mount: bool,
    /// How many names it has, here or elsewhere.
    pub links: u32,
}

/// How what is at `path`, wherever links lead, has its name; `None` where there is nothing, or
/// nobody says (statx(2), Linux 4.11).
#[must_use]
#[allow(unsafe_code)]
pub fn standing(path: &Path) -> Option<Standing> {
    /// `STATX_ATTR_MOUNT_ROOT`
    const MOUNT_ROOT: u64 = 0x2000;
    /// `STATX_NLINK`
    const LINKS: u32 = 4;
    let path = CString::new(path.as_os_str().as_bytes()).ok()?;
    let mut answer = MaybeUninit::<libc::statx>::zeroed();
    // SAFETY: the path ends with its zero, the kernel writes no more than the structure, and
    // both live through the call.
    let asked = unsafe {
        libc::syscall(
            libc::SYS_statx,
            libc::AT_FDCWD,
            path.as_ptr(),
            0,
            LINKS,
            answer.as_mut_ptr(),
        )
    };
    // SAFETY: plain numbers, of which zeroes are valid.
    let answer = unsafe { answer.assume_init() };
    (asked == 0 && answer.stx_mask & LINKS != 0).then_some(Standing {
        is_mount: answer.stx_attributes & MOUNT_ROOT != 0,
        links: answer.stx_nlink,
    })
}

/// Makes sure a directory is there, with every parent. What is made here everybody may
/// read, whatever the umask; what is there keeps the mode that somebody chose for it.
pub fn ensure_directory(path: &Path) -> Result<(), FileError> {
    if path.is_dir() {
        return Ok(());
    }
    // The program has one thread: nothing else is made meanwhile.
    let before = nix::sys::stat::umask(Mode::empty());
    let made = fs::DirBuilder::new()
        .recursive(true)
        .mode(0o755)
        .create(path);
    nix::sys::stat::umask(before);
    made.map_err(|source| FileError::new("create directory", path, source))
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Scratch(PathBuf);

    impl Scratch {
        fn new(name: &str) -> Self {
            let path =
                std::env::temp_dir().join(format!("sidecar-install-{name}-{}", std::process::id()));
            fs::create_dir_all(&path).unwrap();
            Self(path)
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn a_lock_is_the_owners_of_what_is_edited_and_goes_with_whoever_has_it() {
        let scratch = Scratch::new("lock");
        let path = scratch.0.join("m.yaml");
        fs::write(&path, "a").unwrap();
        let is_root = geteuid().is_root();
        if is_root {
            fchown(File::open(&path).unwrap(), Some(1234), Some(2345)).unwrap();
        }
        let room = Room::open(&scratch.0).unwrap();
        let (_, original) = room.read_to_edit("m.yaml", 10).unwrap();
        let lock = || room.lock_to_edit("m.yaml", &original).unwrap();
        let one = lock().unwrap();
        let name = scratch.0.join(".m.yaml.sidecar-lock");
        let metadata = fs::metadata(&name).unwrap();
        assert_eq!(metadata.mode() & 0o7777, 0o600);
        assert!(!is_root || (metadata.uid(), metadata.gid()) == (1234, 2345));
        assert!(lock().is_none());
        // Whoever waits with the file that it had opens none that is gone.
        let waits = File::open(&name).unwrap();
        drop(one);
        assert!(!name.exists());
        waits.lock().unwrap();
        let other = lock().unwrap();
        assert!(lock().is_none());
        drop(other);
        // What a stranger has put there holds nobody up, and stays.
        if is_root {
            let theirs = File::create(&name).unwrap();
            fchown(&theirs, Some(3456), None).unwrap();
            theirs.lock().unwrap();
            drop(lock().unwrap());
            assert!(name.exists());
            fs::remove_file(&name).unwrap();
        }
        // What was left over is taken over, and is nobody's to be given away.
        fs::write(&name, "").unwrap();
        let left = fs::metadata(&name).unwrap().uid();
        let taken = lock().unwrap();
        assert_eq!(fs::metadata(&name).unwrap().uid(), left);
        drop(taken);
        assert_eq!(fs::read_dir(&scratch.0).unwrap().count(), 1);
    }

    #[test]
    fn replaces_a_file_whole_with_its_mode() {
        let scratch = Scratch::new("replace");
        let path = scratch.0.join("file");
        fs::write(&path, "old").unwrap();
        install(&path, b"new", Access::private(None)).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o600);
        assert_eq!(
            fs::read_dir(&scratch.0).unwrap().count(),
            1,
            "nothing is left over"
        );
    }

    #[test]
    fn writes_through_a_link_and_keeps_the_link() {
        let scratch = Scratch::new("link");
        let (link, target) = (scratch.0.join("link"), scratch.0.join("target"));
        std::os::unix::fs::symlink("target", &link).unwrap();
        install(&link, b"x", Access::PUBLIC).unwrap();
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(fs::read(target).unwrap(), b"x");
    }

    #[test]
    fn leaves_nothing_behind_when_it_fails() {
        let scratch = Scratch::new("fail");
        let error = install(&scratch.0.join(".."), b"x", Access::PUBLIC).unwrap_err();
        assert!(error.to_string().starts_with("cannot write "), "{error}");
        assert_eq!(fs::read_dir(&scratch.0).unwrap().count(), 0);
    }

    #[test]
    fn creates_once_and_never_replaces() {
        let scratch = Scratch::new("create");
        let (link, target) = (scratch.0.join("link"), scratch.0.join("target"));
        std::os::unix::fs::symlink("target", &link).unwrap();
        create(&link, b"first", Access::private(None)).unwrap();
        for path in [&link, &target] {
            let error = create(path, b"second", Access::private(None)).unwrap_err();
            assert!(error.to_string().contains("File exists"), "{error}");
        }
        assert_eq!(fs::read(target).unwrap(), b"first");
    }

    #[test]
    fn finds_out_that_two_paths_are_one_place() {
        let scratch = Scratch::new("same");
        let at = |name: &str| scratch.0.join(name);
        std::os::unix::fs::symlink("file", at("link")).unwrap();
        fs::create_dir(at("d")).unwrap();
        let same = |one: &str, other: &str| is_same_place(&at(one), &at(other));
        assert!(same("file", "d/../file"));
        assert!(same("link", "./file"), "also before it is there");
        assert!(!same("file", "other"));
        fs::write(at("file"), "x").unwrap();
        fs::hard_link(at("file"), at("second")).unwrap();
        assert!(same("link", "second"));
        assert!(!same("file", "other"));
    }

    /// What a neighbour may have planted under a name of ours.
    #[test]
    fn writes_reads_and_removes_in_a_room_whatever_was_planted_there() {
        let scratch = Scratch::new("room");
        let outside = Scratch::new("room-outside");
        let victim = outside.0.join("victim");
        fs::write(&victim, "untouched").unwrap();
        let room = Room::open(&scratch.0).unwrap();
        let name = scratch.0.join("status.json");
        let plants: [&dyn Fn(); 7] = [
            &|| {},
            &|| fs::write(&name, "old").unwrap(),
            &|| std::os::unix::fs::symlink(&victim, &name).unwrap(),
            &|| std::os::unix::fs::symlink(&outside.0, &name).unwrap(),
            &|| nix::unistd::mkfifo(&name, Mode::S_IRWXU).unwrap(),
            &|| fs::create_dir(&name).unwrap(),
            &|| fs::create_dir_all(name.join("not/empty")).unwrap(),
        ];
        for plant in plants {
            plant();
            let planted = fs::symlink_metadata(&name).ok();
            if planted.is_some_and(|it| !it.is_file()) {
                assert!(room.read("status.json", 100).is_err());
                assert!(!room.is_installed("status.json", b"", Access::PUBLIC));
            }
            room.publish("status.json", b"new", Access::PUBLIC).unwrap();
            assert!(fs::symlink_metadata(&name).unwrap().is_file());
            assert_eq!(room.read("status.json", 100).unwrap(), b"new");
            assert!(room.is_installed("status.json", b"new", Access::PUBLIC));
            fs::remove_file(&name).unwrap();
            plant();
            room.remove("status.json").unwrap();
            assert!(fs::symlink_metadata(&name).is_err());
        }
        assert_eq!(fs::read(&victim).unwrap(), b"untouched");
        assert_eq!(fs::read_dir(&outside.0).unwrap().count(), 1);
    }

    #[test]
    fn enters_a_directory_below_and_no_link_to_one() {
        let scratch = Scratch::new("enter");
        let room = Room::open(&scratch.0).unwrap();
        assert!(room.enter("export").unwrap().is_none());
        std::os::unix::fs::symlink("/", scratch.0.join("link")).unwrap();
        fs::write(scratch.0.join("file"), "").unwrap();
        for name in ["link", "file"] {
            let error = room.enter(name).unwrap_err().to_string();
            assert!(error.starts_with("cannot open directory "), "{error}");
        }
        fs::create_dir(scratch.0.join("export")).unwrap();
        let export = room.enter("export").unwrap().unwrap();
        export.publish("file", b"x", Access::PUBLIC).unwrap();
        assert_eq!(fs::read(scratch.0.join("export/file")).unwrap(), b"x");
    }

    #[test]
    fn sweeps_away_what_a_cut_off_start_left() {
        let scratch = Scratch::new("sweep");
        let room = Room::open(&scratch.0).unwrap();
        room.create_temporary().unwrap();
        fs::write(scratch.0.join("other"), "").unwrap();
        assert_eq!(fs::read_dir(&scratch.0).unwrap().count(), 2);
        assert_eq!(room.sweep(), 0);
        assert_eq!(fs::read_dir(&scratch.0).unwrap().count(), 1);
    }

    #[test]
    fn makes_directories_that_the_daemon_can_read_and_widens_none() {
        let scratch = Scratch::new("directory");
        let mode = |path: &Path| fs::metadata(path).unwrap().mode() & 0o7777;
        let path = scratch.0.join("a/b");
        ensure_directory(&path).unwrap();
        assert_eq!(mode(&path), 0o755);
        fs::set_permissions(&path, Permissions::from_mode(0o700)).unwrap();
        ensure_directory(&path).unwrap();
        assert_eq!(mode(&path), 0o700);
    }

    #[test]
    fn reads_neither_pipes_nor_directories_nor_more_than_the_limit() {
        let scratch = Scratch::new("read");
        let fifo = scratch.0.join("fifo");
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
        for path in [&fifo, &scratch.0] {
            let error = read_bounded(path, 10).unwrap_err().to_string();
            assert!(error.contains("not a regular file"), "{error}");
        }
        let file = scratch.0.join("file");
        fs::write(&file, "0123456789").unwrap();
        assert_eq!(read_bounded(&file, 10).unwrap().len(), 10);
        let larger = read_bounded(&file, 9).unwrap_err();
        assert!(larger.to_string().ends_with("larger than 9 bytes"));
        assert!(larger.is_too_large() && !larger.is_missing());
        let missing = read_bounded(&scratch.0.join("none"), 9).unwrap_err();
        assert!(missing.is_missing() && !missing.is_too_large());
    }
}
