//! Whose a process is, and what it may. Touches the kernel; nothing here allocates or locks,
//! so that all of it serves between fork and exec.

use nix::errno::Errno;
use nix::libc;
use nix::unistd::{Gid, Uid, setgroups, setresgid, setresuid};

/// Above every capability of any kernel; the prctl refuses the ones it does not know.
const CAP_LIMIT: libc::c_ulong = 64;

/// `capget(2)` version 3: two 32-bit halves.
#[repr(C)]
struct Header {
    version: u32,
    pid: i32,
}

/// This process.
const OWN: Header = Header {
    version: 0x2008_0522,
    pid: 0,
};

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Half {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

/// The effective capabilities, a bit for each; none where they cannot be read.
#[must_use]
#[allow(unsafe_code)]
pub fn effective_capabilities() -> u64 {
    let header = OWN;
    let mut halves = [Half::default(); 2];
    // SAFETY: both have the kernel's layout for version 3 and live through the call.
    let result = unsafe { libc::syscall(libc::SYS_capget, &raw const header, halves.as_mut_ptr()) };
    if result != 0 {
        return 0;
    }
    let [low, high] = halves;
    u64::from(low.effective) | (u64::from(high.effective) << 32)
}

/// Leaves no capability in any set but the bounding one.
#[allow(unsafe_code)]
pub fn drop_capabilities() -> Result<(), Errno> {
    let header = OWN;
    let halves = [Half::default(); 2];
    // SAFETY: both have the kernel's layout for version 3 and live through the call.
    let result = unsafe { libc::syscall(libc::SYS_capset, &raw const header, halves.as_ptr()) };
    Errno::result(result).map(drop)
}

/// Empties the bounding set: what any process below may ever gain.
#[allow(unsafe_code)]
pub fn drop_bounding() -> Result<(), Errno> {
    for capability in 0..CAP_LIMIT {
        // SAFETY: plain numbers.
        let dropped = unsafe { libc::prctl(libc::PR_CAPBSET_DROP, capability, 0, 0, 0) };
        match Errno::result(dropped) {
            Ok(_) => {}
            // Ends the list: the kernel knows no higher one.
            Err(Errno::EINVAL) => break,
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

/// Clears the ambient set. Kernels before 4.3 have none: EINVAL, and nothing to clear.
#[allow(unsafe_code)]
pub fn drop_ambient() {
    let clear = libc::PR_CAP_AMBIENT_CLEAR_ALL;
    // SAFETY: plain numbers.
    unsafe { libc::prctl(libc::PR_CAP_AMBIENT, clear, 0, 0, 0) };
}

/// Belongs to no group besides its own.
pub fn drop_groups() -> Result<(), Errno> {
    setgroups(&[])
}

/// Changes the real, the effective and the saved group.
pub fn become_group(group: u32) -> Result<(), Errno> {
    let group = Gid::from_raw(group);
    setresgid(group, group, group)
}

/// Changes the real, the effective and the saved user.
pub fn become_user(user: u32) -> Result<(), Errno> {
    let user = Uid::from_raw(user);
    setresuid(user, user, user)
}
