//! The daemon's control group in machine mode: what runs out of memory there is the
//! daemon, not the machine. Touches the kernel: cgroup v2.

use std::fmt;
use std::fs::{self, OpenOptions};
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use crate::sys::files::read_kernel_file;
use crate::sys::memory::flat_keyed;

/// Where machine mode mounts the hierarchy.
pub const ROOT: &str = "/sys/fs/cgroup";
const NAME: &str = "pipelock";
/// Processes and threads. pipelock has about ten of them; Go makes one more for each
/// system call that blocks.
const MOST_TASKS: u32 = 512;
/// The part of the machine's memory that is kept for the kernel and the init, of what is
/// there to be had before the daemon starts. What the kernel holds by then it does not give
/// back: a fixed part of the whole would leave too little of a small machine.
const KEPT: u64 = 16;

/// What the daemon gets of a machine with `total` bytes, of which `available` can be had.
fn share(total: u64, available: u64) -> u64 {
    // At least a half, should the kernel ever say that next to nothing is to be had.
    available
        .saturating_sub(total / KEPT)
        .clamp(total / 2, total / 8 * 7)
}

/// A control group that could not be made.
#[derive(Debug)]
pub struct GroupError {
    path: PathBuf,
    source: io::Error,
}

impl fmt::Display for GroupError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "cannot limit the daemon's memory and processes: {}: {}",
            self.path.display(),
            self.source
        )
    }
}

impl std::error::Error for GroupError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.source)
    }
}

/// The group, with its limits set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    path: PathBuf,
    memory_max: u64,
}

impl Group {
    /// Makes the group below `root` for a machine with `total` bytes of memory, of which
    /// `available` can be had.
    pub fn create(root: &Path, total: u64, available: u64) -> Result<Self, GroupError> {
        let path = root.join(NAME);
        let memory_max = share(total, available);
        // "+" fails whole where one of them is not there.
        set(root, "cgroup.subtree_control", "+memory +pids")?;
        match fs::create_dir(&path) {
            Err(source) if source.kind() != io::ErrorKind::AlreadyExists => {
                return Err(GroupError { path, source });
            }
            _ => {}
        }
        set(&path, "memory.max", &memory_max.to_string())?;
        // A daemon of which one thread's memory is gone enforces nothing: all or none.
        set(&path, "memory.oom.group", "1")?;
        set(&path, "pids.max", &MOST_TASKS.to_string())?;
        // A kernel without swap lacks the file, and needs no limit.
        let _ = set(&path, "memory.swap.max", "0");
        Ok(Self { path, memory_max })
    }

    /// Its limit, in bytes.
    #[must_use]
    pub fn limit(&self) -> u64 {
        self.memory_max
    }

    /// Where a process enters by writing "0".
    pub fn entrance(&self) -> Result<OwnedFd, GroupError> {
        let path = self.path.join("cgroup.procs");
        match OpenOptions::new().write(true).open(&path) {
            Ok(file) => Ok(file.into()),
            Err(source) => Err(GroupError { path, source }),
        }
    }

    /// SIGKILL to everybody in it, those included that fork meanwhile (Linux 5.14).
    pub fn kill_everybody(&self) {
        if let Err(error) = set(&self.path, "cgroup.kill", "1") {
            log::warn!("cannot kill what the daemon left behind: {error}");
        }
    }

    /// How many processes of it were killed for lack of memory, its own or the machine's.
    #[must_use]
    pub fn oom_kills(&self) -> u64 {
        read_kernel_file(self.path.join("memory.events"))
            .ok()
            .and_then(|text| flat_keyed(&text, "oom_kill"))
            .unwrap_or(0)
    }

    /// Its limit, for a sentence.
    #[must_use]
    pub fn describe_limit(&self) -> String {
        format!("its limit is {} MiB", self.memory_max >> 20)
    }

    /// Whether a process is in it.
    #[must_use]
    pub fn holds(&self, pid: i32) -> bool {
        let wanted = format!("0::/{NAME}");
        read_kernel_file(format!("/proc/{pid}/cgroup"))
            .is_ok_and(|text| text.lines().any(|line| line == wanted))
    }
}

fn set(directory: &Path, name: &str, value: &str) -> Result<(), GroupError> {
    let path = directory.join(name);
    fs::write(&path, value).map_err(|source| GroupError { path, source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_the_kills_and_not_the_group_kills() {
        let events = "low 0\nhigh 0\nmax 12\noom 3\noom_kill 2\noom_group_kill 1\n";
        assert_eq!(flat_keyed(events, "oom_kill"), Some(2));
        assert_eq!(flat_keyed("", "oom_kill"), None);
    }

    #[test]
    fn leaves_a_sixteenth_of_what_is_there_to_be_had() {
        let mib = |mib: u64| mib << 20;
        assert_eq!(share(mib(1600), mib(1400)), mib(1300));
        // Neither more than seven eighths nor less than a half, whatever is said.
        assert_eq!(share(mib(1600), mib(1600)), mib(1400));
        assert_eq!(share(mib(1600), 0), mib(800));
        assert_eq!(share(mib(1600), u64::MAX), mib(1400));
    }

    #[test]
    fn names_the_file_that_refused() {
        let error = Group::create(Path::new("/nonexistent"), 1 << 30, 1 << 29).unwrap_err();
        assert_eq!(
            error.to_string(),
            "cannot limit the daemon's memory and processes: \
             /nonexistent/cgroup.subtree_control: No such file or directory (os error 2)"
        );
    }
}
