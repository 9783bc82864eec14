//! Judges what pipelock says of itself on `/health`. Pure.

use serde::Deserialize;
use serde_json::Value;

use super::http::Response;
use super::said::Said;

/// Asks for the health.
pub const REQUEST: &[u8] = b"GET /health HTTP/1.1\r\nHost: localhost\r\nUser-Agent: sidecar-init\r\nConnection: close\r\n\r\n";

/// The fields that decide. All are required: a daemon that no longer tells one of
/// them is not known to be safe.
// The daemon's own shape.
#[allow(clippy::struct_excessive_bools)]
#[derive(Debug, Deserialize)]
struct Health {
    status: String,
    version: String,
    mode: String,
    forward_proxy_enabled: bool,
    tls_interception_enabled: bool,
    request_body_scan_enabled: bool,
    kill_switch_active: bool,
}

/// Why an answer is not the one of a firewall that works.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ailment {
    /// A part of it does not work, it says: later versions than the tested one answer 503
    /// then, and name the part (PIPELOCK.md). It may recover.
    Sick(String),
    /// It does not protect, or is no pipelock.
    Unfit(String),
}

/// The daemon's version, if it is healthy and a firewall that is on; otherwise every
/// field that says it is not.
pub fn judge(response: &Response) -> Result<String, Ailment> {
    if response.status == 503 {
        return Err(Ailment::Sick(format!(
            "/health answered 503{}",
            subsystems(&response.body)
        )));
    }
    if response.status != 200 {
        return Err(Ailment::Unfit(format!(
            "/health answered {} instead of 200",
            response.status
        )));
    }
    let health: Health = serde_json::from_slice(&response.body).map_err(|error| {
        let why = Said::words(&error.to_string());
        Ailment::Unfit(format!("/health is not what pipelock answers: {why}"))
    })?;
    let mut wrong = Vec::new();
    let mut expect = |field: &str, found: &str, wanted: &str| {
        if found != wanted {
            let found = Said::words(found);
            wrong.push(format!("{field} is \"{found}\" instead of {wanted:?}"));
        }
    };
    expect("status", &health.status, "healthy");
    expect("mode", &health.mode, "strict");
    for (field, found, wanted) in [
        ("forward_proxy_enabled", health.forward_proxy_enabled, true),
        (
            "tls_interception_enabled",
            health.tls_interception_enabled,
            true,
        ),
        (
            "request_body_scan_enabled",
            health.request_body_scan_enabled,
            true,
        ),
        ("kill_switch_active", health.kill_switch_active, false),
    ] {
        expect(field, bool_str(found), bool_str(wanted));
    }
    if wrong.is_empty() {
        let version = Said::words(&health.version).to_string();
        Ok(version
            .chars()
            .filter(char::is_ascii_graphic)
            .take(64)
            .collect())
    } else {
        Err(Ailment::Unfit(format!(
            "/health says pipelock does not protect: {}",
            wrong.join(", ")
        )))
    }
}

/// What a sick daemon says of its parts; empty where it says nothing of them.
fn subsystems(body: &[u8]) -> String {
    let told = serde_json::from_slice::<Value>(body).ok();
    let parts = told.as_ref().and_then(|told| told.get("subsystems"));
    parts.map_or_else(String::new, |parts| {
        let parts = parts.to_string();
        let parts = Said::words(parts.trim_matches(['{', '}']));
        format!(": subsystems {parts}")
    })
}

fn bool_str(value: bool) -> &'static str {
    if value { "true" } else { "false" }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = r#"{"status":"healthy","version":"2.3.0","mode":"strict","uptime_seconds":0.1,"dlp_patterns":48,"response_scan_enabled":true,"git_protection_enabled":false,"rate_limit_enabled":true,"forward_proxy_enabled":true,"websocket_proxy_enabled":false,"request_body_scan_enabled":true,"tls_interception_enabled":true,"kill_switch_active":false}"#;

    fn judge_text(body: &str) -> Result<String, Ailment> {
        judge(&Response {
            status: 200,
            body: body.as_bytes().to_vec(),
        })
    }

    #[test]
    fn accepts_what_pipelock_answers_and_tells_its_version() {
        assert_eq!(judge_text(GOOD).as_deref(), Ok("2.3.0"));
    }

    #[test]
    fn names_every_field_that_says_it_does_not_protect() {
        let bad = GOOD.replace("\"strict\"", "\"balanced\"").replace(
            "\"tls_interception_enabled\":true",
            "\"tls_interception_enabled\":false",
        );
        assert_eq!(
            judge_text(&bad).unwrap_err(),
            Ailment::Unfit(
                "/health says pipelock does not protect: mode is \"balanced\" instead of \"strict\", \
                 tls_interception_enabled is \"false\" instead of \"true\""
                    .to_owned()
            )
        );
    }

    #[test]
    fn a_503_is_sick_and_names_its_parts_in_words_fit_to_be_told() {
        let answered = |status: u16, body: &str| {
            judge(&Response {
                status,
                body: body.as_bytes().to_vec(),
            })
            .unwrap_err()
        };
        let body = "{\"status\":\"degraded\",\"subsystems\":{\"scanner\":\"wedged\",\"\u{9b}31m\u{202e}\":\"AKIAIOSFODNN7EXAMPLE\"}}";
        let Ailment::Sick(said) = answered(503, body) else {
            panic!("it is not sick")
        };
        let begin = r#"/health answered 503: subsystems "scanner":"wedged","#;
        assert!(said.starts_with(begin), "{said}");
        for hostile in ["\u{9b}", "\u{202e}", "AKIA"] {
            assert!(!said.contains(hostile), "{said:?}");
        }
        let bare = Ailment::Sick("/health answered 503".to_owned());
        assert_eq!(answered(503, "unwell"), bare);
        assert_eq!(answered(503, GOOD), bare);
        let long = format!("{{\"subsystems\":\"{}\"}}", "x".repeat(9000));
        assert!(matches!(answered(503, &long), Ailment::Sick(why) if why.len() < 600));
        for status in [404, 429, 500] {
            assert!(
                matches!(answered(status, GOOD), Ailment::Unfit(_)),
                "{status}"
            );
        }
    }

    #[test]
    fn refuses_every_answer_with_a_deciding_field_missing() {
        for field in [
            "status",
            "version",
            "mode",
            "forward_proxy_enabled",
            "tls_interception_enabled",
            "request_body_scan_enabled",
            "kill_switch_active",
        ] {
            let renamed = GOOD.replace(&format!("\"{field}\""), "\"other\"");
            assert!(judge_text(&renamed).is_err(), "{field}");
        }
        assert!(judge_text("ok").is_err());
    }
}
