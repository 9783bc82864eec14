//! Reads a private key as pipelock does, SEC1 with a named curve (RFC 5915), and tells
//! what another key is instead. Pure; no byte of a key leaves by an error.

use std::fmt;

use p256::elliptic_curve::sec1::ToSec1Point as _;
use p256::pkcs8::der::asn1::{AnyRef, BitStringRef, OctetStringRef};
use p256::pkcs8::der::{self, Reader as _, SliceReader, Tag, Tagged as _};
use zeroize::Zeroizing;

use super::Curve;
use super::curve::is_public_point_of;
use super::pem::{Block, PemProblem};
use super::x509::{
    EC_PUBLIC_KEY, algorithm_name, context_constructed, curve_of, inside, object_identifier,
};

/// Why a key file cannot serve as pipelock's CA key.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum KeyProblem {
    /// No PEM block to read.
    Pem(PemProblem),
    /// The first block is a certificate.
    IsCertificate,
    /// The first block is a public key.
    IsPublicKey,
    /// The first block is `EC PARAMETERS`, as `openssl ecparam -genkey` writes it.
    IsParameters,
    /// Encrypted, as PKCS#8 or by PEM headers.
    Encrypted,
    /// An EC key as PKCS#8, which pipelock does not read.
    Pkcs8,
    /// Of another kind; holds the algorithm.
    Algorithm(String),
    /// Not the DER of a private key.
    Malformed,
    /// Something follows the key within its block.
    TrailingData,
    /// SEC1 without the curve.
    NoCurve,
    /// SEC1 with the curve's parameters in place of its name.
    ExplicitCurve,
    /// On a curve pipelock does not read; holds the curve.
    Curve(String),
    /// Zero, too large or too long for its curve.
    Scalar(Curve),
}

impl fmt::Display for KeyProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pem(problem) => write!(
                f,
                "{problem}\nhint: a DER key becomes PEM by openssl ec -inform DER -in key.der \
                 -out sec1.pem"
            ),
            Self::IsCertificate => f.write_str(
                "its first PEM block is a certificate\nhint: certificate and key may be swapped",
            ),
            Self::IsPublicKey => f.write_str("its first PEM block is a public key"),
            Self::IsParameters => f.write_str(
                "its first PEM block is EC PARAMETERS, and pipelock reads only the first\n\
                 hint: openssl ec -in key.pem -out sec1.pem",
            ),
            Self::Encrypted => f.write_str(
                "it is encrypted, and nobody can type a passphrase here\n\
                 hint: openssl ec -in key.pem -out sec1.pem",
            ),
            Self::Pkcs8 => f.write_str(
                "it is PKCS#8, and pipelock reads only SEC1 (\"EC PRIVATE KEY\")\n\
                 hint: openssl ec -in key.pem -out sec1.pem",
            ),
            Self::Algorithm(name) => write!(
                f,
                "it is {name}; accepted are EC keys on P-224, P-256, P-384 and P-521"
            ),
            Self::Malformed => f.write_str("its first PEM block is not an EC private key"),
            Self::TrailingData => f.write_str("bytes follow the key in its PEM block"),
            Self::NoCurve => f.write_str(
                "it does not name its curve, without which pipelock cannot read it\nhint: \
                 remove both files to have a new pair generated",
            ),
            Self::ExplicitCurve => f.write_str(
                "its curve is given by parameters, not by name\n\
                 hint: openssl ec -in key.pem -param_enc named_curve -out sec1.pem",
            ),
            Self::Curve(name) => write!(
                f,
                "it is on {name}; accepted are P-224, P-256, P-384 and P-521"
            ),
            Self::Scalar(curve) => write!(f, "its secret is not in the range of {curve}"),
        }
    }
}

/// A private key, borrowed from the buffer that will be wiped.
pub(super) struct PrivateKey<'a> {
    pub(super) curve: Curve,
    scalar: &'a [u8],
}

