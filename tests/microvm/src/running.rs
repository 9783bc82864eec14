//! A started machine: its console, its end, and the ways to act on it from outside.

use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use serde_json::{Value, json};

use crate::console::{Console, NoLine};
use crate::process::Bound;
use crate::qmp::Monitor;
use crate::resolver::{Query, Resolver};
use crate::share::Share;
use crate::vsock::Vsock;
use crate::{Error, ScratchDir};

/// What the init's last line starts with.
const RESULT_PREFIX: &str = "sidecar-init: result ";

/// What the kernel says when it cannot go on, or PID 1 has ended.
const CRASH_SIGNS: [&str; 2] = ["Kernel panic", "Failed to start orderly reboot"];

/// How a machine ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ending {
    /// The guest asked for a reset, which ends this machine: what the init does.
    Reset,
    /// The guest's kernel gave up and reset the machine; its last words. libkrunfw's kernel
    /// has been changed not to panic when PID 1 ends: it says "orderly reboot".
    Crash(String),
    /// The guest switched the machine off.
    PowerOff,
    /// The host ended it.
    Stopped,
    /// QEMU itself failed; what it printed.
    QemuFailed(String),
}

/// What a machine consists of. Dropped in this order: the machine before its shares,
/// both before their sockets.
#[derive(Debug)]
pub(crate) struct Parts {
    pub(crate) qemu: Bound,
    pub(crate) console: Console,
    pub(crate) complaints: Console,
    pub(crate) monitor: Monitor,
    pub(crate) resolver: Option<Resolver>,
    pub(crate) shares: Vec<Share>,
    pub(crate) vsock: Option<Vsock>,
    pub(crate) scratch: ScratchDir,
}

/// A running machine, ended on drop.
#[derive(Debug)]
pub struct Running {
    qemu: Mutex<Bound>,
    console: Console,
    complaints: Console,
    monitor: Monitor,
    resolver: Option<Resolver>,
    forwards: Vec<(u16, u16)>,
    _shares: Vec<Share>,
    _vsock: Option<Vsock>,
    _scratch: ScratchDir,
}

impl Running {
    pub(crate) fn new(mut parts: Parts) -> Result<Running, Error> {
        let command = json!({"command-line": "info usernet"});
        let table = parts.monitor.execute("human-monitor-command", &command);
        let table = table.map_err(|error| {
            // The console's end is QEMU's, and says more than a monitor that is not there.
            if parts.console.wait_end(Duration::ZERO) {
                Error::Start {
                    qemu: in_words(&mut parts.qemu, &parts.complaints),
                }
            } else {
                error
            }
        })?;
        Ok(Running {
            forwards: forwarded_ports(table.as_str().unwrap_or_default()),
            qemu: Mutex::new(parts.qemu),
            console: parts.console,
            complaints: parts.complaints,
            monitor: parts.monitor,
            resolver: parts.resolver,
            _shares: parts.shares,
            _vsock: parts.vsock,
            _scratch: parts.scratch,
        })
    }

