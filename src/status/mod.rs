//! What the host sees: `status.json`, its copy in the export directory, and the last
//! line on the console. Touches the file system.

pub mod denials;
pub mod export;
pub mod notify;
pub mod report;
pub mod teller;
pub mod timeline;

use std::net::SocketAddr;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::path::Path;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use serde::Serialize;
use serde_json::{Map, Value};

use crate::boot::mode::Mode;
use crate::daemon::pipelock::TESTED_VERSION;
use crate::daemon::pipelock::refusals::InForce;
use crate::daemon::pipelock::said::Said;
use crate::exit::ExitCode;
use crate::plain;
use crate::policy::Policy;
use crate::status::notify::Notifier;
use crate::sys::claim::Claim;
use crate::sys::connections;
use crate::sys::console::{Stream, console};
use crate::sys::errand;
use crate::sys::files::{Access, FileError, Room};

use denials::Denials;
use teller::{Content, Teller};

/// The schema's version; raised when a field changes its meaning or goes away.
pub const SCHEMA: u32 = 1;
/// The status file's name, in the run directory and in the export.
pub const FILE: &str = "status.json";
/// What pipelock runs on, in the run directory.
pub const CONFIG: &str = "pipelock.yaml";
/// Where no status is.
pub const NOT_THERE: &str =
    "hint: no sidecar-init runs with this run directory; name another with --run-dir";
/// More than a status can have, and so no reader ever refuses one: a test builds the
/// longest that [`Status::limit`] lets through.
const MAX_BYTES: usize = 1024 * 1024;
/// Of a text of many lines so much is told, in bytes.
const LONGEST_TEXT: usize = 64 * 1024;
/// Of any other, which is a sentence, a name or a path.
const LONGEST_SENTENCE: usize = 1024;
/// Told of a list, in entries: warnings are told twice as many, those of the manifest and
/// all others.
const MOST_SENTENCES: usize = 64;
/// `*.` and the longest name there is.
const LONGEST_HOST: usize = 255;
const MOST_HOSTS: usize = 100;
/// More than start-up has.
const MOST_STAGES: usize = 32;
/// A year in microseconds: no start takes as long, and sums of two are still numbers.
const LONGEST_STAGE: u64 = 31_536_000_000_000;

/// A step of start-up, in the order they are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Stage {
    /// Where are we.
    Mode,
    /// Kernel file systems, export, state.
    Mounts,
    /// A clock that can be right.
    Clock,
    /// Read, judged, complete.
    Manifest,
    /// Addresses, routes, names.
    Network,
    /// A CA pair that pipelock can use.
    Ca,
    /// pipelock.yaml in its place.
    Config,
    /// The daemon exists.
    Spawn,
    /// The daemon serves and refuses.
    Ready,
}

impl Stage {
    /// The word used in `status.json`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Mode => "mode",
            Self::Mounts => "mounts",
            Self::Clock => "clock",
            Self::Manifest => "manifest",
            Self::Network => "network",
            Self::Ca => "ca",
            Self::Config => "config",
            Self::Spawn => "spawn",
            Self::Ready => "ready",
        }
    }
}

/// When a stage was entered and how long it took, in microseconds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct StageTime {
    /// Which.
    pub stage: Stage,
    /// Since the init was executed.
    pub at_us: u64,
    /// Absent while it lasts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub took_us: Option<u64>,
}

/// The daemon.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Daemon {
    /// Its process id while it lives.
    pub pid: Option<i32>,
    /// What `/health` calls its version.
    pub version: Option<String>,
    /// Whether that is the version everything was measured with.
    pub version_tested: Option<bool>,
    /// Its user.
    pub uid: Option<u32>,
    /// What of its sandbox could not be applied, in sentences.
    pub sandbox_missing: Vec<String>,
    /// The version of Landlock whose rules it lives under; 0 for none. The kernel does
    /// not let them be read back.
    pub landlock: u32,
    /// Whether its system calls are filtered.
    pub seccomp: bool,
    /// Whether a control group of its own limits its memory and processes.
    pub cgroup: bool,
    /// Whether the sandbox was read back from `/proc` and found as asked for.
    pub sandbox_verified: bool,
    /// What keeps a ready daemon from answering its probes as it should: busy,
    /// overloaded, silent or not well, in a sentence.
    pub trouble: Option<String>,
    /// Since when it has used a quarter of a processor or more, as it does while it scans; RFC 3339.
    pub working_since: Option<String>,
}

