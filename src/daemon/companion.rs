//! What PID 1 knows of a daemon that it knows nothing about: how it is asked whether it is
//! ready, and that the agent's way out has to refuse what pipelock refuses. Pure.

use super::pipelock::http::Response;
use crate::policy::CANARY_HOST;

/// Asks the agent's proxy for a page of [`CANARY_HOST`]. By a plain request, not by `CONNECT`: a
/// proxy that intercepts agrees to every tunnel before it asks for its own (mitmproxy does).
pub const CANARY_REQUEST: &[u8] =
    b"GET http://canary.invalid/ HTTP/1.1\r\nHost: canary.invalid\r\n\
    User-Agent: sidecar-init\r\nAccept: */*\r\nConnection: close\r\n\r\n";

/// Asks for a page; it says that the daemon is ready by its status.
#[must_use]
pub fn page_request(path: &str) -> String {
    format!(
        "GET {path} HTTP/1.1\r\nHost: localhost\r\nUser-Agent: sidecar-init\r\nConnection: close\r\n\r\n"
    )
}

/// Whether the page says so.
#[must_use]
pub fn is_ready(response: &Response) -> bool {
    (200..300).contains(&response.status)
}

/// Whether the canary was refused. By whom cannot be told: a proxy may refuse it before
/// pipelock does, and has words of its own.
pub fn judge_canary(response: &Response) -> Result<(), String> {
    if response.status >= 400 {
        return Ok(());
    }
    Err(format!(
        "the agent's proxy answered the canary, GET http://{CANARY_HOST}/, with {} instead of refusing it",
        response.status
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn response(status: u16) -> Response {
        Response {
            status,
            body: Vec::new(),
        }
    }

    #[test]
    fn takes_only_a_refusal_for_a_refusal_and_only_success_for_ready() {
        for (status, refused, ready) in [
            (200, false, true),
            (204, false, true),
            (301, false, false),
            (403, true, false),
            (407, true, false),
            (502, true, false),
        ] {
            assert_eq!(judge_canary(&response(status)).is_ok(), refused, "{status}");
            assert_eq!(is_ready(&response(status)), ready, "{status}");
        }
    }

    #[test]
    fn asks_for_the_canary_by_its_name() {
        let asked = String::from_utf8_lossy(CANARY_REQUEST);
        assert!(asked.starts_with(&format!("GET http://{CANARY_HOST}/ ")));
        assert!(asked.ends_with("\r\n\r\n") && !asked.contains("  "));
        assert!(page_request("/health").starts_with("GET /health HTTP/1.1\r\n"));
    }
}
