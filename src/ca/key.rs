//! Reads a private key as pipelock does, SEC1 with a named curve (RFC 5915), and tells
//! what another key is instead. Pure; no byte of a key leaves by an error.

use std::fmt;

use p256::elliptic_curve::sec1::{ModulusSize, ToSec1Point};
use p256::elliptic_curve::{AffinePoint, CurveArithmetic, FieldBytes, FieldBytesSize, SecretKey};
use p256::pkcs8::PrivateKeyInfoRef;
use sec1::{EcParameters, EcPrivateKey};
use x509_cert::der::asn1::AnyRef;
use x509_cert::der::oid::db::rfc5912;
use x509_cert::der::{Decode as _, ErrorKind, Tag};
use x509_cert::spki::AlgorithmIdentifier;
use zeroize::Zeroizing;

use super::Curve;
use super::pem::{Block, PemProblem};
use super::x509::algorithm_name;

/// Why a key file cannot serve as pipelock's CA key.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum KeyProblem {
    /// No PEM block to read.
    Pem(PemProblem),
    /// The first block is a certificate.
    IsCertificate,
    /// The first block is a certificate, and a key stands behind it.
    BehindCertificate,
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
            Self::Pem(problem @ PemProblem::Der) => write!(
                f,
                "{problem}\nhint: a DER key becomes PEM by openssl ec -inform DER -in key.der \
                 -out sec1.pem"
            ),
            Self::Pem(problem) => problem.fmt(f),
            Self::IsCertificate => f.write_str(
                "its first PEM block is a certificate\nhint: certificate and key may be swapped",
            ),
            Self::BehindCertificate => f.write_str(
                "a certificate stands before it in its file, and pipelock reads only the first PEM \
                 block\nhint: openssl ec -in key.pem -out sec1.pem",
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
        let derived = match self.curve {
            Curve::P224 => public_point::<p224::NistP224>(self.scalar),
            Curve::P256 => public_point::<p256::NistP256>(self.scalar),
            Curve::P384 => public_point::<p384::NistP384>(self.scalar),
            Curve::P521 => public_point::<p521::NistP521>(self.scalar),
        };
        let derived = derived.ok_or(KeyProblem::Scalar(self.curve))?;
        Ok(derived == point)
    }
}

/// The uncompressed public point of a secret, if it is in the curve's range. Like Go this
/// takes more leading zeros than SEC1 allows, and fewer.
fn public_point<C>(scalar: &[u8]) -> Option<Vec<u8>>
where
    C: CurveArithmetic,
    AffinePoint<C>: ToSec1Point<C>,
    FieldBytesSize<C>: ModulusSize,
{
    let zeros = scalar.iter().take_while(|&&byte| byte == 0).count();
    let significant = scalar.get(zeros..)?;
    let mut padded = Zeroizing::new(FieldBytes::<C>::default());
    let start = padded.len().checked_sub(significant.len())?;
    padded.get_mut(start..)?.copy_from_slice(significant);
    let secret = SecretKey::<C>::from_bytes(&padded).ok()?;
    let point = secret.public_key().as_affine().to_sec1_point(false);
    Some(point.as_bytes().to_vec())
}

/// Reads the key of a PEM block, whatever its label: so does pipelock.
pub(super) fn parse_block<'a>(block: &'a Block<'_>) -> Result<PrivateKey<'a>, KeyProblem> {
    if block.encrypted {
        return Err(KeyProblem::Encrypted);
    }
    if let Ok((pkcs8, _)) = PrivateKeyInfoRef::from_der_partial(&block.der) {
        return Err(pkcs8_problem(&pkcs8.algorithm));
    }
    // What the DER library says is not handed on: it has seen the key.
    let (key, rest) = EcPrivateKey::from_der_partial(&block.der)
        .map_err(|error| foreign_problem(block.label, error.kind()))?;
    if !rest.is_empty() {
        return Err(KeyProblem::TrailingData);
    }
    let EcParameters::NamedCurve(name) = key.parameters.ok_or(KeyProblem::NoCurve)?;
    let curve = Curve::named(name).ok_or_else(|| KeyProblem::Curve(algorithm_name(name)))?;
    Ok(PrivateKey {
        curve,
        scalar: key.private_key,
    })
}

fn pkcs8_problem(algorithm: &AlgorithmIdentifier<AnyRef<'_>>) -> KeyProblem {
    if algorithm.oid != rfc5912::ID_EC_PUBLIC_KEY {
        return KeyProblem::Algorithm(algorithm_name(algorithm.oid));
    }
    match algorithm.parameters_oid() {
        Ok(name) if Curve::named(name).is_none() => KeyProblem::Curve(algorithm_name(name)),
        _ => KeyProblem::Pkcs8,
    }
}

/// What a block is that does not read as a key.
fn foreign_problem(label: &[u8], error: ErrorKind) -> KeyProblem {
    match label {
        b"CERTIFICATE" | b"TRUSTED CERTIFICATE" => KeyProblem::IsCertificate,
        b"PUBLIC KEY" | b"RSA PUBLIC KEY" => KeyProblem::IsPublicKey,
        b"EC PARAMETERS" => KeyProblem::IsParameters,
        b"ENCRYPTED PRIVATE KEY" => KeyProblem::Encrypted,
        b"OPENSSH PRIVATE KEY" => KeyProblem::Algorithm("an OpenSSH key".to_owned()),
        b"DSA PRIVATE KEY" => KeyProblem::Algorithm("DSA".to_owned()),
        b"RSA PRIVATE KEY" => KeyProblem::Algorithm("RSA".to_owned()),
        _ if error == SPECIFIED_CURVE => KeyProblem::ExplicitCurve,
        _ => KeyProblem::Malformed,
    }
}

/// A domain's parameters where its name belongs (RFC 5480, 2.1.1).
const SPECIFIED_CURVE: ErrorKind = ErrorKind::TagUnexpected {
    expected: Some(Tag::ObjectIdentifier),
    actual: Tag::Sequence,
};