/// Which configuration is wanted and which is in force.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Config {
    /// Counts the manifests accepted since the start; the first is 1.
    pub generation: u64,
    /// The generation the daemon has taken over and proved.
    pub applied_generation: u64,
    /// SHA-256 of the configuration that is wanted.
    pub desired_sha256: Option<String>,
    /// SHA-256 of the configuration the daemon says it runs on.
    pub applied_sha256: Option<String>,
}

/// Hosts that lost their permission.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Revocation {
    /// The generation that removed them.
    pub generation: u64,
    /// Which: at most a hundred of them.
    pub hosts: Vec<String>,
    /// How many more.
    pub more: u64,
    /// Hosts that are still allowed, but were passed through and are scanned now: at most a
    /// hundred of them.
    pub scanned: Vec<String>,
    /// How many more.
    pub scanned_more: u64,
    /// When the daemon that allowed them was gone, tunnels included; absent until then.
    pub done_at: Option<String>,
}

/// A port that nobody should listen on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Port {
    /// Where the daemon listened.
    pub address: String,
    /// Whether a connection was refused; `null` where it was neither made nor refused.
    pub closed: Option<bool>,
    /// Who listens there, or why it could not be told whether anybody does.
    pub detail: Option<String>,
}

impl Port {
    /// Looks at it now, by connecting.
    #[must_use]
    pub fn look(listen: SocketAddr) -> Self {
        let (closed, detail) = match connections::look_at_port(listen) {
            connections::Port::Closed => (Some(true), None),
            connections::Port::Open(holder) => (Some(false), holder),
            connections::Port::Unknown(why) => (None, Some(why)),
        };
        Self {
            address: listen.to_string(),
            closed,
            detail,
        }
    }

    /// What is true of it while no daemon is meant to serve, for a sentence that ends
    /// there.
    #[must_use]
    pub fn in_words(address: &str, closed: Option<bool>, detail: Option<&str>) -> String {
        let detail = detail.map_or_else(String::new, |detail| format!(": {detail}"));
        match closed {
            Some(true) => "nothing gets through".to_owned(),
            Some(false) => format!("but something still listens on {address}{detail}"),
            None => format!("but whether {address} is closed cannot be told{detail}"),
        }
    }
}

/// The CA in use.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Ca {
    /// SHA-256 of the certificate's DER, lower-case hex.
    pub fingerprint_sha256: String,
    /// RFC 3339.
    pub not_before: String,
    /// RFC 3339.
    pub not_after: String,
    /// `generated`, `provided` or `kept`.
    pub source: String,
}

/// How the daemon ended last time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LastExit {
    /// Its exit code, or 128 and the signal.
    pub code: i32,
    /// In words.
    pub text: String,
    /// RFC 3339.
    pub at: String,
}

