//! Who of a bundle may begin, who is to stop next, and what the bundle is at. Pure.
//!
//! Each begins when all that it comes after are ready, at every start; one that is no longer
//! ready holds back who would begin, and ends nobody. They stop in the reverse order, each
//! when those that come after it have ended.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::machine::{Event, Machine, Phase, Timing};
use crate::policy::daemons::PIPELOCK;
use crate::status::State;

#[cfg(test)]
mod histories;

/// What a unit is known by, pipelock first.
#[derive(Debug, Clone, Copy)]
#[allow(
    clippy::struct_excessive_bools,
    reason = "each is a fact about the unit"
)]
pub struct Known<'a> {
    /// Its name.
    pub name: &'a str,
    /// The names of those that it comes after.
    pub after: &'a [String],
    /// Whether the bundle ends where it cannot live.
    pub essential: bool,
    /// It goes, and does not come back.
    pub leaves: bool,
    /// What it is at.
    pub phase: Phase,
    /// There is a process of it.
    pub runs: bool,
    /// Whatever it heard has been decided about.
    pub settled: bool,
    /// It cannot live.
    pub gave_up: bool,
}

/// What is known of a unit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Those that it comes after, by their place.
    pub after: Vec<usize>,
    /// What it is at.
    pub phase: Phase,
    /// There is a process of it: else nobody is in the way of those that it comes after.
    pub runs: bool,
    /// Whatever it heard has been decided about: else it may be something else already.
    pub settled: bool,
    /// It cannot live, and the bundle not without it.
    pub condemned: bool,
    /// Whether it is to be there.
    pub place: Place,
}

/// Whether a unit is to be there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// It is.
    Stays,
    /// It goes, and does not come back.
    Leaves,
    /// When another of its name has gone.
    Waits,
}

impl Member {
    fn has_ended(&self) -> bool {
        self.phase == Phase::Ended
    }
}

/// A unit, as far as it is told when to begin and when to end.
pub struct Directed<'a> {
    /// Its machine.
    pub machine: &'a mut Machine,
    /// What happened to it and is to be decided about.
    pub events: &'a mut VecDeque<Event>,
    /// It was asked to stop.
    pub asked_to_stop: &'a mut bool,
}

impl Directed<'_> {
    /// Queues what happened.
    pub fn push(&mut self, event: Event) {
        *self.asked_to_stop |= event == Event::StopAsked;
        self.events.push_back(event);
    }

    /// Everything stops: what serves drains before those that come after it are stopped, for
    /// its tunnels go through them. Whether it does, and is not done.
    fn drain_first(&mut self) -> bool {
        let machine = &mut *self.machine;
        let drains = match machine.phase() {
            Phase::Ready => machine.drains(),
            // To be replaced; now by nobody.
            Phase::Draining => true,
            _ => false,
        };
        if drains && !*self.asked_to_stop {
            machine.linger(true);
            self.push(Event::StopAsked);
            return true;
        }
        self.machine.is_draining()
    }

    /// Nobody that comes after it is left, and it has drained: it ends by this moment.
    fn stop_by(&mut self, until: Instant, timing: Timing, now: Instant) {
        let lingers = self.machine.lingers();
        if self.machine.phase() == Phase::Ended || *self.asked_to_stop && !lingers {
            return;
        }
        self.machine.linger(false);
        let left = until.saturating_duration_since(now);
        self.machine.set_timing(Timing {
            grace: timing.grace.min(left),
            drain: Duration::ZERO,
            ..timing
        });
        self.push(if *self.asked_to_stop {
            Event::Tick
        } else {
            Event::StopAsked
        });
    }
}

/// What of each is to be known for the others' sake. `is_cleared`: what was another's of that
/// name is being taken away.
pub fn members(all: &[Known], is_cleared: &dyn Fn(&str) -> bool) -> Vec<Member> {
    let place = |name: &String, leaves: bool| {
        let is_there = |it: &Known| it.name == name && it.leaves == leaves;
        all.iter().position(is_there)
    };
    // Who leaves together with one that it came after goes first.
    let before = |it: &Known, name: &String| {
        let leaving = it.leaves.then(|| place(name, true)).flatten();
        leaving.or_else(|| place(name, false))
    };
    let mut members: Vec<Member> = Vec::with_capacity(all.len());
    for (index, it) in all.iter().enumerate() {
        let mut earlier = all.iter().take(index);
        let is_taken = earlier.any(|other| other.name == it.name) || is_cleared(it.name);
        members.push(Member {
            after: it
                .after
                .iter()
                .filter_map(|name| before(it, name))
                .collect(),
            phase: it.phase,
            runs: it.runs,
            settled: it.settled,
            condemned: it.essential && it.gave_up,
            place: match (it.leaves, is_taken && it.name != PIPELOCK) {
                (true, _) => Place::Leaves,
                (false, true) => Place::Waits,
                (false, false) => Place::Stays,
            },
        });
    }
    members
}

