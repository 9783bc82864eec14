//! Keeps the daemons of a bundle running as the manifest asks, until it is told to stop.
//! Touches the kernel through `sandbox` and `sys`; this module is the loop.
//!
//! One thread waits in one place, for the next event or deadline, and hands what happened to
//! whom it concerns: a roster of units, each with a [`machine`] that decides.
#![forbid(unsafe_code)]

pub mod backoff;
mod companion;
mod firewall;
mod follow;
mod grants;
mod launch;
pub mod machine;
mod notice;
pub mod order;
mod pair;
pub mod prober;
mod process;
pub mod relay;
mod roster;
mod unit;
pub mod vitals;

use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::path::Path;
use std::rc::Rc;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::boot::network::NetworkError;
use crate::bottle::looker::{Looker, News};
use crate::bottle::names::Names;
use crate::bottle::{Bottle, Desired};
use crate::ca::authority::Custody;
use crate::policy::Policy;
use crate::policy::daemons::Users;
use crate::sandbox::Sandbox;
use crate::sandbox::landlock::Grants;
use crate::status::export::Content;
use crate::status::{Reporter, State};
use crate::sys::console::console;
use crate::sys::reaper;
use crate::sys::signals::{self, Request, Signals};
use crate::sys::steps::Steps;
use crate::sys::watch;
use follow::Pace;
use machine::Event;
pub use pair::Pair;
use roster::Roster;
pub use roster::Verdict;
use unit::Unit;

/// However much daemons have to say, so often it is heard that a child has ended.
const LET_IN_EVERY: Duration = Duration::from_millis(50);

/// The status is told again at most this often where only its counters have changed.
const COUNTERS_EVERY: Duration = Duration::from_secs(1);

/// Whoever looks at the manifest wakes this loop, and it looks after its own things then: one
/// waking serves both. A little later it does so by itself.
const LOOK_EVERY: Duration = watch::INTERVAL.saturating_add(Duration::from_millis(200));

/// What clients are told, of a configuration, of the CA's certificate, and of what they trust
/// for the daemon that is their proxy.
pub type Clients<'a> =
    dyn Fn(&Desired, &Rc<str>, Option<&Rc<str>>) -> [(&'static str, Content); 4] + 'a;

/// Everything supervision needs to know.
pub struct Setup<'a> {
    /// The daemon's executable.
    pub daemon: &'a Path,
    /// Where its configuration goes.
    pub config: &'a Path,
    /// Where extra roots go; also what `SSL_CERT_FILE` says.
    pub trust_bundle: &'a Path,
    /// Judges what was read of the manifest.
    pub bottle: &'a Bottle,
    /// Applies what of a changed manifest is not the daemon's: host names.
    pub apply: &'a dyn Fn(&Desired) -> Result<(), NetworkError>,
    /// What its clients are told.
    pub clients: &'a Clients<'a>,
    /// Invites whoever started it to use it, once it can be.
    pub invite: &'a dyn Fn(&Policy),
    /// Judges a CA pair that changed, and has the directory of the configuration.
    pub custody: Custody<'a>,
    /// What the daemon may be.
    pub sandbox: Sandbox,
    /// What all daemons have of the machine's memory, in bytes, where each has a control group.
    pub memory: Option<u64>,
    /// A sandbox that is not known to be complete is a failed start.
    pub require_sandbox: bool,
}

impl Setup<'_> {
    /// What the daemon is granted while it listens there.
    #[must_use]
    pub fn grants(&self, listen: SocketAddr) -> Grants {
        // The directory, because the configuration is replaced by renaming, and
        // because the daemon watches it.
        let directory = self.custody.run.path();
        let pair = self.custody.files;
        let read = [directory, self.trust_bundle, &pair.cert, &pair.key];
        Grants::proxy(
            self.daemon.to_owned(),
            read.map(Path::to_owned).into(),
            listen,
        )
    }
}

/// Starts the daemons and keeps them until the end, on what `looker` reads.
pub fn supervise<'a>(
    setup: &'a Setup<'a>,
    mut desired: Desired,
    pair: Pair,
    looker: Looker<'a>,
    signals: &mut Signals,
    reporter: &'a mut Reporter,
) -> Verdict {
    let now = Instant::now();
    let mut users = Users::default();
    users.keep(&mut desired.policy.daemons);
    reporter.supervision_began(desired.policy.listen);
    reporter.config_wanted(&desired.config_sha256);
    let mut supervisor = Supervisor {
        ended: grants::Ended::default(),
        roster: Roster::new(&desired.policy),
        looker,
        next_look: now + LOOK_EVERY,
        steps: watch_clock(reporter),
        users,
        names: None,
        pace: Pace::begin(now),
        setup,
        desired,
        pair,
        reporter,
        reap_again: true,
        sweeping: false,
        changed: true,
        told_counters: (0, 0),
        told_at: now,
    };
    supervisor.begin_grants();
    supervisor.run(signals)
}

