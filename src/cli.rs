//! Arguments to a command. Pure.
#![forbid(unsafe_code)]

use std::ffi::OsString;
use std::fmt;
use std::path::PathBuf;

use lexopt::prelude::*;

use crate::boot::clock::BUILD_EPOCH;
use crate::environment;
use crate::exit::ExitCode;
use crate::import::Kind;
use crate::manifest::nearest;
use crate::policy::grants::LONGEST;
use crate::sys::signals::Request;

/// Commands and options, as `--help` prints them first.
const COMMANDS_AND_OPTIONS: &str = "\
sidecar-init, PID 1 of the sidecar bundle: turns a manifest into a running,
supervised, locked-down pipelock, or says precisely why it cannot.

usage:
  sidecar-init [run]                run: as PID 1, or in the foreground
  sidecar-init check [FILE]         judge a manifest, all problems at once; notes say
                                    what known hosts would meet, and fail nothing
  sidecar-init render [FILE]        print the pipelock.yaml a manifest gives
  sidecar-init import FILE...       print the manifest that allows what the files allow:
                                    lists, pipelock's configuration, settings of agents,
                                    policies of other sandboxes; - is standard input
  sidecar-init ca                   generate a CA pair, or check the one there
  sidecar-init status               what the running sidecar-init reports
  sidecar-init watch                what happens, as it happens: states, manifests,
                                    what is refused and the line that would allow it
  sidecar-init grant HOST           allow a host for a time: edits the manifest, and waits
                                    until that is in force; --revoke takes it back
  sidecar-init healthcheck [NAME]   exit 0 when ready, for container probes; NAME: one
                                    daemon of the bundle alone
  sidecar-init halt                 let nothing through, whatever happens
  sidecar-init resume               end the halt
  sidecar-init reload               read the manifest again
  sidecar-init stop                 end it
                                    these four wait until it is so, beside the
                                    sidecar-init they are for (docker exec, …)

options:
  --manifest FILE                   run, check, render, grant: the manifest
                                    [/etc/sidecar/manifest.yaml]; - is standard input
                                    for check and render
  --for TIME                        grant: so long from now, as in 45s, 30m, 2h, 1d or
                                    1h30m [30m]
  --until TIME                      grant: until then, as in 2030-01-31T18:00:00Z
  --passthrough                     grant: and do not scan what goes there or comes back
  --revoke                          grant: take it back, and wait until nothing gets there
  --dry-run                         grant: print what would be changed, and change nothing
  --export DIR                      status, watch, grant: where status.json is, on the
                                    host's side
  --strict                          check: unknown keys below bottle are errors too
  --daemon FILE                     run: pipelock [/usr/bin/pipelock]
  --from KIND                       import: what the files are, instead of telling by
                                    what is in them: list, pipelock, squid, claude-code,
                                    sandbox-runtime, openshell, opensandbox,
                                    harden-runner or smolvm
  --slug NAME                       import: the agent's name [imported]
  --run-dir DIR                     all but check, render, import, ca: where the
                                    configuration and status.json are [/run/sidecar]
  --cert FILE                       run, render, ca: [/etc/pipelock-ca.pem]
  --key FILE                        run, render, ca: [/etc/pipelock-ca-key.pem]; where a
                                    run that is no PID 1 is given a --run-dir and neither
                                    of the two, they are in that directory: ca.pem,
                                    ca-key.pem; export/ is made there for clients of this
                                    host, and the start ends with what to paste for them
  --require-sandbox                 run: fail where any part of the daemon's sandbox
                                    cannot be applied; a machine's init does anyway
  --json                            status: the whole status as JSON; check: every
                                    problem with its line, column, field and hint;
                                    watch: an object a line; run: the result as JSON on
                                    a terminal, too
  --wait-generation N               status: wait until generation N is in force
  --timeout SECONDS                 status, healthcheck: give up after [5]; halt, resume,
                                    reload, stop, grant, --wait-generation: after [60];
                                    1 is the least
  --check                           status: fail where it is not ready (1), or does not
                                    use the newest manifest (65)
  --timeline                        status: how long each stage of start-up took
  --svg FILE                        status: the same as a picture; - is standard output
  -h, --help                        this text
  -V, --version                     version, commit and time of this build
