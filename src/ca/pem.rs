//! The first PEM block of a file, as Go's `encoding/pem` finds it: pipelock takes that
//! one, whatever its type says. Pure.

use std::fmt;

use base64ct::{Base64, Encoding as _};
use zeroize::Zeroizing;

const BEGIN: &[u8] = b"-----BEGIN ";
const END: &[u8] = b"\n-----END ";
const DASHES: &[u8] = b"-----";

/// Why a file has no PEM block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum PemProblem {
    /// Nothing but white space.
    Empty,
    /// No line begins a block.
    NotPem,
    /// A block begins, and none is whole.
    Damaged,
}

impl fmt::Display for PemProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Empty => "the file is empty",
            Self::NotPem => "the file is not PEM: no line starts with \"-----BEGIN \"",
            Self::Damaged => "its PEM block is cut short or not base64",
        })
    }
}

/// A decoded block.
pub(super) struct Block<'a> {
    /// The type between BEGIN and the dashes.
    pub(super) label: &'a [u8],
    /// Whether header lines say the contents are encrypted (RFC 1421).
    pub(super) encrypted: bool,
    /// The contents, wiped on drop.
    pub(super) der: Zeroizing<Vec<u8>>,
    /// What follows it in the file.
    pub(super) rest: &'a [u8],
}

impl Block<'_> {
    /// Whether another block begins after this one.
    pub(super) fn is_followed(&self) -> bool {
        find(self.rest, BEGIN).is_some()
    }
}

/// Whether the file has a private key anywhere, be its block whole or not.
pub(super) fn holds_key(file: &[u8]) -> bool {
    find(file, b"PRIVATE KEY-----").is_some()
}

/// Decodes the first block. Text around it, indented base64 and repeated BEGIN lines are
/// skipped where Go skips them.
pub(super) fn first_block(file: &[u8]) -> Result<Block<'_>, PemProblem> {
    let mut rest = file;
    while let Some(end) = find(rest, END) {
        let (before, trailer) = (
            rest.get(..end).unwrap_or_default(),
            rest.get(end + END.len()..).unwrap_or_default(),
        );
        // With its newline, so that an empty block still has one after its first line.
        let with_newline = rest.get(..=end).unwrap_or_default();
        if let Some(block) = last_begin(before)
            .and_then(|begin| with_newline.get(begin + BEGIN.len()..))
            .and_then(|block| decode(block, trailer))
        {
            return Ok(block);
        }
        rest = trailer;
    }
    Err(if file.trim_ascii().is_empty() {
        PemProblem::Empty
    } else if find(file, BEGIN).is_none() {
        PemProblem::NotPem
    } else {
        PemProblem::Damaged
    })
}

/// The last BEGIN, provided it starts a line.
fn last_begin(text: &[u8]) -> Option<usize> {
    let begin = text.windows(BEGIN.len()).rposition(|at| at == BEGIN)?;
    let starts_line = begin == 0 || text.get(begin - 1) == Some(&b'\n');
    starts_line.then_some(begin)
}

/// `block` runs from after BEGIN to the newline before END, `trailer` from after END.
fn decode<'a>(block: &'a [u8], trailer: &'a [u8]) -> Option<Block<'a>> {
    let (label, mut body) = split_line(block);
    let label = label.strip_suffix(DASHES)?;
    let mut encrypted = false;
    while !body.is_empty() {
        let (line, next) = split_line(body);
        if !line.contains(&b':') {
            break;
        }
        encrypted |= line.starts_with(b"Proc-Type:") && find(line, b"ENCRYPTED").is_some();
        body = next;
    }
    let (end_line, after) = split_line(trailer);
    if end_line.strip_suffix(DASHES)? != label {
        return None;
    }
    Some(Block {
        label,
        encrypted,
        der: decode_base64(body)?,
        rest: after,
    })
}

