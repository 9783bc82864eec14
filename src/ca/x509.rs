//! Reads of an X.509 certificate what decides whether pipelock and its clients take it
//! as a CA (RFC 5280). Pure.

use std::collections::BTreeSet;
use std::fmt;

use sha2::{Digest as _, Sha256};
use x509_cert::SubjectPublicKeyInfo;
use x509_cert::certificate::{CertificateInner, Raw, Version};
use x509_cert::der::asn1::{Any, AnyRef, ObjectIdentifier};
use x509_cert::der::oid::db::{rfc4519, rfc5280, rfc5912, rfc8410};
use x509_cert::der::pem::{self, LineEnding};
use x509_cert::der::{self, Decode as _, Reader as _, SliceReader, Tag, Tagged};
use x509_cert::ext::pkix::KeyUsage;
use x509_cert::ext::{Extension, Extensions};
use x509_cert::name::Name;

use super::pem::{Block, PemProblem};
use super::{Curve, Facts, Warning, rfc3339};
use crate::plain;

/// In no list of names that is linked.
const SECP_256_K_1: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.132.0.10");

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
    /// The extended key usage names others than TLS servers, and not those.
    NotForServers,
    /// A critical extension that clients do not know; holds its identifier.
    UnknownCritical(String),
    /// An extension is critical that Go takes only where it is not; holds its name.
    WronglyCritical(&'static str),
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
            Self::Pem(problem @ PemProblem::Der) => write!(
                f,
                "{problem}\nhint: a DER certificate becomes PEM by openssl x509 -inform DER \
                 -in ca.der -out ca.pem"
            ),
            Self::Pem(problem) => problem.fmt(f),
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
            Self::NotForServers => f.write_str(
                "its extended key usage does not name serverAuth, without which clients refuse \
                 what it signs\nhint: issue it without an extended key usage",
            ),
            Self::UnknownCritical(identifier) => write!(
                f,
                "its extension {identifier} is critical, and clients that do not know it refuse \
                 what it signs"
            ),
            Self::WronglyCritical(name) => {
                write!(f, "its {name} is marked critical, which pipelock refuses")
            }
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
pub(super) struct Certificate {
    pub(super) subject: String,
    pub(super) not_before: u64,
    pub(super) not_after: u64,
    pub(super) curve: Curve,
    pub(super) public_point: Vec<u8>,
    pub(super) is_authority: bool,
    pub(super) may_sign: bool,
    /// What keeps every client from taking what it signs.
    pub(super) unfit: Option<CertificateProblem>,
    pub(super) warnings: Vec<Warning>,
}

impl Certificate {
    /// What this certificate, whose whole encoding is `der`, says of itself.
    pub(super) fn facts(self, der: &[u8]) -> Facts {
        Facts {
            fingerprint_sha256: Sha256::digest(der)
                .iter()
                .map(|byte| format!("{byte:02x}"))
                .collect(),
            subject: self.subject,
            not_before: self.not_before,
            not_after: self.not_after,
            curve: self.curve,
            warnings: self.warnings,
            certificate_pem: encode(der),
        }
    }
}

/// The one certificate, encoded anew: nothing else of the file it was read from.
pub(super) fn encode(der: &[u8]) -> String {
    // Fails for more bytes than there can be in memory.
    pem::encode_string("CERTIFICATE", LineEnding::LF, der).unwrap_or_default()
}

/// Reads the certificate of a PEM block, whatever its label: so does pipelock. The label
/// only serves to explain what cannot be read.
pub(super) fn parse_block(block: &Block<'_>) -> Result<Certificate, CertificateProblem> {
    parse(&block.der).map_err(|problem| match block.label {
        b"CERTIFICATE REQUEST" | b"NEW CERTIFICATE REQUEST" => CertificateProblem::IsRequest,
        b"TRUSTED CERTIFICATE" => CertificateProblem::IsTrusted,
        b"EC PARAMETERS" => CertificateProblem::IsKey,
        label if label.ends_with(b"PRIVATE KEY") => CertificateProblem::IsKey,
        _ => problem,
    })
}

impl From<der::Error> for CertificateProblem {
    fn from(error: der::Error) -> Self {
        Self::Malformed(error)
    }
}

/// A root of somebody else's: what of it is told.
pub(super) struct Root {
    pub(super) subject: String,
    pub(super) not_before: u64,
    pub(super) not_after: u64,
    pub(super) unfit: Option<CertificateProblem>,
}

/// Reads a root that pipelock is to check servers by: any key and version, and otherwise what
/// Go reads, for what it does not read it passes over in silence.
pub(super) fn parse_root(der: &[u8]) -> Result<Root, CertificateProblem> {
    let (certificate, rest) = CertificateInner::<Raw>::from_der_partial(der)?;
    let tbs = certificate.tbs_certificate();
    let subject = read_outline(&certificate)?;
    basic_constraints(tbs.extensions())?;
    tbs.get_extension::<KeyUsage>()?;
    let unfit = unfit(tbs.extensions())?;
    if !rest.is_empty() {
        return Err(CertificateProblem::TrailingData);
    }
    let validity = tbs.validity();
    Ok(Root {
        subject,
        not_before: validity.not_before.to_unix_duration().as_secs(),
        not_after: validity.not_after.to_unix_duration().as_secs(),
        unfit,
    })
}

/// What Go insists on in every certificate; the subject.
fn read_outline(certificate: &CertificateInner<Raw>) -> Result<String, CertificateProblem> {
    let tbs = certificate.tbs_certificate();
    let serial = tbs.serial_number().as_bytes();
    if serial.first().is_some_and(|byte| byte & 0x80 != 0) {
        return Err(CertificateProblem::NegativeSerial);
    }
    if tbs.signature() != certificate.signature_algorithm() {
        return Err(CertificateProblem::SignatureAlgorithms);
    }
    let _issuer = read_name(tbs.issuer())?;
    let subject = read_name(tbs.subject())?;
    refuse_repeated(tbs.extensions())?;
    for (identifier, name) in NEVER_CRITICAL {
        if find(tbs.extensions(), identifier).is_some_and(|extension| extension.critical) {
            return Err(CertificateProblem::WronglyCritical(name));
        }
    }
    Ok(subject)
}

/// What Go refuses a certificate for where it is critical (crypto/x509/parser.go).
const NEVER_CRITICAL: [(ObjectIdentifier, &str); 3] = [
    (
        rfc5280::ID_CE_SUBJECT_KEY_IDENTIFIER,
        "subject key identifier",
    ),
    (
        rfc5280::ID_CE_AUTHORITY_KEY_IDENTIFIER,
        "authority key identifier",
    ),
    (
        rfc5280::ID_PE_AUTHORITY_INFO_ACCESS,
        "authority information access",
    ),
];
/// What Go and OpenSSL both know (crypto/x509/parser.go, `X509_supported_extension`).
const KNOWN: [ObjectIdentifier; 10] = [
    rfc5280::ID_CE_BASIC_CONSTRAINTS,
    rfc5280::ID_CE_KEY_USAGE,
    rfc5280::ID_CE_EXT_KEY_USAGE,
    rfc5280::ID_CE_SUBJECT_ALT_NAME,
    rfc5280::ID_CE_NAME_CONSTRAINTS,
    rfc5280::ID_CE_CERTIFICATE_POLICIES,
    rfc5280::ID_CE_POLICY_MAPPINGS,
    rfc5280::ID_CE_POLICY_CONSTRAINTS,
    rfc5280::ID_CE_INHIBIT_ANY_POLICY,
    rfc5280::ID_CE_CRL_DISTRIBUTION_POINTS,
];

/// What keeps every client from taking what an authority with these extensions signs. Of a
/// root too: clients judge all of a chain.
fn unfit(extensions: Option<&Extensions>) -> der::Result<Option<CertificateProblem>> {
    let unknown = extensions
        .into_iter()
        .flatten()
        .find(|extension| extension.critical && !KNOWN.contains(&extension.extn_id));
    if let Some(extension) = unknown {
        let identifier = extension.extn_id.to_string();
        return Ok(Some(CertificateProblem::UnknownCritical(identifier)));
    }
    let Some(usage) = parts_of(extensions, rfc5280::ID_CE_EXT_KEY_USAGE)? else {
        return Ok(None);
    };
    // OpenSSL does not take "any" for it.
    let serves = usage
        .iter()
        .any(|purpose| purpose.value() == rfc5280::ID_KP_SERVER_AUTH.as_bytes());
    Ok((!serves).then_some(CertificateProblem::NotForServers))
}

/// Whether it is an authority, and says so where it has to be heeded. `x509_cert` takes no path
/// longer than 255; Go takes any that fits 63 bits.
fn basic_constraints(extensions: Option<&Extensions>) -> der::Result<(bool, bool)> {
    const KIND: ObjectIdentifier = rfc5280::ID_CE_BASIC_CONSTRAINTS;
    let mut is_authority = false;
    for part in parts_of(extensions, KIND)?.unwrap_or_default() {
        match (part.tag(), part.value()) {
            (Tag::Boolean, [0xff]) => is_authority = true,
            (Tag::Boolean, [0]) => {}
            // As short as it can be, and not negative.
            (Tag::Integer, [0..=0x7f] | [1..=0x7f, _, ..] | [0, 0x80..=0xff, ..])
                if part.value().len() <= size_of::<i64>() => {}
            _ => return Err(part.tag().value_error().into()),
        }
    }
    let critical = find(extensions, KIND).is_some_and(|extension| extension.critical);
    Ok((is_authority, critical))
}

fn find(extensions: Option<&Extensions>, kind: ObjectIdentifier) -> Option<&Extension> {
    let mut all = extensions.into_iter().flatten();
    all.find(|extension| extension.extn_id == kind)
}

/// What the extension of this kind holds, where there is one.
fn value_of(
    extensions: Option<&Extensions>,
    kind: ObjectIdentifier,
) -> der::Result<Option<AnyRef<'_>>> {
    let found = find(extensions, kind);
    found
        .map(|extension| AnyRef::from_der(extension.extn_value.as_bytes()))
        .transpose()
}

