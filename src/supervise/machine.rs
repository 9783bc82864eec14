//! The state machine of supervision: `step(event, now)` decides, the loop in the
//! parent module performs. Pure and total: every event is answered in every state.

use std::time::{Duration, Instant};

use super::backoff::{RestartPolicy, Verdict};
use crate::exit::ExitCode;
use crate::policy::daemons::PIPELOCK;
use crate::sys::reaper::ExitReason;

/// A daemon that is not ready by then has failed. Generous: under emulation, on two
/// busy cores, pipelock takes several seconds.
pub const START_DEADLINE: Duration = Duration::from_secs(30);
/// Liveness probes missed in a row, without work that explains it, before the daemon is
/// restarted.
pub const MISSES: u8 = 3;
/// A question has this long to be answered.
pub const PATIENCE: Duration = Duration::from_secs(2);
/// And this long where the daemon is known to be at work. With 57 bodies being scanned at
/// once on two processors pipelock took up to 2.4 s for its health and the canary; the time
/// grows with their number.
pub const PATIENCE_WITH_WORK: Duration = Duration::from_secs(30);
/// A daemon that used this part of one processor between two missed probes is at work. An
/// idle pipelock uses less than a thousandth; one that scans, all it can get.
pub const AT_WORK: u32 = 50;
/// However busy, a daemon that answered nothing for this long is restarted: pipelock cuts a
/// tunnel after 300 s (`max_tunnel_seconds`), so what it worked on when it fell silent is
/// nobody's any more.
pub const LONGEST_SILENCE: Duration = Duration::from_secs(300);
/// SIGTERM to SIGKILL where waiting longer would harm: a revoked host, or a daemon
/// that has already stopped answering. pipelock ends within milliseconds, or waits for its
/// tunnels, which are what has to go.
pub const SHORT_GRACE: Duration = Duration::from_millis(400);
/// A reload is acknowledged within this or the daemon is restarted: pipelock takes
/// 100 ms of debounce (PIPELOCK.md) and a few milliseconds.
pub const RELOAD_DEADLINE: Duration = Duration::from_secs(3);
/// A daemon that SIGKILL did not end by then is stuck in the kernel: a stop goes on
/// without it. A restart waits, because the port is still its.
pub const ABANDON: Duration = Duration::from_millis(500);
/// Between two looks at the open tunnels while draining.
pub const DRAIN_INTERVAL: Duration = Duration::from_millis(250);
/// Between two readiness probes, once the daemon has said it is about to listen.
const READY_INTERVAL: Duration = Duration::from_millis(1);
/// Between two readiness probes before it has said so.
const STARTING_INTERVAL: Duration = Duration::from_millis(100);

/// A start that takes longer is told why, and so often again: nobody waits for the deadline to
/// learn of a wrong port.
const SLOW_START: Duration = Duration::from_secs(10);

/// The manifest's share of the timing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timing {
    /// SIGTERM to SIGKILL on a wanted stop.
    pub grace: Duration,
    /// How long a wanted stop or restart waits for open tunnels first.
    pub drain: Duration,
    /// Between two liveness probes.
    pub probe: Duration,
}

/// How a new configuration relates to the one in force.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// The allowlist only grew: the daemon can take it by a reload.
    Grow,
    /// Anything else. `revokes`: a host lost its permission, so nothing waits.
    Restart {
        /// True when a host that was allowed no longer is.
        revokes: bool,
    },
}

/// What came of asking the daemon something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// Healthy, strict, intercepting; and it refused what it had to refuse.
    Fit,
    /// The same to a liveness probe, which may have been asked before a reload: of that it
    /// proves nothing.
    Alive,
    /// No answer, or not in time.
    Silent(Silence),
    /// It answered that a part of it does not work.
    Sick(String),
    /// It answered, but not as a firewall that is on would.
    Unfit(String),
    /// The tunnels open now.
    Tunnels(u64),
}

/// A question that was not answered, and what can be seen of the daemon meanwhile.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Silence {
    /// What came instead.
    pub why: String,
    /// Nothing came, for as long as it was waited.
    pub late: bool,
    /// The processor time it has used since its start; `None` where nobody tells.
    pub used: Option<Duration>,
    /// What its clients have exhausted, where they have.
    pub overload: Option<String>,
}

