//! `status`: what the running init reports, for people or as JSON.

use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::{below, print, print_as_it_is};
use crate::cli::StatusOptions;
use crate::exit::{ExitCode, StartError};
use crate::status::{self, Port, denials, timeline};
use crate::sys::claim::{self, Life};
use crate::sys::files::{Access, Room, publish};

/// Between two looks at the status file while waiting for a generation.
const LOOK_INTERVAL: Duration = Duration::from_millis(50);

/// Prints what the running init reports, for people or as JSON.
pub fn print_status(options: &StatusOptions) -> Result<(), StartError> {
    let unavailable = |why: String| StartError::new(ExitCode::DaemonUnavailable, below(&why, "  "));
    // None is longer than there is time.
    let end = Instant::now().checked_add(Duration::from_secs(options.timeout_seconds));
    let (status, room) = loop {
        let (status, room) = read_status(&options.run_dir).map_err(unavailable)?;
        let Some(wanted) = options.wait_generation else {
            break (status, room);
        };
        let applied = status.number("/config/applied_generation");
        if applied >= wanted && status.state() == "ready" {
            break (status, room);
        }
        let over = matches!(status.state(), "stopped" | "failed" | KILLED);
        if over || end.is_some_and(|end| Instant::now() >= end) {
            return Err(unavailable(format!(
                "generation {wanted} is not in force: state {}, wanted {}, in force {applied}{}",
                status.state(),
                status.number("/config/generation"),
                status
                    .text("/manifest_error")
                    .map_or_else(String::new, |why| format!("\n{why}")),
            )));
        }
        std::thread::sleep(LOOK_INTERVAL);
    };
    if options.json {
        return print(&format!("{}\n", status.json));
    }
    if let Some(file) = &options.svg {
        let picture = timeline::svg(&status);
        if file == Path::new("-") {
            return print_as_it_is(&picture);
        }
        return publish(file, picture.as_bytes(), Access::PUBLIC)
            .map_err(|error| StartError::new(ExitCode::CannotWrite, error));
    }
    print(&describe(&status))?;
    // Another start's are none of this one's.
    if let Some(denials) = denials::read(&room)
        && status.text("/boot_id") == Some(&denials.boot_id)
    {
        print(&describe_denials(&denials))?;
    }
    if options.timeline {
        print(&timeline::waterfall(&status))?;
    }
    Ok(())
}

/// The state of an init that is gone without having said so.
pub(super) const KILLED: &str = "killed";
/// And of one that is there and does not move.
const HUNG: &str = "hung";

/// The status, corrected where its writer could not: it was killed, or it hangs; and the
/// directory it stands in.
pub(super) fn read_status(run_dir: &Path) -> Result<(status::Told, Room), String> {
    let room = Room::open(run_dir).map_err(|error| {
        if error.is_missing() {
            format!("{error}\n{}", status::NOT_THERE)
        } else {
            error.to_string()
        }
    })?;
    let mut status = status::read(&room, run_dir)?;
    match (status.state(), claim::look(&room)) {
        ("stopped" | "failed", _) => {}
        (_, Some(Life::Gone)) => {
            status.correct("/state", KILLED.into());
            status.correct("/daemon/pid", Value::Null);
        }
        // A start has stages that take their time, and none of them is called ready.
        ("starting" | "stopping", _) => {}
        (_, Some(Life::Hangs(silent))) => {
            let why = format!(
                "sidecar-init has not been heard of for {} s; it was {} then",
                silent.as_secs(),
                status.state()
            );
            status.correct("/state", HUNG.into());
            status.correct("/error", why.into());
        }
        _ => {}
    }
    Ok((status, room))
}

/// What keeps the daemon busy or silent, where something does.
fn troubles(status: &status::Told) -> Vec<String> {
    let trouble = status.text("/daemon/trouble").map(str::to_owned);
    let work = status.text("/daemon/working_since").map(|since| {
        format!(
            "at work since {since}: what it scans arrives late, at less than half a megabyte a second\n\
             a host that needs no scanning has the line's speed once pipelock.passthrough names it"
        )
    });
    trouble.into_iter().chain(work).collect()
}

/// How many of a list the status does not name.
fn more(status: &status::Told, pointer: &str) -> String {
    match status.number(pointer) {
        0 => String::new(),
        more => format!(" and {more} more"),
    }
}