    /// QEMU's process ID.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.qemu
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .0
            .id()
    }

    /// Everything the console has shown so far, without carriage returns.
    #[must_use]
    pub fn console(&self) -> String {
        self.console.text()
    }

    /// How much the console has shown so far: a place for [`Running::wait_for_line_after`].
    #[must_use]
    pub fn console_position(&self) -> usize {
        self.console.position()
    }

    /// The first console line that contains `text`, whether it came already or not.
    pub fn wait_for_line(&self, text: &str, within: Duration) -> Result<String, Error> {
        self.wait_for_line_after(0, text, within)
    }

    /// The same, counting only what the console shows after a position.
    pub fn wait_for_line_after(
        &self,
        position: usize,
        text: &str,
        within: Duration,
    ) -> Result<String, Error> {
        self.wait(
            position,
            |line| line.contains(text),
            &format!("{text:?}"),
            within,
        )
    }

    /// The first console line that the predicate accepts, whether it came already or not.
    pub fn wait_for(
        &self,
        accepts: impl FnMut(&str) -> bool,
        within: Duration,
    ) -> Result<String, Error> {
        self.wait(0, accepts, "the awaited line", within)
    }

    fn wait(
        &self,
        position: usize,
        accepts: impl FnMut(&str) -> bool,
        wanted: &str,
        within: Duration,
    ) -> Result<String, Error> {
        self.console
            .wait_for(position, accepts, within)
            .map_err(|none| match none {
                NoLine::TimedOut => self.timeout(wanted, within),
                NoLine::Ended => Error::Ended {
                    wanted: wanted.to_owned(),
                    console: self.console.tail(),
                },
            })
    }

    fn timeout(&self, wanted: &str, within: Duration) -> Error {
        Error::Timeout {
            wanted: wanted.to_owned(),
            waited: within,
            console: self.console.tail(),
        }
    }

    /// The init's final record, from its `sidecar-init: result` line.
    pub fn wait_for_result(&self, within: Duration) -> Result<Value, Error> {
        let line = self.wait_for_line(RESULT_PREFIX, within)?;
        let json = line.split_once(RESULT_PREFIX).map_or("", |(_, json)| json);
        serde_json::from_str(json).map_err(|source| Error::Json {
            what: line.clone(),
            source,
        })
    }

    /// Where a forwarded guest port is reached.
    pub fn forwarded(&self, guest_port: u16) -> Result<SocketAddr, Error> {
        self.forwards
            .iter()
            .find(|(guest, _)| *guest == guest_port)
            .map(|(_, host)| SocketAddr::from((Ipv4Addr::LOCALHOST, *host)))
            .ok_or(Error::NotForwarded { port: guest_port })
    }

    /// What became of QEMU, and what it said itself.
    #[must_use]
    pub fn qemu_in_words(&self) -> String {
        let mut qemu = self.qemu.lock().unwrap_or_else(PoisonError::into_inner);
        if self.console.wait_end(Duration::ZERO) {
            // It has closed its output, and is about to be gone.
            let _ = qemu.0.wait();
        }
        in_words(&mut qemu, &self.complaints)
    }

    /// What the resolver was asked so far; empty without one.
    #[must_use]
    pub fn dns_queries(&self) -> Vec<Query> {
        self.resolver
            .as_ref()
            .map(Resolver::queries)
            .unwrap_or_default()
    }

    /// Wait for the machine to end by itself.
    pub fn wait_end(&self, within: Duration) -> Result<Ending, Error> {
        if !self.console.wait_end(within) {
            return Err(self.timeout("the end", within));
        }
        let status = {
            let mut qemu = self.qemu.lock().unwrap_or_else(PoisonError::into_inner);
            qemu.0.wait().map_err(Error::io("wait for QEMU"))?
        };
        let last_words = || {
            let text = self.console.text();
            let gave_up = |line: &&str| CRASH_SIGNS.iter().any(|sign| line.contains(sign));
            text.lines().find(gave_up).map(str::to_owned)
        };
        Ok(match self.monitor.shutdown_reason().as_deref() {
            Some("guest-reset" | "guest-panic") => match last_words() {
                Some(line) => Ending::Crash(line),
                None => Ending::Reset,
            },
            Some("guest-shutdown") => Ending::PowerOff,
            Some(reason) if reason.starts_with("host-") && status.success() => Ending::Stopped,
            _ => Ending::QemuFailed(format!("{status}: {}", self.complaints.text().trim())),
        })
    }

    /// Send keys to the console, as typed.
    pub fn type_on_console(&self, bytes: &[u8]) -> Result<(), Error> {
        let mut qemu = self.qemu.lock().unwrap_or_else(PoisonError::into_inner);
        let stdin = qemu.0.stdin.as_mut().ok_or_else(|| Error::Monitor {
            command: "type on the console".into(),
            cause: "it is closed".into(),
        })?;
        stdin
            .write_all(bytes)
            .and_then(|()| stdin.flush())
            .map_err(Error::io("type on the console"))
    }

    /// Stop reading the console, or go on: QEMU throws away what its reader leaves, so the
    /// guest never waits for it.
    pub fn hold_console(&self, held: bool) {
        self.console.hold(held);
    }

    /// Press Control-Alt-Delete: an init that has called `reboot(RB_DISABLE_CAD)` gets
    /// SIGINT, any other machine resets at once (reboot(2)). Needs
    /// [`crate::MachineBuilder::keyboard`].
    pub fn control_alt_delete(&self) -> Result<(), Error> {
        let key = |name: &str| json!({"type": "qcode", "data": name});
        let keys = json!({"keys": [key("ctrl"), key("alt"), key("delete")]});
        self.qmp("send-key", &keys).map(drop)
    }

    /// Freeze the processors: the guest's clocks stop, TCP connections stay.
    pub fn pause(&self) -> Result<(), Error> {
        self.qmp("stop", &json!({})).map(drop)
    }

    /// Let them run again.
    pub fn resume(&self) -> Result<(), Error> {
        self.qmp("cont", &json!({})).map(drop)
    }

    /// Run any command of QEMU's machine protocol; its `return` value.
    pub fn qmp(&self, command: &str, arguments: &Value) -> Result<Value, Error> {
        self.monitor.execute(command, arguments)
    }

    /// End the machine now, without asking the guest; what the console had shown.
    #[must_use]
    pub fn stop(self) -> String {
        // It may have ended already, and is killed by the drop if it has not.
        let _ = self.qmp("quit", &json!({}));
        self.console.wait_end(Duration::from_secs(10));
        self.console.text()
    }
}

/// How QEMU ended, if it has, and what it printed on standard error.
pub(crate) fn in_words(qemu: &mut Bound, complaints: &Console) -> String {
    let end = match qemu.0.try_wait() {
        Ok(Some(status)) => {
            // What it said last is on its way.
            complaints.wait_end(Duration::from_secs(2));
            format!("QEMU has ended ({status})")
        }
        Ok(None) => "QEMU runs".to_owned(),
        Err(error) => format!("it cannot be told whether QEMU runs ({error})"),
    };
    match complaints.text().trim() {
        "" => format!("{end}, and has said nothing"),
        said => format!("{end}, and says: {said}"),
    }
}

/// Guest and host ports from QEMU's `info usernet`, whose lines read
/// `TCP[HOST_FORWARD]  12  127.0.0.1 40123  10.0.2.15 8888  0  0`.
fn forwarded_ports(table: &str) -> Vec<(u16, u16)> {
    table
        .lines()
        .filter(|line| line.trim_start().starts_with("TCP[HOST_FORWARD]"))
        .filter_map(|line| {
            let mut columns = line.split_whitespace().skip(3);
            let host = columns.next()?.parse().ok()?;
            let guest = columns.nth(1)?.parse().ok()?;
            Some((guest, host))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_forwarded_ports_from_the_monitor_s_table() {
        let table = "Hub -1 (user):\r\n  Protocol[State]    FD  Source Address  Port   Dest. Address  Port RecvQ SendQ\r\n  \
             TCP[HOST_FORWARD]  14       127.0.0.1 40123       10.0.2.15  8888     0     0\r\n  \
             TCP[ESTABLISHED]   15       127.0.0.1 40123       127.0.0.1 41000     0     0\r\n";
        assert_eq!(forwarded_ports(table), [(8888, 40123)]);
    }
}
