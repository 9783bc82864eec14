//! Processes: what one becomes, and which there are by the kernel's account of them. Touches
//! the kernel: exec, `/proc`.

use std::ffi::{CStr, CString, c_char};
use std::fmt;
use std::marker::PhantomData;
use std::os::unix::fs::MetadataExt;

use nix::errno::Errno;
use nix::libc;

/// What a process can become, made before a fork.
#[derive(Debug)]
pub struct Image<'a> {
    program: &'a CStr,
    arguments: Vec<*const c_char>,
    environment: Vec<*const c_char>,
    strings: PhantomData<&'a [CString]>,
}

impl<'a> Image<'a> {
    /// `program` with these arguments, its own name first, and exactly this environment.
    #[must_use]
    pub fn new(program: &'a CStr, arguments: &'a [CString], environment: &'a [CString]) -> Self {
        let pointers = |strings: &[CString]| {
            let end = [std::ptr::null()];
            strings.iter().map(|it| it.as_ptr()).chain(end).collect()
        };
        Self {
            program,
            arguments: pointers(arguments),
            environment: pointers(environment),
            strings: PhantomData,
        }
    }

    /// Becomes it, or says why not. Neither allocates nor locks.
    #[must_use]
    #[allow(unsafe_code)]
    pub fn execute(&self) -> Errno {
        let (words, pairs) = (self.arguments.as_ptr(), self.environment.as_ptr());
        // SAFETY: both arrays end in a null, and point at strings that are borrowed for as long.
        unsafe { libc::execve(self.program.as_ptr(), words, pairs) };
        Errno::last()
    }
}

/// Whether descriptor `number` is one open file here and in the process `pid`; `EBADF` where
/// it is closed in either (kcmp(2)).
#[allow(unsafe_code)]
pub fn shares_open_file(pid: i32, number: i32) -> Result<bool, Errno> {
    const KCMP_FILE: libc::c_int = 0;
    let (call, own) = (libc::SYS_kcmp, std::process::id());
    // SAFETY: plain numbers.
    let order = unsafe { libc::syscall(call, own, pid, KCMP_FILE, number, number) };
    Errno::result(order).map(|order| order == 0)
}

/// The PID namespace of this process, by its inode; `None` without a `/proc`.
#[must_use]
pub fn pid_namespace() -> Option<u64> {
    let namespace = std::fs::metadata("/proc/self/ns/pid").ok()?;
    Some(namespace.ino())
}

/// Whether that is for want of what the machine has a limited number of: processes, memory,
/// descriptors. It says nothing about what was wanted with them.
#[must_use]
pub fn is_shortage(errno: Errno) -> bool {
    matches!(
        errno,
        Errno::EAGAIN | Errno::ENOMEM | Errno::EMFILE | Errno::ENFILE
    )
}

/// Why no process can be looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unseen {
    /// `/proc` numbers processes as another PID namespace does.
    OtherNamespace,
    /// `/proc` is not mounted.
    NoProc,
}

impl fmt::Display for Unseen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::OtherNamespace => "/proc is another PID namespace's",
            Self::NoProc => "there is no /proc",
        })
    }
}

impl std::error::Error for Unseen {}

/// Whether `/proc` shows processes by the numbers they have here. One of another PID
/// namespace shows somebody else instead, and what is wrong with him is no hole of ours.
pub fn sees_processes() -> Result<(), Unseen> {
    let own = std::process::id().to_string();
    match std::fs::read_link("/proc/self") {
        Ok(shown) if shown.as_os_str() == own.as_str() => Ok(()),
        Ok(_) => Err(Unseen::OtherNamespace),
        Err(_) => Err(Unseen::NoProc),
    }
}
