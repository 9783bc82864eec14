//! What somebody else wrote, made fit for a terminal, a log and a line of text: nothing in
//! it moves a cursor, ends a line or turns the direction of reading. Pure.
//!
//! Everything that prints, keeps or tells another's words goes through here. What cannot
//! stand as it is becomes `\r`, `\u001b`, `\u2028` (the form of JSON, so that a line of JSON
//! still says the same), and a byte that is not UTF-8 becomes `\xff`.
#![forbid(unsafe_code)]

use serde::Serialize;

/// Bytes looked at together.
const CHUNK: usize = 32;

/// Whether `bytes` are ASCII that a terminal shows as it is, in lines: most of what is
/// ever written, found at the speed of memory.
#[must_use]
pub fn is_plain(bytes: &[u8]) -> bool {
    let (chunks, rest) = bytes.as_chunks::<CHUNK>();
    let odd = |bytes: &[u8]| bytes.iter().any(|byte| is_odd(*byte));
    let mut last = [b' '; CHUNK];
    if let Some(last) = last.get_mut(..rest.len()) {
        last.copy_from_slice(rest);
    }
    let mut chunks = chunks.iter().chain([&last]);
    !chunks.any(|chunk| may_be_odd(chunk) && odd(chunk))
}

/// What is no plain character of a line, and neither its end nor a tab.
fn is_odd(byte: u8) -> bool {
    !matches!(byte, b' '..=b'~' | b'\n' | b'\t')
}

/// Whether one of them is odd, or a tab: eight bytes in each step, because every byte of the
/// daemon's comes by here, and no loop of a program built to be small is made wider for us.
fn may_be_odd(chunk: &[u8; CHUNK]) -> bool {
    const EACH: u64 = u64::MAX / 0xff;
    let (words, _) = chunk.as_chunks::<8>();
    // Bit 7 of each byte is the answer; nothing carries into the next.
    let odd = words.iter().fold(0, |odd, word| {
        let word = u64::from_ne_bytes(*word);
        let low = word & (0x7f * EACH);
        let no_control = low + 0x60 * EACH;
        let no_line_feed = (low ^ (0x0a * EACH)) + 0x7f * EACH;
        let delete = low + EACH;
        odd | word | (!no_control & no_line_feed) | delete
    });
    odd & (0x80 * EACH) != 0
}

/// Whether a character is shown as it is. Of those beyond ASCII what the standard library
/// calls printable: no control, no format (the marks of direction are), no separator.
fn stays(c: char) -> bool {
    if c.is_ascii() {
        return matches!(c, ' '..='~' | '\t');
    }
    let mut shown = c.escape_debug();
    shown.next() == Some(c) && shown.next().is_none()
}

/// Appends `bytes` as one line: a line feed in them is escaped like all else that must not
/// stand in a line.
pub fn append(line: &mut Vec<u8>, bytes: &[u8]) {
    for chunk in bytes.utf8_chunks() {
        let mut rest = chunk.valid();
        while let Some((at, odd)) = rest.char_indices().find(|(_, c)| !stays(*c)) {
            line.extend_from_slice(rest.get(..at).unwrap_or_default().as_bytes());
            match odd {
                '\n' => line.extend_from_slice(b"\\n"),
                '\r' => line.extend_from_slice(b"\\r"),
                odd => append_units(line, odd),
            }
            rest = rest.get(at + odd.len_utf8()..).unwrap_or_default();
        }
        line.extend_from_slice(rest.as_bytes());
        for byte in chunk.invalid() {
            line.extend_from_slice(format!("\\x{byte:02x}").as_bytes());
        }
    }
}

fn append_units(line: &mut Vec<u8>, c: char) {
    for unit in c.encode_utf16(&mut [0; 2]) {
        line.extend_from_slice(format!("\\u{unit:04x}").as_bytes());
    }
}

/// `text` as one line.
#[must_use]
pub fn line(text: &str) -> String {
    line_of(text.as_bytes())
}

/// As [`line`], of bytes that may not be text.
#[must_use]
pub fn line_of(bytes: &[u8]) -> String {
    let mut line = Vec::with_capacity(bytes.len());
    append(&mut line, bytes);
    String::from_utf8(line).unwrap_or_default()
}

/// `text` with its lines, each as [`line`] makes it.
#[must_use]
pub fn lines(text: &str) -> String {
    if is_plain(text.as_bytes()) {
        return text.to_owned();
    }
    let lines: Vec<String> = text.split('\n').map(line).collect();
    lines.join("\n")
}

