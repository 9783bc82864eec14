//! Keeps the status and tells it: to the run directory, the export, the service manager and
//! the console. Touches the file system.
//!
//! What there is to tell it hears in `facts.rs`, and nobody else writes in its status.

mod facts;
mod warnings;

use std::net::SocketAddr;
use std::os::fd::BorrowedFd;
use std::path::Path;
use std::rc::Rc;
use std::time::{Duration, Instant};

use crate::boot::mode::Mode;
use crate::daemon::pipelock;
use crate::daemon::pipelock::said::Said;
use crate::environment;
use crate::exit::ExitCode;
use crate::plain;
use crate::status::denials::{self, Denials};
use crate::status::export::{AGENTS, Content, DIRECTORY};
use crate::status::for_agents;
use crate::status::notify::Notifier;
use crate::status::schema::{FILE, Outcome, SCHEMA, Stage, StageTime, State, Status, Word};
use crate::status::teller::{self, Teller};
use crate::status::{last_words, metrics, report};
use crate::sys::claim::Claim;
use crate::sys::console::console;
use crate::sys::files::{Access, FileError, Mark, Room};
use warnings::Warnings;
pub use warnings::While;

/// The export has so long to forget what an earlier start had left there.
const FIRST_PATIENCE: Duration = Duration::from_secs(2);
/// A status that could not be written is written again after so long.
const RETRY: Duration = Duration::from_secs(2);

/// Keeps the status and tells it.
#[derive(Debug)]
pub struct Reporter {
    /// What will be told next.
    status: Status,
    denials: Denials,
    /// Where the daemon listens, or last did.
    served: Option<SocketAddr>,
    /// Why the daemon that ended last did so, in its words.
    said_reason: Option<Said>,
    /// The same of the others, by their names.
    companions_said: Vec<(String, Option<Said>)>,
    notifier: Notifier,
    warnings: Warnings,
    started: Instant,
    run: Option<Room>,
    export: Option<Teller>,
    /// What an agent is told, but for its first lines; and the state that those told of.
    page: Option<Rc<str>>,
    page_told: Option<Word<State>>,
    claim: Option<Claim>,
    told: Option<String>,
    /// What was told, as the file that it became.
    written: Option<Mark>,
    retry: Option<Instant>,
}

/// The two places where files are told, in words.
const RUN: &str = "the run directory";
const EXPORT: &str = "the export";

/// Bytes of a status that says nothing unusual.
const LIKELY_LENGTH: usize = 2000;

/// A status that was written without its date, its last field, with it.
fn dated(undated: &str, date: &str) -> String {
    let before = undated.strip_suffix("\"}").unwrap_or(undated);
    [before, date, "\"}"].concat()
}

impl Reporter {
    /// Begins to keep a status; told to nobody until [`Reporter::tell_in`].
    #[must_use]
    pub fn new(started: Instant, boot_id: String) -> Self {
        Self {
            denials: Denials::new(boot_id.clone()),
            served: None,
            said_reason: None,
            companions_said: Vec::new(),
            notifier: Notifier::default(),
            warnings: Warnings::default(),
            status: Status {
                schema: SCHEMA,
                version: env!("CARGO_PKG_VERSION").to_owned(),
                pid: i32::try_from(std::process::id()).ok(),
                boot_id,
                state: State::Starting.into(),
                stage: Stage::Mode.into(),
                outcome: Outcome::FailedAt(Stage::Mode).into(),
                stages: vec![StageTime {
                    stage: Stage::Mode.into(),
                    at_us: 0,
                    took_us: None,
                }],
                ..Status::default()
            },
            started,
            run: None,
            export: None,
            page: None,
            page_told: None,
            claim: None,
            told: None,
            written: None,
            retry: None,
        }
    }

    /// What will be told next.
    #[must_use]
    pub fn status(&self) -> &Status {
        &self.status
    }

