//! What the daemon's sandbox is to be, in this machine.

use std::path::Path;

use crate::boot::mode::Mode;
use crate::boot::protect;
use crate::ca::authority::Custody;
use crate::exit::{ExitCode, StartError};
use crate::policy::daemons::Daemon;
use crate::sandbox::cgroup::{self, Group, Shares};
use crate::sandbox::{Sandbox, insist_on};
use crate::status::Reporter;
use crate::sys::memory;
use crate::sys::process::sees_processes;
use crate::sys::reach::{Use, Ways};

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
/// warning and in the status. Beside it the memory that all daemons have together, where each
/// has a control group; more than that promised is an error.
pub(super) fn complete(
    mut sandbox: Sandbox,
    mode: Mode,
    program: &Path,
    daemons: &[Daemon],
    reporter: &mut Reporter,
) -> Result<(Sandbox, Option<u64>), StartError> {
    let mut memory = None;
    if mode == Mode::Machine {
        if let Err(error) = protect::survive_memory_shortage() {
            reporter.warn(format!(
                "cannot exempt the init from the OOM killer: {error}"
            ));
        }
        let total = memory::machine_total().unwrap_or(u64::MAX);
        let available = memory::available().unwrap_or(u64::MAX);
        match Group::create(Path::new(cgroup::ROOT), total, available) {
            Ok(mut group) => {
                let whole = group.limit();
                memory = Some(whole);
                if !daemons.is_empty() {
                    let promised: Vec<_> = daemons.iter().map(|it| it.memory_mib).collect();
                    let shares = Shares::divide(whole, &promised).map_err(|error| {
                        StartError::new(ExitCode::ManifestInvalid, error.to_string())
                    })?;
                    group
                        .limit_to(shares.pipelock)
                        .map_err(StartError::system)?;
                }
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
    reporter.tell_missing(&sandbox.missing_for(program));
    reporter.sandbox_planned(sandbox.landlock, sandbox.seccomp, sandbox.group.is_some());
    Ok((sandbox, memory))
}

/// What pipelock cannot get at it cannot live on, and says so in words of its own, five times.
/// Whether its program is there and may be executed at all, the exec tells.
pub(super) fn insist_on_ways(
    sandbox: &Sandbox,
    program: &Path,
    custody: Custody,
) -> Result<(), StartError> {
    let pair = custody.files;
    let (uid, gid) = sandbox.user();
    let mut ways = Ways::default();
    let mut barriers = Vec::new();
    let program = program.exists().then(|| program.parent());
    for (code, does, path, to) in [
        (
            ExitCode::NotExecutable,
            "be executed",
            program.flatten(),
            Use::Execute,
        ),
        (
            ExitCode::DaemonUnavailable,
            "read its configuration",
            Some(custody.run.path()),
            Use::List,
        ),
        (
            ExitCode::CaUnusable,
            "read the CA certificate",
            Some(pair.cert.as_path()),
            Use::Read,
        ),
        (
            ExitCode::CaUnusable,
            "read the CA key",
            Some(pair.key.as_path()),
            Use::Read,
        ),
    ] {
        if let Some(barrier) = path.and_then(|path| ways.barrier(path, to, (uid, gid)))
            && !barriers.iter().any(|(_, _, it)| *it == barrier)
        {
            barriers.push((code, does, barrier));
        }
    }
    let Some((code, ..)) = barriers.first() else {
        return Ok(());
    };
    let said = barriers.iter().map(|(_, does, barrier)| {
        format!("pipelock cannot {does}: it runs as {uid}:{gid}, and {barrier}")
    });
    Err(StartError::new(*code, said.collect::<Vec<_>>().join("\n")))
}
