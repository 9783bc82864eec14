//! `ca`: generates a pair where there is none, checks the one there, completes one that was cut
//! off.

use super::print_done;
use crate::ca;
use crate::ca::authority::{self, Files};
use crate::cli::Paths;
use crate::exit::StartError;

/// Generates a pair where there is none, checks the one there, refuses half a pair that is not
/// one of ours, cut off.
pub fn generate_or_check_ca(paths: &Paths) -> Result<(), StartError> {
    let files = Files {
        cert: paths.cert.clone(),
        key: paths.key.clone(),
    };
    authority::insist_on_two_files(&files)?;
    let (verb, facts) = match authority::read_pair(&files)? {
        (Some(cert), Some(key)) => (
            "usable",
            authority::check(&cert, &key, &files.cert, &files.key)?,
        ),
        (None, None) => {
            let pair = authority::generate()?;
            let (cert, key) = (pair.cert_pem.as_bytes(), pair.key_pem.as_bytes());
            match authority::install_pair(&files, cert, key, None) {
                Ok(()) => ("generated", pair.facts),
                // Somebody else was faster.
                Err(error) => match authority::read_pair(&files)? {
                    (Some(cert), Some(key)) => (
                        "usable",
                        authority::check(&cert, &key, &files.cert, &files.key)?,
                    ),
                    _ => return Err(error),
                },
            }
        }
        (Some(_), None) => return Err(authority::half(&files.cert, &files.key)),
        (None, Some(key)) => ("completed", authority::complete(&files, &key)?),
    };
    print_done(&format!(
        "{verb}: {}, SHA-256 {}, valid from {} until {}\n  certificate {}\n  key         {}\n",
        facts.subject,
        facts.fingerprint_sha256,
        ca::rfc3339(facts.not_before),
        ca::rfc3339(facts.not_after),
        files.cert.display(),
        files.key.display()
    ));
    for warning in &facts.warnings {
        print_done(&format!("warning: {}: {warning}\n", files.cert.display()));
    }
    Ok(())
}
