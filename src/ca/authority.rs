//! The CA pair in its place: checked if somebody provided it, taken from the state
//! volume if one is kept, generated otherwise. Touches the file system.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use zeroize::Zeroizing;

use crate::boot::{clock, mounts};
use crate::ca::{self, Facts};
use crate::exit::{ExitCode, StartError};
use crate::status::{Ca, CaSource, export};
use crate::sys::errand;
use crate::sys::files::{Access, FileError, Room, create, install, is_same_place, read_bounded};
use crate::sys::watch;

/// Where a pair outlives a boot, if something writable is mounted there.
pub const STATE_DIRECTORY: &str = "/var/lib/sidecar";
/// In the run directory, where the daemon reads the pair in force while something else lies at
/// the places that were named: certificate, and key.
pub const PUT_BACK: [&str; 2] = ["served-ca.pem", "served-ca-key.pem"];
/// A certificate or key is a few kilobytes.
const LONGEST_PEM: usize = 64 * 1024;
/// Between the two files of a pair that somebody else is writing lies no longer than this.
const PAIR_PATIENCE: Duration = Duration::from_millis(500);
const LOOK_INTERVAL: Duration = Duration::from_millis(5);
/// What a file holds, wiped when dropped.
pub type Pem = Zeroizing<Vec<u8>>;
/// Permission bits pipelock does not accept on the key (PIPELOCK.md).
const FORBIDDEN_KEY_BITS: u32 = 0o137;

/// The two files of a pair.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Files {
    /// The certificate.
    pub cert: PathBuf,
    /// The key.
    pub key: PathBuf,
}

/// What is needed to judge a pair, wherever that happens.
#[derive(Debug, Clone, Copy)]
pub struct Custody<'a> {
    /// Where the pair lies.
    pub files: &'a Files,
    /// The run directory.
    pub run: &'a Room,
    /// The daemon's user, where files can be given to it.
    pub owner: Option<(u32, u32)>,
}

impl<'a> Custody<'a> {
    /// Of that pair.
    #[must_use]
    pub fn new(files: &'a Files, run: &'a Room, owner: Option<(u32, u32)>) -> Self {
        Self { files, run, owner }
    }
}

/// A usable pair that is in its place.
#[derive(Debug)]
pub struct Placed {
    /// What is told of it.
    pub ca: Ca,
    /// What others are given, so that no file is read for that again.
    pub certificate: String,
    /// Sentences: what the certificate costs.
    pub warnings: Vec<String>,
    /// What [`marks`] said of the files it was read from.
    pub marks: String,
}

/// A usable pair, and where it is from.
struct Found {
    facts: Facts,
    key: Pem,
    source: CaSource,
    marks: String,
}

/// Makes sure there is a usable pair, and leaves what it is in `copy`.
pub fn prepare(custody: Custody, copy: &File) -> Result<Placed, StartError> {
    let found = match find(custody, complete)? {
        Some(found) => found,
        None => keep_or_generate(custody)?,
    };
    write_copy(custody.run, copy, &found)?;
    Ok(placed(found, custody.files))
}

/// Judges what lies there now, while another pair is in force, and leaves a good one in `copy`.
pub fn judge_again(custody: Custody, copy: &File) -> Result<Placed, StartError> {
    let files = custody.files;
    let refused = |files: &Files, _: &[u8]| Err(half(&files.key, &files.cert));
    let Some(found) = find(custody, refused)? else {
        return Err(StartError::new(
            ExitCode::CaUnusable,
            format!(
                "cannot find the CA pair: {} and {} are not there any more",
                files.cert.display(),
                files.key.display()
            ),
        ));
    };
    write_copy(custody.run, copy, &found)?;
    Ok(placed(found, files))
}

/// A file without a name in the run directory's file system, for a copy of a pair: it is gone
/// with the last process that has it open, however that ends.
pub fn new_copy(run: &Room) -> Result<File, StartError> {
    run.create_nameless().map_err(cannot_write)
}

