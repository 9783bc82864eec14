//! `ca`: generates a pair where there is none, checks the one there, completes one that was cut
//! off.

use super::print_done;
use crate::ca::{self, authority};
use crate::cli::Paths;
use crate::exit::StartError;

/// Generates a pair where there is none, checks the one there, refuses half a pair that is not
/// one of ours, cut off.
pub fn generate_or_check_ca(paths: &Paths) -> Result<(), StartError> {
    authority::insist_on_two_files(paths)?;
    let (verb, facts) = match authority::read_pair(paths)? {
        (Some(cert), Some(key)) => (
            "usable",
            authority::check(&cert, &key, &paths.cert, &paths.key)?,
        ),
        (None, None) => {
            let pair = authority::generate()?;
            let (cert, key) = (pair.cert_pem.as_bytes(), pair.key_pem.as_bytes());
            match authority::install_pair(paths, cert, key, None) {
                Ok(()) => ("generated", pair.facts),
                // Somebody else was faster.
                Err(error) => match authority::read_pair(paths)? {
                    (Some(cert), Some(key)) => (
                        "usable",
                        authority::check(&cert, &key, &paths.cert, &paths.key)?,
                    ),
                    _ => return Err(error),
                },
            }
        }
        (Some(_), None) => return Err(authority::half(&paths.cert, &paths.key)),
        (None, Some(key)) => ("completed", authority::complete(paths, &key)?),
    };
    print_done(&format!(
        "{verb}: {}, SHA-256 {}, valid from {} until {}\n  certificate {}\n  key         {}\n",
        facts.subject,
        facts.fingerprint_sha256,
        ca::rfc3339(facts.not_before),
        ca::rfc3339(facts.not_after),
        paths.cert.display(),
        paths.key.display()
    ));
    for warning in &facts.warnings {
        print_done(&format!("warning: {}: {warning}\n", paths.cert.display()));
    }
    Ok(())
}