/// Lets whoever may begin or is to stop hear so; pipelock is the first. `stop`: all of them
/// are to have ended by then.
pub fn direct(
    members: &[Member],
    units: &mut [Directed],
    stop: Option<Instant>,
    timing: Timing,
    now: Instant,
) {
    let Some((firewall, companions)) = units.split_first_mut() else {
        return;
    };
    // One that fails before its turn to stop is not replaced.
    firewall.machine.hold(stop.is_some());
    let drains = stop.is_some() && firewall.drain_first();
    if stop.is_none() && firewall.machine.phase() == Phase::Idle {
        firewall.push(Event::Begin);
    }
    for (index, unit) in companions.iter_mut().enumerate().rev() {
        let index = index + 1;
        let may_begin = stop.is_none() && may_begin(members, index);
        unit.machine.hold(!may_begin);
        if may_begin && unit.machine.phase() == Phase::Idle {
            unit.push(Event::Begin);
        }
        if *unit.asked_to_stop || unit.machine.phase() == Phase::Ended {
            continue;
        }
        let leaves = members
            .get(index)
            .is_some_and(|it| it.place == Place::Leaves);
        let runs = members.get(index).is_some_and(|it| it.runs);
        let grace = match stop {
            // Whoever is about to start never does.
            Some(_) if !runs => timing.grace,
            Some(until) if !drains && may_stop(members, index) => {
                let until = until.checked_sub(timing.drain).unwrap_or(until);
                share(members, index, until.saturating_duration_since(now))
            }
            None if leaves && (!runs || may_stop(members, index)) => timing.grace,
            _ => continue,
        };
        unit.machine.set_timing(Timing {
            grace,
            drain: Duration::ZERO,
            ..timing
        });
        unit.push(Event::StopAsked);
    }
    if let Some(until) = stop
        && !drains
        && may_stop(members, 0)
    {
        firewall.stop_by(until, timing, now);
    }
}

/// Whether it may begin: nothing that it comes after is missing, and nobody is in its place.
#[must_use]
pub fn may_begin(members: &[Member], index: usize) -> bool {
    let Some(member) = members.get(index) else {
        return false;
    };
    let is_ready = |place: &usize| {
        let before = members.get(*place);
        before.is_some_and(|it| it.phase == Phase::Ready && it.settled && it.place == Place::Stays)
    };
    member.place == Place::Stays && member.after.iter().all(is_ready)
}

/// Whether it is to stop, while all do or with those that leave: nobody that comes after it is
/// left, neither one that comes after somebody who has ended before and came after it.
#[must_use]
pub fn may_stop(members: &[Member], index: usize) -> bool {
    let mut others = members.iter().enumerate().filter(|(_, it)| !it.has_ended());
    !others.any(|(other, _)| comes_after(members, other, index, members.len()))
}

/// Whether it comes after that one, at any remove; `limit` ends a circle.
fn comes_after(members: &[Member], index: usize, that: usize, limit: usize) -> bool {
    let after = members.get(index).filter(|_| limit > 0);
    after.is_some_and(|it| {
        let mut after = it.after.iter();
        after.any(|it| *it == that || comes_after(members, *it, that, limit - 1))
    })
}

/// Whether the bundle has to end for one that cannot live.
#[must_use]
pub fn must_end(members: &[Member]) -> bool {
    members
        .iter()
        .any(|it| it.condemned && it.place != Place::Leaves)
}

/// Of the time that is left for all, the part of this one: those that it comes after stop one
/// after another when it has ended, and have as much each.
#[must_use]
pub fn share(members: &[Member], index: usize, left: Duration) -> Duration {
    let depth = depth(members, index, members.len());
    left / u32::try_from(depth).unwrap_or(u32::MAX).max(1)
}

/// How many are left on the longest way from it to one that comes after nobody, itself included;
/// `limit` ends a circle, which no manifest has.
fn depth(members: &[Member], index: usize, limit: usize) -> usize {
    let Some(member) = members.get(index).filter(|_| limit > 0) else {
        return 0;
    };
    let before = member.after.iter();
    let before = before.map(|it| depth(members, *it, limit - 1)).max();
    usize::from(!member.has_ended()) + before.unwrap_or(0)
}

