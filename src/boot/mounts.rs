//! The mounts a machine needs. Touches the kernel.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::mount::{MsFlags, mount};

use super::cmdline::Source;
use crate::sys::files::read_kernel_file;

/// A mount that did not work.
#[derive(Debug)]
pub struct MountError {
    what: String,
    target: PathBuf,
    errno: Errno,
}

impl fmt::Display for MountError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "cannot mount {} on {}: {}",
            self.what,
            self.target.display(),
            self.errno.desc()
        )?;
        match (self.errno, self.what.split_once(':')) {
            (Errno::EINVAL, Some(("virtiofs", tag))) => write!(
                f,
                "\nhint: no share has the tag {tag:?}; give the machine one, or name yours with sidecar.mount=virtiofs:TAG"
            ),
            (Errno::ENODEV, _) => write!(f, "\nhint: this kernel lacks that file system"),
            (Errno::ENOENT | Errno::ENXIO | Errno::ENOTBLK, Some((_, device))) => write!(
                f,
                "\nhint: the machine has no disk {device}; disks are /dev/vda, /dev/vdb, … in the order they were given"
            ),
            _ => Ok(()),
        }
    }
}

impl std::error::Error for MountError {}

const SAFE: MsFlags = MsFlags::MS_NOSUID
    .union(MsFlags::MS_NODEV)
    .union(MsFlags::MS_NOEXEC);

/// A kernel file system: type, place, flags, options, and whether the machine can do without.
const KERNEL: [(&str, &str, MsFlags, &str, bool); 8] = [
    ("proc", "/proc", SAFE, "", false),
    ("sysfs", "/sys", SAFE, "", false),
    (
        "devtmpfs",
        "/dev",
        MsFlags::MS_NOSUID.union(MsFlags::MS_NOEXEC),
        "mode=0755",
        false,
    ),
    (
        "devpts",
        "/dev/pts",
        MsFlags::MS_NOSUID.union(MsFlags::MS_NOEXEC),
        "mode=0620,ptmxmode=0666",
        true,
    ),
    ("tmpfs", "/dev/shm", SAFE, "mode=1777", true),
    ("cgroup2", "/sys/fs/cgroup", SAFE, "", true),
    ("tmpfs", "/run", SAFE, "mode=0755,size=32m", false),
    ("tmpfs", "/tmp", SAFE, "mode=1777,size=16m", true),
];

/// Mounts the kernel's file systems; what is mounted already (`EBUSY`) stays. The
/// warnings are those the machine can do without.
pub fn mount_kernel_file_systems() -> Result<Vec<MountError>, MountError> {
    let mut warnings = Vec::new();
    for (kind, target, flags, options, optional) in KERNEL {
        let target = Path::new(target);
        // devpts and shm: directories inside a fresh devtmpfs.
        let _ = fs::create_dir(target);
        match mount(Some(kind), target, Some(kind), flags, Some(options)) {
            Ok(()) | Err(Errno::EBUSY) => {}
            Err(errno) => {
                let error = MountError {
                    what: kind.to_owned(),
                    target: target.to_owned(),
                    errno,
                };
                if !optional {
                    return Err(error);
                }
                warnings.push(error);
            }
        }
    }
    Ok(warnings)
}

/// Mounts a share or a disk on `target`, which is created if need be.
pub fn mount_source(source: &Source, target: &Path, writable: bool) -> Result<(), MountError> {
    let failed = |errno| MountError {
        what: source.to_string(),
        target: target.to_owned(),
        errno,
    };
    // On a read-only root the image ships the directory; mount tells if it does not.
    let _ = fs::create_dir_all(target);
    let mut flags = SAFE;
    if !writable || source.kind == "erofs" {
        flags |= MsFlags::MS_RDONLY;
    }
    let options = match source.kind.as_str() {
        "9p" => Some("trans=virtio,version=9p2000.L"),
        _ => None,
    };
    match mount(
        Some(source.device.as_str()),
        target,
        Some(source.kind.as_str()),
        flags,
        options,
    ) {
        Ok(()) => Ok(()),
        // Somebody mounted this very source already; anything else at that place is EBUSY too.
        Err(Errno::EBUSY) if is_mount_point(target) => Ok(()),
        Err(errno) => Err(failed(errno)),
    }
}

/// Whether something is mounted on `path`.
#[must_use]
pub fn is_mount_point(path: &Path) -> bool {
    read_kernel_file("/proc/self/mountinfo").is_ok_and(|mounts| {
        mounts
            .lines()
            .any(|line| line.split(' ').nth(4).map(Path::new) == Some(path))
    })
}
