//! The daemons of a bundle: pipelock, which is always there, and the others, in the order in
//! which they begin. Who is next [`order`] decides; what follows from it is the units' to
//! perform.

use std::os::fd::BorrowedFd;
use std::time::Instant;

use nix::poll::PollFlags;

use super::Context;
use super::companion::Companion;
use super::firewall::{self, Firewall};
use super::machine::{Event, Failure, Outcome};
use super::order::{self, Directed, Known, Member, Place};
use super::unit::Unit;
use crate::bottle::credentials::Seen;
use crate::policy::Policy;
use crate::status::State;
use crate::sys::errand::Errand;
use crate::sys::reaper::ExitReason;

/// How supervision ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// As asked.
    Stopped,
    /// The daemon of this name cannot live.
    GaveUp(String, Failure),
}

/// Every unit.
pub(super) struct Roster {
    pub(super) firewall: Firewall,
    companions: Vec<Companion>,
    /// Whoever takes away what was another's, which nobody of that name may meet.
    clearing: Vec<(String, Errand)>,
    /// Whoever was to copy credentials for one that is gone, and is stuck with that.
    stuck: Vec<Errand>,
    /// What the host gives them, as it was seen last.
    credentials: Option<Seen>,
    /// They are being stopped, and have until then.
    stop: Option<Instant>,
    /// For whom, where nobody asked: whatever becomes of its place in the manifest meanwhile.
    condemned: Option<Verdict>,
    /// All that is essential was ready at once.
    proved: bool,
}

fn known(unit: &dyn Unit) -> Known<'_> {
    let (after, essential, leaves) = unit.wanted().map_or((&[][..], true, false), |wanted| {
        (wanted.after.as_slice(), wanted.essential, unit.is_leaving())
    });
    Known {
        name: unit.name(),
        after,
        essential,
        leaves,
        phase: unit.phase(),
        runs: unit.pid().is_some(),
        settled: !unit.life().is_unsettled(),
        gave_up: matches!(unit.outcome(), Some(Outcome::GaveUp(_))),
    }
}

impl Roster {
    /// Those that this policy wants.
    pub(super) fn new(policy: &Policy) -> Self {
        let wanted = policy.daemons.iter();
        Self {
            firewall: Firewall::new(policy),
            companions: wanted.map(|it| Companion::new(it, policy)).collect(),
            clearing: Vec::new(),
            stuck: Vec::new(),
            credentials: None,
            stop: None,
            condemned: None,
            proved: false,
        }
    }

    fn each(&self) -> impl Iterator<Item = &dyn Unit> {
        let companions = self.companions.iter().map(|it| it as &dyn Unit);
        std::iter::once(&self.firewall as &dyn Unit).chain(companions)
    }

    /// Each of them.
    pub(super) fn each_mut(&mut self) -> impl Iterator<Item = &mut dyn Unit> {
        let companions = self.companions.iter_mut().map(|it| it as &mut dyn Unit);
        std::iter::once(&mut self.firewall as &mut dyn Unit).chain(companions)
    }

    /// pipelock, and who else the agent can reach, goes down, or comes back.
    pub(super) fn push_to_ways_in(&mut self, event: &Event) {
        self.firewall.push(event.clone());
        for companion in &mut self.companions {
            if companion.faces_the_agent() && !companion.is_leaving() {
                companion.push(event.clone());
            }
        }
    }

    /// Takes over what a changed manifest wants: those that it has no more or has otherwise
    /// leave, and new ones begin in their time. The others are not touched. Once all are stopped
    /// nobody comes any more, and so nobody can be after one that has been asked to end.
    pub(super) fn follow(&mut self, policy: &Policy) {
        self.firewall.follow(policy);
        for companion in &mut self.companions {
            companion.set_timing(policy);
            if !companion.is_leaving() && !policy.daemons.contains(companion.wanted()) {
                let name = &companion.wanted().name;
                if self.stop.is_none() && policy.daemons.iter().any(|it| it.name == *name) {
                    log::info!("{name} changed: another takes its place");
                } else {
                    log::info!("{name} is not wanted any more");
                }
                companion.leave();
            }
        }
        let halted = self.firewall.life().machine.is_halted();
        let coming = if self.stop.is_none() {
            policy.daemons.as_slice()
        } else {
            &[]
        };
        for wanted in coming {
            let mut stay = self.companions.iter().filter(|it| !it.is_leaving());
            if !stay.any(|it| it.wanted() == wanted) {
                let mut new = Companion::new(wanted, policy);
                if halted && new.faces_the_agent() {
                    new.push(Event::HaltAsked);
                }
                self.companions.push(new);
            }
        }
        // In the order in which they begin; before it, those in whose places others come.
        let place = |it: &Companion| policy.daemons.iter().position(|new| new == it.wanted());
        self.companions
            .sort_by_cached_key(|it| place(it).filter(|_| !it.is_leaving()));
    }

