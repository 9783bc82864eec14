//! Reads of an X.509 certificate what decides whether pipelock and its clients take it
//! as a CA (RFC 5280). Pure.

use std::fmt::{self, Write as _};

use p256::pkcs8::LineEnding;
use p256::pkcs8::der::asn1::{AnyRef, BitStringRef, GeneralizedTime, OctetStringRef, UtcTime};
use p256::pkcs8::der::{
    self, ErrorKind, Reader as _, SliceReader, Tag, TagMode, TagNumber, Tagged as _, pem,
};
use sha2::{Digest as _, Sha256};

use super::pem::{Block, PemProblem};
use super::{Curve, Facts, Warning, rfc3339};

// Contents of the object identifiers, without tag and length.
pub(super) const EC_PUBLIC_KEY: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01];
const SUBJECT_KEY_IDENTIFIER: &[u8] = &[0x55, 0x1d, 0x0e];
const KEY_USAGE: &[u8] = &[0x55, 0x1d, 0x0f];
const BASIC_CONSTRAINTS: &[u8] = &[0x55, 0x1d, 0x13];

/// The place of `keyCertSign` in a key usage (RFC 5280, 4.2.1.3).
const KEY_CERT_SIGN: usize = 5;
/// X.509 v3, as it is encoded.
const VERSION_3: u8 = 2;

/// Why a certificate file cannot serve as pipelock's CA.
#[derive(Debug)]
#[non_exhaustive]
pub enum CertificateProblem {
    /// No PEM block to read.
    Pem(PemProblem),
    /// The first block is a private key.
    IsKey,
    /// A private key stands behind the certificate.
    HoldsKey,
    /// The first block is a signing request.
    IsRequest,
    /// The first block is in OpenSSL's own trusted form.
    IsTrusted,
    /// Not the DER of a certificate.
    Malformed(der::Error),
    /// Something follows the certificate within its block.
    TrailingData,
    /// Older than version 3: no extensions, so no CA.
    Version,
    /// The serial number is negative, which Go refuses.
    NegativeSerial,
    /// The certificate names two signature algorithms, which Go refuses.
    SignatureAlgorithms,
    /// The key is not on a curve pipelock reads; holds the algorithm or curve.
    PublicKey(String),
    /// `CA:TRUE` is missing: a leaf.
    NotAuthority,
    /// The key usage lacks `keyCertSign`, or there is none.
    MayNotSign,
    /// The validity begins later than the clock.
    NotYetValid {
        /// Where the validity begins, Unix time.
        not_before: u64,
        /// The clock's reading, Unix time.
        now: u64,
    },
    /// The validity ended before the clock.
    Expired {
        /// Where the validity ended, Unix time.
        not_after: u64,
        /// The clock's reading, Unix time.
        now: u64,
    },
}

impl fmt::Display for CertificateProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pem(problem) => write!(
                f,
                "{problem}\nhint: a DER certificate becomes PEM by openssl x509 -inform DER \
                 -in ca.der -out ca.pem"
            ),
            Self::IsKey => f.write_str(
                "its first PEM block is a private key\nhint: certificate and key may be swapped",
            ),
            Self::HoldsKey => f.write_str(
                "its file holds a private key as well, and that file is everybody's to read\n\
                 hint: openssl x509 -in both.pem -out ca.pem",
            ),
            Self::IsRequest => f.write_str(
                "its first PEM block is a certificate request\nhint: provide the certificate \
                 that was issued for it",
            ),
            Self::IsTrusted => f.write_str(
                "its first PEM block is a TRUSTED CERTIFICATE, which only OpenSSL reads\n\
                 hint: openssl x509 -in ca.pem -out plain.pem",
            ),
            Self::Malformed(_) => f.write_str("its first PEM block is not an X.509 certificate"),
            Self::TrailingData => f.write_str("bytes follow the certificate in its PEM block"),
            Self::Version => f.write_str(
                "it is older than X.509 version 3, and so without the extensions of a CA",
            ),
            Self::NegativeSerial => {
                f.write_str("its serial number is negative, which pipelock refuses")
            }
            Self::SignatureAlgorithms => f.write_str(
                "its inner and outer signature algorithms differ, which pipelock refuses",
            ),
            Self::PublicKey(kind) => write!(
                f,
                "its public key is {kind}; accepted are EC keys on P-224, P-256, P-384 and P-521"
            ),
            Self::NotAuthority => f.write_str(
                "it is a leaf: its basic constraints do not say CA:TRUE\nhint: provide the \
                 certificate of the authority itself",
            ),
            Self::MayNotSign => f.write_str(
                "its key usage does not name keyCertSign, without which pipelock refuses a CA\n\
                 hint: issue it with keyUsage = critical, keyCertSign, cRLSign",
            ),
            Self::NotYetValid { not_before, now } => write!(
                f,
                "it is not valid before {}, and the clock says {}\nhint: set the clock, or \
                 provide a CA that is valid now",
                rfc3339(*not_before),
                rfc3339(*now)
            ),
            Self::Expired { not_after, now } => write!(
                f,
                "it expired at {}, and the clock says {}\nhint: provide a CA that is valid \
                 now, or remove both files to have a new pair generated",
                rfc3339(*not_after),
                rfc3339(*now)
            ),
        }
    }
}

