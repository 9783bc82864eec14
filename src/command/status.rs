//! `status`: what the running init reports, for people or as JSON.

use std::path::Path;

use super::patience::Patience;
use super::{LOOK_INTERVAL, below, granted, healthcheck, places, print, print_as_it_is};
use crate::boot::clock;
use crate::cli::StatusOptions;
use crate::exit::{ExitCode, StartError};
use crate::policy::grants;
use crate::status::denials::{self, Tally};
use crate::status::told::{Condition, StatusFile};
use crate::status::{Companion, State, Status, Word, timeline};
use crate::sys::files::{Access, publish};

/// Prints what the running init reports, for people or as JSON.
pub fn print_status(options: &StatusOptions) -> Result<(), StartError> {
    let unavailable = |why: String| StartError::new(ExitCode::DaemonUnavailable, below(&why, "  "));
    let patience = Patience::of(options.timeout_seconds);
    let (file, denials) = loop {
        let (file, denials) = patience
            .read(&options.run_dir)
            .map_err(|error| unavailable(error.to_string()))?;
        let Some(wanted) = options.wait_generation else {
            break (file, denials);
        };
        let config = &file.status.config;
        let applied = config.applied_generation;
        if applied >= wanted && file.is(State::Ready) {
            break (file, denials);
        }
        let over = file.is(State::Stopped)
            || file.is(State::Failed)
            || file.condition == Condition::Killed;
        if over || patience.is_over() {
            // Why nobody waits any longer, too.
            let reasons = [
                over.then(|| format!("it does not come any more: {}", condition(&file))),
                file.status.error.clone().filter(|_| over),
                file.status.manifest_error.clone(),
            ];
            let reasons: String = reasons
                .iter()
                .flatten()
                .map(|why| format!("\n{why}"))
                .collect();
            return Err(unavailable(format!(
                "generation {wanted} is not in force: state {}, wanted {}, in force {applied}{reasons}",
                file.condition, config.generation,
            )));
        }
        std::thread::sleep(LOOK_INTERVAL);
    };
    show(options, &file, denials)?;
    if options.check {
        return check(&file).map_err(|(code, why)| StartError::new(code, below(&why, "  ")));
    }
    Ok(())
}

/// Whether it is as its manifest asks: ready, and the newest manifest in force.
fn check(file: &StatusFile) -> Result<(), (ExitCode, String)> {
    healthcheck::judge(file).map_err(|why| (ExitCode::NotReady, why))?;
    match &file.status.manifest_error {
        Some(why) => Err((ExitCode::ManifestInvalid, why.clone())),
        None => Ok(()),
    }
}

fn show(
    options: &StatusOptions,
    file: &StatusFile,
    denials: Option<Tally>,
) -> Result<(), StartError> {
    if options.json {
        return print(&format!("{}\n", file.json()));
    }
    if let Some(path) = &options.svg {
        let picture = timeline::svg(&file.status);
        if path == Path::new("-") {
            return print_as_it_is(&picture);
        }
        return publish(path, picture.as_bytes(), Access::PUBLIC)
            .map_err(|error| StartError::new(ExitCode::CannotWrite, error));
    }
    print(&describe(file))?;
    // Another start's are none of this one's.
    if let Some(denials) = denials
        && denials.boot_id == file.status.boot_id
    {
        print(&describe_denials(&denials, &places(&options.run_dir)))?;
    }
    if options.timeline {
        print(&timeline::waterfall(&file.status))?;
    }
    Ok(())
}

