//! Certificates out of a file that somebody wrote: each is decoded and encoded again, so
//! that nothing else of the file goes anywhere. Pure.

use std::fmt;

use super::pem::PemProblem;
use super::x509::CertificateProblem;
use super::{pem, rfc3339, x509};
use crate::plain;

/// What a file has of certificates.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Roots {
    /// They alone, as PEM blocks; empty where there is none.
    pub pem: String,
    /// Whether the file holds a private key as well.
    pub holds_key: bool,
}

/// The certificates of `file`: text around them, other blocks, and blocks that only call
/// themselves certificates are left out, as Go leaves them out. One of those in a bundle would
/// keep OpenSSL from reading any of it.
#[must_use]
pub fn roots(file: &[u8]) -> Roots {
    let mut roots = Roots {
        pem: String::with_capacity(file.len()),
        holds_key: pem::holds_key(file),
    };
    let mut rest = file;
    while let Ok(block) = pem::first_block(rest) {
        if block.label == b"CERTIFICATE" && x509::parse_root(&block.der).is_ok() {
            roots.pem += &x509::encode(&block.der);
        }
        rest = block.rest;
    }
    roots
}

/// What is wrong with a file of extra roots, and in which line.
#[derive(Debug)]
pub struct RootsProblem {
    line: usize,
    what: Fault,
}

#[derive(Debug)]
enum Fault {
    Pem(PemProblem),
    HoldsKey,
    Label(String),
    Certificate(CertificateProblem),
}

impl fmt::Display for RootsProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.what {
            // Of the whole file.
            Fault::Pem(PemProblem::Empty | PemProblem::NotPem) => f.write_str(
                "it holds no certificate\nhint: a root in PEM form starts with -----BEGIN CERTIFICATE-----",
            ),
            Fault::Pem(problem @ PemProblem::Utf16) => problem.fmt(f),
            Fault::Pem(problem @ PemProblem::Der) => write!(
                f,
                "{problem}\nhint: openssl x509 -inform DER -in old.crt -out new.pem"
            ),
            Fault::HoldsKey => f.write_str(
                "it holds a private key, which has no place on this machine\n\
                 hint: put the certificate alone there",
            ),
            Fault::Pem(problem) => write!(f, "line {}: {problem}", self.line),
            Fault::Label(label) => {
                write!(f, "line {}: its PEM block is labelled {label}", self.line)?;
                f.write_str(match label.as_str() {
                    "TRUSTED CERTIFICATE" | "X509 CERTIFICATE" => {
                        ", which only OpenSSL reads\nhint: openssl x509 -in old.pem -out new.pem"
                    }
                    "PKCS7" => {
                        ", which is not read here\n\
                         hint: openssl pkcs7 -print_certs -in old.pem -out new.pem"
                    }
                    _ => ", no CERTIFICATE\nhint: put the root's certificate alone there",
                })
            }
            Fault::Certificate(CertificateProblem::Malformed(_)) => write!(
                f,
                "line {}: its PEM block is not an X.509 certificate",
                self.line
            ),
            Fault::Certificate(problem) => write!(f, "line {}: {problem}", self.line),
        }
    }
}

impl std::error::Error for RootsProblem {}

