//! Everything that is read, in one place: the manifest and the extra roots beside it, made
//! into what each daemon is to run on. Touches the file system.

pub mod trust;

use std::rc::Rc;

use crate::cli::Paths;
use crate::daemon::pipelock::render;
use crate::exit::{ExitCode, StartError};
use crate::manifest;
use crate::policy::{self, Policy};
use crate::sys::files::read_bounded;
use crate::sys::memory;

/// A configuration as the daemon is to run it.
#[derive(Debug, Clone)]
pub struct Desired {
    /// What the manifest asks for.
    pub policy: Policy,
    /// The rendered configuration.
    pub config: String,
    /// Its SHA-256, as the daemon will report it.
    pub config_sha256: String,
    /// The deny-all configuration for draining.
    pub deny_all: String,
    /// Its SHA-256.
    pub deny_all_sha256: String,
    /// Extra roots for upstream connections, installed where [`Setup::trust_bundle`] says.
    pub trust: Option<Rc<[u8]>>,
    /// How much `check` has to note about the manifest.
    pub notes: usize,
}

impl Desired {
    /// Says how many notes there are: once for each manifest that is taken up.
    pub fn count_notes(&self) {
        if self.notes > 0 {
            log::info!(
                "{} note(s) about the manifest: sidecar-init check --manifest FILE prints them",
                self.notes
            );
        }
    }
}

/// What follows on "larger than so many bytes".
fn short_of_memory(available: u64) -> String {
    format!(
        ", the most that {} MiB of available memory allow\nhint: judging a manifest takes up to 18 times its \
         size: give the machine more memory, or write a shorter one",
        available >> 20
    )
}

/// Everything the daemon is to run on, read from the manifest's directory.
pub fn read(paths: &Paths) -> Result<(Desired, Vec<String>), Box<StartError>> {
    let invalid = |text: String| Box::new(StartError::new(ExitCode::ManifestInvalid, text));
    let available = memory::available();
    let limit = manifest::largest(available);
    let bytes = read_bounded(&paths.manifest, limit).map_err(|error| {
        let why = match available {
            Some(available) if error.is_too_large() && limit < manifest::MAX_BYTES => {
                short_of_memory(available)
            }
            _ => String::new(),
        };
        Box::new(StartError::new(
            ExitCode::ManifestMissing,
            format!("{error}{why}"),
        ))
    })?;
    let name = paths
        .manifest
        .file_name()
        .unwrap_or_default()
        .to_string_lossy();
    let judgement = policy::read(&bytes, false)
        .map_err(|problems| invalid(manifest::join_problems(&problems, &name)))?;
    let mut warnings: Vec<String> = judgement
        .warnings
        .iter()
        .map(|warning| warning.display(&name).to_string())
        .collect();
    if judgement.policy.allowlist.is_empty() {
        warnings.push("the bottle allows no host: every request will be denied".to_owned());
    }
    let trust = trust::bundle(&trust::directory(&paths.manifest), limit).map_err(invalid)?;
    let (cert, key) = (paths.cert.to_string_lossy(), paths.key.to_string_lossy());
    let config = render::render(&judgement.policy, &cert, &key);
    let deny_all = render::render_deny_all(&judgement.policy, &cert, &key);
    Ok((
        Desired {
            config_sha256: render::config_hash(&config),
            deny_all_sha256: render::config_hash(&deny_all),
            notes: judgement.notes.len().min(manifest::MAX_REPORTED),
            policy: judgement.policy,
            config,
            deny_all,
            trust,
        },
        warnings,
    ))
}
