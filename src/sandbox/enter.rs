//! Starts the daemon in its final sandbox. Touches the kernel: fork and exec.

use std::ffi::{CString, OsStr};
use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::unistd::{Pid, dup2_stderr, dup2_stdin, dup2_stdout, pipe2};

use super::unexecuted::{Lack, lack};
use super::{Prepared, Sandbox, Step, landlock};
use crate::exit::ExitCode;
use crate::sys::fork;
use crate::sys::process::{Image, is_shortage};
use crate::sys::reach::User;
use crate::sys::signals::{self, Disposition};

/// What a child that could not be executed ends with; nobody reads it.
const UNEXECUTED: i32 = 127;

/// What is executed.
#[derive(Debug, Clone)]
pub struct Program {
    path: CString,
    arguments: Vec<CString>,
    environment: Vec<CString>,
}

impl Program {
    /// `program arguments…` with exactly this environment, each `NAME=value`.
    pub fn new(program: &Path, arguments: &[&str], environment: &[String]) -> io::Result<Self> {
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
            path: program,
            arguments: argv,
            environment,
        })
    }

    /// What is executed, by its path.
    fn file(&self) -> &Path {
        Path::new(OsStr::from_bytes(self.path.as_bytes()))
    }

    fn image(&self) -> Image<'_> {
        Image::new(&self.path, &self.arguments, &self.environment)
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
    errno: i32,
    lack: Option<Lack>,
}

impl SpawnError {
    fn new(step: Option<Step>, program: &Path, errno: Errno) -> Self {
        Self {
            step,
            program: program.to_string_lossy().into_owned(),
            errno: errno as i32,
            lack: None,
        }
    }

    /// With what the exec lacked: the kernel has one word for a dozen reasons.
    fn explained(mut self, program: &Path, (user, is_restricted): (User, bool)) -> Self {
        if self.step == Some(Step::Exec) {
            let errno = Errno::from_raw(self.errno);
            // Whoever may not look whether it is there is told that it may not execute it.
            if errno == Errno::EACCES
                && std::fs::metadata(program)
                    .is_err_and(|error| error.kind() == io::ErrorKind::NotFound)
            {
                self.errno = Errno::ENOENT as i32;
            }
            self.lack = lack(program, errno, user, is_restricted);
        }
        self
    }

    /// How a program ends that could not start its daemon. A shortage is the machine's; else only the exec can find that there
    /// is none, or none that can be executed: whatever else was missing on the way is not the
    /// daemon.
    #[must_use]
    pub fn exit_code(&self) -> ExitCode {
        match (self.step, Errno::from_raw(self.errno)) {
            (_, errno) if is_shortage(errno) => ExitCode::OperatingSystem,
            (Some(Step::Exec), Errno::ENOENT) => ExitCode::NotFound,
            (Some(Step::Exec), Errno::EACCES | Errno::ENOEXEC) => ExitCode::NotExecutable,
            _ => ExitCode::DaemonUnavailable,
        }
    }
}

impl fmt::Display for SpawnError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let cause = Errno::from_raw(self.errno).desc();
        match self.step {
            Some(step) => write!(f, "cannot {step} {}: {cause}", self.program)?,
            None => write!(f, "cannot fork for {}: {cause}", self.program)?,
        }
        match &self.lack {
            Some(lack) => write!(f, ": {lack}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for SpawnError {}

/// The close-on-exec pipe over which a child reports what failed.
#[derive(Debug)]
pub struct ExecReport {
    pipe: File,
    program: PathBuf,
    /// As whom it is executed, and whether Landlock restricts it.
    confined: (User, bool),
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
            [step, a, b, c, d] => {
                let errno = Errno::from_raw(i32::from_ne_bytes([*a, *b, *c, *d]));
                let error = SpawnError::new(Step::from_byte(*step), &self.program, errno);
                Some(Err(error.explained(&self.program, self.confined)))
            }
            _ => Some(Err(SpawnError::new(None, &self.program, Errno::EPROTO))),
        }
    }
}

