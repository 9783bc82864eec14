//! All we know of pipelock: what it reads, what it answers, what it prints. Pure.
//!
//! Everything here was measured on [`TESTED_VERSION`]; when another version behaves
//! differently, this is the folder that changes.

pub mod events;
mod flat;
pub mod health;
pub mod http;
pub mod instance;
pub mod leaves;
pub mod redact;
pub mod refusal;
pub mod refusals;
pub mod reload;
pub mod render;
pub mod said;
pub mod skim;

use std::fmt;
use std::sync::LazyLock;

use http::Response;
use memchr::memmem::Finder;
use said::Said;

/// The name of its configuration, in the run directory.
pub const CONFIG: &str = "pipelock.yaml";

/// The version all of this was measured with.
pub const TESTED_VERSION: &str = "2.3.0";

pub use crate::policy::CANARY_HOST;

/// Asks for a tunnel to [`CANARY_HOST`]. A daemon that enforces nothing answers
/// "healthy" too; only a refusal shows that the allowlist is in force.
pub const CANARY_REQUEST: &[u8] =
    b"CONNECT canary.invalid:443 HTTP/1.1\r\nHost: canary.invalid:443\r\nUser-Agent: sidecar-init\r\n\r\n";

/// Asks for the Prometheus metrics.
pub const METRICS_REQUEST: &[u8] = b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nUser-Agent: sidecar-init\r\nConnection: close\r\n\r\n";

/// Of the metrics, the number of open tunnels.
const TUNNELS: &str = "pipelock_active_tunnels";
const CANARY_REFUSAL: &[u8] = b"CONNECT blocked: domain not in allowlist: canary.invalid";

/// Whether a line of its output is the event of the canary's refusal, asked for on its own
/// port. Within another's string the quotation marks would be escaped.
#[must_use]
pub fn tells_of_canary(line: &[u8]) -> bool {
    static NAME: LazyLock<Finder> = LazyLock::new(|| Finder::new("\"canary.invalid:443\""));
    line.starts_with(b"{") && NAME.find(line).is_some()
}

/// The same, asked for on its port or on the one that the agent is told.
#[must_use]
pub fn tells_of_any_canary(line: &[u8]) -> bool {
    tells_of_canary(line)
        || line.starts_with(b"{")
            && memchr::memmem::find(line, b"\"http://canary.invalid/\"").is_some()
}

/// What is wrong with an answer of a daemon that was asked to prove itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unproved {
    /// The canary was answered with this status.
    CanaryAnswered(u16),
    /// The canary was refused, but in these words.
    CanaryRefusedFor(Said),
    /// The metrics do not say how many tunnels are open; their status.
    NoTunnels(u16),
}

impl fmt::Display for Unproved {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::CanaryAnswered(status) => write!(
                f,
                "pipelock answered the canary, CONNECT {CANARY_HOST}:443, with {status} instead of 403: \
                 it does not enforce the allowlist"
            ),
            Self::CanaryRefusedFor(said) => write!(
                f,
                "pipelock refused the canary, CONNECT {CANARY_HOST}:443, but not by its allowlist: \"{said}\""
            ),
            Self::NoTunnels(status) => write!(f, "/metrics (status {status}) has no {TUNNELS}"),
        }
    }
}

impl std::error::Error for Unproved {}

/// Whether the canary was refused, for the right reason.
pub fn judge_canary(response: &Response) -> Result<(), Unproved> {
    if response.status != 403 {
        return Err(Unproved::CanaryAnswered(response.status));
    }
    if memchr::memmem::find(&response.body, CANARY_REFUSAL).is_none() {
        return Err(Unproved::CanaryRefusedFor(Said::line(&response.body)));
    }
    Ok(())
}

/// How many tunnels are open, by an answer to [`METRICS_REQUEST`].
pub fn open_tunnels(response: &Response) -> Result<u64, Unproved> {
    let missing = Unproved::NoTunnels(response.status);
    let Ok(text) = std::str::from_utf8(&response.body) else {
        return Err(missing);
    };
    text.lines()
        .find_map(|line| line.strip_prefix(TUNNELS)?.trim().parse().ok())
        .filter(|_| response.status == 200)
        .ok_or(missing)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn response(status: u16, body: &str) -> Response {
        Response {
            status,
            body: body.as_bytes().to_vec(),
        }
    }

    #[test]
    fn takes_only_a_refusal_by_the_allowlist_for_a_refusal() {
        let refusal = "CONNECT blocked: domain not in allowlist: canary.invalid\n";
        assert_eq!(judge_canary(&response(403, refusal)), Ok(()));
        for (status, body) in [
            (200, ""),
            (502, refusal),
            (403, "kill switch active"),
            (403, ""),
        ] {
            assert!(
                judge_canary(&response(status, body)).is_err(),
                "{status} {body}"
            );
        }
    }

    #[test]
    fn knows_the_event_of_the_canary_and_no_line_that_quotes_it() {
        let own = br#"{"event":"blocked","method":"CONNECT","target":"canary.invalid:443","scanner":"allowlist"}"#;
        assert!(tells_of_canary(own));
        for other in [
            &br#"{"event":"blocked","url":"https://x/?q=\"canary.invalid:443\""}"#[..],
            br#"{"event":"blocked","target":"a.canary.invalid:443"}"#,
            br#"panic: "canary.invalid:443""#,
        ] {
            assert!(!tells_of_canary(other));
        }
        let asked = String::from_utf8_lossy(CANARY_REQUEST);
        assert!(asked.starts_with("CONNECT canary.invalid:443 "));
        assert_eq!(CANARY_HOST, "canary.invalid");
    }

    #[test]
    fn counts_tunnels() {
        let metrics =
            "# TYPE pipelock_active_tunnels gauge\npipelock_active_tunnels 3\npipelock_x 9\n";
        assert_eq!(open_tunnels(&response(200, metrics)), Ok(3));
        assert!(open_tunnels(&response(200, "pipelock_x 9\n")).is_err());
        assert!(open_tunnels(&response(500, metrics)).is_err());
    }
}
