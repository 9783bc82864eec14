//! The stage of the mounts: the places where everything is read and told.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use crate::boot::cmdline::{Arguments, Source};
use crate::boot::mode::Mode;
use crate::boot::mounts;
use crate::ca::authority;
use crate::cli::Paths;
use crate::daemon::pipelock;
use crate::exit::{ExitCode, StartError};
use crate::shutdown;
use crate::status::Reporter;
use crate::sys::claim::{self, Claim, ClaimError};
use crate::sys::console;
use crate::sys::files::{FileError, Room, ensure_directory};

/// Kernel file systems, the state volume, the export, the run directory.
pub(super) fn mount_all(
    mode: Mode,
    arguments: &Arguments,
    paths: &Paths,
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
    let unusable = |error| cannot_use(error, mode, &paths.run_dir, None);
    ensure_directory(&paths.run_dir).map_err(unusable)?;
    let room = Room::open(&paths.run_dir).map_err(unusable)?;
    let claim = claim_run_directory(&paths.run_dir, &room, reporter)?;
    reporter
        .tell_in(&room, claim)
        .map_err(|error| cannot_use(error, mode, &paths.run_dir, Some(&room)))?;
    if mode == Mode::Machine {
        if let Some(state) = &arguments.state {
            mounts::mount_source(state, Path::new(authority::STATE_DIRECTORY), true)
                .map_err(StartError::system)?;
        }
        if let Some(export) = &arguments.export {
            mounts::mount_source(export, &paths.run_dir.join(EXPORT), true)
                .map_err(StartError::system)?;
        }
    }
    // The firewall serves its agent, whether the host can be told or not.
    match room.enter(EXPORT) {
        Ok(None) => log::info!(
            "no {}: nobody is given client.env and the CA",
            paths.run_dir.join(EXPORT).display()
        ),
        Ok(Some(export)) => reporter.tell_export(&room, EXPORT, export),
        Err(error) => reporter.warn(format!("the host is told nothing in the export: {error}")),
    }
    Ok(room)
}

/// Two inits would overwrite each other's configuration and status.
fn claim_run_directory(
    run_dir: &Path,
    room: &Room,
    reporter: &mut Reporter,
) -> Result<Option<Claim>, StartError> {
    match claim::claim(run_dir, room) {
        Ok(claim) => Ok(Some(claim)),
        // What cannot be locked can be served from all the same; probes then go by the
        // status alone.
        Err(ClaimError::Unlocked(error)) => {
            reporter.warn(error.to_string());
            Ok(None)
        }
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

pub(super) const EXPORT: &str = "export";

pub(super) fn config_path(paths: &Paths) -> PathBuf {
    paths.run_dir.join(pipelock::CONFIG)
}

pub(super) fn cannot_write(error: FileError) -> StartError {
    StartError::new(ExitCode::CannotWrite, error)
}

/// The run directory is what is written first: here it turns out that nothing can be, and the
/// reader may be able to change that.
fn cannot_use(error: FileError, mode: Mode, run_dir: &Path, room: Option<&Room>) -> StartError {
    let (is_denied, is_read_only) = match error.kind() {
        ErrorKind::PermissionDenied => (true, false),
        ErrorKind::ReadOnlyFilesystem => (false, true),
        _ => return cannot_write(error),
    };
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
