//! Reads the JSON lines pipelock prints on standard output. Pure.

use std::sync::LazyLock;

use memchr::memmem::Finder;

use super::flat;
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

/// What a line of output says; `None` for everything else, which is most lines.
#[must_use]
pub fn parse(line: &[u8]) -> Option<Heard<'_>> {
    if !line.starts_with(b"{") || is_about_something_else(line) {
        return None;
    }
    let read = flat::read(line).or_else(|| serde_json::from_slice(line).ok());
    judge(read?)
}

/// Whether each event that the line can be, as far as it can be told without reading it, is
/// one that means nothing here. Most of a busy daemon's lines end at this, and none that the
/// full parser would take for another: a key that is escaped, or has blanks behind it, is
/// left to that one.
fn is_about_something_else(line: &[u8]) -> bool {
    static KEY: LazyLock<Finder> = LazyLock::new(|| Finder::new("\"event\""));
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
    let is_another = |at: usize| {
        let after = line.get(at + KEY.needle().len()..).unwrap_or_default();
        let name = after.strip_prefix(b":\"");
        name.is_some_and(|name| !NAMES.iter().any(|wanted| name.starts_with(wanted)))
    };
    KEY.find_iter(line).all(is_another) && !flat::has_escapes(line)
}

/// What the event says.
fn judge(line: Line) -> Option<Heard> {
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
        // Served whole, as most are. The limit at which a response is cut is a whole number
        // of MiB.
        "forward_http" => {
            let cut = |size: &u64| *size > 0 && size.is_multiple_of(1 << 20);
            line.size_bytes.filter(cut)?;
            return Some(Heard::Refusal(Refusal(line)));
        }
        "error" if is_failure(&line) => return Some(Heard::Refusal(Refusal(line))),
        // These two are findings; only with this action is the request refused.
        "body_dlp" | "header_dlp" if text(line.action.as_ref()) == "block" => {
            return Some(Heard::Refusal(Refusal(line)));
        }
        _ => return None,
    };
    Some(Heard::Event(event))
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
    use proptest::prelude::*;
    use proptest::sample::select;

    use super::super::refusal::FIELDS;
    use super::*;

    /// What the full parser alone makes of a line.
    fn parsed_in_full(line: &[u8]) -> String {
        let read = serde_json::from_slice(line).ok();
        format!("{:?}", read.and_then(judge))
    }

    /// A line that is an event, or nearly one.
    fn lines() -> impl Strategy<Value = Vec<u8>> {
        let key = prop_oneof![
            5 => select(&FIELDS[..]).prop_map(str::to_owned),
            3 => Just("event".to_owned()),
            2 => select(vec!["size_bytes", "time", "x", "", "ev\\u0065nt", "\\u0065vent", "event\\t"])
                .prop_map(str::to_owned),
        ];
        let word = select(vec![
            "blocked",
            "error",
            "startup",
            "forward_http",
            "body_dlp",
            "config_reload",
            "allowed",
            "block",
            "kill_switch_deny",
            "sni_mismatch",
            "bl\\u006fcked",
            "CONFIG_RELOAD",
            "rejected: no",
            "allowlist",
            "dlp",
            "domain not in allowlist: a.example",
            "a.example:443",
            "canary.invalid:443",
            "http://a.example/?q=\\\"x",
            "dial tcp",
            "\\ud83d\\ude00",
            "\\ud83d",
            "\u{fc}",
            "\\\",\\\"event\\\":\\\"allowed",
            "",
        ])
        .prop_map(|word| format!("\"{word}\""));
        let other = select(vec![
            "0",
            "1048576",
            "2097152",
            "1",
            "01",
            "-1",
            "1.5",
            "1e3",
            "99999999999999999999",
            "123456789012345678",
            "true",
            "null",
            "tru",
            "nullx",
            "{}",
            "[]",
            "[1,\"event\"]",
            "{\"event\":\"forward_http\"}",
            "{\"event\":\"allowed\",\"size_bytes\":3}",
            "{\"event\":\"blocked\"}",
            "\"",
            "",
        ])
        .prop_map(str::to_owned);
        let deep = (1_usize..200).prop_map(|depth| "[".repeat(depth) + &"]".repeat(depth));
        let value = prop_oneof![12 => word, 4 => other, 1 => deep];
        let colon = prop_oneof![12 => Just(":"), 1 => Just(": "), 1 => Just(" :"), 1 => Just("")];
        let comma = prop_oneof![12 => Just(","), 1 => Just(", "), 1 => Just(",,"), 1 => Just("")];
        let field = (key, colon, value, comma);
        let end = prop_oneof![8 => Just("}"), 1 => Just(" }"), 1 => Just("}x"), 1 => Just("} "), 1 => Just("")];
        let odd = proptest::option::weighted(0.2, (any::<prop::sample::Index>(), any::<u8>()));
        (prop::collection::vec(field, 0..7), end, odd).prop_map(|(fields, end, odd)| {
            let mut line = "{".to_owned();
            for (at, (key, colon, value, comma)) in fields.iter().enumerate() {
                let comma = if at + 1 == fields.len() { "" } else { comma };
                line += &format!("\"{key}\"{colon}{value}{comma}");
            }
            let mut line = (line + end).into_bytes();
            if let Some((index, byte)) = odd {
                let at = index.index(line.len());
                line[at] = byte;
            }
            line
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]
        #[test]
        fn reads_every_line_as_the_full_parser_does(line in lines()) {
            let line = line.as_slice();
            prop_assume!(line.first() == Some(&b'{'));
            prop_assert_eq!(format!("{:?}", parse(line)), parsed_in_full(line));
        }
    }

    #[test]
    fn no_form_of_a_line_hides_a_refusal() {
        let fields = r#""method":"CONNECT","target":"a.example:443","scanner":"allowlist","reason":"domain not in allowlist""#;
        for line in [
            format!(r#"{{"event":"blocked",{fields}}}"#),
            format!(r#"{{"ev\u0065nt":"blocked",{fields}}}"#),
            format!(r#"{{"event":"bl\u006fcked",{fields}}}"#),
            format!(r#"{{"event" : "blocked",{fields}}}"#),
            format!(r#"{{"x":"\"event\":\"allowed\"","event":"blocked",{fields}}}"#),
            format!(r#"{{"x":{{"event":"allowed"}},"event":"blocked",{fields}}}"#),
            format!(
                r#"{{"x":{{"event":"forward_http"}},"event":"blocked",{fields},"size_bytes":5}}"#
            ),
            format!(r#"{{"agent":"\u0000\ud83d\ude00","event":"blocked",{fields}}}"#),
        ] {
            let told = refusal(&line);
            let wanted = ["a.example", "allowlist", "domain not in allowlist"].map(str::to_owned);
            assert_eq!(told, Some(wanted.into()), "{line}");
        }
    }

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
