//! `healthcheck`: whether the status says ready and the init that wrote it lives.

use std::path::Path;

use super::below;
use super::status::{KILLED, read_status};
use crate::exit::{ExitCode, StartError};

/// Succeeds when the status says ready and the init that wrote it lives.
pub fn healthcheck(run_dir: &Path) -> Result<(), StartError> {
    let not_ready = |why: String| StartError::new(ExitCode::NotReady, below(&why, "  "));
    let (status, _) = read_status(run_dir).map_err(not_ready)?;
    match status.state() {
        "ready" | "reloading" => Ok(()),
        KILLED => Err(not_ready(
            "not ready: the sidecar-init that wrote the status was killed".to_owned(),
        )),
        state => Err(not_ready(format!(
            "not ready: {state}{}",
            status
                .text("/error")
                .map_or_else(String::new, |error| format!(": {error}"))
        ))),
    }
}
