//! `check`: judges a manifest and says so on standard output.

use std::io;
use std::path::Path;

use super::print;
use crate::bottle::trust;
use crate::exit::{ExitCode, StartError};
use crate::manifest::{MAX_BYTES, join_problems};
use crate::policy::{self, Judgement};
use crate::sys::files::{read_bounded, read_up_to};

/// Judges a manifest and says so on standard output.
pub fn check(manifest: &Path, strict: bool) -> Result<(), StartError> {
    let (judgement, name) = judge(manifest, strict)?;
    let policy = &judgement.policy;
    for warning in &judgement.warnings {
        print(&format!("warning: {}\n", warning.display(&name)))?;
    }
    for note in &judgement.notes {
        print(&format!("note: {}\n", note.display(&name)))?;
    }
    if manifest != Path::new("-") {
        check_roots(manifest)?;
    }
    print(&format!(
        "{name}: valid; slug {}, {} host(s) allowed{}\n",
        policy.slug,
        policy.allowlist.len(),
        if policy.allowlist.is_empty() {
            ": every request will be denied"
        } else {
            ""
        }
    ))
}

/// Judges the extra roots beside a manifest.
fn check_roots(manifest: &Path) -> Result<(), StartError> {
    let extra = trust::extra(&trust::directory(manifest), MAX_BYTES)
        .map_err(|why| StartError::new(ExitCode::ManifestInvalid, why))?;
    for warning in extra.warnings {
        print(&format!("warning: {warning}\n"))?;
    }
    Ok(())
}

/// A manifest, or standard input for `-`, and the name it has in messages.
pub(super) fn judge(manifest: &Path, strict: bool) -> Result<(Judgement, String), StartError> {
    let missing = |error: String| StartError::new(ExitCode::ManifestMissing, error);
    let (bytes, name) = if manifest == Path::new("-") {
        let bytes = read_up_to(io::stdin().lock(), MAX_BYTES)
            .map_err(|error| missing(format!("cannot read standard input: {error}")))?;
        (bytes, "<stdin>".to_owned())
    } else {
        let bytes =
            read_bounded(manifest, MAX_BYTES).map_err(|error| missing(error.to_string()))?;
        (bytes, manifest.display().to_string())
    };
    match policy::read(&bytes, strict) {
        Ok(judgement) => Ok((judgement, name)),
        Err(problems) => Err(StartError::new(
            ExitCode::ManifestInvalid,
            join_problems(&problems, &name),
        )),
    }
}
