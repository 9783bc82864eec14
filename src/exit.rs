//! The exit codes, from sysexits.h and the shell, and what ends a start with one. Pure.
#![forbid(unsafe_code)]

use std::error::Error;
use std::fmt;

/// Each code once: its name, its number, and what it means to who reads it. `--help` prints
/// this table, and the man page and docs/operations.md are made from that.
macro_rules! codes {
    ($($(#[$source:meta])* $name:ident = $number:literal, $means:literal;)*) => {
        /// How the program ends, as a number.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        #[repr(u8)]
        pub enum ExitCode {
            $(#[doc = $means] $(#[$source])* $name = $number,)*
        }

        impl ExitCode {
            /// All there are.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// What it means.
            #[must_use]
            pub fn means(self) -> &'static str {
                match self {
                    $(Self::$name => $means,)*
                }
            }
        }
    };
}

codes! {
    Success = 0, "stopped on request, or done";
    NotReady = 1, "healthcheck, status --check: not ready";
    /// (`EX_USAGE`)
    Usage = 64, "the arguments cannot be used";
    /// (`EX_DATAERR`)
    ManifestInvalid = 65, "the manifest is invalid";
    /// (`EX_NOINPUT`)
    ManifestMissing = 66, "the manifest is missing or cannot be read";
    /// (`EX_UNAVAILABLE`)
    DaemonUnavailable = 69, "the daemon cannot live";
    /// (`EX_SOFTWARE`)
    Internal = 70, "an internal error: a defect of sidecar-init";
    /// (`EX_OSERR`)
    OperatingSystem = 71, "the operating system refused something";
    /// (`EX_CANTCREAT`)
    CannotWrite = 73, "a file could not be written";
    /// (`EX_TEMPFAIL`)
    NotInForce = 75, "grant: not in force within the time";
    /// (`EX_CONFIG`)
    CaUnusable = 78, "the CA pair is unusable";
    NotExecutable = 126, "the daemon is not executable";
    NotFound = 127, "the daemon is not there";
}

impl ExitCode {
    /// The code with this number, where there is one.
    #[must_use]
    pub fn from_number(number: i32) -> Option<Self> {
        Self::ALL
            .iter()
            .copied()
            .find(|code| i32::from(code.number()) == number)
    }

    /// The number.
    #[must_use]
    pub fn number(self) -> u8 {
        self as u8
    }
}

/// Why a start failed, and the exit code that follows from it.
#[derive(Debug)]
pub struct StartError {
    /// How the program ends.
    pub code: ExitCode,
    cause: Box<dyn Error + Send + Sync>,
}

impl StartError {
    /// An end with this code, for this cause: an error, or one or more lines for the console
    /// and the status.
    pub fn new(code: ExitCode, cause: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self {
            code,
            cause: cause.into(),
        }
    }

    /// What the operating system refused, of an error that can mean nothing else.
    pub fn system(cause: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self::new(ExitCode::OperatingSystem, cause)
    }
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.cause.fmt(f)
    }
}

impl Error for StartError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&*self.cause)
    }
}