";

/// The signals, after everything that is given to a start.
const SIGNALS: &str = "\
signals to a running sidecar-init:
  TERM INT QUIT PWR  stop           USR1  halt: nothing gets through
  HUP  read the manifest again      USR2  resume
";

/// Where on its line `--help` says what a name means.
const MEANING: usize = 36;

/// What `--help` prints; the man page and the tables of docs/operations.md are made from the
/// same text.
#[must_use]
pub fn help() -> String {
    let environment: String = environment::ALL
        .iter()
        .map(|variable| named(variable.name, variable.means))
        .collect();
    let codes: String = ExitCode::ALL
        .iter()
        .map(|code| named(&code.number().to_string(), &[code.means()]))
        .collect();
    format!("{COMMANDS_AND_OPTIONS}\nenvironment:\n{environment}\n{SIGNALS}\nexit codes:\n{codes}")
}

/// A name and what it means, beside it and below that.
fn named(name: &str, means: &[&str]) -> String {
    let mut name = format!("  {name}");
    means
        .iter()
        .map(|line| format!("{:MEANING$}{line}\n", std::mem::take(&mut name)))
        .collect()
}

/// What `--version` prints. The commit is "unknown" where no git checkout was built, and in
/// a test's build.
#[must_use]
pub fn version() -> String {
    format!(
        "sidecar-init {}\ncommit: {}\nbuild epoch: {BUILD_EPOCH} ({})\n",
        env!("CARGO_PKG_VERSION"),
        env!("SIDECAR_COMMIT"),
        crate::ca::rfc3339(BUILD_EPOCH)
    )
}

/// A command with its options.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// Start and supervise.
    Run(RunOptions),
    /// Judge a manifest.
    Check {
        /// The manifest; `-` is standard input.
        manifest: PathBuf,
        /// Unknown keys below `bottle` are errors.
        strict: bool,
        /// As JSON.
        json: bool,
    },
    /// Print the configuration.
    Render(Paths),
    /// Print a manifest made of what others have.
    Import(ImportOptions),
    /// Generate or check a CA pair.
    Ca(Paths),
    /// Tell what the running init reports.
    Status(StatusOptions),
    /// Exit 0 when ready.
    Healthcheck {
        /// Where `status.json` is.
        run_dir: PathBuf,
        /// Of the bundle's daemons the one of this name alone.
        daemon: Option<String>,
        /// Give up after this many seconds.
        timeout_seconds: u64,
    },
    /// Tell what happens.
    Watch(WatchOptions),
    /// Allow a host for a time, or no longer.
    Grant(GrantOptions),
    /// Have the running init do something, and wait until it is so.
    Control(ControlOptions),
    /// Print [`help`].
    Help,
    /// Print the version.
    Version,
}

/// What a run is told.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RunOptions {
    /// Where everything is.
    pub paths: Paths,
    /// The run directory was named, and no file of the CA pair.
    pub below_run_dir: bool,
    /// The manifest was named.
    pub manifest_is_named: bool,
    /// The result as JSON, whoever reads it.
    pub json: bool,
}

/// Where everything is, and how strict `run` is about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Paths {
    /// The manifest.
    pub manifest: PathBuf,
    /// pipelock.
    pub daemon: PathBuf,
    /// Configuration and status.
    pub run_dir: PathBuf,
    /// The CA certificate.
    pub cert: PathBuf,
    /// The CA key.
    pub key: PathBuf,
    /// `run`: an incomplete sandbox is a failed start.
    pub require_sandbox: bool,
}

