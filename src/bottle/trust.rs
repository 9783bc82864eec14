//! Extra roots for upstream TLS, from the files of `trust/` beside the manifest: the
//! certificates in them, and nothing else of the files. Touches the file system.

use std::ffi::OsString;
use std::fmt;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use super::alone;
use crate::boot::clock;
use crate::ca::{self, RootsProblem};
use crate::plain;
use crate::sys::files::{FileError, read_bounded};

/// A root certificate is 2 KB; a file with every public root 250 KB.
const LONGEST_FILE: usize = 4 * 1024 * 1024;
/// More files than this are a mistake.
const MOST_FILES: usize = 256;
/// What the names of such files end in, in whatever case.
const EXTENSIONS: [&str; 3] = ["pem", "crt", "cer"];

/// Where extra roots are looked for.
#[must_use]
pub fn directory(manifest: &Path) -> PathBuf {
    manifest.with_file_name("trust")
}

/// What pipelock trusts, in a run directory. Not ca.pem: that is what people call the certificate
/// they keep there.
pub const FILE: &str = "upstream-roots.pem";

/// Where the bundle goes. pipelock treats an environment value of 16 bytes or more as
/// a secret, so the path is short where the run directory is the usual one.
#[must_use]
pub fn bundle_path(run_dir: &Path) -> PathBuf {
    if run_dir == Path::new("/run/sidecar") {
        PathBuf::from("/run/ca.pem")
    } else {
        run_dir.join(FILE)
    }
}

/// What `trust/` has.
#[derive(Debug, Default)]
pub struct Extra {
    /// The roots, as PEM blocks; `None` where no file has any.
    pub roots: Option<String>,
    /// Sentences: what is passed over, and what nobody will take.
    pub warnings: Vec<String>,
}

/// Why extra roots cannot be used.
#[derive(Debug)]
pub enum TrustError {
    /// The directory or a file in it cannot be read.
    File(FileError),
    /// The directory has so many files.
    TooMany(PathBuf, usize),
    /// The files of the directory have more than so many bytes together.
    TooLarge(PathBuf, usize),
    /// Something of a file would be lost.
    Roots(PathBuf, RootsProblem),
}

impl fmt::Display for TrustError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(error) => error.fmt(f),
            Self::TooMany(directory, files) => write!(
                f,
                "cannot use {}: {files} files, at most {MOST_FILES} are read",
                directory.display()
            ),
            Self::TooLarge(directory, limit) => write!(
                f,
                "cannot use {}: its files have more than {limit} bytes together, the most that are read here",
                directory.display()
            ),
            Self::Roots(file, problem) => write!(f, "cannot use {}: {problem}", shown(file)),
        }
    }
}

impl std::error::Error for TrustError {}

/// The extra roots, of files of at most `limit` bytes together. A file that is named like one
/// and of which something would be lost is an error with its name.
pub fn extra(directory: &Path, limit: usize) -> Result<Extra, TrustError> {
    let mut extra = Extra::default();
    let Some(names) = names_in(directory)? else {
        return Ok(extra);
    };
    let (files, others): (Vec<_>, Vec<_>) = names
        .into_iter()
        .filter(|name| !name.as_encoded_bytes().starts_with(b"."))
        .map(|name| directory.join(name))
        .partition(|path| is_named_like_one(path) && !path.is_dir());
    if !others.is_empty() {
        extra.warnings.push(passed_over(directory, &others));
    }
    if files.len() > MOST_FILES {
        return Err(TrustError::TooMany(directory.to_owned(), files.len()));
    }
    let mut left = limit;
    for file in files {
        let bytes = read_bounded(&file, LONGEST_FILE.min(left)).map_err(|error| {
            if error.is_too_large() && left < LONGEST_FILE {
                TrustError::TooLarge(directory.to_owned(), limit)
            } else {
                TrustError::File(error)
            }
        })?;
        left -= bytes.len();
        extra.warnings.extend(alone::warning(&file));
        let (roots, warnings) = ca::extra_roots(&bytes, clock::now())
            .map_err(|problem| TrustError::Roots(file.clone(), problem))?;
        *extra.roots.get_or_insert_default() += &roots;
        let warnings = warnings.iter();
        extra
            .warnings
            .extend(warnings.map(|warning| format!("{}: {warning}", shown(&file))));
    }
    Ok(extra)
}

/// The public roots and the extra ones, in the place of the extra ones.
pub fn bundle(directory: &Path, limit: usize) -> Result<Extra, TrustError> {
    let mut extra = extra(directory, limit)?;
    if let Some(roots) = &mut extra.roots {
        match ca::public_roots() {
            Ok(public) => roots.insert_str(0, &public),
            Err(none) => extra.warnings.push(format!(
                "{} has all the roots that pipelock and its clients know, and no public server is trusted: {none}",
                directory.display()
            )),
        }
    }
    Ok(extra)
}

/// What is in a directory, sorted; `None` where there is none.
fn names_in(directory: &Path) -> Result<Option<Vec<OsString>>, TrustError> {
    let failed = |error| TrustError::File(FileError::new("read", directory, error));
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        // A link that leads nowhere was meant to be one.
        Err(error) if error.kind() == ErrorKind::NotFound && !directory.is_symlink() => {
            return Ok(None);
        }
        Err(error) => return Err(failed(error)),
    };
    let mut names = Vec::new();
    for entry in entries {
        names.push(entry.map_err(failed)?.file_name());
    }
    // By bytes, as the hosts are: the same code serves both.
    names.sort_unstable();
    Ok(Some(names))
}

/// Whether a file of this name is to hold roots.
fn is_named_like_one(path: &Path) -> bool {
    let extension = path.extension().unwrap_or_default();
    EXTENSIONS
        .iter()
        .any(|one| extension.eq_ignore_ascii_case(one))
}

/// That these are not read.
fn passed_over(directory: &Path, others: &[PathBuf]) -> String {
    const NAMED: usize = 8;
    let named: Vec<String> = others
        .iter()
        .take(NAMED)
        .map(|path| {
            let name = path.file_name().unwrap_or_default();
            let slash = if path.is_dir() { "/" } else { "" };
            plain::line_of(name.as_encoded_bytes()) + slash
        })
        .collect();
    let more = match others.len() - named.len() {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    format!(
        "{}: passed over: {}{more}; roots are read of files *.pem, *.crt and *.cer in it",
        directory.display(),
        named.join(", ")
    )
}

/// A path in a sentence.
fn shown(path: &Path) -> String {
    plain::line_of(path.as_os_str().as_encoded_bytes())
}
