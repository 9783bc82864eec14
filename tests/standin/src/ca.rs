//! The CA: loading it as picky as pipelock is, and issuing leaves. Touches the
//! kernel only to read two files.

use std::collections::HashMap;
use std::fmt;
use std::net::IpAddr;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use hudsucker::certificate_authority::CertificateAuthority;
use hudsucker::hyper::http::uri::Authority as HostPort;
use hudsucker::rustls::ServerConfig;
use hudsucker::rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rcgen::{
    CertificateParams, DnType, ExtendedKeyUsagePurpose, Issuer, KeyPair, KeyUsagePurpose, SanType,
    SignatureAlgorithm,
};
use time::{Duration, OffsetDateTime};
use x509_parser::extensions::ParsedExtension;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::config::{Config, go_words};

const EC_PUBLIC_KEY: &str = "1.2.840.10045.2.1";

/// Curves by the DER of their object identifiers, with what signs on them.
const CURVES: [(&[u8], &SignatureAlgorithm); 3] = [
    (
        &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07],
        &rcgen::PKCS_ECDSA_P256_SHA256,
    ),
    (
        &[0x2b, 0x81, 0x04, 0x00, 0x22],
        &rcgen::PKCS_ECDSA_P384_SHA384,
    ),
    (
        &[0x2b, 0x81, 0x04, 0x00, 0x23],
        &rcgen::PKCS_ECDSA_P521_SHA512,
    ),
];

/// A CA that issues leaves and remembers them.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    has_key_identifier: bool,
    leaves: Mutex<HashMap<String, Arc<ServerConfig>>>,
}

/// Why a pair of files is not a CA, in pipelock's words.
#[derive(Debug)]
pub struct Error(String);

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "load TLS CA: {} (run 'pipelock tls init' to generate)",
            self.0
        )
    }
}

impl std::error::Error for Error {}

/// Loads the CA a configuration names; `None` where TLS is not intercepted.
pub fn load(config: &Config) -> Result<Option<Arc<Authority>>, Error> {
    if !config.tls_interception {
        return Ok(None);
    }
    let authority = read(&config.ca_cert, &config.ca_key).map_err(Error)?;
    Ok(Some(Arc::new(authority)))
}

fn read(cert: &Path, key: &Path) -> Result<Authority, String> {
    let cert_der = first_block(cert, "cert")?;
    let malformed = || "parse CA cert: x509: malformed tbs certificate".to_owned();
    let (_, parsed) = X509Certificate::from_der(&cert_der).map_err(|_| malformed())?;
    let key_der = first_block(key, "key")?;
    let algorithm = curve_of(&key_der).map_err(|cause| format!("parse CA key: {cause}"))?;
    let key = KeyPair::from_der_and_sign_algo(&PrivateKeyDer::Sec1(key_der.into()), algorithm)
        .map_err(|_| "parse CA key: x509: invalid elliptic curve private key value".to_owned())?;

    let constraints = parsed.basic_constraints().map_err(|_| malformed())?;
    if !constraints.is_some_and(|c| c.value.ca) {
        return Err("certificate is not a CA".to_owned());
    }
    let usage = parsed.key_usage().map_err(|_| malformed())?;
    if !usage.is_some_and(|u| u.value.key_cert_sign()) {
        return Err("CA certificate missing KeyUsageCertSign".to_owned());
    }
    if parsed.public_key().algorithm.algorithm.to_id_string() != EC_PUBLIC_KEY {
        return Err("CA certificate public key is not ECDSA".to_owned());
    }
    if parsed.public_key().subject_public_key.as_ref() != key.public_key_raw() {
        return Err("CA key does not match certificate".to_owned());
    }
    let has_key_identifier = parsed.extensions().iter().any(|e| {
        matches!(
            e.parsed_extension(),
            ParsedExtension::SubjectKeyIdentifier(_)
        )
    });
    let issuer = Issuer::from_ca_cert_der(&CertificateDer::from(cert_der.as_slice()), key)
        .map_err(|e| format!("parse CA cert: {e}"))?;
    Ok(Authority {
        issuer,
        has_key_identifier,
        leaves: Mutex::default(),
    })
}

