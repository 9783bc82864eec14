//! The public roots, wherever a Linux system has them: the places that Go knows, for that is
//! where pipelock looks (crypto/x509/root_linux.go). Touches the file system.

use std::collections::BTreeSet;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use super::roots;
use crate::sys::files::{FileError, read_bounded};

/// Files with all of them; the first that has any is taken.
pub const FILES: [&str; 6] = [
    // Debian, Arch, Nix, and the image.
    "/etc/ssl/certs/ca-certificates.crt",
    // Red Hat.
    "/etc/pki/tls/certs/ca-bundle.crt",
    // SUSE.
    "/etc/ssl/ca-bundle.pem",
    "/etc/pki/tls/cacert.pem",
    // Red Hat since 7.
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    // Alpine.
    "/etc/ssl/cert.pem",
];
/// Directories of files with one or more of them, read where none of [`FILES`] has any.
pub const DIRECTORIES: [&str; 2] = ["/etc/ssl/certs", "/etc/pki/tls/certs"];

/// A file with every public root has 250 KB.
const LONGEST_FILE: usize = 4 * 1024 * 1024;
/// A directory of them has some hundreds of names, links to each included.
const MOST_FILES: usize = 1024;

/// That there are none.
#[derive(Debug)]
pub struct NoRoots(Option<FileError>);

impl fmt::Display for NoRoots {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Some(error) => error.fmt(f),
            None => write!(
                f,
                "there is no certificate in {}, nor in any other place that Go knows",
                FILES[0]
            ),
        }
    }
}

impl std::error::Error for NoRoots {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.as_ref().map(|error| error as _)
    }
}

/// The file that [`public_roots`] asks first, of those that are there.
#[must_use]
pub fn public_roots_at() -> Option<&'static Path> {
    FILES.iter().map(Path::new).find(|file| file.exists())
}

/// The public roots, as PEM blocks.
pub fn public_roots() -> Result<String, NoRoots> {
    let mut first_error = None;
    let mut of_file = |path: &Path| match read_bounded(path, LONGEST_FILE) {
        Ok(bytes) => roots(&bytes).pem,
        Err(error) => {
            if !error.is_missing() {
                first_error.get_or_insert(error);
            }
            String::new()
        }
    };
    for file in FILES {
        let found = of_file(Path::new(file));
        if !found.is_empty() {
            return Ok(found);
        }
    }
    let mut found = BTreeSet::new();
    let mut left = LONGEST_FILE;
    for path in DIRECTORIES
        .iter()
        .flat_map(|path| files_in(Path::new(path)))
    {
        let roots = of_file(&path);
        // As much as a file may have.
        let Some(less) = left.checked_sub(roots.len()) else {
            break;
        };
        left = less;
        found.insert(roots);
    }
    let found: String = found.into_iter().collect();
    if found.is_empty() {
        return Err(NoRoots(first_error));
    }
    Ok(found)
}

/// The files of a directory but for the links within it: those are the same files by the
/// hash of their subject, for OpenSSL.
fn files_in(directory: &Path) -> Vec<PathBuf> {
    let is_other_name = |path: &Path| {
        fs::read_link(path).is_ok_and(|target| target.parent() == Some(Path::new("")))
    };
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries
        .map(|entry| entry.path())
        .filter(|path| !is_other_name(path) && path.is_file())
        .take(MOST_FILES)
        .collect()
}
