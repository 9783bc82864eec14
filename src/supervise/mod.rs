//! Keeps one daemon running as the manifest asks, until it is told to stop. Touches
//! the kernel, in the modules below; this one is the loop.
//!
//! One thread waits in one place, for the next event or deadline. What happened goes
//! into [`machine::Machine::step`], what comes out is performed, and nothing else
//! decides.

pub mod backoff;
pub mod machine;
pub mod prober;
pub mod relay;
pub mod vitals;
pub mod watch;

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::boot::clock;
use crate::bottle::Desired;
use crate::daemon::pipelock::events::{self, Event as Line, Heard};
use crate::daemon::pipelock::leaves::Leaves;
use crate::daemon::pipelock::reload::{self, Plan};
use crate::policy::Policy;
use crate::sandbox::enter::{self, Command, ExecReport, SpawnError};
use crate::sandbox::landlock::Grants;
use crate::sandbox::{self, Sandbox, Seen, cgroup};
use crate::status::teller::Content;
use crate::status::{CONFIG, LastExit, Port, Reporter, Revocation, Stage};
use crate::sys::console::{Stream, console};
use crate::sys::files::{Access, Room, install};
use crate::sys::signals::{self, Request, Signals};
use crate::sys::steps::Steps;
use crate::sys::{connections, memory, reaper};
use machine::{Action, Answer, Change, Event, Machine, Outcome, PATIENCE, Phase, Silence, Timing};
use prober::{Finding, Prober, Question};
use relay::{LastLines, Relay};
use vitals::Work;

/// Configurations a daemon was given that it may still announce: one is reloaded within
/// [`machine::RELOAD_DEADLINE`], so these are more than it can be late.
const MOST_GIVEN: usize = 64;
/// The status is told again at most this often where only its counters have changed.
const COUNTERS_EVERY: Duration = Duration::from_secs(1);

/// Reads the manifest and everything beside it again; an error is in the console's words.
pub type ReadDesired<'a> = dyn Fn() -> Result<(Desired, Vec<String>), String> + 'a;

/// Everything supervision needs to know.
pub struct Setup<'a> {
    /// The daemon's executable.
    pub daemon: &'a Path,
    /// Where its configuration goes.
    pub config: &'a Path,
    /// The directory of the configuration, opened.
    pub run_room: &'a Room,
    /// Where extra roots go; also what `SSL_CERT_FILE` says.
    pub trust_bundle: &'a Path,
    /// The files to watch.
    pub watched: Vec<PathBuf>,
    /// Reads them.
    pub read: &'a ReadDesired<'a>,
    /// Applies what of a changed manifest is not the daemon's: host names.
    pub apply: &'a dyn Fn(&Desired) -> Result<(), String>,
    /// What its clients are told.
    pub clients: &'a dyn Fn(&Desired) -> [(&'static str, Content); 3],
    /// What the daemon may be.
    pub sandbox: Sandbox,
    /// A sandbox that is not known to be complete is a failed start.
    pub require_sandbox: bool,
    /// What the daemon reads besides its configuration: the CA pair.
    pub readable: Vec<PathBuf>,
}

impl Setup<'_> {
    /// What the daemon is granted while it listens on `port`.
    #[must_use]
    pub fn grants(&self, port: u16) -> Grants {
        // The directory, because the configuration is replaced by renaming, and
        // because the daemon watches it.
        let directory = self.config.parent().unwrap_or(Path::new("/"));
        let mut read = vec![directory.to_owned(), self.trust_bundle.to_owned()];
        read.extend_from_slice(&self.readable);
        Grants {
            program: self.daemon.to_owned(),
            read,
            listen: port,
        }
    }
}

/// Starts the daemon and keeps it until the end.
pub fn supervise(
    setup: &Setup,
    desired: Desired,
    signals: &mut Signals,
    reporter: &mut Reporter,
) -> Outcome {
    let now = Instant::now();
    let mut supervisor = Supervisor {
        machine: Machine::new(timing(&desired.policy)),
        prober: Prober::new(desired.policy.listen),
        watch: watch::Watch::new(setup.watched.clone(), now),
        steps: watch_clock(reporter),
        setup,
        desired,
        reporter,
        child: None,
        installed: None,
        denies_all: false,
        last_lines: LastLines::default(),
        events: VecDeque::from([Event::Begin]),
        outcome: None,
        reap_again: true,
        sweeping: false,
        proved_once: false,
        spawned: 0,
        changed: true,
        told_counters: (0, 0),
        told_at: now,
    };
    supervisor.reporter.served = Some(supervisor.desired.policy.listen);
    supervisor.reporter.denials.begin();
    supervisor.reporter.status.config.generation = 1;
    supervisor.reporter.status.config.desired_sha256 =
        Some(supervisor.desired.config_sha256.clone());
    supervisor.run(signals)
}

