//! The daemon's lines: any bytes, and no event that a value could forge.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sidecar_init::daemon::pipelock::events::parse;

fuzz_target!(|bytes: &[u8]| {
    for line in bytes.split(|byte| *byte == b'\n') {
        if parse(line).is_some() {
            assert!(line.starts_with(b"{"));
        }
    }
    // Whatever an agent can make pipelock quote stays inside its string.
    let text = String::from_utf8_lossy(bytes);
    let quoted: String = text
        .chars()
        .flat_map(|c| match c {
            '"' | '\\' => vec!['\\', c],
            c if c < ' ' => format!("\\u{:04x}", u32::from(c)).chars().collect(),
            c => vec![c],
        })
        .collect();
    let line = format!(r#"{{"level":"warn","event":"anomaly","url":"{quoted}","message":"x"}}"#);
    assert!(parse(line.as_bytes()).is_none(), "{line}");
});