    /// What the daemon that ended last said of why, for a sentence that goes on: its own reason,
    /// else its last line; empty where it said nothing.
    #[must_use]
    pub fn said_at_its_end(&self, name: &str) -> String {
        if let Some(companion) = self.status.daemons.iter().find(|it| it.name == name) {
            let said = self.companions_said.iter().find(|(it, _)| it == name);
            let reason = said.and_then(|(_, reason)| reason.as_ref());
            return at_its_end(reason, companion.last_lines.last());
        }
        at_its_end(self.said_reason.as_ref(), self.status.last_lines.last())
    }

    /// Notes the mode, and whom to notify.
    pub fn set_mode(&mut self, mode: Mode) {
        self.status.mode = Some(mode.into());
        // PID 1 has another number outside.
        let main_pid = (mode == Mode::Child).then(std::process::id);
        match Notifier::from_environment(main_pid) {
            Ok(notifier) => {
                if notifier.has_reader() {
                    for sentence in environment::no_numbers() {
                        self.warn(sentence);
                    }
                }
                self.notifier = notifier;
            }
            Err(error) => self.warn(error.to_string()),
        }
    }

    /// The manifest is about to be read again because somebody asked for it.
    pub fn reloading(&mut self) {
        let result = self.notifier.reloading();
        notified(result);
    }

    /// The end has begun.
    pub fn stopping(&mut self) {
        let result = self.notifier.stopping();
        notified(result);
    }

    /// What to do about whoever has the daemon's port, where nothing of ours runs any more.
    #[must_use]
    pub fn hint_of_port(&self) -> Option<String> {
        let port = self.served.map(facts::look_at)?;
        let holder = port.detail.filter(|_| port.closed == Some(false));
        let holder = match (port.closed, holder) {
            (Some(false), Some(holder)) => format!(": {holder}"),
            (Some(false), None) => String::new(),
            _ => return None,
        };
        Some(format!(
            "{} is another's{holder}; end that, or have pipelock listen elsewhere: the manifest's \
             pipelock.listen",
            port.address
        ))
    }

    /// When [`Reporter::tick`] has something to do; `None` while it has nothing.
    #[must_use]
    pub fn deadline(&self, now: Instant) -> Option<Instant> {
        let deadlines = [
            self.denials.deadline(now),
            self.notifier.deadline(),
            self.export.as_ref().and_then(|it| it.deadline(now)),
            self.retry,
        ];
        deadlines.into_iter().flatten().min()
    }

