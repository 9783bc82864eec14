//! One of the bundle's other daemons as a unit: what it is started with, how it is asked
//! whether it is ready, and what it was told of pipelock. Touches the kernel through `sandbox`
//! and `sys`.

use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::rc::Rc;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use super::launch::{self, LaunchError};
use super::machine::Outcome;
use super::machine::{Action, Answer, Change, Event, Machine, PATIENCE, Phase, Silence, Timing};
use super::notice::Notice;
use super::prober::{Finding, Prober, Question, Subject};
use super::process::{Process, read_back};
use super::relay::Speaker;
use super::unit::{Life, Unit};
use super::{Context, pair, vitals};
use crate::bottle::credentials::{self, Found, Seen};
use crate::exit::ExitCode;
use crate::policy::Policy;
use crate::policy::daemons::{Daemon, Ready};
use crate::sandbox::cgroup::Group;
use crate::sandbox::enter::SpawnError;
use crate::sandbox::{Sandbox, enter};
use crate::status::{State, While};
use crate::sys::connections;
use crate::sys::errand::Errand;
use crate::sys::reaper::ExitReason;

/// One that is not ready by then has failed. Longer than pipelock has: an interpreter that is
/// emulated takes half a minute to import what it needs.
const START_DEADLINE: Duration = Duration::from_secs(120);

/// Until then it is asked so often: what it writes about that is no flood.
const ASKED_EVERY: Duration = Duration::from_millis(50);

/// Somebody is sent again for what was seen and is not what the daemon has: longer than a share
/// takes what it knows of a name for true (libkrun: five seconds).
const SENT_AGAIN: Duration = Duration::from_secs(6);

/// Whoever is killed ends within this time, or is stuck in the kernel and does nothing more.
const LAST_PATIENCE: Duration = Duration::from_millis(100);

/// What a daemon learned of pipelock when it started; another one is restarted for.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Told {
    listen: SocketAddr,
    certificate: Rc<str>,
    roots: Option<Rc<[u8]>>,
}

impl Told {
    fn now(around: &Context) -> Self {
        Self {
            listen: around.desired.policy.listen,
            certificate: Rc::clone(around.pair.certificate()),
            roots: around.desired.trust.clone(),
        }
    }
}

/// What was seen of the host's files when somebody was sent for that.
struct Followed {
    mark: Option<u64>,
    at: Instant,
}

/// Somebody who copies credentials.
struct Fetching {
    errand: Errand,
    /// The daemon is started once they are there.
    starts: bool,
}

/// One of the others, while it runs.
struct Running {
    process: Process,
    /// It knows where its credentials are.
    given: bool,
    told: Option<Told>,
    /// Where it says that it is ready, where it does.
    notice: Option<Notice>,
    /// What it was started with, for whose is a process that it left.
    had: Sandbox,
}

/// One of the others, whether it runs this moment or not.
pub(super) struct Companion {
    wanted: Daemon,
    life: Life,
    child: Option<Running>,
    group: Option<Group>,
    /// Somebody who was sent for its credentials.
    fetching: Option<Fetching>,
    /// Those who were, are not waited for any more, and have not ended.
    stuck: Vec<Errand>,
    /// The mark of the host's files that it has, or was to have.
    has: Option<u64>,
    /// What was seen when somebody was sent last because of that.
    followed: Option<Followed>,
    /// The manifest has it no more, or has another of its name.
    leaving: bool,
    was_ready: bool,
}

impl Unit for Companion {
    fn name(&self) -> &str {
        &self.wanted.name
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

    fn speech(&self) -> Vec<BorrowedFd<'_>> {
        let child = self.child.iter();
        child
            .flat_map(|child| {
                let notice = child.notice.as_ref().map(AsFd::as_fd);
                child.process.speech().chain(notice)
            })
            .chain(self.fetching.as_ref().map(|it| it.errand.as_fd()))
            .collect()
    }

    fn wanted(&self) -> Option<&Daemon> {
        Some(&self.wanted)
    }

    fn is_leaving(&self) -> bool {
        self.leaving
    }

    /// By its control group; else by its user, where it has one of its own.
    fn owns(&self, pid: i32, around: &Context) -> bool {
        self.child
            .as_ref()
            .is_some_and(|child| match &child.had.group {
                Some(group) => group.holds(pid),
                // Who has no user of its own cannot be told from others: left for the end.
                None => {
                    around.setup.sandbox.uid == child.had.uid || vitals::is_of(pid, child.had.uid)
                }
            })
    }

