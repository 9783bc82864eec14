//! What the daemon's sandbox is to be, in this machine.

use std::path::Path;

use crate::boot::mode::Mode;
use crate::boot::protect;
use crate::cli::Paths;
use crate::exit::StartError;
use crate::sandbox::cgroup::{self, Group};
use crate::sandbox::{Sandbox, insist_on};
use crate::status::Reporter;
use crate::sys::files::kept_from;
use crate::sys::memory;
use crate::sys::process::sees_processes;

/// What is not known to be in the daemon's sandbox is a failure.
pub(super) fn insist(reporter: &Reporter) -> Result<(), StartError> {
    let mut missing = reporter.status().daemon.sandbox_missing.clone();
    missing.extend(
        sees_processes()
            .err()
            .map(|why| format!("it could not be read back: {why}")),
    );
    insist_on(&missing).map_err(StartError::system)
}

/// Adds what the daemon and the machine decide about its sandbox; what cannot be had is a
/// warning and in the status.
pub(super) fn complete(
    mut sandbox: Sandbox,
    mode: Mode,
    paths: &Paths,
    reporter: &mut Reporter,
) -> Sandbox {
    if mode == Mode::Machine {
        if let Err(error) = protect::survive_memory_shortage() {
            reporter.warn(format!(
                "cannot exempt the init from the OOM killer: {error}"
            ));
        }
        let total = memory::machine_total().unwrap_or(u64::MAX);
        let available = memory::available().unwrap_or(u64::MAX);
        match Group::create(Path::new(cgroup::ROOT), total, available) {
            Ok(group) => {
                log::debug!(
                    "of {} MiB of memory {} can be had; pipelock gets {}",
                    total >> 20,
                    available >> 20,
                    group.limit() >> 20
                );
                sandbox.group = Some(group);
            }
            Err(error) => sandbox.missing.push(error.to_string()),
        }
    }
    reporter.tell_missing(&sandbox.missing_for(&paths.daemon));
    if let Some(user) = sandbox.file_owner()
        && let Some((directory, mode)) = kept_from(&paths.run_dir, user)
    {
        reporter.warn(format!(
            "pipelock cannot read its configuration: it runs as {}:{}, and the mode of {} is {mode:04o}\nhint: \
             chmod o+rx {}",
            user.0,
            user.1,
            directory.display(),
            directory.display()
        ));
    }
    reporter.sandbox_planned(sandbox.landlock, sandbox.seccomp, sandbox.group.is_some());
    sandbox
}
