//! Certificates out of a file that somebody wrote: each is decoded and encoded again, so
//! that nothing else of the file goes anywhere. Pure.

use super::{pem, x509};

/// What a file has of certificates.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Roots {
    /// They alone, as PEM blocks; empty where there is none.
    pub pem: String,
    /// Whether the file holds a private key as well.
    pub holds_key: bool,
}

/// The certificates of `file`: text around them, other blocks, and blocks that only call
/// themselves certificates are left out, as Go leaves them out.
#[must_use]
pub fn roots(file: &[u8]) -> Roots {
    let mut roots = Roots {
        pem: String::with_capacity(file.len()),
        holds_key: pem::holds_key(file),
    };
    let mut rest = file;
    while let Ok(block) = pem::first_block(rest) {
        if block.label == b"CERTIFICATE" && x509::is_shaped_as_certificate(&block.der) {
            roots.pem += &x509::encode(&block.der);
        }
        rest = block.rest;
    }
    roots
}

#[cfg(test)]
mod tests {
    use super::*;

    fn certificate() -> String {
        let entropy = [7; super::super::ENTROPY_BYTES];
        super::super::generate(&entropy, 1_800_000_000)
            .unwrap()
            .cert_pem
    }

    fn block(label: &str, base64: &str) -> String {
        format!("-----BEGIN {label}-----\n{base64}\n-----END {label}-----\n")
    }

    #[test]
    fn keeps_every_certificate_and_nothing_else() {
        let certificate = certificate();
        let key = "MC4CAQAwBQYDK2VwBCIEIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f";
        let file = format!(
            "# a comment\n{certificate}password: s3cret\n{}{}{}{}{certificate}-----BEGIN CERTIFICATE-----\n!",
            block("PRIVATE KEY", key),
            // A key by another name.
            block("CERTIFICATE", key),
            block("X509 CRL", "AQID"),
            block("CERTIFICATE", "AQID"),
        );
        let roots = roots(file.replace('\n', "\r\n").as_bytes());
        assert_eq!(roots.pem, certificate.repeat(2));
        assert!(roots.holds_key);
    }

    #[test]
    fn finds_nothing_where_there_is_nothing() {
        for file in ["", "no certificate", &block("CERTIFICATE", "")] {
            assert_eq!(roots(file.as_bytes()), Roots::default(), "{file:?}");
        }
    }
}