    fn hear(&mut self, around: &mut Context) {
        self.hear_of_credentials(around);
        let Some(child) = &mut self.child else {
            return;
        };
        child.process.carry(&mut self.life.last_lines, &mut |_| {});
        let is_executed = child.process.was_executed();
        let is_ready = child.notice.as_mut().is_some_and(Notice::is_ready);
        if is_executed {
            self.verify(around);
        }
        if is_ready {
            self.ask(Question::Fitness, PATIENCE, around);
        }
    }

    fn ended(&mut self, reason: ExitReason, around: &mut Context) {
        let Some(mut child) = self.child.take() else {
            return;
        };
        let group = child.had.group.as_ref();
        let last_lines = &mut self.life.last_lines;
        let starved = child.process.finish(group, last_lines, &mut |_| {});
        self.life.prober.reset(subject(&self.wanted));
        self.take_credentials_away(around);
        match child.process.exec_error() {
            Some(error) => self.never_was(error, around),
            None => self.was(child.process.pid, reason, starved, around),
        }
    }

    fn found(&mut self, mut finding: Finding, around: &mut Context) {
        if let Some(child) = &self.child {
            let answered = matches!(finding.answer, Answer::Fit | Answer::Alive);
            let foreign = self.ports_asked().into_iter().find(|port| {
                let listen = SocketAddr::from((Ipv4Addr::UNSPECIFIED, *port));
                answered && connections::is_another_users(listen, child.had.uid)
            });
            if let Some(port) = foreign {
                let why = format!("another user's process listens on port {port}");
                finding.answer = Answer::Silent(Silence::because(why));
            } else if finding.answer == Answer::Fit
                && let Err(why) = self.show_agents_its_ca(around)
            {
                finding.answer = Answer::Silent(Silence::because(why));
            }
            if let Answer::Silent(silence) = &mut finding.answer {
                silence.used = vitals::processor_time(child.process.pid);
            }
        }
        if let Answer::Unfit(why) = &finding.answer {
            log::error!("{}: {why}", self.wanted.name);
        }
        self.push(Event::Answered(finding.answer));
    }

    fn perform(&mut self, action: Action, around: &mut Context) {
        match action {
            Action::Spawn => self.fetch_first(around),
            Action::Terminate => self.end(Signal::SIGTERM, around),
            Action::Kill => self.end(Signal::SIGKILL, around),
            // Nobody is there yet.
            Action::ProbeFitness if self.child.is_none() => {}
            // It says so itself, and then it is asked for what else there is to ask.
            Action::ProbeFitness if self.is_awaited() => {}
            Action::ProbeFitness => self.ask(Question::Fitness, PATIENCE, around),
            Action::ProbeLiveness(patience) => self.ask(Question::Liveness, patience, around),
            Action::AnnounceReady => self.announce_ready(),
            Action::Finish(outcome) => {
                // The end of an essential one is the bundle's, and told as that.
                let is_missed = matches!(outcome, Outcome::GaveUp(_)) && !self.wanted.essential;
                if let Outcome::GaveUp(failure) = &outcome
                    && is_missed
                {
                    let name = &self.wanted.name;
                    let why = failure.of(name);
                    log::error!("{name} cannot live, and the bundle goes on without it: {why}");
                }
                self.life.finish(outcome);
                if is_missed {
                    self.report(around);
                    around.reporter.write_report();
                }
            }
            // Of pipelock alone, which drains and reloads.
            Action::CountTunnels | Action::InstallConfig | Action::InstallDenyAll => {}
        }
    }

    fn report(&self, around: &mut Context) {
        around.reporter.companion_is_wanted(&self.wanted);
        if self.leaving {
            around.reporter.companion_leaves(&self.wanted.name);
        }
        let machine = &self.life.machine;
        let state = self.state();
        let failure = machine.last_failure().map(|it| it.of(&self.wanted.name));
        let trouble = machine.trouble();
        let news = around.reporter.companion_reached(
            &self.wanted.name,
            state,
            (machine.failures(), failure),
            trouble,
        );
        if news {
            match trouble {
                Some(trouble) => log::warn!("{} is {trouble}", self.wanted.name),
                None if state == State::Ready => log::info!("{} answers again", self.wanted.name),
                None => {}
            }
        }
    }
}

