//! What every daemon of a bundle has, whatever its kind: a state machine, what happened to it
//! and is to be decided, and a process.
//!
//! What happens becomes an [`Event`], the machine answers with actions, and [`Unit::settle`]
//! has them performed; nothing else decides.

use std::collections::VecDeque;
use std::os::fd::BorrowedFd;
use std::time::Instant;

use nix::poll::PollFlags;
use nix::sys::signal::Signal;

use super::Context;
use super::machine::{Action, Event, Machine, Outcome, Phase};
use super::order::Directed;
use super::prober::{Finding, Prober};
use super::process::Process;
use super::relay::LastLines;
use crate::policy::daemons::Daemon;
use crate::status::State;
use crate::sys::reaper::ExitReason;

/// What does not depend on the kind.
pub(super) struct Life {
    pub(super) machine: Machine,
    pub(super) prober: Prober,
    pub(super) last_lines: LastLines,
    events: VecDeque<Event>,
    outcome: Option<Outcome>,
    /// It was asked to stop.
    pub(super) asked_to_stop: bool,
    /// Starts so far.
    pub(super) spawned: u64,
    /// Something to tell the host that no event brought.
    pub(super) changed: bool,
}

impl Life {
    /// One that rests until [`Event::Begin`].
    pub(super) fn new(machine: Machine, prober: Prober) -> Self {
        Self {
            machine,
            prober,
            last_lines: LastLines::default(),
            events: VecDeque::new(),
            outcome: None,
            asked_to_stop: false,
            spawned: 0,
            changed: true,
        }
    }

    /// Queues what happened, for [`Unit::settle`].
    pub(super) fn push(&mut self, event: Event) {
        self.directed().push(event);
    }

    /// As far as it is told when to begin and when to end.
    pub(super) fn directed(&mut self) -> Directed<'_> {
        Directed {
            machine: &mut self.machine,
            events: &mut self.events,
            asked_to_stop: &mut self.asked_to_stop,
        }
    }

    /// Whether something happened that nobody has decided about.
    pub(super) fn is_unsettled(&self) -> bool {
        !self.events.is_empty()
    }

    pub(super) fn phase(&self) -> Phase {
        self.machine.phase()
    }

    /// How its process ended, for a sentence that began with its name; `starved`: its limit of
    /// memory, where that is why.
    pub(super) fn end_in_words(
        &self,
        name: &str,
        reason: ExitReason,
        starved: Option<&str>,
    ) -> String {
        match (starved, self.machine.brought_down_for()) {
            (Some(limit), _) => format!("{reason}: out of memory, {limit}"),
            (None, Some(failure)) => format!("{reason}, brought down: {}", failure.of(name)),
            (None, None) => match self.last_lines.fatal() {
                Some(fatal) => format!("{reason}: {fatal}"),
                None => reason.to_string(),
            },
        }
    }

    /// It is over.
    pub(super) fn finish(&mut self, outcome: Outcome) {
        self.outcome = Some(outcome);
    }

    /// Its own state, whatever the bundle's is: where it has ended it says how.
    pub(super) fn own_state(&self) -> State {
        match self.machine.phase() {
            Phase::Ended if matches!(self.outcome, Some(Outcome::GaveUp(_))) => State::Failed,
            Phase::Ended => State::Stopped,
            _ => self.state(),
        }
    }

    /// Its state, for the status.
    pub(super) fn state(&self) -> State {
        match self.machine.phase() {
            Phase::Idle | Phase::Starting => State::Starting,
            Phase::Backoff => State::Backoff,
            Phase::Halted => State::Halted,
            Phase::Ready if self.machine.is_reloading() => State::Reloading,
            Phase::Ready => State::Ready,
            Phase::Draining => State::Draining,
            // The daemon is; everything else is ended now.
            Phase::Stopping | Phase::Ended => State::Stopping,
        }
    }
}

/// A daemon that is to run, whether it does this moment or not.
pub(super) trait Unit {
    /// What messages call it.
    fn name(&self) -> &str;
    fn life(&self) -> &Life;
    fn life_mut(&mut self) -> &mut Life;
    /// Its process, while there is one that is not reaped.
    fn process(&self) -> Option<&Process>;
    /// Does what the machine has decided.
    fn perform(&mut self, action: Action, around: &mut Context);
    /// An answer, or that none came.
    fn found(&mut self, finding: Finding, around: &mut Context);
    /// Carries what it says.
    fn hear(&mut self, around: &mut Context);
    /// Its process has ended, for this reason.
    fn ended(&mut self, reason: ExitReason, around: &mut Context);
    /// Notes for the status what the machine knows.
    fn report(&self, around: &mut Context);
    /// Whether a process that is no unit's own is one of its, as far as can be told.
    fn owns(&self, pid: i32, around: &Context) -> bool;

    /// What the manifest wants of it; of pipelock it is all the rest of the manifest.
    fn wanted(&self) -> Option<&Daemon> {
        None
    }

    /// Whether it goes, and does not come back.
    fn is_leaving(&self) -> bool {
        false
    }

    /// What it says, whether it could be executed, and whatever else it is heard by.
    fn speech(&self) -> Vec<BorrowedFd<'_>> {
        self.process()
            .into_iter()
            .flat_map(Process::speech)
            .collect()
    }

    fn pid(&self) -> Option<i32> {
        self.process().map(|process| process.pid)
    }

    fn phase(&self) -> Phase {
        self.life().phase()
    }

    /// How its supervision ended, once it has.
    fn outcome(&self) -> Option<&Outcome> {
        self.life().outcome.as_ref()
    }

    fn push(&mut self, event: Event) {
        self.life_mut().push(event);
    }

    /// Feeds the machine until it has nothing more to say; whether there is something to
    /// tell the host.
    fn settle(&mut self, around: &mut Context) -> bool {
        let mut changed = std::mem::take(&mut self.life_mut().changed);
        while let Some(event) = self.life_mut().events.pop_front() {
            changed = true;
            log::trace!("{}: event {event:?}", self.name());
            for action in self.life_mut().machine.step(event, Instant::now()) {
                log::trace!("{}: action {action:?}", self.name());
                self.perform(action, around);
            }
        }
        changed
    }

    /// The connection whose answer is waited for.
    fn question(&self) -> Option<(BorrowedFd<'_>, PollFlags)> {
        self.life().prober.interest()
    }

    /// When [`Unit::advance`] or [`Unit::tick`] has something to do.
    fn deadline(&self) -> Option<Instant> {
        let life = self.life();
        let deadlines = [life.machine.deadline(), life.prober.deadline()];
        deadlines.into_iter().flatten().min()
    }

    /// Goes on with what was asked.
    fn advance(&mut self, now: Instant, around: &mut Context) {
        if let Some(finding) = self.life_mut().prober.advance(now) {
            self.found(finding, around);
        }
    }

    /// Lets the machine do what is due.
    fn tick(&mut self, now: Instant) {
        let due = self.life().machine.deadline();
        if due.is_some_and(|due| now >= due) {
            self.push(Event::Tick);
        }
    }

    fn signal(&self, signal: Signal) {
        if let Some(process) = self.process() {
            process.signal(signal);
        }
    }
}
