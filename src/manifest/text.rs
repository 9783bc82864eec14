//! Bytes to text that a manifest may have, and where its document starts.

use super::MAX_BYTES;
use super::problem::{Position, Problem, Rejection};

/// UTF-8 without control characters, with its byte order mark removed.
pub(super) fn decode(bytes: &[u8]) -> Result<&str, Problem> {
    if bytes.len() > MAX_BYTES {
        return Err(Rejection::new(format!(
            "{} bytes are more than the {MAX_BYTES} a manifest may have",
            bytes.len()
        ))
        .at(None, String::new()));
    }
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    let refused =
        |offset, refusal: Rejection| refusal.at(Some(place(bytes, offset)), String::new());
    let text = std::str::from_utf8(bytes).map_err(|error| {
        let offset = error.valid_up_to();
        let byte = bytes.get(offset).copied().unwrap_or_default();
        let refusal = Rejection::new(format!("byte 0x{byte:02x} at offset {offset} is not UTF-8"));
        let refusal = match bytes {
            [0xff, 0xfe, ..] | [0xfe, 0xff, ..] => refusal.hint("save the file as UTF-8"),
            _ => refusal,
        };
        refused(offset, refusal)
    })?;
    let control = |b: u8| (b < b' ' && !matches!(b, b'\t' | b'\n' | b'\r')) || b == 0x7f;
    match bytes.iter().copied().enumerate().find(|(_, b)| control(*b)) {
        Some((offset, byte)) => Err(refused(
            offset,
            Rejection::new(format!(
                "control character 0x{byte:02x} at offset {offset}; only tab, line feed and carriage return are allowed"
            )),
        )),
        None => Ok(text),
    }
}

/// The line and column of an offset.
fn place(bytes: &[u8], offset: usize) -> Position {
    let before = String::from_utf8_lossy(bytes.get(..offset).unwrap_or_default());
    let last_line = before.rsplit('\n').next().unwrap_or_default();
    Position::new(
        before.matches('\n').count() + 1,
        last_line.chars().count() + 1,
    )
}

/// Where the document starts, if that is with a flow collection: JSON, usually.
pub(super) fn start_of_collection(text: &str) -> Option<usize> {
    let mut rest = text;
    loop {
        rest = rest.trim_start_matches([' ', '\t', '\n', '\r']);
        if !rest.starts_with('#') {
            break;
        }
        rest = rest.split_once('\n').map_or("", |(_, rest)| rest);
    }
    let found = rest.starts_with(['{', '[']);
    found.then(|| text.len() - rest.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_every_control_character_but_white_space() {
        for byte in 0..=0x7f_u8 {
            let allowed = matches!(byte, b'\t' | b'\n' | b'\r' | b' '..=b'~');
            assert_eq!(decode(&[b'a', byte]).is_ok(), allowed, "{byte}");
        }
        assert_eq!(decode("\u{80}".as_bytes()), Ok("\u{80}"));
    }

    #[test]
    fn takes_one_byte_order_mark_off() {
        assert_eq!(decode(b"\xef\xbb\xbfa"), Ok("a"));
        assert_eq!(decode(b"\xef\xbb\xbf\xef\xbb\xbfa"), Ok("\u{feff}a"));
    }

    #[test]
    fn takes_as_many_bytes_as_a_manifest_may_have() {
        assert!(decode(&vec![b'a'; MAX_BYTES]).is_ok());
        let problem = decode(&vec![b'a'; MAX_BYTES + 1]).unwrap_err();
        assert_eq!((problem.line, problem.column), (None, None));
    }

    #[test]
    fn a_place_is_counted_in_lines_and_characters() {
        for (text, offset, line, column) in [
            ("", 0, 1, 1),
            ("ab", 2, 1, 3),
            ("a\n", 1, 1, 2),
            ("a\n", 2, 2, 1),
            ("\u{fc}\n\u{fc}x", 5, 2, 2),
        ] {
            let wanted = Position::new(line, column);
            assert_eq!(place(text.as_bytes(), offset), wanted, "{text:?} {offset}");
        }
    }

    #[test]
    fn a_collection_may_start_behind_blanks_and_comments() {
        for (text, wanted) in [
            ("{}", Some(0)),
            ("[]", Some(0)),
            (" \t\r\n{", Some(4)),
            ("# {\n# [\n {", Some(9)),
            ("# {", None),
            ("a: {}", None),
            ("--- {}", None),
            ("", None),
        ] {
            assert_eq!(start_of_collection(text), wanted, "{text:?}");
        }
    }
}
