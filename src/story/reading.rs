//! The stage of the manifest: it is waited for, and what needs no word of it is begun meanwhile.

use std::path::Path;
use std::time::Instant;

use nix::poll::{PollFd, PollFlags};

use super::clock::set_by_the_hosts;
use super::places::mount_manifest;
use crate::boot::cmdline::Arguments;
use crate::bottle::looker::{Looker, News};
use crate::bottle::{self, Bottle, Desired};
use crate::ca::authority::Custody;
use crate::ca::custody::{self, Making};
use crate::exit::StartError;
use crate::sandbox::{Privileges, Sandbox};
use crate::status::Reporter;
use crate::sys::files::Room;
use crate::sys::signals::{Signals, wait};

/// What was read, and what was begun meanwhile.
pub(super) struct Begun {
    pub(super) read: Vec<u8>,
    pub(super) sandbox: Sandbox,
    pub(super) making: Result<Making, StartError>,
}

/// Reads everything; mounts the manifest's directory first where that is still to be done.
pub(super) fn read_mounted(bottle: &Bottle, is_mounted: bool, arguments: &Arguments) -> Vec<u8> {
    if !is_mounted && let Err(error) = mount_manifest(arguments, &bottle.manifest) {
        return bottle::unreadable(&error.to_string());
    }
    bottle.read()
}

/// Judges what was read, and has the reporter know which manifest that was.
pub(super) fn judge(
    bottle: &Bottle,
    found: &[u8],
    reporter: &mut Reporter,
) -> Result<(Desired, Vec<String>), StartError> {
    let (_, _, read) = bottle::without_marks(found);
    let judged = bottle.judge(read);
    reporter.manifest_known(bottle::which_manifest(read), judged.is_ok());
    judged.map_err(|problem| *problem)
}

/// Waits for the manifest, and for the clock, where `sets_clock`; `None` where a stop was
/// asked for before. The CA is begun as early as can be.
pub(super) fn begin(
    bottle: &Bottle,
    run: &Room,
    sets_clock: bool,
    looker: &mut Looker,
    signals: &mut Signals,
    reporter: &mut Reporter,
) -> Result<Option<Begun>, StartError> {
    let mut read = None;
    if sets_clock {
        // By the dates of what is mounted by then.
        read = await_manifest(looker, &bottle.manifest, signals, reporter);
        if read.is_none() {
            return Ok(None);
        }
        set_by_the_hosts(&bottle.manifest, run, reporter)?;
    }
    // Now, although its stage comes later: it waits for nothing that is read before it.
    let sandbox = Sandbox::plan(Privileges::of_this_process());
    let owner = sandbox.file_owner();
    let making = custody::begin(Custody::new(&bottle.pair, run, owner));
    let read = read.or_else(|| await_manifest(looker, &bottle.manifest, signals, reporter));
    Ok(read.map(|read| Begun {
        read,
        sandbox,
        making,
    }))
}

/// What the looker reads first; `None` where a stop was asked for before. Whoever waits for
/// a share that hangs says so, and goes on living.
fn await_manifest(
    looker: &mut Looker,
    manifest: &Path,
    signals: &mut Signals,
    reporter: &mut Reporter,
) -> Option<Vec<u8>> {
    loop {
        let now = Instant::now();
        for news in looker.advance(now) {
            match news {
                News::Looked | News::Names(_) => {}
                News::Unsent(since, errno) => {
                    reporter.manifest_is_unwatched(manifest, since, errno);
                    reporter.publish();
                }
                News::Silent(since) => {
                    reporter.manifest_is_silent(manifest, since);
                    reporter.publish();
                }
                News::Answers => reporter.manifest_answers(),
                News::Read(read) | News::Answer(read) => {
                    reporter.manifest_arrived();
                    return Some(read);
                }
            }
        }
        if signals.stop_asked() {
            return None;
        }
        reporter.tick(now);
        let deadlines = [looker.deadline(), reporter.deadline(now)];
        let deadline = deadlines.into_iter().flatten().min();
        let mut waiting: Vec<PollFd> = [looker.as_fd(), reporter.as_fd(), Some(signals.as_fd())]
            .into_iter()
            .flatten()
            .map(|fd| PollFd::new(fd, PollFlags::POLLIN))
            .collect();
        let left = deadline.map(|it| it.saturating_duration_since(Instant::now()));
        wait(&mut waiting, left);
    }
}
