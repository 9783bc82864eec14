//! A daemon's process, from its start until it is reaped: what it says, whether it could be
//! executed, and what it leaves behind. Touches the kernel through `sandbox` and `sys`.

use std::os::fd::{AsFd, BorrowedFd};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::Context;
use super::machine::Event;
use super::relay::{LastLines, Relay, Speaker};
use crate::policy::daemons::PIPELOCK;
use crate::sandbox::cgroup::Group;
use crate::sandbox::enter::{Child, ExecReport, SpawnError};
use crate::sandbox::{Sandbox, Seen};
use crate::status::While;
use crate::sys::console::Stream;

/// One that was forked and is not reaped.
pub(super) struct Process {
    pub(super) pid: i32,
    output: Relay,
    error: Relay,
    /// `None` once it is known that the exec worked.
    exec_report: Option<ExecReport>,
    exec_error: Option<SpawnError>,
    /// What its control group had counted when it started.
    oom_kills: u64,
}

impl Process {
    /// Takes over what was forked; its control group had counted so many kills before.
    pub(super) fn new(child: Child, speaker: &Speaker, oom_kills: u64) -> Self {
        Self {
            pid: child.pid,
            output: Relay::new(child.stdout, Stream::Output, speaker.clone()),
            error: Relay::new(child.stderr, Stream::Error, speaker.clone()),
            exec_report: Some(child.exec_report),
            exec_error: None,
            oom_kills,
        }
    }

    /// What it says, where there is room for that, and whether it could be executed.
    pub(super) fn speech(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        let relays = [&self.output, &self.error].into_iter();
        relays
            .filter_map(|relay| relay.as_fd().filter(|_| relay.has_room()))
            .chain(self.exec_report.as_ref().map(AsFd::as_fd))
    }

    /// Puts this name before its lines from now on.
    pub(super) fn set_speaker(&mut self, speaker: &Speaker) {
        for relay in [&mut self.output, &mut self.error] {
            relay.set_speaker(speaker.clone());
        }
    }

    /// Carries what it says, and shows `see` each line of its standard output.
    pub(super) fn carry(&mut self, last: &mut LastLines, see: &mut dyn FnMut(&[u8])) {
        self.error.carry(last, &mut |_| {});
        self.output.carry(last, see);
    }

    /// Whether it is known since now that it could be executed.
    pub(super) fn was_executed(&mut self) -> bool {
        let outcome = self.exec_report.as_mut().and_then(ExecReport::outcome);
        let Some(outcome) = outcome else {
            return false;
        };
        self.exec_report = None;
        let worked = outcome.is_ok();
        self.exec_error = outcome.err();
        worked
    }

    /// It was reaped: carries what its pipes still hold, and ends what is left of its process
    /// group and its control group, for no helper may outlive it beside its successor. The
    /// limit of memory, where that is what ended it.
    pub(super) fn finish(
        &mut self,
        group: Option<&Group>,
        last: &mut LastLines,
        see: &mut dyn FnMut(&[u8]),
    ) -> Option<String> {
        signal_group(self.pid, Signal::SIGKILL);
        let starved = group.and_then(|group| {
            // Those that left for a session of their own, too.
            group.kill_everybody();
            (group.oom_kills() > self.oom_kills).then(|| group.describe_limit())
        });
        for relay in [&mut self.output, &mut self.error] {
            relay.finish(last, see);
        }
        self.was_executed();
        starved
    }

    /// Why it could not be executed, where it could not.
    pub(super) fn exec_error(&self) -> Option<&SpawnError> {
        self.exec_error.as_ref()
    }

    /// To everybody in its process group.
    pub(super) fn signal(&self, signal: Signal) {
        if !signal_group(self.pid, signal) {
            // Between fork and setsid it leads no group. It is not reaped yet, so the
            // number is still its own; ESRCH cannot be.
            let _ = kill(Pid::from_raw(self.pid), signal);
        }
    }
}

/// To everybody in the process group; false where it does not exist.
fn signal_group(pid: i32, signal: Signal) -> bool {
    kill(Pid::from_raw(-pid), signal).is_ok()
}

/// What follows from what can be seen of a sandbox that was applied, and whether it was found
/// as asked for; nothing where the process has ended meanwhile.
pub(super) fn read_back(
    name: &str,
    sandbox: &Sandbox,
    pid: i32,
    around: &mut Context,
) -> Option<(Event, bool)> {
    // A bundle of one calls it what it always did.
    let whose = if name == PIPELOCK { "the daemon" } else { name };
    match sandbox.read_back(pid) {
        Seen::Confined => {
            around.reporter.over(&While::ReadBack(name.to_owned()));
            Some((Event::Confined, true))
        }
        Seen::Holes(mismatch) => Some((Event::Unfit(mismatch.to_string()), false)),
        Seen::Ended => None,
        Seen::Nothing(why) if around.setup.require_sandbox => {
            let why = format!("{whose}'s sandbox could not be read back: {why}");
            Some((Event::Unfit(why), false))
        }
        Seen::Nothing(why) => {
            let why = format!("{whose}'s sandbox was applied but could not be read back: {why}");
            let what = While::ReadBack(name.to_owned());
            around.reporter.warn_while(&what, [why]);
            Some((Event::Confined, false))
        }
    }
}
