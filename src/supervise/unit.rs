//! One daemon: its state machine, its process, and what is asked of it. Touches the kernel
//! through `sandbox` and `sys`.
//!
//! What happens to it becomes an [`Event`], the machine answers with actions, and
//! [`Unit::settle`] performs them; nothing else decides.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use nix::poll::PollFlags;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::launch::{self, Launch, LaunchError, config_access};
use super::machine::{
    Action, Answer, Change, Event, Machine, Outcome, PATIENCE, Phase, Silence, Timing,
};
use super::prober::{Finding, Prober, Question};
use super::relay::{LastLines, Relay};
use super::vitals::{self, Work};
use super::{Context, pair, watch};
use crate::boot::clock;
use crate::bottle::names::Names;
use crate::ca::rfc3339;
use crate::daemon::pipelock::events::{self, Heard};
use crate::daemon::pipelock::instance::{Fact, Instance};
use crate::daemon::pipelock::leaves::Leaves;
use crate::daemon::pipelock::{self, CONFIG};
use crate::policy::Policy;
use crate::sandbox::enter::{self, ExecReport, SpawnError};
use crate::sandbox::{Seen, cgroup};
use crate::status::{Stage, State};
use crate::sys::connections;
use crate::sys::console::Stream;
use crate::sys::files::FileError;
use crate::sys::reaper::ExitReason;

/// A daemon that was forked and is not reaped.
struct Running {
    pid: i32,
    output: Relay,
    error: Relay,
    /// `None` once it is known that the exec worked.
    exec_report: Option<ExecReport>,
    exec_error: Option<SpawnError>,
    /// It has said that it refused the canary: whoever asks on the port asks it.
    refused_canary: bool,
    /// Where it listens: a changed manifest may already want another address.
    listen: SocketAddr,
    /// What its control group had counted by then.
    oom_kills: u64,
    /// The files that resolve names which it may read; `None` where it may read any.
    names: Option<Names>,
    work: Work,
    /// What it was given: the wanted one at its start or at the last reload.
    generation: u64,
    instance: Instance,
}

/// A daemon that is to run, whether it does this moment or not.
pub struct Unit {
    machine: Machine,
    prober: Prober,
    child: Option<Running>,
    /// The configuration's file as it was when it was last found to be ours.
    installed: Option<watch::Mark>,
    /// What was installed last is the deny-all configuration.
    denies_all: bool,
    last_lines: LastLines,
    events: VecDeque<Event>,
    outcome: Option<Outcome>,
    proved_once: bool,
    /// What it runs on is kept for this generation, for which it has not refused the canary yet.
    kept: Option<u64>,
    spawned: u64,
    /// Something to tell the host that no event brought.
    changed: bool,
}

impl Unit {
    /// One that rests until [`Event::Begin`].
    pub fn new(policy: &Policy) -> Self {
        Self {
            machine: Machine::new(timing(policy)),
            prober: Prober::new(policy.listen),
            child: None,
            installed: None,
            denies_all: false,
            last_lines: LastLines::default(),
            events: VecDeque::new(),
            outcome: None,
            proved_once: false,
            kept: None,
            spawned: 0,
            changed: true,
        }
    }

    /// What it is doing.
    pub fn phase(&self) -> Phase {
        self.machine.phase()
    }

    /// How its supervision ended, once it has.
    pub fn outcome(&self) -> Option<&Outcome> {
        self.outcome.as_ref()
    }

    /// Its process, while there is one that is not reaped.
    pub fn pid(&self) -> Option<i32> {
        self.child.as_ref().map(|child| child.pid)
    }

    /// Queues what happened, for [`Unit::settle`].
    pub fn push(&mut self, event: Event) {
        self.events.push_back(event);
    }

    /// Feeds the machine until it has nothing more to say; whether there is something to
    /// tell the host.
    pub fn settle(&mut self, around: &mut Context) -> bool {
        let mut changed = std::mem::take(&mut self.changed);
        while let Some(event) = self.events.pop_front() {
            changed = true;
            log::trace!("event {event:?}");
            for action in self.machine.step(event, Instant::now()) {
                log::trace!("action {action:?}");
                self.perform(action, around);
            }
        }
        changed
    }

