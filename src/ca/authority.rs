//! The CA pair in its place: checked if somebody provided it, taken from the state
//! volume if one is kept, generated otherwise. Touches the file system.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use zeroize::Zeroizing;

use crate::boot::{clock, mounts};
use crate::ca::{self, Facts};
use crate::cli::Paths;
use crate::exit::{ExitCode, StartError};
use crate::status::{Ca, CaSource};
use crate::sys::files::{Access, FileError, create, install, is_same_place, read_bounded};

/// Where a pair outlives a boot, if something writable is mounted there.
pub const STATE_DIRECTORY: &str = "/var/lib/sidecar";
/// A certificate or key is a few kilobytes.
const LONGEST_PEM: usize = 64 * 1024;
/// Between the two files of a pair that somebody else is writing lies no longer than this.
const PAIR_PATIENCE: Duration = Duration::from_millis(500);
const LOOK_INTERVAL: Duration = Duration::from_millis(5);
/// What a file holds, wiped when dropped.
pub type Pem = Zeroizing<Vec<u8>>;
/// Permission bits pipelock does not accept on the key (PIPELOCK.md).
const FORBIDDEN_KEY_BITS: u32 = 0o137;

/// A usable pair that is in its place.
#[derive(Debug)]
pub struct Placed {
    /// What is told of it.
    pub ca: Ca,
    /// What others are given, so that no file is read for that again.
    pub certificate: String,
    /// Sentences: what the certificate costs.
    pub warnings: Vec<String>,
}

/// Makes sure there is a usable pair at `paths.cert` and `paths.key`. `owner` is the
/// daemon's user, where files can be given to it.
pub fn prepare(paths: &Paths, owner: Option<(u32, u32)>) -> Result<Placed, StartError> {
    let (facts, source) = find_or_make(paths, owner)?;
    let ca = Ca {
        fingerprint_sha256: facts.fingerprint_sha256,
        not_before: ca::rfc3339(facts.not_before),
        not_after: ca::rfc3339(facts.not_after),
        source: source.into(),
    };
    let place = match source {
        CaSource::Kept => &kept().0,
        _ => &paths.cert,
    };
    let warnings = facts.warnings.iter();
    Ok(Placed {
        ca,
        warnings: warnings
            .map(|warning| format!("{}: {warning}", place.display()))
            .collect(),
        certificate: facts.certificate_pem,
    })
}

fn find_or_make(paths: &Paths, owner: Option<(u32, u32)>) -> Result<(Facts, CaSource), StartError> {
    insist_on_two_files(paths)?;
    match read_pair(paths)? {
        (Some(cert), Some(key)) => {
            check_access(&paths.key, owner)?;
            Ok((
                check(&cert, &key, &paths.cert, &paths.key)?,
                CaSource::Provided,
            ))
        }
        (None, None) => keep_or_generate(paths, owner),
        (Some(_), None) => Err(half(&paths.cert, &paths.key)),
        (None, Some(_)) => Err(half(&paths.key, &paths.cert)),
    }
}

/// Where the state volume has the certificate, and the key.
fn kept() -> (PathBuf, PathBuf) {
    let state = Path::new(STATE_DIRECTORY);
    (
        state.join("pipelock-ca.pem"),
        state.join("pipelock-ca-key.pem"),
    )
}

fn keep_or_generate(
    paths: &Paths,
    owner: Option<(u32, u32)>,
) -> Result<(Facts, CaSource), StartError> {
    let state = Path::new(STATE_DIRECTORY);
    let (kept_cert, kept_key) = kept();
    let keeps = mounts::is_mount_point(state);
    if keeps && let (Some(cert), Some(key)) = (read(&kept_cert)?, read(&kept_key)?) {
        let facts = check(&cert, &key, &kept_cert, &kept_key)?;
        install_pair(paths, facts.certificate_pem.as_bytes(), &key, owner)?;
        return Ok((facts, CaSource::Kept));
    }
    let pair = generate()?;
    let (cert, key) = (pair.cert_pem.as_bytes(), pair.key_pem.as_bytes());
    if keeps {
        // The certificate goes last: a pair cut off in the middle is no pair, and the
        // next boot makes another before any client has seen this one.
        let _ = fs::remove_file(&kept_cert);
        install(&kept_key, key, Access::private(None))
            .and_then(|()| install(&kept_cert, cert, Access::PUBLIC))
            .map_err(cannot_write)?;
    }
    install_pair(paths, cert, key, owner)?;
    Ok((pair.facts, CaSource::Generated))
}