impl Companion {
    /// It is executed: looks whether its sandbox is what was asked for.
    fn verify(&mut self, around: &mut Context) {
        let name = &self.wanted.name;
        let child = self.child.as_ref();
        let seen = child.and_then(|it| read_back(name, &it.had, it.process.pid, around));
        if let Some((event, is_verified)) = seen {
            around.reporter.companion_verified(name, is_verified);
            self.push(event);
        }
    }

    /// Its process ended before it was one of its program.
    fn never_was(&mut self, error: &SpawnError, around: &mut Context) {
        let (said, why) = (self.life.last_lines.said(), self.life.last_lines.reason());
        around
            .reporter
            .companion_ended(&self.wanted.name, said, why, None);
        self.push(Event::SpawnFailed(error.exit_code(), error.to_string()));
    }

    /// Its process ended, in this way; `starved`: its limit of memory, where that is why.
    fn was(&mut self, pid: i32, reason: ExitReason, starved: Option<String>, around: &mut Context) {
        let name = &self.wanted.name;
        let text = self.life.end_in_words(name, reason, starved.as_deref());
        log::info!("{name} (pid {pid}) {text}");
        let (said, why) = (self.life.last_lines.said(), self.life.last_lines.reason());
        let exit = Some((reason.shell_code(), text));
        around.reporter.companion_ended(name, said, why, exit);
        self.push(match starved {
            Some(limit) => Event::OutOfMemory(reason, limit),
            None => Event::Exited(reason),
        });
    }

    /// One that rests until [`Event::Begin`].
    pub(super) fn new(wanted: &Daemon, policy: &Policy) -> Self {
        let machine = Machine::new(timing(policy)).patient(START_DEADLINE, ASKED_EVERY);
        Self {
            life: Life::new(machine, Prober::new(subject(wanted))),
            wanted: wanted.clone(),
            child: None,
            group: None,
            fetching: None,
            stuck: Vec::new(),
            has: None,
            followed: None,
            leaving: false,
            was_ready: false,
        }
    }

    /// What the manifest wants of it.
    pub(super) fn wanted(&self) -> &Daemon {
        &self.wanted
    }

    /// The manifest has it no more.
    pub(super) fn leave(&mut self) {
        self.leaving = true;
    }

    /// Whether the agent can reach it.
    pub(super) fn faces_the_agent(&self) -> bool {
        !self.wanted.listen.is_empty()
    }

    /// Takes over what a changed manifest says of timing.
    pub(super) fn set_timing(&mut self, policy: &Policy) {
        self.life.machine.set_timing(timing(policy));
    }

    /// Its state, for the status.
    pub(super) fn state(&self) -> State {
        match self.life.phase() {
            Phase::Idle => State::Waiting,
            _ => self.life.own_state(),
        }
    }

    /// Has it started again where pipelock is another one than it was told of.
    pub(super) fn compare_told(&mut self, around: &Context) {
        let Some(told) = self.child.as_ref().and_then(|child| child.told.as_ref()) else {
            return;
        };
        let serves = matches!(self.life.phase(), Phase::Starting | Phase::Ready);
        if serves && !self.life.is_unsettled() && *told != Told::now(around) {
            log::info!(
                "restarting {}: what it was told of pipelock, its address and its CA, has changed",
                self.wanted.name
            );
            self.push(Event::ConfigChanged(Change::Restart { revokes: false }));
        }
    }

    /// What agents have to trust for it, from now on; why that cannot be had.
    fn show_agents_its_ca(&self, around: &mut Context) -> Result<(), String> {
        if let Some(path) = &self.wanted.agent_ca {
            let owner = self.child.as_ref().and_then(|child| child.had.file_owner());
            let certificates = launch::agents_ca(&self.wanted.name, path, owner, around)?;
            if around.pair.trust_for_agents(Some(certificates.into())) {
                pair::tell_clients(around);
            }
        }
        Ok(())
    }

    /// Whether only its own word makes it ready, and has not come.
    fn is_awaited(&self) -> bool {
        let notice = self.child.as_ref().and_then(|child| child.notice.as_ref());
        notice.is_some_and(|notice| !notice.was_ready())
    }