    /// What the daemon says, and whether it could be executed.
    pub fn speech(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.child.iter().flat_map(|child| {
            let relays = [&child.output, &child.error].into_iter();
            relays
                .filter_map(|relay| relay.as_fd().filter(|_| relay.has_room()))
                .chain(child.exec_report.as_ref().map(AsFd::as_fd))
        })
    }

    /// The connection whose answer is waited for.
    pub fn question(&self) -> Option<(BorrowedFd<'_>, PollFlags)> {
        self.prober.interest()
    }

    /// When [`Unit::advance`] or [`Unit::tick`] has something to do.
    pub fn deadline(&self) -> Option<Instant> {
        let deadlines = [self.machine.deadline(), self.prober.deadline()];
        deadlines.into_iter().flatten().min()
    }

    /// Goes on with what was asked.
    pub fn advance(&mut self, now: Instant, around: &mut Context) {
        if let Some(finding) = self.prober.advance(now) {
            self.found(finding, around);
        }
    }

    /// Lets the machine do what is due.
    pub fn tick(&mut self, now: Instant) {
        if self.machine.deadline().is_some_and(|due| now >= due) {
            self.push(Event::Tick);
        }
    }

    /// Takes over what a changed manifest says of timing.
    pub fn set_timing(&mut self, policy: &Policy) {
        self.machine.set_timing(timing(policy));
    }

    /// The manifest of this generation asks for the configuration that it has already.
    pub fn keep(&mut self, generation: u64, around: &mut Context) {
        if let Some(child) = &mut self.child
            && child.generation + 1 == generation
        {
            child.generation = generation;
            if self.machine.phase() == Phase::Ready && !self.machine.is_reloading() {
                // It is asked to refuse something for this one too.
                self.kept = Some(generation);
                self.ask(Question::Liveness, PATIENCE, around);
            }
        }
    }

    /// The clock was set by so many milliseconds.
    pub fn clock_stepped(&mut self, by_ms: i64) {
        if let Some(child) = &mut self.child {
            child.instance.leaves.stepped(by_ms);
        }
        self.renew_leaves();
    }

    /// Looks whether what it left and what it was given is as it should be.
    pub fn look(&mut self, around: &mut Context) {
        self.look_after_config(around);
        let halted = self.machine.phase() == Phase::Halted;
        self.changed |= around.reporter.look_at_port(halted);
    }

