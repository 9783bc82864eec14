//! What can go wrong on the host's side of a machine.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

/// An error of the test bed, not of the guest's software.
#[derive(Debug)]
pub enum Error {
    /// The bundle is not built, or incomplete.
    NoBundle {
        /// The file that was looked for.
        missing: PathBuf,
    },
    /// There are no machines of that architecture.
    NoArch {
        /// What was asked for.
        name: String,
    },
    /// A file or socket could not be made or read.
    Io {
        /// What was attempted, as `<verb> <thing>`.
        attempt: String,
        /// The system's answer.
        source: io::Error,
    },
    /// A program is not installed.
    NoProgram {
        /// Its name.
        program: &'static str,
        /// The Debian package that has it.
        package: &'static str,
    },
    /// A program that makes disks failed.
    Program {
        /// Its name.
        program: &'static str,
        /// What it printed.
        output: String,
    },
    /// QEMU ended before the guest's first instruction.
    Start {
        /// How, and what it printed on standard error.
        qemu: String,
    },
    /// What was waited for did not come in time.
    Timeout {
        /// What was waited for.
        wanted: String,
        /// How long.
        waited: Duration,
        /// The last lines of the console.
        console: String,
    },
    /// The machine ended while something was waited for.
    Ended {
        /// What was waited for.
        wanted: String,
        /// The last lines of the console.
        console: String,
    },
    /// QEMU's monitor refused a command or went away.
    Monitor {
        /// The command.
        command: String,
        /// Its answer.
        cause: String,
    },
    /// The guest port was not forwarded when the machine was built.
    NotForwarded {
        /// The guest's port.
        port: u16,
    },
    /// A peer answered something that is not HTTP.
    NotHttp {
        /// What it answered.
        answer: String,
    },
    /// The guest printed or wrote something that is not the JSON it should be.
    Json {
        /// What was read.
        what: String,
        /// The parser's answer.
        source: serde_json::Error,
    },
}

impl Error {
    /// Wrap the system's answer to an attempt, given as `<verb> <thing>`.
    pub(crate) fn io(attempt: impl Into<String>) -> impl FnOnce(io::Error) -> Error {
        let attempt = attempt.into();
        move |source| Error::Io { attempt, source }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::NoBundle { missing } => write!(
                f,
                "cannot find the bundle: {} is missing\nhint: run image/build",
                missing.display()
            ),
            Error::NoArch { name } => write!(
                f,
                "cannot boot a machine of architecture \"{name}\" (accepted: x86_64, aarch64)"
            ),
            Error::Io { attempt, source } => write!(f, "cannot {attempt}: {source}"),
            Error::NoProgram { program, package } => {
                write!(
                    f,
                    "cannot run {program}: not found (Debian package {package})"
                )
            }
            Error::Program { program, output } => write!(f, "cannot run {program}: {output}"),
            Error::Start { qemu } => write!(f, "cannot start the machine: {qemu}"),
            Error::Timeout {
                wanted,
                waited,
                console,
            } => write!(
                f,
                "cannot see {wanted} on the machine: not within {} s; its console ends with\n{console}",
                waited.as_secs()
            ),
            Error::Ended { wanted, console } => write!(
                f,
                "cannot see {wanted} on the machine: it has ended; its console ends with\n{console}"
            ),
            Error::Monitor { command, cause } => {
                write!(f, "cannot ask QEMU to {command}: {cause}")
            }
            Error::NotForwarded { port } => {
                write!(f, "cannot reach guest port {port}: it is not forwarded")
            }
            Error::NotHttp { answer } => {
                write!(f, "cannot read the answer: {answer:?} is not HTTP")
            }
            Error::Json { what, source } => write!(f, "cannot read {what}: {source}"),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Error::Io { source, .. } => Some(source),
            Error::Json { source, .. } => Some(source),
            _ => None,
        }
    }
}