    /// Those that are connected to when it is asked.
    fn ports_asked(&self) -> Vec<u16> {
        let ready = match &self.wanted.ready {
            Ready::Tcp(port) | Ready::Http { port, .. } => Some(*port),
            Ready::Exec | Ready::Notify => None,
        };
        ready.into_iter().chain(self.wanted.agent_proxy).collect()
    }

    fn ask(&mut self, question: Question, patience: Duration, around: &mut Context) {
        let now = Instant::now();
        if let Some(finding) = self.life.prober.ask(question, patience, now) {
            self.found(finding, around);
        }
    }

    fn announce_ready(&mut self) {
        let again = if std::mem::replace(&mut self.was_ready, true) {
            " again"
        } else {
            ""
        };
        let listens = match self.wanted.listen.as_slice() {
            [] => String::new(),
            ports => {
                let ports: Vec<String> = ports.iter().map(ToString::to_string).collect();
                format!(", listens on {}", ports.join(", "))
            }
        };
        log::info!("ready{again}: {}{listens}", self.wanted.name);
    }

    /// Before it is started: what it is to be given, by somebody else.
    fn fetch_first(&mut self, around: &mut Context) {
        self.give_up_fetching();
        match launch::fetch_credentials(&self.wanted, around) {
            Ok(errand) => {
                let starts = true;
                self.fetching = Some(Fetching { errand, starts });
                let from = around.setup.bottle.credentials.join(self.name());
                let why = format!(
                    "its credentials are not read: {} does not answer",
                    from.display()
                );
                // For where nothing else comes in time.
                self.push(Event::Answered(Answer::Silent(Silence::because(why))));
            }
            Err(error) => self.push(Event::SpawnFailed(error.exit_code(), error.to_string())),
        }
    }

    /// What came of that.
    fn hear_of_credentials(&mut self, around: &mut Context) {
        let Some(fetching) = &mut self.fetching else {
            return;
        };
        let Some(said) = fetching.errand.listen() else {
            return;
        };
        let starts = fetching.starts;
        self.fetching = None;
        let found = credentials::answer(said.as_deref());
        let refused = found.as_ref().err().filter(|_| !starts);
        self.tell_refused(refused, around);
        match found {
            Ok(found) if starts => self.spawn_with(found, around),
            Ok(found) => self.was_given(found),
            Err(why) if starts => {
                let error = LaunchError::Credentials(why);
                self.push(Event::SpawnFailed(error.exit_code(), error.to_string()));
            }
            // What it has stays its own.
            Err(_) => {}
        }
    }

    fn spawn_with(&mut self, found: Found, around: &mut Context) {
        let given = matches!(found, Found::Files(_));
        self.has = mark(found);
        self.followed = None;
        match self.spawn(given, around) {
            Ok(()) => {
                let nothing = Silence::because(if self.is_awaited() {
                    "it has not said that it is ready"
                } else {
                    "it has not answered"
                });
                self.push(Event::Answered(Answer::Silent(nothing)));
                // It announces nothing; what it is asked decides.
                self.push(Event::Announced);
            }
            Err(error) => {
                self.take_credentials_away(around);
                self.push(Event::SpawnFailed(error.exit_code(), error.to_string()));
            }
        }
    }

    /// It runs, and what the host gives it has changed.
    fn was_given(&mut self, found: Found) {
        let name = &self.wanted.name;
        self.has = mark(found);
        let knows = self.child.as_ref().is_some_and(|child| child.given);
        match found {
            Found::Nothing if knows => log::info!("the credentials of {name} were taken away"),
            Found::Nothing => {}
            Found::Files(_) if knows => log::info!("the credentials of {name} were replaced"),
            Found::Files(_) => {
                log::info!("restarting {name}: it is given credentials, and had none");
                self.push(Event::ConfigChanged(Change::Restart { revokes: false }));
            }
        }
    }

    /// Sends somebody where the host gives it something else than it has.
    pub(super) fn follow_credentials(&mut self, seen: &Seen, around: &mut Context) {
        let now = seen.of(&self.wanted.name);
        let runs = self.child.is_some() && !self.leaving && self.fetching.is_none();
        // What was read may be newer than what was seen, or older, where a share remembers names.
        let was_sent = self.followed.as_ref();
        let was_sent = was_sent.is_some_and(|it| it.mark == now && it.at.elapsed() < SENT_AGAIN);
        if !runs || now == self.has || was_sent {
            return;
        }
        let at = Instant::now();
        self.followed = Some(Followed { mark: now, at });
        match launch::fetch_credentials(&self.wanted, around) {
            Ok(errand) => {
                let starts = false;
                self.fetching = Some(Fetching { errand, starts });
            }
            Err(error) => self.tell_refused(Some(&error.to_string()), around),
        }
    }