/// One of the bundle's other daemons.
fn companion(daemon: &Companion) -> String {
    let pid = daemon
        .pid
        .map_or_else(|| "not running".to_owned(), |pid| format!("pid {pid}"));
    let ports = match daemon.listen.as_slice() {
        [] => String::new(),
        ports => {
            let ports: Vec<String> = ports
                .iter()
                .map(|port| match daemon.agent_proxy {
                    Some(agents) if agents == *port => format!("{port} (the agent's proxy)"),
                    _ => port.to_string(),
                })
                .collect();
            format!(", on {}", ports.join(", "))
        }
    };
    let optional = if daemon.essential {
        ""
    } else {
        ", not essential"
    };
    let mut words = format!(
        "{}, {pid}{ports}, {} restart(s), {} failure(s){optional}",
        daemon.state, daemon.restarts, daemon.failures
    );
    let exit = daemon.last_exit.as_ref();
    let exit = exit.map(|exit| format!("last exit: {} at {}", exit.text, moment(&exit.at)));
    let error = daemon.error.as_ref().map(|error| format!("error: {error}"));
    for sentence in error.into_iter().chain(daemon.trouble.clone()).chain(exit) {
        words.push('\n');
        words.push_str(&sentence);
    }
    words
}

/// What keeps the daemon busy or silent, where something does.
fn troubles(status: &Status) -> Vec<String> {
    let work = status.daemon.working_since.as_ref().map(|since| {
        format!(
            "at work since {}: what it scans arrives late, at less than half a megabyte a second\n\
             a host that needs no scanning has the line's speed once pipelock.passthrough names it",
            moment(since)
        )
    });
    status.daemon.trouble.iter().cloned().chain(work).collect()
}

/// A time as it stands in a status, and how long ago that is by the clock of whoever reads it;
/// theirs may be another.
fn moment(at: &str) -> String {
    let now = clock::now();
    let then = grants::time(at, now).ok();
    match then.and_then(|then| now.checked_sub(then)) {
        Some(ago) => format!("{at}, {} ago", granted::span(ago)),
        None => at.to_owned(),
    }
}

/// Hosts, and how many the status does not name.
pub(super) fn hosts(named: &[String], more: u64) -> String {
    let named = named.join(", ");
    match more {
        0 => named,
        more => format!("{named} and {more} more"),
    }
}

/// What a status without that field leaves open.
fn known(text: &str) -> &str {
    if text.is_empty() { "?" } else { text }
}

/// A state in which no daemon is meant to serve.
fn resting(status: &Status) -> String {
    let state = &status.state;
    let halted = *state == State::Halted;
    let Some(port) = &status.port else {
        return if halted {
            "halted; its port is not judged yet".to_owned()
        } else {
            format!("{state}; no pipelock was started")
        };
    };
    let closed = port.closed == Some(true);
    let mark = if closed { ";" } else { "," };
    let until = if halted && closed {
        " until it is resumed"
    } else {
        ""
    };
    format!("{state}{mark} {}{until}", port.in_words())
}

/// What is true of it, and what that means for what gets through.
pub(super) fn condition(file: &StatusFile) -> String {
    match &file.condition {
        Condition::Told(Word::Known(State::Halted | State::Stopped | State::Failed)) => {
            resting(&file.status)
        }
        Condition::Told(Word::Known(State::Ready)) => {
            "ready; what is not allowed is refused".to_owned()
        }
        Condition::Told(state) => state.to_string(),
        Condition::Hung => "hung; what it allowed then may still get through".to_owned(),
        // The kernel ends pipelock with its init; what pipelock started has no such tie.
        Condition::Killed => {
            "killed, and its pipelock with it; nobody looked whether its port is closed".to_owned()
        }
    }
}

/// Which program, where, as which process.
fn identity(status: &Status) -> Option<String> {
    let version = Some(status.version.clone()).filter(|it| !it.is_empty());
    let mode = status.mode.as_ref().map(ToString::to_string);
    let pid = status.pid.map(|pid| format!("pid {pid}"));
    let known: Vec<String> = [version, mode, pid].into_iter().flatten().collect();
    (!known.is_empty()).then(|| known.join(", "))
}

/// What became of hosts that lost a permission.
fn revocations(status: &Status) -> Vec<(&'static str, String)> {
    let Some(revocation) = &status.revocation else {
        return Vec::new();
    };
    let done = revocation.done_at.as_ref();
    let done = done.map_or_else(
        || "(under way)".to_owned(),
        |at| format!("at {}", moment(at)),
    );
    [
        ("revoked", &revocation.hosts, revocation.more),
        ("scanned now", &revocation.scanned, revocation.scanned_more),
    ]
    .into_iter()
    .filter(|(_, named, _)| !named.is_empty())
    .map(|(name, named, more)| (name, format!("{} {done}", hosts(named, more))))
    .collect()
}

