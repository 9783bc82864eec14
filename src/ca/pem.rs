//! The PEM blocks of a file, as Go's `encoding/pem` finds them: of a pair pipelock takes the
//! first, whatever its type says. Pure.

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
    /// Bytes of DER, as a file for Windows or Java has them.
    Der,
    /// Two bytes to a character, as PowerShell's `>` writes them.
    Utf16,
    /// A byte order mark stands before the block.
    ByteOrderMark,
    /// Lines end in a carriage return alone.
    CarriageReturns,
    /// The block is indented.
    Indented,
    /// Something else stands before the block in its line.
    NotAtMargin,
}

impl fmt::Display for PemProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Empty => "the file is empty",
            Self::NotPem => "the file is not PEM: no line starts with \"-----BEGIN \"",
            Self::Damaged => "its PEM block is cut short or not base64",
            Self::Der => "the file is not PEM but DER",
            Self::Utf16 => {
                "the file is UTF-16, and PEM is ASCII\n\
                 hint: iconv -f UTF-16 -t UTF-8 old.pem > new.pem"
            }
            Self::ByteOrderMark => {
                "a byte order mark stands before its PEM block, which is not found behind it\n\
                 hint: tail -c +4 old.pem > new.pem"
            }
            Self::CarriageReturns => {
                "its lines end in carriage returns alone, which end no line of PEM\n\
                 hint: tr '\\r' '\\n' < old.pem > new.pem"
            }
            Self::Indented => {
                "its PEM block is indented, and is not found there\n\
                 hint: sed 's/^[[:blank:]]*//' old.pem > new.pem"
            }
            Self::NotAtMargin => {
                "something stands before \"-----BEGIN \" in its line, so that no block begins there"
            }
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
    /// What stands before it in the file.
    pub(super) before: &'a [u8],
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
        let begin = last_begin(before);
        let block = begin.and_then(|begin| with_newline.get(begin + BEGIN.len()..));
        if let (Some(begin), Some(decoded)) = (begin, block.and_then(|it| decode(it, trailer))) {
            let begins_at = file.len() - rest.len() + begin;
            return Ok(Block {
                before: file.get(..begins_at).unwrap_or_default(),
                ..decoded
            });
        }
        rest = trailer;
    }
    Err(why_none(file))
}

/// All blocks of a file of which nothing may be lost, each with the place where it begins. A
/// block that Go would pass over in silence is a problem, told with its place.
pub(super) fn every_block(file: &[u8]) -> Result<Vec<(usize, Block<'_>)>, (usize, PemProblem)> {
    let mut blocks = Vec::new();
    let mut rest = file;
    loop {
        let found = first_block(rest);
        let passed_over = found.as_ref().map_or(rest, |block| block.before);
        let begins_at = file.len() - rest.len();
        if let Some(marker) = Marker::first(passed_over) {
            return Err((begins_at + marker.at, marker.problem()));
        }
        match found {
            Ok(block) => {
                rest = block.rest;
                blocks.push((begins_at + block.before.len(), block));
            }
            Err(problem) if blocks.is_empty() => return Err((0, problem)),
            Err(_) => return Ok(blocks),
        }
    }
}

/// What keeps a block from being found in this text, where there is one.
pub(super) fn passed_over(text: &[u8]) -> Option<PemProblem> {
    Marker::first(text).map(|marker| marker.problem())
}

/// The number of the line in which the byte at this place stands.
pub(super) fn line_of(file: &[u8], at: usize) -> usize {
    let before = file.get(..at).unwrap_or_default();
    1 + memchr::memchr_iter(b'\n', before).count()
}

/// Why a file has no block.
fn why_none(file: &[u8]) -> PemProblem {
    if file.trim_ascii().is_empty() {
        return PemProblem::Empty;
    }
    if matches!(file, [0xff, 0xfe, ..] | [0xfe, 0xff, ..] | [b'-', 0, ..]) {
        return PemProblem::Utf16;
    }
    match (Marker::first(file), file) {
        (Some(marker), _) => marker.problem(),
        // A sequence as long as the file, or of a length that takes more than its byte.
        (None, [0x30, 0x80..=0x84, ..]) => PemProblem::Der,
        (None, [0x30, length, rest @ ..]) if usize::from(*length) == rest.len() => PemProblem::Der,
        (None, _) => PemProblem::NotPem,
    }
}

/// A line that looks as if it began or ended a block.
struct Marker<'a> {
    /// Where its dashes begin.
    at: usize,
    /// What stands before them in their line.
    lead: &'a [u8],
    /// Itself, with its dashes, to the end of its line.
    line: &'a [u8],
}

