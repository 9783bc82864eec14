//! `healthcheck`: whether the status says ready and the init that wrote it lives.

use std::path::Path;

use super::below;
use super::patience::Patience;
use crate::boot::clock;
use crate::exit::{ExitCode, StartError};
use crate::plain;
use crate::status::told::{Condition, StatusFile};
use crate::status::{State, Validity, Word};

/// Succeeds when the status says ready, the init that wrote it lives and its CA is valid; one
/// that cannot be read within so many seconds is not ready. A CA that is valid for a short time
/// only is a warning.
pub fn healthcheck(run_dir: &Path, timeout_seconds: u64) -> Result<(), StartError> {
    let not_ready = |why: String| StartError::new(ExitCode::NotReady, below(&why, "  "));
    let (file, _) = Patience::of(timeout_seconds)
        .read(run_dir)
        .map_err(|error| not_ready(error.to_string()))?;
    match judge(&file) {
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
