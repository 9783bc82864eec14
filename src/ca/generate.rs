//! Makes a CA from entropy and a time, the same one each time. Pure.

use std::time::Duration;

use p256::ecdsa::signature::Signer as _;
use p256::ecdsa::{DerSignature, SigningKey};
use p256::pkcs8::AssociatedOid as _;
use rcgen::string::PrintableString;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, DnValue, IsCa, KeyIdMethod,
    KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PublicKeyData, SerialNumber, SignatureAlgorithm,
    date_time_ymd,
};
use sec1::{EcParameters, EcPrivateKey};
use sha2::{Digest as _, Sha256};
use x509_cert::der::Encode as _;
use x509_cert::der::pem::{self, LineEnding, PemLabel as _};
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
/// 9999-12-31T23:59:59Z, the last date X.509 can say (RFC 5280, 4.1.2.5).
const LAST_SECOND: u64 = 253_402_300_799;

/// Generates a CA of pipelock's own shape (DESIGN.md, "The CA") from `now` in Unix
/// seconds. Deterministic: ECDSA signs as in RFC 6979.
///
/// Fails when the entropy holds no valid scalar or the validity does not fit X.509.
pub fn generate(entropy: &[u8; ENTROPY_BYTES], now: u64) -> Result<Pair, CaError> {
    let (serial, candidates) = entropy.split_at(SERIAL_BYTES);
    let secret = first_valid_scalar(candidates)?;
    let signer = CaSigner::new(&secret);
    let cert = parameters(serial, &signer.public_point, now)?
        .self_signed(&signer)
        .map_err(CaError::Certify)?;
    let key_pem = encode_key(&secret, &signer.public_point)?;
    // Read back, so that the facts are those of what is written.
    let facts = x509::parse(cert.der())
        .map(|read| read.facts(cert.der()))
        .map_err(CaError::Certificate)?;
    Ok(Pair {
        cert_pem: facts.certificate_pem.clone(),
        key_pem,
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

fn parameters(serial: &[u8], public: &[u8], now: u64) -> Result<CertificateParams, CaError> {
    let not_before = now.checked_sub(BACKDATED_SECONDS);
    let not_after = now
        .checked_add(VALIDITY_SECONDS)
        .filter(|&second| second <= LAST_SECOND);
    let (Some(not_before), Some(not_after)) = (not_before, not_after) else {
        return Err(CaError::Clock { now });
    };
    let epoch = date_time_ymd(1970, 1, 1);

    let mut params = CertificateParams::default();
    params.not_before = epoch + Duration::from_secs(not_before);
    params.not_after = epoch + Duration::from_secs(not_after);
    params.serial_number = Some(serial_number(serial));
    params.distinguished_name = subject()?;
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.key_identifier_method = KeyIdMethod::PreSpecified(key_identifier(public));
    Ok(params)
}

/// In the order and string type `pipelock tls init` emits.
fn subject() -> Result<DistinguishedName, CaError> {
    let mut subject = DistinguishedName::new();
    for (kind, text) in [
        (DnType::OrganizationName, "Pipelock"),
        (DnType::CommonName, "Pipelock CA"),
    ] {
        let text = PrintableString::try_from(text).map_err(CaError::Certify)?;
        subject.push(kind, DnValue::PrintableString(text));
    }
    Ok(subject)
}

/// Sixteen bytes whose first lies in 0x40..0x80: positive, never zero and always of the
/// same length in DER, with 126 random bits left.
fn serial_number(random: &[u8]) -> SerialNumber {
    let mut serial = random.to_vec();
    if let Some(first) = serial.first_mut() {
        *first = *first & 0x3f | 0x40;
    }
    SerialNumber::from(serial)
}

/// RFC 7093, method 1: the leftmost 160 bits of the public key's SHA-256. rcgen has no
/// hash without its crypto features.
fn key_identifier(public: &[u8]) -> Vec<u8> {
    Sha256::digest(public).iter().copied().take(20).collect()
}

/// Signs for rcgen, which brings no arithmetic of its own here.
struct CaSigner {
    key: SigningKey,
    public_point: Vec<u8>,
}

impl CaSigner {
    fn new(secret: &p256::SecretKey) -> Self {
        let key = SigningKey::from(secret);
        let public_point = key.verifying_key().to_sec1_point(false).as_bytes().to_vec();
        Self { key, public_point }
    }
}

impl PublicKeyData for CaSigner {
    fn der_bytes(&self) -> &[u8] {
        &self.public_point
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        &PKCS_ECDSA_P256_SHA256
    }
}

impl rcgen::SigningKey for CaSigner {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        let signature: DerSignature = self
            .key
            .try_sign(message)
            .map_err(|_| rcgen::Error::RemoteKeyError)?;
        Ok(signature.as_bytes().to_vec())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn encodes_a_key_as_the_library_does() {
        let secret = first_valid_scalar(&[7; SCALAR_BYTES]).unwrap();
        let signer = CaSigner::new(&secret);
        assert_eq!(
            encode_key(&secret, &signer.public_point).unwrap(),
            secret.to_sec1_pem(LineEnding::LF).unwrap()
        );
    }
}