impl Default for Paths {
    fn default() -> Self {
        Self {
            manifest: "/etc/sidecar/manifest.yaml".into(),
            daemon: "/usr/bin/pipelock".into(),
            run_dir: "/run/sidecar".into(),
            cert: "/etc/pipelock-ca.pem".into(),
            key: "/etc/pipelock-ca-key.pem".into(),
            require_sandbox: false,
        }
    }
}

impl Paths {
    /// The same with every path absolute: the daemon starts in `/`.
    #[must_use]
    pub fn absolute(&self) -> Self {
        // Fails only where the working directory is gone; then the path cannot work anyway.
        let absolute = |path: &PathBuf| std::path::absolute(path).unwrap_or_else(|_| path.clone());
        Self {
            manifest: absolute(&self.manifest),
            daemon: absolute(&self.daemon),
            run_dir: absolute(&self.run_dir),
            cert: absolute(&self.cert),
            key: absolute(&self.key),
            require_sandbox: self.require_sandbox,
        }
    }
}

/// What `status` prints.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StatusOptions {
    /// Where `status.json` is.
    pub run_dir: PathBuf,
    /// The file as it is.
    pub json: bool,
    /// Fail where it is not ready, or the newest manifest not used.
    pub check: bool,
    /// Stage by stage.
    pub timeline: bool,
    /// Stage by stage, as a picture, into this file.
    pub svg: Option<PathBuf>,
    /// Wait for this generation first.
    pub wait_generation: Option<u64>,
    /// Give up after this many seconds: its file system may not answer, or the generation
    /// not come.
    pub timeout_seconds: u64,
}

/// What `import` reads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImportOptions {
    /// At least one; `-` is standard input.
    pub files: Vec<PathBuf>,
    /// What they are; without it, what is in them tells.
    pub from: Option<Kind>,
    /// The agent's name.
    pub slug: String,
}

/// What `watch` tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WatchOptions {
    /// Where `status.json` is.
    pub run_dir: PathBuf,
    /// An object a line.
    pub json: bool,
}

/// What is granted, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GrantOptions {
    /// As it was typed.
    pub host: String,
    /// Until when; `None` takes it back.
    pub end: Option<End>,
    /// It is not scanned either.
    pub passthrough: bool,
    /// The manifest.
    pub manifest: PathBuf,
    /// Where `status.json` is.
    pub run_dir: PathBuf,
    /// Say what would be changed, and change nothing.
    pub dry_run: bool,
    /// Give up waiting after this many seconds.
    pub timeout_seconds: u64,
}

/// When a grant ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// So many seconds from now.
    After(u64),
    /// Then, as it was typed.
    At(String),
}

/// What is asked of a running init.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ControlOptions {
    /// Stop, reload, halt or resume.
    pub request: Request,
    /// Its run directory.
    pub run_dir: PathBuf,
    /// Give up waiting after this many seconds.
    pub timeout_seconds: u64,
}

/// Arguments that make no command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UsageError(String);

impl fmt::Display for UsageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}\nhint: sidecar-init --help lists commands and options",
            self.0
        )
    }
}

impl std::error::Error for UsageError {}

impl From<lexopt::Error> for UsageError {
    fn from(error: lexopt::Error) -> Self {
        Self(error.to_string())
    }
}

/// A status that cannot be read within so many seconds is not there.
const LONGEST_READING: u64 = 5;
/// And a change that is not in force by then will not be.
const LONGEST_RELOAD: u64 = 60;
/// So many seconds a host is granted where nobody says how long: long enough for what an agent is
/// at, and short enough to be forgotten.
const USUAL_GRANT: u64 = 30 * 60;

const COMMANDS: [&str; 13] = [
    "run",
    "check",
    "render",
    "import",
    "ca",
    "status",
    "watch",
    "grant",
    "healthcheck",
    "halt",
    "resume",
    "reload",
    "stop",
];

