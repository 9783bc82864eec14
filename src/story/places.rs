//! The stage of the mounts: the places where everything is read and told.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags};

use crate::boot::cmdline::{Arguments, Source};
use crate::boot::mode::Mode;
use crate::boot::mounts;
use crate::bottle::{Desired, credentials, trust};
use crate::ca::authority;
use crate::cli::{Paths, RunOptions};
use crate::daemon::pipelock;
use crate::exit::{ExitCode, StartError};
use crate::policy::Policy;
use crate::shutdown;
use crate::status::export::{self, DIRECTORY as EXPORT};
use crate::status::teller::NAMES;
use crate::status::{self, Reporter, While, denials, report};
use crate::sys::claim::{self, Claim, ClaimError};
use crate::sys::console::{self, Stream};
use crate::sys::errand;
use crate::sys::files::{Access, FileError, Room, ensure_directory, is_same_place};
use crate::sys::signals::{Signals, wait};

/// Nobody's agent trusts a machine without its state: it is waited for, as long as a disk may
/// take to repair its journal.
const STATE_PATIENCE: Duration = Duration::from_mins(1);
/// The firewall serves without an export.
const EXPORT_PATIENCE: Duration = Duration::from_secs(5);

/// The CA pair below a run directory.
const PAIR_BELOW: [&str; 2] = ["ca.pem", "ca-key.pem"];

/// What the init writes and removes in a run directory.
const OWN_FILES: [&str; 8] = [
    pipelock::CONFIG,
    status::FILE,
    denials::FILE,
    report::FILE,
    claim::FILE,
    trust::FILE,
    authority::PUT_BACK[0],
    authority::PUT_BACK[1],
];

/// Who reads the export.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Clients {
    /// Others, who are given it when somebody has made a directory for it.
    Elsewhere,
    /// The shells of whoever started this by hand: it is made for them.
    OfThisHost,
}

/// Where this run has everything, each path absolute: the daemon starts in `/`. A child that
/// is given a run directory alone needs nothing else; what is PID 1 has the places that its
/// image or runtime made.
pub(super) fn settle(options: &RunOptions, mode: Mode) -> (Paths, Clients) {
    let mut paths = options.paths.absolute();
    if mode != Mode::Child || !options.below_run_dir {
        return (paths, Clients::Elsewhere);
    }
    let [cert, key] = PAIR_BELOW.map(|name| paths.run_dir.join(name));
    (paths.cert, paths.key) = (cert, key);
    (paths, Clients::OfThisHost)
}

pub(super) fn export_path(run: &Room) -> PathBuf {
    run.path().join(EXPORT)
}

/// Says what to paste into another shell. The lines stand alone, so that each can be taken
/// whole.
pub(super) fn invite(export: &Path, policy: &Policy) {
    let text = format!(
        "sidecar-init: paste this into another shell, and what it starts goes through pipelock:\n{}",
        export::invitation(export, policy)
    );
    console::console().write_lines(Stream::Error, text.as_bytes());
}

/// Adds what somebody needs who has no manifest yet. None is looked for where the command
/// was given: an agent's checkout may hold one, and it is not for the agent to say what it
/// may reach.
pub(super) fn advise(error: StartError, options: &RunOptions, mode: Mode) -> StartError {
    let lacks_manifest = error.code == ExitCode::ManifestMissing
        && mode == Mode::Child
        && !options.manifest_is_named
        && !options.paths.manifest.exists();
    if !lacks_manifest {
        return error;
    }
    let text = format!(
        "{error}\nhint: name one with --manifest FILE; the smallest that allows a host is three lines:\n{SMALLEST}"
    );
    StartError::new(error.code, text)
}

/// Listens where the clients of this host are.
const SMALLEST: &str = "  slug: laptop
  bottle: {egress: {routes: [{host: example.com}]}}
  pipelock: {listen: 127.0.0.1:8888}";

/// Kernel file systems, the state volume, the export, the run directory. A stop that is asked
/// for meanwhile is heeded by whoever comes next.
pub(super) fn mount_all(
    mode: Mode,
    arguments: &Arguments,
    paths: &Paths,
    clients: Clients,
    mut signals: Option<&mut Signals>,
    reporter: &mut Reporter,
) -> Result<Room, StartError> {
    if mode == Mode::Machine {
        for warning in mounts::mount_kernel_file_systems().map_err(StartError::system)? {
            reporter.warn(warning.to_string());
        }
        console::reopen();
        if let Err(errno) = shutdown::ask_before_reset() {
            reporter.warn(format!(
                "Ctrl-Alt-Del will reset this machine at once: {}",
                errno.desc()
            ));
        }
    }
    let unusable = |error| cannot_use(error, mode, None);
    let run_dir = &paths.run_dir;
    let was_there = mode != Mode::Machine && run_dir.exists();
    let room = Room::open_or_make(run_dir).map_err(unusable)?;
    if was_there {
        insist_on_a_place_apart(&paths.manifest, run_dir)?;
    }
    let claim = claim_run_directory(&room, reporter)?;
    reporter
        .tell_in(&room, claim)
        .map_err(|error| cannot_use(error, mode, Some(&room)))?;
    let export_path = export_path(&room);
    if mode == Mode::Machine {
        if let Some(state) = &arguments.state {
            let target = Path::new(authority::STATE_DIRECTORY);
            let mount = || mounts::mount_source(state, target, true);
            if mount_apart(mount, STATE_PATIENCE, signals.as_deref_mut())? == Mounted::Late {
                return Err(StartError::system(silent(state, target, STATE_PATIENCE)));
            }
        }
        if let Some(export) = &arguments.export {
            let mount = || mounts::mount_source(export, &export_path, true);
            if mount_apart(mount, EXPORT_PATIENCE, signals)? == Mounted::Late {
                let late = silent(export, &export_path, EXPORT_PATIENCE);
                reporter.warn_while(&While::Unmounted, [late]);
            }
        }
    }
    if clients == Clients::OfThisHost {
        ensure_directory(&export_path).map_err(unusable)?;
    }
    // The firewall serves its agent, whether the host can be told or not.
    if !reporter.tell_export() {
        log::info!(
            "no {}: nobody is given client.env and the CA until there is",
            export_path.display()
        );
    }
    Ok(room)
}

