//! The stage of the clock: one that can be right, or is put right.

use std::path::Path;
use std::time::{Duration, UNIX_EPOCH};

use crate::boot::clock::{self, Plausibility};
use crate::boot::mode::Mode;
use crate::exit::StartError;
use crate::status::export::DIRECTORY as EXPORT;
use crate::status::{self, Reporter, While};
use crate::sys::errand;
use crate::sys::files::Room;

/// True where the clock is only known not to be earlier than what it was set to.
pub(super) fn floor(mode: Mode, reporter: &mut Reporter) -> Result<bool, StartError> {
    match clock::judge(clock::now()) {
        Plausibility::Plausible => Ok(false),
        Plausibility::TooLate(now) => Err(StartError::system(clock::ClockError::TooLate(now))),
        Plausibility::TooEarly(now) => {
            let says = crate::ca::rfc3339(now);
            if mode != Mode::Machine {
                let early = format!(
                    "the clock says {says}, before this program was built; clients may refuse the CA"
                );
                reporter.warn_while(&While::Clock, [early]);
                return Ok(false);
            }
            set(clock::BUILD_EPOCH)?;
            reporter.warn(format!(
                "the clock said {says}; set to {}, when this program was built",
                crate::ca::rfc3339(clock::BUILD_EPOCH)
            ));
            Ok(true)
        }
    }
}

fn set(seconds: u64) -> Result<(), StartError> {
    clock::set(seconds).map_err(StartError::system)
}

/// When a file was written, in seconds since 1970. The share may not answer.
fn written_at(file: &Path) -> Option<u64> {
    const PATIENCE: Duration = Duration::from_secs(2);
    let ask = || -> Option<u64> {
        let modified = std::fs::symlink_metadata(file).ok()?.modified().ok()?;
        Some(modified.duration_since(UNIX_EPOCH).ok()?.as_secs())
    };
    let mut errand = errand::send(&[], || {
        ask().map_or_else(Vec::new, |at| at.to_string().into())
    });
    let answer = errand.as_mut().ok()?.wait(PATIENCE)??;
    std::str::from_utf8(&answer).ok()?.parse().ok()
}

/// A share's files are dated by the host, and its clock is the better one: the status was
/// written this moment, the manifest some time before.
pub(super) fn set_by_the_hosts(
    manifest: &Path,
    run: &Room,
    reporter: &mut Reporter,
) -> Result<(), StartError> {
    let export = run.path().join(EXPORT).join(status::FILE);
    let written = [manifest, &export].into_iter().filter_map(written_at);
    if let Some(time) = clock::better(clock::now(), written) {
        set(time)?;
        let time = crate::ca::rfc3339(time);
        log::info!("the clock was set on to {time}, by the dates of the host's files");
    } else {
        let untold = "nothing tells this machine the time: the certificates pipelock makes are good for a day from \
                      when this program was built; give it a real-time clock, or an export on a share";
        reporter.warn_while(&While::Clock, [untold.to_owned()]);
    }
    Ok(())
}