const OPTIONS: [&str; 21] = [
    "manifest",
    "strict",
    "daemon",
    "run-dir",
    "cert",
    "key",
    "require-sandbox",
    "json",
    "wait-generation",
    "timeout",
    "check",
    "timeline",
    "svg",
    "from",
    "slug",
    "for",
    "until",
    "passthrough",
    "revoke",
    "dry-run",
    "export",
];

/// Which commands take an option, by its long name.
fn takes(command: &str, option: &str) -> bool {
    let commands: &[&str] = match option {
        "manifest" => &["run", "check", "render", "grant"],
        "for" | "until" | "passthrough" | "revoke" | "dry-run" => &["grant"],
        "export" => &["status", "watch", "grant"],
        "strict" => &["check"],
        "daemon" | "require-sandbox" => &["run"],
        "run-dir" => &[
            "run",
            "status",
            "watch",
            "grant",
            "healthcheck",
            "halt",
            "resume",
            "reload",
            "stop",
        ],
        "from" | "slug" => &["import"],
        "cert" | "key" => &["run", "render", "ca"],
        "timeout" => &[
            "status",
            "grant",
            "healthcheck",
            "halt",
            "resume",
            "reload",
            "stop",
        ],
        "json" => &["run", "check", "status", "watch"],
        "wait-generation" | "check" | "timeline" | "svg" => &["status"],
        _ => &[],
    };
    commands.contains(&command)
}

/// What the options say.
#[derive(Default)]
struct Options {
    of_daemon: Option<String>,
    paths: Paths,
    strict: bool,
    json: bool,
    timeline: bool,
    svg: Option<PathBuf>,
    wait_generation: Option<u64>,
    timeout: Option<u64>,
    /// All that were given.
    named: Vec<String>,
    files: Vec<PathBuf>,
    from: Option<Kind>,
    slug: Option<String>,
    grant: Granting,
}

/// What `grant` is told besides.
#[derive(Default)]
struct Granting {
    host: Option<String>,
    end: Option<End>,
    passthrough: bool,
    revoke: bool,
    dry_run: bool,
}

impl Options {
    /// Takes this one, and its value from what follows.
    fn take(&mut self, option: &str, parser: &mut lexopt::Parser) -> Result<(), UsageError> {
        match option {
            "manifest" => self.paths.manifest = parser.value()?.into(),
            "daemon" => self.paths.daemon = parser.value()?.into(),
            "run-dir" => self.paths.run_dir = parser.value()?.into(),
            "cert" => self.paths.cert = parser.value()?.into(),
            "key" => self.paths.key = parser.value()?.into(),
            "require-sandbox" => self.paths.require_sandbox = true,
            "strict" => self.strict = true,
            "json" => self.json = true,
            "check" => {}
            "timeline" => self.timeline = true,
            "svg" => self.svg = Some(parser.value()?.into()),
            "from" => self.from = Some(kind(&parser.value()?.string()?)?),
            "slug" => self.slug = Some(parser.value()?.string()?),
            "for" => self.end_at(End::After(duration(&parser.value()?.string()?)?))?,
            "until" => self.end_at(End::At(parser.value()?.string()?))?,
            "passthrough" => self.grant.passthrough = true,
            "revoke" => self.grant.revoke = true,
            "dry-run" => self.grant.dry_run = true,
            "export" => self.paths.run_dir = parser.value()?.into(),
            "wait-generation" => self.wait_generation = Some(parser.value()?.parse()?),
            "timeout" => match parser.value()?.parse()? {
                0 => {
                    let why = "--timeout 0 leaves no time to look; 1 is the least";
                    return Err(UsageError(why.to_owned()));
                }
                seconds => self.timeout = Some(seconds),
            },
            _ => {
                let unknown = Long(option).unexpected();
                return Err(match nearest(option, OPTIONS.into_iter()) {
                    Some(near) => UsageError(format!("{unknown}; did you mean --{near}?")),
                    None => unknown.into(),
                });
            }
        }
        Ok(())
    }