fn silent(source: &Source, target: &Path, patience: Duration) -> String {
    format!(
        "cannot mount {source} on {}: it has not answered for {} s",
        target.display(),
        patience.as_secs()
    )
}

/// What has become of a mount.
#[derive(Debug, PartialEq, Eq)]
enum Mounted {
    Done,
    /// Nobody waits for it any more, for a stop was asked for.
    Left,
    /// It has not come about in time. It may later.
    Late,
}

/// Has what the host gives mounted by somebody else: its disk or share may not answer.
fn mount_apart(
    mount: impl FnOnce() -> Result<(), mounts::MountError>,
    patience: Duration,
    mut signals: Option<&mut Signals>,
) -> Result<Mounted, StartError> {
    let work = || match mount() {
        Ok(()) => Vec::new(),
        Err(error) => error.to_string().into_bytes(),
    };
    let mut errand = errand::send(&[], work).map_err(|errno| {
        StartError::system(format!("cannot fork for a mount: {}", errno.desc()))
    })?;
    let end = Instant::now() + patience;
    loop {
        match errand.listen() {
            Some(Some(error)) if error.is_empty() => return Ok(Mounted::Done),
            Some(Some(error)) => {
                return Err(StartError::system(
                    String::from_utf8_lossy(&error).into_owned(),
                ));
            }
            Some(None) => {
                let text = "internal error: the process that mounts is lost";
                return Err(StartError::new(ExitCode::Internal, text));
            }
            None => {}
        }
        if signals.as_mut().is_some_and(|it| it.stop_asked()) {
            errand.kill();
            return Ok(Mounted::Left);
        }
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            errand.kill();
            return Ok(Mounted::Late);
        }
        let mut waiting = vec![PollFd::new(errand.as_fd(), PollFlags::POLLIN)];
        if let Some(signals) = &signals {
            waiting.push(PollFd::new(signals.as_fd(), PollFlags::POLLIN));
        }
        wait(&mut waiting, Some(left));
    }
}

/// A manifest that lies where the init has files of its own would be lost. A machine's is on a
/// share, which is not mounted yet.
fn insist_on_a_place_apart(manifest: &Path, run_dir: &Path) -> Result<(), StartError> {
    // By somebody else, for the manifest's file system may not answer; then it is not this one.
    let look = || vec![u8::from(is_ours(manifest, run_dir))];
    let found = errand::send(&[], look).ok().and_then(|mut sent| {
        let found = sent.wait(Duration::from_secs(1));
        if found.is_none() {
            sent.kill();
        }
        found?
    });
    if found.is_none_or(|found| found != [1]) {
        return Ok(());
    }
    Err(StartError::new(
        ExitCode::Usage,
        format!(
            "cannot use {}: sidecar-init has files of its own there\nhint: put it elsewhere, or name another directory \
             with --run-dir",
            manifest.display()
        ),
    ))
}

/// Whether the manifest is one of the files of this run directory and its export, or lies where
/// credentials are put, or has its own there.
fn is_ours(manifest: &Path, run_dir: &Path) -> bool {
    let is_of = |directory: &Path, names: &[&str]| {
        names
            .iter()
            .any(|name| is_same_place(manifest, &directory.join(name)))
    };
    let kept = run_dir.join(credentials::DIRECTORY);
    let given = credentials::directory(manifest);
    is_of(run_dir, &OWN_FILES)
        || is_of(&run_dir.join(EXPORT), &NAMES)
        || manifest.parent().is_some_and(|it| is_same_place(it, &kept))
        || given.exists() && is_same_place(&given, &kept)
}

