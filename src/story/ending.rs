//! How starting and supervising went, and what is said of it.

use crate::boot::mode::Mode;
use crate::bottle::Desired;
use crate::bottle::looker::Looker;
use crate::exit::{ExitCode, StartError};
use crate::status::Reporter;
use crate::supervise::machine::{Failure, Outcome};
use crate::supervise::{Pair, Setup, supervise};
use crate::sys::reaper;
use crate::sys::signals::Signals;

/// How starting and supervising went.
pub(super) enum Ending {
    Stopped,
    Failed(StartError),
}

/// Records the result where the host reads it, and says it on the console.
pub(super) fn conclude(reporter: &mut Reporter, ending: Ending) -> ExitCode {
    let (code, error) = match ending {
        Ending::Stopped => (ExitCode::Success, None),
        Ending::Failed(error) => {
            log::error!("{error}");
            (error.code, Some(error.to_string()))
        }
    };
    reporter.conclude(code, error);
    code
}

pub(super) fn supervise_until_the_end(
    mode: Mode,
    setup: &Setup,
    desired: Desired,
    pair: Pair,
    looker: Looker,
    signals: &mut Signals,
    reporter: &mut Reporter,
) -> Result<Ending, StartError> {
    if mode == Mode::Child {
        reaper::adopt_orphans().map_err(|errno| {
            StartError::system(format!(
                "cannot become the reaper of orphans: {}",
                errno.desc()
            ))
        })?;
    }
    Ok(
        match supervise(setup, desired, pair, looker, signals, reporter) {
            Outcome::Stopped => Ending::Stopped,
            Outcome::GaveUp(failure) => Ending::Failed(given_up(&failure, reporter)),
        },
    )
}

fn given_up(failure: &Failure, reporter: &Reporter) -> StartError {
    let code = match failure {
        Failure::Spawn(code, _) => *code,
        _ => ExitCode::DaemonUnavailable,
    };
    let said = match failure {
        Failure::Exited(_) | Failure::OutOfMemory(..) => reporter.said_at_its_end(),
        _ => String::new(),
    };
    StartError::new(
        code,
        format!("giving up after repeated failures: {failure}{said}"),
    )
}
