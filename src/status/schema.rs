//! `status.json`: what is in it, as types, for the one that writes it and for those that
//! read it. Pure.
//!
//! Whoever can write to the export can write a status. So a reader takes what it does not
//! know (a field, a word), makes every text printable, and refuses a field of another type.

use std::fmt;

use serde::de::{self, DeserializeOwned, IntoDeserializer, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer, forward_to_deserialize_any};
use serde_json::Value;

use crate::boot::mode::Mode;
use crate::ca::rfc3339;
use crate::daemon::pipelock::said::Said;
use crate::plain;
use crate::policy::grants::Grant;

/// The schema's version; raised when a field changes its meaning or goes away.
pub const SCHEMA: u32 = 2;
/// The oldest that is read: what it has means the same, for a bundle of pipelock alone.
pub(super) const OLDEST_SCHEMA: u32 = 1;
/// The status file's name, in the run directory and in the export.
pub const FILE: &str = "status.json";
/// More than a status can have, and so no reader ever refuses one: a test builds the
/// longest that [`Status::limit`] lets through.
pub(super) const MAX_BYTES: usize = 1024 * 1024;
/// Of a text of many lines so much is told, in bytes.
pub(super) const LONGEST_TEXT: usize = 64 * 1024;
/// Of any other, which is a sentence, a name or a path.
pub(super) const LONGEST_SENTENCE: usize = 1024;
/// Told of a list, in entries: warnings are told twice as many, those of the manifest and
/// all others.
pub(super) const MOST_SENTENCES: usize = 64;
/// `*.` and the longest name there is.
const LONGEST_HOST: usize = 255;
const MOST_HOSTS: usize = 100;
/// More than start-up has.
const MOST_STAGES: usize = 32;
/// More than a manifest may have.
const MOST_DAEMONS: usize = 16;
/// Of one of those.
const MOST_PORTS: usize = 64;
const MOST_COMPANIONS_SENTENCES: usize = 8;

/// A word in the file: one of ours, or one that a newer program or somebody else wrote.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum Word<T> {
    /// One of ours.
    Known(T),
    /// Any other; none, where the field is missing.
    Other(String),
}

impl<T: DeserializeOwned> Word<T> {
    /// The word that `text` is.
    #[must_use]
    pub fn of(text: String) -> Self {
        let known: Result<T, de::value::Error> = T::deserialize(text.as_str().into_deserializer());
        known.map_or(Self::Other(text), Self::Known)
    }
}

impl<T> Word<T> {
    fn other(&mut self) -> Option<&mut String> {
        match self {
            Self::Known(_) => None,
            Self::Other(text) => Some(text),
        }
    }
}

impl<T> Default for Word<T> {
    fn default() -> Self {
        Self::Other(String::new())
    }
}

impl<T> From<T> for Word<T> {
    fn from(word: T) -> Self {
        Self::Known(word)
    }
}

impl<T: PartialEq> PartialEq<T> for Word<T> {
    fn eq(&self, word: &T) -> bool {
        matches!(self, Self::Known(known) if known == word)
    }
}

impl<'de, T: DeserializeOwned> Deserialize<'de> for Word<T> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        String::deserialize(from).map(Self::of)
    }
}

impl<T: Serialize> fmt::Display for Word<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.serialize(f)
    }
}

/// What the init is at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// What it comes after is not ready; of one of a bundle's other daemons alone.
    Waiting,
    /// On the way to a daemon that was proved.
    Starting,
    /// The daemon serves, and refuses what is not allowed.
    Ready,
    /// It does, and is taking over another configuration.
    Reloading,
    /// It failed, and the next start is waited for.
    Backoff,
    /// None serves, on request.
    Halted,
    /// Open tunnels have their time before it ends.
    Draining,
    /// It is told to end, or everything is.
    Stopping,
    /// The end, as asked for.
    Stopped,
    /// The end, for a failure.
    Failed,
}