/// A daemon that was forked and is not reaped.
struct Running {
    pid: i32,
    output: Relay,
    error: Relay,
    /// `None` once it is known that the exec worked.
    exec_report: Option<ExecReport>,
    exec_error: Option<SpawnError>,
    /// Where it listens: a changed manifest may already want another address.
    listen: SocketAddr,
    /// The hash of the configuration that was in place when it started.
    config_sha256: String,
    /// The hashes of those it was given since.
    given: VecDeque<String>,
    /// What its control group had counted by then.
    oom_kills: u64,
    /// The certificates it keeps.
    leaves: Leaves,
    work: Work,
    /// What it was given: the wanted one at its start or at the last reload.
    generation: u64,
    /// Its configuration with nothing allowed. Not the wanted configuration's: a
    /// reload that changes anything but hosts is refused, and nothing would drain.
    deny_all: String,
    deny_all_sha256: String,
}

impl Running {
    /// Whether it has been given the configuration of this hash, by us.
    fn was_given(&self, sha256: &str) -> bool {
        sha256 == self.config_sha256
            || sha256 == self.deny_all_sha256
            || self.given.iter().any(|given| given == sha256)
    }

    fn give(&mut self, sha256: &str) {
        self.given.push_back(sha256.to_owned());
        if self.given.len() > MOST_GIVEN {
            self.given.pop_front();
        }
    }
}

#[allow(
    clippy::struct_excessive_bools,
    reason = "independent facts, each read in one place"
)]
struct Supervisor<'a> {
    setup: &'a Setup<'a>,
    machine: Machine,
    prober: Prober,
    watch: watch::Watch,
    steps: Option<Steps>,
    desired: Desired,
    reporter: &'a mut Reporter,
    child: Option<Running>,
    /// The configuration's file as it was when it was last found to be ours.
    installed: Option<watch::Mark>,
    /// What was installed last is the deny-all configuration.
    denies_all: bool,
    last_lines: LastLines,
    events: VecDeque<Event>,
    outcome: Option<Outcome>,
    reap_again: bool,
    /// A daemon that ended may have left processes behind.
    sweeping: bool,
    proved_once: bool,
    spawned: u64,
    /// Something to tell the host that no event brought.
    changed: bool,
    /// What was last told of children reaped and lines dropped, and when.
    told_counters: (u64, u64),
    told_at: Instant,
}