impl Silence {
    /// A silence of which nothing else is known.
    #[must_use]
    pub fn because(why: impl Into<String>) -> Self {
        Self {
            why: why.into(),
            ..Self::default()
        }
    }
}

/// Whatever can happen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// Supervision begins.
    Begin,
    /// TERM, INT, QUIT, PWR.
    StopAsked,
    /// USR1.
    HaltAsked,
    /// USR2.
    ResumeAsked,
    /// The manifest asks for another configuration.
    ConfigChanged(Change),
    /// The daemon could not be started; the exit code for that and the sentence.
    SpawnFailed(ExitCode, String),
    /// It runs, and its sandbox reads back as it was asked for.
    Confined,
    /// It said that it is about to listen, with the hash of our configuration.
    Announced,
    /// It acknowledged the configuration that is wanted.
    ReloadAcknowledged,
    /// It acknowledged the deny-all configuration of a drain.
    DenyAllAcknowledged,
    /// It refused a reload.
    ReloadRefused,
    /// It contradicts what it was told: another configuration, a sandbox with a hole.
    Unfit(String),
    /// A probe ended.
    Answered(Answer),
    /// The daemon ended.
    Exited(ExitReason),
    /// The kernel ended it because memory ran out; whose limit that was.
    OutOfMemory(ExitReason, String),
    /// A deadline has passed.
    Tick,
}

/// What the loop has to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Start the daemon, on the configuration that is wanted.
    Spawn,
    /// SIGTERM to the daemon's process group.
    Terminate,
    /// SIGKILL to the daemon's process group.
    Kill,
    /// Ask for its health, then ask it to refuse the canary: it is to become ready.
    ProbeFitness,
    /// Ask the same of one that is ready, and wait this long for the answer.
    ProbeLiveness(Duration),
    /// Ask how many tunnels are open.
    CountTunnels,
    /// Put the wanted configuration where the daemon reloads it.
    InstallConfig,
    /// Put the deny-all configuration there.
    InstallDenyAll,
    /// Ready for the first time, again, or with another configuration.
    AnnounceReady,
    /// Supervision is over and no daemon is left.
    Finish(Outcome),
}

/// Why a daemon counts as failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Failure {
    /// It could not be started: the exit code for that, a sentence.
    Spawn(ExitCode, String),
    /// It ended by itself.
    Exited(ExitReason),
    /// It was not ready within this time; what the last probe said.
    NotReady(Duration, String),
    /// It answers as no firewall should.
    Unfit(String),
    /// It missed its liveness probes, and did nothing meanwhile; what the last one said.
    Unresponsive(String),
    /// It missed them with something exhausted that its clients had asked too much of.
    Overloaded(String),
    /// It was busy and answered nothing for this long; the processor time that took.
    Spinning(Duration, Duration),
    /// It answered its liveness probes, but that it is not well.
    Sick(String),
    /// It ended for lack of memory.
    OutOfMemory(ExitReason, String),
}

impl Failure {
    /// Whether it says more about how much was asked of the daemon than about the daemon:
    /// to end the machine for it would be the doing of whoever asks. Who floods the port
    /// does so during a start as well; but one that starves before it was ready has too
    /// little memory, whatever is asked.
    fn is_overload(&self, ready_for: Option<Duration>) -> bool {
        match self {
            Self::Overloaded(_) => true,
            Self::OutOfMemory(..) => ready_for.is_some(),
            _ => false,
        }
    }

    /// The same where nothing else says whose it is: a program that is not there, or a proof, is
    /// pipelock's unless it is said to be another's.
    #[must_use]
    pub fn named(&self, name: &str) -> String {
        match self {
            Self::Spawn(_, why) | Self::Unfit(why) if name != PIPELOCK => format!("{name}: {why}"),
            _ => self.of(name),
        }
    }

    /// It in a sentence, of the daemon of this name.
    #[must_use]
    pub fn of(&self, name: &str) -> String {
        match self {
            Self::Spawn(_, why) | Self::Unfit(why) => why.clone(),
            Self::Exited(reason) => format!("{name} {reason}"),
            Self::NotReady(within, last) => {
                format!("{name} was not ready within {} s: {last}", within.as_secs())
            }
            Self::Unresponsive(last) => {
                format!("{name} missed {MISSES} liveness probes: {last}")
            }
            Self::Overloaded(what) => format!("{name} was overloaded: {what}"),
            Self::Spinning(silent, used) => format!(
                "{name} answered nothing for {} s, while it used {} s of processor time",
                silent.as_secs(),
                used.as_secs()
            ),
            Self::Sick(why) => format!("{name} is not well: {why}"),
            Self::OutOfMemory(reason, limit) => {
                format!("{name} {reason}: out of memory, {limit}")
            }
        }
    }
}

