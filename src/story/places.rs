//! The stage of the mounts: the places where everything is read and told.

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
    ensure_directory(&paths.run_dir).map_err(cannot_write)?;
    let room = Room::open(&paths.run_dir).map_err(cannot_write)?;
    let claim = claim_run_directory(&paths.run_dir, &room, reporter)?;
    reporter.tell_in(&room, claim).map_err(cannot_write)?;
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
