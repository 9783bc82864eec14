//! The whole way of the daemon's lines, from the bytes it writes to everything that is
//! printed, kept or told of them, with what must hold of each. What `tests/quick/line.rs` makes
//! up and what `fuzz/fuzz_targets/line.rs` finds go through the same function.

use std::time::Instant;

use sidecar_init::daemon::pipelock::events::{self, Event, Heard};
use sidecar_init::status::denials::{self, Denials};
use sidecar_init::status::timeline;
use sidecar_init::status::told::StatusFile;
use sidecar_init::status::{Reporter, State};
use sidecar_init::supervise::relay::{LastLines, Lines, Outlet, Speaker};
use sidecar_init::{command, plain};

/// What nobody may read: keys of known forms, made of a digit among enough else that they
/// are known for keys wherever they stand.
const KEYS: [&str; 4] = [
    "AKIAIOSFODNN7EXAMPLE",
    "ghp_16C7e42F292c6912E7710c838347Ae178B4a",
    "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",
    "sk-ant-api03-R2D2c3po4Lando5Chewie6Yoda7",
];
/// A password like any word: hidden where passwords are, in a URL.
const PASSWORD: &str = "Hunter2Trombone";
/// Where Python's `str.splitlines` ends a line.
const LINE_ENDS: [char; 10] = [
    '\n', '\r', '\x0b', '\x0c', '\x1c', '\x1d', '\x1e', '\u{85}', '\u{2028}', '\u{2029}',
];
/// pipelock's own, and what they quote of the request.
const REASONS: [(&str, &str); 6] = [
    ("allowlist", "domain not in allowlist: "),
    ("core_dlp", "core DLP match: AWS Access ID (critical)"),
    ("entropy", "high entropy query key \""),
    ("ssrf", "SSRF blocked: "),
    ("length", "URL length exceeds maximum: "),
    ("body_dlp", "request body contains secret: AWS Access ID, "),
];

/// One line of the daemon's.
#[derive(Debug, Clone)]
pub enum Line {
    /// A request that was refused, in pipelock's form.
    Blocked {
        /// What chooses among the forms.
        form: u8,
        /// What the agent wrote.
        words: String,
        /// How much of it.
        filler: u32,
    },
    /// Another event with everything in it.
    Event {
        /// Which.
        form: u8,
        /// What the agent wrote.
        words: String,
    },
    /// Any bytes: some of them lines.
    Bytes {
        /// Which key is among them, if any.
        key: u8,
        /// What.
        bytes: Vec<u8>,
        /// Where the key is.
        at: u8,
    },
}

impl Line {
    fn write(&self, to: &mut Vec<u8>) {
        match self {
            Self::Blocked {
                form,
                words,
                filler,
            } => blocked(*form, words, *filler, to),
            Self::Event { form, words } => event(*form, words, to),
            Self::Bytes { key, bytes, at } => {
                let at = usize::from(*at).min(bytes.len());
                let (before, after) = bytes.split_at(at);
                // That one is a password in a URL alone.
                let before = without_password(before);
                let after = without_password(after);
                to.extend(before);
                if let Some(key) = KEYS.get(usize::from(*key)) {
                    to.extend(key.bytes());
                }
                to.extend(after);
            }
        }
        to.push(b'\n');
    }
}

fn without_password(bytes: &[u8]) -> Vec<u8> {
    let text: Vec<u8> = bytes.to_ascii_lowercase();
    let word = PASSWORD.to_ascii_lowercase();
    if contains(&text, &word.as_bytes()[..6]) {
        return Vec::new();
    }
    bytes.to_vec()
}

fn contains(text: &[u8], word: &[u8]) -> bool {
    text.windows(word.len()).any(|window| window == word)
}

/// As Go's zerolog writes a string.
fn quoted(text: &str) -> String {
    text.chars()
        .flat_map(|c| match c {
            '"' | '\\' => vec!['\\', c],
            c if c < ' ' => format!("\\u{:04x}", u32::from(c)).chars().collect(),
            c => vec![c],
        })
        .collect()
}

fn key_of(form: u8) -> &'static str {
    KEYS[usize::from(form / 6) % KEYS.len()]
}

