//! The whole way of the daemon's lines: relayed, split, parsed, counted, redacted, told. No
//! bytes of its make a secret, a control character or a line that starts as ours appear in
//! anything that is told, and every refusal is counted once.
#![no_main]

use libfuzzer_sys::arbitrary::{Arbitrary, Unstructured};
use libfuzzer_sys::fuzz_target;

#[path = "../../tests/support/line.rs"]
mod line;

use line::{Line, carry};

fn one(from: &mut Unstructured) -> libfuzzer_sys::arbitrary::Result<Line> {
    Ok(match from.int_in_range(0..=2)? {
        0 => Line::Blocked {
            form: from.arbitrary()?,
            words: from.arbitrary()?,
            // The longest are slow, and a few of them are enough.
            filler: match from.int_in_range(0..=63)? {
                0 => from.int_in_range(60_000..=200_000)?,
                1..=9 => from.int_in_range(0..=2_000)?,
                _ => from.int_in_range(0..=60)?,
            },
        },
        1 => Line::Event {
            form: from.arbitrary()?,
            words: from.arbitrary()?,
        },
        _ => Line::Bytes {
            key: from.int_in_range(0..=5)?,
            bytes: Vec::arbitrary(from)?,
            at: from.arbitrary()?,
        },
    })
}

fuzz_target!(|bytes: &[u8]| {
    let mut from = Unstructured::new(bytes);
    let mut pieces = Vec::new();
    let mut lines = Vec::new();
    for _ in 0..from.int_in_range(1..=3).unwrap_or(1) {
        pieces.push(from.arbitrary().unwrap_or(u16::MAX));
    }
    while !from.is_empty() && lines.len() < 16 {
        let Ok(line) = one(&mut from) else {
            break;
        };
        lines.push(line);
    }
    carry(&lines, &pieces);
});
