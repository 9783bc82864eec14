//! What the init does for its own safety: no core, nothing of its memory for others,
//! the last to go when memory runs out. Touches the kernel.

use std::{fs, io};

use nix::errno::Errno;
use nix::sys::prctl::set_dumpable;
use nix::sys::resource::{Resource, setrlimit};

/// What is started from now on leaves nothing of its memory in a core, wherever such go: a
/// limit of none does not hold for those that a program is given by a pipe (core(5)). Where
/// that is not ours to say, the limit is what there is.
pub fn leave_cores_empty() {
    let _ = fs::write("/proc/self/coredump_filter", "0");
}

/// Keeps this process's memory to itself: no core dump, and `/proc/<pid>` of it is
/// closed to everybody but root (`PR_SET_DUMPABLE`).
pub fn close_memory() -> Result<(), Errno> {
    setrlimit(Resource::RLIMIT_CORE, 0, 0)?;
    set_dumpable(false)
}

/// Exempts this process from the OOM killer: if PID 1 of a machine goes, the kernel
/// panics. For a machine alone, since a runtime has weighed a container against its
/// neighbours.
pub fn survive_memory_shortage() -> io::Result<()> {
    fs::write("/proc/self/oom_score_adj", "-1000")
}