/// A state in which no daemon is meant to serve.
fn resting(status: &status::Told, state: &str) -> String {
    let Some(address) = status.text("/port/address") else {
        return match state {
            "halted" => "halted; its port is not judged yet".to_owned(),
            _ => format!("{state}; no pipelock was started"),
        };
    };
    let closed = status.truth("/port/closed");
    let words = Port::in_words(address, closed, status.text("/port/detail"));
    let mark = if closed == Some(true) { ";" } else { "," };
    let until = if state == "halted" && closed == Some(true) {
        " until SIGUSR2"
    } else {
        ""
    };
    format!("{state}{mark} {words}{until}")
}

/// A status in words. No line of it but the first begins at the margin.
#[must_use]
pub fn describe(status: &status::Told) -> String {
    const INDENT: &str = "               ";
    let known = |pointer: &str| status.text(pointer).unwrap_or("?");
    let head = format!(
        "{}: {}",
        status.text("/slug").unwrap_or("(no manifest yet)"),
        match status.state() {
            state @ ("halted" | "stopped" | "failed") => resting(status, state),
            "ready" => "ready; what is not allowed is refused".to_owned(),
            HUNG => "hung; what it allowed then may still get through".to_owned(),
            // The kernel ends pipelock with its init; what pipelock started has no such tie.
            KILLED => "killed, and its pipelock with it; nobody looked whether its port is closed"
                .to_owned(),
            other => other.to_owned(),
        }
    );
    let mut text = format!("{}\n", below(&head, INDENT));
    let mut line = |name: &str, value: String| {
        let value = below(&value, INDENT);
        text.push_str(&format!("  {name:<12} {value}\n"));
    };
    if let Some(error) = status.text("/error") {
        line("error", error.to_owned());
    }
    if let Some(error) = status.text("/manifest_error") {
        line("manifest", format!("the newest is not used: {error}"));
    }
    let pid = match status.number("/daemon/pid") {
        0 => ", not running".to_owned(),
        pid => format!(", pid {pid}"),
    };
    line(
        "pipelock",
        format!(
            "{}{pid}, {} restart(s), {} failure(s)",
            status.text("/daemon/version").unwrap_or("version unknown"),
            status.number("/restarts"),
            status.number("/failures")
        ),
    );
    for sentence in troubles(status) {
        line("", sentence);
    }
    line(
        "config",
        format!(
            "generation {}, in force {}",
            status.number("/config/generation"),
            status.number("/config/applied_generation")
        ),
    );
    if let Some(fingerprint) = status.text("/ca/fingerprint_sha256") {
        line(
            "CA",
            format!(
                "SHA-256 {fingerprint}, {}, until {}",
                known("/ca/source"),
                known("/ca/not_after")
            ),
        );
    }
    let not_scanned = status.texts("/not_scanned");
    if !not_scanned.is_empty() {
        let more = more(status, "/not_scanned_more");
        line("not scanned", format!("{}{more}", not_scanned.join(", ")));
    }
    let limit = status.number("/scan_limit_mib");
    if limit > 0 {
        line(
            "scan limit",
            format!("{limit} MiB; a larger body is refused"),
        );
    }
    let done = status.text("/revocation/done_at");
    let done = done.map_or_else(|| "(under way)".to_owned(), |at| format!("at {at}"));
    for (name, hosts, others) in [
        ("revoked", "/revocation/hosts", "/revocation/more"),
        (
            "scanned now",
            "/revocation/scanned",
            "/revocation/scanned_more",
        ),
    ] {
        let hosts = status.texts(hosts);
        if !hosts.is_empty() {
            let more = more(status, others);
            line(name, format!("{}{more} {done}", hosts.join(", ")));
        }
    }
    if let Some(exit) = status.text("/last_exit/text") {
        line("last exit", format!("{exit} at {}", known("/last_exit/at")));
    }
    for warning in status.texts("/warnings") {
        line("warning", warning.to_owned());
    }
    text
}

/// The first of what was cut or refused, why, and what to write if it was wanted.
#[must_use]
pub fn describe_denials(denials: &denials::Told) -> String {
    const SHOWN: usize = 5;
    let mut text = String::new();
    for denial in denials.denials.iter().take(SHOWN) {
        let what = denials::explain(denial);
        text.push_str(&format!("  {:<12} {what}\n", denial.verb));
        if let Some(advice) = &denial.advice {
            text.push_str(&format!("  {:<12} {advice}\n", ""));
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