fn write_copy(run: &Room, copy: &File, found: &Found) -> Result<(), StartError> {
    let mut bytes = Zeroizing::new(Vec::new());
    errand::add_part(&mut bytes, &found.key);
    bytes.extend(found.facts.certificate_pem.as_bytes());
    copy.write_all_at(&bytes, 0).map_err(|error| {
        cannot_write(FileError::new(
            "keep a copy of the CA pair in",
            run.path(),
            error,
        ))
    })
}

/// Puts the pair in `copy` where [`put_back_at`] says.
pub fn put_back(copy: &File, run: &Room, owner: Option<(u32, u32)>) -> Result<(), StartError> {
    let damaged = || {
        StartError::new(
            ExitCode::Internal,
            "internal error: the copy of the CA pair is none",
        )
    };
    let length = copy.metadata().map_or(0, |it| it.len());
    let mut bytes = Zeroizing::new(vec![0; usize::try_from(length).unwrap_or(0)]);
    copy.read_exact_at(&mut bytes, 0).map_err(|_| damaged())?;
    let (key, certificate) = errand::first_part(&bytes).ok_or_else(damaged)?;
    let [cert_name, key_name] = PUT_BACK;
    run.publish(key_name, key, Access::private(owner))
        .and_then(|()| run.publish(cert_name, certificate, Access::PUBLIC))
        .map_err(cannot_write)
}

/// Where a pair is put back: certificate, and key.
#[must_use]
pub fn put_back_at(run_dir: &Path) -> [PathBuf; 2] {
    PUT_BACK.map(|name| run_dir.join(name))
}

/// A key that was put back is there no longer than it is read there, and never after the start
/// or the init that put it there.
pub fn forget(run: &Room) {
    for name in PUT_BACK {
        let _ = run.remove(name);
    }
}

/// Forgets at its end.
pub struct Forgets<'a>(pub &'a Room);

impl Drop for Forgets<'_> {
    fn drop(&mut self) {
        forget(self.0);
    }
}

/// What tells whether the pair's files are those that were seen before.
#[must_use]
pub fn marks(files: &Files) -> String {
    format!(
        "{:?}",
        [&files.cert, &files.key].map(|path| watch::mark(path))
    )
}

fn placed(found: Found, files: &Files) -> Placed {
    let Found {
        facts,
        source,
        marks,
        ..
    } = found;
    let place = match source {
        CaSource::Kept => &kept().0,
        _ => &files.cert,
    };
    let warnings = facts.warnings.iter();
    Placed {
        warnings: warnings
            .map(|warning| format!("{}: {warning}", place.display()))
            .collect(),
        ca: Ca {
            fingerprint_sha256: facts.fingerprint_sha256,
            not_before: ca::rfc3339(facts.not_before),
            not_after: ca::rfc3339(facts.not_after),
            source: source.into(),
        },
        certificate: facts.certificate_pem,
        marks,
    }
}

