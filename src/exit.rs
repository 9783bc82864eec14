//! The exit codes, from sysexits.h and the shell, and what ends a start with one. Pure.

use std::fmt;

/// How the program ends, as a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum ExitCode {
    /// Stopped on request, or done.
    Success = 0,
    /// `healthcheck`: not ready.
    NotReady = 1,
    /// Unusable arguments (`EX_USAGE`).
    Usage = 64,
    /// The manifest is invalid (`EX_DATAERR`).
    ManifestInvalid = 65,
    /// The manifest is missing or unreadable (`EX_NOINPUT`).
    ManifestMissing = 66,
    /// The daemon cannot live (`EX_UNAVAILABLE`).
    DaemonUnavailable = 69,
    /// A defect of this program (`EX_SOFTWARE`).
    Internal = 70,
    /// The operating system refused something (`EX_OSERR`).
    OperatingSystem = 71,
    /// A file could not be written (`EX_CANTCREAT`).
    CannotWrite = 73,
    /// The CA pair is unusable (`EX_CONFIG`).
    CaUnusable = 78,
    /// The daemon is there but not executable.
    NotExecutable = 126,
    /// The daemon is not there.
    NotFound = 127,
}

impl ExitCode {
    const ALL: [Self; 12] = [
        Self::Success,
        Self::NotReady,
        Self::Usage,
        Self::ManifestInvalid,
        Self::ManifestMissing,
        Self::DaemonUnavailable,
        Self::Internal,
        Self::OperatingSystem,
        Self::CannotWrite,
        Self::CaUnusable,
        Self::NotExecutable,
        Self::NotFound,
    ];

    /// The code with this number, where there is one.
    #[must_use]
    pub fn from_number(number: i32) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|code| i32::from(code.number()) == number)
    }

    /// The number.
    #[must_use]
    pub fn number(self) -> u8 {
        self as u8
    }
}

/// Why a start failed: the exit code, and the words for it.
#[derive(Debug)]
pub struct StartError {
    /// How the program ends.
    pub code: ExitCode,
    /// One or more lines for the console and the status.
    pub text: String,
}

impl StartError {
    /// An end with this code, said in these words.
    pub fn new(code: ExitCode, text: impl fmt::Display) -> Self {
        Self {
            code,
            text: text.to_string(),
        }
    }
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::error::Error for StartError {}
