//! Starts the daemon in its final sandbox. Touches the kernel: fork and exec.

use std::convert::Infallible;
use std::ffi::{CStr, CString};
use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::libc;
use nix::sys::signal::{SigSet, SigmaskHow, sigprocmask};
use nix::unistd::{ForkResult, fork, pipe2};

use super::descriptors;
use super::{Prepared, Sandbox, Step};

/// What is executed.
#[derive(Debug, Clone)]
pub struct Command {
    program: CString,
    arguments: Vec<CString>,
    environment: Vec<CString>,
}

impl Command {
    /// `program arguments…` with exactly this environment, each `NAME=value`.
    pub fn new(program: &Path, arguments: &[&str], environment: &[String]) -> io::Result<Self> {
        use std::os::unix::ffi::OsStrExt;
        let program = CString::new(program.as_os_str().as_bytes())?;
        let mut argv = vec![program.clone()];
        for argument in arguments {
            argv.push(CString::new(*argument)?);
        }
        let environment = environment
            .iter()
            .map(|pair| CString::new(pair.as_str()))
            .collect::<Result<_, _>>()?;
        Ok(Self {
            program,
            arguments: argv,
            environment,
        })
    }
}

/// A daemon that was forked; whether it could be executed is told by `exec_report`.
#[derive(Debug)]
pub struct Child {
    /// Its process id, its session and its process group.
    pub pid: i32,
    /// What it writes to standard output.
    pub stdout: File,
    /// What it writes to standard error.
    pub stderr: File,
    /// Ends when the exec succeeded, or says why it did not.
    pub exec_report: ExecReport,
}

/// Why a daemon could not be started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpawnError {
    step: Option<Step>,
    program: String,
    /// The operating system's reason.
    pub errno: i32,
}

impl fmt::Display for SpawnError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let cause = Errno::from_raw(self.errno).desc();
        match self.step {
            Some(step) => write!(f, "cannot {step} {}: {cause}", self.program),
            None => write!(f, "cannot fork for {}: {cause}", self.program),
        }
    }
}

impl std::error::Error for SpawnError {}

/// The close-on-exec pipe over which a child reports what failed.
#[derive(Debug)]
pub struct ExecReport {
    pipe: File,
    program: String,
    received: Vec<u8>,
}

impl AsFd for ExecReport {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.pipe.as_fd()
    }
}

