//! What libkrun, under whose kernel a machine may run, wants to be told. Touches the kernel: an
//! ioctl.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

use nix::errno::Errno;
use nix::libc;

/// Hands over the exit code: libkrun takes it by an ioctl on its virtiofs root (MACHINES.md);
/// any other root refuses it with `ENOTTY`.
#[allow(unsafe_code)]
pub fn take_code(code: u8) -> io::Result<()> {
    const KRUN_EXIT_CODE: libc::Ioctl = 0x7602;
    let root = File::open("/")?;
    let code = libc::c_ulong::from(code);
    // SAFETY: the request takes its argument by value.
    let result = unsafe { libc::ioctl(root.as_raw_fd(), KRUN_EXIT_CODE, code) };
    Ok(Errno::result(result).map(drop)?)
}