/// The whole of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Status {
    /// [`SCHEMA`].
    pub schema: u32,
    /// This program's version.
    pub version: String,
    /// Random, new at every start of the init.
    pub boot_id: String,
    /// The manifest's slug, once it is known.
    pub slug: Option<String>,
    /// `machine`, `container` or `child`.
    pub mode: Option<String>,
    /// `starting`, `ready`, `reloading`, `backoff`, `halted`, `draining`, `stopping`,
    /// `stopped`, `failed`.
    pub state: String,
    /// The stage reached.
    pub stage: Stage,
    /// What is true if this is the last status ever written: `failed at <stage>`
    /// until the daemon is ready, then `running`, at the end `stopped` or `failed`.
    pub outcome: String,
    /// The exit code, at the end.
    pub exit_code: Option<u8>,
    /// What went wrong, in the words of the console.
    pub error: Option<String>,
    /// The newest manifest's problems, while an older one is in force.
    pub manifest_error: Option<String>,
    /// Things to know that stop nothing.
    pub warnings: Vec<String>,
    /// A halt is in force.
    pub halted: bool,
    /// The daemon's port, where one served and none is meant to: while halted, at the end.
    pub port: Option<Port>,
    /// The daemon.
    pub daemon: Daemon,
    /// Times the daemon was started again.
    pub restarts: u64,
    /// Times the daemon failed.
    pub failures: u64,
    /// Configurations.
    pub config: Config,
    /// Hosts that are allowed and passed through unscanned, as a manifest writes them: at
    /// most a hundred of them.
    pub not_scanned: Vec<String>,
    /// How many more.
    pub not_scanned_more: u64,
    /// The largest body that is scanned, in MiB; absent where that is pipelock's to say.
    pub scan_limit_mib: Option<u32>,
    /// The newest revocation.
    pub revocation: Option<Revocation>,
    /// The CA.
    pub ca: Option<Ca>,
    /// How many times the time of day was set since the start.
    pub clock_steps: u64,
    /// By how many seconds the last time; negative for back.
    pub last_clock_step: i64,
    /// The daemon's last end.
    pub last_exit: Option<LastExit>,
    /// The daemon's last lines, oldest first, each shortened.
    pub last_lines: Vec<Said>,
    /// Output lines dropped because the console was not read.
    pub dropped_lines: u64,
    /// Children reaped, the daemon included.
    pub reaped: u64,
    /// How start-up went.
    pub stages: Vec<StageTime>,
    /// When this was written, RFC 3339, by the machine's clock.
    pub updated: String,
}

impl Status {
    /// Makes every text printable and everything so short that [`MAX_BYTES`] are never
    /// reached. What is told has come through here.
    fn limit(&mut self) {
        // All of them: a new field is a new decision.
        let Self {
            schema: _,
            version: _,
            boot_id: _,
            slug,
            mode: _,
            state: _,
            stage: _,
            outcome: _,
            exit_code: _,
            error,
            manifest_error,
            warnings,
            halted: _,
            port,
            daemon:
                Daemon {
                    pid: _,
                    version,
                    version_tested: _,
                    uid: _,
                    sandbox_missing,
                    landlock: _,
                    seccomp: _,
                    cgroup: _,
                    sandbox_verified: _,
                    trouble,
                    working_since,
                },
            restarts: _,
            failures: _,
            config,
            not_scanned,
            not_scanned_more,
            scan_limit_mib: _,
            revocation,
            ca,
            clock_steps: _,
            last_clock_step: _,
            last_exit,
            last_lines,
            dropped_lines: _,
            reaped: _,
            stages,
            updated: _,
        } = self;
        for text in [error, manifest_error].into_iter().flatten() {
            limit(text, LONGEST_TEXT);
        }
        warnings.truncate(2 * MOST_SENTENCES + 3);
        sandbox_missing.truncate(MOST_SENTENCES);
        last_lines.truncate(MOST_SENTENCES);
        stages.truncate(MOST_STAGES);
        limit_hosts(not_scanned, not_scanned_more);
        if let Some(revocation) = revocation {
            limit_hosts(&mut revocation.hosts, &mut revocation.more);
            limit_hosts(&mut revocation.scanned, &mut revocation.scanned_more);
        }
        revocation
            .iter_mut()
            .flat_map(|of| of.hosts.iter_mut().chain(&mut of.scanned))
            .chain(not_scanned)
            .for_each(|host| limit(host, LONGEST_HOST));
        let ca = ca.iter_mut().flat_map(|ca| {
            [
                &mut ca.fingerprint_sha256,
                &mut ca.not_before,
                &mut ca.not_after,
                &mut ca.source,
            ]
        });
        let hashes = [&mut config.desired_sha256, &mut config.applied_sha256];
        let detail = port.iter_mut().flat_map(|port| &mut port.detail);
        let known = [slug, version, trouble, working_since]
            .into_iter()
            .chain(hashes);
        known
            .flatten()
            .chain(warnings)
            .chain(sandbox_missing)
            .chain(ca)
            .chain(detail)
            .chain(last_exit.iter_mut().map(|exit| &mut exit.text))
            .for_each(|text| limit(text, LONGEST_SENTENCE));
    }