    fn end_at(&mut self, end: End) -> Result<(), UsageError> {
        match self.grant.end.replace(end) {
            None => Ok(()),
            Some(_) => Err(UsageError(
                "a grant has one end: --for or --until".to_owned(),
            )),
        }
    }

    /// What `grant` is asked for.
    fn granting(self) -> Result<Command, UsageError> {
        let Granting {
            host,
            end,
            passthrough,
            revoke,
            dry_run,
        } = self.grant;
        let Some(host) = host else {
            return Err(UsageError("grant needs a host: grant HOST".to_owned()));
        };
        if revoke && (end.is_some() || passthrough) {
            let why = "--revoke takes a grant back: it has no end, and no --passthrough";
            return Err(UsageError(why.to_owned()));
        }
        Ok(Command::Grant(GrantOptions {
            host,
            end: (!revoke).then(|| end.unwrap_or(End::After(USUAL_GRANT))),
            passthrough,
            manifest: self.paths.manifest,
            run_dir: self.paths.run_dir,
            dry_run,
            timeout_seconds: self.timeout.unwrap_or(LONGEST_RELOAD),
        }))
    }

    /// The command of this name, with them.
    fn command(self, name: &str) -> Command {
        let is_named = |option: &str| self.named.iter().any(|it| it == option);
        let patient = self.timeout.unwrap_or(LONGEST_RELOAD);
        let control = |request, run_dir| {
            Command::Control(ControlOptions {
                request,
                run_dir,
                timeout_seconds: patient,
            })
        };
        match name {
            "check" => Command::Check {
                manifest: self.paths.manifest,
                strict: self.strict,
                json: self.json,
            },
            "render" => Command::Render(self.paths),
            "import" => Command::Import(ImportOptions {
                files: self.files,
                from: self.from,
                slug: self.slug.unwrap_or_else(|| "imported".to_owned()),
            }),
            "ca" => Command::Ca(self.paths),
            "status" => Command::Status(StatusOptions {
                run_dir: self.paths.run_dir,
                json: self.json,
                check: is_named("check"),
                timeline: self.timeline,
                svg: self.svg,
                wait_generation: self.wait_generation,
                timeout_seconds: match self.wait_generation {
                    Some(_) => patient,
                    None => self.timeout.unwrap_or(LONGEST_READING),
                },
            }),
            "watch" => Command::Watch(WatchOptions {
                run_dir: self.paths.run_dir,
                json: self.json,
            }),
            "healthcheck" => Command::Healthcheck {
                run_dir: self.paths.run_dir,
                daemon: self.of_daemon,
                timeout_seconds: self.timeout.unwrap_or(LONGEST_READING),
            },
            "halt" => control(Request::Halt, self.paths.run_dir),
            "resume" => control(Request::Resume, self.paths.run_dir),
            "reload" => control(Request::Reload, self.paths.run_dir),
            "stop" => control(Request::Stop, self.paths.run_dir),
            _ => Command::Run(RunOptions {
                below_run_dir: is_named("run-dir") && !is_named("cert") && !is_named("key"),
                manifest_is_named: is_named("manifest"),
                paths: self.paths,
                json: self.json,
            }),
        }
    }
}

/// So many seconds, of numbers with their units.
fn duration(text: &str) -> Result<u64, UsageError> {
    let wrong = |why: &str| UsageError(format!("--for {text:?} {why}"));
    let none = || wrong("is no time: write it as 45s, 30m, 2h, 1d or 1h30m");
    let mut seconds = 0_u64;
    let mut rest = text;
    let mut last = u64::MAX;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).ok_or_else(none)?;
        let (number, more) = rest.split_at_checked(digits).ok_or_else(none)?;
        let unit = match more.as_bytes().first() {
            Some(b's') => 1,
            Some(b'm') => 60,
            Some(b'h') => 3600,
            Some(b'd') => 86_400,
            _ => return Err(none()),
        };
        // Each unit once, the largest first.
        if unit >= last {
            return Err(none());
        }
        last = unit;
        let number: u64 = number.parse().map_err(|_| none())?;
        seconds = number.saturating_mul(unit).saturating_add(seconds);
        rest = more.get(1..).unwrap_or_default();
    }
    match seconds {
        0 if text.is_empty() => Err(none()),
        0 => Err(wrong("ends at once; to take a grant back, write --revoke")),
        1..=LONGEST => Ok(seconds),
        _ => Err(wrong(
            "is more than a year, 366d: what is to stay allowed is a route",
        )),
    }
}

