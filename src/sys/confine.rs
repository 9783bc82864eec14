//! Landlock and seccomp as the kernel takes them. Touches the kernel; nothing here allocates
//! or locks, so that all of it serves between fork and exec.

use std::os::fd::{AsRawFd, BorrowedFd};

use nix::errno::Errno;
use nix::libc;
use seccompiler::sock_filter;

/// The version of the kernel's Landlock; 0 where there is none, or none enabled.
#[must_use]
#[allow(unsafe_code)]
pub fn landlock_version() -> u32 {
    /// `LANDLOCK_CREATE_RULESET_VERSION`
    const VERSION: libc::c_int = 1;
    let nothing = std::ptr::null::<libc::c_void>();
    // SAFETY: asks for the version; reads and writes no memory.
    let found = unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, nothing, 0, VERSION) };
    u32::try_from(found).unwrap_or(0)
}

/// Enters Landlock rules, for good. Needs no new privileges to be set.
#[allow(unsafe_code)]
pub fn enter_landlock(rules: BorrowedFd) -> Result<(), Errno> {
    let rules = rules.as_raw_fd();
    // SAFETY: plain numbers; a descriptor of something else is refused.
    let entered = unsafe { libc::syscall(libc::SYS_landlock_restrict_self, rules, 0) };
    Errno::result(entered).map(drop)
}

/// Whether this kernel filters system calls at all (`CONFIG_SECCOMP_FILTER`).
#[must_use]
#[allow(unsafe_code)]
pub fn has_filters() -> bool {
    let answer = libc::SECCOMP_RET_ERRNO;
    let (call, operation) = (libc::SYS_seccomp, libc::SECCOMP_GET_ACTION_AVAIL);
    // SAFETY: reads one number of ours (seccomp(2)).
    unsafe { libc::syscall(call, operation, 0, &raw const answer) == 0 }
}

/// Installs a filter in this process, for good. Needs no new privileges to be set.
#[allow(unsafe_code)]
pub fn install_filter(program: &[sock_filter]) -> Result<(), Errno> {
    let program = libc::sock_fprog {
        // The kernel refuses more than 4096 instructions.
        len: u16::try_from(program.len()).unwrap_or(u16::MAX),
        filter: program.as_ptr().cast::<libc::sock_filter>().cast_mut(),
    };
    let (call, operation) = (libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER);
    // SAFETY: both structures have the kernel's layout, which copies them.
    let installed = unsafe { libc::syscall(call, operation, 0, &raw const program) };
    Errno::result(installed).map(drop)
}
