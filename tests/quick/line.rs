//! What becomes of the daemon's lines, whatever they are: the fuzz target's oracle, with
//! lines that proptest makes up.

use proptest::prelude::*;

use crate::support::line::{Line, carry};

/// Pieces of text that mean something to somebody on the way.
fn words() -> impl Strategy<Value = String> {
    let word = prop_oneof![
        Just("sidecar-init: result {}".to_owned()),
        Just("\",\"event\":\"blocked\",\"x\":\"".to_owned()),
        Just("{\"event\":\"blocked\"}".to_owned()),
        Just("http://user@".to_owned()),
        "[\"`:/@.{}\\[\\]\\\\ #?]{1,3}",
        "[\\x00-\\x1f\\x7f-\u{9f}\u{2028}\u{2029}\u{202e}\u{e0041}é漢]{1,4}",
        "[a-z0-9]{1,30}",
        "\\PC{0,8}",
    ];
    prop::collection::vec(word, 0..6).prop_map(|words| words.concat())
}

fn bytes() -> impl Strategy<Value = Vec<u8>> {
    let some = prop_oneof![
        words().prop_map(String::into_bytes),
        prop::collection::vec(any::<u8>(), 0..20),
        Just(b"\n".to_vec()),
        Just(b"\r".to_vec()),
        Just(vec![b'x'; 70_000]),
    ];
    prop::collection::vec(some, 0..8).prop_map(|parts| parts.concat())
}

fn lines() -> impl Strategy<Value = Vec<Line>> {
    let line = prop_oneof![
        (
            any::<u8>(),
            words(),
            prop_oneof![0_u32..400, 0_u32..2000, 60_000_u32..200_000]
        )
            .prop_map(|(form, words, filler)| Line::Blocked {
                form,
                words,
                filler
            }),
        (any::<u8>(), words()).prop_map(|(form, words)| Line::Event { form, words }),
        (0_u8..6, bytes(), any::<u8>()).prop_map(|(key, bytes, at)| Line::Bytes { key, bytes, at }),
    ];
    prop::collection::vec(line, 0..6)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn nothing_of_the_daemons_is_obeyed_leaked_or_lost(
        lines in lines(),
        pieces in prop::collection::vec(1_u16..=u16::MAX, 1..4),
    ) {
        carry(&lines, &pieces);
    }
}