/// The certificates of a file in which somebody put roots to be trusted, as PEM blocks, and
/// sentences about those that nobody will take at `now`, Unix seconds. Text around the blocks
/// is left out; a block that would be left out as well is a problem.
pub fn extra_roots(file: &[u8], now: u64) -> Result<(String, Vec<String>), RootsProblem> {
    if pem::holds_key(file) {
        return Err(RootsProblem {
            line: 1,
            what: Fault::HoldsKey,
        });
    }
    let wrong = |at, what| RootsProblem {
        line: pem::line_of(file, at),
        what,
    };
    let blocks = pem::every_block(file).map_err(|(at, problem)| wrong(at, Fault::Pem(problem)))?;
    let (mut text, mut warnings) = (String::with_capacity(file.len()), Vec::new());
    for (at, block) in blocks {
        let wrong = |what| wrong(at, what);
        if block.label != b"CERTIFICATE" {
            return Err(wrong(Fault::Label(plain::line_of(block.label))));
        }
        let root = x509::parse_root(&block.der).map_err(|it| wrong(Fault::Certificate(it)))?;
        if now < root.not_before {
            warnings.push(format!(
                "{} is not valid before {}: nobody takes what it signs until then",
                root.subject,
                rfc3339(root.not_before)
            ));
        } else if now > root.not_after {
            warnings.push(format!(
                "{} expired at {}: nobody takes what it signs",
                root.subject,
                rfc3339(root.not_after)
            ));
        }
        if let Some(unfit) = root.unfit {
            let why = unfit.to_string();
            let why = why.lines().next().unwrap_or_default();
            warnings.push(format!("{}: {why}", root.subject));
        }
        text += &x509::encode(&block.der);
    }
    Ok((text, warnings))
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
    fn refuses_a_file_of_which_a_root_would_be_lost() {
        const NOW: u64 = 1_800_000_000;
        let certificate = certificate();
        let good = extra_roots(
            format!("# a\n{certificate}text\n{certificate}").as_bytes(),
            NOW,
        );
        assert_eq!(good.unwrap(), (certificate.repeat(2), vec![]));
        let key = "MC4CAQAwBQYDK2VwBCIEIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f";
        for (more, says) in [
            (
                "-----BEGIN CERTIFICATE-----\nAQID\n",
                "line 12: its PEM block is cut short",
            ),
            (
                &block("CERTIFICATE", "AQID"),
                "line 12: its PEM block is not an X.509 certificate",
            ),
            // Of a certificate's shape, and nothing in it.
            (
                &block("CERTIFICATE", "MAgwADAAAwIAAA=="),
                "line 12: its PEM block is not an X.509",
            ),
            // A key by another name, and one by its own.
            (
                &block("CERTIFICATE", key),
                "line 12: its PEM block is not an X.509 certificate",
            ),
            (&block("PRIVATE KEY", key), "it holds a private key"),
            (
                &block("X509 CRL", "AQID"),
                "line 12: its PEM block is labelled X509 CRL, no CERTIFICATE",
            ),
            (&block("PKCS7", "AQID"), "openssl pkcs7 -print_certs"),
            (
                &certificate
                    .replace("BEGIN ", "BEGIN TRUSTED ")
                    .replace("END ", "END TRUSTED "),
                "line 12: its PEM block is labelled TRUSTED CERTIFICATE, which only OpenSSL reads",
            ),
        ] {
            for file in [
                format!("{certificate}{more}"),
                format!("{certificate}{more}{certificate}"),
            ] {
                let error = extra_roots(file.as_bytes(), NOW).unwrap_err().to_string();
                assert!(error.contains(says), "{more}: {error}");
            }
        }
        for file in ["", "no certificate"] {
            let error = extra_roots(file.as_bytes(), NOW).unwrap_err().to_string();
            assert!(error.starts_with("it holds no certificate"), "{error}");
        }
    }

    #[test]
    fn says_which_root_nobody_takes_at_that_time() {
        let certificate = certificate();
        for (now, says) in [
            (
                1_700_000_000,
                "O=Pipelock, CN=Pipelock CA is not valid before 2027-01-14",
            ),
            (
                2_200_000_000,
                "O=Pipelock, CN=Pipelock CA expired at 2037-01-12",
            ),
        ] {
            let (roots, warnings) = extra_roots(certificate.as_bytes(), now).unwrap();
            assert_eq!(roots, certificate);
            assert!(warnings[0].starts_with(says), "{warnings:?}");
        }
    }

    #[test]
    fn finds_nothing_where_there_is_nothing() {
        for file in ["", "no certificate", &block("CERTIFICATE", "")] {
            assert_eq!(roots(file.as_bytes()), Roots::default(), "{file:?}");
        }
    }
}