/// A step of start-up, in the order they are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
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
    /// Whether it may wait for somebody: a share, another process, the daemon. The others are
    /// over in less than a millisecond, or fail; while something is mounted, the status is there
    /// already.
    #[must_use]
    pub fn waits(self) -> bool {
        !matches!(
            self,
            Self::Mode | Self::Mounts | Self::Clock | Self::Network | Self::Config
        )
    }
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.serialize(f)
    }
}

/// What is true if this is the last status ever written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The start ended there; true of every start until it is over.
    FailedAt(Stage),
    /// Nobody saw an end.
    Running,
    /// The end, as asked for.
    Stopped,
    /// The end, for a failure after the start.
    Failed,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::FailedAt(stage) => write!(f, "failed at {stage}"),
            Self::Running => f.write_str("running"),
            Self::Stopped => f.write_str("stopped"),
            Self::Failed => f.write_str("failed"),
        }
    }
}

impl Serialize for Outcome {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Outcome {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = String::deserialize(from)?;
        match text.as_str() {
            "running" => Ok(Self::Running),
            "stopped" => Ok(Self::Stopped),
            "failed" => Ok(Self::Failed),
            _ => {
                let stage = text.strip_prefix("failed at ").unwrap_or_default();
                Stage::deserialize(stage.into_deserializer()).map(Self::FailedAt)
            }
        }
    }
}

/// Where the CA comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CaSource {
    /// Made by this start.
    Generated,
    /// Given to it.
    Provided,
    /// Taken from the state volume.
    Kept,
}

/// When a stage was entered and how long it took, in microseconds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StageTime {
    /// Which.
    pub stage: Word<Stage>,
    /// Since the init was executed.
    pub at_us: u64,
    /// Absent while it lasts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub took_us: Option<u64>,
}

/// The daemon.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Daemon {
    /// What it is at by itself, where a bundle has other daemons too: [`Status::state`] is the
    /// bundle's then.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state: Option<Word<State>>,
    /// Its process id while it lives.
    #[serde(deserialize_with = "at_most_the_largest")]
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
    /// overloaded, silent or not well, in a sentence; or from being ready, where that takes long.
    pub trouble: Option<String>,
    /// Since when it has used a quarter of a processor or more, as it does while it scans; RFC 3339.
    pub working_since: Option<String>,
}

/// One of the bundle's other daemons.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Companion {
    /// As the manifest calls it.
    pub name: String,
    /// What it is at.
    pub state: Word<State>,
    /// Whether the bundle ends where it cannot live.
    pub essential: bool,
    /// Its process id while it lives.
    #[serde(deserialize_with = "at_most_the_largest")]
    pub pid: Option<i32>,
    /// Its user.
    pub uid: Option<u32>,
    /// The ports it may listen on.
    pub listen: Vec<u16>,
    /// The one of these that the agent's proxy is.
    pub agent_proxy: Option<u16>,
    /// Times it was started again.
    pub restarts: u64,
    /// Times it failed.
    pub failures: u64,
    /// Why it failed last, until it is ready again.
    pub error: Option<String>,
    /// What keeps it from answering its probes as it should while it is ready, or from being
    /// ready, where that takes long.
    pub trouble: Option<String>,
    /// Since when it has been ready without a break, RFC 3339.
    pub ready_since: Option<String>,
    /// When it was started first, in microseconds since the init was executed.
    pub began_us: Option<u64>,
    /// How long after that it was ready for the first time, in microseconds.
    pub took_us: Option<u64>,
    /// What of its sandbox could not be applied, in sentences.
    pub sandbox_missing: Vec<String>,
    /// Whether its sandbox was read back from `/proc` and found as asked for.
    pub sandbox_verified: bool,
    /// Whether a control group of its own limits its memory and processes.
    pub cgroup: bool,
    /// Its last end.
    #[serde(deserialize_with = "object_or_null")]
    pub last_exit: Option<LastExit>,
    /// Its last lines, oldest first, each shortened; not read back, like pipelock's.
    #[serde(skip_deserializing)]
    pub last_lines: Vec<Said>,
}

