//! Makes a CA from entropy and a time, the same one each time. Pure.

use std::time::Duration;

use p256::ecdsa::{DerSignature, SigningKey};
use p256::pkcs8::AssociatedOid as _;
use sec1::{EcParameters, EcPrivateKey};
use sha2::{Digest as _, Sha256};
use x509_cert::attr::AttributeTypeAndValue;
use x509_cert::builder::profile::BuilderProfile;
use x509_cert::builder::{self, Builder as _, CertificateBuilder};
use x509_cert::der::asn1::{Any, OctetString, PrintableStringRef};
use x509_cert::der::oid::db::rfc4519;
use x509_cert::der::pem::{self, LineEnding, PemLabel as _};
use x509_cert::der::{self, DateTime, Encode as _};
use x509_cert::ext::pkix::{BasicConstraints, KeyUsage, KeyUsages, SubjectKeyIdentifier};
use x509_cert::ext::{Extension, ToExtension as _};
use x509_cert::name::{Name, RdnSequence, RelativeDistinguishedName};
use x509_cert::serial_number::SerialNumber;
use x509_cert::spki::SubjectPublicKeyInfoRef;
use x509_cert::time::{Time, Validity};
use x509_cert::{SubjectPublicKeyInfo, TbsCertificate};
use zeroize::Zeroizing;

use super::{CaError, Pair, x509};

const SERIAL_BYTES: usize = 16;
const SCALAR_BYTES: usize = 32;
const SCALAR_CANDIDATES: usize = 4;

/// Length of the entropy [`generate`] takes: a serial number, then four candidates for
/// the private scalar. One candidate is invalid once in 2^32, all four once in 2^128.
pub const ENTROPY_BYTES: usize = SERIAL_BYTES + SCALAR_CANDIDATES * SCALAR_BYTES;

/// Clients whose clock is behind still accept the CA.
const BACKDATED_SECONDS: u64 = 24 * 60 * 60;
/// Ten years as `pipelock tls init` counts them: 87,600 hours.
const VALIDITY_SECONDS: u64 = 87_600 * 60 * 60;

/// Generates a CA of pipelock's own shape (DESIGN.md, "The CA") from `now` in Unix
/// seconds. Deterministic: ECDSA signs as in RFC 6979.
///
/// Fails when the entropy holds no valid scalar or the validity does not fit X.509.
pub fn generate(entropy: &[u8; ENTROPY_BYTES], now: u64) -> Result<Pair, CaError> {
    let (serial, candidates) = entropy.split_at(SERIAL_BYTES);
    let secret = first_valid_scalar(candidates)?;
    let signer = SigningKey::from(&secret);
    let validity = validity(now).ok_or(CaError::Clock { now })?;
    let der = certify(serial, &signer, validity).map_err(CaError::Certify)?;
    let public_point = signer.verifying_key().to_sec1_point(false);
    // Read back, so that the facts are those of what is written.
    let facts = x509::parse(&der)
        .map(|read| read.facts(&der))
        .map_err(CaError::Certificate)?;
    Ok(Pair {
        cert_pem: facts.certificate_pem.clone(),
        key_pem: encode_key(&secret, public_point.as_bytes())?,
        facts,
    })
}

/// Rejection sampling (FIPS 186-5, A.2.2): every scalar is as likely as another, and
/// entropy that was never filled in fails instead of making a guessable key.
fn first_valid_scalar(candidates: &[u8]) -> Result<p256::SecretKey, CaError> {
    candidates
        .chunks_exact(SCALAR_BYTES)
        .find_map(|candidate| p256::SecretKey::from_slice(candidate).ok())
        .ok_or(CaError::Entropy)
}

/// As `SecretKey::to_sec1_pem` does, which multiplies the base point once more for the
/// public key that is known.
fn encode_key(secret: &p256::SecretKey, public: &[u8]) -> Result<Zeroizing<String>, CaError> {
    let scalar = Zeroizing::new(secret.to_bytes());
    let key = EcPrivateKey {
        private_key: &scalar,
        parameters: Some(EcParameters::NamedCurve(p256::NistP256::OID)),
        public_key: Some(public),
    };
    let der = Zeroizing::new(key.to_der().map_err(|_| CaError::EncodeKey)?);
    pem::encode_string(EcPrivateKey::PEM_LABEL, LineEnding::LF, &der)
        .map(Zeroizing::new)
        .map_err(|_| CaError::EncodeKey)
}

