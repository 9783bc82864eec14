//! How starting and supervising went, and what is said of it.

use std::path::Path;

use crate::boot::mode::Mode;
use crate::bottle::Desired;
use crate::bottle::looker::Looker;
use crate::exit::{ExitCode, StartError};
use crate::status::{Outcome as Told, Reporter, Status, Word, report};
use crate::supervise::machine::Failure;
use crate::supervise::{Pair, Setup, Verdict, supervise};
use crate::sys::console::{self, Stream};
use crate::sys::reaper;
use crate::sys::signals::Signals;

/// How starting and supervising went.
pub(super) enum Ending {
    Stopped,
    Failed(StartError),
}

/// Records the result where the host reads it, and says it on the console: in words where it
/// is a terminal and they are for the person who named this run directory.
pub(super) fn conclude(
    reporter: &mut Reporter,
    ending: Ending,
    words_for: Option<&Path>,
) -> ExitCode {
    let (code, error) = match ending {
        Ending::Stopped => (ExitCode::Success, None),
        Ending::Failed(error) => {
            let mut text = error.to_string();
            if let Some(hint) = reporter.hint_of_port() {
                text = format!("{text}\nhint: {hint}");
            }
            log::error!("{text}");
            (error.code, Some(text))
        }
    };
    reporter.conclude(code, error);
    let last = match words_for.filter(|_| console::is_terminal()) {
        Some(run_dir) => sentence(reporter.status(), code, run_dir),
        None => format!("result {}", reporter.json()),
    };
    let line = format!("sidecar-init: {last}\n");
    console::console().write_lines(Stream::Error, line.as_bytes());
    code
}

/// The end for a person, who has read what went wrong in the lines before.
fn sentence(status: &Status, code: ExitCode, run_dir: &Path) -> String {
    let port = match &status.port {
        None => "no pipelock was started".to_owned(),
        Some(port) => port.in_words(),
    };
    if code == ExitCode::Success {
        return format!("stopped, as it was asked to; {port}");
    }
    let at = match &status.outcome {
        Word::Known(Told::FailedAt(stage)) => format!(" at the stage {stage}"),
        _ => String::new(),
    };
    format!(
        "ended{at}, with code {}: {}; {port}. All that is known is in {}",
        code.number(),
        code.means(),
        run_dir.join(report::FILE).display()
    )
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
            Verdict::Stopped => Ending::Stopped,
            Verdict::GaveUp(name, failure) => Ending::Failed(given_up(&name, &failure, reporter)),
        },
    )
}

fn given_up(name: &str, failure: &Failure, reporter: &Reporter) -> StartError {
    let code = match failure {
        Failure::Spawn(code, _) => *code,
        _ => ExitCode::DaemonUnavailable,
    };
    let said = match failure {
        Failure::Exited(_) | Failure::OutOfMemory(..) => reporter.said_at_its_end(name),
        _ => String::new(),
    };
    StartError::new(
        code,
        format!(
            "giving up after repeated failures: {}{said}",
            failure.named(name)
        ),
    )
}