/// Which configuration is wanted and which is in force.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Config {
    /// Counts the manifests accepted since the start; the first is 1.
    pub generation: u64,
    /// The generation the daemon has taken over and proved.
    pub applied_generation: u64,
    /// SHA-256 of the manifest that is used: the wanted generation is of it.
    pub manifest_sha256: Option<String>,
    /// SHA-256 of the one that was read after that, where it cannot be used.
    pub refused_sha256: Option<String>,
    /// Whether the manifest is used, and the roots beside it are not: why is the manifest's error.
    pub roots_refused: bool,
    /// When the one of these that was read last had been changed, as its file system says.
    pub manifest_modified: Option<String>,
    /// Times the manifest was read again because somebody asked.
    pub reloads: u64,
    /// SHA-256 of the configuration that is wanted.
    pub desired_sha256: Option<String>,
    /// SHA-256 of the configuration the daemon says it runs on.
    pub applied_sha256: Option<String>,
}

impl Config {
    fn texts(&mut self) -> [&mut Option<String>; 5] {
        [
            &mut self.manifest_sha256,
            &mut self.refused_sha256,
            &mut self.manifest_modified,
            &mut self.desired_sha256,
            &mut self.applied_sha256,
        ]
    }
}

/// Hosts that lost their permission.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
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

/// A host that the manifest allows until a time.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Granted {
    /// As the manifest has it.
    pub host: String,
    /// When that ends, or has, RFC 3339.
    pub until: String,
    /// Whether it is passed through unscanned as long.
    pub passthrough: bool,
    /// Whether it is allowed by that: it is over otherwise, and stays so whatever the clock says.
    pub in_force: bool,
}

impl Granted {
    fn limit(&mut self) {
        limit(&mut self.host, LONGEST_HOST);
        limit(&mut self.until, LONGEST_HOST);
    }

    /// What a policy says of it.
    #[must_use]
    pub fn of(grant: &Grant) -> Self {
        Self {
            host: grant.host.clone(),
            until: rfc3339(grant.until),
            passthrough: grant.passthrough,
            in_force: grant.in_force,
        }
    }
}

/// A port that nobody should listen on.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Port {
    /// Where the daemon listened.
    pub address: String,
    /// Whether a connection was refused; `null` where it was neither made nor refused.
    pub closed: Option<bool>,
    /// Who listens there, or why it could not be told whether anybody does.
    pub detail: Option<String>,
}

impl Port {
    fn texts(&mut self) -> impl Iterator<Item = &mut String> {
        [&mut self.address].into_iter().chain(&mut self.detail)
    }

    /// What is true of it while no daemon is meant to serve, for a sentence that ends
    /// there.
    #[must_use]
    pub fn in_words(&self) -> String {
        let address = &self.address;
        let detail = self.detail.as_ref();
        let detail = detail.map_or_else(String::new, |detail| format!(": {detail}"));
        match self.closed {
            Some(true) => "nothing gets through".to_owned(),
            Some(false) => format!("but something still listens on {address}{detail}"),
            None => format!("but whether {address} is closed cannot be told{detail}"),
        }
    }
}

/// The CA in use.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Ca {
    /// SHA-256 of the certificate's DER, lower-case hex.
    pub fingerprint_sha256: String,
    /// RFC 3339.
    pub not_before: String,
    /// RFC 3339.
    pub not_after: String,
    /// Where it comes from.
    pub source: Word<CaSource>,
}

/// Whether a CA serves its clients, by its time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Validity {
    /// It does.
    Valid,
    /// It does, for less than [`Ca::WARNED_BEFORE`] from now.
    Ending,
    /// Its time is over.
    Ended,
    /// Its time has not begun.
    NotBegun,
}

impl Ca {
    fn texts(&mut self) -> impl Iterator<Item = &mut String> {
        let dates = [&mut self.not_before, &mut self.not_after].into_iter();
        dates
            .chain([&mut self.fingerprint_sha256])
            .chain(self.source.other())
    }

    /// So many seconds before its end people are warned: a week.
    pub const WARNED_BEFORE: u64 = 7 * 86_400;

