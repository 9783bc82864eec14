//! The environment variables that are read, each once: `--help` prints this table, and the
//! man page and docs/operations.md are made from that. And those that clients of pipelock are
//! given.
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
/// No colours (no-color.org).
pub const NO_COLOR: Variable = Variable {
    name: "NO_COLOR",
    means: &["watch: if set, no colours on a terminal either"],
};
/// What the terminal can do (environ(7)).
pub const TERM: Variable = Variable {
    name: "TERM",
    means: &["watch: where it is dumb, a terminal has lines as a pipe has"],
};

/// All that are read.
pub const ALL: [Variable; 6] = [
    LOG,
    NOTIFY_SOCKET,
    WATCHDOG_USEC,
    WATCHDOG_PID,
    NO_COLOR,
    TERM,
];

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

/// What is said of those that are to be numbers, and are none: they are passed over.
#[must_use]
pub fn no_numbers() -> Vec<String> {
    let variables = [WATCHDOG_USEC, WATCHDOG_PID].into_iter();
    let set = variables.filter_map(|variable| Some((variable.name, variable.value()?)));
    set.filter_map(|(name, value)| no_number(name, &value.to_string_lossy()))
        .collect()
}

fn no_number(name: &str, text: &str) -> Option<String> {
    let is_none = !text.is_empty() && text.parse::<u64>().is_err();
    is_none.then(|| format!("{name}={text:?} is no number, and is passed over"))
}

/// What was asked of the log, and by whom.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogFilter {
    asked_by: &'static str,
    text: String,
}

impl LogFilter {
    /// The kernel's command line first, where it says anything, then the variable.
    #[must_use]
    pub fn of(sidecar_log: Option<&str>) -> Option<Self> {
        let from = |asked_by, text: String| Self { asked_by, text };
        let argument = sidecar_log.map(|text| from("sidecar.log", text.to_owned()));
        argument.or_else(|| {
            let value = LOG.value()?;
            Some(from(LOG.name, value.to_string_lossy().into_owned()))
        })
    }

    /// The filter, or why it is none. A level, or levels of single modules, such as
    /// `sidecar_init::supervise=trace,warn`.
    pub fn judge(&self) -> Result<&str, String> {
        let is_level = |part: &str| {
            let level = part.rsplit_once('=').map_or(part, |(_, level)| level);
            level.trim().parse::<log::LevelFilter>().is_ok()
        };
        if self.text.is_empty() || self.text.split(',').all(is_level) {
            return Ok(&self.text);
        }
        Err(format!(
            "{}={:?} is no level, and is passed over; there are error, warn, info, debug and trace",
            self.asked_by, self.text
        ))
    }
}

/// What has a client's tools use this proxy, and trust the certificates of this file.
#[must_use]
pub fn of_clients(proxy: &str, bundle: &str) -> Vec<(String, String)> {
    let mut all = Vec::new();
    let mut put = |name: &str, value: &str| all.push((name.to_owned(), value.to_owned()));
    for (name, value) in [
        ("HTTP_PROXY", proxy),
        ("HTTPS_PROXY", proxy),
        ("NO_PROXY", "localhost,127.0.0.1,::1"),
    ] {
        put(name, value);
        put(&name.to_ascii_lowercase(), value);
    }
    // Without it Node ignores the four above (since 24.0 and 22.21).
    put("NODE_USE_ENV_PROXY", "1");
    // Yarn from 2 on ignores them, and ends at a variable of this form that it does not know.
    put("YARN_HTTP_PROXY", proxy);
    put("YARN_HTTPS_PROXY", proxy);
    for name in [
        "NODE_EXTRA_CA_CERTS",
        "SSL_CERT_FILE",
        "REQUESTS_CA_BUNDLE",
        "CURL_CA_BUNDLE",
        "GIT_SSL_CAINFO",
        "CARGO_HTTP_CAINFO",
        "PIP_CERT",
        "DENO_CERT",
        // Wins over the `cafile` of a machine's npmrc, which wins over NODE_EXTRA_CA_CERTS.
        "npm_config_cafile",
        "AWS_CA_BUNDLE",
        "CLOUDSDK_CORE_CUSTOM_CA_CERTS_FILE",
        "HTTPLIB2_CA_CERTS",
        "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH",
        "HEX_CACERTS_PATH",
        // Set by Nix's own profile, and wins over SSL_CERT_FILE there.
        "NIX_SSL_CERT_FILE",
    ] {
        put(name, bundle);
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_made_of_digits() {
        for text in ["", "0", "30000000", "18446744073709551615"] {
            assert_eq!(no_number("A", text), None, "{text}");
        }
        for text in ["30s", "-1", "1.5", " 1", "18446744073709551616"] {
            let wanted = format!("A={text:?} is no number, and is passed over");
            assert_eq!(no_number("A", text), Some(wanted));
        }
    }

    #[test]
    fn a_filter_of_the_log_is_made_of_levels() {
        for text in [
            "",
            "error",
            "WARN",
            "info",
            "debug",
            "trace",
            "off",
            "sidecar_init::supervise=trace,warn",
        ] {
            let filter = LogFilter::of(Some(text)).unwrap();
            assert_eq!(filter.judge(), Ok(text));
        }
        for text in [
            "loud",
            "3",
            "debug ,loud",
            "info,",
            "sidecar_init",
            "a=loud",
            "\u{1b}[2J",
        ] {
            let why = LogFilter::of(Some(text)).unwrap().judge().unwrap_err();
            let said = format!("sidecar.log={text:?} is no level, and is passed over; ");
            assert!(why.starts_with(&said), "{why}");
        }
    }
}