/// The pair that somebody provided; `None` where neither file is there. What becomes of a key
/// alone is `half_made`'s.
fn find(
    custody: Custody,
    half_made: impl Fn(&Files, &[u8]) -> Result<Facts, StartError>,
) -> Result<Option<Found>, StartError> {
    let Custody { files, run, owner } = custody;
    insist_on_two_files(files)?;
    insist_on_places(files, run.path())?;
    // Before they are read: what changes meanwhile has other marks.
    let marks = marks(files);
    match read_pair(files)? {
        (Some(cert), Some(key)) => {
            check_access(&files.key, owner)?;
            Ok(Some(Found {
                facts: check(&cert, &key, &files.cert, &files.key)?,
                key,
                source: CaSource::Provided,
                marks,
            }))
        }
        (None, None) => Ok(None),
        (Some(_), None) => Err(half(&files.cert, &files.key)),
        (None, Some(key)) => {
            check_access(&files.key, owner)?;
            Ok(Some(Found {
                facts: half_made(files, &key)?,
                key,
                source: CaSource::Provided,
                // Of the certificate that is there by now.
                marks: self::marks(files),
            }))
        }
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

fn keep_or_generate(custody: Custody) -> Result<Found, StartError> {
    let Custody { files, owner, .. } = custody;
    let made = |facts, key, source| Found {
        facts,
        key,
        source,
        marks: marks(files),
    };
    let state = Path::new(STATE_DIRECTORY);
    let (kept_cert, kept_key) = kept();
    let keeps = mounts::is_mount_point(state);
    if keeps && let (Some(cert), Some(key)) = (read(&kept_cert)?, read(&kept_key)?) {
        let facts = check(&cert, &key, &kept_cert, &kept_key)?;
        install_pair(files, facts.certificate_pem.as_bytes(), &key, owner)?;
        return Ok(made(facts, key, CaSource::Kept));
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
    install_pair(files, cert, key, owner)?;
    let key = Zeroizing::new(key.to_vec());
    Ok(made(pair.facts, key, CaSource::Generated))
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
/// both; the certificate goes last, and says that the pair is whole. It stands behind the key
/// as well, where pipelock does not look: who is killed between the two has left a pair all
/// the same, for [`complete`].
pub fn install_pair(
    files: &Files,
    cert: &[u8],
    key: &[u8],
    owner: Option<(u32, u32)>,
) -> Result<(), StartError> {
    let mut both = Zeroizing::new(Vec::with_capacity(key.len() + cert.len()));
    both.extend(key);
    if ca::roots(key).pem.is_empty() {
        both.extend(cert);
    }
    create(&files.key, &both, Access::private(owner))
        .and_then(|()| install(&files.cert, cert, Access::PUBLIC))
        .map_err(cannot_write)
}

/// Completes a pair whose certificate has no file of its own, where it stands behind the key.
pub fn complete(files: &Files, key: &[u8]) -> Result<Facts, StartError> {
    let cert = ca::roots(key).pem;
    if cert.is_empty() {
        return Err(half(&files.key, &files.cert));
    }
    let facts = check(cert.as_bytes(), key, &files.key, &files.key)?;
    install(
        &files.cert,
        facts.certificate_pem.as_bytes(),
        Access::PUBLIC,
    )
    .map_err(cannot_write)?;
    log::info!(
        "{} was not there: it is the certificate that {} has behind the key",
        files.cert.display(),
        files.key.display()
    );
    Ok(facts)
}

fn cannot_write(error: FileError) -> StartError {
    StartError::new(ExitCode::CannotWrite, error)
}

/// One file cannot be both: the certificate would take the key's place.
pub fn insist_on_two_files(files: &Files) -> Result<(), StartError> {
    if !is_same_place(&files.cert, &files.key) {
        return Ok(());
    }
    Err(StartError::new(
        ExitCode::CaUnusable,
        format!(
            "cannot use one file for both the CA certificate and its key: {} and {} are the same\nhint: name two files with --cert and --key",
            files.cert.display(),
            files.key.display()
        ),
    ))
}

/// The key must not lie where clients read, nor either file where the pair in force is put back
/// and forgotten.
fn insist_on_places(files: &Files, run_dir: &Path) -> Result<(), StartError> {
    let exported = run_dir.join(export::DIRECTORY);
    let put_back = put_back_at(run_dir);
    let unusable = |file: &Path, why: &str| {
        let text = format!(
            "cannot use {}: {why}\nhint: name other files with --cert and --key",
            file.display()
        );
        Err(StartError::new(ExitCode::CaUnusable, text))
    };
    if files.key.starts_with(&exported) {
        return unusable(
            &files.key,
            "clients read the export, and nobody but pipelock may read the CA key",
        );
    }
    match [&files.cert, &files.key]
        .into_iter()
        .find(|path| put_back.contains(path))
    {
        Some(path) => unusable(path, "the name is for a copy that is removed at the end"),
        None => Ok(()),
    }
}

/// Certificate and key, `None` where there is no such file. Half a pair gets a moment to
/// become a whole one: somebody else may be writing it.
pub fn read_pair(files: &Files) -> Result<(Option<Pem>, Option<Pem>), StartError> {
    let end = Instant::now() + PAIR_PATIENCE;
    loop {
        let key = read(&files.key)?;
        // Later than the key, which is written first.
        let cert = read(&files.cert)?;
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