/// The parts of a certificate that are judged.
pub(super) struct Certificate<'a> {
    pub(super) subject: String,
    pub(super) not_before: u64,
    pub(super) not_after: u64,
    pub(super) curve: Curve,
    pub(super) public_point: &'a [u8],
    pub(super) is_authority: bool,
    pub(super) may_sign: bool,
    pub(super) has_key_identifier: bool,
}

impl Certificate<'_> {
    /// What this certificate, whose whole encoding is `der`, says of itself.
    pub(super) fn facts(self, der: &[u8]) -> Facts {
        let mut warnings = Vec::new();
        if !self.has_key_identifier {
            warnings.push(Warning::NoSubjectKeyIdentifier);
        }
        Facts {
            fingerprint_sha256: hexadecimal(&Sha256::digest(der)),
            subject: self.subject,
            not_before: self.not_before,
            not_after: self.not_after,
            curve: self.curve,
            warnings,
            certificate_pem: encode(der),
        }
    }
}

/// The one certificate, encoded anew: nothing else of the file it was read from.
pub(super) fn encode(der: &[u8]) -> String {
    // Fails for more bytes than there can be in memory.
    pem::encode_string("CERTIFICATE", LineEnding::LF, der).unwrap_or_default()
}

/// Whether this is one whole value of a certificate's shape: what is signed, by which
/// algorithm, and the signature (RFC 5280, 4.1). No form of a private key has it.
pub(super) fn is_shaped_as_certificate(der: &[u8]) -> bool {
    let read = || -> der::Result<bool> {
        let mut file = SliceReader::new(der)?;
        let mut cert = inside(file.decode()?, Tag::Sequence)?;
        inside(cert.decode()?, Tag::Sequence)?;
        inside(cert.decode()?, Tag::Sequence)?;
        cert.decode::<BitStringRef<'_>>()?;
        Ok(cert.is_finished() && file.is_finished())
    };
    read() == Ok(true)
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Reads the certificate of a PEM block, whatever its label: so does pipelock. The label
/// only serves to explain what cannot be read.
pub(super) fn parse_block<'a>(block: &'a Block<'_>) -> Result<Certificate<'a>, CertificateProblem> {
    parse(&block.der).map_err(|problem| match block.label {
        b"CERTIFICATE REQUEST" | b"NEW CERTIFICATE REQUEST" => CertificateProblem::IsRequest,
        b"TRUSTED CERTIFICATE" => CertificateProblem::IsTrusted,
        b"EC PARAMETERS" => CertificateProblem::IsKey,
        label if label.ends_with(b"PRIVATE KEY") => CertificateProblem::IsKey,
        _ => problem,
    })
}

/// Reads one certificate and nothing behind it.
pub(super) fn parse(der: &[u8]) -> Result<Certificate<'_>, CertificateProblem> {
    let mut file = SliceReader::new(der)?;
    let mut cert = inside(file.decode()?, Tag::Sequence)?;
    let read = read_fields(&mut cert)?;
    if cert.is_finished() && file.is_finished() {
        Ok(read)
    } else {
        Err(CertificateProblem::TrailingData)
    }
}

impl From<der::Error> for CertificateProblem {
    fn from(error: der::Error) -> Self {
        Self::Malformed(error)
    }
}

