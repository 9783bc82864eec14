//! The daemons of a bundle, in order: each begins when those before it are ready, and stops
//! when those after it have ended. Who is next is decided by pure functions; what follows
//! from it is the units' to perform.

use std::os::fd::BorrowedFd;
use std::time::Instant;

use nix::poll::PollFlags;

use super::Context;
use super::machine::{Event, Outcome, Phase};
use super::unit::Unit;
use crate::sys::reaper::ExitReason;

/// Every unit, in the order in which they begin.
pub struct Roster {
    units: Vec<Unit>,
    stopping: bool,
    /// Who was asked to stop last.
    asked: Option<usize>,
}

impl Roster {
    /// These, in this order.
    pub fn new(units: Vec<Unit>) -> Self {
        Self {
            units,
            stopping: false,
            asked: None,
        }
    }

    /// Each of them.
    pub fn each(&mut self) -> impl Iterator<Item = &mut Unit> {
        self.units.iter_mut()
    }

    /// Tells all of them.
    pub fn push(&mut self, event: &Event) {
        for unit in &mut self.units {
            unit.push(event.clone());
        }
    }

    /// From now on they are stopped, the last first. Asked again, whoever is stopping hears
    /// it again.
    pub fn stop(&mut self) {
        if let Some(unit) = self.asked.and_then(|index| self.units.get_mut(index)) {
            unit.push(Event::StopAsked);
        }
        self.stopping = true;
    }

    /// Lets whoever may begin or is to stop hear so, and all of them do what follows from what
    /// they heard; whether there is something to tell the host.
    pub fn settle(&mut self, around: &mut Context) -> bool {
        let mut changed = false;
        loop {
            self.direct();
            let mut moved = false;
            for unit in &mut self.units {
                moved |= unit.settle(around);
            }
            if !moved {
                return changed;
            }
            changed = true;
        }
    }

    fn direct(&mut self) {
        let gave_up = |unit: &Unit| matches!(unit.outcome(), Some(Outcome::GaveUp(_)));
        self.stopping |= self.units.iter().any(gave_up);
        if !self.stopping {
            let phases: Vec<Phase> = self.units.iter().map(Unit::phase).collect();
            if let Some(unit) = next_to_begin(&phases).and_then(|it| self.units.get_mut(it)) {
                unit.push(Event::Begin);
            }
            return;
        }
        let ended: Vec<bool> = self.units.iter().map(|it| it.outcome().is_some()).collect();
        let next = next_to_stop(&ended);
        if next != self.asked
            && let Some(unit) = next.and_then(|index| self.units.get_mut(index))
        {
            unit.push(Event::StopAsked);
            self.asked = next;
        }
    }

    /// How it all ended, once it has: with the first one that could not live, else as asked.
    pub fn outcome(&self) -> Option<Outcome> {
        let mut outcomes = Vec::new();
        for unit in &self.units {
            outcomes.push(unit.outcome()?);
        }
        let gave_up = |outcome: &&&Outcome| matches!(outcome, Outcome::GaveUp(_));
        let verdict = outcomes.iter().find(gave_up);
        Some(verdict.map_or(Outcome::Stopped, |outcome| (*outcome).clone()))
    }

    /// Whether any of them is in this phase.
    pub fn any_is(&self, phase: Phase) -> bool {
        self.units.iter().any(|unit| unit.phase() == phase)
    }

    /// Whether any of them has a process.
    pub fn any_runs(&self) -> bool {
        self.units.iter().any(|unit| unit.pid().is_some())
    }

    /// Hands the end of a process to whose it was; false where it was nobody's.
    pub fn ended(&mut self, pid: i32, reason: ExitReason, around: &mut Context) -> bool {
        let whose = self.units.iter_mut().find(|unit| unit.pid() == Some(pid));
        let found = whose.map(|unit| unit.ended(reason, around));
        found.is_some()
    }

    /// Whether this process is a unit's, or belongs to one that runs: nobody leaves the
    /// control group that it was started in.
    pub fn owns(&self, pid: i32, around: &Context) -> bool {
        let group = around.setup.sandbox.group.as_ref();
        self.units.iter().any(|unit| unit.pid() == Some(pid))
            || self.any_runs() && group.is_some_and(|group| group.holds(pid))
    }

    /// What they say, and whose it is.
    pub fn speech(&self) -> impl Iterator<Item = (usize, BorrowedFd<'_>)> {
        let units = self.units.iter().enumerate();
        units.flat_map(|(index, unit)| unit.speech().map(move |fd| (index, fd)))
    }

    /// Lets this one's words be heard.
    pub fn hear(&mut self, index: usize, around: &mut Context) {
        if let Some(unit) = self.units.get_mut(index) {
            unit.hear(around);
        }
    }

    /// The connections whose answers are waited for.
    pub fn questions(&self) -> impl Iterator<Item = (BorrowedFd<'_>, PollFlags)> {
        self.units.iter().filter_map(Unit::question)
    }

    /// When one of them has something to do.
    pub fn deadline(&self) -> Option<Instant> {
        self.units.iter().filter_map(Unit::deadline).min()
    }
}

/// The first that rests, where all before it are ready.
fn next_to_begin(phases: &[Phase]) -> Option<usize> {
    let first = phases.iter().position(|phase| *phase != Phase::Ready)?;
    (phases.get(first) == Some(&Phase::Idle)).then_some(first)
}

/// The last that has not ended.
fn next_to_stop(ended: &[bool]) -> Option<usize> {
    ended.iter().rposition(|ended| !ended)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn begins_each_when_those_before_it_are_ready() {
        use Phase::{Backoff, Halted, Idle, Ready, Starting};
        for (phases, next) in [
            (&[Idle, Idle][..], Some(0)),
            (&[Starting, Idle], None),
            (&[Ready, Idle], Some(1)),
            (&[Backoff, Idle], None),
            (&[Halted, Idle], None),
            (&[Ready, Ready], None),
            (&[Ready, Starting, Idle], None),
            (&[], None),
        ] {
            assert_eq!(next_to_begin(phases), next, "{phases:?}");
        }
    }

    #[test]
    fn stops_each_when_those_after_it_have_ended() {
        for (ended, next) in [
            (&[false, false][..], Some(1)),
            (&[false, true], Some(0)),
            (&[true, true], None),
            (&[true, false], Some(1)),
            (&[], None),
        ] {
            assert_eq!(next_to_stop(ended), next, "{ended:?}");
        }
    }
}