/// How supervision ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// As asked.
    Stopped,
    /// The daemon cannot live.
    GaveUp(Failure),
}

/// A failure that a daemon is brought down for, and how long it had been ready.
type Cause = Option<(Failure, Option<Duration>)>;

#[derive(Debug, Clone)]
enum State {
    Idle,
    Waiting {
        until: Instant,
    },
    Halted,
    Starting {
        deadline: Instant,
        next_probe: Option<Instant>,
        confined: bool,
        announced: bool,
        fit: bool,
        last: Silence,
        /// When it is told next why it is not ready, and that, once it was.
        tell_at: Instant,
        trouble: Option<String>,
    },
    Ready {
        since: Instant,
        next_probe: Option<Instant>,
        quiet: Option<Quiet>,
        reload: Reload,
    },
    Draining {
        until: Instant,
        next_count: Option<Instant>,
        counting: bool,
        /// There is nothing to wait for any more.
        over: bool,
    },
    /// What follows is known from `stopping` and `halted`, and from the cause.
    Stopping {
        /// `None` once it was killed.
        kill_at: Option<Instant>,
        /// Set once it was killed and nobody waits for it to be replaced.
        abandon_at: Option<Instant>,
        cause: Cause,
    },
    Ended,
}

/// A ready daemon that does not answer as it should.
#[derive(Debug, Clone)]
struct Quiet {
    /// When the first probe of these was found missed.
    since: Instant,
    /// In a row, without work that explains it.
    misses: u8,
    /// It was at work between the newest two.
    works: bool,
    /// The processor time it had used at the first one and at the newest, and when that was.
    first: Option<Duration>,
    newest: Option<Duration>,
    newest_at: Instant,
    /// For the status.
    trouble: String,
}

impl Quiet {
    fn begin(now: Instant) -> Self {
        Self {
            since: now,
            misses: 0,
            works: false,
            first: None,
            newest: None,
            newest_at: now,
            trouble: String::new(),
        }
    }

    /// Takes in one more missed probe; a failure where it was one too many.
    fn missed(&mut self, silence: Silence, now: Instant) -> Option<Failure> {
        let within = now.saturating_duration_since(self.newest_at);
        self.works = silence
            .used
            .zip(self.newest)
            .map(|(used, before)| used.saturating_sub(before))
            .is_some_and(|worked| !worked.is_zero() && worked >= within / AT_WORK);
        self.first = self.first.or(silence.used);
        self.newest = silence.used;
        self.newest_at = now;
        self.misses = if self.works { 0 } else { self.misses + 1 };
        let silent = now.saturating_duration_since(self.since);
        let used = silence.used.zip(self.first);
        let used = used.map_or(Duration::ZERO, |(used, first)| used.saturating_sub(first));
        if self.misses >= MISSES {
            return Some(match silence.overload {
                Some(what) => Failure::Overloaded(what),
                None => Failure::Unresponsive(silence.why),
            });
        }
        if silent >= LONGEST_SILENCE {
            return Some(Failure::Spinning(silent, used));
        }
        self.trouble = match silence.overload {
            Some(what) => format!("overloaded: {what}"),
            None if self.works => format!(
                "busy: has not answered its probe for {} s, while it used {} s of processor time",
                silent.as_secs(),
                used.as_secs()
            ),
            None => format!("silent: missed a liveness probe: {}", silence.why),
        };
        None
    }

    /// Takes in an answer that says it is not well.
    fn sick(&mut self, why: String) -> Option<Failure> {
        self.misses += 1;
        if self.misses >= MISSES {
            return Some(Failure::Sick(why));
        }
        self.trouble = format!("not well: {why}");
        None
    }
}

/// How far a reload has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reload {
    None,
    /// Installed; the daemon has until then to acknowledge it.
    Installed(Instant),
    /// Acknowledged; the canary decides, until then.
    Proving(Instant),
}