/// Two inits would overwrite each other's configuration and status.
fn claim_run_directory(room: &Room, reporter: &mut Reporter) -> Result<Option<Claim>, StartError> {
    match claim::claim(room, &reporter.status().boot_id) {
        Ok(claim) => Ok(Some(claim)),
        // What cannot be locked can be served from all the same; probes then go by the
        // status alone.
        Err(ClaimError::Unlocked(error)) => {
            reporter.warn(error.to_string());
            Ok(None)
        }
        Err(ClaimError::Occupied(directory)) => Err(StartError::new(
            ExitCode::CannotWrite,
            format!(
                "cannot lock {}: it is a directory, and there is something in it\nhint: name a directory of its \
                 own with --run-dir: it is made where there is none",
                directory.display()
            ),
        )),
        Err(ClaimError::Taken(directory)) => Err(StartError::new(
            ExitCode::CannotWrite,
            format!(
                "cannot use {}: another sidecar-init runs with it\nhint: end that one, or name another \
                     directory with --run-dir",
                directory.display()
            ),
        )),
    }
}

/// Puts the configuration where pipelock is to read it.
pub(super) fn install_config(
    run: &Room,
    desired: &Desired,
    owner: Option<(u32, u32)>,
) -> Result<(), StartError> {
    let config = desired.config.as_bytes();
    run.install(pipelock::CONFIG, config, Access::private(owner))
        .map_err(cannot_write)
}

fn cannot_write(error: FileError) -> StartError {
    StartError::new(ExitCode::CannotWrite, error)
}

/// The run directory is what is written first: here it turns out that nothing can be, and the
/// reader may be able to change that.
fn cannot_use(error: FileError, mode: Mode, room: Option<&Room>) -> StartError {
    let (is_denied, is_read_only) = match error.kind() {
        ErrorKind::PermissionDenied => (true, false),
        ErrorKind::ReadOnlyFilesystem => (false, true),
        _ => return cannot_write(error),
    };
    let run_dir = room.map_or(error.path(), Room::path);
    let mut text = error.to_string();
    if let Some(room) = room.filter(|_| is_denied) {
        text += &format!(": {}", room.whose());
    }
    text += &match mode {
        Mode::Container if is_read_only => format!(
            "\nhint: have a file system that can be written mounted there: --tmpfs {}",
            run_dir.parent().unwrap_or(run_dir).display()
        ),
        Mode::Container => format!(
            "\nhint: engines make the parent of a mount so; give it a file system of its own: --tmpfs {}:mode=1777",
            run_dir.display()
        ),
        Mode::Child => "\nhint: name another directory with --run-dir".to_owned(),
        Mode::Machine => String::new(),
    };
    StartError::new(ExitCode::CannotWrite, text)
}

/// Mounts the manifest's directory where nothing has brought it: machine mode only, and by
/// whoever reads it, for a share that hangs may not answer this either.
pub(super) fn mount_manifest(
    arguments: &Arguments,
    manifest: &Path,
) -> Result<(), mounts::MountError> {
    let default = Source {
        kind: "virtiofs".to_owned(),
        device: "sidecar".to_owned(),
    };
    let source = match &arguments.mount {
        Some(source) => source,
        None if manifest.exists() => return Ok(()),
        None => &default,
    };
    let directory = manifest.parent().unwrap_or(Path::new("/"));
    mounts::mount_source(source, directory, false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_child_has_everything_below_its_run_directory() {
        let options = RunOptions {
            below_run_dir: true,
            ..RunOptions::default()
        };
        let usual = Paths::default();
        for (mode, cert, key, clients) in [
            (
                Mode::Child,
                "/run/sidecar/ca.pem".into(),
                "/run/sidecar/ca-key.pem".into(),
                Clients::OfThisHost,
            ),
            (
                Mode::Container,
                usual.cert.clone(),
                usual.key.clone(),
                Clients::Elsewhere,
            ),
            (Mode::Machine, usual.cert, usual.key, Clients::Elsewhere),
        ] {
            let (paths, whose) = settle(&options, mode);
            assert_eq!((paths.cert, paths.key, whose), (cert, key, clients));
        }
        let (paths, clients) = settle(&RunOptions::default(), Mode::Child);
        assert_eq!((paths, clients), (Paths::default(), Clients::Elsewhere));
    }

    #[test]
    fn a_mount_that_hangs_is_left_and_one_that_fails_says_why() {
        let patient = Duration::from_mins(1);
        assert_eq!(
            mount_apart(|| Ok(()), patient, None).unwrap(),
            Mounted::Done
        );
        let nowhere = Source {
            kind: "nonexistent".to_owned(),
            device: "none".to_owned(),
        };
        let target = std::env::temp_dir().join("sidecar-mount/x");
        let mount = || mounts::mount_source(&nowhere, &target, true);
        let error = mount_apart(mount, patient, None).unwrap_err();
        assert_eq!(error.code, ExitCode::OperatingSystem);
        let begins = format!("cannot mount nonexistent:none on {}: ", target.display());
        assert!(error.to_string().starts_with(&begins), "{error}");
        let hangs = || loop {
            std::thread::sleep(Duration::from_mins(1));
        };
        let late = mount_apart(hangs, Duration::from_millis(20), None).unwrap();
        assert_eq!(late, Mounted::Late);
        std::fs::remove_dir_all(target.parent().unwrap()).unwrap();
    }
}
