//! Reads the JSON lines pipelock prints on standard output. Pure.

use std::borrow::Cow;

use serde::Deserialize;

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
    ReloadRefused(String),
    /// It refused a request.
    Blocked {
        /// What refused it: `allowlist`, `dlp`, …
        scanner: String,
        /// In pipelock's words.
        reason: String,
    },
}

#[derive(Deserialize)]
struct Line<'a> {
    #[serde(borrow)]
    event: Cow<'a, str>,
    #[serde(borrow, default)]
    config_hash: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    method: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    error: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    scanner: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    reason: Option<Cow<'a, str>>,
}

const KEY: &[u8] = b"\"event\":\"";

/// The event in a line of output; `None` for everything else, which is most lines.
#[must_use]
pub fn parse(line: &[u8]) -> Option<Event> {
    // Most of a busy daemon's lines end here, before anything is parsed. One search,
    // because this is what the relay's speed depends on.
    const NAMES: [&[u8]; 4] = [b"startup\"", b"config_reload\"", b"blocked\"", b"error\""];
    let interesting = |at: usize| {
        let name = line.get(at + KEY.len()..).unwrap_or_default();
        NAMES.iter().any(|wanted| name.starts_with(wanted))
    };
    if !line.starts_with(b"{") || !memchr::memmem::find_iter(line, KEY).any(interesting) {
        return None;
    }
    let line: Line = serde_json::from_slice(line).ok()?;
    let owned = |text: Option<Cow<str>>| text.map(Cow::into_owned).unwrap_or_default();
    match line.event.as_ref() {
        "startup" => Some(Event::Startup {
            config_hash: owned(line.config_hash),
        }),
        "config_reload" => Some(Event::Reloaded {
            config_hash: owned(line.config_hash),
        }),
        // A failed reload of the CA has the same method, but a success follows it.
        "error" if line.method.as_deref() == Some("CONFIG_RELOAD") => line
            .error
            .filter(|error| error.starts_with("rejected"))
            .map(|error| Event::ReloadRefused(error.into_owned())),
        "blocked" => Some(Event::Blocked {
            scanner: owned(line.scanner),
            reason: owned(line.reason),
        }),
        _ => None,
    }
}

/// A line of output fit to be kept and shown to others: of an event, only what says
/// what happened. Its URL, target and error may hold the very secret that was refused
/// (`core_dlp` logs the whole URL).
#[must_use]
pub fn without_secrets(line: &str) -> String {
    const LONGEST: usize = 512;
    let kept = if line.starts_with('{') {
        match serde_json::from_str::<Line>(line) {
            Ok(event) => {
                let reloads = event.method.as_deref() == Some("CONFIG_RELOAD");
                let why = event.reason.or(event.error.filter(|_| reloads));
                [Some(event.event), event.scanner, why]
                    .into_iter()
                    .flatten()
                    .collect::<Vec<_>>()
                    .join(": ")
            }
            Err(_) => "(a line of JSON that is no event)".to_owned(),
        }
    } else {
        line.to_owned()
    };
    kept.chars().take(LONGEST).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_lines_pipelock_prints() {
        let startup = br#"{"level":"info","component":"pipelock","event":"startup","listen":"127.0.0.1:8888","mode":"strict","version":"2.3.0","config_hash":"4f89","time":"2026-11-23T20:02:19Z","message":"pipelock started"}"#;
        assert_eq!(
            parse(startup),
            Some(Event::Startup {
                config_hash: "4f89".into()
            })
        );
        let reload = br#"{"level":"info","component":"pipelock","event":"config_reload","status":"success","detail":"mode=strict","config_hash":"d549","time":"2026-11-23T20:02:19Z","message":"configuration reloaded"}"#;
        assert_eq!(
            parse(reload),
            Some(Event::Reloaded {
                config_hash: "d549".into()
            })
        );
        let refused = br#"{"level":"error","component":"pipelock","event":"error","method":"CONFIG_RELOAD","resource":"p.yaml","error":"rejected: security downgrade from strict mode","time":"2026-11-23T20:17:58Z","message":"request error"}"#;
        assert_eq!(
            parse(refused),
            Some(Event::ReloadRefused(
                "rejected: security downgrade from strict mode".into()
            ))
        );
        let blocked = br#"{"level":"warn","component":"pipelock","event":"blocked","method":"GET","url":"http://no.example/","client_ip":"127.0.0.1","request_id":"req-1","scanner":"allowlist","reason":"domain not in allowlist: no.example","agent":"anonymous","message":"request blocked"}"#;
        assert_eq!(
            parse(blocked),
            Some(Event::Blocked {
                scanner: "allowlist".into(),
                reason: "domain not in allowlist: no.example".into()
            })
        );
    }

    #[test]
    fn keeps_no_url_and_no_target_for_the_record() {
        let blocked = r#"{"level":"warn","event":"blocked","method":"GET","url":"http://x/?k=AKIAIOSFODNN7EXAMPLE","target":"AKIAIOSFODNN7EXAMPLE","scanner":"core_dlp","reason":"AWS Access ID"}"#;
        assert_eq!(without_secrets(blocked), "blocked: core_dlp: AWS Access ID");
        let error =
            r#"{"event":"error","method":"GET","url":"u","error":"Get http://x/?k=AKIA: refused"}"#;
        assert_eq!(without_secrets(error), "error");
        assert!(!without_secrets(&blocked[..60]).contains("AKIA"));
        assert_eq!(
            without_secrets("panic: out of memory"),
            "panic: out of memory"
        );
    }

    #[test]
    fn is_not_fooled_by_an_event_inside_a_value() {
        let line =
            br#"{"event":"anomaly","url":"http://x/\"event\":\"startup\"","config_hash":"00"}"#;
        assert_eq!(parse(line), None);
        let line = br#"{"event":"anomaly","x":{"event":"startup"},"config_hash":"00"}"#;
        assert_eq!(parse(line), None);
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
            assert_eq!(parse(junk), None);
        }
    }
}