/// The state's name, for the status.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// At rest: nothing has begun, or what it needs is not ready.
    Idle,
    /// The daemon failed; the next start is waited for.
    Backoff,
    /// Down on request until resumed.
    Halted,
    /// Started, not yet proved.
    Starting,
    /// Serving, and proved to refuse.
    Ready,
    /// Waiting for open tunnels to end.
    Draining,
    /// Told to end.
    Stopping,
    /// Over.
    Ended,
}

impl Phase {
    /// The word used in the drawing of docs/architecture.md.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::Backoff => "backoff",
            Self::Halted => "halted",
            Self::Starting => "starting",
            Self::Ready => "ready",
            Self::Draining => "draining",
            Self::Stopping => "stopping",
            Self::Ended => "ended",
        }
    }
}

/// What is wanted of it for others' sake.
#[derive(Debug, Clone, Copy, Default)]
struct Among {
    /// What it comes after is not ready.
    held: bool,
    /// Those that come after it have not ended.
    lingers: bool,
}

/// The supervisor's memory; see [`Machine::step`].
#[derive(Debug, Clone)]
pub struct Machine {
    state: State,
    timing: Timing,
    start_deadline: Duration,
    ready_interval: Duration,
    among: Among,
    policy: RestartPolicy,
    halted: bool,
    stopping: bool,
    failures: u64,
    last_failure: Option<Failure>,
}

impl Machine {
    /// A machine at rest.
    #[must_use]
    pub fn new(timing: Timing) -> Self {
        Self {
            state: State::Idle,
            timing,
            start_deadline: START_DEADLINE,
            ready_interval: READY_INTERVAL,
            among: Among::default(),
            policy: RestartPolicy::default(),
            halted: false,
            stopping: false,
            failures: 0,
            last_failure: None,
        }
    }

    /// The same, of a daemon that has so long to become ready, and is asked for that so often:
    /// it does not say when it is worth asking.
    #[must_use]
    pub fn patient(mut self, within: Duration, interval: Duration) -> Self {
        self.start_deadline = within;
        self.ready_interval = interval;
        self
    }

    /// While it is held, whatever would start it leaves it at rest, until it is not held any
    /// more and [`Event::Begin`] comes.
    pub fn hold(&mut self, held: bool) {
        self.among.held = held;
    }

    /// While it lingers, what has drained goes on without anything new, until others have
    /// ended.
    pub fn linger(&mut self, lingers: bool) {
        self.among.lingers = lingers;
    }

    /// Whether it does.
    #[must_use]
    pub fn lingers(&self) -> bool {
        self.among.lingers
    }

    /// Whether a wanted stop waits for open tunnels.
    #[must_use]
    pub fn drains(&self) -> bool {
        !self.timing.drain.is_zero()
    }