impl ExecReport {
    /// Reads what there is: `None` while it is undecided.
    pub fn outcome(&mut self) -> Option<Result<(), SpawnError>> {
        let mut buffer = [0_u8; 8];
        loop {
            match self.pipe.read(&mut buffer) {
                Ok(0) => break,
                Ok(n) => self.received.extend(buffer.iter().take(n)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return None,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => break,
            }
        }
        match self.received.as_slice() {
            [] => Some(Ok(())),
            [step, a, b, c, d] => Some(Err(SpawnError {
                step: Step::from_byte(*step),
                program: self.program.clone(),
                errno: i32::from_ne_bytes([*a, *b, *c, *d]),
            })),
            _ => Some(Err(SpawnError {
                step: None,
                program: self.program.clone(),
                errno: libc::EPROTO,
            })),
        }
    }
}

/// Forks and executes `command` inside `sandbox`: own session, `/dev/null` as
/// standard input, pipes as output, nothing else inherited. Returns as soon as the
/// child exists, so that its PID is recorded before anything is reaped.
#[allow(unsafe_code)]
pub fn spawn(
    command: &Command,
    sandbox: &Sandbox,
    prepared: &Prepared,
) -> Result<Child, SpawnError> {
    let program = command.program.to_string_lossy().into_owned();
    let failed = |errno: Errno| SpawnError {
        step: None,
        program: program.clone(),
        errno: errno as i32,
    };
    let pointers = |strings: &[CString]| -> Vec<*const libc::c_char> {
        strings
            .iter()
            .map(|string| string.as_ptr())
            .chain([std::ptr::null()])
            .collect()
    };
    let argv = pointers(&command.arguments);
    let envp = pointers(&command.environment);
    let null = nix::fcntl::open(
        c"/dev/null",
        OFlag::O_RDONLY | OFlag::O_CLOEXEC,
        nix::sys::stat::Mode::empty(),
    )
    .map_err(|errno| SpawnError {
        step: Some(Step::Descriptors),
        program: program.clone(),
        errno: errno as i32,
    })?;
    let (stdout_read, stdout_write) = pipe2(OFlag::O_CLOEXEC).map_err(failed)?;
    let (stderr_read, stderr_write) = pipe2(OFlag::O_CLOEXEC).map_err(failed)?;
    let (report_read, report_write) = pipe2(OFlag::O_CLOEXEC).map_err(failed)?;
    for end in [&stdout_read, &stderr_read, &report_read] {
        set_nonblocking(end).map_err(failed)?;
    }
    // Blocked until the child has default dispositions: our handlers in the child would
    // write into our own signal pipe.
    let mut before = SigSet::empty();
    sigprocmask(
        SigmaskHow::SIG_SETMASK,
        Some(&SigSet::all()),
        Some(&mut before),
    )
    .map_err(failed)?;
    let parent = nix::unistd::getpid();
    // SAFETY: the program has one thread, so the child owns a consistent heap; it
    // still calls only what `exec` documents, and never returns from it.
    let forked = unsafe { fork() };
    if !matches!(forked, Ok(ForkResult::Child)) {
        sigprocmask(SigmaskHow::SIG_SETMASK, Some(&before), None).map_err(failed)?;
    }
    match forked.map_err(failed)? {
        ForkResult::Parent { child } => Ok(Child {
            pid: child.as_raw(),
            stdout: stdout_read.into(),
            stderr: stderr_read.into(),
            exec_report: ExecReport {
                pipe: report_read.into(),
                program,
                received: Vec::new(),
            },
        }),
        ForkResult::Child => {
            let report = report_write.as_raw_fd();
            let streams = [
                null.as_raw_fd(),
                stdout_write.as_raw_fd(),
                stderr_write.as_raw_fd(),
            ];
            let Err((step, errno)) = exec(
                &command.program,
                &argv,
                &envp,
                streams,
                (sandbox, prepared),
                Some(parent.as_raw()),
            );
            let errno = (errno as i32).to_ne_bytes();
            let [a, b, c, d] = errno;
            let message = [step as u8, a, b, c, d];
            // SAFETY: writes five bytes of a local array, then ends without running
            // destructors or exit handlers, which belong to the parent.
            unsafe {
                libc::write(report, message.as_ptr().cast(), message.len());
                libc::_exit(127)
            }
        }
    }
}

/// Enters the sandbox without a fork and becomes `command`, its output where this
/// program's is; for trying a daemon by itself. Returns only the error.
#[must_use]
pub fn become_command(command: &Command, sandbox: &Sandbox, prepared: &Prepared) -> SpawnError {
    let pointers = |strings: &[CString]| -> Vec<*const libc::c_char> {
        let ends = [std::ptr::null()];
        strings.iter().map(|it| it.as_ptr()).chain(ends).collect()
    };
    let (argv, envp) = (pointers(&command.arguments), pointers(&command.environment));
    let Err((step, errno)) = exec(
        &command.program,
        &argv,
        &envp,
        [0, 1, 2],
        (sandbox, prepared),
        None,
    );
    SpawnError {
        step: Some(step),
        program: command.program.to_string_lossy().into_owned(),
        errno: errno as i32,
    }
}

/// The child's way from fork to exec. Calls nothing that allocates or locks. With a
/// `supervisor`, it does not outlive that process.
#[allow(unsafe_code)]
fn exec(
    program: &CStr,
    argv: &[*const libc::c_char],
    envp: &[*const libc::c_char],
    streams: [RawFd; 3],
    (sandbox, prepared): (&Sandbox, &Prepared),
    supervisor: Option<libc::pid_t>,
) -> Result<Infallible, (Step, Errno)> {
    // SAFETY: plain numbers, pointers to local values, and the two arrays, which are
    // null-terminated and point at strings that outlive the call.
    unsafe {
        for (stream, target) in streams.into_iter().zip(0..) {
            // The init's own 0 to 2 are open, so no pipe end has such a number and
            // dup2 always makes a descriptor without close-on-exec.
            if libc::dup2(stream, target) < 0 {
                return Err((Step::Descriptors, Errno::last()));
            }
        }
        descriptors::close_on_exec().map_err(|errno| (Step::Inheritance, errno))?;
        // All zeroes: SIG_DFL, no flags, an empty mask, whatever the architecture's layout.
        let default = [0_u64; 4];
        for number in 1..=64 {
            // The raw call: C libraries refuse 32 to 34, which a parent may have ignored
            // all the same (glibc's posix_spawn does). Refused only for KILL and STOP.
            libc::syscall(
                libc::SYS_rt_sigaction,
                number,
                default.as_ptr(),
                std::ptr::null::<u64>(),
                size_of::<u64>(),
            );
        }
        let mut none: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut none);
        if libc::sigprocmask(libc::SIG_SETMASK, &raw const none, std::ptr::null_mut()) != 0 {
            return Err((Step::Signals, Errno::last()));
        }
        sandbox.apply(prepared)?;
        if let Some(supervisor) = supervisor {
            // A firewall that nobody watches is worse than none. Only now: a change of
            // user takes this back (prctl(2)). It may be too late already.
            libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL, 0, 0, 0);
            if libc::getppid() != supervisor {
                libc::_exit(127);
            }
        }
        libc::execve(program.as_ptr(), argv.as_ptr(), envp.as_ptr());
    }
    Err((Step::Exec, Errno::last()))
}

fn set_nonblocking(fd: &OwnedFd) -> Result<(), Errno> {
    nix::fcntl::fcntl(fd, nix::fcntl::FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn says_what_failed_in_one_sentence() {
        let missing = SpawnError {
            step: Some(Step::Exec),
            program: "/usr/bin/pipelock".to_owned(),
            errno: libc::ENOENT,
        };
        assert_eq!(
            missing.to_string(),
            "cannot execute /usr/bin/pipelock: No such file or directory"
        );
    }
}