fn read_fields<'a>(cert: &mut SliceReader<'a>) -> Result<Certificate<'a>, CertificateProblem> {
    let mut tbs = inside(cert.decode()?, Tag::Sequence)?;
    let outer_algorithm: AnyRef<'_> = cert.decode()?;
    cert.decode::<BitStringRef<'_>>()?;

    let version: Option<u8> = tbs.context_specific(TagNumber(0), TagMode::Explicit)?;
    if version != Some(VERSION_3) {
        return Err(CertificateProblem::Version);
    }
    let serial: AnyRef<'_> = tbs.decode()?;
    serial.tag().assert_eq(Tag::Integer)?;
    if serial.value().first().is_some_and(|byte| byte & 0x80 != 0) {
        return Err(CertificateProblem::NegativeSerial);
    }
    if tbs.decode::<AnyRef<'_>>()? != outer_algorithm {
        return Err(CertificateProblem::SignatureAlgorithms);
    }
    let _issuer = read_name(tbs.decode()?)?;
    let mut validity = inside(tbs.decode()?, Tag::Sequence)?;
    let (not_before, not_after) = (read_time(&mut validity)?, read_time(&mut validity)?);
    let subject = read_name(tbs.decode()?)?;
    let public_key: AnyRef<'_> = tbs.decode()?;

    let mut extensions = Extensions::default();
    while !tbs.is_finished() {
        let field: AnyRef<'_> = tbs.decode()?;
        // Between the key and the extensions stand two unique identifiers nobody uses.
        if field.tag() == context_constructed(3) {
            let mut wrapped = SliceReader::new(field.value())?;
            extensions = read_extensions(inside(wrapped.decode()?, Tag::Sequence)?)?;
        }
    }

    let (curve, public_point) = read_public_key(public_key)?;
    Ok(Certificate {
        subject,
        not_before,
        not_after,
        curve,
        public_point,
        is_authority: extensions.is_authority,
        may_sign: extensions.may_sign,
        has_key_identifier: extensions.has_key_identifier,
    })
}

fn read_time(validity: &mut SliceReader<'_>) -> der::Result<u64> {
    let time: AnyRef<'_> = validity.decode()?;
    let since_epoch = if time.tag() == Tag::UtcTime {
        time.decode_as::<UtcTime>()?.to_unix_duration()
    } else {
        time.decode_as::<GeneralizedTime>()?.to_unix_duration()
    };
    Ok(since_epoch.as_secs())
}

fn read_public_key(key: AnyRef<'_>) -> Result<(Curve, &[u8]), CertificateProblem> {
    let mut key = inside(key, Tag::Sequence)?;
    let mut algorithm = inside(key.decode()?, Tag::Sequence)?;
    let kind = object_identifier(&mut algorithm)?;
    let point: BitStringRef<'_> = key.decode()?;
    if kind != EC_PUBLIC_KEY {
        return Err(CertificateProblem::PublicKey(algorithm_name(kind)));
    }
    let parameters: AnyRef<'_> = algorithm.decode()?;
    if parameters.tag() != Tag::ObjectIdentifier {
        let kind = "on a curve given by its parameters, not by its name";
        return Err(CertificateProblem::PublicKey(kind.to_owned()));
    }
    let curve = curve_of(parameters.value()).ok_or_else(|| {
        CertificateProblem::PublicKey(format!("on {}", algorithm_name(parameters.value())))
    })?;
    match point.as_bytes() {
        Some(point @ [0x04, ..]) => Ok((curve, point)),
        _ => Err(CertificateProblem::PublicKey(
            "a compressed point, which pipelock does not read".to_owned(),
        )),
    }
}

#[derive(Default)]
struct Extensions {
    is_authority: bool,
    may_sign: bool,
    has_key_identifier: bool,
}

fn read_extensions(mut list: SliceReader<'_>) -> der::Result<Extensions> {
    let mut found = Extensions::default();
    let mut seen = Vec::new();
    while !list.is_finished() {
        let mut extension = inside(list.decode()?, Tag::Sequence)?;
        let kind = object_identifier(&mut extension)?;
        if seen.contains(&kind) {
            return Err(ErrorKind::Value {
                tag: Tag::ObjectIdentifier,
            }
            .into());
        }
        seen.push(kind);
        if Tag::peek(&extension)? == Tag::Boolean {
            let _critical: bool = extension.decode()?;
        }
        let mut value = inside(extension.decode()?, Tag::OctetString)?;
        match kind {
            BASIC_CONSTRAINTS => {
                let mut constraints = inside(value.decode()?, Tag::Sequence)?;
                found.is_authority = !constraints.is_finished()
                    && Tag::peek(&constraints)? == Tag::Boolean
                    && constraints.decode::<bool>()?;
            }
            KEY_USAGE => {
                let usage: BitStringRef<'_> = value.decode()?;
                found.may_sign = usage.get(KEY_CERT_SIGN).unwrap_or(false);
            }
            SUBJECT_KEY_IDENTIFIER => {
                let identifier: &OctetStringRef = value.decode()?;
                found.has_key_identifier = !identifier.is_empty();
            }
            _ => {}
        }
    }
    Ok(found)
}

