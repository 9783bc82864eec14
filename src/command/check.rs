//! `check`: judges a manifest and says so on standard output.

use std::io;
use std::path::Path;

use serde::Serialize;

use super::{granted, missing, print, print_as_it_is};
use crate::boot::clock;
use crate::bottle::credentials;
use crate::bottle::trust::{self, TrustError};
use crate::exit::{ExitCode, StartError};
use crate::import::{self, Source};
use crate::manifest::{MAX_BYTES, Rejection};
use crate::plain;
use crate::policy::{self, Judgement, Problem, Refused, daemons};
use crate::status::Granted;
use crate::sys::files::{read_bounded, read_up_to};

/// All that there is to say of a manifest and of the roots beside it; both ways of saying it are
/// made from this.
struct Findings {
    name: String,
    /// The manifest's size.
    bytes: usize,
    judged: Result<Judgement, Refused>,
    /// Warnings about the roots and whoever is given credentials, or why the roots cannot be used.
    roots: Result<Vec<String>, TrustError>,
}

/// Judges a manifest and the roots beside it.
fn find(manifest: &Path, strict: bool) -> Result<Findings, StartError> {
    let (bytes, name) = read(manifest)?;
    let mut judged = policy::read(&bytes, strict, clock::now());
    if let Err(refused) = &mut judged
        && let Some(problem) = refused.problems.first_mut()
        && let Some(kind) = import::known(&Source {
            name: &name,
            bytes: &bytes,
        })
    {
        let what = kind.title();
        problem.hint = Some(format!(
            "it looks like {what}: sidecar-init import makes a manifest of it"
        ));
    }
    let mut roots = Ok(Vec::new());
    if manifest != Path::new("-") {
        let extra = trust::extra(&trust::directory(manifest), MAX_BYTES);
        roots = extra.map(|extra| extra.warnings);
        if let (Ok(warnings), Ok(judged)) = (&mut roots, &judged) {
            let given = credentials::names(&credentials::directory(manifest));
            let given = given.iter().map(String::as_str);
            warnings.extend(credentials::strangers(given, &judged.policy.daemons));
        }
    }
    Ok(Findings {
        name,
        bytes: bytes.len(),
        judged,
        roots,
    })
}

/// Judges a manifest and says so on standard output.
pub fn check(manifest: &Path, strict: bool) -> Result<(), StartError> {
    let Findings {
        name,
        judged,
        roots,
        ..
    } = find(manifest, strict)?;
    let invalid = |why: String| Err(StartError::new(ExitCode::ManifestInvalid, why));
    let judgement = match judged {
        Ok(judgement) => judgement,
        Err(refused) => {
            let mut words = refused.in_words(&name);
            match roots {
                Ok(warnings) => {
                    for warning in warnings {
                        words.push_str(&format!("\nwarning: {warning}"));
                    }
                }
                Err(why) => words.push_str(&format!("\n{why}")),
            }
            return invalid(words);
        }
    };
    for warning in &judgement.warnings {
        print(&format!("warning: {}\n", warning.display(&name)))?;
    }
    for note in &judgement.notes {
        print(&format!("note: {}\n", note.display(&name)))?;
    }
    match roots {
        Ok(warnings) => {
            for warning in warnings {
                print(&format!("warning: {warning}\n"))?;
            }
        }
        Err(why) => return invalid(why.to_string()),
    }
    let policy = &judgement.policy;
    // Of what is over there is a note.
    for grant in policy.grants.iter().filter(|it| it.in_force) {
        let words = granted::in_words(&Granted::of(grant), clock::now());
        print(&format!("granted: {words}\n"))?;
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
    ))?;
    print(&daemons::in_words(&policy.daemons, policy.listen.port()))
}

/// What `check --json` prints: one object.
#[derive(Serialize)]
struct Report<'a> {
    file: &'a str,
    valid: bool,
    slug: Option<&'a str>,
    hosts_allowed: Option<usize>,
    grants: Vec<Granted>,
    /// Not there without any: who reads the others knows no such key.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    daemons: Vec<daemons::Shown<'a>>,
    errors: Vec<Problem>,
    warnings: Vec<Problem>,
    notes: Vec<Problem>,
}

/// Judges a manifest, and prints what there is to say of it as one JSON object. One that is
/// invalid ends with its code all the same.
pub fn check_as_json(manifest: &Path, strict: bool) -> Result<(), StartError> {
    let Findings {
        name,
        bytes,
        judged,
        roots,
    } = find(manifest, strict)?;
    let policy = judged.as_ref().ok().map(|it| &it.policy);
    let mut report = Report {
        file: &name,
        valid: false,
        slug: policy.map(|policy| policy.slug.as_str()),
        hosts_allowed: policy.map(|policy| policy.allowlist.len()),
        grants: policy
            .iter()
            .flat_map(|policy| policy.grants.iter().map(Granted::of))
            .collect(),
        daemons: policy.map_or_else(Vec::new, |policy| daemons::shown(&policy.daemons)),
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
    let of_roots = |text: String| Rejection::new(text).at(None, "trust".to_owned());
    match roots {
        Ok(warnings) => report.warnings.extend(warnings.into_iter().map(of_roots)),
        Err(why) => report.errors.push(of_roots(why.to_string())),
    }
    report.valid = report.errors.is_empty();
    print_as_it_is(&format!("{}\n", plain::json(&report, bytes.min(4096))))?;
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

pub(super) fn read(manifest: &Path) -> Result<(Vec<u8>, String), StartError> {
    let failed = |error: String| StartError::new(ExitCode::ManifestMissing, error);
    if manifest == Path::new("-") {
        let bytes = read_up_to(io::stdin().lock(), MAX_BYTES)
            .map_err(|error| failed(format!("cannot read standard input: {error}")))?;
        return Ok((bytes, "<stdin>".to_owned()));
    }
    let bytes =
        read_bounded(manifest, MAX_BYTES).map_err(|error| failed(missing(manifest, &error)))?;
    Ok((bytes, manifest.display().to_string()))
}