/// What the bundle is at: what pipelock is, and where that serves, what the first is that is
/// essential and does not. `others`: what each is at, whether it is essential, and whether the
/// agent can reach it.
#[must_use]
pub fn verdict(pipelock: State, others: &[(State, bool, bool)]) -> State {
    let others = || others.iter().copied();
    let is_down = |state| matches!(state, State::Halted | State::Stopped | State::Failed);
    match pipelock {
        State::Ready | State::Reloading => others()
            .filter(|(_, essential, _)| *essential)
            .find_map(|(state, ..)| match state {
                State::Ready => None,
                State::Backoff => Some(State::Backoff),
                State::Failed => Some(State::Stopping),
                _ => Some(State::Starting),
            })
            .unwrap_or(pipelock),
        // Halted is who lets nothing in.
        State::Halted if others().any(|(state, _, faces)| faces && !is_down(state)) => {
            State::Stopping
        }
        _ => pipelock,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::reaper::ExitReason;

    fn member(after: &[usize], phase: Phase) -> Member {
        Member {
            after: after.to_vec(),
            phase,
            runs: matches!(phase, Phase::Ready | Phase::Starting | Phase::Stopping),
            settled: true,
            condemned: false,
            place: Place::Stays,
        }
    }

    #[test]
    fn begins_each_when_all_that_it_comes_after_are_ready() {
        use Phase::{Backoff, Draining, Halted, Idle, Ready, Starting, Stopping};
        for (phase, may) in [
            (Ready, true),
            (Idle, false),
            (Starting, false),
            (Backoff, false),
            (Halted, false),
            (Draining, false),
            (Stopping, false),
        ] {
            let members = [
                member(&[], phase),
                member(&[], Ready),
                member(&[0, 1], Idle),
                member(&[], Idle),
            ];
            assert_eq!(may_begin(&members, 2), may, "{phase:?}");
            assert!(may_begin(&members, 3), "{phase:?}");
        }
        let mut members = [member(&[], Ready), member(&[0], Idle)];
        members[0].place = Place::Leaves;
        assert!(!may_begin(&members, 1));
        members[0].place = Place::Stays;
        members[0].settled = false;
        assert!(!may_begin(&members, 1));
        members[0].settled = true;
        members[1].place = Place::Waits;
        assert!(!may_begin(&members, 1));
        assert!(!may_begin(&members, 2));
    }

    #[test]
    fn stops_each_when_those_after_it_have_ended_with_a_share_of_the_time() {
        use Phase::{Ended, Ready};
        let mut members = vec![
            member(&[], Ready),
            member(&[0], Ready),
            member(&[0, 1], Ready),
            member(&[0], Ready),
        ];
        let may = |members: &[Member]| -> Vec<usize> {
            let all = 0..members.len();
            all.filter(|it| members[*it].phase != Ended && may_stop(members, *it))
                .collect()
        };
        let second = Duration::from_secs(1);
        assert_eq!(may(&members), [2, 3]);
        assert_eq!(share(&members, 2, 9 * second), 3 * second);
        assert_eq!(share(&members, 3, 8 * second), 4 * second);
        members[2].phase = Ended;
        assert_eq!(may(&members), [1, 3]);
        members[3].phase = Ended;
        members[1].phase = Ended;
        assert_eq!(may(&members), [0]);
        assert_eq!(share(&members, 0, 2 * second), 2 * second);
        // A circle ends.
        let circle = [member(&[1], Ready), member(&[0], Ready)];
        assert_eq!(share(&circle, 0, second), second / 2);
        assert!(!may_stop(&circle, 0));
        // One that gave up before leaves those on its two sides in their order.
        let broken = [member(&[], Ready), member(&[0], Ended), member(&[1], Ready)];
        assert_eq!(may(&broken), [2]);
        assert_eq!(share(&broken, 2, 8 * second), 4 * second);
    }

    const TIMING: Timing = Timing {
        grace: Duration::from_secs(8),
        drain: Duration::ZERO,
        probe: Duration::from_secs(5),
    };

    /// Who of these is told to stop, and who to begin.
    fn told(members: &[Member], machines: &mut [Machine], stop: Option<Instant>) -> String {
        let now = Instant::now();
        let mut events = vec![VecDeque::new(); machines.len()];
        let mut asked = vec![false; machines.len()];
        let units = machines.iter_mut().zip(&mut events).zip(&mut asked);
        let mut units: Vec<Directed> = units
            .map(|((machine, events), asked_to_stop)| Directed {
                machine,
                events,
                asked_to_stop,
            })
            .collect();
        direct(members, &mut units, stop, TIMING, now);
        drop(units);
        let words = events.iter().map(|it| match it.front() {
            None => '-',
            Some(Event::StopAsked) => 's',
            Some(Event::Begin) => 'b',
            Some(_) => '?',
        });
        words.collect()
    }

    fn started() -> Machine {
        let mut machine = Machine::new(TIMING);
        machine.step(Event::Begin, Instant::now());
        machine
    }

    #[test]
    fn those_that_leave_together_go_in_the_reverse_order_and_wait_for_nobody_who_is_not_there() {
        let (none, one, two) = (vec![], vec!["a".to_owned()], vec!["b".to_owned()]);
        let known = |name: &'static str, after, leaves, phase, runs| Known {
            name,
            after,
            essential: true,
            leaves,
            phase,
            runs,
            settled: true,
            gave_up: false,
        };
        let mut machines = [
            started(),
            started(),
            started(),
            started(),
            Machine::new(TIMING),
        ];
        let all = |last: Phase, runs| {
            [
                known(PIPELOCK, &none, false, Phase::Ready, true),
                known("a", &none, true, Phase::Ready, true),
                known("b", &one, true, Phase::Ready, true),
                known("c", &two, true, last, runs),
                // The next of that name waits, and is nobody's who leaves.
                known("a", &none, false, Phase::Idle, false),
            ]
        };
        let nobody = |_: &str| false;
        let mut now = |last, runs| told(&members(&all(last, runs), &nobody), &mut machines, None);
        assert_eq!(now(Phase::Ready, true), "---s-");
        assert_eq!(now(Phase::Stopping, true), "---s-");
        machines[3].step(Event::StopAsked, Instant::now());
        machines[3].step(Event::Exited(ExitReason::Code(0)), Instant::now());
        let last = members(&all(Phase::Ended, false), &nobody);
        assert_eq!(told(&last, &mut machines, None), "--s--");
    }

    #[test]
    fn a_stop_is_the_end_of_whoever_has_no_process_yet_whoever_comes_after_it() {
        let mut members = [
            member(&[], Phase::Ready),
            member(&[0], Phase::Starting),
            member(&[1], Phase::Ready),
        ];
        let stop = Instant::now() + TIMING.grace;
        let mut machines = [started(), started(), started()];
        assert_eq!(told(&members, &mut machines, Some(stop)), "--s");
        members[1].runs = false;
        assert_eq!(told(&members, &mut machines, Some(stop)), "-ss");
    }

    #[test]
    fn ends_for_one_that_is_condemned_and_wanted() {
        let mut members = [member(&[], Phase::Ready), member(&[], Phase::Ended)];
        assert!(!must_end(&members));
        members[1].condemned = true;
        assert!(must_end(&members));
        members[1].place = Place::Leaves;
        assert!(!must_end(&members));
    }

    #[test]
    fn is_ready_when_all_that_is_essential_is() {
        use State::{
            Backoff, Draining, Failed, Halted, Ready, Reloading, Starting, Stopping, Waiting,
        };
        let one = |state, essential| vec![(state, essential, true)];
        for (pipelock, others, wanted) in [
            (Ready, vec![], Ready),
            (Starting, vec![], Starting),
            (Ready, one(Ready, true), Ready),
            (Reloading, one(Ready, true), Reloading),
            (Ready, one(Waiting, true), Starting),
            (Ready, one(Starting, true), Starting),
            (Ready, one(Stopping, true), Starting),
            (Ready, one(Backoff, true), Backoff),
            (Ready, one(Failed, true), Stopping),
            (Ready, one(Failed, false), Ready),
            (Ready, one(Waiting, false), Ready),
            (Backoff, one(Ready, true), Backoff),
            (Draining, one(Ready, true), Draining),
            (Halted, one(Ready, false), Stopping),
            (Halted, one(Stopping, true), Stopping),
            (Halted, one(Halted, true), Halted),
            (Halted, vec![(Ready, true, false)], Halted),
            (Halted, one(Failed, false), Halted),
        ] {
            assert_eq!(
                verdict(pipelock, &others),
                wanted,
                "{pipelock:?} {others:?}"
            );
        }
    }
}
