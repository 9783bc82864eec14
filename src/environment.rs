//! The environment variables that are read, each once: `--help` prints this table, and the
//! man page and docs/operations.md are made from that.
#![forbid(unsafe_code)]

use std::ffi::OsString;

/// A variable of the environment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Variable {
    /// What it is called.
    pub name: &'static str,
    /// What it does, in lines that `--help` has room for.
    pub means: &'static [&'static str],
}

/// What the log says.
pub const LOG: Variable = Variable {
    name: "SIDECAR_LOG",
    means: &["run: error, warn, info (the default), debug, trace"],
};
/// Who hears of what happens.
pub const NOTIFY_SOCKET: Variable = Variable {
    name: "NOTIFY_SOCKET",
    means: &[
        "run: who hears of readiness, reload and end, as in",
        "sd_notify(3): /path, @name or vsock:CID:PORT",
    ],
};
/// How often they want to hear of it.
pub const WATCHDOG_USEC: Variable = Variable {
    name: "WATCHDOG_USEC",
    means: &["run: tell NOTIFY_SOCKET twice in this time"],
};
/// Of whom they want that.
pub const WATCHDOG_PID: Variable = Variable {
    name: "WATCHDOG_PID",
    means: &["run: whom WATCHDOG_USEC is for; nobody else heeds it"],
};

/// All that are read.
pub const ALL: [Variable; 4] = [LOG, NOTIFY_SOCKET, WATCHDOG_USEC, WATCHDOG_PID];

impl Variable {
    /// What it is set to.
    #[must_use]
    pub fn value(self) -> Option<OsString> {
        std::env::var_os(self.name)
    }

    /// What it is set to, where that is text.
    #[must_use]
    pub fn text(self) -> Option<String> {
        self.value()?.into_string().ok()
    }
}