    /// Its validity at `now`, in seconds since 1970. Of one whose dates are not told nothing
    /// is wrong.
    #[must_use]
    pub fn validity(&self, now: u64) -> Validity {
        // RFC 3339 in UTC sorts as time does.
        let at = |seconds| crate::ca::rfc3339(seconds);
        let ends = !self.not_after.is_empty();
        if at(now) < self.not_before {
            Validity::NotBegun
        } else if ends && at(now) > self.not_after {
            Validity::Ended
        } else if ends && at(now.saturating_add(Self::WARNED_BEFORE)) > self.not_after {
            Validity::Ending
        } else {
            Validity::Valid
        }
    }

    /// What is wrong with its validity, and what to do; `None` where nothing is.
    #[must_use]
    pub fn trouble(&self, validity: Validity) -> Option<String> {
        let (begin, end) = (&self.not_before, &self.not_after);
        let kept = if self.source == CaSource::Kept {
            ", and remove the one on the state volume"
        } else {
            ""
        };
        let another = format!(
            "hint: put another pair in its place, which is taken up without a restart of sidecar-init{kept}; \
             clients have to trust that one"
        );
        match validity {
            Validity::Valid => None,
            Validity::Ending => Some(format!(
                "the CA expires at {end}: clients will refuse what it signs then\n{another}"
            )),
            Validity::Ended => Some(format!(
                "the CA expired at {end}: clients refuse what it signs\n{another}"
            )),
            Validity::NotBegun => Some(format!(
                "the CA is not valid before {begin}: clients refuse what it signs\nhint: set the clock, or put \
                 another pair in its place"
            )),
        }
    }
}

/// How the daemon ended last time.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct LastExit {
    /// Its exit code, or 128 and the signal.
    pub code: i32,
    /// In words.
    pub text: String,
    /// RFC 3339.
    pub at: String,
}

/// The whole of it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Status {
    /// [`SCHEMA`].
    pub schema: u32,
    /// This program's version.
    pub version: String,
    /// The init's process id, as it sees it.
    #[serde(deserialize_with = "at_most_the_largest")]
    pub pid: Option<i32>,
    /// Random, new at every start of the init.
    pub boot_id: String,
    /// The manifest's slug, once it is known.
    pub slug: Option<String>,
    /// Where the init runs.
    pub mode: Option<Word<Mode>>,
    /// What it is at.
    pub state: Word<State>,
    /// The stage reached.
    pub stage: Word<Stage>,
    /// What is true if this is the last status ever written.
    pub outcome: Word<Outcome>,
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
    /// How many times somebody has asked for something: a stop, a reload, a halt, a resume.
    pub requests: u64,
    /// The daemon's port, where one served and none is meant to: while halted, at the end.
    #[serde(deserialize_with = "object_or_null")]
    pub port: Option<Port>,
    /// The daemon.
    #[serde(deserialize_with = "object")]
    pub daemon: Daemon,
    /// The bundle's other daemons, in the order in which they begin.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "objects")]
    pub daemons: Vec<Companion>,
    /// Times the daemon was started again.
    pub restarts: u64,
    /// Times the daemon failed.
    pub failures: u64,
    /// Configurations.
    #[serde(deserialize_with = "object")]
    pub config: Config,
    /// Where the daemon is to listen.
    pub listen: Option<String>,
    /// How many hosts are allowed, with those that are granted.
    pub hosts_allowed: u64,
    /// What is granted until a time: first what is in force, by its end, then what ended within
    /// the last day, the last one first. At most a hundred of them.
    #[serde(deserialize_with = "objects")]
    pub grants: Vec<Granted>,
    /// How many more.
    pub grants_more: u64,
    /// Since when the daemon has served and refused without a break, RFC 3339; absent while it
    /// does not.
    pub ready_since: Option<String>,
    /// Hosts that are allowed and passed through unscanned, as a manifest writes them: at
    /// most a hundred of them.
    pub not_scanned: Vec<String>,
    /// How many more.
    pub not_scanned_more: u64,
    /// The largest body that is scanned, in MiB; absent where that is pipelock's to say.
    #[serde(deserialize_with = "at_most_the_largest")]
    pub scan_limit_mib: Option<u32>,
    /// The newest revocation.
    #[serde(deserialize_with = "object_or_null")]
    pub revocation: Option<Revocation>,
    /// The CA.
    #[serde(deserialize_with = "object_or_null")]
    pub ca: Option<Ca>,
    /// How many times the time of day was set since the start.
    pub clock_steps: u64,
    /// By how many seconds the last time; negative for back.
    pub last_clock_step: i64,
    /// The daemon's last end.
    #[serde(deserialize_with = "object_or_null")]
    pub last_exit: Option<LastExit>,
    /// The daemon's last lines, oldest first, each shortened. No reader has them: what is
    /// read is not redacted, and nothing else makes a [`Said`].
    #[serde(skip_deserializing)]
    pub last_lines: Vec<Said>,
    /// Output lines dropped because the console was not read.
    pub dropped_lines: u64,
    /// Children reaped, the daemon included.
    pub reaped: u64,
    /// How start-up went. Those that are none of ours a reader leaves out.
    #[serde(deserialize_with = "objects")]
    pub stages: Vec<StageTime>,
    /// When this was written, RFC 3339, by the machine's clock.
    pub updated: String,
}