    /// The state in a line, for a service manager's status.
    #[must_use]
    pub fn in_words(&self) -> String {
        let words = match (&self.error, self.state.as_str()) {
            (_, "ready") => "ready; what is not allowed is refused".to_owned(),
            (Some(error), state) => format!("{state}: {error}"),
            (None, state) => state.to_owned(),
        };
        let first = words.lines().next().unwrap_or_default();
        plain::lines_within(&plain::line(first), LONGEST_SENTENCE)
    }
}

/// Keeps the first of them, and counts the others.
fn limit_hosts(hosts: &mut Vec<String>, more: &mut u64) {
    *more += hosts.len().saturating_sub(MOST_HOSTS) as u64;
    hosts.truncate(MOST_HOSTS);
}

fn limit(text: &mut String, longest: usize) {
    if text.len() > longest || !plain::is_plain(text.as_bytes()) {
        *text = plain::lines_within(text, longest);
    }
}

/// Where a status was told, the run directory and the export, for the one writer that has
/// no [`Reporter`]: a panic.
static TOLD_IN: Mutex<(Option<Room>, Option<Room>)> = Mutex::new((None, None));
/// The export has this long to take the last words.
const LAST_PATIENCE: Duration = Duration::from_secs(1);
/// And so long to forget what an earlier start had left there.
const FIRST_PATIENCE: Duration = Duration::from_secs(2);
/// A status that could not be written is written again after so long.
const RETRY: Duration = Duration::from_secs(2);

/// Corrects what was told, after a panic: the last status may say "ready", and nobody
/// is left to take that back. Returns the object for the console. Neither panics nor
/// waits.
pub fn record_internal_error(error: &str) -> String {
    let places = TOLD_IN.try_lock();
    let (run, export) = places
        .as_ref()
        .map_or((None, None), |it| (it.0.as_ref(), it.1.as_ref()));
    let mut told = in_error(
        Map::from_iter([("schema".to_owned(), SCHEMA.into())]),
        error,
    );
    if let Some(run) = run {
        if let Ok(bytes) = run.read(FILE, MAX_BYTES)
            && let Ok(status) = serde_json::from_slice(&bytes)
        {
            told = in_error(status, error);
        }
        let _ = teller::write(run, FILE, told.as_bytes());
    }
    if let Some(export) = export
        && let Ok(mut errand) = errand::send(&[export.descriptor().as_raw_fd()], || {
            let _ = teller::write(export, FILE, told.as_bytes());
            Vec::new()
        })
    {
        let _ = errand.wait(LAST_PATIENCE);
    }
    told
}

fn in_error(mut status: Map<String, Value>, error: &str) -> String {
    let outcome = match status.get("outcome").and_then(Value::as_str) {
        Some(stage) if stage.starts_with("failed at ") => stage.to_owned(),
        _ => "failed".to_owned(),
    };
    for (field, value) in [
        ("state", Value::from("failed")),
        ("outcome", outcome.into()),
        ("exit_code", ExitCode::Internal.number().into()),
        ("error", error.into()),
        (
            "updated",
            crate::ca::rfc3339(crate::boot::clock::now()).into(),
        ),
    ] {
        status.insert(field.to_owned(), value);
    }
    plain::json(&status, LIKELY_LENGTH)
}

/// Keeps the status and tells it.
#[derive(Debug)]
pub struct Reporter {
    /// What will be told next.
    pub status: Status,
    /// What was refused.
    pub denials: Denials,
    /// Where the daemon listens, or last did.
    pub served: Option<SocketAddr>,
    notifier: Notifier,
    warnings: Warnings,
    started: Instant,
    run: Option<Room>,
    export: Option<Teller>,
    claim: Option<Claim>,
    told: Option<String>,
    /// What was told, as the file that it became.
    written: Option<(u64, u64, i64, i64)>,
    retry: Option<Instant>,
}

/// What there is to know, by how long it is true.
#[derive(Debug, Default)]
struct Warnings {
    /// Of the manifest in force.
    manifest: Vec<String>,
    /// Of the daemon that runs.
    version: Option<String>,
    /// Of the export, as it is now.
    export: Option<String>,
    /// Once said, true to the end.
    lasting: Vec<String>,
    /// Those beyond [`MOST_SENTENCES`].
    more: u64,
}