    /// From now on they are stopped, the last first. Asked again, whoever is stopping hears
    /// it again.
    pub(super) fn stop(&mut self, policy: &Policy) {
        let times = &policy.supervisor;
        if self.stop.is_none() {
            self.stop = Some(Instant::now() + times.grace + times.drain);
            return;
        }
        for unit in self.each_mut() {
            if unit.life().asked_to_stop && unit.outcome().is_none() {
                unit.push(Event::StopAsked);
            }
        }
    }

    /// Lets whoever may begin or is to stop hear so, and all of them do what follows from what
    /// they heard; whether there is something to tell the host.
    pub(super) fn settle(&mut self, around: &mut Context) -> bool {
        let mut changed = false;
        loop {
            changed |= self.clear_away(around);
            for companion in &mut self.companions {
                companion.compare_told(around);
                if let Some(seen) = &self.credentials {
                    companion.follow_credentials(seen, around);
                }
            }
            self.direct(&around.desired.policy);
            let mut moved = false;
            for unit in self.each_mut() {
                moved |= unit.settle(around);
            }
            if !moved {
                return changed;
            }
            changed = true;
        }
    }

    /// The host gives them what has these marks.
    pub(super) fn hear_of_credentials(&mut self, marks: &[u8]) {
        self.credentials = Some(Seen::from_bytes(marks));
    }

    /// Forgets those that have left; what was theirs goes, where no other of that name has come.
    fn clear_away(&mut self, around: &mut Context) -> bool {
        let run_dir = around.setup.custody.run.path();
        let before = self.companions.len();
        let has_left = |it: &mut Companion| it.is_leaving() && it.outcome().is_some();
        let gone: Vec<Companion> = self.companions.extract_if(.., has_left).collect();
        for mut companion in gone {
            let name = companion.name().to_owned();
            self.stuck.append(companion.stuck());
            if !self.companions.iter().any(|it| it.name() == name)
                && let Some(errand) = companion.clear_away(run_dir)
            {
                self.clearing.push((name, errand));
            }
        }
        // Those that leave as well: they are there until they have ended.
        let mut names: Vec<&str> = Vec::with_capacity(self.companions.len());
        for companion in &self.companions {
            if !names.contains(&companion.name()) {
                names.push(companion.name());
            }
        }
        around.reporter.companions_are(&names);
        before != self.companions.len()
    }

    fn members(&self) -> Vec<Member> {
        let all: Vec<Known> = self.each().map(known).collect();
        let is_cleared = |name: &str| self.clearing.iter().any(|(cleared, _)| cleared == name);
        order::members(&all, &is_cleared)
    }

    fn direct(&mut self, policy: &Policy) {
        let members = self.members();
        let (timing, now) = (firewall::timing(policy), Instant::now());
        if self.stop.is_none() && order::must_end(&members) {
            self.stop = Some(now + timing.grace + timing.drain);
            self.condemned = self.condemned(&members);
        }
        let stop = self.stop;
        let mut units: Vec<Directed> = self.each_mut().map(|it| it.life_mut().directed()).collect();
        order::direct(&members, &mut units, stop, timing, now);
    }

    /// The first one that cannot live, and the bundle not without it.
    fn condemned(&self, members: &[Member]) -> Option<Verdict> {
        self.each().zip(members).find_map(|(unit, member)| {
            let condemned = member.condemned && member.place != Place::Leaves;
            match unit.outcome() {
                Some(Outcome::GaveUp(failure)) if condemned => {
                    Some(Verdict::GaveUp(unit.name().to_owned(), failure.clone()))
                }
                _ => None,
            }
        })
    }