impl LastExit {
    fn texts(&mut self) -> [&mut String; 2] {
        [&mut self.text, &mut self.at]
    }
}

impl Daemon {
    /// Makes every text of it printable and short.
    fn limit(&mut self) {
        let Self {
            state,
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
        } = self;
        sandbox_missing.truncate(MOST_SENTENCES);
        [version, trouble, working_since]
            .into_iter()
            .flatten()
            .chain(sandbox_missing)
            .chain(state.as_mut().and_then(Word::other))
            .for_each(|text| limit(text, LONGEST_SENTENCE));
    }
}

impl Companion {
    /// Makes every text of it printable and short.
    fn limit(&mut self) {
        let Self {
            name,
            state,
            essential: _,
            pid: _,
            uid: _,
            listen,
            agent_proxy: _,
            restarts: _,
            failures: _,
            error,
            trouble,
            ready_since,
            began_us: _,
            took_us: _,
            sandbox_missing,
            sandbox_verified: _,
            cgroup: _,
            last_exit,
            last_lines,
        } = self;
        listen.truncate(MOST_PORTS);
        sandbox_missing.truncate(MOST_COMPANIONS_SENTENCES);
        last_lines.truncate(MOST_COMPANIONS_SENTENCES);
        let exit = last_exit.iter_mut();
        [error, trouble, ready_since]
            .into_iter()
            .flatten()
            .chain(sandbox_missing)
            .chain(exit.flat_map(LastExit::texts))
            .chain(state.other())
            .chain([name])
            .for_each(|text| limit(text, LONGEST_SENTENCE));
    }
}

impl Status {
    /// What is wrong with the newest manifest, and whether it is used for all that.
    #[must_use]
    pub fn manifest_in_words(&self) -> Option<String> {
        let error = self.manifest_error.as_ref()?;
        let not_used = if self.config.roots_refused {
            ""
        } else {
            "the newest is not used: "
        };
        Some(format!("{not_used}{error}"))
    }