/// `O=Pipelock, CN=Pipelock CA`: in the order of the encoding, as `openssl x509` does
/// since 1.1, control characters escaped because the text goes to a log.
fn read_name(name: AnyRef<'_>) -> der::Result<String> {
    let mut sets = inside(name, Tag::Sequence)?;
    let mut parts = Vec::new();
    while !sets.is_finished() {
        let mut set = inside(sets.decode()?, Tag::Set)?;
        while !set.is_finished() {
            let mut attribute = inside(set.decode()?, Tag::Sequence)?;
            let kind = match object_identifier(&mut attribute)? {
                [0x55, 0x04, 0x03] => "CN".to_owned(),
                [0x55, 0x04, 0x06] => "C".to_owned(),
                [0x55, 0x04, 0x07] => "L".to_owned(),
                [0x55, 0x04, 0x08] => "ST".to_owned(),
                [0x55, 0x04, 0x0a] => "O".to_owned(),
                [0x55, 0x04, 0x0b] => "OU".to_owned(),
                other => dotted(other),
            };
            let text = read_text(attribute.decode()?)?;
            parts.push(format!("{kind}={}", one_line(&text)));
        }
    }
    Ok(parts.join(", "))
}

/// Escapes what is no character to read; quotes are.
fn one_line(text: &str) -> String {
    let mut line = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '\'' | '"' => line.push(character),
            other => line.extend(other.escape_debug()),
        }
    }
    line
}

/// The string types Go takes in a name, each with the characters it takes.
fn read_text(value: AnyRef<'_>) -> der::Result<String> {
    let bytes = value.value();
    let allowed = match value.tag() {
        Tag::Utf8String => true,
        Tag::PrintableString => bytes
            .iter()
            .all(|byte| byte.is_ascii_alphanumeric() || b" '()+,-./:=?*&".contains(byte)),
        Tag::Ia5String => bytes.is_ascii(),
        Tag::NumericString => bytes.iter().all(|b| b.is_ascii_digit() || *b == b' '),
        Tag::TeletexString => return Ok(bytes.iter().copied().map(char::from).collect()),
        Tag::BmpString => {
            let units = bytes.chunks(2).map(|unit| match unit {
                [high, low] => u16::from_be_bytes([*high, *low]),
                _ => 0xdc00,
            });
            return char::decode_utf16(units)
                .collect::<Result<_, _>>()
                .map_err(|_| Tag::BmpString.value_error().into());
        }
        _ => false,
    };
    match str::from_utf8(bytes) {
        Ok(text) if allowed => Ok(text.to_owned()),
        _ => Err(value.tag().value_error().into()),
    }
}

/// A reader of what `value` holds, which must have this tag.
pub(super) fn inside(value: AnyRef<'_>, tag: Tag) -> der::Result<SliceReader<'_>> {
    value.tag().assert_eq(tag)?;
    SliceReader::new(value.value())
}

/// The next value, an object identifier, without tag and length.
pub(super) fn object_identifier<'a>(reader: &mut SliceReader<'a>) -> der::Result<&'a [u8]> {
    let value: AnyRef<'_> = reader.decode()?;
    value.tag().assert_eq(Tag::ObjectIdentifier)?;
    Ok(value.value())
}

/// The tag `[number]` around another value.
pub(super) fn context_constructed(number: u32) -> Tag {
    Tag::ContextSpecific {
        constructed: true,
        number: TagNumber(number),
    }
}

/// The curve of an object identifier, if pipelock reads it.
pub(super) fn curve_of(identifier: &[u8]) -> Option<Curve> {
    match identifier {
        [0x2b, 0x81, 0x04, 0x00, 0x21] => Some(Curve::P224),
        [0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07] => Some(Curve::P256),
        [0x2b, 0x81, 0x04, 0x00, 0x22] => Some(Curve::P384),
        [0x2b, 0x81, 0x04, 0x00, 0x23] => Some(Curve::P521),
        _ => None,
    }
}

/// A word for the algorithms and curves people try.
pub(super) fn algorithm_name(identifier: &[u8]) -> String {
    match identifier {
        [0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01] => "RSA".to_owned(),
        [0x2b, 0x65, 0x70] => "Ed25519".to_owned(),
        [0x2b, 0x65, 0x71] => "Ed448".to_owned(),
        [0x2b, 0x81, 0x04, 0x00, 0x0a] => "secp256k1".to_owned(),
        other => dotted(other),
    }
}

fn dotted(identifier: &[u8]) -> String {
    der::asn1::ObjectIdentifier::from_bytes(identifier)
        .map_or_else(|_| "an unknown object".to_owned(), |oid| oid.to_string())
}
