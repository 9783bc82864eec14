//! The certificate authority pipelock intercepts TLS with: generate a pair, or check
//! one that is there. Pure: entropy and time are passed in, files are read and written
//! by others.
#![forbid(unsafe_code)]

pub mod authority;
mod check;
pub mod custody;
mod generate;
mod key;
mod pem;
pub mod public;
mod roots;
mod x509;

pub use check::check;
pub use generate::{ENTROPY_BYTES, generate};
pub use key::KeyProblem;
pub use pem::PemProblem;
pub use public::{NoRoots, public_roots, public_roots_at};
pub use roots::{Roots, RootsProblem, extra_roots, roots};
pub use x509::CertificateProblem;

use std::fmt;
use std::time::Duration;

use x509_cert::der::DateTime;
use x509_cert::der::oid::ObjectIdentifier;
use x509_cert::der::oid::db::rfc5912;
use zeroize::Zeroizing;

/// A generated CA, ready to be written to two files.
pub struct Pair {
    /// The certificate, one PEM block `CERTIFICATE`.
    pub cert_pem: String,
    /// The private key, one PEM block `EC PRIVATE KEY` (SEC1 with its curve), wiped on drop.
    pub key_pem: Zeroizing<String>,
    /// What the certificate says.
    pub facts: Facts,
}

impl fmt::Debug for Pair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pair")
            .field("cert_pem", &self.cert_pem)
            .field("facts", &self.facts)
            .finish_non_exhaustive()
    }
}

/// What a usable CA certificate says about itself; nothing in it is secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    /// SHA-256 of the certificate's DER, lower-case hexadecimal.
    pub fingerprint_sha256: String,
    /// Subject in the order it is encoded, such as `O=Pipelock, CN=Pipelock CA`.
    pub subject: String,
    /// First second of the validity, Unix time.
    pub not_before: u64,
    /// Last second of the validity, Unix time.
    pub not_after: u64,
    /// The curve of the key.
    pub curve: Curve,
    /// What does not stop pipelock but may surprise its clients.
    pub warnings: Vec<Warning>,
    /// The certificate alone, as one PEM block that was encoded from what was judged.
    pub certificate_pem: String,
}

/// The curves Go's `crypto/x509` reads, and so pipelock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Curve {
    /// secp224r1
    P224,
    /// secp256r1, prime256v1
    P256,
    /// secp384r1
    P384,
    /// secp521r1
    P521,
}

impl Curve {
    /// The curve of this name, if pipelock reads it.
    fn named(name: ObjectIdentifier) -> Option<Self> {
        match name {
            rfc5912::SECP_224_R_1 => Some(Self::P224),
            rfc5912::SECP_256_R_1 => Some(Self::P256),
            rfc5912::SECP_384_R_1 => Some(Self::P384),
            rfc5912::SECP_521_R_1 => Some(Self::P521),
            _ => None,
        }
    }
}

impl fmt::Display for Curve {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::P224 => "P-224",
            Self::P256 => "P-256",
            Self::P384 => "P-384",
            Self::P521 => "P-521",
        })
    }
}

/// Something about an accepted pair that its owner should know.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Warning {
    /// Leaves will carry no authority key identifier (PIPELOCK.md, "CA").
    NoSubjectKeyIdentifier,
    /// The certificate file holds more than its first PEM block.
    MoreInCertificateFile,
    /// The basic constraints are not marked critical (RFC 5280, 4.2.1.9).
    ConstraintsNotCritical,
    /// Somebody else issued it: an intermediate; holds the issuer. Only the leaf is sent.
    Intermediate(String),
    /// It may sign for some names alone; holds which.
    NameConstraints(String),
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoSubjectKeyIdentifier => f.write_str(
                "the CA certificate has no subject key identifier: Python 3.13 and openssl \
                 verify -x509_strict will reject what it signs",
            ),
            Self::MoreInCertificateFile => f.write_str(
                "the CA certificate file holds more than one PEM block: pipelock reads the \
                 first alone",
            ),
            Self::ConstraintsNotCritical => f.write_str(
                "the CA certificate's basic constraints are not marked critical: Python 3.13 and \
                 openssl verify -x509_strict will reject what it signs",
            ),
            Self::Intermediate(issuer) => write!(
                f,
                "the CA certificate is no root, but issued by {issuer}: clients that have not that \
                 root will reject what it signs, such as openssl, Node and Python before 3.13\n\
                 hint: the root's certificate, put into trust/ beside the manifest, is given to them"
            ),
            Self::NameConstraints(which) => write!(
                f,
                "the CA certificate has name constraints ({which}): clients will reject what it \
                 signs for a host that these do not allow"
            ),
        }
    }
}

/// Why there is no usable CA. No variant carries a byte of a private key.
#[derive(Debug)]
#[non_exhaustive]
pub enum CaError {
    /// No part of the entropy was a valid P-256 scalar, as in all-zero bytes.
    Entropy,
    /// The validity would begin before 1970 or end after 9999.
    Clock {
        /// The clock's reading, Unix time.
        now: u64,
    },
    /// Encoding the certificate failed.
    Certify(rcgen::Error),
    /// Encoding the private key failed; the source is dropped, for it saw the key.
    EncodeKey,
    /// The certificate file cannot be used.
    Certificate(CertificateProblem),
    /// The key file cannot be used.
    Key(KeyProblem),
    /// Both are fine, and belong to different pairs.
    Mismatch,
}

impl fmt::Display for CaError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Entropy => f.write_str("cannot generate CA key: the entropy is not random"),
            Self::Clock { now } => write!(
                f,
                "cannot generate CA certificate: the clock says {}, which leaves no validity \
                 between 1970 and 9999\nhint: set the clock",
                rfc3339(*now)
            ),
            Self::Certify(_) => f.write_str("internal error: cannot encode CA certificate"),
            Self::EncodeKey => f.write_str("internal error: cannot encode CA key"),
            Self::Certificate(problem) => write!(f, "cannot use CA certificate: {problem}"),
            Self::Key(problem) => write!(f, "cannot use CA key: {problem}"),
            Self::Mismatch => f.write_str(
                "cannot use CA pair: the key does not match the certificate\nhint: provide \
                 the key this certificate was made with, or remove both files to have a new \
                 pair generated",
            ),
        }
    }
}

impl std::error::Error for CaError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Certify(source) => Some(source),
            Self::Certificate(CertificateProblem::Malformed(source)) => Some(source),
            _ => None,
        }
    }
}

/// Formats Unix time as RFC 3339 in UTC, to the second; past the year 9999 as `@SECONDS`.
#[must_use]
pub fn rfc3339(unix_seconds: u64) -> String {
    DateTime::from_unix_duration(Duration::from_secs(unix_seconds))
        .map_or_else(|_| format!("@{unix_seconds}"), |time| time.to_string())
}

/// The same to the nanosecond, of when a file was changed; 1970 for what is before.
#[must_use]
pub fn rfc3339_to_the_nanosecond((seconds, nanoseconds): (i64, i64)) -> String {
    let time = rfc3339(u64::try_from(seconds).unwrap_or_default());
    format!("{}.{nanoseconds:09}Z", time.trim_end_matches('Z'))
}