/// A new pair from the kernel's entropy and the clock.
pub fn generate() -> Result<ca::Pair, StartError> {
    let entropy = clock::entropy::<{ ca::ENTROPY_BYTES }>(clock::ENTROPY_DEADLINE)
        .map_err(|error| StartError::new(ExitCode::OperatingSystem, error))?;
    let entropy = Zeroizing::new(entropy);
    ca::generate(&entropy, clock::now()).map_err(|error| StartError::new(ExitCode::Internal, error))
}

/// Writes a pair where there is none: the key private, the certificate public. The key's
/// file is created and never replaced, so of several that do this at once one has made
/// both; the certificate goes last, and says that the pair is whole.
pub fn install_pair(
    paths: &Paths,
    cert: &[u8],
    key: &[u8],
    owner: Option<(u32, u32)>,
) -> Result<(), StartError> {
    create(&paths.key, key, Access::private(owner))
        .and_then(|()| install(&paths.cert, cert, Access::PUBLIC))
        .map_err(cannot_write)
}

fn cannot_write(error: FileError) -> StartError {
    StartError::new(ExitCode::CannotWrite, error)
}

/// One file cannot be both: the certificate would take the key's place.
pub fn insist_on_two_files(paths: &Paths) -> Result<(), StartError> {
    if !is_same_place(&paths.cert, &paths.key) {
        return Ok(());
    }
    Err(StartError::new(
        ExitCode::CaUnusable,
        format!(
            "cannot use one file for both the CA certificate and its key: {} and {} are the same\nhint: name two files with --cert and --key",
            paths.cert.display(),
            paths.key.display()
        ),
    ))
}

/// Certificate and key, `None` where there is no such file. Half a pair gets a moment to
/// become a whole one: somebody else may be writing it.
pub fn read_pair(paths: &Paths) -> Result<(Option<Pem>, Option<Pem>), StartError> {
    let end = Instant::now() + PAIR_PATIENCE;
    loop {
        let key = read(&paths.key)?;
        // Later than the key, which is written first.
        let cert = read(&paths.cert)?;
        if cert.is_some() == key.is_some() || Instant::now() >= end {
            return Ok((cert, key));
        }
        std::thread::sleep(LOOK_INTERVAL);
    }
}

/// Judges a pair that is there; the error names the file.
pub fn check(
    cert: &[u8],
    key: &[u8],
    cert_path: &Path,
    key_path: &Path,
) -> Result<Facts, StartError> {
    ca::check(cert, key, clock::now()).map_err(|error| {
        let path = match error {
            ca::CaError::Key(_) => key_path,
            _ => cert_path,
        };
        StartError::new(ExitCode::CaUnusable, format!("{}: {error}", path.display()))
    })
}

/// The file's bytes, wiped when dropped; `None` where there is nothing.
fn read(path: &Path) -> Result<Option<Pem>, StartError> {
    match read_bounded(path, LONGEST_PEM) {
        Ok(bytes) => Ok(Some(Zeroizing::new(bytes))),
        Err(error) if error.is_missing() => Ok(None),
        Err(error) => Err(StartError::new(ExitCode::CaUnusable, error)),
    }
}

/// pipelock refuses a key with open permissions, and cannot use one it cannot read.
fn check_access(key: &Path, owner: Option<(u32, u32)>) -> Result<(), StartError> {
    let unusable = |text: String| StartError::new(ExitCode::CaUnusable, text);
    let metadata = fs::metadata(key)
        .map_err(|error| unusable(FileError::new("read", key, error).to_string()))?;
    let mode = metadata.mode() & 0o7777;
    if mode & FORBIDDEN_KEY_BITS != 0 {
        return Err(unusable(format!(
            "cannot use CA key {}: its mode is {mode:04o}, and pipelock accepts 0400, 0440, 0600 and 0640\nhint: chmod 600",
            key.display()
        )));
    }
    let Some((uid, gid)) = owner else {
        return Ok(());
    };
    let readable = (metadata.uid() == uid && mode & 0o400 != 0)
        || (metadata.gid() == gid && mode & 0o040 != 0);
    if !readable {
        return Err(unusable(format!(
            "cannot use CA key {}: it belongs to {}:{}, and the daemon, {uid}:{gid}, may not read it\nhint: chown {uid}:{gid}",
            key.display(),
            metadata.uid(),
            metadata.gid()
        )));
    }
    Ok(())
}

/// The error of a pair of which one file is missing.
#[must_use]
pub fn half(present: &Path, missing: &Path) -> StartError {
    StartError::new(
        ExitCode::CaUnusable,
        format!(
            "cannot use half a CA pair: {} is there and {} is not\nhint: provide both, or neither to have a pair generated",
            present.display(),
            missing.display()
        ),
    )
}
