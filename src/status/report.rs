//! `report.json`: everything somebody needs who has only the export directory left,
//! written when a start fails or the daemon cannot live. Touches files and `/dev/kmsg`.

use std::fs::OpenOptions;
use std::io::{ErrorKind, Read};
use std::os::unix::fs::OpenOptionsExt;

use nix::fcntl::OFlag;
use nix::libc;
use serde::Serialize;

use crate::plain;
use crate::status::denials::Tally;
use crate::status::schema::Status;
use crate::sys::files::Room;

/// The file's name, in the run directory and in the export.
pub const FILE: &str = "report.json";
/// The schema's version.
const SCHEMA: u32 = 1;
/// The file is no longer than this, in bytes.
const LONGEST: usize = 1024 * 1024;
/// Of a configuration so much is kept, in bytes; more is hosts, and those are in the
/// manifest.
const LONGEST_CONFIG: usize = 256 * 1024;
/// Kernel messages kept, and looked at: a buffer of 1 MiB holds fewer.
const MOST_MESSAGES: usize = 32;
const MOST_RECORDS: usize = 20_000;
/// One record of `/dev/kmsg` (`CONSOLE_EXT_LOG_MAX`).
const RECORD: usize = 8192;

#[derive(Serialize)]
struct Report<'a> {
    schema: u32,
    /// What was told last, the error and the daemon's last lines in it.
    status: &'a Status,
    /// What the kernel said about memory that ran out; `null` where it cannot be asked.
    kernel: Option<Vec<String>>,
    /// The manifest as it was rendered: `pipelock.yaml`. The manifest's own text may hold
    /// what is not ours to tell.
    config: Option<String>,
    denials: &'a Tally,
}

/// Its text. Nothing in it is secret: the status and the denials are told anyway, and the
/// configuration names the CA's key but does not hold it.
#[must_use]
pub fn report(
    status: &Status,
    denials: &Tally,
    config: Option<String>,
    kernel: Option<Vec<String>>,
) -> String {
    let mut report = Report {
        schema: SCHEMA,
        status,
        kernel,
        config,
        denials,
    };
    let mut text = plain::json(&report, 0);
    if text.len() > LONGEST {
        report.config = None;
        report.kernel = None;
        text = plain::json(&report, 0);
    }
    if text.len() > LONGEST {
        text = format!(
            "{{\"schema\":{SCHEMA},\"status\":null,\"kernel\":null,\"config\":null,\"denials\":null}}"
        );
    }
    text.push('\n');
    text
}

/// The configuration `name` in `room`, shortened.
#[must_use]
pub fn configuration(room: &Room, name: &str) -> Option<String> {
    let file = room.open_file(name, OFlag::O_RDONLY).ok()?;
    let mut bytes = Vec::new();
    file.take(LONGEST_CONFIG as u64)
        .read_to_end(&mut bytes)
        .ok()?;
    let mut text = String::from_utf8_lossy(&bytes).into_owned();
    if bytes.len() == LONGEST_CONFIG {
        text.push_str("\n# … and more\n");
    }
    Some(text)
}

/// What the kernel's log says about memory that ran out, oldest first: the machine's
/// own kernel alone, never one that is shared with others.
#[must_use]
pub fn kernel_messages() -> Option<Vec<String>> {
    let mut log = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC)
        .open("/dev/kmsg")
        .ok()?;
    let mut messages = Vec::new();
    let mut record = [0_u8; RECORD];
    for _ in 0..MOST_RECORDS {
        match log.read(&mut record) {
            Ok(0) => break,
            Ok(length) => {
                let text = String::from_utf8_lossy(record.get(..length).unwrap_or_default());
                if let Some(message) = about_memory(&text) {
                    if messages.len() == MOST_MESSAGES {
                        messages.remove(0);
                    }
                    messages.push(message);
                }
            }
            // Overwritten while it was read: the next read begins with what is left.
            Err(error) if error.raw_os_error() == Some(libc::EPIPE) => {}
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            // EAGAIN: that was all.
            Err(_) => break,
        }
    }
    Some(messages)
}

/// `prefix;message`, and lines of properties that begin with a blank
/// (Documentation/ABI/testing/dev-kmsg).
fn about_memory(record: &str) -> Option<String> {
    const LONGEST_MESSAGE: usize = 512;
    const WORDS: [&str; 4] = ["oom-kill", "oom_reaper", "Killed process", "ut of memory"];
    let (_, message) = record.lines().next()?.split_once(';')?;
    let wanted = WORDS.iter().any(|word| message.contains(word));
    wanted.then(|| message.chars().take(LONGEST_MESSAGE).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_what_the_kernel_says_about_memory_alone() {
        let killed = "3,1029,61234,-;Out of memory: Killed process 61 (pipelock) total-vm:1kB\n SUBSYSTEM=x\n";
        assert_eq!(
            about_memory(killed).as_deref(),
            Some("Out of memory: Killed process 61 (pipelock) total-vm:1kB")
        );
        for other in [
            "6,1,2,-;Linux version 6.18",
            "",
            "no record",
            "6,1,2,-;x\n Out of memory",
        ] {
            assert_eq!(about_memory(other), None);
        }
    }
}