/// The DER of a file's first PEM block, whatever its label.
fn first_block(path: &Path, what: &str) -> Result<Vec<u8>, String> {
    let text = std::fs::read(path)
        .map_err(|e| format!("read CA {what}: open {}: {}", path.display(), go_words(&e)))?;
    let block = pem::parse_many(text)
        .ok()
        .and_then(|blocks| blocks.into_iter().next());
    let block = block.ok_or_else(|| format!("no PEM block in CA {what} file"))?;
    Ok(block.into_contents())
}

/// One DER element: its tag, its contents, and what follows.
fn element(der: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&tag, rest) = der.split_first()?;
    let (&short, rest) = rest.split_first()?;
    let (length, rest) = if short < 0x80 {
        (usize::from(short), rest)
    } else {
        let (length, rest) = rest.split_at_checked(usize::from(short & 0x7f))?;
        let length = length.iter().try_fold(0_usize, |n, b| {
            n.checked_mul(256)?.checked_add(usize::from(*b))
        })?;
        (length, rest)
    };
    let (contents, rest) = rest.split_at_checked(length)?;
    Some((tag, contents, rest))
}

/// Reads an `ECPrivateKey` (RFC 5915) as far as its curve.
fn curve_of(der: &[u8]) -> Result<&'static SignatureAlgorithm, &'static str> {
    const NOT_EC: &str = "x509: failed to parse EC private key: asn1: structure error";
    let (0x30, fields, _) = element(der).ok_or(NOT_EC)? else {
        return Err(NOT_EC);
    };
    let (0x02, version, after) = element(fields)
        .ok_or("x509: failed to parse EC private key: asn1: syntax error: sequence truncated")?
    else {
        return Err(NOT_EC);
    };
    let (second, _, after) = element(after).ok_or(NOT_EC)?;
    match (version, second) {
        ([0], 0x30) => {
            return Err("x509: failed to parse private key \
                        (use ParsePKCS8PrivateKey instead for this key format)");
        }
        (_, 0x02) => {
            return Err("x509: failed to parse private key \
                        (use ParsePKCS1PrivateKey instead for this key format)");
        }
        ([1], 0x04) => {}
        ([_], 0x04) => return Err("x509: unknown EC private key version"),
        _ => return Err(NOT_EC),
    }
    let unknown = "x509: unknown elliptic curve";
    let (0xa0, parameters, _) = element(after).ok_or(unknown)? else {
        return Err(unknown);
    };
    let (0x06, identifier, _) = element(parameters).ok_or(unknown)? else {
        return Err(unknown);
    };
    let known = CURVES.iter().find(|(der, _)| *der == identifier);
    known.map(|(_, algorithm)| *algorithm).ok_or(unknown)
}

impl Authority {
    /// What a client is shown for `host`: a leaf of its own, and nothing else.
    pub fn server_config(&self, host: &str) -> Result<Arc<ServerConfig>, String> {
        let mut leaves = self.leaves.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = leaves.get(host) {
            return Ok(Arc::clone(known));
        }
        let config = self.issue(host)?;
        leaves.insert(host.to_owned(), Arc::clone(&config));
        Ok(config)
    }

    /// How many leaves are remembered.
    pub fn issued(&self) -> usize {
        self.leaves
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .len()
    }

    fn issue(&self, host: &str) -> Result<Arc<ServerConfig>, String> {
        let words = |e: rcgen::Error| e.to_string();
        let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).map_err(words)?;
        let mut params = CertificateParams::default();
        params.not_before = OffsetDateTime::now_utc() - Duration::HOUR;
        params.not_after = OffsetDateTime::now_utc() + Duration::DAY;
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, host);
        params.subject_alt_names = vec![match host.parse::<IpAddr>() {
            Ok(address) => SanType::IpAddress(address),
            Err(_) => SanType::DnsName(host.try_into().map_err(words)?),
        }];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        // pipelock's leaves name their authority only where the CA names itself.
        params.use_authority_key_identifier_extension = self.has_key_identifier;
        let leaf = params.signed_by(&key, &self.issuer).map_err(words)?;
        let private = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let mut config = ServerConfig::builder()
            .with_no_client_auth()
            .with_single_cert(vec![leaf.der().clone()], private)
            .map_err(|e| e.to_string())?;
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(Arc::new(config))
    }
}

/// hudsucker asks for a CA even where its handler takes every tunnel itself, as
/// ours does; this one is never asked for a certificate.
pub struct Unasked;

impl CertificateAuthority for Unasked {
    async fn gen_server_config(&self, _: &HostPort) -> Arc<ServerConfig> {
        std::future::pending().await
    }
}