impl Warnings {
    /// The manifest's first, and how many are not told.
    fn all(&self) -> Vec<String> {
        let mut all = self.manifest.clone();
        let more = all.len().saturating_sub(MOST_SENTENCES);
        all.truncate(MOST_SENTENCES);
        all.extend(
            self.version
                .iter()
                .chain(&self.export)
                .chain(&self.lasting)
                .cloned(),
        );
        let more = self.more + more as u64;
        if more > 0 {
            all.push(format!("… and {more} more warnings; the log has them"));
        }
        all
    }
}

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
            notifier: Notifier::default(),
            warnings: Warnings::default(),
            status: Status {
                schema: SCHEMA,
                version: env!("CARGO_PKG_VERSION").to_owned(),
                boot_id,
                slug: None,
                mode: None,
                state: "starting".to_owned(),
                stage: Stage::Mode,
                outcome: failed_at(Stage::Mode),
                exit_code: None,
                error: None,
                manifest_error: None,
                warnings: Vec::new(),
                halted: false,
                port: None,
                daemon: Daemon::default(),
                restarts: 0,
                failures: 0,
                config: Config::default(),
                not_scanned: Vec::new(),
                not_scanned_more: 0,
                scan_limit_mib: None,
                revocation: None,
                ca: None,
                clock_steps: 0,
                last_clock_step: 0,
                last_exit: None,
                last_lines: Vec::new(),
                dropped_lines: 0,
                reaped: 0,
                stages: vec![StageTime {
                    stage: Stage::Mode,
                    at_us: 0,
                    took_us: None,
                }],
                updated: String::new(),
            },
            started,
            run: None,
            export: None,
            claim: None,
            told: None,
            written: None,
            retry: None,
        }
    }

    /// Notes what of the manifest the status tells.
    pub fn follow(&mut self, policy: &Policy) {
        self.status.slug = Some(policy.slug.clone());
        self.status.not_scanned = policy.not_scanned();
        self.status.not_scanned_more = 0;
        self.status.scan_limit_mib = policy.tuning.scan_limit_mib;
        self.denials.judge_by(InForce::of(policy));
    }

    /// Notes the mode, and whom to notify.
    pub fn set_mode(&mut self, mode: Mode) {
        self.status.mode = Some(mode.as_str().to_owned());
        // PID 1 has another number outside.
        let main_pid = (mode == Mode::Child).then(std::process::id);
        match Notifier::from_environment(main_pid) {
            Ok(notifier) => self.notifier = notifier,
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
        let problem = self.export.as_ref().and_then(Teller::problem);
        if problem != self.warnings.export.as_deref() {
            changed = true;
            let problem = problem.map(str::to_owned);
            match &problem {
                Some(problem) => log::warn!("{problem}"),
                None => log::info!("the export is up to date again"),
            }
            self.warnings.export = problem;
            self.status.warnings = self.warnings.all();
        }
        changed
    }

    /// Whether the status that was written is not there as it was written: it is told again.
    /// Whoever finds none takes this init for gone.
    pub fn lost_its_status(&mut self) -> bool {
        let Some(run) = &self.run else {
            return false;
        };
        let lost = self.told.is_some() && run.mark(FILE) != self.written;
        if lost {
            self.told = None;
        }
        lost
    }

    /// Writes a file in the run directory, and has it written in the export.
    fn tell(&mut self, name: &str, text: &str) -> bool {
        let written = self
            .run
            .as_ref()
            .map(|run| teller::write(run, name, text.as_bytes()));
        if let Some(export) = &mut self.export {
            export.tell(name, Content::Text(text.into()));
        }
        match written {
            Some(Err(error)) => {
                let error = error.to_string();
                if !self.warnings.lasting.contains(&error) {
                    self.warn(error);
                }
                false
            }
            _ => true,
        }
    }

    /// Logs a warning and keeps it in the status, once, to the end.
    pub fn warn(&mut self, warning: String) {
        log::warn!("{warning}");
        let lasting = &mut self.warnings.lasting;
        if lasting.contains(&warning) {
            return;
        }
        if lasting.len() < MOST_SENTENCES {
            lasting.push(warning);
        } else {
            self.warnings.more += 1;
        }
        self.status.warnings = self.warnings.all();
    }

    /// The warnings of the manifest that is in force from now on; those of the one before
    /// are over. Logs what is new.
    pub fn warn_of_manifest(&mut self, warnings: Vec<String>) {
        let before = std::mem::replace(&mut self.warnings.manifest, warnings);
        for warning in &self.warnings.manifest {
            if !before.contains(warning) {
                log::warn!("{warning}");
            }
        }
        self.status.warnings = self.warnings.all();
    }

    /// What the daemon calls its version. One that is not the tested one is a warning, in
    /// the log once: a daemon may call itself something else each time.
    pub fn note_version(&mut self, version: String) {
        let daemon = &mut self.status.daemon;
        if daemon.version.as_ref() == Some(&version) {
            return;
        }
        let tested = version == TESTED_VERSION;
        let warning =
            format!("pipelock is version {version}; sidecar-init was tested with {TESTED_VERSION}");
        let known = daemon.version_tested == Some(false);
        daemon.version = Some(version);
        daemon.version_tested = Some(tested);
        if !tested && !known {
            log::warn!("{warning}");
        }
        self.warnings.version = (!tested).then_some(warning);
        self.status.warnings = self.warnings.all();
    }

    /// Tells what the daemon's sandbox is without, from now on; each sentence is a warning
    /// for as long.
    pub fn tell_missing(&mut self, missing: &[String]) {
        let before = std::mem::replace(&mut self.status.daemon.sandbox_missing, missing.to_vec());
        let over = |warning: &String| before.contains(warning) && !missing.contains(warning);
        self.warnings.lasting.retain(|warning| !over(warning));
        self.status.warnings = self.warnings.all();
        for sentence in missing.iter().filter(|sentence| !before.contains(sentence)) {
            self.warn(sentence.clone());
        }
    }

    /// Enters a stage: the status says "failed" before it is tried, and only success
    /// moves it on.
    pub fn enter(&mut self, stage: Stage) {
        let now = self.elapsed_us();
        self.close_stage(now);
        self.status.stage = stage;
        self.status.outcome = failed_at(stage);
        self.status.stages.push(StageTime {
            stage,
            at_us: now,
            took_us: None,
        });
        log::debug!("stage {}", stage.as_str());
        self.publish();
    }

    /// The last stage is behind us.
    pub fn finish_stages(&mut self) {
        let now = self.elapsed_us();
        self.close_stage(now);
        self.status.outcome = "running".to_owned();
    }

    fn close_stage(&mut self, now: u64) {
        if let Some(last) = self.status.stages.last_mut()
            && last.took_us.is_none()
        {
            last.took_us = Some(now.saturating_sub(last.at_us));
        }
    }

    fn elapsed_us(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_micros()).unwrap_or(u64::MAX)
    }

    /// Publishes in the run directory from now on, and lives there by `claim`.
    pub fn tell_in(&mut self, run: &Room, claim: Option<Claim>) -> Result<(), FileError> {
        let kept = |source| FileError::new("keep open the directory of", Path::new(FILE), source);
        for name in [denials::FILE, report::FILE] {
            // Of an earlier start; what stays there says so by its boot id.
            let _ = run.remove(name);
        }
        run.sweep();
        self.claim = claim;
        self.run = Some(run.try_clone().map_err(kept)?);
        if let Ok(mut told) = TOLD_IN.try_lock() {
            told.0 = run.try_clone().ok();
        }
        self.status.updated = crate::ca::rfc3339(crate::boot::clock::now());
        run.publish(FILE, self.json().as_bytes(), Access::PUBLIC)
    }

    /// Keeps an export up to date too, from now on: `name` in the run directory. First of
    /// all this start's status takes the place of an earlier one's.
    pub fn tell_export(&mut self, run: &Room, name: &'static str, room: Room) {
        if let Ok(mut told) = TOLD_IN.try_lock() {
            told.1 = room.try_clone().ok();
        }
        match Teller::new(run, name, room) {
            Ok(teller) => self.export = Some(teller),
            Err(error) => return self.warn(format!("the export is not up to date: {error}")),
        }
        self.told = None;
        self.publish();
        self.finish_export();
    }

    /// Has this written in the export, where there is one.
    pub fn export(&mut self, files: [(&'static str, Content); 3]) {
        let Some(export) = &mut self.export else {
            return;
        };
        for (name, content) in files {
            export.tell(name, content);
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

    /// The end: records it, and says it on the console's last line.
    pub fn conclude(&mut self, code: ExitCode, error: Option<String>) {
        let warnings = self.export.as_mut().map(Teller::recall);
        self.heard_of_export(warnings.unwrap_or_default());
        let status = &mut self.status;
        status.port = self.served.map(Port::look);
        status.exit_code = Some(code.number());
        if code == ExitCode::Success {
            status.state = "stopped".to_owned();
            status.outcome = "stopped".to_owned();
        } else {
            status.state = "failed".to_owned();
            if status.outcome == "running" {
                status.outcome = "failed".to_owned();
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
            for warning in export.finish(LAST_PATIENCE) {
                log::warn!("{warning}");
            }
            if let Some(problem) = export.problem() {
                log::warn!("{problem}");
            }
        }
        let line = format!("sidecar-init: result {}\n", self.json());
        console().write_lines(Stream::Error, line.as_bytes());
    }

    fn write_report(&mut self) {
        // Before that stage a configuration that is there is another run's.
        let rendered = matches!(self.status.stage, Stage::Spawn | Stage::Ready);
        let run = self.run.as_ref().filter(|_| rendered);
        let config = run.and_then(|run| report::configuration(run, CONFIG));
        let machine = self.status.mode.as_deref() == Some(Mode::Machine.as_str());
        let kernel = machine.then(report::kernel_messages).flatten();
        let denials = self.denials.report();
        let report = report::report(&self.status, &denials, config, kernel);
        self.tell(report::FILE, &report);
    }
}

fn notified(result: Result<(), nix::errno::Errno>) {
    if let Err(errno) = result {
        // Not kept in the status: it is the reader's trouble, who is not there.
        log::warn!("cannot notify NOTIFY_SOCKET: {}", errno.desc());
    }
}

fn failed_at(stage: Stage) -> String {
    format!("failed at {}", stage.as_str())
}

/// A status as another process told it, asked for its fields one by one: a type would
/// bring a second parser of the whole, and the readers want a dozen of them.
///
/// Whoever can write to the export can write a status, so nothing of it is printed as it
/// stands there: its texts are made printable when they are read.
#[derive(Debug)]
pub struct Told {
    /// As it stands in the file, in one line.
    pub json: String,
    fields: Value,
}

impl Told {
    /// Replaces what stands at a JSON pointer, where something does.
    pub fn correct(&mut self, pointer: &str, value: Value) {
        if let Some(field) = self.fields.pointer_mut(pointer) {
            *field = value;
            self.json = plain::json(&self.fields, self.json.len());
        }
    }

    /// The text at a JSON pointer (RFC 6901), where there is one.
    #[must_use]
    pub fn text(&self, pointer: &str) -> Option<&str> {
        self.fields.pointer(pointer)?.as_str()
    }

    /// What is true or false at a JSON pointer, where something is.
    #[must_use]
    pub fn truth(&self, pointer: &str) -> Option<bool> {
        self.fields.pointer(pointer)?.as_bool()
    }

    /// The number at a JSON pointer; 0 where there is none.
    #[must_use]
    pub fn number(&self, pointer: &str) -> u64 {
        self.fields
            .pointer(pointer)
            .and_then(Value::as_u64)
            .unwrap_or(0)
    }

    /// The texts of the list at a JSON pointer.
    #[must_use]
    pub fn texts(&self, pointer: &str) -> Vec<&str> {
        let list = self.fields.pointer(pointer).and_then(Value::as_array);
        list.into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .collect()
    }

    /// The state, empty where it is not told.
    #[must_use]
    pub fn state(&self) -> &str {
        self.text("/state").unwrap_or_default()
    }

    /// How start-up went: of each stage its name, when it was entered and how long it
    /// took, in microseconds.
    #[must_use]
    pub fn stages(&self) -> Vec<(&str, u64, u64)> {
        let number = |stage: &Value, name: &str| stage.get(name).and_then(Value::as_u64);
        let stages = self.fields.get("stages").and_then(Value::as_array);
        let number = |stage: &Value, name| number(stage, name).map(|us| us.min(LONGEST_STAGE));
        stages
            .into_iter()
            .flatten()
            .filter_map(|stage| {
                let name = plain::shortened(stage.get("stage")?.as_str()?, 32);
                let took = number(stage, "took_us").unwrap_or(0);
                Some((name, number(stage, "at_us")?, took))
            })
            .take(MOST_STAGES)
            .collect()
    }
}

/// Reads the status in `room`, which is at `directory`.
pub fn read(room: &Room, directory: &Path) -> Result<Told, String> {
    let path = directory.join(FILE);
    let bytes = room.read(FILE, MAX_BYTES).map_err(|error| {
        if error.is_missing() {
            format!("{error}\n{NOT_THERE}")
        } else {
            error.to_string()
        }
    })?;
    parse(&bytes).map_err(|why| format!("cannot read {}: {why}", path.display()))
}

/// What a status file says.
pub fn parse(bytes: &[u8]) -> Result<Told, String> {
    let mut fields: Value = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
    if fields.get("schema").and_then(Value::as_u64) != Some(SCHEMA.into()) {
        return Err(format!(
            "it is no status of schema {SCHEMA}, which this program reads"
        ));
    }
    make_printable(&mut fields);
    let json = String::from_utf8_lossy(bytes);
    // Only between its tokens: inside of strings JSON has no such character.
    let json = plain::line(json.replace(['\n', '\r', '\t'], " ").trim_end());
    Ok(Told { json, fields })
}

fn make_printable(value: &mut Value) {
    match value {
        Value::String(text) => limit(text, MAX_BYTES),
        Value::Array(values) => values.iter_mut().for_each(make_printable),
        Value::Object(fields) => fields.values_mut().for_each(make_printable),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
        status.mode = Some("container".to_owned());
        status.state = "reloading".to_owned();
        status.outcome = failed_at(Stage::Manifest);
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
        status.scan_limit_mib = Some(u32::MAX);
        status.ca = Some(Ca {
            fingerprint_sha256: sentence(),
            not_before: sentence(),
            not_after: sentence(),
            source: sentence(),
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
                stage: Stage::Manifest,
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
        let told = parse(text.as_bytes()).unwrap();
        assert_eq!(told.number("/revocation/more"), 59_900);
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
        reporter.warn_of_manifest(vec!["first".to_owned()]);
        reporter.warn_of_manifest(vec!["second".to_owned()]);
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
        reporter.warn_of_manifest((0..100).map(|number| format!("{number}")).collect());
        let warnings = &reporter.status.warnings;
        assert_eq!(warnings.len(), 2 * MOST_SENTENCES + 1);
        let more = 5001 - 64 + 100 - 64;
        assert_eq!(
            warnings.last().unwrap(),
            &format!("… and {more} more warnings; the log has them")
        );
    }

    #[test]
    fn a_hostile_status_is_printed_as_text() {
        let hostile = br#"{"schema":1,
            "slug":"\u001b[2J\u202e<script>","stages":[{"stage":"a\u0085\u2028b","at_us":18446744073709551615,"took_us":18446744073709551615}]}"#;
        let told = parse(hostile).unwrap();
        assert_eq!(told.text("/slug"), Some("\\u001b[2J\\u202e<script>"));
        assert_eq!(
            told.stages(),
            [("a\\u0085\\u2028b", LONGEST_STAGE, LONGEST_STAGE)]
        );
        assert!(!told.json.contains('\n'));
        let picture = crate::status::timeline::svg(&told);
        assert!(!picture.contains("<script"), "{picture}");
        assert!(crate::status::timeline::waterfall(&told).len() < 1000);
    }
}