/// Forks and executes `command` inside `sandbox`: own session, `/dev/null` as
/// standard input, pipes as output, nothing else inherited. Returns as soon as the
/// child exists, so that its PID is recorded before anything is reaped.
pub fn spawn(
    command: &Program,
    sandbox: &Sandbox,
    prepared: &Prepared,
) -> Result<Child, SpawnError> {
    let program = command.file();
    let failed = |errno: Errno| SpawnError::new(None, program, errno);
    let image = command.image();
    let null = nix::fcntl::open(
        c"/dev/null",
        OFlag::O_RDONLY | OFlag::O_CLOEXEC,
        nix::sys::stat::Mode::empty(),
    )
    .map_err(|errno| SpawnError::new(Some(Step::StandardInput), program, errno))?;
    let (stdout_read, stdout_write) = pipe2(OFlag::O_CLOEXEC).map_err(failed)?;
    let (stderr_read, stderr_write) = pipe2(OFlag::O_CLOEXEC).map_err(failed)?;
    let (report_read, report_write) = pipe2(OFlag::O_CLOEXEC).map_err(failed)?;
    for end in [&stdout_read, &stderr_read, &report_read] {
        set_nonblocking(end).map_err(failed)?;
    }
    let streams = [null.as_fd(), stdout_write.as_fd(), stderr_write.as_fd()];
    let pid = fork::fork(|parent| {
        let (step, errno) = exec(&image, Some(streams), (sandbox, prepared), Some(parent));
        let [a, b, c, d] = (errno as i32).to_ne_bytes();
        let _ = nix::unistd::write(&report_write, &[step as u8, a, b, c, d]);
        UNEXECUTED
    })
    .map_err(failed)?;
    Ok(Child {
        pid: pid.as_raw(),
        stdout: stdout_read.into(),
        stderr: stderr_read.into(),
        exec_report: ExecReport {
            pipe: report_read.into(),
            program: program.to_owned(),
            confined: (sandbox.user(), sandbox.landlock >= landlock::FILES),
            received: Vec::new(),
        },
    })
}

/// Enters the sandbox without a fork and becomes `command`, its output where this
/// program's is; for trying a daemon by itself. Returns only the error.
#[must_use]
pub fn become_command(command: &Program, sandbox: &Sandbox, prepared: &Prepared) -> SpawnError {
    let (step, errno) = exec(&command.image(), None, (sandbox, prepared), None);
    SpawnError::new(Some(step), command.file(), errno)
}

/// The way from fork to exec; what failed on it. Calls nothing that allocates or locks. With
/// a `supervisor`, it does not outlive that process.
fn exec(
    image: &Image,
    streams: Option<[BorrowedFd; 3]>,
    (sandbox, prepared): (&Sandbox, &Prepared),
    supervisor: Option<Pid>,
) -> (Step, Errno) {
    if let Err(failed) = confine(streams, sandbox, prepared) {
        return failed;
    }
    if let Some(supervisor) = supervisor {
        // A firewall that nobody watches is worse than none. Only now: a change of user
        // takes this back.
        fork::die_with(supervisor, UNEXECUTED);
    }
    (Step::Exec, image.execute())
}

fn confine(
    streams: Option<[BorrowedFd; 3]>,
    sandbox: &Sandbox,
    prepared: &Prepared,
) -> Result<(), (Step, Errno)> {
    if let Some([input, output, error]) = streams {
        // The init's own 0 to 2 are open, so no pipe end has such a number and dup2 always
        // makes a descriptor without close-on-exec.
        dup2_stdin(input)
            .and_then(|()| dup2_stdout(output))
            .and_then(|()| dup2_stderr(error))
            .map_err(|errno| (Step::Descriptors, errno))?;
    }
    fork::close_on_exec().map_err(|errno| (Step::Inheritance, errno))?;
    fork::reset_signals(signals::ALL, Disposition::Default)
        .map_err(|errno| (Step::Signals, errno))?;
    sandbox.apply(prepared)
}

fn set_nonblocking(fd: &OwnedFd) -> Result<(), Errno> {
    nix::fcntl::fcntl(fd, nix::fcntl::FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn says_what_failed_in_one_sentence() {
        let program = Path::new("/usr/bin/pipelock");
        let missing = SpawnError::new(Some(Step::Exec), program, Errno::ENOENT);
        assert_eq!(
            missing.to_string(),
            "cannot execute /usr/bin/pipelock: No such file or directory"
        );
    }

    #[test]
    fn blames_the_daemon_for_nothing_but_its_own_exec() {
        let code = |step: Option<Step>, errno: Errno| {
            SpawnError::new(step, Path::new("/usr/bin/pipelock"), errno).exit_code()
        };
        assert_eq!(code(Some(Step::Exec), Errno::ENOENT), ExitCode::NotFound);
        for errno in [Errno::EACCES, Errno::ENOEXEC] {
            assert_eq!(code(Some(Step::Exec), errno), ExitCode::NotExecutable);
            assert_eq!(
                code(Some(Step::OomScore), errno),
                ExitCode::DaemonUnavailable
            );
        }
        for step in [None, Some(Step::StandardInput), Some(Step::OomScore)] {
            assert_eq!(code(step, Errno::ENOENT), ExitCode::DaemonUnavailable);
        }
        for step in [None, Some(Step::StandardInput), Some(Step::Exec)] {
            for errno in [Errno::EAGAIN, Errno::ENOMEM, Errno::EMFILE, Errno::ENFILE] {
                assert_eq!(code(step, errno), ExitCode::OperatingSystem);
            }
        }
    }
}
