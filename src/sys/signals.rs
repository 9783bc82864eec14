//! Turns signals into readable events. Touches the kernel: handlers and a pipe.
//!
//! A kernel delivers no default-action signal to PID 1, so every signal with a
//! meaning needs a handler. All others are ignored on purpose: what would end a process
//! that is not PID 1 would end it without a result.

use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use nix::errno::Errno;
use nix::libc;
use nix::poll::{PollFd, ppoll};
use nix::sys::resource::{Resource, getrlimit};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::time::TimeSpec;
use signal_hook::consts::{SIGCHLD, SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2};
use signal_hook::iterator::backend::SignalDelivery;
use signal_hook::iterator::exfiltrator::SignalOnly;

/// What a signal asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Request {
    /// SIGCHLD: there are children to reap.
    Reap,
    /// TERM, INT, QUIT, PWR: stop everything and end.
    Stop,
    /// HUP: read the manifest again.
    Reload,
    /// USR1: bring the daemon down and keep it down.
    Halt,
    /// USR2: end the halt.
    Resume,
}

/// The signals that mean something, and what.
pub const TABLE: [(i32, Request); 8] = [
    (SIGCHLD, Request::Reap),
    (SIGTERM, Request::Stop),
    (SIGINT, Request::Stop),
    (SIGQUIT, Request::Stop),
    (libc::SIGPWR, Request::Stop),
    (SIGHUP, Request::Reload),
    // The kernel keeps no order among signals that wait: where both do, the halt wins.
    (SIGUSR2, Request::Resume),
    (SIGUSR1, Request::Halt),
];

/// The signals Linux has on the architectures this is built for.
pub const ALL: std::ops::RangeInclusive<i32> = 1..=64;

/// What a signal does that has no handler.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u64)]
pub enum Disposition {
    /// `SIG_DFL`.
    Default = 0,
    /// `SIG_IGN`. A fault of this program's own ends it all the same, for the kernel takes
    /// that back before it sends one (signal(7)); only what somebody else sends is ignored.
    Ignored = 1,
}

/// The signals that arrived since the last look.
pub struct Signals {
    delivery: SignalDelivery<UnixStream, SignalOnly>,
    /// Looked at by [`Signals::stop_asked`], not yet taken.
    seen: Vec<i32>,
}

impl Signals {
    /// Installs the handlers, ignores what has no meaning here, and unblocks every signal
    /// but SIGCHLD, which [`wait`] lets in: a parent may have left some blocked, and a
    /// blocked SIGTERM would make the machine unstoppable. An error too where an outer
    /// filter refuses the wait itself: PID 1 would spin.
    pub fn install() -> io::Result<Self> {
        for number in ALL {
            let means_nothing = TABLE.iter().all(|(meant, _)| *meant != number);
            if means_nothing && number != libc::SIGKILL && number != libc::SIGSTOP {
                dispose(number, Disposition::Ignored)?;
            }
        }
        look()?;
        let (read, write) = UnixStream::pair()?;
        read.set_nonblocking(true)?;
        let delivery = SignalDelivery::with_pipe(
            read,
            write,
            SignalOnly,
            TABLE.iter().map(|(number, _)| *number),
        )?;
        let mut waiting = SigSet::empty();
        waiting.add(Signal::SIGCHLD);
        waiting.thread_set_mask()?;
        Ok(Self {
            delivery,
            seen: Vec::new(),
        })
    }

    /// Readable when there is something to take.
    #[must_use]
    pub fn as_fd(&self) -> BorrowedFd<'_> {
        self.delivery.get_read().as_fd()
    }

    /// Whether a stop is among what arrived. Nothing is taken: a halt that came too
    /// early must not be forgotten.
    pub fn stop_asked(&mut self) -> bool {
        self.seen.extend(self.delivery.pending());
        TABLE
            .iter()
            .any(|(number, request)| *request == Request::Stop && self.seen.contains(number))
    }

    /// Empties the pipe that [`Signals::as_fd`] shows, where only being woken matters.
    pub fn drain(&self) {
        let mut bytes = [0_u8; 1024];
        while self
            .delivery
            .get_read()
            .read(&mut bytes)
            .is_ok_and(|count| count > 0)
        {}
    }

    /// Takes what arrived, each request once, in the order of [`TABLE`].
    pub fn take(&mut self) -> Vec<(i32, Request)> {
        let mut arrived = std::mem::take(&mut self.seen);
        arrived.extend(self.delivery.pending());
        TABLE
            .iter()
            .filter(|(number, _)| arrived.contains(number))
            .copied()
            .collect()
    }
}

/// Notes that a SIGTERM came, instead of being ended by it: for a command that still has
/// something to say.
pub fn note_sigterm() -> io::Result<Arc<AtomicBool>> {
    let came = Arc::new(AtomicBool::new(false));
    signal_hook::flag::register(SIGTERM, Arc::clone(&came))?;
    Ok(came)
}

/// Takes a signal's handler from it. Neither allocates nor locks.
#[allow(unsafe_code)]
pub fn dispose(number: i32, to: Disposition) -> Result<(), Errno> {
    // The kernel's structure, whatever the architecture: the handler comes first, and no
    // flags and an empty mask are zeroes.
    let action = [to as u64, 0, 0, 0];
    let (none, size) = (std::ptr::null::<u64>(), size_of::<u64>());
    // The raw call: C libraries refuse 32 to 34, which a parent may have ignored all the same
    // (glibc's posix_spawn does).
    let call = libc::SYS_rt_sigaction;
    // SAFETY: the array has the layout of the structure, and neither disposition runs code.
    let done = unsafe { libc::syscall(call, number, action.as_ptr(), none, size) };
    Errno::result(done).map(drop)
}

/// Whether there can be any waiting.
fn look() -> Result<(), Errno> {
    match ppoll(&mut [], Some(TimeSpec::from(Duration::ZERO)), None) {
        Ok(_) | Err(Errno::EINTR) => Ok(()),
        Err(errno) => Err(errno),
    }
}

/// Lets in what [`wait`] has not: where something is ready at once each time, as what one hears
/// from a daemon that floods, ppoll(2) returns without looking whether a signal is pending.
pub fn let_in() {
    // EINTR: it is in its pipe now.
    let _ = ppoll(
        &mut [],
        Some(TimeSpec::from(Duration::ZERO)),
        Some(SigSet::empty()),
    );
}

/// Waits for one of `fds`, for a signal, or for the end of `timeout`. SIGCHLD arrives here
/// alone: each child that dies during a drain would interrupt it for three system calls,
/// and the drain finds that child anyway.
pub fn wait(fds: &mut [PollFd], timeout: Option<Duration>) {
    /// Between two looks at what could not be waited for.
    const GLANCE: Duration = Duration::from_millis(50);
    let none = SigSet::empty();
    // EINTR: the signal is in its pipe. Nothing else can fail with open descriptors where
    // [`Signals::install`] could look, but one: somebody has lowered the limit of descriptors
    // below what is open (ppoll(2), EINVAL). Then the first of them are waited for, and above
    // all signals are let in.
    if ppoll(fds, timeout.map(TimeSpec::from), Some(none)) == Err(Errno::EINVAL) {
        let limit = getrlimit(Resource::RLIMIT_NOFILE).map_or(0, |(soft, _)| soft);
        let limit = usize::try_from(limit).unwrap_or(0).min(fds.len());
        let glance = timeout.map_or(GLANCE, |timeout| timeout.min(GLANCE));
        let first = fds.get_mut(..limit).unwrap_or_default();
        let _ = ppoll(first, Some(TimeSpec::from(glance)), Some(none));
    }
}
