//! `render`: prints the configuration a manifest gives.

use super::check::judge;
use super::{granted, print_as_it_is};
use crate::boot::clock;
use crate::cli::Paths;
use crate::daemon::pipelock::render;
use crate::exit::StartError;
use crate::plain;
use crate::status::Granted;

/// Prints the configuration a manifest gives.
pub fn render_config(paths: &Paths) -> Result<(), StartError> {
    let (judgement, name) = judge(&paths.manifest, false)?;
    for warning in &judgement.warnings {
        let warning = warning.display(&name).to_string();
        eprintln!("sidecar-init: warning: {}", plain::lines(&warning));
    }
    for grant in judgement.policy.grants.iter().filter(|it| !it.in_force) {
        let words = granted::in_words(&Granted::of(grant), clock::now());
        eprintln!("sidecar-init: granted: {words}");
    }
    let (cert, key) = (paths.cert.to_string_lossy(), paths.key.to_string_lossy());
    print_as_it_is(&render::render(&judgement.policy, &cert, &key))
}