impl<'a> Marker<'a> {
    /// The first in `text`: a BEGIN or END behind dashes, however many and of whatever kind.
    fn first(text: &'a [u8]) -> Option<Self> {
        let words = [&b"BEGIN "[..], b"END "];
        let at = (0..text.len()).find(|&at| {
            let (before, behind) = text.split_at(at);
            words.iter().any(|word| behind.starts_with(word)) && without_dash(before).is_some()
        })?;
        let mut before = text.get(..at)?;
        while let Some(shorter) = without_dash(before) {
            before = shorter;
        }
        let starts = before.iter().rposition(|byte| *byte == b'\n');
        let line = text.get(before.len()..)?;
        Some(Self {
            at: before.len(),
            lead: before.get(starts.map_or(0, |at| at + 1)..)?,
            line: line.split(|byte| *byte == b'\n').next()?,
        })
    }

    /// What keeps a block from being found here.
    fn problem(&self) -> PemProblem {
        let inner = self.line.strip_suffix(b"\r").unwrap_or(self.line);
        if inner.contains(&b'\r') || self.lead.contains(&b'\r') {
            return PemProblem::CarriageReturns;
        }
        match self.lead {
            [] => PemProblem::Damaged,
            b"\xef\xbb\xbf" => PemProblem::ByteOrderMark,
            lead if lead.iter().all(|byte| b" \t".contains(byte)) => PemProblem::Indented,
            _ => PemProblem::NotAtMargin,
        }
    }
}

/// `text` without the dash it ends in: a hyphen, or one that a word processor made of it
/// (U+2010 to U+2015).
fn without_dash(text: &[u8]) -> Option<&[u8]> {
    match text {
        [shorter @ .., b'-'] => Some(shorter),
        [shorter @ .., 0xe2, 0x80, 0x90..=0x95] => Some(shorter),
        _ => None,
    }
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
        before: &[],
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
    fn says_why_go_finds_none() {
        let utf16 = |text: &str| -> Vec<u8> {
            let units = text.encode_utf16();
            units.flat_map(u16::to_le_bytes).collect()
        };
        for (file, why) in [
            (b" \r\n".to_vec(), PemProblem::Empty),
            (b"text".to_vec(), PemProblem::NotPem),
            (b"BEGIN X, and the END of it".to_vec(), PemProblem::NotPem),
            (b"\x30\x82\x01\x0a".to_vec(), PemProblem::Der),
            (b"\x30\x03\x02\x01\x01".to_vec(), PemProblem::Der),
            (b"0: a line".to_vec(), PemProblem::NotPem),
            (utf16(&format!("\u{feff}{BLOCK}")), PemProblem::Utf16),
            (utf16(BLOCK), PemProblem::Utf16),
            (format!("\u{feff}{BLOCK}").into(), PemProblem::ByteOrderMark),
            (
                BLOCK.replace('\n', "\r").into(),
                PemProblem::CarriageReturns,
            ),
            (
                format!("text\r{}", BLOCK.replace('\n', "\r")).into(),
                PemProblem::CarriageReturns,
            ),
            (
                format!("text\n{}", BLOCK.replace("-----BEGIN", " \t-----BEGIN")).into(),
                PemProblem::Indented,
            ),
            (
                BLOCK.replace("-----BEGIN", "text -----BEGIN").into(),
                PemProblem::NotAtMargin,
            ),
            (format!("-{BLOCK}").into(), PemProblem::Damaged),
            (
                BLOCK.replace("-----", "\u{2014}").into(),
                PemProblem::Damaged,
            ),
        ] {
            let found = first_block(&file).map(|block| block.der.to_vec());
            assert_eq!(found, Err(why), "{file:?}");
        }
    }

    #[test]
    fn loses_no_block_that_go_would_pass_over() {
        let lines = |file: &str| {
            let found = every_block(file.as_bytes());
            let line = |at| line_of(file.as_bytes(), at);
            found
                .map(|blocks| blocks.iter().map(|(at, _)| line(*at)).collect::<Vec<_>>())
                .map_err(|(at, problem)| (line(at), problem))
        };
        let cut = "-----BEGIN X-----\nAQID\n";
        assert_eq!(
            lines(&format!("text\n{BLOCK}text\n\n{BLOCK}text")),
            Ok(vec![2, 7])
        );
        for (file, line, why) in [
            (String::new(), 1, PemProblem::Empty),
            (format!("{cut}{BLOCK}"), 1, PemProblem::Damaged),
            (format!("{BLOCK}text\n{cut}"), 5, PemProblem::Damaged),
            (
                format!("{BLOCK}AQID\n-----END X-----\n"),
                5,
                PemProblem::Damaged,
            ),
            (
                format!("{BLOCK}{}{BLOCK}", BLOCK.replace("AQID", "!")),
                4,
                PemProblem::Damaged,
            ),
            (
                format!("\u{feff}{BLOCK}{BLOCK}"),
                1,
                PemProblem::ByteOrderMark,
            ),
            (
                format!("{BLOCK}  {}", BLOCK.replace('\n', "\n  ")),
                4,
                PemProblem::Indented,
            ),
            (
                format!("{BLOCK}----BEGIN X-----\nAQID\n-----END X-----\n"),
                4,
                PemProblem::Damaged,
            ),
            (format!("{BLOCK}> {BLOCK}"), 4, PemProblem::NotAtMargin),
        ] {
            assert_eq!(lines(&file), Err((line, why)), "{file:?}");
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