/// The first line without its end and trailing blanks, and what follows it. Only before a
/// newline is a carriage return part of the end.
fn split_line(text: &[u8]) -> (&[u8], &[u8]) {
    let mut parts = text.splitn(2, |&byte| byte == b'\n');
    let mut line = parts.next().unwrap_or_default();
    let rest = parts.next();
    if rest.is_some() {
        line = line.strip_suffix(b"\r").unwrap_or(line);
    }
    while let [shorter @ .., b' ' | b'\t'] = line {
        line = shorter;
    }
    (line, rest.unwrap_or_default())
}

/// RFC 4648, section 4, padding required; line ends and blanks anywhere.
fn decode_base64(text: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
    // Decoded where it is and never grown, so that no copy of a key is left behind.
    let mut bytes = Zeroizing::new(Vec::with_capacity(text.len()));
    bytes.extend(text.iter().filter(|byte| !b" \t\r\n".contains(byte)));
    let length = Base64::decode_in_place(&mut bytes).ok()?.len();
    bytes.truncate(length);
    Some(bytes)
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|at| at == needle)
}

#[cfg(test)]
mod tests {
    use super::*;

    const BLOCK: &str = "-----BEGIN X-----\nAQID\n-----END X-----\n";

    fn contents(file: &str) -> Result<Vec<u8>, PemProblem> {
        first_block(file.as_bytes()).map(|block| block.der.to_vec())
    }

    #[test]
    fn finds_the_block_go_finds() {
        for file in [
            BLOCK.to_owned(),
            BLOCK.trim_end().to_owned(),
            BLOCK.replace('\n', "\r\n"),
            format!("text\n\n{BLOCK}text"),
            format!("-----BEGIN X-----\nAQ\n{BLOCK}"),
            format!("-----BEGIN Y-----\n!\n-----END Y-----\n{BLOCK}"),
            format!("-----BEGIN Y-----\nAQID\n-----END Z-----\n{BLOCK}"),
            "-----BEGIN X-----  \n A Q\tI\nD \n-----END X----- \t\n".to_owned(),
            "-----BEGIN X-----\nName: value\n\nAQID\n-----END X-----".to_owned(),
        ] {
            assert_eq!(contents(&file), Ok(vec![1, 2, 3]), "{file:?}");
        }
        assert_eq!(
            contents("-----BEGIN X-----\n-----END X-----\n"),
            Ok(Vec::new())
        );
    }

    #[test]
    fn finds_none_where_go_finds_none() {
        for file in [
            BLOCK.replace("-----BEGIN", "text -----BEGIN"),
            BLOCK.replace("-----END", " -----END"),
            BLOCK.replace("END X-----\n", "END X-----text\n"),
            BLOCK.replace("END X-----\n", "END X-----\r"),
            BLOCK.replace("BEGIN X-----", "BEGIN X----"),
            BLOCK.replace("AQID", "AQI"),
            BLOCK.replace("AQID", "A==="),
            BLOCK.replace("AQID", "AQ=D"),
            BLOCK.replace("AQID", "AQ==AQID"),
            BLOCK.replace("AQID", "AQID="),
        ] {
            assert_eq!(contents(&file), Err(PemProblem::Damaged), "{file:?}");
        }
    }

    #[test]
    fn decodes_padded_base64() {
        let body = |base64: &str| contents(&BLOCK.replace("AQID", base64));
        assert_eq!(body("AQ=="), Ok(vec![1]));
        assert_eq!(body("AQI="), Ok(vec![1, 2]));
        assert_eq!(body("+/+/AQ=\n="), Ok(vec![0xfb, 0xff, 0xbf, 1]));
    }

    #[test]
    fn tells_what_stands_around_the_block() -> Result<(), PemProblem> {
        assert!(!first_block(BLOCK.as_bytes())?.is_followed());
        assert!(first_block(BLOCK.repeat(2).as_bytes())?.is_followed());
        let encrypted = BLOCK.replace("AQID", "Proc-Type: 4,ENCRYPTED\n\nAQID");
        let block = first_block(encrypted.as_bytes())?;
        assert!(block.encrypted);
        assert_eq!(block.label, b"X");
        Ok(())
    }
}
