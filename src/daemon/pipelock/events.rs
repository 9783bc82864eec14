//! Reads the JSON lines pipelock prints on standard output. Pure.

use super::refusal::{Line, Refusal, Text, text};
use super::refusals;
use super::said::Said;

/// A line that means something to the init.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// It is about to listen, with this configuration.
    Startup {
        /// SHA-256 of the configuration file's bytes, lower-case hex.
        config_hash: String,
    },
    /// It took over another configuration.
    Reloaded {
        /// SHA-256 of the new configuration file's bytes.
        config_hash: String,
    },
    /// It kept its configuration; why.
    ReloadRefused(Said),
}

/// What a line says.
#[derive(Debug)]
#[allow(
    clippy::large_enum_variant,
    reason = "lives on the stack for one line, and is most often the large one"
)]
pub enum Heard<'a> {
    /// Something that happened to the daemon itself.
    Event(Event),
    /// A request it refused.
    Refusal(Refusal<'a>),
}

/// Of a SHA-256 its digits; nothing of anything else.
fn hexadecimal(text: Option<Text>) -> String {
    text.map(|text| text.0.into_owned())
        .filter(|text| text.len() <= 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit()))
        .unwrap_or_default()
}

const KEY: &[u8] = b"\"event\":\"";

/// What a line of output says; `None` for everything else, which is most lines.
#[must_use]
pub fn parse(line: &[u8]) -> Option<Heard<'_>> {
    // Most of a busy daemon's lines end here, before anything is parsed. One search,
    // because this is what the relay's speed depends on.
    const NAMES: [&[u8]; 9] = [
        b"startup\"",
        b"forward_http\"",
        b"config_reload\"",
        b"blocked\"",
        b"error\"",
        b"body_dlp\"",
        b"header_dlp\"",
        b"sni_mismatch\"",
        b"kill_switch_deny\"",
    ];
    let interesting = |at: usize| {
        let name = line.get(at + KEY.len()..).unwrap_or_default();
        NAMES.iter().any(|wanted| name.starts_with(wanted))
    };
    if !line.starts_with(b"{") || !memchr::memmem::find_iter(line, KEY).any(interesting) {
        return None;
    }
    if is_served(line) {
        return None;
    }
    let line: Line = serde_json::from_slice(line).ok()?;
    let event = match line.event.as_ref() {
        "startup" => Event::Startup {
            config_hash: hexadecimal(line.config_hash),
        },
        "config_reload" => Event::Reloaded {
            config_hash: hexadecimal(line.config_hash),
        },
        // A failed reload of the CA has the same method, but a success follows it.
        "error" if text(line.method.as_ref()) == "CONFIG_RELOAD" => line
            .error
            .filter(|error| error.0.starts_with("rejected"))
            .map(|error| Event::ReloadRefused(Said::words(&error.0)))?,
        // An agent that asks for the canary learns nothing, and it is asked for at
        // every proof.
        "blocked" | "sni_mismatch" | "kill_switch_deny" => {
            let refusal = Refusal(line);
            let nobody = refusal.host() == Some(super::CANARY_HOST)
                || refusals::client_left(refusal.scanner(), refusal.said())
                // The second line about a redirect that was not followed.
                || refusal.said().starts_with("redirect blocked: ");
            return (!nobody).then_some(Heard::Refusal(refusal));
        }
        "forward_http" => return Some(Heard::Refusal(Refusal(line))),
        "error" if is_failure(&line) => return Some(Heard::Refusal(Refusal(line))),
        // These two are findings; only with this action is the request refused.
        "body_dlp" | "header_dlp" if text(line.action.as_ref()) == "block" => {
            return Some(Heard::Refusal(Refusal(line)));
        }
        _ => return None,
    };
    Some(Heard::Event(event))
}

/// Whether the line is of a plain request that was served whole, as most are. The limit at
/// which a response is cut is a whole number of MiB.
fn is_served(line: &[u8]) -> bool {
    const SERVED: &[u8] = b"\"event\":\"forward_http\"";
    const SIZE: &[u8] = b"\"size_bytes\":";
    if memchr::memmem::find(line, SERVED).is_none() {
        return false;
    }
    let size = memchr::memmem::rfind(line, SIZE).and_then(|at| line.get(at + SIZE.len()..));
    let digits = size.unwrap_or_default();
    let end = digits.iter().position(|byte| !byte.is_ascii_digit());
    let digits = digits
        .get(..end.unwrap_or(digits.len()))
        .unwrap_or_default();
    let size = std::str::from_utf8(digits)
        .ok()
        .and_then(|d| d.parse().ok());
    size.is_none_or(|size: u64| size == 0 || !size.is_multiple_of(1 << 20))
}