/// What a unit works with beside itself.
struct Context<'a> {
    setup: &'a Setup<'a>,
    desired: &'a mut Desired,
    pair: &'a mut Pair,
    reporter: &'a mut Reporter,
}

struct Supervisor<'a> {
    roster: Roster,
    looker: Looker<'a>,
    /// When to look after what is ours, where nobody who looks at the manifest wakes us.
    next_look: Instant,
    steps: Option<Steps>,
    /// Which users the daemons have had.
    users: Users,
    /// The grants that are over.
    ended: grants::Ended,
    /// The files that resolve names, as they were last seen.
    names: Option<Names>,
    /// How often a daemon is restarted for those.
    pace: Pace,
    setup: &'a Setup<'a>,
    desired: Desired,
    pair: Pair,
    reporter: &'a mut Reporter,
    reap_again: bool,
    /// A daemon that ended may have left processes behind.
    sweeping: bool,
    /// Something to tell the host that no event brought.
    changed: bool,
    /// What was last told of children reaped and lines dropped, and when.
    told_counters: (u64, u64),
    told_at: Instant,
}

impl Supervisor<'_> {
    fn run(&mut self, signals: &mut Signals) -> Verdict {
        let mut let_in = Instant::now();
        loop {
            self.end_grants();
            self.settle();
            if let Some(verdict) = self.roster.outcome() {
                return verdict;
            }
            let speakers = self.wait(signals);
            if !speakers.is_empty() && let_in.elapsed() > LET_IN_EVERY {
                signals::let_in();
                let_in = Instant::now();
            }
            for (number, request) in signals.take() {
                self.request(number, request);
            }
            if self.reap_again {
                self.reap();
            }
            let (roster, mut around) = self.parts();
            for index in speakers {
                roster.hear(index, &mut around);
            }
            console().flush_ready();
            let now = Instant::now();
            for unit in roster.each_mut() {
                unit.advance(now, &mut around);
            }
            self.look(now);
            if let Some(by) = self.steps.as_mut().and_then(Steps::take) {
                self.clock_stepped(by);
            }
            self.reporter.tick(now);
            self.changed |= self.counters_deadline().is_some_and(|due| now >= due);
            for unit in self.roster.each_mut() {
                unit.tick(now);
            }
        }
    }

    /// The units, and what they work with.
    fn parts(&mut self) -> (&mut Roster, Context<'_>) {
        let around = Context {
            setup: self.setup,
            desired: &mut self.desired,
            pair: &mut self.pair,
            reporter: self.reporter,
        };
        (&mut self.roster, around)
    }

    /// Lets the units do what follows from what they heard, then tells the host.
    fn settle(&mut self) {
        let (roster, mut around) = self.parts();
        let mut changed = roster.settle(&mut around);
        changed |= std::mem::take(&mut self.changed);
        if !changed {
            return;
        }
        let state = self.roster.state();
        let halted = state == State::Halted && !self.sweeping;
        let (roster, mut around) = self.parts();
        if halted != around.reporter.status().port.is_some() {
            roster.firewall.judge_port(halted, &mut around);
        }
        roster.report(&mut around);
        let is_halted = roster.firewall.life().machine.is_halted();
        around.reporter.state_reached(state, is_halted);
        let own = roster.firewall.life().own_state();
        around.reporter.pipelock_reached(own);
        around.reporter.companion_failed(roster.failure());
        if roster.is_proved_now(state) {
            around.reporter.finish_stages();
            log::info!("ready: the whole bundle");
            (around.setup.invite)(&around.desired.policy);
        }
        self.reporter.publish();
        self.told_counters = self.counters();
        self.told_at = Instant::now();
    }

    /// The only wait: for a signal, a daemon's output, an answer, or a deadline. The daemons
    /// that have something to say.
    fn wait(&self, signals: &Signals) -> Vec<usize> {
        let mut waiting = vec![PollFd::new(signals.as_fd(), PollFlags::POLLIN)];
        let mut speakers = Vec::new();
        for (index, fd) in self.roster.speech() {
            speakers.push(index);
            waiting.push(PollFd::new(fd, PollFlags::POLLIN));
        }
        let questions = self.roster.questions();
        waiting.extend(questions.map(|(fd, flags)| PollFd::new(fd, flags)));
        let told = self.reporter.as_fd().into_iter();
        let stepped = self.steps.iter().map(AsFd::as_fd);
        waiting.extend(
            told.chain(self.looker.as_fd())
                .chain(self.pair.as_fd())
                .chain(stepped)
                .map(|fd| PollFd::new(fd, PollFlags::POLLIN)),
        );
        let counters = self.counters_deadline();
        // Held to the end of the wait: nothing below may ask for it again.
        let console = console();
        let deadlines = [
            Some(self.next_look),
            self.looker.deadline(),
            self.pair.deadline(),
            self.roster.deadline(),
            console.deadline(Instant::now()),
            self.reporter.deadline(Instant::now()),
            counters,
        ];
        let deadline = deadlines.into_iter().flatten().min();
        let mut timeout =
            deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        if self.reap_again {
            timeout = Some(Duration::ZERO);
        }
        waiting.extend(
            console
                .waiting()
                .map(|fd| PollFd::new(fd, PollFlags::POLLOUT)),
        );
        signals::wait(&mut waiting, timeout);
        let ready = waiting.iter().skip(1).map(|fd| fd.any() == Some(true));
        let mut speaking: Vec<usize> = speakers
            .into_iter()
            .zip(ready)
            .filter_map(|(index, ready)| ready.then_some(index))
            .collect();
        speaking.dedup();
        speaking
    }

    /// Hears of the manifest, and looks from time to time at what was written.
    fn look(&mut self, now: Instant) {
        let mut looks = now >= self.next_look;
        for news in self.looker.advance(now) {
            looks |= !matches!(news, News::Silent(_) | News::Unsent(..) | News::Answers);
            self.hear_of_manifest(news);
        }
        self.look_after_pair(now);
        if !looks {
            return;
        }
        self.next_look = now + LOOK_EVERY;
        self.grant_names(now);
        self.changed |= self.reporter.look_at_validity();
        let (roster, mut around) = self.parts();
        roster.firewall.look(&mut around);
        self.changed |= self.reporter.lost_its_status();
        if self.reporter.take_up_export() {
            self.changed = true;
            let (certificate, agents) = self.pair.trusted();
            let clients = (self.setup.clients)(&self.desired, certificate, agents);
            self.reporter.export(clients);
        }
        self.reporter.look_after_export(now);
    }

    fn request(&mut self, number: i32, request: Request) {
        let name = Signal::try_from(number).map_or("signal", Signal::as_str);
        if request != Request::Reap {
            self.reporter.asked();
            self.changed = true;
        }
        match request {
            Request::Reap => self.reap_again = true,
            Request::Stop => {
                log::info!("{name}: stopping");
                self.reporter.stopping();
                self.roster.stop(&self.desired.policy);
            }
            Request::Reload => {
                log::info!("{name}: reading the manifest again");
                self.reporter.reloading();
                self.looker.ask();
            }
            Request::Halt => {
                log::warn!("{name}: halting");
                self.roster.push_to_ways_in(&Event::HaltAsked);
            }
            Request::Resume => {
                log::info!("{name}: resumed");
                self.roster.push_to_ways_in(&Event::ResumeAsked);
            }
        }
    }

    fn reap(&mut self) {
        let reaped = reaper::reap_exited_children();
        self.reap_again = reaped.more;
        for exit in reaped.exits {
            // Whoever writes for us is no orphan.
            if console().reaped(exit.pid)
                || self.reporter.sent(exit.pid)
                || self.looker.pid() == Some(exit.pid)
                || self.pair.pid() == Some(exit.pid)
                || self.roster.has_come_back(exit.pid)
            {
                continue;
            }
            self.reporter.reaped(1);
            let (roster, mut around) = self.parts();
            if roster.ended(exit.pid, exit.reason, &mut around) {
                // Those that left its group, once this batch is done.
                self.sweeping = true;
            } else {
                log::debug!("reaped orphan {}, which {}", exit.pid, exit.reason);
            }
        }
        if self.sweeping {
            self.sweep();
            // Now the port can be judged.
            self.changed |= !self.sweeping;
        }
    }

    /// Kills what an ended daemon left behind: whatever is our child now and is nobody's.
    /// Each one's own children are ours once it has been reaped.
    fn sweep(&mut self) {
        let looker = self.looker.pid();
        let (roster, around) = self.parts();
        let is_ours = |pid| {
            let sent = [looker, around.pair.pid()].contains(&Some(pid));
            sent || console().sent(pid) || around.reporter.sent(pid)
        };
        let mut left = reaper::children();
        left.retain(|pid| !roster.owns(*pid, &around) && !is_ours(*pid) && !roster.sent(*pid));
        self.sweeping = !left.is_empty();
        for pid in left {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
    }

    /// Every interval here is monotonic. What the clock dates is not: the daemon's
    /// certificates, and the CA's own validity.
    fn clock_stepped(&mut self, by_ms: i64) {
        self.changed = true;
        let seconds = by_ms.saturating_add(500).div_euclid(1000);
        self.reporter.clock_stepped(seconds);
        self.roster.firewall.clock_stepped(by_ms);
    }

    fn counters(&self) -> (u64, u64) {
        (self.reporter.status().reaped, console().dropped())
    }

    /// When counters that moved without an event are told: an orphan that was reaped, a
    /// line that was dropped.
    fn counters_deadline(&self) -> Option<Instant> {
        (self.counters() != self.told_counters).then(|| self.told_at + COUNTERS_EVERY)
    }
}

fn watch_clock(reporter: &mut Reporter) -> Option<Steps> {
    Steps::watch()
        .inspect_err(|errno| {
            let why = errno.desc();
            reporter.warn(format!("steps of the clock will not be noticed: {why}"));
        })
        .ok()
}
