//! Reading the status that the guest exports.

use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::Error;

/// How often an exported file is looked at: the host side of virtiofs has no event that
/// the standard library could wait for.
const POLL: Duration = Duration::from_millis(50);

/// `status.json` in the export directory.
pub fn read_status(export: &Path) -> Result<Value, Error> {
    let path = export.join("status.json");
    let bytes = std::fs::read(&path).map_err(Error::io(format!("read {}", path.display())))?;
    serde_json::from_slice(&bytes).map_err(|source| Error::Json {
        what: path.display().to_string(),
        source,
    })
}

/// Wait for a status that the predicate accepts. It is replaced by renames, so every
/// reading is a whole one; one that is missing is waited for.
pub fn wait_for_status(
    export: &Path,
    mut accepts: impl FnMut(&Value) -> bool,
    within: Duration,
) -> Result<Value, Error> {
    let deadline = Instant::now() + within;
    loop {
        let status = read_status(export);
        match status {
            Ok(status) if accepts(&status) => return Ok(status),
            Err(error @ Error::Json { .. }) => return Err(error),
            _ if Instant::now() < deadline => std::thread::sleep(POLL),
            status => {
                let console = match status {
                    Ok(status) => format!("the last status: {status}"),
                    Err(error) => error.to_string(),
                };
                return Err(Error::Timeout {
                    wanted: "the awaited status".into(),
                    waited: within,
                    console,
                });
            }
        }
    }
}
