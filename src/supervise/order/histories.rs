//! Random histories of a small bundle: its machines and what directs them are the real ones,
//! its daemons and its time are not. No order of events may break a promise.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::{Directed, Known, Place, direct, members, must_end};
use crate::exit::ExitCode;
use crate::policy::daemons::PIPELOCK;
use crate::supervise::machine::{
    Action, Answer, Change, Event, Machine, Outcome, Phase, Silence, Timing,
};
use crate::sys::reaper::ExitReason;

const SECOND: Duration = Duration::from_secs(1);

/// One of the others, as a manifest wants it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Wanted {
    name: usize,
    /// By their names; 0 is pipelock's.
    after: Vec<usize>,
    essential: bool,
    faces_the_agent: bool,
    /// Anything else of it.
    detail: u8,
}

#[derive(Debug, Clone)]
enum Happening {
    Wait(u64),
    UntilDeadline,
    /// This many of them become ready, as far as they may.
    Proves(usize),
    Answers(usize, Answer),
    Exits(Vec<usize>),
    SpawnFails(usize),
    IgnoresTerm(usize),
    Restarts(usize, bool),
    Halt,
    Resume,
    Stop,
    Manifest(Vec<Wanted>),
}

struct Daemon {
    ignores_term: bool,
    question: bool,
}

#[allow(
    clippy::struct_excessive_bools,
    reason = "each is a fact about the world"
)]
struct Unit {
    wanted: Wanted,
    leaves: bool,
    machine: Machine,
    events: VecDeque<Event>,
    asked_to_stop: bool,
    daemon: Option<Daemon>,
    gave_up: bool,
    spawn_fails: bool,
    ignores_term: bool,
}

impl Unit {
    fn new(wanted: Wanted, timing: Timing) -> Self {
        Self {
            wanted,
            leaves: false,
            machine: Machine::new(timing),
            events: VecDeque::new(),
            asked_to_stop: false,
            daemon: None,
            gave_up: false,
            spawn_fails: false,
            ignores_term: false,
        }
    }

    fn directed(&mut self) -> Directed<'_> {
        Directed {
            machine: &mut self.machine,
            events: &mut self.events,
            asked_to_stop: &mut self.asked_to_stop,
        }
    }

    fn has_ended(&self) -> bool {
        self.machine.phase() == Phase::Ended
    }

    fn is_wanted(&self, name: usize) -> bool {
        self.wanted.name == name && !self.leaves
    }
}

struct World {
    units: Vec<Unit>,
    timing: Timing,
    now: Instant,
    stop: Option<Instant>,
    /// How often it was asked for, and when first.
    asked: usize,
    began_to_stop: Option<Instant>,
    halted: bool,
}

impl World {
    fn new(wanted: &[Wanted], timing: Timing) -> Self {
        let pipelock = Wanted {
            name: 0,
            after: Vec::new(),
            essential: true,
            faces_the_agent: true,
            detail: 0,
        };
        let mut world = Self {
            units: vec![Unit::new(pipelock, timing)],
            timing,
            now: Instant::now(),
            stop: None,
            asked: 0,
            began_to_stop: None,
            halted: false,
        };
        world.follow(wanted);
        world.settle();
        world
    }

    /// As [`super::super::roster`] does it.
    fn follow(&mut self, wanted: &[Wanted]) {
        for unit in self.units.iter_mut().skip(1) {
            unit.leaves |= !wanted.contains(&unit.wanted);
        }
        // As in the roster: nobody comes once all are stopped.
        let coming = if self.stop.is_none() { wanted } else { &[] };
        for wanted in coming {
            if !self
                .units
                .iter()
                .any(|it| it.wanted == *wanted && !it.leaves)
            {
                let timing = Timing {
                    drain: Duration::ZERO,
                    ..self.timing
                };
                let mut new = Unit::new(wanted.clone(), timing);
                if self.halted && wanted.faces_the_agent {
                    new.events.push_back(Event::HaltAsked);
                }
                self.units.push(new);
            }
        }
    }

    fn members(&self) -> Vec<super::Member> {
        let names: Vec<String> = (0..8).map(name).collect();
        let after: Vec<Vec<String>> = self
            .units
            .iter()
            .map(|it| it.wanted.after.iter().map(|it| name(*it)).collect())
            .collect();
        let known: Vec<Known> = self
            .units
            .iter()
            .zip(&after)
            .map(|(it, after)| Known {
                name: &names[it.wanted.name],
                after,
                essential: it.wanted.essential,
                leaves: it.leaves,
                phase: it.machine.phase(),
                runs: it.daemon.is_some(),
                settled: it.events.is_empty(),
                gave_up: it.gave_up,
            })
            .collect();
        members(&known, &|_| false)
    }