    /// Why what the host gives it now is not what it has; nothing where it is.
    fn tell_refused(&mut self, why: Option<&String>, around: &mut Context) {
        let name = &self.wanted.name;
        let warning = why.map(|why| format!("{name} keeps the credentials that it has: {why}"));
        let what = While::Credentials(name.clone());
        self.life.changed |= around.reporter.warn_while(&what, warning);
    }

    /// To its process; where there is none yet, there is none any more.
    fn end(&mut self, signal: Signal, around: &mut Context) {
        self.signal(signal);
        if self.fetching.as_ref().is_some_and(|it| it.starts) {
            self.take_credentials_away(around);
            let why = "it was stopped before it was started".to_owned();
            self.push(Event::SpawnFailed(ExitCode::DaemonUnavailable, why));
        }
    }

    fn take_credentials_away(&mut self, around: &mut Context) {
        self.give_up_fetching();
        self.tell_refused(None, around);
        launch::credentials_of(&self.wanted.name, around).remove();
    }

    /// Whoever was sent does nothing more when this returns.
    fn give_up_fetching(&mut self) {
        if let Some(Fetching { mut errand, .. }) = self.fetching.take() {
            errand.kill();
            if errand.wait(LAST_PATIENCE).is_none() {
                self.stuck.push(errand);
            }
        }
    }

    /// Those who were sent for credentials, are stuck, and not waited for.
    pub(super) fn stuck(&mut self) -> &mut Vec<Errand> {
        &mut self.stuck
    }

    /// Whether this child was sent for its credentials.
    pub(super) fn sent(&self, pid: i32) -> bool {
        let fetching = self.fetching.iter().map(|it| &it.errand);
        fetching.chain(&self.stuck).any(|it| it.pid() == pid)
    }

    fn spawn(&mut self, given: bool, around: &mut Context) -> Result<(), LaunchError> {
        let name = &self.wanted.name;
        self.life.last_lines.begin();
        let launch::ForCompanion {
            command,
            prepared,
            sandbox,
            notice,
        } = launch::prepare_companion(&self.wanted, given, around)?;
        self.group.clone_from(&sandbox.group);
        let oom_kills = sandbox.group.as_ref().map_or(0, Group::oom_kills);
        let child = enter::spawn(&command, &sandbox, &prepared).map_err(LaunchError::Spawn)?;
        log::debug!("{name} has pid {}", child.pid);
        around.reporter.companion_started(
            name,
            (child.pid, sandbox.uid),
            sandbox.group.is_some(),
            self.life.spawned,
        );
        around
            .reporter
            .tell_companions_missing(name, &prepared.missing);
        self.life.spawned += 1;
        self.life.prober.reset(subject(&self.wanted));
        self.child = Some(Running {
            process: Process::new(child, &Speaker::of(name), oom_kills),
            given,
            told: self.wanted.proxy.then(|| Told::now(around)),
            notice,
            had: sandbox,
        });
        Ok(())
    }

    /// It is gone for good, and no other of its name has come: what was its is taken away, by
    /// whoever is sent for that.
    pub(super) fn clear_away(self, run_dir: &Path) -> Option<Errand> {
        let name = &self.wanted.name;
        launch::clear_away(name, self.group, run_dir)
            .inspect_err(|errno| {
                log::warn!("nobody takes away what {name} has left: {}", errno.desc());
            })
            .ok()
    }
}

fn mark(found: Found) -> Option<u64> {
    match found {
        Found::Nothing => None,
        Found::Files(mark) => Some(mark),
    }
}

fn timing(policy: &Policy) -> Timing {
    Timing {
        grace: policy.supervisor.grace,
        // Its connections go through pipelock, which drains.
        drain: Duration::ZERO,
        probe: policy.supervisor.probe,
    }
}

fn subject(wanted: &Daemon) -> Subject {
    Subject::Companion(wanted.ready.clone(), wanted.agent_proxy)
}
