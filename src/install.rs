//! Puts files where they belong: whole or not at all, with exact mode and owner.
//! Touches the file system.

use std::fmt;
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};

use nix::libc;

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

    /// Whether there is more of it than was to be read.
    #[must_use]
    pub fn is_too_large(&self) -> bool {
        self.source.kind() == io::ErrorKind::FileTooLarge
    }
}

impl fmt::Display for FileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot {} {}: ", self.verb, self.path.display())?;
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

/// Replaces `path` by `bytes`, so that a cut at any moment leaves the old file or the
/// new one: a temporary file beside it, fsync, rename, fsync of the directory. Where
/// `path` is a symbolic link its target is replaced and the link stays: that is how
/// a read-only `/etc` points into `/run`.
pub fn install(path: &Path, bytes: &[u8], access: Access) -> Result<(), FileError> {
    replace(path, bytes, access, true)
}

/// Whether `path` is already what [`install`] would make it.
#[must_use]
pub fn is_installed(path: &Path, bytes: &[u8], access: Access) -> bool {
    fs::symlink_metadata(path).is_ok_and(|metadata| {
        metadata.is_file()
            && metadata.permissions().mode() & 0o7777 == access.mode
            && access
                .owner
                .is_none_or(|owner| owner == (metadata.uid(), metadata.gid()))
    }) && read_bounded(path, bytes.len()).is_ok_and(|found| found == bytes)
}

/// [`install`] without waiting for a disk: for what is worthless after this boot.
pub fn publish(path: &Path, bytes: &[u8], access: Access) -> Result<(), FileError> {
    replace(path, bytes, access, false)
}

fn replace(path: &Path, bytes: &[u8], access: Access, durable: bool) -> Result<(), FileError> {
    let target = follow_link(path);
    let name = target.file_name().unwrap_or_default();
    let mut temporary_name = std::ffi::OsString::from(".");
    temporary_name.push(name);
    temporary_name.push(".new");
    let temporary = target.with_file_name(temporary_name);
    let result = write_new(&temporary, bytes, access, durable)
        .and_then(|()| fs::rename(&temporary, &target))
        .and_then(|()| match target.parent() {
            Some(directory) if durable => File::open(Path::new(".").join(directory))?.sync_all(),
            _ => Ok(()),
        });
    result.map_err(|source| {
        // Never leave a half-written file; the error that matters is the first one.
        let _ = fs::remove_file(&temporary);
        FileError::new("write", path, source)
    })
}

fn write_new(path: &Path, bytes: &[u8], access: Access, durable: bool) -> io::Result<()> {
    let create = || {
        OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .custom_flags(libc::O_NOFOLLOW)
            .open(path)
    };
    let mut file = match create() {
        // A remainder of a boot that was cut off. O_EXCL keeps links out.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            fs::remove_file(path)?;
            create()?
        }
        created => created?,
    };
    file.write_all(bytes)?;
    // Before it is somebody else's: that one's mode only CAP_FOWNER could set.
    file.set_permissions(Permissions::from_mode(access.mode))?;
    if let Some((uid, gid)) = access.owner {
        fchown(&file, Some(uid), Some(gid))?;
    }
    if durable { file.sync_all() } else { Ok(()) }
}

/// Where a link at `path` leads, one level: the image's links are direct.
fn follow_link(path: &Path) -> PathBuf {
    match fs::read_link(path) {
        Ok(target) => path.parent().unwrap_or(Path::new("/")).join(target),
        Err(_) => path.to_owned(),
    }
}

/// Reads a regular file of at most `limit` bytes. Anything else at that path, a FIFO
/// or a device, is refused before it could make PID 1 wait.
pub fn read_bounded(path: &Path, limit: usize) -> Result<Vec<u8>, FileError> {
    let failed = |source: io::Error| FileError::new("read", path, source);
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY)
        .open(path)
        .map_err(failed)?;
    let metadata = file.metadata().map_err(failed)?;
    if !metadata.is_file() {
        let kind = if metadata.is_dir() {
            "a directory"
        } else {
            "a device, pipe or socket"
        };
        return Err(failed(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("it is {kind}, not a regular file"),
        )));
    }
    let length = usize::try_from(metadata.len()).unwrap_or(limit).min(limit);
    read_onto(Vec::with_capacity(length + 1), file, limit).map_err(failed)
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

/// Makes sure a directory is there, with every parent, readable by the daemon.
pub fn ensure_directory(path: &Path) -> Result<(), FileError> {
    let failed = |source| FileError::new("create directory", path, source);
    fs::create_dir_all(path).map_err(failed)?;
    // The umask may have taken the bits the daemon's watcher needs; refused where
    // the directory is somebody else's, who then decides.
    if let Ok(directory) = File::open(path)
        && let Ok(metadata) = directory.metadata()
        && metadata.permissions().mode() & 0o055 != 0o055
    {
        let mode = metadata.permissions().mode() | 0o055;
        let _ = directory.set_permissions(Permissions::from_mode(mode & 0o7777));
    }
    Ok(())
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
        let path = scratch.0.join("directory");
        fs::create_dir(&path).unwrap();
        let error = install(&path, b"x", Access::PUBLIC).unwrap_err();
        assert!(error.to_string().starts_with("cannot write "), "{error}");
        assert_eq!(fs::read_dir(&scratch.0).unwrap().count(), 1);
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
