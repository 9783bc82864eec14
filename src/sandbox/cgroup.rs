//! The daemons' control groups in machine mode, siblings: what runs out of memory there is
//! that daemon, not the machine, and none of the others. Touches the kernel: cgroup v2.

use std::fmt;
use std::fs::{self, OpenOptions};
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use crate::sys::files::read_kernel_file;
use crate::sys::memory::flat_keyed;

/// Where machine mode mounts the hierarchy.
pub const ROOT: &str = "/sys/fs/cgroup";
/// pipelock's group.
pub const NAME: &str = "pipelock";
/// Processes and threads. pipelock has about ten of them; Go makes one more for each
/// system call that blocks.
const MOST_TASKS: u32 = 512;
/// Of another daemon. A machine may have no more than 4096 of all
/// (`pid_max` of one with little memory): eight such leave pipelock and the init theirs.
const MOST_TASKS_OF_COMPANION: u32 = 256;
/// What pipelock cannot work without, in bytes: pipelock 2.3.0 has 25 MiB resident when it is
/// ready and nobody has asked it anything.
const LEAST: u64 = 32 << 20;
/// The part of the machine's memory that is kept for the kernel and the init, of what is
/// there to be had before the daemon starts. What the kernel holds by then it does not give
/// back: a fixed part of the whole would leave too little of a small machine.
const KEPT: u64 = 16;

/// What the daemons get of a machine with `total` bytes, of which `available` can be had:
/// all of it is pipelock's where there are no others.
#[must_use]
pub fn share(total: u64, available: u64) -> u64 {
    // At least a half, should the kernel ever say that next to nothing is to be had.
    available
        .saturating_sub(total / KEPT)
        .clamp(total / 2, total / 8 * 7)
}

/// What each daemon gets of what all get, in bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shares {
    /// What the others leave to pipelock.
    pub pipelock: u64,
    /// The other daemons', in their order.
    pub companions: Vec<u64>,
}

impl Shares {
    /// Divides `whole`, in bytes ([`share`]), among pipelock and companions that were promised
    /// as many MiB, or nothing: such a one gets an eighth of the whole, but no more than an
    /// equal part of half of what those with a promise leave. Nothing is given twice: what
    /// one uses up no other lacks.
    pub fn divide(whole: u64, promised: &[Option<u32>]) -> Result<Self, Overpromised> {
        let bytes = |mib: u32| u64::from(mib) << 20;
        let sum: u64 = promised.iter().flatten().copied().map(bytes).sum();
        let unnamed = promised.iter().filter(|it| it.is_none()).count() as u64;
        let rest = whole.saturating_sub(sum);
        let each = (rest / 2).checked_div(unnamed).unwrap_or(0).min(whole / 8);
        let pipelock = rest - each * unnamed;
        if pipelock < LEAST && !promised.is_empty() {
            return Err(Overpromised {
                whole,
                sum,
                unnamed,
            });
        }
        let companions = promised.iter().map(|mib| mib.map_or(each, bytes)).collect();
        Ok(Self {
            pipelock,
            companions,
        })
    }
}

/// More memory was promised than pipelock can spare.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Overpromised {
    whole: u64,
    sum: u64,
    unnamed: u64,
}

impl fmt::Display for Overpromised {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "cannot give the daemons their memory: they were promised {} MiB",
            self.sum >> 20
        )?;
        if self.unnamed > 0 {
            write!(f, ", {} of them nothing in particular", self.unnamed)?;
        }
        write!(
            f,
            ", and of the {} MiB that there are pipelock needs {}\nhint: give the machine more memory, or lower \
             memory_mib",
            self.whole >> 20,
            LEAST >> 20
        )
    }
}