    fn settle(&mut self) {
        let mut rounds = 0;
        loop {
            self.units.retain(|it| !(it.leaves && it.has_ended()));
            let members = self.members();
            if self.stop.is_none() && must_end(&members) {
                self.begin_to_stop();
            }
            let mut units: Vec<Directed> = self.units.iter_mut().map(Unit::directed).collect();
            direct(&members, &mut units, self.stop, self.timing, self.now);
            let mut moved = false;
            for index in 0..self.units.len() {
                while let Some(event) = self.units[index].events.pop_front() {
                    moved = true;
                    self.step(index, event);
                }
            }
            if !moved {
                break;
            }
            rounds += 1;
            assert!(rounds < 100, "it never comes to rest");
        }
        for (unit, member) in self.units.iter().zip(self.members()) {
            let cannot_live = unit.gave_up && unit.wanted.essential && !unit.leaves;
            assert!(
                !cannot_live || self.stop.is_some(),
                "{:?} gave up",
                unit.wanted
            );
            if self.stop.is_none() && member.place == Place::Leaves {
                let waits = self.is_followed_by_one_that_leaves(unit);
                assert!(unit.asked_to_stop || waits, "{:?} stays", unit.wanted);
            }
        }
    }

    fn begin_to_stop(&mut self) {
        self.stop = Some(self.now + self.timing.grace + self.timing.drain);
        self.began_to_stop = Some(self.now);
    }

    fn step(&mut self, index: usize, event: Event) {
        let before = self.units[index].machine.phase();
        let first_stop = event == Event::StopAsked && self.asked < 2 && !self.halted;
        let is_drained =
            before == Phase::Draining && matches!(event, Event::Tick | Event::Answered(_));
        let leaves = event == Event::StopAsked && self.stop.is_none();
        let actions = self.units[index].machine.step(event, self.now);
        for action in actions {
            match action {
                Action::Spawn => self.spawn(index),
                Action::Terminate => {
                    assert!(
                        !leaves || !self.is_followed_by_one_that_leaves(&self.units[index]),
                        "{:?} leaves before those after it",
                        self.units[index].wanted
                    );
                    let is_last = self.nobody_is_after(index) || self.units[index].leaves;
                    let told = first_stop || is_drained && self.asked < 2;
                    assert!(
                        self.stop.is_none() || !told || is_last,
                        "{:?} stops before those after it",
                        self.units[index].wanted
                    );
                    if self.units[index]
                        .daemon
                        .as_ref()
                        .is_some_and(|it| !it.ignores_term)
                    {
                        self.exit(index);
                    }
                }
                Action::Kill => self.exit(index),
                Action::ProbeFitness | Action::ProbeLiveness(_) | Action::CountTunnels => {
                    if let Some(daemon) = &mut self.units[index].daemon {
                        daemon.question = true;
                    }
                }
                Action::InstallDenyAll => {
                    self.units[index]
                        .events
                        .push_back(Event::DenyAllAcknowledged);
                }
                Action::InstallConfig => {
                    self.units[index]
                        .events
                        .push_back(Event::ReloadAcknowledged);
                }
                Action::AnnounceReady => assert!(self.units[index].daemon.is_some()),
                Action::Finish(outcome) => {
                    assert!(self.units[index].daemon.is_none(), "an end beside a daemon");
                    self.units[index].gave_up = matches!(outcome, Outcome::GaveUp(_));
                }
            }
        }
    }

    /// Whether one that leaves as well, and came after it, is there still.
    fn is_followed_by_one_that_leaves(&self, unit: &Unit) -> bool {
        self.units.iter().any(|it| {
            let after = it.wanted.after.contains(&unit.wanted.name);
            after && it.leaves && it.daemon.is_some()
        })
    }

    /// Whether `later` came after `earlier`: among those of one manifest, for who has taken another's
    /// place is not the one that those before knew by its name.
    fn came_after(&self, later: usize, earlier: usize) -> bool {
        let (later, earlier) = (&self.units[later], &self.units[earlier]);
        let name = earlier.wanted.name;
        let leaves = |it: &Unit| it.wanted.name == name && it.leaves;
        let knew = earlier.leaves || !self.units.iter().any(leaves);
        later.wanted.after.contains(&name) && if later.leaves { knew } else { !earlier.leaves }
    }

    /// At any remove: who is after somebody that has ended already is after this one as well.
    fn nobody_is_after(&self, index: usize) -> bool {
        let mut reached = vec![index];
        let mut seen = 0;
        while let Some(earlier) = reached.get(seen).copied() {
            seen += 1;
            for later in 0..self.units.len() {
                if !self.came_after(later, earlier) || reached.contains(&later) {
                    continue;
                }
                if !self.units[later].has_ended() {
                    return false;
                }
                reached.push(later);
            }
        }
        true
    }