    /// Notes for the status what each is at: of two of one name the one that leaves, for the other
    /// waits for its end.
    pub(super) fn report(&self, around: &mut Context) {
        let is_succeeded = |unit: &dyn Unit| {
            let mut leaving = self.companions.iter().filter(|it| it.is_leaving());
            !unit.is_leaving() && leaving.any(|it| it.name() == unit.name())
        };
        for unit in self.each().filter(|it| !is_succeeded(*it)) {
            unit.report(around);
        }
    }

    /// How it all ended, once it has: with the first one that could not live, else as asked.
    pub(super) fn outcome(&self) -> Option<Verdict> {
        self.stop?;
        if self.each().any(|unit| unit.outcome().is_none()) {
            return None;
        }
        let condemned = self.condemned.clone();
        Some(
            condemned
                .or_else(|| self.condemned(&self.members()))
                .unwrap_or(Verdict::Stopped),
        )
    }

    /// What the bundle is at.
    pub(super) fn state(&self) -> State {
        let others: Vec<_> = self
            .companions
            .iter()
            .filter(|it| !it.is_leaving())
            .map(|it| (it.state(), it.wanted().essential, it.faces_the_agent()))
            .collect();
        match self.stop {
            // Everything is; pipelock alone has its own word for it.
            Some(_) if !others.is_empty() => State::Stopping,
            _ => order::verdict(self.firewall.life().state(), &others),
        }
    }

    /// Whether the bundle is ready for the first time, of more than pipelock alone: of that one
    /// its first proof tells.
    pub(super) fn is_proved_now(&mut self, state: State) -> bool {
        let first = state == State::Ready && !self.proved;
        self.proved |= first;
        first && self.companions.iter().any(|it| it.wanted().essential)
    }

    /// Why an essential one is not ready, where pipelock is.
    pub(super) fn failure(&self) -> Option<String> {
        let mut essential = self.companions.iter().filter(|it| it.wanted().essential);
        essential.find_map(|it| {
            let failure = it.life().machine.last_failure()?;
            Some(failure.named(it.name()))
        })
    }

    /// Whether this child was sent to take away what was another's, or for credentials.
    pub(super) fn sent(&self, pid: i32) -> bool {
        self.clearing.iter().any(|(_, errand)| errand.pid() == pid)
            || self.stuck.iter().any(|errand| errand.pid() == pid)
            || self.companions.iter().any(|it| it.sent(pid))
    }

    /// The same of one that was reaped.
    pub(super) fn has_come_back(&mut self, pid: i32) -> bool {
        let was_sent = self.sent(pid);
        self.clearing.retain(|(_, errand)| errand.pid() != pid);
        self.stuck.retain(|errand| errand.pid() != pid);
        for companion in &mut self.companions {
            companion.stuck().retain(|errand| errand.pid() != pid);
        }
        was_sent
    }

    /// Hands the end of a process to whose it was; false where it was nobody's.
    pub(super) fn ended(&mut self, pid: i32, reason: ExitReason, around: &mut Context) -> bool {
        let whose = self.each_mut().find(|unit| unit.pid() == Some(pid));
        let found = whose.map(|unit| unit.ended(reason, around));
        found.is_some()
    }

    /// Whether this process is a unit's, or belongs to one that runs: nobody leaves the
    /// control group that it was started in.
    pub(super) fn owns(&self, pid: i32, around: &Context) -> bool {
        self.each()
            .any(|unit| unit.pid() == Some(pid) || unit.owns(pid, around))
    }

    /// What they say, and whose it is.
    pub(super) fn speech(&self) -> impl Iterator<Item = (usize, BorrowedFd<'_>)> {
        let units = self.each().enumerate();
        units.flat_map(|(index, unit)| unit.speech().into_iter().map(move |fd| (index, fd)))
    }

    /// Lets this one's words be heard.
    pub(super) fn hear(&mut self, index: usize, around: &mut Context) {
        if let Some(unit) = self.each_mut().nth(index) {
            unit.hear(around);
        }
    }

    /// The connections whose answers are waited for.
    pub(super) fn questions(&self) -> impl Iterator<Item = (BorrowedFd<'_>, PollFlags)> {
        self.each().filter_map(Unit::question)
    }

    /// When one of them has something to do.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.each().filter_map(Unit::deadline).min()
    }
}
