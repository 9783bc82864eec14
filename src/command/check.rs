//! `check`: judges a manifest and says so on standard output.

use std::io;
use std::path::Path;

use serde::Serialize;

use super::{print, print_as_it_is};
use crate::boot::clock;
use crate::bottle::trust;
use crate::exit::{ExitCode, StartError};
use crate::manifest::{MAX_BYTES, Rejection};
use crate::plain;
use crate::policy::{self, Judgement, Problem};
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

/// What `check --json` prints: one object.
#[derive(Serialize)]
struct Report<'a> {
    file: &'a str,
    valid: bool,
    slug: Option<&'a str>,
    hosts_allowed: Option<usize>,
    errors: Vec<Problem>,
    warnings: Vec<Problem>,
    notes: Vec<Problem>,
}

/// Judges a manifest, and prints what there is to say of it as one JSON object. One that is
/// invalid ends with its code all the same.
pub fn check_as_json(manifest: &Path, strict: bool) -> Result<(), StartError> {
    let (bytes, name) = read(manifest)?;
    let of_roots = |text: String| Rejection::new(text).at(None, "trust".to_owned());
    let roots = if manifest == Path::new("-") {
        Ok(Vec::new())
    } else {
        trust::extra(&trust::directory(manifest), MAX_BYTES).map(|extra| extra.warnings)
    };
    let (bad_roots, root_warnings) = match roots {
        Ok(warnings) => (None, warnings),
        Err(why) => (Some(of_roots(why)), Vec::new()),
    };
    let judged = policy::read(&bytes, strict, clock::now());
    let policy = judged.as_ref().ok().map(|it| &it.policy);
    let mut report = Report {
        file: &name,
        valid: false,
        slug: policy.map(|policy| policy.slug.as_str()),
        hosts_allowed: policy.map(|policy| policy.allowlist.len()),
        errors: Vec::new(),
        warnings: Vec::new(),
        notes: Vec::new(),
    };
    match &judged {
        Ok(judgement) => {
            report.warnings.clone_from(&judgement.warnings);
            report.notes.clone_from(&judgement.notes);
        }
        Err(refused) => {
            report.errors.clone_from(&refused.problems);
            report.warnings.clone_from(&refused.warnings);
        }
    }
    report.errors.extend(bad_roots);
    let warnings = root_warnings.into_iter().map(of_roots);
    report.warnings.extend(warnings);
    report.valid = report.errors.is_empty();
    print_as_it_is(&format!(
        "{}\n",
        plain::json(&report, bytes.len().min(4096))
    ))?;
    if report.valid {
        return Ok(());
    }
    let count = report.errors.len();
    Err(StartError::new(
        ExitCode::ManifestInvalid,
        format!("{name}: invalid, for {count} reason(s)"),
    ))
}

/// A manifest, or standard input for `-`, and the name it has in messages.
pub(super) fn judge(manifest: &Path, strict: bool) -> Result<(Judgement, String), StartError> {
    let (bytes, name) = read(manifest)?;
    match policy::read(&bytes, strict, clock::now()) {
        Ok(judgement) => Ok((judgement, name)),
        Err(refused) => Err(StartError::new(
            ExitCode::ManifestInvalid,
            refused.in_words(&name),
        )),
    }
}

fn read(manifest: &Path) -> Result<(Vec<u8>, String), StartError> {
    let missing = |error: String| StartError::new(ExitCode::ManifestMissing, error);
    if manifest == Path::new("-") {
        let bytes = read_up_to(io::stdin().lock(), MAX_BYTES)
            .map_err(|error| missing(format!("cannot read standard input: {error}")))?;
        return Ok((bytes, "<stdin>".to_owned()));
    }
    let bytes = read_bounded(manifest, MAX_BYTES).map_err(|error| missing(error.to_string()))?;
    Ok((bytes, manifest.display().to_string()))
}