/// What other programs call what a command does.
const ELSEWHERE: [(&[&str], &str); 8] = [
    (&["start", "up", "serve"], "run"),
    (&["validate", "verify", "lint", "test"], "check"),
    (&["allow", "permit", "unblock"], "grant HOST"),
    (&["revoke", "deny", "block"], "grant --revoke HOST"),
    (&["denials", "denied", "refused", "ps", "info"], "status"),
    (&["log", "logs", "tail", "follow", "events"], "watch"),
    (&["down", "kill", "quit", "exit", "shutdown"], "stop"),
    (&["unhalt", "unpause", "continue"], "resume"),
];

/// The command of this name, if there is one.
fn known(name: String) -> Result<String, UsageError> {
    if COMMANDS.contains(&name.as_str()) {
        return Ok(name);
    }
    let mut elsewhere = ELSEWHERE.iter();
    let elsewhere = elsewhere.find(|(names, _)| names.contains(&name.as_str()));
    let near = elsewhere
        .map(|(_, command)| *command)
        .or_else(|| nearest(&name, COMMANDS.into_iter()));
    let meant = match near {
        Some(near) => format!("did you mean {near}?"),
        None => format!("there are {}", COMMANDS.join(", ")),
    };
    Err(UsageError(format!("{name:?} is not a command; {meant}")))
}

/// The kind of file of this name, if there is one.
fn kind(name: &str) -> Result<Kind, UsageError> {
    Kind::named(name).ok_or_else(|| {
        let names = Kind::ALL.map(Kind::name);
        let meant = match nearest(name, names.into_iter()) {
            Some(near) => format!("did you mean {near}?"),
            None => format!("there are {}", names.join(", ")),
        };
        UsageError(format!(
            "{name:?} is not a kind of file that is read; {meant}"
        ))
    })
}