/// As [`value_of`], of a sequence.
fn parts_of(
    extensions: Option<&Extensions>,
    kind: ObjectIdentifier,
) -> der::Result<Option<Vec<AnyRef<'_>>>> {
    let Some(value) = value_of(extensions, kind)? else {
        return Ok(None);
    };
    value.tag().assert_eq(Tag::Sequence)?;
    elements(value).map(Some)
}

/// The values that a constructed one is made of.
fn elements(of: AnyRef<'_>) -> der::Result<Vec<AnyRef<'_>>> {
    let mut reader = SliceReader::new(of.value())?;
    let mut elements = Vec::new();
    while !reader.is_finished() {
        elements.push(AnyRef::decode(&mut reader)?);
    }
    Ok(elements)
}

/// The number of a context-specific tag.
fn number(value: &AnyRef<'_>) -> Option<u32> {
    let tag = value.tag();
    tag.is_context_specific().then(|| tag.number().value())
}

/// The names that it may sign for, or not, as far as a server has such (RFC 5280, 4.2.1.10).
fn name_constraints(extensions: Option<&Extensions>) -> der::Result<String> {
    let mut text = String::new();
    let subtrees = parts_of(extensions, rfc5280::ID_CE_NAME_CONSTRAINTS)?;
    for subtrees in subtrees.unwrap_or_default() {
        let mut before = match (number(&subtrees), text.as_str()) {
            (Some(0), _) => "permitted: ",
            (_, "") => "excluded: ",
            (..) => "; excluded: ",
        };
        for subtree in elements(subtrees)? {
            let base = elements(subtree)?.into_iter().next();
            let name = match base.as_ref().and_then(number) {
                Some(2) => plain::line_of(base.map(AnyRef::value).unwrap_or_default()),
                Some(4) => "names of subjects".to_owned(),
                Some(7) => "addresses".to_owned(),
                // No server has an address of mail, or a URI.
                _ => continue,
            };
            text += before;
            text += &name;
            before = ", ";
        }
    }
    Ok(text)
}

/// What some clients do not take.
fn warnings(
    certificate: &CertificateInner<Raw>,
    constraints_critical: bool,
) -> der::Result<Vec<Warning>> {
    let tbs = certificate.tbs_certificate();
    let extensions = tbs.extensions();
    let own = value_of(extensions, rfc5280::ID_CE_SUBJECT_KEY_IDENTIFIER)?;
    let own = own.map(AnyRef::value).unwrap_or_default();
    // The key that signed it, where it says so (RFC 5280, 4.2.1.1).
    let signer = parts_of(extensions, rfc5280::ID_CE_AUTHORITY_KEY_IDENTIFIER)?;
    let signer = signer.unwrap_or_default();
    let mut signer = signer.iter().filter(|part| number(part) == Some(0));
    let mut warnings = Vec::new();
    if own.is_empty() {
        warnings.push(Warning::NoSubjectKeyIdentifier);
    }
    if !constraints_critical {
        warnings.push(Warning::ConstraintsNotCritical);
    }
    let by_another_key = !own.is_empty() && signer.any(|signer| signer.value() != own);
    let issuer = read_name(tbs.issuer())?;
    if by_another_key || issuer != read_name(tbs.subject())? {
        warnings.push(Warning::Intermediate(issuer));
    }
    let constraints = name_constraints(extensions)?;
    if !constraints.is_empty() {
        warnings.push(Warning::NameConstraints(constraints));
    }
    Ok(warnings)
}

/// Reads one certificate and nothing behind it.
pub(super) fn parse(der: &[u8]) -> Result<Certificate, CertificateProblem> {
    let (certificate, rest) = CertificateInner::<Raw>::from_der_partial(der)?;
    let tbs = certificate.tbs_certificate();
    if tbs.version() != Version::V3 {
        return Err(CertificateProblem::Version);
    }
    let subject = read_outline(&certificate)?;
    let (is_authority, constraints_critical) = basic_constraints(tbs.extensions())?;
    let usage = tbs.get_extension::<KeyUsage>()?;
    let unfit = unfit(tbs.extensions())?;
    let warnings = warnings(&certificate, constraints_critical)?;
    let (curve, public_point) = read_public_key(tbs.subject_public_key_info())?;
    if !rest.is_empty() {
        return Err(CertificateProblem::TrailingData);
    }
    let validity = tbs.validity();
    Ok(Certificate {
        subject,
        not_before: validity.not_before.to_unix_duration().as_secs(),
        not_after: validity.not_after.to_unix_duration().as_secs(),
        curve,
        public_point,
        is_authority,
        may_sign: usage.is_some_and(|(_, usage)| usage.key_cert_sign()),
        unfit,
        warnings,
    })
}

/// Go takes no extension twice, be it one that is judged here or not.
fn refuse_repeated(extensions: Option<&Extensions>) -> der::Result<()> {
    let kinds = extensions
        .into_iter()
        .flatten()
        .map(|extension| extension.extn_id);
    let mut seen = BTreeSet::new();
    for kind in kinds {
        if !seen.insert(kind) {
            return Err(Tag::ObjectIdentifier.value_error().into());
        }
    }
    Ok(())
}

fn read_public_key(key: &SubjectPublicKeyInfo) -> Result<(Curve, Vec<u8>), CertificateProblem> {
    let problem = |kind: &str| CertificateProblem::PublicKey(kind.to_owned());
    if key.algorithm.oid != rfc5912::ID_EC_PUBLIC_KEY {
        return Err(problem(&algorithm_name(key.algorithm.oid)));
    }
    let parameters = key.algorithm.parameters.as_ref();
    let name = parameters
        .and_then(|parameters| parameters.decode_as::<ObjectIdentifier>().ok())
        .ok_or_else(|| problem("on a curve given by its parameters, not by its name"))?;
    let curve =
        Curve::named(name).ok_or_else(|| problem(&format!("on {}", algorithm_name(name))))?;
    match key.subject_public_key.as_bytes() {
        Some(point @ [0x04, ..]) => Ok((curve, point.to_vec())),
        _ => Err(problem("a compressed point, which pipelock does not read")),
    }
}

/// `O=Pipelock, CN=Pipelock CA`: in the order of the encoding, as `openssl x509` does
/// since 1.1, control characters escaped because the text goes to a log.
fn read_name(name: &Name) -> der::Result<String> {
    let mut parts = Vec::new();
    for attribute in name.iter() {
        let kind = match attribute.oid {
            rfc4519::CN => "CN".to_owned(),
            rfc4519::C => "C".to_owned(),
            rfc4519::L => "L".to_owned(),
            rfc4519::ST => "ST".to_owned(),
            rfc4519::O => "O".to_owned(),
            rfc4519::OU => "OU".to_owned(),
            other => other.to_string(),
        };
        parts.push(format!(
            "{kind}={}",
            one_line(&read_text(&attribute.value)?)
        ));
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

/// The string types Go takes in a name, each with the characters it takes: more than the
/// types of `der` do, `*` and `&` among the printable ones and Latin-1 as Teletex.
fn read_text(value: &Any) -> der::Result<String> {
    let bytes = value.value();
    let text = match value.tag() {
        Tag::Utf8String => str::from_utf8(bytes).ok().map(str::to_owned),
        Tag::PrintableString => ascii(bytes, |byte| {
            byte.is_ascii_alphanumeric() || b" '()+,-./:=?*&".contains(&byte)
        }),
        Tag::Ia5String => ascii(bytes, |_| true),
        Tag::NumericString => ascii(bytes, |byte| byte.is_ascii_digit() || byte == b' '),
        Tag::TeletexString => Some(bytes.iter().copied().map(char::from).collect()),
        Tag::BmpString => {
            let (units, odd) = bytes.as_chunks::<2>();
            let units = units.iter().map(|unit| u16::from_be_bytes(*unit));
            let text = char::decode_utf16(units).collect::<Result<_, _>>();
            text.ok().filter(|_| odd.is_empty())
        }
        _ => None,
    };
    text.ok_or_else(|| value.tag().value_error().into())
}

/// The text, if it is of the ASCII characters that are allowed.
fn ascii(bytes: &[u8], allowed: impl Fn(u8) -> bool) -> Option<String> {
    let text = str::from_utf8(bytes).ok()?;
    let fits = text.bytes().all(|byte| byte.is_ascii() && allowed(byte));
    fits.then(|| text.to_owned())
}

/// A word for the algorithms and curves people try.
pub(super) fn algorithm_name(identifier: ObjectIdentifier) -> String {
    match identifier {
        rfc5912::RSA_ENCRYPTION => "RSA".to_owned(),
        rfc8410::ID_ED_25519 => "Ed25519".to_owned(),
        rfc8410::ID_ED_448 => "Ed448".to_owned(),
        SECP_256_K_1 => "secp256k1".to_owned(),
        other => other.to_string(),
    }
}