/// Whether an `error` is a request that was let by and failed: a server that cannot be
/// reached or trusted, or breaks off. Of a tunnel only what kept it from being opened is
/// one: what went wrong with its client's side has a line of its own. A client that left
/// is none.
fn is_failure(line: &Line) -> bool {
    const DIALLING: [&str; 4] = ["dial ", "lookup ", "SSRF blocked", "ssrfSafeDialContext"];
    let error = text(line.error.as_ref());
    let failed = match line.target {
        Some(_) => DIALLING.iter().any(|begin| error.starts_with(begin)),
        None => line.url.is_some(),
    };
    failed && !error.contains("context canceled")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(line: &[u8]) -> Option<Event> {
        match parse(line)? {
            Heard::Event(event) => Some(event),
            Heard::Refusal(refusal) => panic!("{refusal:?}"),
        }
    }

    /// Host, scanner and reason.
    fn refusal(line: &str) -> Option<(String, String, String)> {
        match parse(line.as_bytes())? {
            Heard::Event(event) => panic!("{event:?}"),
            Heard::Refusal(refusal) => Some((
                refusal.host().unwrap_or("-").to_owned(),
                refusal.scanner().to_owned(),
                refusal.reason().to_owned(),
            )),
        }
    }

    #[test]
    fn knows_the_private_address_of_a_refusal_and_nothing_else_of_its_end() {
        for (host, reason, address) in [
            (
                "a.example",
                "SSRF blocked: a.example resolves to internal IP 10.1.2.3",
                Some("10.1.2.3"),
            ),
            (
                "a.example",
                "SSRF blocked: a.example resolves to internal IP fd00::7",
                Some("fd00::7"),
            ),
            (
                "a.example",
                "SSRF blocked: a.example resolves to internal IP ::ffff:10.1.2.3",
                Some("10.1.2.3"),
            ),
            (
                "10.1.2.3",
                "core SSRF: 10.1.2.3 is a private/internal IP address",
                Some("10.1.2.3"),
            ),
            (
                "[fd00::7]",
                "core SSRF: fd00::7 is a private/internal IP address",
                Some("fd00::7"),
            ),
            (
                "a.example",
                "SSRF blocked: a.example resolves to internal IP secret",
                None,
            ),
            (
                "a.example",
                "core SSRF: a.example is a private/internal IP address",
                None,
            ),
        ] {
            let line = format!(
                r#"{{"event":"blocked","method":"CONNECT","target":"{host}:443","scanner":"ssrf","reason":"{reason}"}}"#
            );
            let Some(Heard::Refusal(refusal)) = parse(line.as_bytes()) else {
                panic!("{line}")
            };
            let address = address.map(|address| address.parse().unwrap());
            assert_eq!(refusal.address(), address, "{reason}");
        }
    }

    #[test]
    fn reads_the_lines_pipelock_prints() {
        let startup = br#"{"level":"info","component":"pipelock","event":"startup","listen":"127.0.0.1:8888","mode":"strict","version":"2.3.0","config_hash":"4f89","time":"2026-11-23T20:02:19Z","message":"pipelock started"}"#;
        assert_eq!(
            event(startup),
            Some(Event::Startup {
                config_hash: "4f89".into()
            })
        );
        let reload = br#"{"level":"info","component":"pipelock","event":"config_reload","status":"success","detail":"mode=strict","config_hash":"d549","time":"2026-11-23T20:02:19Z","message":"configuration reloaded"}"#;
        assert_eq!(
            event(reload),
            Some(Event::Reloaded {
                config_hash: "d549".into()
            })
        );
        let refused = br#"{"level":"error","component":"pipelock","event":"error","method":"CONFIG_RELOAD","resource":"p.yaml","error":"rejected: security downgrade from strict mode","time":"2026-11-23T20:17:58Z","message":"request error"}"#;
        assert_eq!(
            event(refused),
            Some(Event::ReloadRefused(Said::words(
                "rejected: security downgrade from strict mode"
            )))
        );
    }

    #[test]
    #[allow(clippy::too_many_lines, reason = "a table")]
    fn tells_what_was_refused_and_nothing_of_what_was_in_it() {
        for (line, host, scanner, reason) in [
            (
                r#"{"event":"blocked","method":"CONNECT","target":"no.example:443","scanner":"allowlist","reason":"domain not in allowlist: no.example"}"#,
                "no.example",
                "allowlist",
                "domain not in allowlist",
            ),
            (
                r#"{"event":"blocked","method":"GET","url":"http://u:AKIAIOSFODNN7EXAMPLE@Api.example.:80/p?k=AKIAIOSFODNN7EXAMPLE","scanner":"core_dlp","reason":"core DLP match: AWS Access ID (critical)"}"#,
                "Api.example",
                "core_dlp",
                "core DLP match: AWS Access ID",
            ),
            (
                r#"{"event":"blocked","url":"http://[2001:db8::1]:80/","scanner":"core_ssrf","reason":"core SSRF: 2001:db8::1 is a private/internal IP address"}"#,
                "2001:db8::1",
                "core_ssrf",
                "core SSRF",
            ),
            (
                r#"{"event":"blocked","target":"a.example:443","scanner":"ssrf","reason":"SSRF blocked: a.example resolves to internal IP 10.0.0.1"}"#,
                "a.example",
                "ssrf",
                "SSRF blocked",
            ),
            (
                r#"{"event":"blocked","target":"a.example:443","scanner":"ratelimit","reason":"rate limit exceeded for a.example"}"#,
                "a.example",
                "ratelimit",
                "rate limit exceeded",
            ),
            (
                r#"{"event":"blocked","url":"https://a.example/","scanner":"entropy","reason":"high entropy query key \"hunter2\" (4.50 > 4.00 threshold)"}"#,
                "a.example",
                "entropy",
                "high entropy query key",
            ),
            (
                r#"{"event":"blocked","target":"[redacted-url]","scanner":"dlp","reason":"DLP match: BIP-39 Seed Phrase (critical)"}"#,
                "-",
                "dlp",
                "DLP match: BIP-39 Seed Phrase",
            ),
            (
                r#"{"event":"blocked","url":"https://a.example/x","scanner":"body_dlp","reason":"request body contains secret: AWS Access ID, GitHub Token"}"#,
                "a.example",
                "body_dlp",
                "request body contains secret: AWS Access ID, GitHub Token",
            ),
            (
                r#"{"event":"blocked","target":"a.example:443","scanner":"tls_handshake_error","reason":"remote error: tls: unknown certificate authority"}"#,
                "a.example",
                "tls_handshake_error",
                "the client does not trust the CA",
            ),
            (
                r#"{"event":"body_dlp","method":"POST","url":"http://a.example/","action":"block","patterns":["AWS Access ID"]}"#,
                "a.example",
                "body_dlp",
                "request body contains secret",
            ),
            (
                r#"{"event":"header_dlp","method":"CONNECT","target":"a.example:443","header":"X","action":"block"}"#,
                "a.example",
                "header_dlp",
                "request header contains secret",
            ),
            (
                r#"{"event":"sni_mismatch","connect_host":"a.example","sni_host":"b.example","category":"mismatch"}"#,
                "a.example",
                "sni_mismatch",
                "no TLS handshake that names this host",
            ),
            (
                r#"{"event":"blocked","url":"http://b.example/?k=AKIA","scanner":"allowlist","reason":"redirect from http://a.example/?k=AKIA blocked: domain not in allowlist: b.example"}"#,
                "b.example",
                "allowlist",
                "domain not in allowlist",
            ),
            (
                r#"{"event":"blocked","url":"https://a.example/[redacted]","scanner":"body_dlp","reason":"invalid application/x-www-form-urlencoded body"}"#,
                "a.example",
                "body_dlp",
                "invalid application/x-www-form-urlencoded body",
            ),
            (
                r#"{"event":"blocked","url":"https://a.example/v","scanner":"sse_stream","reason":"sse stream finding: injection: Behavior Override"}"#,
                "a.example",
                "sse_stream",
                "sse stream finding: injection: Behavior Override",
            ),
            (
                r#"{"event":"error","method":"GET","url":"https://a.example/?k=AKIA","error":"tls: failed to verify certificate: x509: certificate signed by unknown authority"}"#,
                "a.example",
                "upstream",
                "the server's certificate is not trusted",
            ),
            (
                r#"{"event":"error","method":"CONNECT","target":"a.example:443","error":"dial tcp 192.0.2.7:443: connect: connection refused"}"#,
                "a.example",
                "upstream",
                "the server could not be reached, or broke off",
            ),
            (
                r#"{"event":"kill_switch_deny","transport":"http","endpoint":"/","source":"signal"}"#,
                "-",
                "kill_switch",
                "pipelock's kill switch is on",
            ),
            (
                r#"{"event":"blocked","target":"AKIAIOSFODNN7EXAMPLE:b:443","scanner":"AKIAIOSFODNN7EXAMPLE","reason":"core DLP match: x, AKIAIOSFODNN7EXAMPLE"}"#,
                "-",
                "unknown",
                "core DLP match: x,",
            ),
            (
                r#"{"event":"blocked","url":"http://a b/","scanner":"allowlist","reason":"x"}"#,
                "-",
                "allowlist",
                "x",
            ),
        ] {
            let wanted = (host.to_owned(), scanner.to_owned(), reason.to_owned());
            assert_eq!(refusal(line), Some(wanted), "{line}");
        }
    }

    #[test]
    fn takes_nothing_else_for_a_refusal() {
        for line in [
            r#"{"event":"anomaly","method":"CONNECT","target":"a.example:443","scanner":"tls_intercept","reason":"intercepting"}"#,
            r#"{"event":"error","method":"CONNECT","target":"a.example:443","error":"client TLS handshake: EOF"}"#,
            r#"{"event":"error","method":"close","error":"clientConn: use of closed network connection"}"#,
            r#"{"event":"error","method":"GET","url":"http://a.example/","error":"Get \"http://a.example/\": context canceled"}"#,
            r#"{"event":"blocked","url":"https://a.example/","scanner":"sse_stream","reason":"sse stream write: http2: stream closed"}"#,
            r#"{"event":"blocked","url":"http://a.example/","scanner":"allowlist","reason":"redirect blocked: domain not in allowlist: b.example"}"#,
            r#"{"event":"media_exposure","url":"http://a.example/","blocked":true,"block_reason":"media_policy: video stripped"}"#,
            r#"{"event":"response_scan","url":"http://a.example/","action":"warn"}"#,
            r#"{"event":"body_dlp","url":"http://a.example/","action":"warn"}"#,
            r#"{"event":"blocked","method":"CONNECT","target":"canary.invalid:443","scanner":"allowlist","reason":"domain not in allowlist: canary.invalid"}"#,
        ] {
            assert!(parse(line.as_bytes()).is_none(), "{line}");
        }
    }

    #[test]
    fn keeps_no_url_and_no_target_for_the_record() {
        let blocked = r#"{"level":"warn","event":"blocked","method":"GET","url":"http://x/?k=AKIAIOSFODNN7EXAMPLE","target":"AKIAIOSFODNN7EXAMPLE","scanner":"core_dlp","reason":"AWS Access ID"}"#;
        let said = |line: &str| Said::line(line.as_bytes()).to_string();
        assert_eq!(said(blocked), "blocked: core_dlp: AWS Access ID");
        let error =
            r#"{"event":"error","method":"GET","url":"u","error":"Get http://x/?k=AKIA: refused"}"#;
        assert_eq!(said(error), "error");
        assert!(!said(&blocked[..60]).contains("AKIA"));
        let reload =
            r#"{"event":"error","method":"CONFIG_RELOAD","error":"rejected: security downgrade"}"#;
        assert_eq!(said(reload), "error: rejected: security downgrade");
        let hostile = r#"{"event":"AKIAIOSFODNN7EXAMPLE","scanner":"AKIAIOSFODNN7EXAMPLE","reason":"hunter2 DLP match: AKIAIOSFODNN7EXAMPLE"}"#;
        assert_eq!(said(hostile), "unknown: unknown: hunter");
    }

    #[test]
    fn is_not_fooled_by_an_event_inside_a_value() {
        let line =
            br#"{"event":"anomaly","url":"http://x/\"event\":\"startup\"","config_hash":"00"}"#;
        assert!(parse(line).is_none());
        let line = br#"{"event":"anomaly","x":{"event":"startup"},"config_hash":"00"}"#;
        assert!(parse(line).is_none());
    }

    #[test]
    fn survives_any_bytes() {
        for junk in [
            &b"{\"event\":\"startup\""[..],
            b"",
            b"{",
            b"\xff\xfe",
            b"{\"event\":\"startup\",\"config_hash\":7}",
        ] {
            assert!(parse(junk).is_none());
        }
    }
}