/// Nothing where X.509 cannot say it: it ends with the year 9999 (RFC 5280, 4.1.2.5).
fn validity(now: u64) -> Option<Validity> {
    let time = |second| DateTime::from_unix_duration(Duration::from_secs(second)).ok();
    let not_before = time(now.checked_sub(BACKDATED_SECONDS)?)?;
    let not_after = time(now.checked_add(VALIDITY_SECONDS)?)?;
    Some(Validity::new(Time::from(not_before), Time::from(not_after)))
}

/// The certificate's DER.
fn certify(serial: &[u8], signer: &SigningKey, validity: Validity) -> builder::Result<Vec<u8>> {
    let profile = PipelockCa {
        subject: subject()?,
    };
    let key = SubjectPublicKeyInfo::from_key(signer.verifying_key())?;
    let builder = CertificateBuilder::new(profile, serial_number(serial)?, validity, key)?;
    let certificate = builder.build::<_, DerSignature>(signer)?;
    Ok(certificate.to_der()?)
}

/// What `pipelock tls init` puts into a CA.
struct PipelockCa {
    subject: Name,
}

impl BuilderProfile for PipelockCa {
    fn get_issuer(&self, subject: &Name) -> Name {
        subject.clone()
    }

    fn get_subject(&self) -> Name {
        self.subject.clone()
    }

    fn build_extensions(
        &self,
        key: SubjectPublicKeyInfoRef<'_>,
        _issuers_key: SubjectPublicKeyInfoRef<'_>,
        _tbs: &TbsCertificate,
    ) -> builder::Result<Vec<Extension>> {
        let usage = KeyUsage(KeyUsages::KeyCertSign | KeyUsages::CRLSign);
        let constraints = BasicConstraints {
            ca: true,
            path_len_constraint: Some(0),
        };
        let point = key.subject_public_key.raw_bytes();
        let identifier = SubjectKeyIdentifier(OctetString::new(key_identifier(point))?);
        Ok(vec![
            (&usage).to_extension(&self.subject, &[])?,
            (&identifier).to_extension(&self.subject, &[])?,
            (&constraints).to_extension(&self.subject, &[])?,
        ])
    }
}

/// In the order and string type `pipelock tls init` emits.
fn subject() -> der::Result<Name> {
    let mut subject = RdnSequence::default();
    for (oid, text) in [(rfc4519::O, "Pipelock"), (rfc4519::CN, "Pipelock CA")] {
        let value = Any::from(PrintableStringRef::new(text)?);
        let attribute = AttributeTypeAndValue { oid, value };
        subject.push(RelativeDistinguishedName::try_from(vec![attribute])?);
    }
    Ok(Name::hazmat_from_rdn_sequence(subject))
}

/// Sixteen bytes whose first lies in 0x40..0x80: positive, never zero and always of the
/// same length in DER, with 126 random bits left.
fn serial_number(random: &[u8]) -> der::Result<SerialNumber> {
    let mut serial = random.to_vec();
    if let Some(first) = serial.first_mut() {
        *first = *first & 0x3f | 0x40;
    }
    SerialNumber::new(&serial)
}

/// RFC 7093, method 1: the leftmost 160 bits of the public key's SHA-256. The library
/// has SHA-1 alone.
fn key_identifier(public: &[u8]) -> Vec<u8> {
    Sha256::digest(public).iter().copied().take(20).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn encodes_a_key_as_the_library_does() {
        let secret = first_valid_scalar(&[7; SCALAR_BYTES]).unwrap();
        let signer = SigningKey::from(&secret);
        let public = signer.verifying_key().to_sec1_point(false);
        assert_eq!(
            encode_key(&secret, public.as_bytes()).unwrap(),
            secret.to_sec1_pem(LineEnding::LF).unwrap()
        );
    }
}
