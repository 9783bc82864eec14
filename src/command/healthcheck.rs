//! `healthcheck`: whether the status says ready and the init that wrote it lives.

use std::path::Path;

use super::below;
use super::patience::Patience;
use crate::boot::clock;
use crate::exit::{ExitCode, StartError};
use crate::plain;
use crate::policy::daemons::PIPELOCK;
use crate::status::told::{Condition, StatusFile};
use crate::status::{State, Status, Validity, Word};

/// Succeeds when the status says ready, the init that wrote it lives and its CA is valid; one
/// that cannot be read within so many seconds is not ready. A CA that is valid for a short time
/// only is a warning. Of a `daemon`: when that one is ready, whatever the others are.
pub fn healthcheck(
    run_dir: &Path,
    daemon: Option<&str>,
    timeout_seconds: u64,
) -> Result<(), StartError> {
    let not_ready = |why: String| StartError::new(ExitCode::NotReady, below(&why, "  "));
    let (file, _) = Patience::of(timeout_seconds)
        .read(run_dir)
        .map_err(|error| not_ready(error.to_string()))?;
    let judged = match (daemon, &file.condition) {
        (Some(name), Condition::Told(_)) => of_daemon(&file.status, name).map(|()| None),
        _ => judge(&file),
    };
    match judged {
        Ok(None) => Ok(()),
        Ok(Some(trouble)) => {
            eprintln!("sidecar-init: warning: {}", plain::lines(&trouble));
            Ok(())
        }
        Err(why) => Err(not_ready(why)),
    }
}

/// What is to be known of one that serves, or why it does not. Pure but for the clock.
pub(super) fn judge(file: &StatusFile) -> Result<Option<String>, String> {
    match &file.condition {
        Condition::Told(Word::Known(State::Ready | State::Reloading)) => {
            let ca = file.status.ca.as_ref();
            let validity = ca.map_or(Validity::Valid, |ca| ca.validity(clock::now()));
            match ca.and_then(|ca| ca.trouble(validity)) {
                Some(trouble) if validity != Validity::Ending => {
                    Err(format!("not ready: {trouble}"))
                }
                trouble => Ok(trouble),
            }
        }
        Condition::Killed => {
            Err("not ready: the sidecar-init that wrote the status was killed".to_owned())
        }
        condition => Err(format!(
            "not ready: {condition}{}",
            file.status
                .error
                .as_ref()
                .map_or_else(String::new, |error| format!(": {error}"))
        )),
    }
}

/// Whether the bundle's daemon of this name is ready; what it is instead.
fn of_daemon(status: &Status, name: &str) -> Result<(), String> {
    let others = status.daemons.iter();
    let (state, error) = if name == PIPELOCK {
        let state = status.daemon.state.as_ref();
        (state.unwrap_or(&status.state), &status.error)
    } else if let Some(daemon) = others.clone().find(|daemon| daemon.name == name) {
        (&daemon.state, &daemon.error)
    } else {
        let names = others.map(|daemon| daemon.name.as_str());
        let names: Vec<&str> = std::iter::once(PIPELOCK).chain(names).collect();
        return Err(format!(
            "not ready: this bundle has no daemon {name:?}; it has {}",
            names.join(", ")
        ));
    };
    if matches!(state, Word::Known(State::Ready | State::Reloading)) {
        return Ok(());
    }
    let why = error
        .as_ref()
        .map_or_else(String::new, |error| format!(": {error}"));
    Err(format!("not ready: {name} is {state}{why}"))
}