    /// Whether open tunnels are waited for.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        matches!(self.state, State::Draining { over: false, .. })
    }

    /// Takes over the timing of a changed manifest, from the next deadline on.
    pub fn set_timing(&mut self, timing: Timing) {
        self.timing = timing;
    }

    /// The state's name.
    #[must_use]
    pub fn phase(&self) -> Phase {
        match self.state {
            State::Idle => Phase::Idle,
            State::Waiting { .. } => Phase::Backoff,
            State::Halted => Phase::Halted,
            State::Starting { .. } => Phase::Starting,
            State::Ready { .. } => Phase::Ready,
            State::Draining { .. } => Phase::Draining,
            State::Stopping { .. } => Phase::Stopping,
            State::Ended => Phase::Ended,
        }
    }

    /// Whether a halt is in force, whatever the daemon is doing this instant.
    #[must_use]
    pub fn is_halted(&self) -> bool {
        self.halted
    }

    /// Whether a reload is under way that the daemon has not proved yet.
    #[must_use]
    pub fn is_reloading(&self) -> bool {
        matches!(
            self.state,
            State::Ready {
                reload: Reload::Installed(_) | Reload::Proving(_),
                ..
            }
        )
    }

    /// What keeps a ready daemon from answering as it should, and one that takes its time from
    /// being ready, in words.
    #[must_use]
    pub fn trouble(&self) -> Option<&str> {
        match &self.state {
            State::Starting { trouble, .. } => trouble.as_deref(),
            State::Ready { quiet, .. } => quiet.as_ref().map(|quiet| quiet.trouble.as_str()),
            _ => None,
        }
    }

    /// Why the daemon is being brought down, where it failed.
    #[must_use]
    pub fn brought_down_for(&self) -> Option<&Failure> {
        match &self.state {
            State::Stopping {
                cause: Some((failure, _)),
                ..
            } => Some(failure),
            _ => None,
        }
    }

    /// Failures counted since the beginning.
    #[must_use]
    pub fn failures(&self) -> u64 {
        self.failures
    }

    /// The newest failure, until the daemon is ready again.
    #[must_use]
    pub fn last_failure(&self) -> Option<&Failure> {
        self.last_failure.as_ref()
    }

    /// When [`Event::Tick`] is due, `None` while only an event can move things on.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        match &self.state {
            State::Idle | State::Halted | State::Ended => None,
            State::Waiting { until } => Some(*until),
            State::Starting {
                deadline,
                next_probe,
                tell_at,
                ..
            } => earliest(Some(*deadline.min(tell_at)), *next_probe),
            State::Ready {
                next_probe, reload, ..
            } => match reload {
                Reload::None => *next_probe,
                Reload::Installed(until) | Reload::Proving(until) => {
                    earliest(Some(*until), *next_probe)
                }
            },
            State::Draining { over: true, .. } => None,
            State::Draining {
                until, next_count, ..
            } => earliest(Some(*until), *next_count),
            State::Stopping {
                kill_at,
                abandon_at,
                ..
            } => kill_at.or(*abandon_at),
        }
    }

    /// Takes an event and says what to do about it, in order.
    pub fn step(&mut self, event: Event, now: Instant) -> Vec<Action> {
        match event {
            Event::Begin => match self.state {
                State::Idle => self.start(now),
                _ => vec![],
            },
            Event::StopAsked => self.stop(now),
            Event::HaltAsked => self.halt(now),
            Event::ResumeAsked => self.resume(now),
            Event::ConfigChanged(change) => self.change(change, now),
            Event::SpawnFailed(code, why) => match self.state {
                State::Starting { .. } => self.fail(Failure::Spawn(code, why), None, now),
                State::Stopping { .. } => self.gone(now),
                _ => vec![],
            },
            Event::Confined => {
                if let State::Starting { confined, .. } = &mut self.state {
                    *confined = true;
                }
                self.ready_if_proved(now)
            }
            Event::Announced => {
                if let State::Starting {
                    announced,
                    next_probe,
                    fit,
                    ..
                } = &mut self.state
                {
                    *announced = true;
                    // A probe already under way ends by itself and asks for the next.
                    if next_probe.is_some() && !*fit {
                        *next_probe = Some(now);
                    }
                }
                let mut actions = self.ready_if_proved(now);
                actions.extend(self.tick(now));
                actions
            }
            Event::ReloadAcknowledged => self.acknowledged(now),
            Event::DenyAllAcknowledged => {
                if let State::Draining {
                    next_count,
                    counting,
                    ..
                } = &mut self.state
                {
                    *next_count = None;
                    *counting = true;
                    return vec![Action::CountTunnels];
                }
                vec![]
            }
            Event::ReloadRefused => match &self.state {
                State::Ready { reload, .. } if *reload != Reload::None => {
                    self.bring_down(self.timing.grace, None, now)
                }
                _ => vec![],
            },
            Event::Unfit(why) => self.unfit(why, now),
            Event::Answered(answer) => self.answered(answer, now),
            Event::Exited(reason) => self.exited(Failure::Exited(reason), now),
            Event::OutOfMemory(reason, limit) => {
                self.exited(Failure::OutOfMemory(reason, limit), now)
            }
            Event::Tick => self.tick(now),
        }
    }

    fn start(&mut self, now: Instant) -> Vec<Action> {
        if self.among.held {
            self.state = State::Idle;
            return vec![];
        }
        self.state = State::Starting {
            deadline: now + self.start_deadline,
            next_probe: Some(now + STARTING_INTERVAL),
            confined: false,
            announced: false,
            fit: false,
            last: Silence::because("it has not announced itself"),
            tell_at: now + SLOW_START,
            trouble: None,
        };
        vec![Action::Spawn]
    }

    fn stop(&mut self, now: Instant) -> Vec<Action> {
        let again = std::mem::replace(&mut self.stopping, true);
        match &mut self.state {
            State::Idle | State::Waiting { .. } | State::Halted => self.end(Outcome::Stopped),
            State::Starting { .. } => self.bring_down(self.timing.grace, None, now),
            State::Ready { .. } => self.drain(now),
            // Asked twice while draining: whoever asks again wants it now.
            State::Draining { .. } if again => self.bring_down(self.timing.grace, None, now),
            State::Draining { .. } => vec![],
            State::Stopping {
                kill_at,
                abandon_at,
                ..
            } => {
                if kill_at.is_none() && abandon_at.is_none() {
                    *abandon_at = Some(now + ABANDON);
                }
                vec![]
            }
            State::Ended => vec![],
        }
    }

    fn halt(&mut self, now: Instant) -> Vec<Action> {
        if self.stopping {
            return self.hurry(now);
        }
        self.halted = true;
        match &mut self.state {
            State::Idle | State::Waiting { .. } => {
                self.state = State::Halted;
                vec![]
            }
            State::Starting { .. } | State::Ready { .. } | State::Draining { .. } => {
                // An emergency brake: pipelock writes nothing that a kill could spoil.
                self.bring_down(Duration::ZERO, None, now)
            }
            State::Stopping { cause, kill_at, .. } => {
                // Whoever halts it does not want to hear why it would have gone.
                *cause = None;
                if kill_at.take().is_some() {
                    return vec![Action::Kill];
                }
                vec![]
            }
            State::Halted | State::Ended => vec![],
        }
    }

    /// A halt of what is stopping: it ends without anything it was still given, for nothing
    /// may get through from now on.
    fn hurry(&mut self, now: Instant) -> Vec<Action> {
        match &self.state {
            State::Draining { .. }
            | State::Stopping {
                kill_at: Some(_), ..
            } => self.bring_down(Duration::ZERO, None, now),
            _ => vec![],
        }
    }

    fn resume(&mut self, now: Instant) -> Vec<Action> {
        self.halted = false;
        match self.state {
            State::Halted => self.start(now),
            _ => vec![],
        }
    }

    fn change(&mut self, change: Change, now: Instant) -> Vec<Action> {
        let revokes = change == Change::Restart { revokes: true };
        let grace = if revokes {
            SHORT_GRACE.min(self.timing.grace)
        } else {
            self.timing.grace
        };
        match &mut self.state {
            // It may have read the old file already, and may not be asked to reload yet.
            State::Starting { .. } => self.bring_down(grace, None, now),
            State::Ready { reload, .. } => match change {
                Change::Grow => {
                    *reload = Reload::Installed(now + RELOAD_DEADLINE);
                    vec![Action::InstallConfig]
                }
                Change::Restart { revokes: false } => self.drain(now),
                Change::Restart { revokes: true } => self.bring_down(grace, None, now),
            },
            State::Draining { .. } if revokes => self.bring_down(grace, None, now),
            State::Stopping {
                kill_at: Some(at), ..
            } if revokes => {
                *at = (*at).min(now + grace);
                vec![]
            }
            // The next start, if there is one, reads the new configuration anyway.
            _ => vec![],
        }
    }

    fn acknowledged(&mut self, now: Instant) -> Vec<Action> {
        if let State::Ready {
            reload, next_probe, ..
        } = &mut self.state
            && matches!(reload, Reload::Installed(_))
        {
            *reload = Reload::Proving(now + RELOAD_DEADLINE);
            *next_probe = None;
            return vec![Action::ProbeFitness];
        }
        vec![]
    }

    fn unfit(&mut self, why: String, now: Instant) -> Vec<Action> {
        let ready_for = self.ready_for(now);
        // What is no firewall, or not ours, has nothing to finish: no grace.
        match &mut self.state {
            State::Starting { .. } | State::Ready { .. } => {
                self.bring_down(Duration::ZERO, Some((Failure::Unfit(why), ready_for)), now)
            }
            State::Draining { .. } => self.bring_down(Duration::ZERO, None, now),
            State::Stopping {
                kill_at,
                abandon_at,
                ..
            } if kill_at.is_some() => {
                *kill_at = None;
                *abandon_at = self.stopping.then(|| now + ABANDON);
                vec![Action::Kill]
            }
            _ => vec![],
        }
    }

    /// Replaces a ready daemon that failed without ending.
    fn replace(&mut self, failure: Failure, now: Instant) -> Vec<Action> {
        let ready_for = self.ready_for(now);
        self.bring_down(
            SHORT_GRACE.min(self.timing.grace),
            Some((failure, ready_for)),
            now,
        )
    }

    fn answered(&mut self, answer: Answer, now: Instant) -> Vec<Action> {
        let probe_every = self.timing.probe;
        let only_alive = answer == Answer::Alive;
        match (&mut self.state, answer) {
            (State::Starting { fit, last, .. }, Answer::Fit) => {
                *fit = true;
                *last = Silence::because("it serves, but has not announced its configuration");
                self.ready_if_proved(now)
            }
            (State::Starting { .. }, Answer::Sick(why)) => {
                self.answered(Answer::Silent(Silence::because(why)), now)
            }
            (
                State::Starting {
                    next_probe,
                    announced,
                    last,
                    ..
                },
                Answer::Silent(silence),
            ) => {
                let pause = if *announced {
                    self.ready_interval
                } else {
                    STARTING_INTERVAL
                };
                *next_probe = Some(now + pause);
                *last = silence;
                vec![]
            }
            (
                State::Ready {
                    quiet,
                    next_probe,
                    reload,
                    ..
                },
                Answer::Fit | Answer::Alive,
            ) => {
                *quiet = None;
                // An answer from before the reload proves nothing about it.
                if only_alive && matches!(reload, Reload::Proving(_)) {
                    return vec![];
                }
                *next_probe = Some(now + probe_every);
                if matches!(reload, Reload::Proving(_)) {
                    *reload = Reload::None;
                    return vec![Action::AnnounceReady];
                }
                vec![]
            }
            (
                State::Ready {
                    quiet, next_probe, ..
                },
                Answer::Silent(silence),
            ) => {
                *next_probe = Some(now + probe_every);
                let quiet = quiet.get_or_insert_with(|| Quiet::begin(now));
                match quiet.missed(silence, now) {
                    Some(failure) => self.replace(failure, now),
                    None => vec![],
                }
            }
            (
                State::Ready {
                    quiet, next_probe, ..
                },
                Answer::Sick(why),
            ) => {
                *next_probe = Some(now + probe_every);
                match quiet.get_or_insert_with(|| Quiet::begin(now)).sick(why) {
                    Some(failure) => self.replace(failure, now),
                    None => vec![],
                }
            }
            (State::Starting { .. } | State::Ready { .. }, Answer::Unfit(why)) => {
                self.unfit(why, now)
            }
            (State::Draining { .. }, Answer::Tunnels(0)) => self.drained(now),
            (
                State::Draining {
                    next_count,
                    counting: true,
                    ..
                },
                _,
            ) => {
                *next_count = Some(now + DRAIN_INTERVAL);
                vec![]
            }
            _ => vec![],
        }
    }

    fn exited(&mut self, failure: Failure, now: Instant) -> Vec<Action> {
        match self.state {
            State::Starting { .. } | State::Ready { .. } => {
                let ready_for = self.ready_for(now);
                self.fail(failure, ready_for, now)
            }
            State::Draining { .. } | State::Stopping { .. } => self.gone(now),
            State::Idle | State::Waiting { .. } | State::Halted | State::Ended => vec![],
        }
    }

    fn tick(&mut self, now: Instant) -> Vec<Action> {
        match &mut self.state {
            State::Waiting { until } if now >= *until => self.start(now),
            State::Starting { deadline, last, .. } if now >= *deadline => {
                let Silence { why, overload, .. } = std::mem::take(last);
                let failure = overload.map_or(
                    Failure::NotReady(self.start_deadline, why),
                    Failure::Overloaded,
                );
                self.bring_down(
                    SHORT_GRACE.min(self.timing.grace),
                    Some((failure, None)),
                    now,
                )
            }
            State::Starting {
                last,
                tell_at,
                trouble,
                ..
            } if now >= *tell_at => {
                *tell_at = now + SLOW_START;
                *trouble = Some(format!("not ready: {}", last.why));
                vec![]
            }
            State::Starting { next_probe, .. } if next_probe.is_some_and(|at| now >= at) => {
                *next_probe = None;
                vec![Action::ProbeFitness]
            }
            State::Ready {
                reload: Reload::Installed(until) | Reload::Proving(until),
                ..
            } if now >= *until => self.bring_down(self.timing.grace, None, now),
            State::Ready {
                next_probe, quiet, ..
            } if next_probe.is_some_and(|at| now >= at) => {
                *next_probe = None;
                let works = quiet.as_ref().is_some_and(|quiet| quiet.works);
                let patience = if works { PATIENCE_WITH_WORK } else { PATIENCE };
                vec![Action::ProbeLiveness(patience)]
            }
            State::Draining { until, over, .. } if *over || now >= *until => self.drained(now),
            State::Draining { next_count, .. } if next_count.is_some_and(|at| now >= at) => {
                *next_count = None;
                vec![Action::CountTunnels]
            }
            State::Stopping {
                kill_at,
                abandon_at,
                ..
            } if kill_at.is_some_and(|at| now >= at) => {
                *kill_at = None;
                *abandon_at = self.stopping.then(|| now + ABANDON);
                vec![Action::Kill]
            }
            State::Stopping {
                kill_at: None,
                abandon_at: Some(at),
                ..
            } if now >= *at => self.end(Outcome::Stopped),
            _ => vec![],
        }
    }

    fn ready_if_proved(&mut self, now: Instant) -> Vec<Action> {
        if let State::Starting {
            confined: true,
            announced: true,
            fit: true,
            ..
        } = self.state
        {
            self.state = State::Ready {
                since: now,
                next_probe: Some(now + self.timing.probe),
                quiet: None,
                reload: Reload::None,
            };
            self.last_failure = None;
            return vec![Action::AnnounceReady];
        }
        vec![]
    }

    fn drain(&mut self, now: Instant) -> Vec<Action> {
        if self.timing.drain.is_zero() {
            return self.bring_down(self.timing.grace, None, now);
        }
        self.note_health(now);
        self.state = State::Draining {
            until: now + self.timing.drain,
            next_count: None,
            counting: false,
            over: false,
        };
        vec![Action::InstallDenyAll]
    }

    /// No tunnel is open, or the time for them is up.
    fn drained(&mut self, now: Instant) -> Vec<Action> {
        if self.among.lingers
            && let State::Draining { over, .. } = &mut self.state
        {
            *over = true;
            return vec![];
        }
        self.bring_down(self.timing.grace, None, now)
    }

    /// A ready daemon is about to go, and has not failed.
    fn note_health(&mut self, now: Instant) {
        if let Some(ready_for) = self.ready_for(now) {
            self.policy.record_health(ready_for);
        }
    }

    fn bring_down(&mut self, grace: Duration, cause: Cause, now: Instant) -> Vec<Action> {
        if cause.is_none() {
            self.note_health(now);
        }
        let killed = grace.is_zero();
        self.state = State::Stopping {
            kill_at: (!killed).then(|| now + grace),
            abandon_at: (killed && self.stopping).then(|| now + ABANDON),
            cause,
        };
        vec![if killed {
            Action::Kill
        } else {
            Action::Terminate
        }]
    }

    /// The daemon that was told to go has gone.
    fn gone(&mut self, now: Instant) -> Vec<Action> {
        let cause = match &mut self.state {
            State::Stopping { cause, .. } => cause.take(),
            _ => None,
        };
        if self.stopping {
            return self.end(Outcome::Stopped);
        }
        if let Some((failure, ready_for)) = cause {
            return self.fail(failure, ready_for, now);
        }
        if self.halted {
            self.state = State::Halted;
            return vec![];
        }
        self.start(now)
    }

    /// No daemon is left, and it was not meant to go.
    fn fail(&mut self, failure: Failure, ready_for: Option<Duration>, now: Instant) -> Vec<Action> {
        self.failures += 1;
        self.last_failure = Some(failure.clone());
        let verdict = if failure.is_overload(ready_for) {
            Verdict::RestartAt(self.policy.record_overload(now, ready_for))
        } else {
            self.policy.record_failure(now, ready_for)
        };
        match verdict {
            _ if self.halted => {
                self.state = State::Halted;
                vec![]
            }
            Verdict::RestartAt(until) if until <= now => self.start(now),
            Verdict::RestartAt(until) => {
                self.state = State::Waiting { until };
                vec![]
            }
            Verdict::GiveUp => self.end(Outcome::GaveUp(failure)),
        }
    }

    fn end(&mut self, outcome: Outcome) -> Vec<Action> {
        self.state = State::Ended;
        vec![Action::Finish(outcome)]
    }

    fn ready_for(&self, now: Instant) -> Option<Duration> {
        match self.state {
            State::Ready { since, .. } => Some(now.saturating_duration_since(since)),
            _ => None,
        }
    }
}

fn earliest(a: Option<Instant>, b: Option<Instant>) -> Option<Instant> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (one, other) => one.or(other),
    }
}
