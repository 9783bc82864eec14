//! The status after a panic: the last one may say "ready", and nobody is left to take that
//! back. Touches the file system; neither panics nor waits.

use std::os::fd::AsRawFd;
use std::sync::Mutex;
use std::time::Duration;

use serde::Deserialize;
use serde_json::{Map, Value};

use crate::exit::ExitCode;
use crate::plain;
use crate::status::schema::{FILE, MAX_BYTES, Outcome, SCHEMA, State, Word};
use crate::status::{metrics, teller};
use crate::sys::errand;
use crate::sys::files::Room;

/// The export has this long to take the last words.
pub(super) const PATIENCE: Duration = Duration::from_secs(1);
/// Where a status was told, the run directory and the export.
static TOLD_IN: Mutex<(Option<Room>, Option<Room>)> = Mutex::new((None, None));

/// Last words go into the run directory too.
pub(super) fn remember_run(room: &Room) {
    if let Ok(mut told) = TOLD_IN.try_lock() {
        told.0 = room.try_clone().ok();
    }
}

/// Last words go into the export too.
pub(super) fn remember_export(room: &Room) {
    if let Ok(mut told) = TOLD_IN.try_lock() {
        told.1 = room.try_clone().ok();
    }
}

/// Corrects what was told, after a panic. Returns the object for the console.
pub fn record_internal_error(error: &str) -> String {
    let places = TOLD_IN.try_lock();
    let (run, export) = places
        .as_ref()
        .map_or((None, None), |it| (it.0.as_ref(), it.1.as_ref()));
    let mut told = in_error(
        Map::from_iter([("schema".to_owned(), SCHEMA.into())]),
        error,
    );
    if let Some(run) = run {
        if let Ok(bytes) = run.read(FILE, MAX_BYTES)
            && let Ok(status) = serde_json::from_slice(&bytes)
        {
            told = in_error(status, error);
        }
        let _ = teller::write(run, FILE, told.as_bytes());
    }
    if let Some(export) = export
        && let Ok(mut errand) = errand::send(&[export.descriptor().as_raw_fd()], || {
            let _ = teller::write(export, FILE, told.as_bytes());
            // Its numbers may say "ready" too.
            let _ = export.remove(metrics::FILE);
            Vec::new()
        })
    {
        let _ = errand.wait(PATIENCE);
    }
    told
}

/// All that was told, and the end. Not as a [`Status`](super::Status), which would lose the
/// daemon's last lines.
fn in_error(mut status: Map<String, Value>, error: &str) -> String {
    let outcome = match status.get("outcome").map(Word::deserialize) {
        Some(Ok(Word::Known(Outcome::FailedAt(stage)))) => Outcome::FailedAt(stage),
        _ => Outcome::Failed,
    };
    for (field, value) in [
        ("state", Word::from(State::Failed).to_string().into()),
        ("outcome", outcome.to_string().into()),
        ("exit_code", ExitCode::Internal.number().into()),
        ("error", error.into()),
        (
            "updated",
            crate::ca::rfc3339(crate::boot::clock::now()).into(),
        ),
    ] {
        status.insert(field.to_owned(), value);
    }
    plain::json(&status, 0)
}
