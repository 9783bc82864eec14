//! What a start needs before it can come about, and why it did not. Touches the file system:
//! the configuration and the extra roots in their places.

use std::error::Error;
use std::fmt;
use std::io;
use std::path::PathBuf;

use nix::errno::Errno;

use super::Context;
use crate::bottle::names::Names;
use crate::daemon::pipelock::CONFIG;
use crate::exit::{ExitCode, StartError};
use crate::sandbox::enter::{Program, SpawnError};
use crate::sandbox::{self, Incomplete, PrepareError, Prepared, cgroup, landlock};
use crate::sys::files::{Access, FileError, install};
use crate::sys::memory;
use crate::sys::process;

/// Why a start did not come about.
#[derive(Debug)]
pub(super) enum LaunchError {
    /// What the daemon reads could not be put in its place.
    File(FileError),
    /// The CA pair could not be put where the daemon reads it.
    Pair(StartError),
    /// Its command line cannot be one.
    Command(PathBuf, io::Error),
    /// Its sandbox could not be made.
    Sandbox(PrepareError),
    /// Its sandbox lacks something that is insisted on.
    Incomplete(Incomplete),
    /// It could not be forked.
    Spawn(SpawnError),
}

impl LaunchError {
    /// How the program ends whose daemon cannot be started for this.
    pub(super) fn exit_code(&self) -> ExitCode {
        match self {
            Self::Spawn(error) => error.exit_code(),
            Self::File(error) if is_shortage(error) => ExitCode::OperatingSystem,
            Self::Pair(error) if is_shortage(error) => ExitCode::OperatingSystem,
            Self::Sandbox(PrepareError::Landlock(error)) if is_shortage(error) => {
                ExitCode::OperatingSystem
            }
            Self::Sandbox(PrepareError::Group(error)) if is_shortage(error) => {
                ExitCode::OperatingSystem
            }
            _ => ExitCode::DaemonUnavailable,
        }
    }
}

impl fmt::Display for LaunchError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(error) => error.fmt(f),
            Self::Pair(error) => error.fmt(f),
            Self::Command(program, error) => {
                write!(f, "cannot start {}: {error}", program.display())
            }
            Self::Sandbox(error) => error.fmt(f),
            Self::Incomplete(error) => error.fmt(f),
            Self::Spawn(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for LaunchError {}

/// Whether what is at the bottom of it is a shortage of the machine's.
fn is_shortage(error: &(dyn Error + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(error) = next {
        let refused = error.downcast_ref::<io::Error>();
        if let Some(raw) = refused.and_then(io::Error::raw_os_error) {
            return process::is_shortage(Errno::from_raw(raw));
        }
        next = error.source();
    }
    false
}

/// All of it.
pub(super) struct Launch {
    pub(super) command: Program,
    pub(super) prepared: Prepared,
    /// The files that resolve names, where only those that are there now are granted.
    pub(super) names: Option<Names>,
}

/// The wanted configuration, in its place. As little is written as is needed: the disk may
/// have filled up since.
pub(super) fn install_config(around: &Context) -> Result<(), FileError> {
    let config = around.desired.config.as_bytes();
    let room = around.setup.run_room;
    room.install(CONFIG, config, config_access(around))
}

/// Whether it is there as it was put there: the file is the daemon's.
pub(super) fn is_config_installed(around: &Context) -> bool {
    let config = around.desired.config.as_bytes();
    let room = around.setup.run_room;
    room.is_installed(CONFIG, config, config_access(around))
}

/// Who may read the configuration.
pub(super) fn config_access(around: &Context) -> Access {
    Access::private(around.setup.sandbox.file_owner())
}

/// Everything that is made before the fork; of the sandbox what it lacks is told, as this
/// start finds it: the program may be another one by now.
pub(super) fn prepare(around: &mut Context) -> Result<Launch, LaunchError> {
    let setup = around.setup;
    let command = command(around)?;
    // Before the rules: what is replaced in between is granted, and then found to be another.
    let names = (setup.sandbox.landlock >= landlock::FILES).then(Names::now);
    let prepared = setup
        .sandbox
        .prepare(&setup.grants(around.desired.policy.listen))
        .map_err(LaunchError::Sandbox)?;
    around.reporter.tell_missing(&prepared.missing);
    if setup.require_sandbox {
        sandbox::insist_on(&prepared.missing).map_err(LaunchError::Incomplete)?;
    }
    Ok(Launch {
        command,
        prepared,
        names,
    })
}

/// The daemon's command line and environment, with the files that these name in their places.
fn command(around: &Context) -> Result<Program, LaunchError> {
    let setup = around.setup;
    let own = setup.sandbox.group.as_ref().map(cgroup::Group::limit);
    let mut environment: Vec<String> = memory::go_memory_limit(own)
        .into_iter()
        .map(|limit| format!("GOMEMLIMIT={limit}"))
        .collect();
    if let Some(roots) = &around.desired.trust {
        install(setup.trust_bundle, roots, Access::PUBLIC).map_err(LaunchError::File)?;
        environment.push(format!("SSL_CERT_FILE={}", setup.trust_bundle.display()));
    }
    let listen = around.desired.policy.listen.to_string();
    let config = setup.config.to_string_lossy();
    let arguments = ["run", "--config", &config, "--listen", &listen];
    Program::new(setup.daemon, &arguments, &environment)
        .map_err(|error| LaunchError::Command(setup.daemon.to_owned(), error))
}