/// A status in words. No line of it but the first begins at the margin.
#[must_use]
pub fn describe(file: &StatusFile) -> String {
    const INDENT: &str = "               ";
    let status = &file.status;
    let head = format!(
        "{}: {}",
        status.slug.as_deref().unwrap_or("(no manifest yet)"),
        condition(file)
    );
    let mut text = format!("{}\n", below(&head, INDENT));
    let mut line = |name: &str, value: String| {
        let value = below(&value, INDENT);
        text.push_str(&format!("  {name:<12} {value}\n"));
    };
    if let Some(error) = &status.error {
        line("error", error.clone());
    }
    if let Some(words) = status.manifest_in_words() {
        line("manifest", words);
    }
    if let Some(since) = &status.ready_since {
        line("since", moment(since));
    }
    if let Some(who) = identity(status) {
        line("sidecar-init", who);
    }
    if let Some(listen) = &status.listen {
        let allowed = status.hosts_allowed;
        line("proxy", format!("{listen}, {allowed} host(s) allowed"));
    }
    for grant in &status.grants {
        line("granted", granted::in_words(grant, clock::now()));
    }
    if status.grants_more > 0 {
        line("", format!("and {} more", status.grants_more));
    }
    let daemon = &status.daemon;
    line(
        "pipelock",
        format!(
            "{}, {}, {} restart(s), {} failure(s)",
            daemon.version.as_deref().unwrap_or("version unknown"),
            daemon
                .pid
                .map_or_else(|| "not running".to_owned(), |pid| format!("pid {pid}")),
            status.restarts,
            status.failures
        ),
    );
    for sentence in troubles(status) {
        line("", sentence);
    }
    for daemon in &status.daemons {
        line(&daemon.name, companion(daemon));
    }
    line(
        "config",
        format!(
            "generation {}, in force {}",
            status.config.generation, status.config.applied_generation
        ),
    );
    if let Some(ca) = &status.ca {
        line(
            "CA",
            format!(
                "SHA-256 {}, {}, until {}",
                known(&ca.fingerprint_sha256),
                known(&ca.source.to_string()),
                known(&ca.not_after)
            ),
        );
    }
    if !status.not_scanned.is_empty() {
        let not_scanned = hosts(&status.not_scanned, status.not_scanned_more);
        line("not scanned", not_scanned);
    }
    if let Some(limit) = status.scan_limit_mib {
        line(
            "scan limit",
            format!("{limit} MiB; a larger body is refused"),
        );
    }
    for (name, revoked) in revocations(status) {
        line(name, revoked);
    }
    if let Some(exit) = &status.last_exit {
        line(
            "last exit",
            format!("{} at {}", known(&exit.text), moment(known(&exit.at))),
        );
    }
    for warning in &status.warnings {
        line("warning", warning.clone());
    }
    text
}

/// The first of what was cut or refused, why, and what to write if it was wanted; `places`: as of
/// [`denials::remedies`].
#[must_use]
pub fn describe_denials(denials: &Tally, places: &str) -> String {
    const SHOWN: usize = 5;
    let mut text = String::new();
    for denial in denials.denials.iter().take(SHOWN) {
        let what = denials::explain(denial);
        let seen = match denial.last_seen.as_str() {
            "" => String::new(),
            seen => format!(", last at {}", moment(seen)),
        };
        text.push_str(&format!("  {:<12} {what}{seen}\n", denial.verb));
        for line in denials::remedies(denial, places) {
            text.push_str(&format!("  {:<12} {line}\n", ""));
        }
    }
    let shown: u64 = denials
        .denials
        .iter()
        .take(SHOWN)
        .fold(0, |sum, denial| sum.saturating_add(denial.count));
    let more = denials.total.saturating_sub(shown);
    if more > 0 {
        text.push_str(&format!(
            "  {:<12} {more} more of {}: see {}\n",
            "",
            denials.total,
            denials::FILE
        ));
    }
    text
}