/// Reads the arguments after the program's name.
pub fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Command, UsageError> {
    let mut parser = lexopt::Parser::from_args(arguments);
    let mut command: Option<String> = None;
    let mut options = Options::default();
    let mut seen: Vec<String> = Vec::new();
    while let Some(argument) = parser.next()? {
        let option = match argument {
            Short('h') | Long("help") => return Ok(Command::Help),
            Short('V') | Long("version") => return Ok(Command::Version),
            // As everybody types it, and not far from a command that stops everything.
            Value(word) if command.is_none() && word == "help" => return Ok(Command::Help),
            Value(word) if command.is_none() && word == "version" => return Ok(Command::Version),
            Value(value) if command.is_none() => {
                command = Some(known(value.string()?)?);
                continue;
            }
            // As everybody types it.
            Value(file)
                if matches!(command.as_deref(), Some("check" | "render"))
                    && !seen.iter().any(|option| option == "manifest") =>
            {
                options.paths.manifest = file.into();
                seen.push("manifest".to_owned());
                continue;
            }
            Value(file) if command.as_deref() == Some("import") => {
                options.files.push(file.into());
                continue;
            }
            Value(name)
                if command.as_deref() == Some("healthcheck") && options.of_daemon.is_none() =>
            {
                options.of_daemon = Some(name.string()?);
                continue;
            }
            Value(host) if command.as_deref() == Some("grant") && options.grant.host.is_none() => {
                options.grant.host = Some(host.string()?);
                continue;
            }
            Long(name) => name.to_owned(),
            other => return Err(other.unexpected().into()),
        };
        options.take(&option, &mut parser)?;
        seen.push(option);
    }
    let command = command.unwrap_or_else(|| "run".to_owned());
    if let Some(option) = seen.iter().find(|option| !takes(&command, option)) {
        return Err(UsageError(format!("{command} takes no --{option}")));
    }
    if seen.iter().any(|it| it == "export") && seen.iter().any(|it| it == "run-dir") {
        let why = "--run-dir and --export both say where the status is: give one";
        return Err(UsageError(why.to_owned()));
    }
    if command == "grant" {
        return options.granting();
    }
    options.named = seen;
    if command == "import" && options.files.is_empty() {
        let why = "import needs a FILE; - is standard input";
        return Err(UsageError(why.to_owned()));
    }
    Ok(options.command(&command))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Result<Command, UsageError> {
        parse(line.split_whitespace().map(OsString::from))
    }

    #[test]
    fn runs_with_the_usual_paths_when_nothing_is_said() {
        assert_eq!(words(""), Ok(Command::Run(RunOptions::default())));
        assert_eq!(words("run"), words(""));
    }

    #[test]
    fn a_run_has_its_pair_below_a_named_run_directory_unless_one_of_the_two_is_named() {
        for (line, below) in [
            ("run", false),
            ("run --run-dir x", true),
            ("--run-dir x", true),
            ("run --run-dir x --cert c", false),
            ("run --key k --run-dir x", false),
        ] {
            let Ok(Command::Run(options)) = words(line) else {
                unreachable!("{line}");
            };
            assert_eq!(options.below_run_dir, below, "{line}");
        }
    }

    #[test]
    fn takes_options_before_and_after_the_command() {
        let wanted = Command::Check {
            manifest: "-".into(),
            strict: true,
            json: false,
        };
        assert_eq!(words("check - --strict"), Ok(wanted.clone()));
        assert_eq!(words("check --strict --manifest -"), Ok(wanted.clone()));
        assert_eq!(words("--manifest=- check --strict"), Ok(wanted));
    }

    #[test]
    fn help_and_version_are_words_too_whatever_follows() {
        for line in ["help", "help grant", "--strict help", "-h", "grant --help"] {
            assert_eq!(words(line), Ok(Command::Help), "{line}");
        }
        assert_eq!(words("version"), Ok(Command::Version));
        // Behind a command it is what that takes.
        assert!(matches!(words("grant help"), Ok(Command::Grant(_))));
        assert!(words("halt help").is_err());
    }

    #[test]
    fn a_name_that_others_have_for_a_command_is_told_as_that() {
        for (names, command) in ELSEWHERE {
            let (word, _) = command.split_once(' ').unwrap_or((command, ""));
            assert!(COMMANDS.contains(&word), "{command}");
            for name in names {
                assert!(!COMMANDS.contains(name), "{name}");
                let why = words(name).unwrap_err().to_string();
                let wanted = format!("\"{name}\" is not a command; did you mean {command}?\n");
                assert!(why.starts_with(&wanted), "{why}");
            }
        }
    }

    #[test]
    fn refuses_what_a_command_does_not_take() {
        for (line, why) in [
            ("chekc", "\"chekc\" is not a command; did you mean check?"),
            ("dance", "\"dance\" is not a command; there are run, check"),
            ("check --daemon x", "check takes no --daemon"),
            (
                "render --require-sandbox",
                "render takes no --require-sandbox",
            ),
            (
                "render --manifset x",
                "invalid option '--manifset'; did you mean --manifest?",
            ),
            ("render --x", "invalid option '--x'\n"),
            ("status --wait-generation soon", "soon"),
            ("status --timeout 0", "--timeout 0 leaves no time to look"),
            (
                "healthcheck --timeout 0",
                "--timeout 0 leaves no time to look",
            ),
            ("import", "import needs a FILE; - is standard input"),
            ("import --strict a", "import takes no --strict"),
            ("check --slug a b", "check takes no --slug"),
            (
                "import a --from opensnadbox",
                "\"opensnadbox\" is not a kind of file that is read; did you mean opensandbox?",
            ),
            (
                "import a --from xyz",
                "\"xyz\" is not a kind of file that is read; there are pipelock, openshell,",
            ),
            ("run extra", "unexpected argument \"extra\""),
            ("check one two", "unexpected argument \"two\""),
            ("check --manifest one two", "unexpected argument \"two\""),
            ("run --manifest", "missing argument"),
            ("grant", "grant needs a host"),
            (
                "grant a.example b.example",
                "unexpected argument \"b.example\"",
            ),
            ("grant a --for 1h --until x", "one end: --for or --until"),
            ("grant a --revoke --for 1h", "it has no end"),
            ("grant a --revoke --passthrough", "no --passthrough"),
            ("grant a --export x --run-dir y", "give one"),
            ("grant a --for 30", "is no time: write it as 45s"),
            ("grant a --for 1m1h", "is no time"),
            ("grant a --for 1h1h", "is no time"),
            ("grant a --for h", "is no time"),
            ("grant a --for -1h", "is no time"),
            ("grant a --for 1.5h", "is no time"),
            ("grant a --for 0s", "ends at once"),
            ("grant a --for 366d1s", "is more than a year"),
            ("grant a --for 99999999999999999d", "is more than a year"),
            ("grant a --strict", "grant takes no --strict"),
            ("check --for 1h", "check takes no --for"),
        ] {
            let error = words(line).unwrap_err().to_string();
            assert!(error.contains(why), "{line}: {error}");
            assert!(
                error.ends_with("--help lists commands and options"),
                "{error}"
            );
        }
    }

    #[test]
    fn help_names_every_kind_of_file() {
        let help = help();
        let (_, from) = help.split_once("\n  --from KIND ").unwrap();
        let (from, _) = from.split_once("\n  --").unwrap();
        let words: Vec<&str> = from.split([' ', ',', '\n']).collect();
        for kind in Kind::ALL {
            assert!(words.contains(&kind.name()), "{from}");
        }
    }

    #[test]
    fn a_grant_has_an_end_of_its_own_or_the_usual_one() {
        let end = |line: &str| match words(line) {
            Ok(Command::Grant(options)) => options.end,
            other => panic!("{line}: {other:?}"),
        };
        for (line, wanted) in [
            ("grant a", Some(End::After(1800))),
            ("grant a --for 45s", Some(End::After(45))),
            ("grant --for 30m a", Some(End::After(1800))),
            ("grant a --for 2h", Some(End::After(7200))),
            ("grant a --for 1d", Some(End::After(86_400))),
            ("grant a --for 1h30m", Some(End::After(5400))),
            ("grant a --for 366d", Some(End::After(LONGEST))),
            ("grant a --until x", Some(End::At("x".to_owned()))),
            ("grant a --revoke", None),
            ("grant --revoke a", None),
        ] {
            assert_eq!(end(line), wanted, "{line}");
        }
        let Ok(Command::Grant(options)) = words("grant a --export x --dry-run --passthrough")
        else {
            panic!("it is a grant");
        };
        assert_eq!(options.run_dir, PathBuf::from("x"));
        assert!(options.dry_run && options.passthrough);
    }

    #[test]
    fn help_names_every_command_and_option() {
        for word in COMMANDS {
            let usage = format!("\n  sidecar-init {word}");
            assert!(help().replace("[run]", "run").contains(&usage), "{word}");
        }
        for option in OPTIONS {
            let takers = COMMANDS.iter().filter(|command| takes(command, option));
            assert!(takers.count() > 0, "nobody takes --{option}");
            assert!(help().contains(&format!("\n  --{option} ")), "{option}");
        }
    }
}