/// The beginning of a `text` that is longer than so many bytes: whole characters, with
/// room for an ellipsis.
#[must_use]
pub fn shortened(text: &str, longest: usize) -> &str {
    const ELLIPSIS: usize = '…'.len_utf8();
    if text.len() <= longest {
        return text;
    }
    text.get(..text.floor_char_boundary(longest.saturating_sub(ELLIPSIS)))
        .unwrap_or_default()
}

/// [`lines`], then cut to `longest` bytes with an ellipsis where something is missing.
#[must_use]
pub fn lines_within(text: &str, longest: usize) -> String {
    let text = lines(text);
    let kept = shortened(&text, longest);
    if kept.len() == text.len() {
        return text;
    }
    format!("{kept}…")
}

/// `text` between the tags of SVG or HTML, in one line.
#[must_use]
pub fn markup(text: &str) -> String {
    line(text)
        .replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
        .replace('\'', "&#39;")
}

/// JSON in one line that can be printed anywhere. Beyond ASCII it has nothing outside of its
/// strings, and there an escape of [`append`]'s says what it stands for.
#[must_use]
pub fn json(value: &impl Serialize, likely_length: usize) -> String {
    let mut text = Vec::with_capacity(likely_length);
    // Strings, numbers and lists of them: there is nothing in it that can fail.
    let _ = serde_json::to_writer(&mut text, value);
    let plain = is_plain(&text);
    let text = String::from_utf8(text).unwrap_or_default();
    if plain { text } else { line(&text) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Where Python's `str.splitlines` ends a line.
    const LINE_ENDS: [char; 10] = [
        '\n', '\r', '\x0b', '\x0c', '\x1c', '\x1d', '\x1e', '\u{85}', '\u{2028}', '\u{2029}',
    ];

    #[test]
    fn shows_what_would_move_a_cursor_or_end_a_line() {
        for (written, shown) in [
            ("a line", "a line"),
            ("\x1b[2J\x1b]0;t\x07", "\\u001b[2J\\u001b]0;t\\u0007"),
            ("a\rsidecar-init: x", "a\\rsidecar-init: x"),
            ("\u{9b}31m\u{85}", "\\u009b31m\\u0085"),
            ("\u{202e}gpj", "\\u202egpj"),
            ("\u{2028}\u{2029}", "\\u2028\\u2029"),
            ("\u{e0041}", "\\udb40\\udc41"),
            ("a\tb \u{7f} é 漢 × …", "a\tb \\u007f é 漢 × …"),
            ("a\nb", "a\\nb"),
        ] {
            assert_eq!(line(written), shown);
        }
        assert_eq!(line_of(b"a\xff\xc3("), "a\\xff\\xc3(");
        assert_eq!(lines("a\x1b\nb"), "a\\u001b\nb");
    }

    #[test]
    fn no_tag_and_no_quote_survives_in_markup() {
        let hostile = "</text><script>alert('x')&\"\u{1}";
        assert_eq!(
            markup(hostile),
            "&lt;/text&gt;&lt;script&gt;alert(&#39;x&#39;)&amp;&quot;\\u0001"
        );
    }

    #[test]
    fn shortens_between_characters() {
        assert_eq!(lines_within("aé漢b", 100), "aé漢b");
        assert_eq!(lines_within("漢漢漢", 8), "漢…");
        assert_eq!(lines_within("漢漢", 6), "漢漢");
    }

    proptest! {
        #[test]
        fn nothing_that_is_not_shown_is_left(bytes: Vec<u8>, text in "\\PC{0,40}|[\\x00-\\x9f\u{2000}-\u{206f}]{0,40}") {
            for made in [line_of(&bytes), line(&text), markup(&text)] {
                prop_assert!(made.chars().all(stays), "{made:?}");
                prop_assert!(!made.contains(LINE_ENDS));
            }
        }

        #[test]
        fn plain_is_what_stays_as_it_is(bytes: Vec<u8>, at in 0_usize..200) {
            let mut padded = vec![b'x'; at];
            padded.extend(&bytes);
            let text = String::from_utf8_lossy(&padded);
            let odd = |c| !(stays(c) || c == '\n') || !c.is_ascii();
            prop_assert_eq!(is_plain(&padded), !text.contains(odd));
        }

        #[test]
        fn json_says_the_same_and_is_plain(text: String, odd in "[\\x00-\\x9f\u{2000}-\u{206f}]{0,40}") {
            let said = (text, odd);
            let made = json(&said, 0);
            prop_assert!(made.chars().all(|c| stays(c) && c != '\t'), "{made:?}");
            prop_assert_eq!(serde_json::from_str::<(String, String)>(&made).unwrap(), said);
        }
    }
}