    /// A file that resolves names and that it may not read, while another may be granted.
    pub fn misses(&self, now: &Names) -> Option<&'static str> {
        let granted = self.child.as_ref()?.names?;
        let serves = matches!(self.machine.phase(), Phase::Starting | Phase::Ready);
        granted.replaced(now).filter(|_| serves)
    }

    /// Its process has ended, for this reason.
    pub fn ended(&mut self, reason: ExitReason, around: &mut Context) {
        let Some(mut child) = self.child.take() else {
            return;
        };
        let starved = end_its_processes(&child, around);
        for relay in [&mut child.output, &mut child.error] {
            relay.finish(&mut self.last_lines, &mut |line| {
                if let Some(Heard::Refusal(refusal)) = events::parse(line) {
                    around.reporter.refused(&refusal);
                }
            });
        }
        if let Some(mut report) = child.exec_report.take()
            && let Some(Err(error)) = report.outcome()
        {
            child.exec_error = Some(error);
        }
        self.prober.reset(around.desired.policy.listen);
        around.reporter.daemon_ended(self.last_lines.said());
        around.reporter.daemon_said_why(self.last_lines.reason());
        if let Some(error) = child.exec_error {
            self.push(Event::SpawnFailed(error.exit_code(), error.to_string()));
            return;
        }
        let text = match (&starved, self.machine.brought_down_for()) {
            (Some(limit), _) => format!("{reason}: out of memory, {limit}"),
            (None, Some(failure)) => format!("{reason}, brought down: {failure}"),
            (None, None) => match self.last_lines.fatal() {
                Some(fatal) => format!("{reason}: {fatal}"),
                None => reason.to_string(),
            },
        };
        log::info!("pipelock (pid {}) {text}", child.pid);
        around.reporter.daemon_exited(reason.shell_code(), text);
        self.push(match starved {
            Some(limit) => Event::OutOfMemory(reason, limit),
            None => Event::Exited(reason),
        });
    }

    /// Carries the daemon's output, and learns whether it could be executed at all.
    pub fn hear(&mut self, around: &mut Context) {
        let Some(child) = &mut self.child else {
            return;
        };
        let mut lines = Vec::new();
        child.error.carry(&mut self.last_lines, &mut |_| {});
        let refused_canary = &mut child.refused_canary;
        child.output.carry(&mut self.last_lines, &mut |line| {
            *refused_canary = *refused_canary || pipelock::tells_of_canary(line);
            match events::parse(line) {
                Some(Heard::Event(event)) => lines.push(event),
                Some(Heard::Refusal(refusal)) => around.reporter.refused(&refusal),
                None => {}
            }
        });
        match child.exec_report.as_mut().and_then(ExecReport::outcome) {
            None => {}
            Some(Ok(())) => {
                child.exec_report = None;
                let pid = child.pid;
                self.check_sandbox(pid, around);
            }
            Some(Err(error)) => {
                child.exec_report = None;
                child.exec_error = Some(error);
            }
        }
        for line in lines {
            self.heard(line, around);
        }
    }

    fn check_sandbox(&mut self, pid: i32, around: &mut Context) {
        match around.setup.sandbox.read_back(pid) {
            Seen::Confined => {
                around.reporter.sandbox_verified();
                self.push(Event::Confined);
            }
            Seen::Holes(mismatch) => self.push(Event::Unfit(mismatch.to_string())),
            Seen::Ended => {}
            Seen::Nothing(why) if around.setup.require_sandbox => {
                self.push(Event::Unfit(format!(
                    "the daemon's sandbox could not be read back: {why}"
                )));
            }
            Seen::Nothing(why) => {
                around.reporter.warn(format!(
                    "the daemon's sandbox was applied but could not be read back: {why}"
                ));
                self.push(Event::Confined);
            }
        }
    }

    fn heard(&mut self, line: events::Event, around: &mut Context) {
        let Some(child) = &self.child else {
            return;
        };
        let file = around.setup.config.to_string_lossy();
        let wanted = &around.desired.config_sha256;
        for fact in child.instance.hear(line, wanted, &file) {
            if matches!(fact, Fact::Announced | Fact::Reloaded) && pair::may_be_another(around) {
                log::warn!("the CA pair changed while pipelock read it; restarting pipelock");
                let change = Change::Restart { revokes: false };
                self.events.push_back(Event::ConfigChanged(change));
            }
            match fact {
                Fact::RunsOn(sha256) => around.reporter.config_reported(Some(sha256)),
                Fact::Announced => self.events.push_back(Event::Announced),
                Fact::Reloaded => self.events.push_back(Event::ReloadAcknowledged),
                Fact::DeniesAll => self.events.push_back(Event::DenyAllAcknowledged),
                Fact::Refused(why) => {
                    log::warn!("pipelock refused the reload ({why}); restarting it instead");
                    self.events.push_back(Event::ReloadRefused);
                }
                Fact::Unfit(why) => {
                    log::error!("{why}");
                    around.reporter.config_reported(None);
                    self.events.push_back(Event::Unfit(why));
                }
            }
        }
    }

    /// Looks at the port at once; what it finds is told with what is told anyway.
    pub fn judge_port(&mut self, around: &mut Context) {
        let halted = self.machine.phase() == Phase::Halted;
        around.reporter.look_at_port(halted);
        self.changed = false;
    }

    /// Puts the configuration back where somebody else changed its file. What pipelock
    /// makes of it meanwhile it announces itself.
    fn look_after_config(&mut self, around: &mut Context) {
        let Some(child) = &self.child else {
            return;
        };
        // One that is being stopped is followed by another start, which looks itself; and what
        // was read this moment is not installed yet.
        if self.machine.phase() == Phase::Stopping || !self.events.is_empty() {
            return;
        }
        let path = around.setup.config;
        let mark = watch::mark(path);
        if mark.is_some() && mark == self.installed {
            return;
        }
        let access = config_access(around);
        let wanted = if self.denies_all {
            child.instance.deny_all()
        } else {
            &around.desired.config
        };
        let room = around.setup.run_room;
        match room.is_still_installed(CONFIG, wanted.as_bytes(), access) {
            Some(true) => {
                self.installed = mark;
                return;
            }
            // Nobody can tell: later.
            None => return,
            Some(false) => {}
        }
        self.changed = true;
        let put_back = room.install(CONFIG, wanted.as_bytes(), access);
        let path = path.display();
        around.reporter.warn(match put_back {
            Ok(()) => format!("somebody else changed {path}; it was put back"),
            Err(error) => format!("somebody else changed {path}, and it stays so: {error}"),
        });
    }

    /// Adds to an answer what can be seen of the daemon beside it.
    fn found(&mut self, mut finding: Finding, around: &mut Context) {
        let ready = self.machine.phase() == Phase::Ready;
        if let Some(child) = &self.child {
            if let Answer::Tunnels(count) = &mut finding.answer {
                *count = connections::established(child.listen).max(*count);
            }
            if let Some(why) = not_its_own(&finding.answer, child, ready, around) {
                finding.answer = Answer::Silent(Silence::because(why));
            }
        }
        if ready {
            self.note_work(around);
        }
        if let (Answer::Silent(silence), Some(child)) = (&mut finding.answer, &self.child)
            && (ready || silence.late)
        {
            silence.used = vitals::processor_time(child.pid);
            silence.overload = vitals::overload(child.pid, child.listen);
        }
        if let Some(version) = finding.version {
            around.reporter.note_version(version);
        }
        if let Answer::Unfit(why) = &finding.answer {
            log::error!("{why}");
        }
        if finding.answer == Answer::Alive
            && ready
            && !self.machine.is_reloading()
            && let Some(generation) = self.kept.take()
        {
            around.reporter.config_applied(generation);
            self.changed = true;
        }
        self.push(Event::Answered(finding.answer));
    }

    /// Tells since when the daemon has been at work: whoever waits for what it scans looks here.
    fn note_work(&mut self, around: &mut Context) {
        let Some(child) = &mut self.child else {
            return;
        };
        let Some(used) = vitals::processor_time(child.pid) else {
            return;
        };
        child.work.note(used, Instant::now(), clock::now());
        let since = child.work.since().map(rfc3339);
        self.changed |= around.reporter.daemon_works(since);
    }

    /// Lets a daemon that serves forget certificates its clients would refuse; one that
    /// does not yet is asked when it does.
    fn renew_leaves(&mut self) {
        if let Some(child) = &mut self.child
            && child.instance.leaves.suffer()
            && self.machine.phase() == Phase::Ready
            && !self.machine.is_reloading()
        {
            log::info!("reloading pipelock, for its certificates are dated by the old clock");
            child.instance.leaves = Leaves::default();
            // The same configuration once more: every reload empties the cache.
            self.push(Event::ConfigChanged(Change::Grow));
        }
    }

    fn perform(&mut self, action: Action, around: &mut Context) {
        match action {
            Action::Spawn => {
                if let Err(error) = self.spawn(around) {
                    self.push(Event::SpawnFailed(error.exit_code(), error.to_string()));
                }
            }
            Action::Terminate => self.signal(Signal::SIGTERM),
            Action::Kill => self.signal(Signal::SIGKILL),
            Action::ProbeFitness => self.ask(Question::Fitness, PATIENCE, around),
            Action::ProbeLiveness(patience) => self.ask(Question::Liveness, patience, around),
            Action::CountTunnels => self.ask(Question::Tunnels, PATIENCE, around),
            Action::InstallConfig => self.give_config(around),
            Action::InstallDenyAll => {
                if let Err(error) = self.install_deny_all(around) {
                    around.reporter.warn(error.to_string());
                }
            }
            Action::AnnounceReady => self.announce_ready(around),
            Action::Finish(outcome) => self.outcome = Some(outcome),
        }
    }

    fn announce_ready(&mut self, around: &mut Context) {
        self.kept = None;
        // Not the newest there is: another may have been read in this very moment.
        if let Some(child) = &self.child {
            around.reporter.config_applied(child.generation);
        }
        self.renew_leaves();
        if self.proved_once {
            let generation = around.reporter.status().config.applied_generation;
            log::info!("ready again, generation {generation}");
            return;
        }
        self.proved_once = true;
        around.reporter.finish_stages();
        let version = around.reporter.status().daemon.version.as_deref();
        let policy = &around.desired.policy;
        log::info!(
            "ready: pipelock {} listens on {}, refuses what is not allowed; {} host(s) allowed",
            version.unwrap_or("?"),
            policy.listen,
            policy.allowlist.len()
        );
        (around.setup.invite)(policy);
    }

    fn give_config(&mut self, around: &mut Context) {
        let generation = around.reporter.status().config.generation;
        if let Err(error) = pair::settle(around) {
            around.reporter.warn(error.to_string());
        } else if let Err(error) = self.install_config(around) {
            around.reporter.warn(error.to_string());
        } else if let Some(child) = &mut self.child {
            child.generation = generation;
            child.instance.give(&around.desired.config_sha256);
        }
    }

    fn install_config(&mut self, around: &Context) -> Result<(), FileError> {
        self.installed = None;
        self.denies_all = false;
        launch::install_config(around)
    }

    fn install_deny_all(&mut self, around: &Context) -> Result<(), FileError> {
        let Some(child) = &self.child else {
            return Ok(());
        };
        self.installed = None;
        self.denies_all = true;
        let deny_all = child.instance.deny_all().as_bytes();
        let room = around.setup.run_room;
        room.install(CONFIG, deny_all, config_access(around))?;
        let applied = around.reporter.status().config.applied_sha256.as_deref();
        if child.instance.drains_on(applied) {
            // pipelock drops a reload of what it runs on, so nobody would acknowledge.
            self.push(Event::DenyAllAcknowledged);
        }
        Ok(())
    }

    fn spawn(&mut self, around: &mut Context) -> Result<(), LaunchError> {
        let setup = around.setup;
        self.last_lines.begin();
        pair::take_up(around).map_err(LaunchError::Pair)?;
        // Each time, for the last one may have changed it.
        if !launch::is_config_installed(around) {
            self.install_config(around).map_err(LaunchError::File)?;
        }
        self.denies_all = false;
        let Launch {
            command,
            prepared,
            names,
        } = launch::prepare(around)?;
        let sandbox = &setup.sandbox;
        let oom_kills = sandbox.group.as_ref().map_or(0, cgroup::Group::oom_kills);
        let desired = &*around.desired;
        let child = enter::spawn(&command, sandbox, &prepared).map_err(LaunchError::Spawn)?;
        if self.child.is_some() {
            log::error!("internal error: a daemon was started beside another");
        }
        let listen = desired.policy.listen;
        around
            .reporter
            .daemon_started(child.pid, sandbox.uid, listen, self.spawned);
        self.spawned += 1;
        log::debug!("pipelock has pid {}", child.pid);
        self.prober.reset(desired.policy.listen);
        self.child = Some(Running {
            pid: child.pid,
            output: Relay::new(child.stdout, Stream::Output),
            error: Relay::new(child.stderr, Stream::Error),
            exec_report: Some(child.exec_report),
            exec_error: None,
            refused_canary: false,
            listen: desired.policy.listen,
            generation: around.reporter.status().config.generation,
            oom_kills,
            names,
            work: Work::default(),
            instance: Instance::new(
                desired.config_sha256.clone(),
                desired.deny_all.clone(),
                desired.deny_all_sha256.clone(),
            ),
        });
        if !self.proved_once && around.reporter.status().stage == Stage::Spawn {
            around.reporter.enter(Stage::Ready);
        }
        Ok(())
    }

    fn ask(&mut self, question: Question, patience: Duration, around: &mut Context) {
        if let Some(finding) = self.prober.ask(question, patience, Instant::now()) {
            self.found(finding, around);
        }
    }

    fn signal(&self, signal: Signal) {
        if let Some(child) = &self.child
            && !signal_group(child.pid, signal)
        {
            // Between fork and setsid it leads no group. It is not reaped yet, so the
            // number is still its own; ESRCH cannot be.
            let _ = kill(Pid::from_raw(child.pid), signal);
        }
    }

    /// Notes for the status what the machine knows.
    pub fn report(&self, around: &mut Context) {
        let machine = &self.machine;
        let state = match machine.phase() {
            Phase::Idle | Phase::Starting => State::Starting,
            Phase::Backoff => State::Backoff,
            Phase::Halted => State::Halted,
            Phase::Ready if machine.is_reloading() => State::Reloading,
            Phase::Ready => State::Ready,
            Phase::Draining => State::Draining,
            // The daemon is; everything else is ended now.
            Phase::Stopping | Phase::Ended => State::Stopping,
        };
        let reporter = &mut *around.reporter;
        reporter.state_reached(state, machine.is_halted());
        let failure = machine.last_failure().map(ToString::to_string);
        reporter.daemon_failed(machine.failures(), failure);
        let trouble = machine.trouble();
        if reporter.daemon_troubled(trouble) {
            match trouble {
                Some(trouble) => log::warn!("pipelock is {trouble}"),
                None if machine.phase() == Phase::Ready => log::info!("pipelock answers again"),
                None => {}
            }
        }
    }
}