    /// Makes every text printable and everything so short that [`MAX_BYTES`] are never
    /// reached. What is told has come through here, and so has what is read.
    pub(super) fn limit(&mut self) {
        // All of them: a new field is a new decision.
        let Self {
            schema: _,
            version: program,
            pid: _,
            boot_id,
            slug,
            mode,
            state,
            stage,
            outcome,
            exit_code: _,
            error,
            manifest_error,
            warnings,
            halted: _,
            requests: _,
            port,
            daemon,
            daemons,
            restarts: _,
            failures: _,
            config,
            listen,
            hosts_allowed: _,
            grants,
            grants_more,
            ready_since,
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
            updated,
        } = self;
        for text in [error, manifest_error].into_iter().flatten() {
            limit(text, LONGEST_TEXT);
        }
        daemons.truncate(MOST_DAEMONS);
        daemons.iter_mut().for_each(Companion::limit);
        // Those that are neither the manifest's nor lasting are fewer than twenty.
        warnings.truncate(2 * MOST_SENTENCES + 20);
        daemon.limit();
        last_lines.truncate(MOST_SENTENCES);
        stages.truncate(MOST_STAGES);
        limit_hosts(not_scanned, not_scanned_more);
        limit_hosts(grants, grants_more);
        grants.iter_mut().for_each(Granted::limit);
        if let Some(revocation) = revocation.as_mut() {
            limit_hosts(&mut revocation.hosts, &mut revocation.more);
            limit_hosts(&mut revocation.scanned, &mut revocation.scanned_more);
        }
        let revoked = revocation.iter_mut();
        revoked
            .flat_map(|of| of.hosts.iter_mut().chain(&mut of.scanned))
            .chain(not_scanned)
            .for_each(|host| limit(host, LONGEST_HOST));
        let words = [
            mode.as_mut().and_then(Word::other),
            state.other(),
            stage.other(),
            outcome.other(),
        ];
        let done_at = revocation.iter_mut().filter_map(|of| of.done_at.as_mut());
        let ca = ca.iter_mut().flat_map(Ca::texts);
        let exit = last_exit.iter_mut().flat_map(LastExit::texts);
        let port = port.iter_mut().flat_map(Port::texts);
        let known = [slug, listen, ready_since]
            .into_iter()
            .chain(config.texts());
        known
            .flatten()
            .chain(warnings)
            .chain(ca)
            .chain(port)
            .chain(exit)
            .chain(words.into_iter().flatten())
            .chain(stages.iter_mut().filter_map(|time| time.stage.other()))
            .chain(done_at)
            .chain([program, boot_id, updated])
            .for_each(|text| limit(text, LONGEST_SENTENCE));
    }

    /// Those of the bundle's other daemons of which this is true, if any.
    fn names_of(&self, is: impl Fn(&Companion) -> bool) -> Option<String> {
        let found = self.daemons.iter().filter(|it| is(it));
        let names: Vec<&str> = found.map(|it| it.name.as_str()).collect();
        (!names.is_empty()).then(|| names.join(", "))
    }

    /// The state in a line, for a service manager's status.
    #[must_use]
    pub fn in_words(&self) -> String {
        let words = match (&self.error, &self.state) {
            (_, Word::Known(State::Ready)) => {
                let words = "ready; what is not allowed is refused";
                let gone = self.names_of(|it| it.state == State::Failed);
                gone.map_or(words.to_owned(), |gone| format!("{words}; without {gone}"))
            }
            (Some(error), state) => format!("{state}: {error}"),
            (None, state @ Word::Known(State::Starting)) => {
                let late = |it: &Companion| it.essential && it.state != State::Ready;
                let late = self.names_of(late);
                late.map_or(state.to_string(), |late| {
                    format!("{state}: not ready yet: {late}")
                })
            }
            (None, state) => state.to_string(),
        };
        let first = words.lines().next().unwrap_or_default();
        plain::lines_within(&plain::line(first), LONGEST_SENTENCE)
    }
}

/// Keeps the first of them, and counts the others.
fn limit_hosts<T>(hosts: &mut Vec<T>, more: &mut u64) {
    *more = more.saturating_add(hosts.len().saturating_sub(MOST_HOSTS) as u64);
    hosts.truncate(MOST_HOSTS);
}

fn limit(text: &mut String, longest: usize) {
    if text.len() > longest || !plain::is_plain(text.as_bytes()) {
        *text = plain::lines_within(text, longest);
    }
}

/// For serde a list is a struct too, field by field. Nobody wrote one of these so.
struct Object<D>(D);

impl<'de, D: Deserializer<'de>> Deserializer<'de> for Object<D> {
    type Error = D::Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
        self.0.deserialize_map(visitor)
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option
        unit unit_struct newtype_struct seq tuple tuple_struct map struct enum identifier
        ignored_any
    }
}

