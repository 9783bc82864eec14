//! The end: nothing left running, the result recorded, the machine off. Touches the
//! kernel; the only place that reboots.
#![forbid(unsafe_code)]

use std::convert::Infallible;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags};
use nix::sys::reboot::{RebootMode, reboot, set_cad_enabled};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::boot::mode::Mode;
use crate::sys::console::console;
use crate::sys::reaper::{children, reap_exited_children};
use crate::sys::signals::{Signals, wait};
use crate::sys::{fork, libkrun};

/// What is left over gets this long between SIGTERM and SIGKILL: the daemon, the one
/// process with something to finish, is gone already.
const LEFTOVER_GRACE: Duration = Duration::from_millis(500);
/// A killed process that is not gone by then is stuck in the kernel.
const KILL_PATIENCE: Duration = Duration::from_millis(500);
/// Disks and shares get this long to take what was written.
const SYNC_PATIENCE: Duration = Duration::from_secs(2);
/// Lines on their way to a file, or to a console that cannot be asked, get this long to
/// arrive before everything is ended.
const CARRIER_PATIENCE: Duration = Duration::from_millis(100);
/// The console gets this long to take the last lines.
const CONSOLE_PATIENCE: Duration = Duration::from_millis(500);

/// Turns Ctrl-Alt-Del, and a VMM's way of pressing it, from an instant reset into a
/// SIGINT to PID 1: a clean stop (reboot(2), `RB_DISABLE_CAD`).
pub fn ask_before_reset() -> Result<(), Errno> {
    set_cad_enabled(false)
}

/// Ends every process this one is responsible for, and reaps them. Returns how many
/// children were reaped.
#[must_use]
pub fn end_everything(mode: Mode, signals: &Signals) -> u64 {
    // What carries lines to the console is a child as well, and would be killed with them.
    console().flush_within(CARRIER_PATIENCE);
    let mut reaped = 0;
    for (signal, patience) in [
        (Signal::SIGTERM, LEFTOVER_GRACE),
        (Signal::SIGKILL, KILL_PATIENCE),
    ] {
        let end = Instant::now() + patience;
        signal_everything(mode, signal);
        loop {
            let batch = reap_exited_children();
            reaped += batch.exits.len() as u64;
            if batch.childless && !has_guests(mode) {
                return reaped;
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            if batch.more {
                continue;
            }
            // Orphans of what just died are ours now and need the signal too.
            signal_everything(mode, signal);
            // SIGCHLD ends the wait.
            wait(
                &mut [PollFd::new(signals.as_fd(), PollFlags::POLLIN)],
                Some(left.min(Duration::from_millis(20))),
            );
            signals.drain();
        }
    }
    reaped
}

/// In a PID namespace of our own: everybody. Elsewhere: our children, of which, as
/// their subreaper, every orphan of the daemon is one.
fn signal_everything(mode: Mode, signal: Signal) {
    if mode.is_init() {
        // ESRCH: nobody is left.
        let _ = kill(Pid::from_raw(-1), signal);
        return;
    }
    for pid in children() {
        let _ = kill(Pid::from_raw(pid), signal);
    }
}

/// Whether there are others in a container's PID namespace: who was led in from outside, as
/// `docker exec` does, is nobody's child here, and has something to finish as well. In a machine
/// the kernel's own threads would be counted.
fn has_guests(mode: Mode) -> bool {
    mode == Mode::Container && kill(Pid::from_raw(-1), None).is_ok()
}

/// Ends this program with `code`, and the machine with it where there is one. The
/// result has been recorded.
pub fn end(mode: Option<Mode>, code: u8) -> ! {
    console().flush_within(CONSOLE_PATIENCE);
    if mode == Some(Mode::Machine) {
        // Any other root refuses it, which is as good.
        if let Err(error) = libkrun::take_code(code) {
            log::debug!("no libkrun takes the exit code: {error}");
        }
        sync_within(SYNC_PATIENCE);
        match restart_machine() {
            Ok(never) => match never {},
            Err(errno) => log::error!("cannot end the machine: {}", errno.desc()),
        }
    }
    std::process::exit(i32::from(code))
}

fn restart_machine() -> Result<Infallible, Errno> {
    // A power-off hangs on machines without ACPI; a restart ends the VM wherever it
    // was told not to come back, which is how libkrun's own init ends it too.
    reboot(RebootMode::RB_AUTOBOOT)
}

/// `sync(2)` may wait for a host that does not answer, so a child waits for it.
fn sync_within(patience: Duration) {
    let child = fork::fork(|_| {
        nix::unistd::sync();
        0
    });
    if let Err(errno) = child {
        log::warn!("cannot sync the disks: {}", errno.desc());
    }
    let end = Instant::now() + patience;
    while child.is_ok() && Instant::now() < end && !reap_exited_children().childless {
        // The handlers' pipe may be full of other signals by now: a short nap instead.
        std::thread::sleep(Duration::from_millis(1));
    }
}