    /// Readable when the export has answered.
    #[must_use]
    pub fn as_fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.export.as_ref()?.errand()?.as_fd())
    }

    /// Whether this child was sent to tell something, and is no orphan.
    #[must_use]
    pub fn sent(&self, pid: i32) -> bool {
        self.export.as_ref().is_some_and(|it| it.sent(pid))
    }

    /// Tells what has its own time: that we live, the denials, and what could not be told
    /// before.
    pub fn tick(&mut self, now: Instant) {
        if let Some(claim) = &mut self.claim {
            claim.beat();
        }
        if let Some(denials) = self.denials.tick(now) {
            self.tell(denials::FILE, &denials);
        }
        let result = self.notifier.tick(now);
        notified(result);
        let warnings = self.export.as_mut().map(|it| it.advance(now));
        let changed = self.heard_of_export(warnings.unwrap_or_default());
        if changed || self.retry.is_some_and(|retry| now >= retry) {
            self.publish();
        }
    }

    /// Has somebody look, from time to time, whether the export is as it was told.
    pub fn look_after_export(&mut self, now: Instant) {
        if self.warnings.has(&While::InTheWay(RUN)) && self.sweep() {
            self.publish();
        }
        if let Some(export) = &mut self.export {
            export.look(now);
        }
    }

    /// Takes over what is wrong with the export, and what is no more; whether that is new.
    fn heard_of_export(&mut self, warnings: Vec<String>) -> bool {
        let mut changed = !warnings.is_empty();
        for warning in warnings {
            self.warn(warning);
        }
        let of = |found: fn(&Teller) -> Option<&str>, export: &Option<Teller>| {
            export.as_ref().and_then(found).map(str::to_owned)
        };
        let was_late = self.warnings.has(&While::Export);
        for (what, found) in [
            (
                While::Export,
                Teller::problem as fn(&Teller) -> Option<&str>,
            ),
            (While::NoRoots, Teller::lacks_roots),
            (While::InTheWay(EXPORT), Teller::in_its_way),
        ] {
            let now = of(found, &self.export);
            changed |= self.warn_while(&what, now);
        }
        if self.export.as_ref().is_some_and(Teller::has_moved) {
            changed |= self.warn_while(&While::Unmounted, None);
        }
        if was_late && !self.warnings.has(&While::Export) {
            log::info!("the export is up to date again");
        }
        changed
    }

    /// Whether the status that was written is not there as it was written: it is told again.
    /// Whoever finds none takes this init for gone.
    pub fn lost_its_status(&mut self) -> bool {
        let Some(run) = &self.run else {
            return false;
        };
        // None: it was gone before it could be looked at, or is now.
        let mark = run.mark(FILE);
        let lost = self.told.is_some() && (mark.is_none() || mark != self.written);
        if lost {
            self.told = None;
        }
        lost
    }

    /// Writes a file in the run directory, and has it written in the export.
    fn tell(&mut self, name: &'static str, text: &str) -> bool {
        let written = self
            .run
            .as_ref()
            .map(|run| teller::write(run, name, text.as_bytes()));
        if let Some(export) = &mut self.export {
            let now = crate::boot::clock::now();
            let numbers = metrics::text(&self.status, self.denials.of_each_kind(), now);
            export.tell(metrics::FILE, Content::Text(numbers.into()));
            export.tell(name, Content::Text(text.into()));
        }
        let error = written.and_then(Result::err).map(|it| it.to_string());
        let is_told = error.is_none();
        self.warn_while(&While::Unwritten(name), error);
        is_told
    }

    /// Logs a warning and keeps it in the status, once, to the end: of what this start cannot
    /// change any more, or what somebody has done.
    pub fn warn(&mut self, warning: String) {
        log::warn!("{warning}");
        if self.warnings.add(warning) {
            self.status.warnings = self.warnings.all();
        }
    }

    /// Logs what is new of these, and keeps them in the status until this is called again with
    /// others or none; whether that is a change.
    pub fn warn_while(&mut self, what: &While, warnings: impl IntoIterator<Item = String>) -> bool {
        let (new, changed) = self.warnings.set(what, warnings.into_iter().collect());
        for warning in new {
            log::warn!("{warning}");
        }
        if changed {
            self.status.warnings = self.warnings.all();
        }
        changed
    }

    /// What is told of this is over.
    pub fn over(&mut self, what: &While) {
        self.warn_while(what, None);
    }

    /// The warnings of the manifest that is in force from now on; those of the one before
    /// are over. Logs what is new.
    fn warn_of_manifest(&mut self, warnings: Vec<String>, untold: usize) {
        if untold > 0 && untold != self.warnings.untold {
            log::warn!("{untold} more warnings about the manifest than are told");
        }
        self.warnings.untold = untold;
        let before = std::mem::replace(&mut self.warnings.manifest, warnings);
        for warning in &self.warnings.manifest {
            if !before.contains(warning) {
                log::warn!("{warning}");
            }
        }
        self.status.warnings = self.warnings.all();
    }

    /// Enters a stage: the status says "failed" before it is tried, and only success
    /// moves it on. A stage that waits for nobody is not told of before the next one is, or
    /// its failure: it would be over before anybody could have read of it.
    pub fn enter(&mut self, stage: Stage) {
        let now = self.elapsed_us();
        self.close_stage(now);
        self.status.stage = stage.into();
        self.status.outcome = Outcome::FailedAt(stage).into();
        self.status.stages.push(StageTime {
            stage: stage.into(),
            at_us: now,
            took_us: None,
        });
        log::debug!("stage {stage}");
        if stage.waits() {
            self.publish();
        }
    }

    /// The last stage is behind us.
    pub fn finish_stages(&mut self) {
        let now = self.elapsed_us();
        self.close_stage(now);
        self.status.outcome = Outcome::Running.into();
    }

    fn close_stage(&mut self, now: u64) {
        if let Some(last) = self.status.stages.last_mut()
            && last.took_us.is_none()
        {
            last.took_us = Some(now.saturating_sub(last.at_us));
        }
    }

    pub(super) fn elapsed_us(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_micros()).unwrap_or(u64::MAX)
    }

    /// Publishes in the run directory from now on, and lives there by `claim`.
    pub fn tell_in(&mut self, run: &Room, claim: Option<Claim>) -> Result<(), FileError> {
        let kept = |source| FileError::new("keep open the directory of", Path::new(FILE), source);
        for name in [denials::FILE, report::FILE] {
            // Of an earlier start; what stays there says so by its boot id.
            let _ = run.remove(name);
        }
        self.claim = claim;
        self.run = Some(run.try_clone().map_err(kept)?);
        self.sweep();
        last_words::remember_run(run);
        self.status.updated = crate::ca::rfc3339(crate::boot::clock::now());
        run.publish(FILE, self.json().as_bytes(), Access::PUBLIC)
    }

    /// Removes what earlier starts left in the run directory, and says what stays.
    fn sweep(&mut self) -> bool {
        let stay = self.run.as_ref().map_or(0, Room::sweep);
        let stays = (stay > 0).then(|| teller::in_the_way(RUN, stay));
        self.warn_while(&While::InTheWay(RUN), stays)
    }

    /// Keeps the export up to date too, from now on, if there is one in the run directory;
    /// whether there is. First of all this start's status takes the place of an earlier one's.
    pub fn tell_export(&mut self) -> bool {
        let is_there = self.find_export();
        if is_there {
            self.publish();
            self.finish_export();
        }
        is_there
    }

    /// Keeps an export up to date that was not there when last looked: it is given what it needs
    /// of this, and told the rest. Whether there is such a one.
    pub fn take_up_export(&mut self) -> bool {
        let is_new = self.export.is_none() && self.find_export();
        if is_new {
            log::info!("there is an export now: it is told everything");
            self.denials.tell_again();
        }
        is_new
    }

    fn find_export(&mut self) -> bool {
        let Some(run) = &self.run else {
            return false;
        };
        let room = match run.enter(DIRECTORY) {
            Ok(Some(room)) => room,
            Ok(None) => return self.has_no_export(None),
            Err(error) => {
                let why = format!("the host is told nothing in the export: {error}");
                return self.has_no_export(Some(why));
            }
        };
        last_words::remember_export(&room);
        match Teller::new(run, DIRECTORY, room) {
            Ok(teller) => self.export = Some(teller),
            Err(error) => {
                let why = format!("the export is not up to date: {error}");
                return self.has_no_export(Some(why));
            }
        }
        self.over(&While::NoExport);
        self.told = None;
        true
    }

    fn has_no_export(&mut self, why: Option<String>) -> bool {
        if self.warn_while(&While::NoExport, why) {
            self.publish();
        }
        false
    }

    /// Has this written in the export, where there is one.
    pub fn export(&mut self, files: [(&'static str, Content); 4]) {
        let Some(export) = &mut self.export else {
            return;
        };
        for (name, content) in files {
            match content {
                Content::Text(page) if name == AGENTS => self.page = Some(page),
                content => export.tell(name, content),
            }
        }
        self.page_told = None;
        self.tell_agents();
    }

    /// Has the page for agents say what is true now, where it says something else.
    fn tell_agents(&mut self) {
        let (Some(export), Some(page)) = (&mut self.export, &self.page) else {
            return;
        };
        let state = &self.status.state;
        if self.page_told.as_ref() != Some(state) {
            let now = crate::ca::rfc3339(crate::boot::clock::now());
            let text = for_agents::head(state, &now) + page;
            export.tell(AGENTS, Content::Text(text.into()));
            self.page_told = Some(state.clone());
        }
    }

    /// Waits until the export has what it was told, in a start: once in vain, and no more.
    pub fn finish_export(&mut self) {
        if let Some(export) = &mut self.export
            && !export.is_late()
        {
            let warnings = export.finish(FIRST_PATIENCE);
            if export.is_late() {
                log::warn!(
                    "the export does not answer within {} s; going on without it",
                    FIRST_PATIENCE.as_secs()
                );
            }
            self.heard_of_export(warnings);
        }
    }

    /// Publishes if something changed. A place that cannot be written is told about
    /// once on the console and tried again: a full disk on the host must not stop the
    /// firewall. What stood there goes, because a status that is no longer true is worse
    /// than none; its space may be all that was missing.
    pub fn publish(&mut self) {
        let result = self
            .notifier
            .tell(&self.status.state, &self.status.in_words());
        notified(result);
        self.status.updated.clear();
        self.status.dropped_lines = console().dropped();
        let compared = self.json();
        if self.told.as_ref() != Some(&compared) {
            self.status.updated = crate::ca::rfc3339(crate::boot::clock::now());
            let text = dated(&compared, &self.status.updated);
            let told = self.tell(FILE, &text);
            self.told = told.then_some(compared);
            self.written = self.run.as_ref().and_then(|run| run.mark(FILE));
            self.retry = (!told).then(|| Instant::now() + RETRY);
        }
        self.tell_agents();
        // Last, and never waited for.
        let warnings = self
            .export
            .as_mut()
            .map(|it| it.advance(Instant::now()))
            .unwrap_or_default();
        self.heard_of_export(warnings);
    }

    /// The status as it is told.
    pub fn json(&mut self) -> String {
        self.status.limit();
        plain::json(&self.status, LIKELY_LENGTH)
    }

    /// The end has begun, whatever brought it. Told before everything is ended, which takes
    /// its time.
    pub fn ending(&mut self) {
        self.status.state = State::Stopping.into();
        self.publish();
    }

    /// The end: records it.
    pub fn conclude(&mut self, code: ExitCode, error: Option<String>) {
        let warnings = self.export.as_mut().map(Teller::recall);
        self.heard_of_export(warnings.unwrap_or_default());
        let now = self.elapsed_us();
        self.status.port = self.look_at_ways_in();
        let status = &mut self.status;
        status.exit_code = Some(code.number());
        if code != ExitCode::Success {
            // How long was tried what failed.
            self.close_stage(now);
        }
        let status = &mut self.status;
        if code == ExitCode::Success {
            status.state = State::Stopped.into();
            status.outcome = Outcome::Stopped.into();
        } else {
            status.state = State::Failed.into();
            if status.outcome == Outcome::Running {
                status.outcome = Outcome::Failed.into();
            }
        }
        if error.is_some() {
            status.error = error;
        }
        status.daemon.pid = None;
        self.stopping();
        if let Some(denials) = self.denials.take() {
            self.tell(denials::FILE, &denials);
        }
        self.publish();
        if code != ExitCode::Success {
            self.write_report();
        }
        if let Some(export) = &mut self.export {
            for warning in export.finish(last_words::PATIENCE) {
                log::warn!("{warning}");
            }
            if let Some(problem) = export.problem() {
                log::warn!("{problem}");
            }
        }
    }

    /// Tells everything about what could not live: the init, or a daemon that the bundle goes on
    /// without.
    pub fn write_report(&mut self) {
        // Before that stage a configuration that is there is another run's.
        let stage = &self.status.stage;
        let rendered = *stage == Stage::Spawn || *stage == Stage::Ready;
        let run = self.run.as_ref().filter(|_| rendered);
        let config = run.and_then(|run| report::configuration(run, pipelock::CONFIG));
        let machine = self.status.mode == Some(Mode::Machine.into());
        let kernel = machine.then(report::kernel_messages).flatten();
        let denials = self.denials.tally();
        let report = report::report(&self.status, &denials, config, kernel);
        self.tell(report::FILE, &report);
    }
}

/// What a daemon said at its end, for the end of a sentence: its reason, else its last line.
fn at_its_end(reason: Option<&Said>, last: Option<&Said>) -> String {
    match (reason, last) {
        (Some(reason), last) if last != Some(reason) => format!("; it said: {reason}"),
        (_, Some(last)) => format!("; its last line: {last}"),
        _ => String::new(),
    }
}

fn notified(result: Result<(), nix::errno::Errno>) {
    if let Err(errno) = result {
        // Not kept in the status: it is the reader's trouble, who is not there.
        log::warn!("cannot notify NOTIFY_SOCKET: {}", errno.desc());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::daemon::pipelock::TESTED_VERSION;
    use crate::status::schema::{
        Ca, Config, Daemon, Granted, LONGEST_SENTENCE, LONGEST_TEXT, LastExit, MAX_BYTES,
        MOST_SENTENCES, Revocation,
    };
    use crate::status::told::StatusFile;

    /// A text of this length that JSON makes twice as long.
    fn quotes(length: usize) -> String {
        "\"".repeat(length)
    }

    /// As much of everything as anybody could put there, and more.
    fn worst() -> Status {
        let long = || quotes(LONGEST_TEXT * 2);
        let sentence = || quotes(LONGEST_SENTENCE * 2);
        let mut status = Reporter::new(Instant::now(), "x".repeat(36)).status;
        status.slug = Some(sentence());
        status.mode = Some(Mode::Container.into());
        status.state = State::Reloading.into();
        status.outcome = Outcome::FailedAt(Stage::Manifest).into();
        status.exit_code = Some(255);
        status.error = Some(long());
        status.manifest_error = Some(long());
        status.warnings = vec![sentence(); 1000];
        status.daemon = Daemon {
            pid: Some(i32::MIN),
            version: Some(sentence()),
            version_tested: Some(false),
            uid: Some(u32::MAX),
            sandbox_missing: vec![sentence(); 1000],
            landlock: u32::MAX,
            trouble: Some(sentence()),
            working_since: Some(sentence()),
            ..Daemon::default()
        };
        (status.restarts, status.failures) = (u64::MAX, u64::MAX);
        status.config = Config {
            generation: u64::MAX,
            applied_generation: u64::MAX,
            reloads: u64::MAX,
            manifest_sha256: Some(sentence()),
            manifest_modified: Some(sentence()),
            refused_sha256: Some(sentence()),
            roots_refused: false,
            desired_sha256: Some(sentence()),
            applied_sha256: Some(sentence()),
        };
        status.revocation = Some(Revocation {
            generation: u64::MAX,
            hosts: vec![sentence(); 60_000],
            more: 0,
            scanned: vec![sentence(); 4096],
            scanned_more: 0,
            done_at: Some("2026-01-01T00:00:00Z".to_owned()),
        });
        status.not_scanned = vec![sentence(); 4096];
        status.grants = vec![
            Granted {
                host: sentence(),
                until: sentence(),
                ..Granted::default()
            };
            1024
        ];
        status.scan_limit_mib = Some(u32::MAX);
        (status.listen, status.ready_since) = (Some(sentence()), Some(sentence()));
        status.hosts_allowed = u64::MAX;
        status.ca = Some(Ca {
            fingerprint_sha256: sentence(),
            not_before: sentence(),
            not_after: sentence(),
            source: Word::Other(sentence()),
        });
        (status.clock_steps, status.last_clock_step) = (u64::MAX, i64::MIN);
        status.last_exit = Some(LastExit {
            code: i32::MIN,
            text: sentence(),
            at: "2026-01-01T00:00:00Z".to_owned(),
        });
        let said = Said::line("a ".repeat(LONGEST_TEXT).replace('a', "é").as_bytes());
        status.last_lines = vec![said; 1000];
        (status.dropped_lines, status.reaped) = (u64::MAX, u64::MAX);
        status.stages = vec![
            StageTime {
                stage: Stage::Manifest.into(),
                at_us: u64::MAX,
                took_us: Some(u64::MAX),
            };
            1000
        ];
        status
    }

    #[test]
    fn the_longest_status_is_one_that_its_readers_read() {
        let mut reporter = Reporter::new(Instant::now(), String::new());
        reporter.status = worst();
        let text = reporter.json();
        assert!(text.len() > 600_000, "{}: is it the worst?", text.len());
        assert!(text.len() < MAX_BYTES - 1024, "{}", text.len());
        let told = StatusFile::parse(text.as_bytes()).unwrap();
        assert_eq!(told.json(), text);
        assert_eq!(told.status.revocation.unwrap().more, 59_900);
        assert_eq!(reporter.json(), text, "limited once is limited");
        // Whatever the texts are made of.
        for odd in ["\u{1b}", "\u{202e}", "\n", "漢", "\u{e0041}"] {
            let mut reporter = Reporter::new(Instant::now(), String::new());
            reporter.status = worst();
            reporter.status.error = Some(odd.repeat(LONGEST_TEXT));
            reporter.status.warnings = vec![odd.repeat(LONGEST_SENTENCE); 1000];
            assert!(reporter.json().len() < MAX_BYTES - 1024, "{odd:?}");
        }
    }

    #[test]
    fn what_the_sandbox_lacks_no_more_does_not_come_back() {
        let mut reporter = Reporter::new(Instant::now(), String::new());
        reporter.tell_missing(&["a hole".to_owned(), "another".to_owned()]);
        reporter.tell_missing(&["another".to_owned()]);
        reporter.warn("later".to_owned());
        assert_eq!(reporter.status.warnings, ["another", "later"]);
    }

    #[test]
    fn warnings_are_those_of_the_manifest_in_force_and_no_more_than_so_many() {
        let mut reporter = Reporter::new(Instant::now(), String::new());
        reporter.warn("lasting".to_owned());
        reporter.warn_of_manifest(vec!["first".to_owned()], 0);
        reporter.warn_of_manifest(vec!["second".to_owned()], 0);
        assert_eq!(reporter.status.warnings, ["second", "lasting"]);
        for number in 0..5000 {
            reporter.note_version(format!("9.{number}"));
        }
        assert_eq!(reporter.status.warnings.len(), 3);
        assert!(reporter.status.warnings[1].contains("9.4999"));
        reporter.note_version(TESTED_VERSION.to_owned());
        assert_eq!(reporter.status.warnings, ["second", "lasting"]);
        for number in 0..5000 {
            reporter.warn(format!("warning {number}"));
        }
        reporter.warn_of_manifest((0..100).map(|number| format!("{number}")).collect(), 0);
        let warnings = &reporter.status.warnings;
        assert_eq!(warnings.len(), 2 * MOST_SENTENCES + 1);
        let more = 5001 - 64 + 100 - 64;
        assert_eq!(
            warnings.last().unwrap(),
            &format!("… and {more} more warnings; the log has them")
        );
        // Of 3000 the manifest's judge tells a hundred.
        reporter.warn_of_manifest((0..100).map(|number| format!("{number}")).collect(), 2900);
        assert_eq!(
            reporter.status.warnings.last().unwrap(),
            &format!(
                "… and {} more warnings; the log has the first of them",
                more + 2900
            )
        );
    }
}
