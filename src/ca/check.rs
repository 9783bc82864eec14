//! Judges a CA pair by the rules pipelock loads it with, and by the clock, which pipelock
//! ignores and its clients do not. Pure.

use super::pem::Block;
use super::x509::CertificateProblem;
use super::{CaError, Facts, KeyProblem, Warning, key, pem, x509};

/// Checks that pipelock can sign with this pair and that clients can accept it at `now`,
/// Unix seconds. Both files are read up to the end of their first PEM block, as pipelock
/// does; so a missing key usage is refused, and an unknown PEM label is not.
pub fn check(cert_pem: &[u8], key_pem: &[u8], now: u64) -> Result<Facts, CaError> {
    let cert_block =
        pem::first_block(cert_pem).map_err(|e| CaError::Certificate(CertificateProblem::Pem(e)))?;
    let cert = x509::parse_block(&cert_block).map_err(|problem| {
        CaError::Certificate(match problem {
            // Both in one file, the key first: nothing is swapped.
            CertificateProblem::IsKey if holds_certificate(cert_block.rest) => {
                CertificateProblem::HoldsKey
            }
            problem => problem,
        })
    })?;
    if pem::holds_key(cert_pem) {
        return Err(CaError::Certificate(CertificateProblem::HoldsKey));
    }
    let key_block = pem::first_block(key_pem).map_err(|e| CaError::Key(KeyProblem::Pem(e)))?;
    let key = key::parse_block(&key_block).map_err(|problem| {
        CaError::Key(match problem {
            KeyProblem::IsCertificate if pem::holds_key(key_block.rest) => {
                KeyProblem::BehindCertificate
            }
            problem => problem,
        })
    })?;

    if !cert.is_authority {
        return Err(CaError::Certificate(CertificateProblem::NotAuthority));
    }
    if !cert.may_sign {
        return Err(CaError::Certificate(CertificateProblem::MayNotSign));
    }
    if key.curve != cert.curve || !key.matches(&cert.public_point).map_err(CaError::Key)? {
        return Err(mismatch(&cert_block, &key_block));
    }
    judge_validity(&cert, now).map_err(CaError::Certificate)?;
    if let Some(unfit) = cert.unfit {
        return Err(CaError::Certificate(unfit));
    }

    let mut facts = cert.facts(&cert_block.der);
    if cert_block.is_followed() {
        facts.warnings.push(Warning::MoreInCertificateFile);
    }
    Ok(facts)
}

/// Why the two do not match: a block before one of them was not found.
fn mismatch(cert: &Block<'_>, key: &Block<'_>) -> CaError {
    let passed_over = |block: &Block<'_>| pem::passed_over(block.before);
    let of_cert = passed_over(cert).map(|it| CaError::Certificate(CertificateProblem::Pem(it)));
    let of_key = || passed_over(key).map(|it| CaError::Key(KeyProblem::Pem(it)));
    of_cert.or_else(of_key).unwrap_or(CaError::Mismatch)
}

fn holds_certificate(mut file: &[u8]) -> bool {
    while let Ok(block) = pem::first_block(file) {
        if block.label == b"CERTIFICATE" {
            return true;
        }
        file = block.rest;
    }
    false
}

/// Both ends belong to the validity (RFC 5280, 4.1.2.5).
fn judge_validity(cert: &x509::Certificate, now: u64) -> Result<(), CertificateProblem> {
    let (not_before, not_after) = (cert.not_before, cert.not_after);
    if now < not_before {
        Err(CertificateProblem::NotYetValid { not_before, now })
    } else if now > not_after {
        Err(CertificateProblem::Expired { not_after, now })
    } else {
        Ok(())
    }
}