impl Supervisor<'_> {
    fn run(&mut self, signals: &mut Signals) -> Outcome {
        loop {
            self.settle();
            if let Some(outcome) = self.outcome.take() {
                return outcome;
            }
            let daemon_speaks = self.wait(signals);
            for (number, request) in signals.take() {
                self.request(number, request);
            }
            if self.reap_again {
                self.reap();
            }
            if daemon_speaks {
                self.hear_daemon();
            }
            console().flush_ready();
            let now = Instant::now();
            if let Some(finding) = self.prober.advance(now) {
                self.found(finding);
            }
            let looks = now >= self.watch.deadline();
            if self.watch.look(now) {
                self.read_manifest();
            }
            if looks {
                self.look_after_config();
                self.look_at_port();
                self.changed |= self.reporter.lost_its_status();
                self.reporter.look_after_export(now);
            }
            if let Some(by) = self.steps.as_mut().and_then(Steps::take) {
                self.clock_stepped(by);
            }
            self.reporter.tick(now);
            self.changed |= self.counters_deadline().is_some_and(|due| now >= due);
            if self
                .machine
                .deadline()
                .is_some_and(|deadline| now >= deadline)
            {
                self.events.push_back(Event::Tick);
            }
        }
    }

    /// Feeds the machine until it has nothing more to say, then tells the host.
    fn settle(&mut self) {
        let mut changed = std::mem::take(&mut self.changed);
        while let Some(event) = self.events.pop_front() {
            changed = true;
            log::trace!("event {event:?}");
            for action in self.machine.step(event, Instant::now()) {
                log::trace!("action {action:?}");
                self.perform(action);
            }
        }
        if changed {
            let halted = self.machine.phase() == Phase::Halted && !self.sweeping;
            if halted != self.reporter.status.port.is_some() {
                self.look_at_port();
                self.changed = false;
            }
            self.report();
        }
    }

    /// The only wait: for a signal, the daemon's output, an answer, or a deadline. True
    /// where there is something of the daemon's to read.
    fn wait(&self, signals: &Signals) -> bool {
        let mut waiting = vec![PollFd::new(signals.as_fd(), PollFlags::POLLIN)];
        if let Some(child) = &self.child {
            for relay in [&child.output, &child.error] {
                let carries = relay.as_fd().filter(|_| relay.has_room());
                waiting.extend(carries.map(|fd| PollFd::new(fd, PollFlags::POLLIN)));
            }
            if let Some(report) = &child.exec_report {
                waiting.push(PollFd::new(report.as_fd(), PollFlags::POLLIN));
            }
        }
        let daemons = waiting.len();
        if let Some((fd, flags)) = self.prober.interest() {
            waiting.push(PollFd::new(fd, flags));
        }
        waiting.extend(
            self.reporter
                .as_fd()
                .map(|fd| PollFd::new(fd, PollFlags::POLLIN)),
        );
        if let Some(steps) = &self.steps {
            waiting.push(PollFd::new(steps.as_fd(), PollFlags::POLLIN));
        }
        let counters = self.counters_deadline();
        let console = console();
        let deadline = [
            Some(self.watch.deadline()),
            self.machine.deadline(),
            self.prober.deadline(),
            console.deadline(Instant::now()),
            self.reporter.deadline(Instant::now()),
            counters,
        ]
        .into_iter()
        .flatten()
        .min();
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
        let mut daemons = waiting.iter().take(daemons).skip(1);
        daemons.any(|fd| fd.any() == Some(true))
    }

    fn request(&mut self, number: i32, request: Request) {
        let name = Signal::try_from(number).map_or("signal", Signal::as_str);
        match request {
            Request::Reap => self.reap_again = true,
            Request::Stop => {
                log::info!("{name}: stopping");
                self.reporter.stopping();
                self.events.push_back(Event::StopAsked);
            }
            Request::Reload => {
                log::info!("{name}: reading the manifest again");
                self.reporter.reloading();
                self.read_manifest();
            }
            Request::Halt => {
                log::warn!("{name}: halting");
                self.events.push_back(Event::HaltAsked);
            }
            Request::Resume => {
                log::info!("{name}: resumed");
                self.events.push_back(Event::ResumeAsked);
            }
        }
    }

    fn reap(&mut self) {
        let reaped = reaper::reap_exited_children();
        self.reap_again = reaped.more;
        for exit in reaped.exits {
            // Whoever writes for us is no orphan.
            if console().reaped(exit.pid) || self.reporter.sent(exit.pid) {
                continue;
            }
            self.reporter.status.reaped += 1;
            match self.child.take() {
                Some(child) if child.pid == exit.pid => self.daemon_ended(child, exit.reason),
                other => {
                    self.child = other;
                    log::debug!("reaped orphan {}, which {}", exit.pid, exit.reason);
                }
            }
        }
        if self.sweeping {
            self.sweep();
            // Now the port can be judged.
            self.changed |= !self.sweeping;
        }
    }

    /// Kills what an ended daemon left behind: whatever is our child now and is not its
    /// successor. Each one's own children are ours once it has been reaped.
    fn sweep(&mut self) {
        let successor = self.child.as_ref().map(|child| child.pid);
        let left: Vec<i32> = reaper::children()
            .into_iter()
            .filter(|pid| {
                Some(*pid) != successor && !console().sent(*pid) && !self.reporter.sent(*pid)
            })
            .collect();
        self.sweeping = !left.is_empty();
        for pid in left {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
    }

    fn daemon_ended(&mut self, mut child: Running, reason: reaper::ExitReason) {
        // Helpers it left in its process group must not outlive it beside its successor.
        signal_group(child.pid, Signal::SIGKILL);
        // Those that left its group, once this batch is done.
        self.sweeping = true;
        let starved = self.setup.sandbox.group.as_ref().and_then(|group| {
            // Those that left it for a session of their own, too.
            group.kill_everybody();
            (group.oom_kills() > child.oom_kills).then(|| group.describe_limit())
        });
        for relay in [&mut child.output, &mut child.error] {
            relay.finish(&mut self.last_lines, &mut |line| {
                if let Some(Heard::Refusal(refusal)) = events::parse(line) {
                    self.reporter.denials.count(&refusal);
                }
            });
        }
        if let Some(mut report) = child.exec_report.take()
            && let Some(Err(error)) = report.outcome()
        {
            child.exec_error = Some(error);
        }
        self.prober.reset(self.desired.policy.listen);
        let status = &mut self.reporter.status;
        status.last_lines = self.last_lines.said();
        status.daemon.pid = None;
        status.daemon.sandbox_verified = false;
        status.daemon.working_since = None;
        status.config.applied_sha256 = None;
        if let Some(revocation) = status.revocation.as_mut().filter(|r| r.done_at.is_none()) {
            revocation.done_at = Some(crate::ca::rfc3339(clock::now()));
        }
        if let Some(error) = child.exec_error {
            self.events
                .push_back(Event::SpawnFailed(error.errno, error.to_string()));
            return;
        }
        let text = match (&starved, self.machine.brought_down_for()) {
            (Some(limit), _) => format!("{reason}: out of memory, {limit}"),
            (None, Some(failure)) => format!("{reason}, brought down: {failure}"),
            (None, None) => reason.to_string(),
        };
        log::info!("pipelock (pid {}) {text}", child.pid);
        status.last_exit = Some(LastExit {
            code: reason.shell_code(),
            text,
            at: crate::ca::rfc3339(clock::now()),
        });
        self.events.push_back(match starved {
            Some(limit) => Event::OutOfMemory(reason, limit),
            None => Event::Exited(reason),
        });
    }

    /// Carries the daemon's output, and learns whether it could be executed at all.
    fn hear_daemon(&mut self) {
        let Some(child) = &mut self.child else {
            return;
        };
        let mut lines = Vec::new();
        child.error.carry(&mut self.last_lines, &mut |_| {});
        child.output.carry(
            &mut self.last_lines,
            &mut |line| match events::parse(line) {
                Some(Heard::Event(event)) => lines.push(event),
                Some(Heard::Refusal(refusal)) => self.reporter.denials.count(&refusal),
                None => {}
            },
        );
        if let Some(report) = &mut child.exec_report {
            match report.outcome() {
                None => {}
                Some(Ok(())) => {
                    child.exec_report = None;
                    let pid = child.pid;
                    self.check_sandbox(pid);
                }
                Some(Err(error)) => {
                    child.exec_report = None;
                    child.exec_error = Some(error);
                }
            }
        }
        for line in lines {
            self.heard(line);
        }
    }

    fn check_sandbox(&mut self, pid: i32) {
        match self.setup.sandbox.read_back(pid) {
            Seen::Confined => {
                self.reporter.status.daemon.sandbox_verified = true;
                self.events.push_back(Event::Confined);
            }
            Seen::Holes(mismatch) => self.events.push_back(Event::Unfit(mismatch.to_string())),
            Seen::Ended => {}
            Seen::Nothing(why) if self.setup.require_sandbox => {
                self.events.push_back(Event::Unfit(format!(
                    "the daemon's sandbox could not be read back: {why}"
                )));
            }
            Seen::Nothing(why) => {
                self.reporter.warn(format!(
                    "the daemon's sandbox was applied but could not be read back: {why}"
                ));
                self.events.push_back(Event::Confined);
            }
        }
    }

    fn heard(&mut self, line: Line) {
        let Some(child) = &self.child else {
            return;
        };
        match line {
            Line::Startup { config_hash } if config_hash == child.config_sha256 => {
                self.reporter.status.config.applied_sha256 = Some(config_hash);
                self.events.push_back(Event::Announced);
            }
            Line::Startup { config_hash } => self.events.push_back(Event::Unfit(format!(
                "pipelock runs on another configuration: it reports the SHA-256 {config_hash}, the file written has {}",
                child.config_sha256
            ))),
            Line::Reloaded { config_hash } if !child.was_given(&config_hash) => {
                let why = format!(
                    "pipelock runs on a configuration that it was not given: it reports the SHA-256 {config_hash}; \
                     somebody else changed {}",
                    self.setup.config.display()
                );
                log::error!("{why}");
                self.reporter.status.config.applied_sha256 = None;
                self.events.push_back(Event::Unfit(why));
            }
            Line::Reloaded { config_hash } => {
                // Both, for a bottle that allows nothing anyway.
                if config_hash == self.desired.config_sha256 {
                    self.events.push_back(Event::ReloadAcknowledged);
                }
                if config_hash == child.deny_all_sha256 {
                    self.events.push_back(Event::DenyAllAcknowledged);
                }
                self.reporter.status.config.applied_sha256 = Some(config_hash);
            }
            Line::ReloadRefused(why) => {
                log::warn!("pipelock refused the reload ({why}); restarting it instead");
                self.events.push_back(Event::ReloadRefused);
            }
        }
    }

    /// While halted: whether nothing gets through is for the port to say, for a process that
    /// left the daemon's session may have it still.
    fn look_at_port(&mut self) {
        let halted = self.machine.phase() == Phase::Halted;
        let port = self.reporter.served.filter(|_| halted).map(Port::look);
        if port == self.reporter.status.port {
            return;
        }
        self.changed = true;
        if let Some(port) = &port {
            let words = Port::in_words(&port.address, port.closed, port.detail.as_deref());
            match port.closed {
                Some(true) => log::warn!("halted; {words} until SIGUSR2"),
                _ => log::error!("halted, {words}"),
            }
        }
        self.reporter.status.port = port;
    }

    /// Puts the configuration back where somebody else changed its file. What pipelock
    /// makes of it meanwhile it announces itself.
    fn look_after_config(&mut self) {
        let Some(child) = &self.child else {
            return;
        };
        // One that is being stopped is followed by another start, which looks itself.
        if self.machine.phase() == Phase::Stopping {
            return;
        }
        let path = self.setup.config;
        let mark = watch::mark(path);
        if mark.is_some() && mark == self.installed {
            return;
        }
        let access = self.config_access();
        let wanted = if self.denies_all {
            &child.deny_all
        } else {
            &self.desired.config
        };
        let room = self.setup.run_room;
        if room.is_installed(CONFIG, wanted.as_bytes(), access) {
            self.installed = mark;
            return;
        }
        self.changed = true;
        let put_back = room.install(CONFIG, wanted.as_bytes(), access);
        let path = path.display();
        self.reporter.warn(match put_back {
            Ok(()) => format!("somebody else changed {path}; it was put back"),
            Err(error) => format!("somebody else changed {path}, and it stays so: {error}"),
        });
    }

    fn config_access(&self) -> Access {
        Access::private(self.setup.sandbox.file_owner())
    }

    fn found(&mut self, mut finding: Finding) {
        if let (Answer::Tunnels(count), Some(child)) = (&mut finding.answer, &self.child) {
            *count = connections::established(child.listen).max(*count);
        }
        if let (Answer::Fit, Some(child)) = (&finding.answer, &self.child)
            && connections::listens(child.pid, child.listen) == Some(false)
        {
            let why = format!("another process listens on {}", child.listen);
            finding.answer = Answer::Silent(Silence::because(why));
        }
        if self.machine.phase() == Phase::Ready {
            self.note_work();
        }
        if let (Answer::Silent(silence), Some(child)) = (&mut finding.answer, &self.child)
            && (self.machine.phase() == Phase::Ready || silence.late)
        {
            silence.used = vitals::processor_time(child.pid);
            silence.overload = vitals::overload(child.pid, child.listen);
        }
        if let Some(version) = finding.version {
            self.reporter.note_version(version);
        }
        if let Answer::Unfit(why) = &finding.answer {
            log::error!("{why}");
        }
        self.events.push_back(Event::Answered(finding.answer));
    }

    /// Tells since when the daemon has been at work: whoever waits for what it scans looks here.
    fn note_work(&mut self) {
        let Some(child) = &mut self.child else {
            return;
        };
        let Some(used) = vitals::processor_time(child.pid) else {
            return;
        };
        child.work.note(used, Instant::now(), clock::now());
        let since = child.work.since().map(crate::ca::rfc3339);
        let told = &mut self.reporter.status.daemon.working_since;
        self.changed |= *told != since;
        *told = since;
    }

    fn read_manifest(&mut self) {
        self.changed = true;
        let (new, warnings) = match (self.setup.read)() {
            Ok(read) => read,
            Err(why) => {
                let text =
                    format!("the changed manifest is not used, the old one stays in force:\n{why}");
                if self.reporter.status.manifest_error.as_ref() != Some(&why) {
                    log::error!("{text}");
                }
                self.reporter.status.manifest_error = Some(why);
                return;
            }
        };
        self.reporter.status.manifest_error = None;
        self.reporter.warn_of_manifest(warnings);
        if new.policy == self.desired.policy && new.trust == self.desired.trust {
            log::debug!("the manifest asks for the same as before");
            return;
        }
        if let Err(error) = (self.setup.apply)(&new) {
            self.reporter.warn(error);
        }
        self.reporter.export((self.setup.clients)(&new));
        let mut plan = reload::plan(&self.desired.policy, &new.policy);
        if new.trust != self.desired.trust && matches!(plan, Plan::Nothing | Plan::Reload) {
            plan = Plan::RESTART;
        }
        self.machine.set_timing(timing(&new.policy));
        let config = &mut self.reporter.status.config;
        config.generation += 1;
        let generation = config.generation;
        config.desired_sha256 = Some(new.config_sha256.clone());
        self.reporter.follow(&new.policy);
        new.count_notes();
        self.desired = new;
        match plan {
            Plan::Nothing => {
                log::info!("generation {generation}: the daemon's configuration is unchanged");
                if let Some(child) = &mut self.child
                    && child.generation + 1 == generation
                {
                    child.generation = generation;
                    if self.machine.phase() == Phase::Ready && !self.machine.is_reloading() {
                        self.reporter.status.config.applied_generation = generation;
                    }
                }
            }
            Plan::Reload => {
                log::info!("generation {generation}: the allowlist changed; reloading pipelock");
                self.events.push_back(Event::ConfigChanged(Change::Grow));
            }
            Plan::Restart { revoked, scanned } => {
                let revokes = !revoked.is_empty() || !scanned.is_empty();
                if revokes {
                    for (hosts, what) in [
                        (&revoked, "revoked"),
                        (&scanned, "no longer passed through unscanned"),
                    ] {
                        if !hosts.is_empty() {
                            log::info!("generation {generation}: {} {what}", some_of(hosts));
                        }
                    }
                    log::info!("generation {generation}: restarting pipelock");
                    let nobody_runs = self.child.is_none();
                    self.reporter.status.revocation = Some(Revocation {
                        generation,
                        hosts: revoked,
                        more: 0,
                        scanned,
                        scanned_more: 0,
                        done_at: nobody_runs.then(|| crate::ca::rfc3339(clock::now())),
                    });
                } else {
                    log::info!("generation {generation}: restarting pipelock");
                }
                self.events
                    .push_back(Event::ConfigChanged(Change::Restart { revokes }));
            }
        }
    }

    /// Every interval here is monotonic. What the clock dates is not: the daemon's
    /// certificates, and the CA's own validity.
    fn clock_stepped(&mut self, by_ms: i64) {
        self.changed = true;
        let to = crate::ca::rfc3339(clock::now());
        let way = if by_ms < 0 { "back" } else { "ahead" };
        let seconds = by_ms.saturating_add(500).div_euclid(1000);
        log::warn!(
            "the clock was set {way} by {} s, to {to}",
            seconds.unsigned_abs()
        );
        if let Some(ca) = &self.reporter.status.ca
            // RFC 3339 in UTC sorts as time does.
            && (to < ca.not_before || to > ca.not_after)
        {
            let text = format!(
                "by the clock that was set to {to} the CA is not valid: it is from {} to {}, and clients will \
                 refuse what it signs; a new machine makes a new one",
                ca.not_before, ca.not_after
            );
            self.reporter.warn(text);
        }
        let status = &mut self.reporter.status;
        status.clock_steps += 1;
        status.last_clock_step = seconds;
        if let Some(child) = &mut self.child {
            child.leaves.stepped(by_ms);
        }
        self.renew_leaves();
    }

    /// Lets a daemon that serves forget certificates its clients would refuse; one that
    /// does not yet is asked when it does.
    fn renew_leaves(&mut self) {
        if let Some(child) = &mut self.child
            && child.leaves.suffer()
            && self.machine.phase() == Phase::Ready
            && !self.machine.is_reloading()
        {
            log::info!("reloading pipelock, for its certificates are dated by the old clock");
            child.leaves = Leaves::default();
            // The same configuration once more: every reload empties the cache.
            self.events.push_back(Event::ConfigChanged(Change::Grow));
        }
    }

    fn perform(&mut self, action: Action) {
        match action {
            Action::Spawn => {
                if let Err((errno, why)) = self.spawn() {
                    self.events.push_back(Event::SpawnFailed(errno, why));
                }
            }
            Action::Terminate => self.signal_daemon(Signal::SIGTERM),
            Action::Kill => self.signal_daemon(Signal::SIGKILL),
            Action::ProbeFitness => self.ask(Question::Fitness, PATIENCE),
            Action::ProbeLiveness(patience) => self.ask(Question::Liveness, patience),
            Action::CountTunnels => self.ask(Question::Tunnels, PATIENCE),
            Action::InstallConfig => {
                let generation = self.reporter.status.config.generation;
                match (self.install_config(), &mut self.child) {
                    (Err(why), _) => self.reporter.warn(why),
                    (Ok(()), Some(child)) => {
                        child.generation = generation;
                        child.give(&self.desired.config_sha256);
                    }
                    (Ok(()), None) => {}
                }
            }
            Action::InstallDenyAll => {
                if let Err(why) = self.install_deny_all() {
                    self.reporter.warn(why);
                }
            }
            Action::AnnounceReady => self.announce_ready(),
            Action::Finish(outcome) => self.outcome = Some(outcome),
        }
    }

    fn announce_ready(&mut self) {
        let status = &mut self.reporter.status;
        // Not the newest there is: another may have been read in this very moment.
        let generation = self
            .child
            .as_ref()
            .map_or(status.config.applied_generation, |child| child.generation);
        status.config.applied_generation = generation;
        self.renew_leaves();
        if self.proved_once {
            log::info!("ready again, generation {generation}");
        } else {
            self.proved_once = true;
            self.reporter.finish_stages();
            log::info!(
                "ready: pipelock {} listens on {}, refuses what is not allowed; {} host(s) allowed",
                self.reporter
                    .status
                    .daemon
                    .version
                    .as_deref()
                    .unwrap_or("?"),
                self.desired.policy.listen,
                self.desired.policy.allowlist.len()
            );
        }
    }

    fn install_config(&mut self) -> Result<(), String> {
        self.installed = None;
        self.denies_all = false;
        let (room, access) = (self.setup.run_room, self.config_access());
        room.install(CONFIG, self.desired.config.as_bytes(), access)
            .map_err(|error| error.to_string())
    }

    fn install_deny_all(&mut self) -> Result<(), String> {
        let access = self.config_access();
        let Some(child) = &self.child else {
            return Ok(());
        };
        self.installed = None;
        self.denies_all = true;
        let room = self.setup.run_room;
        room.install(CONFIG, child.deny_all.as_bytes(), access)
            .map_err(|error| error.to_string())?;
        if self.reporter.status.config.applied_sha256.as_ref() == Some(&child.deny_all_sha256) {
            // pipelock drops a reload of what it runs on, so nobody would acknowledge.
            self.events.push_back(Event::DenyAllAcknowledged);
        }
        Ok(())
    }

    fn spawn(&mut self) -> Result<(), (i32, String)> {
        let io_error = |why: String| (nix::libc::EIO, why);
        // Each time: the file is the daemon's, and the last one may have changed it. But
        // no more than needed: the disk may have filled up since.
        if !self.setup.run_room.is_installed(
            CONFIG,
            self.desired.config.as_bytes(),
            self.config_access(),
        ) {
            self.install_config().map_err(io_error)?;
        }
        self.denies_all = false;
        let own = self.setup.sandbox.group.as_ref().map(cgroup::Group::limit);
        let mut environment: Vec<String> = memory::go_memory_limit(own)
            .into_iter()
            .map(|limit| format!("GOMEMLIMIT={limit}"))
            .collect();
        if let Some(roots) = &self.desired.trust {
            install(self.setup.trust_bundle, roots, Access::PUBLIC)
                .map_err(|error| io_error(error.to_string()))?;
            environment.push(format!(
                "SSL_CERT_FILE={}",
                self.setup.trust_bundle.display()
            ));
        }
        let listen = self.desired.policy.listen.to_string();
        let config = self.setup.config.to_string_lossy();
        let arguments = ["run", "--config", &config, "--listen", &listen];
        let command =
            Command::new(self.setup.daemon, &arguments, &environment).map_err(|error| {
                io_error(format!(
                    "cannot start {}: {error}",
                    self.setup.daemon.display()
                ))
            })?;
        let sandbox = &self.setup.sandbox;
        let prepared = sandbox
            .prepare(&self.setup.grants(self.desired.policy.listen.port()))
            .map_err(io_error)?;
        // As this start finds it: the program may be another one by now.
        self.reporter.tell_missing(&prepared.missing);
        if self.setup.require_sandbox {
            sandbox::insist_on(&prepared.missing).map_err(io_error)?;
        }
        let oom_kills = sandbox.group.as_ref().map_or(0, cgroup::Group::oom_kills);
        let child = enter::spawn(&command, sandbox, &prepared)
            .map_err(|error| (error.errno, error.to_string()))?;
        let status = &mut self.reporter.status;
        if status.daemon.pid.is_some() || self.child.is_some() {
            log::error!("internal error: a daemon was started beside another");
        }
        status.restarts = self.spawned;
        self.spawned += 1;
        status.daemon.pid = Some(child.pid);
        self.reporter.served = Some(self.desired.policy.listen);
        let status = &mut self.reporter.status;
        status.daemon.uid = Some(self.setup.sandbox.uid);
        log::debug!("pipelock has pid {}", child.pid);
        self.prober.reset(self.desired.policy.listen);
        self.child = Some(Running {
            pid: child.pid,
            output: Relay::new(child.stdout, Stream::Output),
            error: Relay::new(child.stderr, Stream::Error),
            exec_report: Some(child.exec_report),
            exec_error: None,
            listen: self.desired.policy.listen,
            config_sha256: self.desired.config_sha256.clone(),
            generation: self.reporter.status.config.generation,
            given: VecDeque::new(),
            deny_all: self.desired.deny_all.clone(),
            deny_all_sha256: self.desired.deny_all_sha256.clone(),
            oom_kills,
            leaves: Leaves::default(),
            work: Work::default(),
        });
        if !self.proved_once && self.reporter.status.stage == Stage::Spawn {
            self.reporter.enter(Stage::Ready);
        }
        Ok(())
    }

    fn ask(&mut self, question: Question, patience: Duration) {
        if let Some(finding) = self.prober.ask(question, patience, Instant::now()) {
            self.found(finding);
        }
    }

    fn signal_daemon(&self, signal: Signal) {
        if let Some(child) = &self.child
            && !signal_group(child.pid, signal)
        {
            // Between fork and setsid it leads no group. It is not reaped yet, so the
            // number is still its own; ESRCH cannot be.
            let _ = kill(Pid::from_raw(child.pid), signal);
        }
    }

    fn report(&mut self) {
        let machine = &self.machine;
        let status = &mut self.reporter.status;
        status.state = match machine.phase() {
            Phase::Idle => "starting".to_owned(),
            Phase::Ready if machine.is_reloading() => "reloading".to_owned(),
            phase => phase.as_str().to_owned(),
        };
        status.halted = machine.is_halted();
        status.failures = machine.failures();
        status.error = machine.last_failure().map(ToString::to_string);
        let trouble = machine.trouble();
        if trouble != status.daemon.trouble.as_deref() {
            match trouble {
                Some(trouble) => log::warn!("pipelock is {trouble}"),
                None if machine.phase() == Phase::Ready => log::info!("pipelock answers again"),
                None => {}
            }
            status.daemon.trouble = trouble.map(ToOwned::to_owned);
        }
        self.reporter.publish();
        self.told_counters = self.counters();
        self.told_at = Instant::now();
    }

    fn counters(&self) -> (u64, u64) {
        (self.reporter.status.reaped, console().dropped())
    }

    /// When counters that moved without an event are told: an orphan that was reaped, a
    /// line that was dropped.
    fn counters_deadline(&self) -> Option<Instant> {
        (self.counters() != self.told_counters).then(|| self.told_at + COUNTERS_EVERY)
    }
}

/// The first hosts of many.
fn some_of(hosts: &[String]) -> String {
    const SOME: usize = 20;
    let some = hosts.get(..SOME).unwrap_or(hosts).join(", ");
    match hosts.len().saturating_sub(SOME) {
        0 => some,
        more => format!("{some} and {more} more"),
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
