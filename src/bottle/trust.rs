//! Extra roots for upstream TLS, from `trust/*.pem` beside the manifest: the certificates
//! in them, and nothing else of the files. Touches the file system.

use std::fs;
use std::path::{Path, PathBuf};

use crate::ca;
use crate::status::export::PUBLIC_ROOTS;
use crate::sys::files::read_bounded;

/// A root certificate is 2 KB; a file with every public root 250 KB.
const LONGEST_FILE: usize = 4 * 1024 * 1024;
/// More files than this are a mistake.
const MOST_FILES: usize = 256;
const BEGIN: &str = "-----BEGIN CERTIFICATE-----";

/// Where extra roots are looked for.
#[must_use]
pub fn directory(manifest: &Path) -> PathBuf {
    manifest.with_file_name("trust")
}

/// Where the bundle goes. pipelock treats an environment value of 16 bytes or more as
/// a secret, so the path is short where the run directory is the usual one.
#[must_use]
pub fn bundle_path(run_dir: &Path) -> PathBuf {
    if run_dir == Path::new("/run/sidecar") {
        PathBuf::from("/run/ca.pem")
    } else {
        // Not ca.pem: that is what people call the certificate they keep there.
        run_dir.join("upstream-roots.pem")
    }
}

/// The public roots and the extra ones, of at most `limit` bytes together; `None` where
/// there are no extra ones.
pub fn bundle(directory: &Path, limit: usize) -> Result<Option<Vec<u8>>, String> {
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(format!("cannot read {}: {error}", directory.display())),
    };
    let mut files: Vec<PathBuf> = entries
        .filter_map(|entry| entry.ok().map(|entry| entry.path()))
        .filter(|path| path.extension().is_some_and(|extension| extension == "pem"))
        .collect();
    if files.is_empty() {
        return Ok(None);
    }
    if files.len() > MOST_FILES {
        return Err(format!(
            "cannot use {}: {} files, at most {MOST_FILES} are read",
            directory.display(),
            files.len()
        ));
    }
    // By bytes, as the hosts are: the same code serves both.
    files.sort_unstable_by(|a, b| a.as_os_str().cmp(b.as_os_str()));
    let mut bundle = match read_bounded(Path::new(PUBLIC_ROOTS), LONGEST_FILE) {
        Ok(roots) => ca::roots(&roots).pem,
        Err(error) if error.is_missing() => String::new(),
        Err(error) => return Err(error.to_string()),
    };
    let mut left = limit;
    for file in files {
        let bytes = read_bounded(&file, LONGEST_FILE.min(left)).map_err(|error| {
            if error.is_too_large() && left < LONGEST_FILE {
                format!(
                    "cannot use {}: its files have more than {limit} bytes together, the most that are read here",
                    directory.display()
                )
            } else {
                error.to_string()
            }
        })?;
        left -= bytes.len();
        let roots = ca::roots(&bytes);
        if roots.pem.is_empty() {
            return Err(format!(
                "cannot use {}: it holds no certificate\nhint: a root in PEM form starts with {BEGIN}",
                file.display()
            ));
        }
        if roots.holds_key {
            return Err(format!(
                "cannot use {}: it holds a private key, which has no place on this machine\nhint: put the certificate alone there",
                file.display()
            ));
        }
        bundle += &roots.pem;
    }
    Ok(Some(bundle.into_bytes()))
}
