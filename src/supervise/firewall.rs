//! pipelock as a unit: what it is started on, what is asked of it, and what its words mean for
//! its supervision. Touches the kernel through `sandbox` and `sys`.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use super::launch::{self, Launch, LaunchError, config_access};
use super::machine::{Action, Answer, Change, Event, Machine, PATIENCE, Phase, Silence, Timing};
use super::prober::{Finding, Prober, Question, Subject};
use super::process::{Process, read_back};
use super::relay::Speaker;
use super::unit::{Life, Unit};
use super::vitals::{self, Work};
use super::{Context, pair};
use crate::boot::clock;
use crate::bottle::names::Names;
use crate::ca::rfc3339;
use crate::daemon::pipelock::events::{self, Heard};
use crate::daemon::pipelock::instance::{Fact, Instance};
use crate::daemon::pipelock::leaves::Leaves;
use crate::daemon::pipelock::{self, CONFIG};
use crate::policy::Policy;
use crate::policy::daemons::PIPELOCK;
use crate::sandbox::{cgroup, enter};
use crate::status::{Stage, While};
use crate::sys::connections;
use crate::sys::files::FileError;
use crate::sys::reaper::ExitReason;
use crate::sys::watch;

/// What messages call it.
const NAME: &str = PIPELOCK;

/// pipelock, while it runs.
struct Running {
    process: Process,
    /// It has said that it refused the canary: whoever asks on the port asks it.
    refused_canary: bool,
    /// Where it listens: a changed manifest may already want another address.
    listen: SocketAddr,
    /// The files that resolve names which it may read; `None` where it may read any.
    names: Option<Names>,
    work: Work,
    /// What it was given: the wanted one at its start or at the last reload.
    generation: u64,
    instance: Instance,
}

/// pipelock, whether it runs this moment or not.
pub(super) struct Firewall {
    life: Life,
    child: Option<Running>,
    /// The configuration's file as it was when it was last found to be ours.
    installed: Option<watch::Mark>,
    /// What was installed last is the deny-all configuration.
    denies_all: bool,
    proved_once: bool,
    /// What it runs on is kept for this generation, for which it has not refused the canary yet.
    kept: Option<u64>,
}