fn blocked(form: u8, words: &str, filler: u32, to: &mut Vec<u8>) {
    let (scanner, reason) = REASONS[usize::from(form) % REASONS.len()];
    let key = key_of(form);
    let filler = "x9%2f".repeat(filler as usize / 5);
    let words = quoted(words);
    let place = match form % 4 {
        0 => format!(
            r#""method":"GET","url":"http://{PASSWORD}:{filler}@no.example/{words}?k={key}""#
        ),
        1 => format!(
            r#""method":"GET","url":"http://no.example/{filler}?p={PASSWORD}{words}&k={key}""#
        ),
        2 => format!(r#""method":"CONNECT","target":"{key}.evil.example:443{filler}""#),
        _ => format!(r#""method":"GET","url":"http://{words}/{PASSWORD}/{key}/{filler}""#),
    };
    to.extend(
        format!(
            r#"{{"level":"warn","component":"pipelock","event":"blocked",{place},"client_ip":"10.0.0.2","request_id":"req-1","scanner":"{scanner}","reason":"{}{key}{words}\"","agent":"{words}{key}","time":"2026-01-01T00:00:00Z","message":"request blocked"}}"#,
            quoted(reason)
        )
        .bytes(),
    );
}

fn event(form: u8, words: &str, to: &mut Vec<u8>) {
    let key = key_of(form);
    let words = quoted(words);
    let text = match form % 6 {
        0 => format!(
            r#"{{"level":"warn","event":"anomaly","url":"http://h/{key}{words}","reason":"{key}","header":"{PASSWORD}"}}"#
        ),
        1 => format!(
            r#"{{"event":"error","method":"CONFIG_RELOAD","error":"rejected: {words} {key}"}}"#
        ),
        2 => format!(r#"{{"event":"startup","config_hash":"{key}{words}","version":"{key}"}}"#),
        3 => format!(
            r#"{{"event":"sni_mismatch","connect_host":"{key}:{words}:443","sni_host":"{key}"}}"#
        ),
        4 => format!(
            r#"{{"event":"error","method":"GET","url":"{key}","error":"Get \"http://{PASSWORD}\": {words}"}}"#
        ),
        _ => format!(r#"{{"event":"{key}{words}","scanner":"{key}","reason":"{words} {key}"}}"#),
    };
    to.extend(text.bytes());
}

/// Has these lines carried, in pieces of these sizes by turns, and everything told of them.
///
/// # Panics
///
/// Where something holds that must not.
pub fn carry(written: &[Line], pieces: &[u16]) {
    let mut bytes = Vec::new();
    let (mut certain, mut possible) = (0, 0);
    for line in written {
        let begin = bytes.len();
        line.write(&mut bytes);
        if matches!(line, Line::Blocked { .. }) {
            certain += 1;
        } else {
            let ends = bytes[begin..].iter().filter(|byte| **byte == b'\n');
            possible += ends.count() as u64;
        }
    }
    let (mut printed, mut last) = (Vec::new(), LastLines::default());
    let mut denials = Denials::new("boot".to_owned());
    let mut heard = String::new();
    {
        let mut lines = Lines::of(Speaker::pipelock(false));
        let mut to = Outlet {
            print: &mut |text| printed.extend_from_slice(text),
            last: &mut last,
            see: &mut |line| match events::parse(line) {
                Some(Heard::Refusal(refusal)) => denials.count(&refusal, 0),
                Some(Heard::Event(Event::ReloadRefused(why))) => heard += &format!("{why}\n"),
                Some(Heard::Event(
                    Event::Startup { config_hash } | Event::Reloaded { config_hash },
                )) => heard += &format!("{config_hash}\n"),
                _ => {}
            },
        };
        let mut rest = bytes.as_slice();
        let mut sizes = pieces.iter().cycle();
        // Thousands of pieces are as good as millions.
        let smallest = 1 + bytes.len() / 2048;
        while !rest.is_empty() {
            let size = sizes
                .next()
                .map_or(4096, |size| usize::from(*size).max(smallest));
            let free = lines.free();
            let count = rest.len().min(size).min(free.len());
            free[..count].copy_from_slice(&rest[..count]);
            lines.advance(count, &mut to);
            rest = &rest[count..];
        }
        lines.finish(&mut to);
    }

    let report = denials.tally();
    assert!(
        (certain..=certain + possible).contains(&report.total),
        "{certain} refused, {} counted",
        report.total
    );
    let printed = String::from_utf8(printed).expect("what is printed is text");
    assert_harmless("the console", &printed);

    let mut reporter = Reporter::new(Instant::now(), "boot".to_owned());
    let said = last.said();
    for said in &said {
        assert_harmless("a last line", said.as_str());
        assert!(!said.as_str().contains('\n'));
    }
    let last = said
        .last()
        .map(|said| format!("ended; its last line: {said}"));
    reporter.daemon_ended(said);
    reporter.daemon_failed(1, last);
    reporter.state_reached(State::Failed, false);
    let notified = reporter.status().in_words();
    let json = reporter.json();
    let denials_json = plain::json(&report, 0);
    let told = StatusFile::parse(json.as_bytes()).expect("its own status is read");
    let refused = denials::parse(denials_json.as_bytes()).expect("its own denials are read");
    for (name, text) in [
        ("a notification", &notified),
        ("status.json", &json),
        ("denials.json", &denials_json),
        ("an event", &heard),
        ("status in words", &command::describe(&told)),
        (
            "the denials in words",
            &command::describe_denials(&refused, ""),
        ),
        ("the picture", &timeline::svg(&told.status)),
    ] {
        assert_harmless(name, text);
        assert_secretive(name, text);
    }
}

/// Nothing that a terminal obeys, and no line that starts as the init's own.
fn assert_harmless(name: &str, text: &str) {
    // Most of it is, and is much.
    let plain = |byte: u8| matches!(byte, b' '..=b'~' | b'\n' | b'\t');
    if text.bytes().all(plain) {
        assert!(
            !text.starts_with("sidecar-init:") && !text.contains("\nsidecar-init:"),
            "{name} has {text:?}"
        );
        return;
    }
    for c in text.chars() {
        let stays = matches!(c, '\n' | '\t') || !c.is_control();
        let turns = matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}');
        assert!(stays && !turns, "{name} has {c:?}: {text:?}");
    }
    for line in text.split(LINE_ENDS) {
        assert!(!line.starts_with("sidecar-init:"), "{name} has {line:?}");
    }
}

fn assert_secretive(name: &str, text: &str) {
    let text = text.to_ascii_lowercase();
    for secret in KEYS.into_iter().chain([PASSWORD]) {
        let secret = secret.to_ascii_lowercase();
        assert!(!text.contains(&secret), "{name} has {secret}: {text:?}");
    }
}
