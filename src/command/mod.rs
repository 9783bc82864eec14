//! The commands that end by themselves. They touch files and standard output.
#![forbid(unsafe_code)]

mod ca;
mod check;
mod control;
mod difference;
mod grant;
mod granted;
mod happening;
mod healthcheck;
mod import;
mod patience;
mod render;
mod screen;
mod status;
mod watch;

use std::io::{self, Write};
use std::os::fd::AsFd;
use std::path::Path;
use std::time::Duration;

use nix::poll::{PollFd, PollFlags};

use crate::cli::Paths;
use crate::exit::{ExitCode, StartError};
use crate::plain;
use crate::status::export;
use crate::sys::files::FileError;
use crate::sys::signals::wait;

pub use ca::generate_or_check_ca;
pub use check::{check, check_as_json};
pub use control::control;
pub use grant::grant;
pub use healthcheck::healthcheck;
pub use import::import;
pub use render::render_config;
pub use status::{describe, describe_denials, print_status};
pub use watch::watch;

/// Between two looks at a status file while something is waited for.
const LOOK_INTERVAL: Duration = Duration::from_millis(50);

/// What `grant` has to be told where this is the run directory, or an export: nothing beside a
/// sidecar-init, whose manifest is where it usually is, too.
fn places(run_dir: &Path) -> String {
    if run_dir == Paths::default().run_dir {
        return String::new();
    }
    let run_dir = std::path::absolute(run_dir).unwrap_or_else(|_| run_dir.to_owned());
    let run_dir = export::quoted(&run_dir.to_string_lossy());
    format!(" --manifest FILE --run-dir {run_dir}")
}

/// Why a manifest cannot be had. Where none was named, and none is in the usual place, that is
/// what it takes.
fn missing(manifest: &Path, error: &FileError) -> String {
    if error.is_missing() && manifest == Paths::default().manifest {
        return format!("{error}\nhint: name the manifest with --manifest FILE");
    }
    error.to_string()
}

/// A text of several lines, each but the first after this.
fn below(text: &str, indent: &str) -> String {
    text.replace('\n', &format!("\n{indent}"))
}

/// To standard output, where a terminal may be.
fn print(text: &str) -> Result<(), StartError> {
    print_as_it_is(&plain::lines(text))
}

/// The same where it needs no care.
pub fn print_as_it_is(text: &str) -> Result<(), StartError> {
    // Whoever reads no more has seen enough.
    write(text).map(drop)
}

/// Says what was done. It is, whether or not standard output takes that: the exit code says so, and
/// standard error why nothing else does.
fn print_done(text: &str) {
    if let Err(error) = print(text) {
        let text = plain::lines(text);
        let _ = write!(
            io::stderr(),
            "sidecar-init: {error}; it is so all the same:\n{text}"
        );
    }
}

/// Waits for so long; false, at once, where nobody reads standard output any more.
fn rest(time: Duration) -> bool {
    let output = io::stdout();
    let mut output = [PollFd::new(output.as_fd(), PollFlags::empty())];
    wait(&mut output, Some(time));
    output.iter().all(|it| it.any() != Some(true))
}

/// To standard output; false once nobody reads it.
fn write(text: &str) -> Result<bool, StartError> {
    let mut output = io::stdout().lock();
    match output
        .write_all(text.as_bytes())
        .and_then(|()| output.flush())
    {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(StartError::new(
            ExitCode::CannotWrite,
            format!("cannot write standard output: {error}"),
        )),
    }
}