impl Unit for Firewall {
    fn name(&self) -> &'static str {
        NAME
    }

    fn life(&self) -> &Life {
        &self.life
    }

    fn life_mut(&mut self) -> &mut Life {
        &mut self.life
    }

    fn process(&self) -> Option<&Process> {
        self.child.as_ref().map(|child| &child.process)
    }

    fn owns(&self, pid: i32, around: &Context) -> bool {
        let group = around.setup.sandbox.group.as_ref();
        self.child.is_some() && group.is_some_and(|group| group.holds(pid))
    }

    /// Its process has ended, for this reason.
    fn ended(&mut self, reason: ExitReason, around: &mut Context) {
        let Some(mut child) = self.child.take() else {
            return;
        };
        let group = around.setup.sandbox.group.as_ref();
        let mut see = |line: &[u8]| {
            if let Some(Heard::Refusal(refusal)) = events::parse(line) {
                around.reporter.refused(&refusal);
            }
        };
        let last_lines = &mut self.life.last_lines;
        let starved = child.process.finish(group, last_lines, &mut see);
        let listen = around.desired.policy.listen;
        self.life.prober.reset(Subject::Pipelock(listen));
        around.reporter.daemon_ended(self.life.last_lines.said());
        around
            .reporter
            .daemon_said_why(self.life.last_lines.reason());
        if let Some(error) = child.process.exec_error() {
            self.push(Event::SpawnFailed(error.exit_code(), error.to_string()));
            return;
        }
        let text = self.life.end_in_words(NAME, reason, starved.as_deref());
        log::info!("pipelock (pid {}) {text}", child.process.pid);
        around.reporter.daemon_exited(reason.shell_code(), text);
        self.push(match starved {
            Some(limit) => Event::OutOfMemory(reason, limit),
            None => Event::Exited(reason),
        });
    }

    /// Carries the daemon's output, and learns whether it could be executed at all.
    fn hear(&mut self, around: &mut Context) {
        let Some(child) = &mut self.child else {
            return;
        };
        let mut lines = Vec::new();
        let refused_canary = &mut child.refused_canary;
        child.process.carry(&mut self.life.last_lines, &mut |line| {
            *refused_canary = *refused_canary || pipelock::tells_of_canary(line);
            match events::parse(line) {
                Some(Heard::Event(event)) => lines.push(event),
                Some(Heard::Refusal(refusal)) => around.reporter.refused(&refusal),
                None => {}
            }
        });
        if child.process.was_executed() {
            if !self.proved_once && around.reporter.status().stage == Stage::Spawn {
                around.reporter.enter(Stage::Ready);
            }
            let pid = child.process.pid;
            let sandbox = &around.setup.sandbox;
            if let Some((event, is_verified)) = read_back(NAME, sandbox, pid, around) {
                if is_verified {
                    around.reporter.sandbox_verified();
                }
                self.push(event);
            }
        }
        for line in lines {
            self.heard(line, around);
        }
    }

    /// Adds to an answer what can be seen of the daemon beside it.
    fn found(&mut self, mut finding: Finding, around: &mut Context) {
        let ready = self.life.machine.phase() == Phase::Ready;
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
            silence.used = vitals::processor_time(child.process.pid);
            silence.overload = vitals::overload(child.process.pid, child.listen);
        }
        if let Some(version) = finding.version {
            around.reporter.note_version(version);
        }
        if let Answer::Unfit(why) = &finding.answer {
            log::error!("{why}");
        }
        if finding.answer == Answer::Alive
            && ready
            && !self.life.machine.is_reloading()
            && let Some(generation) = self.kept.take()
        {
            around.reporter.config_applied(generation);
            self.life.changed = true;
        }
        self.push(Event::Answered(finding.answer));
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
                let failed = self.install_deny_all(around).err();
                let failed = failed.map(|error| error.to_string());
                around.reporter.warn_while(&While::Config, failed);
            }
            Action::AnnounceReady => self.announce_ready(around),
            Action::Finish(outcome) => self.life.finish(outcome),
        }
    }

    /// Notes for the status what the machine knows.
    fn report(&self, around: &mut Context) {
        let machine = &self.life.machine;
        let reporter = &mut *around.reporter;
        let failure = machine.last_failure().map(|failure| failure.of(NAME));
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

impl Firewall {
    /// One that rests until [`Event::Begin`].
    pub(super) fn new(policy: &Policy) -> Self {
        let machine = Machine::new(timing(policy));
        let prober = Prober::new(Subject::Pipelock(policy.listen));
        Self {
            life: Life::new(machine, prober),
            child: None,
            installed: None,
            denies_all: false,
            proved_once: false,
            kept: None,
        }
    }

    /// Takes over what a changed manifest says of timing; and where others speak from now on, its
    /// lines say whose they are.
    pub(super) fn follow(&mut self, policy: &Policy) {
        self.life.machine.set_timing(timing(policy));
        if let Some(child) = &mut self.child
            && !policy.daemons.is_empty()
        {
            child.process.set_speaker(&Speaker::pipelock(true));
        }
    }

    /// The manifest of this generation asks for the configuration that it has already.
    pub(super) fn keep(&mut self, generation: u64, around: &mut Context) {
        if let Some(child) = &mut self.child
            && child.generation + 1 == generation
        {
            child.generation = generation;
            if self.life.machine.phase() == Phase::Ready && !self.life.machine.is_reloading() {
                // It is asked to refuse something for this one too.
                self.kept = Some(generation);
                self.ask(Question::Liveness, PATIENCE, around);
            }
        }
    }

    /// The clock was set by so many milliseconds.
    pub(super) fn clock_stepped(&mut self, by_ms: i64) {
        if let Some(child) = &mut self.child {
            child.instance.leaves.stepped(by_ms);
        }
        self.renew_leaves();
    }

    /// Looks whether what it left and what it was given is as it should be.
    pub(super) fn look(&mut self, around: &mut Context) {
        self.look_after_config(around);
        let halted = self.life.machine.phase() == Phase::Halted;
        self.life.changed |= around.reporter.look_at_port(halted);
    }

    /// A file that resolves names and that it may not read, while another may be granted.
    pub(super) fn misses(&self, now: &Names) -> Option<&'static str> {
        let granted = self.child.as_ref()?.names?;
        let serves = matches!(self.life.machine.phase(), Phase::Starting | Phase::Ready);
        granted.replaced(now).filter(|_| serves)
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
                self.life.push(Event::ConfigChanged(change));
            }
            match fact {
                Fact::RunsOn(sha256) => around.reporter.config_reported(Some(sha256)),
                Fact::Announced => self.life.push(Event::Announced),
                Fact::Reloaded => self.life.push(Event::ReloadAcknowledged),
                Fact::DeniesAll => self.life.push(Event::DenyAllAcknowledged),
                Fact::Refused(why) => {
                    log::warn!("pipelock refused the reload ({why}); restarting it instead");
                    self.life.push(Event::ReloadRefused);
                }
                Fact::Unfit(why) => {
                    log::error!("{why}");
                    around.reporter.config_reported(None);
                    self.life.push(Event::Unfit(why));
                }
            }
        }
    }

    /// Looks at the port at once; what it finds is told with what is told anyway.
    pub(super) fn judge_port(&mut self, halted: bool, around: &mut Context) {
        around.reporter.look_at_port(halted);
        self.life.changed = false;
    }

    /// Puts the configuration back where somebody else changed its file. What pipelock
    /// makes of it meanwhile it announces itself.
    fn look_after_config(&mut self, around: &mut Context) {
        let Some(child) = &self.child else {
            return;
        };
        // One that is being stopped is followed by another start, which looks itself; and what
        // was read this moment is not installed yet.
        if self.life.machine.phase() == Phase::Stopping || self.life.is_unsettled() {
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
        let room = around.setup.custody.run;
        let is_new = self.installed.is_none();
        match room.is_still_installed(CONFIG, wanted.as_bytes(), access, is_new) {
            Some(true) => {
                self.installed = mark;
                self.life.changed |= around.reporter.warn_while(&While::Config, None);
                return;
            }
            // Nobody can tell: later.
            None => return,
            Some(false) => {}
        }
        self.life.changed = true;
        self.installed = None;
        let put_back = room.install(CONFIG, wanted.as_bytes(), access);
        let path = path.display();
        let stays = match put_back {
            Ok(()) => {
                let done = format!("somebody else changed {path}; it was put back");
                around.reporter.warn(done);
                None
            }
            Err(error) => Some(format!(
                "somebody else changed {path}, and it stays so: {error}"
            )),
        };
        around.reporter.warn_while(&While::Config, stays);
    }

    /// Tells since when the daemon has been at work: whoever waits for what it scans looks here.
    fn note_work(&mut self, around: &mut Context) {
        let Some(child) = &mut self.child else {
            return;
        };
        let Some(used) = vitals::processor_time(child.process.pid) else {
            return;
        };
        child.work.note(used, Instant::now(), clock::now());
        let since = child.work.since().map(rfc3339);
        self.life.changed |= around.reporter.daemon_works(since);
    }

    /// Lets a daemon that serves forget certificates its clients would refuse; one that
    /// does not yet is asked when it does.
    fn renew_leaves(&mut self) {
        if let Some(child) = &mut self.child
            && child.instance.leaves.suffer()
            && self.life.machine.phase() == Phase::Ready
            && !self.life.machine.is_reloading()
        {
            log::info!("reloading pipelock, for its certificates are dated by the old clock");
            child.instance.leaves = Leaves::default();
            // The same configuration once more: every reload empties the cache.
            self.push(Event::ConfigChanged(Change::Grow));
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
        if !around.desired.policy.daemons.iter().any(|it| it.essential) {
            around.reporter.finish_stages();
        }
        let version = around.reporter.status().daemon.version.as_deref();
        let policy = &around.desired.policy;
        log::info!(
            "ready: pipelock {} listens on {}, refuses what is not allowed; {} host(s) allowed",
            version.unwrap_or("?"),
            policy.listen,
            policy.allowlist.len()
        );
        if !policy.daemons.iter().any(|it| it.essential) {
            (around.setup.invite)(policy);
        }
    }

    fn give_config(&mut self, around: &mut Context) {
        let generation = around.reporter.status().config.generation;
        let failed = match pair::settle(around) {
            Err(error) => Some(error.to_string()),
            Ok(()) => self.install_config(around).err().map(|it| it.to_string()),
        };
        if let Some(child) = self.child.as_mut().filter(|_| failed.is_none()) {
            child.generation = generation;
            child.instance.give(&around.desired.config_sha256);
        }
        around.reporter.warn_while(&While::Config, failed);
    }

    fn install_config(&mut self, around: &mut Context) -> Result<(), FileError> {
        self.installed = None;
        self.denies_all = false;
        launch::install_config(around)?;
        around.reporter.over(&While::Config);
        Ok(())
    }

    fn install_deny_all(&mut self, around: &Context) -> Result<(), FileError> {
        let Some(child) = &self.child else {
            return Ok(());
        };
        self.installed = None;
        self.denies_all = true;
        let deny_all = child.instance.deny_all().as_bytes();
        let room = around.setup.custody.run;
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
        self.life.last_lines.begin();
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
            .daemon_started(child.pid, sandbox.uid, listen, self.life.spawned);
        self.life.spawned += 1;
        log::debug!("pipelock has pid {}", child.pid);
        self.life.prober.reset(Subject::Pipelock(listen));
        let speaker = Speaker::pipelock(!desired.policy.daemons.is_empty());
        self.child = Some(Running {
            process: Process::new(child, &speaker, oom_kills),
            refused_canary: false,
            listen,
            generation: around.reporter.status().config.generation,
            names,
            work: Work::default(),
            instance: Instance::new(
                desired.config_sha256.clone(),
                desired.deny_all.clone(),
                desired.deny_all_sha256.clone(),
            ),
        });
        Ok(())
    }

    fn ask(&mut self, question: Question, patience: Duration, around: &mut Context) {
        if let Some(finding) = self.life.prober.ask(question, patience, Instant::now()) {
            self.found(finding, around);
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
    let others = || match connections::listens(child.process.pid, listen) {
        // One that is about to be gone shows root alone what it has open, and has nothing.
        None => {
            let uid = around.setup.sandbox.uid;
            let ended = vitals::has_ended(child.process.pid);
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

/// The manifest's share of the timing.
pub(super) fn timing(policy: &Policy) -> Timing {
    Timing {
        grace: policy.supervisor.grace,
        drain: policy.supervisor.drain,
        probe: policy.supervisor.probe,
    }
}