    fn spawn(&mut self, index: usize) {
        let wanted = self.units[index].wanted.clone();
        assert!(self.stop.is_none(), "{wanted:?} starts after a stop");
        assert!(
            !self.units[index].leaves,
            "{wanted:?} starts although it leaves"
        );
        assert!(
            !(self.halted && wanted.faces_the_agent),
            "{wanted:?} starts while halted"
        );
        let mut alike = self.units.iter().filter(|it| it.wanted.name == wanted.name);
        assert!(alike.all(|it| it.daemon.is_none()), "a second {wanted:?}");
        for before in &wanted.after {
            let unit = self.units.iter().find(|it| it.is_wanted(*before)).unwrap();
            assert!(
                unit.machine.phase() == Phase::Ready && unit.daemon.is_some(),
                "{wanted:?} starts before {before}, which is {:?}",
                unit.machine.phase()
            );
        }
        let unit = &mut self.units[index];
        if std::mem::take(&mut unit.spawn_fails) {
            let why = "cannot execute it".to_owned();
            unit.events
                .push_back(Event::SpawnFailed(ExitCode::NotFound, why));
        } else {
            unit.daemon = Some(Daemon {
                ignores_term: std::mem::take(&mut unit.ignores_term),
                question: false,
            });
        }
    }

    fn exit(&mut self, index: usize) {
        let unit = &mut self.units[index];
        if unit.daemon.take().is_some() {
            unit.events.push_back(Event::Exited(ExitReason::Code(1)));
        }
    }

    fn proves(&mut self, index: usize) {
        let unit = &mut self.units[index];
        let Some(daemon) = &mut unit.daemon else {
            return;
        };
        daemon.question = false;
        let answer = match unit.machine.phase() {
            Phase::Starting => {
                unit.events.extend([Event::Confined, Event::Announced]);
                Answer::Fit
            }
            Phase::Draining => Answer::Tunnels(0),
            _ => Answer::Alive,
        };
        unit.events.push_back(Event::Answered(answer));
    }

    /// Lets time pass to `until`, with a tick at every deadline on the way.
    fn pass(&mut self, until: Instant) {
        let mut ticks = 0;
        loop {
            let deadlines = self.units.iter().filter_map(|it| it.machine.deadline());
            let Some(due) = deadlines.min().filter(|due| *due <= until) else {
                break;
            };
            self.now = self.now.max(due);
            for unit in &mut self.units {
                if unit.machine.deadline().is_some_and(|due| due <= self.now) {
                    unit.events.push_back(Event::Tick);
                }
            }
            self.settle();
            ticks += 1;
            assert!(ticks < 20_000, "the loop spins");
        }
        self.now = self.now.max(until);
        if let Some(began) = self.began_to_stop {
            let bound = self.timing.drain + self.timing.grace + 2 * SECOND;
            let over = self.units.iter().all(Unit::has_ended);
            assert!(
                over || self.now <= began + bound,
                "a stop that takes too long"
            );
        }
    }

    fn live(&mut self, happening: Happening) {
        let count = self.units.len();
        match happening {
            Happening::Wait(ms) => self.pass(self.now + Duration::from_millis(ms)),
            Happening::UntilDeadline => {
                let deadlines = self.units.iter().filter_map(|it| it.machine.deadline());
                if let Some(due) = deadlines.min() {
                    self.pass(due);
                }
            }
            Happening::Proves(many) => {
                for index in 0..many.min(count) {
                    // Those that have gone take others' places.
                    if index < self.units.len() {
                        self.proves(index);
                        self.settle();
                    }
                }
            }
            Happening::Answers(which, answer) => {
                let unit = &mut self.units[which % count];
                if unit
                    .daemon
                    .as_mut()
                    .is_some_and(|it| std::mem::take(&mut it.question))
                {
                    unit.events.push_back(Event::Answered(answer));
                }
            }
            // At once: before anybody hears of any of them.
            Happening::Exits(which) => {
                for index in which {
                    self.exit(index % count);
                }
            }
            Happening::SpawnFails(which) => self.units[which % count].spawn_fails = true,
            Happening::IgnoresTerm(which) => self.units[which % count].ignores_term = true,
            Happening::Restarts(which, revokes) => {
                let change = Event::ConfigChanged(Change::Restart { revokes });
                self.units[which % count].events.push_back(change);
            }
            Happening::Halt => {
                self.halted = self.stop.is_none() || self.halted;
                self.push_to_ways_in(&Event::HaltAsked);
            }
            Happening::Resume => {
                self.halted = false;
                self.push_to_ways_in(&Event::ResumeAsked);
            }
            Happening::Stop => self.ask_to_stop(),
            Happening::Manifest(wanted) => self.follow(&wanted),
        }
        self.settle();
    }