/// What stands there between braces.
pub(super) fn object<'de, D, T>(from: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    T::deserialize(Object(from))
}

fn object_or_null<'de, D, T>(from: D) -> Result<Option<T>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    #[derive(Deserialize)]
    #[serde(transparent, bound = "T: Deserialize<'de>")]
    struct Braced<T>(#[serde(deserialize_with = "object")] T);

    Ok(Option::<Braced<T>>::deserialize(from)?.map(|braced| braced.0))
}

/// A number; none of ours is larger than that one.
fn at_most_the_largest<'de, D, T>(from: D) -> Result<Option<T>, D::Error>
where
    D: Deserializer<'de>,
    T: TryFrom<i128>,
{
    let number = Option::<i128>::deserialize(from)?.map(|number| number.min(i32::MAX.into()));
    let read = number.map(T::try_from).transpose();
    read.map_err(|_| de::Error::custom("invalid number"))
}

/// A list of those; what is none of ours a reader leaves out.
fn objects<'de, D, T>(from: D) -> Result<Vec<T>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    let objects = Vec::<Value>::deserialize(from)?;
    Ok(objects
        .into_iter()
        .filter_map(|it| object(it).ok())
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bundle_s_line_names_whom_it_waits_for_and_whom_it_is_without() {
        let companion = |name: &str, state: State, essential| Companion {
            name: name.to_owned(),
            state: state.into(),
            essential,
            ..Companion::default()
        };
        let mut status = Status {
            state: State::Starting.into(),
            ..Status::default()
        };
        assert_eq!(status.in_words(), "starting");
        status.daemons = vec![
            companion("first", State::Ready, true),
            companion("egress", State::Starting, true),
            companion("gate", State::Waiting, true),
            companion("notes", State::Failed, false),
        ];
        assert_eq!(status.in_words(), "starting: not ready yet: egress, gate");
        status.state = State::Ready.into();
        let words = "ready; what is not allowed is refused; without notes";
        assert_eq!(status.in_words(), words);
    }

    #[test]
    fn every_word_of_the_file_is_read_as_it_is_written() {
        fn kept<T>(words: &[(T, &str)])
        where
            T: Copy + PartialEq + fmt::Debug + Serialize + DeserializeOwned,
        {
            for (word, text) in words {
                let told = Word::Known(*word);
                assert_eq!(told.to_string(), *text);
                assert_eq!(serde_json::to_value(&told).unwrap(), *text);
                assert_eq!(Word::<T>::of((*text).to_owned()), told);
            }
            let other: Word<T> = Word::of("failed at nothing".to_owned());
            assert_eq!(other, Word::Other("failed at nothing".to_owned()));
        }
        kept(&[
            (State::Waiting, "waiting"),
            (State::Starting, "starting"),
            (State::Ready, "ready"),
            (State::Reloading, "reloading"),
            (State::Backoff, "backoff"),
            (State::Halted, "halted"),
            (State::Draining, "draining"),
            (State::Stopping, "stopping"),
            (State::Stopped, "stopped"),
            (State::Failed, "failed"),
        ]);
        kept(&[
            (Stage::Mode, "mode"),
            (Stage::Mounts, "mounts"),
            (Stage::Clock, "clock"),
            (Stage::Manifest, "manifest"),
            (Stage::Network, "network"),
            (Stage::Ca, "ca"),
            (Stage::Config, "config"),
            (Stage::Spawn, "spawn"),
            (Stage::Ready, "ready"),
        ]);
        kept(&[
            (Outcome::FailedAt(Stage::Manifest), "failed at manifest"),
            (Outcome::Running, "running"),
            (Outcome::Stopped, "stopped"),
            (Outcome::Failed, "failed"),
        ]);
        kept(&[
            (CaSource::Generated, "generated"),
            (CaSource::Provided, "provided"),
            (CaSource::Kept, "kept"),
        ]);
        kept(&[
            (Mode::Machine, "machine"),
            (Mode::Container, "container"),
            (Mode::Child, "child"),
        ]);
    }
}