impl PrivateKey<'_> {
    /// Whether `point`, uncompressed, is the public half. Derived from the secret, as
    /// pipelock does, and not compared with what the key file says it is.
    pub(super) fn matches(&self, point: &[u8]) -> Result<bool, KeyProblem> {
        let secret = self.padded_scalar()?;
        let matches = if self.curve == Curve::P256 {
            p256::SecretKey::from_slice(&secret)
                .ok()
                .map(|secret| secret.public_key().to_sec1_point(false).as_bytes() == point)
        } else {
            is_public_point_of(self.curve, &secret, point)
        };
        matches.ok_or(KeyProblem::Scalar(self.curve))
    }

    /// The scalar at its curve's length. Like Go this takes more leading zeros than SEC1
    /// allows, and fewer.
    fn padded_scalar(&self) -> Result<Zeroizing<Vec<u8>>, KeyProblem> {
        let size = match self.curve {
            Curve::P224 => 28,
            Curve::P256 => 32,
            Curve::P384 => 48,
            Curve::P521 => 66,
        };
        let significant = self.scalar.iter().skip_while(|&&byte| byte == 0);
        let length = significant.clone().count();
        if length == 0 || length > size {
            return Err(KeyProblem::Scalar(self.curve));
        }
        let mut padded = Zeroizing::new(Vec::with_capacity(size));
        padded.resize(size - length, 0);
        padded.extend(significant);
        Ok(padded)
    }
}

/// Reads the key of a PEM block, whatever its label: so does pipelock.
pub(super) fn parse_block<'a>(block: &'a Block<'_>) -> Result<PrivateKey<'a>, KeyProblem> {
    if block.encrypted {
        return Err(KeyProblem::Encrypted);
    }
    match read(&block.der) {
        Ok(parsed) => parsed,
        // What the DER library says is dropped: it has seen the key.
        Err(_) => Err(foreign_block(block.label)),
    }
}

fn foreign_block(label: &[u8]) -> KeyProblem {
    match label {
        b"CERTIFICATE" | b"TRUSTED CERTIFICATE" => KeyProblem::IsCertificate,
        b"PUBLIC KEY" | b"RSA PUBLIC KEY" => KeyProblem::IsPublicKey,
        b"EC PARAMETERS" => KeyProblem::IsParameters,
        b"ENCRYPTED PRIVATE KEY" => KeyProblem::Encrypted,
        b"OPENSSH PRIVATE KEY" => KeyProblem::Algorithm("an OpenSSH key".to_owned()),
        b"DSA PRIVATE KEY" => KeyProblem::Algorithm("DSA".to_owned()),
        _ => KeyProblem::Malformed,
    }
}

type Parsed<'a> = Result<PrivateKey<'a>, KeyProblem>;

/// The outer error is of encoding, the inner one of meaning.
fn read(der: &[u8]) -> der::Result<Parsed<'_>> {
    let mut file = SliceReader::new(der)?;
    let mut key = inside(file.decode()?, Tag::Sequence)?;
    let version: u8 = key.decode()?;
    let second: AnyRef<'_> = key.decode()?;
    match second.tag() {
        Tag::OctetString => {}
        Tag::Integer => return Ok(Err(KeyProblem::Algorithm("RSA".to_owned()))),
        Tag::Sequence => return read_pkcs8(second).map(Err),
        other => return Err(other.unexpected_error(Some(Tag::OctetString)).into()),
    }
    if version != 1 {
        return Ok(Err(KeyProblem::Malformed));
    }
    let scalar = second.decode_as::<&OctetStringRef>()?.as_bytes();
    let mut curve = Err(KeyProblem::NoCurve);
    while !key.is_finished() {
        let field: AnyRef<'_> = key.decode()?;
        if field.tag() == context_constructed(0) {
            let parameters: AnyRef<'_> = SliceReader::new(field.value())?.decode()?;
            curve = if parameters.tag() == Tag::ObjectIdentifier {
                let name = parameters.value();
                curve_of(name).ok_or_else(|| KeyProblem::Curve(algorithm_name(name)))
            } else {
                Err(KeyProblem::ExplicitCurve)
            };
        } else if field.tag() == context_constructed(1) {
            // Go ignores what this says, but not how it is encoded.
            SliceReader::new(field.value())?.decode::<BitStringRef<'_>>()?;
        }
    }
    if !file.is_finished() {
        return Ok(Err(KeyProblem::TrailingData));
    }
    Ok(curve.map(|curve| PrivateKey { curve, scalar }))
}

fn read_pkcs8(algorithm: AnyRef<'_>) -> der::Result<KeyProblem> {
    let mut algorithm = inside(algorithm, Tag::Sequence)?;
    let kind = object_identifier(&mut algorithm)?;
    if kind != EC_PUBLIC_KEY {
        return Ok(KeyProblem::Algorithm(algorithm_name(kind)));
    }
    let curve: AnyRef<'_> = algorithm.decode()?;
    let known = curve.tag() != Tag::ObjectIdentifier || curve_of(curve.value()).is_some();
    Ok(if known {
        KeyProblem::Pkcs8
    } else {
        KeyProblem::Curve(algorithm_name(curve.value()))
    })
}