impl std::error::Error for Overpromised {}

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
    /// Makes pipelock's group below `root` for a machine with `total` bytes of memory, of
    /// which `available` can be had.
    pub fn create(root: &Path, total: u64, available: u64) -> Result<Self, GroupError> {
        Self::make(root, NAME, share(total, available), MOST_TASKS)
    }

    /// Makes another daemon's group below `root`, by its name, with this limit in bytes
    /// ([`Shares`]).
    pub fn companion(root: &Path, name: &str, memory_max: u64) -> Result<Self, GroupError> {
        Self::make(root, name, memory_max, MOST_TASKS_OF_COMPANION)
    }

    fn make(root: &Path, name: &str, memory_max: u64, tasks: u32) -> Result<Self, GroupError> {
        let path = root.join(name);
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
        set(&path, "pids.max", &tasks.to_string())?;
        // A kernel without swap lacks the file, and needs no limit.
        let _ = set(&path, "memory.swap.max", "0");
        Ok(Self { path, memory_max })
    }

    /// Changes its limit, in bytes: pipelock's, when other daemons come and go. Whoever uses
    /// more at that moment is killed, unless the kernel finds what to reclaim: lower it while
    /// nobody is in the group.
    pub fn limit_to(&mut self, memory_max: u64) -> Result<(), GroupError> {
        set(&self.path, "memory.max", &memory_max.to_string())?;
        self.memory_max = memory_max;
        Ok(())
    }

    /// Removes it, of a daemon that is no more. Everybody in it has to be dead and reaped: the
    /// kernel's answer is `EBUSY` until then.
    pub fn remove(self) -> Result<(), GroupError> {
        fs::remove_dir(&self.path).map_err(|source| GroupError {
            path: self.path,
            source,
        })
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
        let name = self.path.file_name().unwrap_or_default();
        let wanted = format!("0::/{}", name.to_string_lossy());
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

    const MIB: u64 = 1 << 20;

    #[test]
    fn what_others_are_promised_is_no_longer_pipelocks() {
        let divide = |whole: u64, promised: &[Option<u32>]| {
            let shares = Shares::divide(whole * MIB, promised).unwrap();
            let companions: Vec<_> = shares.companions.iter().map(|it| it / MIB).collect();
            assert_eq!(
                shares.pipelock + shares.companions.iter().sum::<u64>(),
                whole * MIB,
                "all of it, once"
            );
            (shares.pipelock / MIB, companions)
        };
        assert_eq!(divide(448, &[]), (448, vec![]));
        assert_eq!(divide(448, &[Some(96)]), (352, vec![96]));
        assert_eq!(divide(448, &[None]), (392, vec![56]), "an eighth");
        assert_eq!(
            divide(448, &[Some(96), None, Some(32)]),
            (264, vec![96, 56, 32])
        );
        // However many there are, pipelock has half of what was not promised.
        assert_eq!(divide(480, &[None; 8]), (240, vec![30; 8]));
    }

    #[test]
    fn no_promise_takes_from_pipelock_what_it_needs() {
        assert!(
            Shares::divide(30 * MIB, &[]).is_ok(),
            "alone it is as it was"
        );
        let error = Shares::divide(100 * MIB, &[Some(50), None, Some(20)]).unwrap_err();
        assert_eq!(
            error.to_string(),
            "cannot give the daemons their memory: they were promised 70 MiB, 1 of them nothing in particular, \
             and of the 100 MiB that there are pipelock needs 32\nhint: give the machine more memory, or lower \
             memory_mib"
        );
        assert!(Shares::divide(100 * MIB, &[Some(68)]).is_ok());
        assert!(Shares::divide(100 * MIB, &[Some(69)]).is_err());
        assert!(Shares::divide(u64::MAX, &[Some(u32::MAX); 9]).is_ok());
        assert!(Shares::divide(0, &[Some(u32::MAX); 9]).is_err());
    }

    /// A directory in the hierarchy's place: what is written is read there.
    struct Root(PathBuf);

    impl Root {
        fn new(name: &str) -> Self {
            let name = format!("sidecar-cgroup-{name}-{}", std::process::id());
            let path = std::env::temp_dir().join(name);
            fs::create_dir_all(&path).unwrap();
            Self(path)
        }

        fn read(&self, file: &str) -> String {
            fs::read_to_string(self.0.join(file)).unwrap()
        }
    }

    impl Drop for Root {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn each_daemon_has_a_group_of_its_own_beside_the_others() {
        let root = Root::new("siblings");
        let mut pipelock = Group::create(&root.0, 512 * MIB, 480 * MIB).unwrap();
        let shares = Shares::divide(pipelock.limit(), &[Some(96), None]).unwrap();
        pipelock.limit_to(shares.pipelock).unwrap();
        for (name, memory_max) in ["egress", "git-gate"].into_iter().zip(&shares.companions) {
            let group = Group::companion(&root.0, name, *memory_max).unwrap();
            assert_eq!(group.limit(), *memory_max);
        }
        for (group, memory_max, tasks) in [
            ("pipelock", 296 * MIB, "512"),
            ("egress", 96 * MIB, "256"),
            ("git-gate", 56 * MIB, "256"),
        ] {
            let read = |file: &str| root.read(&format!("{group}/{file}"));
            assert_eq!(read("memory.max"), memory_max.to_string(), "{group}");
            assert_eq!(read("pids.max"), tasks, "{group}");
            assert_eq!(read("memory.oom.group"), "1", "{group}");
            assert_eq!(read("memory.swap.max"), "0", "{group}");
        }
        assert_eq!(pipelock.limit(), 296 * MIB);
    }

    #[test]
    fn a_group_of_a_daemon_that_is_no_more_is_removed() {
        let root = Root::new("removed");
        let path = root.0.join("gone");
        fs::create_dir(&path).unwrap();
        let group = Group {
            path: path.clone(),
            memory_max: 0,
        };
        group.clone().remove().unwrap();
        assert!(!path.exists());
        let error = group.remove().unwrap_err().to_string();
        assert!(error.contains("gone: No such file"), "{error}");
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