/// Why an answer is not known to be this daemon's; `None` where it is, or where nothing
/// depends on that. What it says of the daemon is no more than that then.
///
/// Whose the port is the kernel tells, where it may be asked; else the daemon does, which says
/// that it refused the canary. Whoever has the port of one that is about to fail for want of
/// it is not taken for it. What nobody can tell and is no firewall is taken for the daemon:
/// it is ended for that.
fn not_its_own(answer: &Answer, child: &Running, ready: bool, around: &Context) -> Option<String> {
    let listen = child.listen;
    let others = || match connections::listens(child.pid, listen) {
        // One that is about to be gone shows root alone what it has open, and has nothing.
        None => {
            let uid = around.setup.sandbox.uid;
            let ended = vitals::has_ended(child.pid);
            (ended || connections::is_another_users(listen, uid)).then_some(false)
        }
        known => known,
    };
    match answer {
        Answer::Fit => match others() {
            Some(false) => Some(format!("another process listens on {listen}")),
            None if !child.refused_canary => Some(format!(
                "it cannot be told that it is pipelock which listens on {listen}: it has not said that it refused the canary"
            )),
            _ => None,
        },
        Answer::Unfit(why) if !ready && others() == Some(false) => {
            Some(format!("another process listens on {listen}: {why}"))
        }
        _ => None,
    }
}

/// Kills what an ended daemon left in its process group and its control group: no helper may
/// outlive it beside its successor. The limit of memory, where that is what ended it.
fn end_its_processes(child: &Running, around: &Context) -> Option<String> {
    signal_group(child.pid, Signal::SIGKILL);
    let group = around.setup.sandbox.group.as_ref()?;
    // Those that left for a session of their own, too.
    group.kill_everybody();
    (group.oom_kills() > child.oom_kills).then(|| group.describe_limit())
}

fn timing(policy: &Policy) -> Timing {
    Timing {
        grace: policy.supervisor.grace,
        drain: policy.supervisor.drain,
        probe: policy.supervisor.probe,
    }
}

/// To everybody in the daemon's process group; false where it does not exist.
fn signal_group(pid: i32, signal: Signal) -> bool {
    kill(Pid::from_raw(-pid), signal).is_ok()
}