    fn push_to_ways_in(&mut self, event: &Event) {
        for unit in &mut self.units {
            if unit.wanted.faces_the_agent && !unit.leaves {
                unit.directed().push(event.clone());
            }
        }
    }

    fn ask_to_stop(&mut self) {
        self.asked += 1;
        if self.stop.is_none() {
            return self.begin_to_stop();
        }
        for unit in self.units.iter_mut().filter(|it| it.asked_to_stop) {
            unit.events.push_back(Event::StopAsked);
        }
    }

    /// Nothing goes wrong any more: whoever can live is ready some day.
    fn recover(&mut self) {
        self.live(Happening::Resume);
        for _ in 0..25 {
            for _ in 0..self.units.len() {
                self.live(Happening::Proves(usize::MAX));
            }
            self.pass(self.now + SECOND);
        }
        if self.stop.is_some() {
            return;
        }
        for unit in &self.units {
            let phase = unit.machine.phase();
            let waits_for_nobody = unit.wanted.after.iter().all(|name| {
                let before = self.units.iter().find(|it| it.is_wanted(*name)).unwrap();
                before.machine.phase() == Phase::Ready
            });
            assert!(
                !waits_for_nobody || unit.gave_up || phase == Phase::Ready,
                "{:?} is {phase:?} for ever",
                unit.wanted
            );
        }
    }
}

fn name(number: usize) -> String {
    match number {
        0 => PIPELOCK.to_owned(),
        _ => format!("d{number}"),
    }
}

/// Each after some of those with a smaller number; there is no circle then.
fn manifest() -> impl Strategy<Value = Vec<Wanted>> {
    let one = (any::<u8>(), any::<bool>(), any::<bool>(), 0_u8..2, 0_u8..4);
    proptest::collection::vec(one, 7).prop_map(|all| {
        let mut there = vec![0];
        let mut wanted = Vec::new();
        for (index, (bits, essential, faces_the_agent, detail, is_there)) in
            all.into_iter().enumerate()
        {
            if is_there == 0 {
                continue;
            }
            let after = there.iter().copied().filter(|it| bits & (1 << it) != 0);
            wanted.push(Wanted {
                name: index + 1,
                after: after.collect(),
                essential,
                faces_the_agent,
                detail,
            });
            there.push(index + 1);
        }
        wanted
    })
}

fn answer() -> impl Strategy<Value = Answer> {
    prop_oneof![
        Just(Answer::Silent(Silence::because("late"))),
        Just(Answer::Sick("sick".to_owned())),
        Just(Answer::Unfit("unfit".to_owned())),
        (0_u64..2).prop_map(Answer::Tunnels),
    ]
}

fn happening() -> impl Strategy<Value = Happening> {
    let which = || 0_usize..8;
    prop_oneof![
        4 => (0_u64..3_000).prop_map(Happening::Wait),
        1 => (20_000_u64..130_000).prop_map(Happening::Wait),
        6 => Just(Happening::UntilDeadline),
        10 => (1_usize..9).prop_map(Happening::Proves),
        4 => (which(), answer()).prop_map(|(which, answer)| Happening::Answers(which, answer)),
        6 => proptest::collection::vec(which(), 1..8).prop_map(Happening::Exits),
        1 => which().prop_map(Happening::SpawnFails),
        2 => which().prop_map(Happening::IgnoresTerm),
        2 => (which(), any::<bool>()).prop_map(|(which, revokes)| Happening::Restarts(which, revokes)),
        2 => Just(Happening::Halt),
        2 => Just(Happening::Resume),
        1 => Just(Happening::Stop),
        2 => manifest().prop_map(Happening::Manifest),
    ]
}

fn timing() -> impl Strategy<Value = Timing> {
    let drain = prop_oneof![Just(0_u64), 1..10_000_u64];
    (100_u64..10_000, drain).prop_map(|(grace, drain)| Timing {
        grace: Duration::from_millis(grace),
        drain: Duration::from_millis(drain),
        probe: 5 * SECOND,
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_bundle_keeps_every_promise_in_any_history(
        timing in timing(),
        wanted in manifest(),
        history in proptest::collection::vec(happening(), 1..80),
    ) {
        let mut world = World::new(&wanted, timing);
        for happening in history {
            world.live(happening);
        }
        world.recover();
        world.live(Happening::Stop);
        world.pass(world.now + timing.drain + timing.grace + 3 * SECOND);
        for unit in &world.units {
            prop_assert!(unit.has_ended() && unit.daemon.is_none(), "{:?}", unit.wanted);
        }
    }
}
