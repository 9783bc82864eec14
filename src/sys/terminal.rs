//! The terminal that a picture is drawn on: its size, the signals that concern it, and writing
//! that a stopped terminal does not hold back. Touches the kernel.

use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::libc;
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::signal::{SigSet, Signal, raise};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::time::TimeSpec;
use nix::unistd::write;

/// What ends it, suspends it, or changes its size.
const HEARD: [Signal; 6] = [
    Signal::SIGINT,
    Signal::SIGTERM,
    Signal::SIGHUP,
    Signal::SIGQUIT,
    Signal::SIGTSTP,
    Signal::SIGWINCH,
];
/// Written at once: a terminal that says it takes more takes so much.
const PIECE: usize = 256;

/// Standard output, where it is one.
#[derive(Debug)]
pub struct Terminal {
    signals: SignalFd,
}

impl Terminal {
    /// From now on the signals that concern it wait until they are heard of here.
    pub fn begin() -> io::Result<Self> {
        let set = SigSet::from_iter(HEARD);
        set.thread_block()?;
        let flags = SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC;
        Ok(Self {
            signals: SignalFd::with_flags(&set, flags)?,
        })
    }

    /// Lines and columns; `None` where nobody has told it.
    #[must_use]
    pub fn size() -> Option<(usize, usize)> {
        let size = window_size().ok()?;
        let known = |number: u16| (number > 0).then_some(usize::from(number));
        Some((known(size.ws_row)?, known(size.ws_col)?))
    }

    /// The next signal, if one comes within this time.
    pub fn hear(&self, patience: Duration) -> io::Result<Option<Signal>> {
        let mut fds = [PollFd::new(self.signals.as_fd(), PollFlags::POLLIN)];
        match ppoll(&mut fds, Some(TimeSpec::from(patience)), None) {
            Ok(_) | Err(Errno::EINTR) => self.arrived(),
            Err(errno) => Err(errno.into()),
        }
    }

    fn arrived(&self) -> io::Result<Option<Signal>> {
        let found = self.signals.read_signal()?;
        let number = found.map(|it| i32::try_from(it.ssi_signo).unwrap_or_default());
        Ok(number.and_then(|it| Signal::try_from(it).ok()))
    }

    /// Writes it all, as the terminal takes it; a signal that comes first ends that and is
    /// returned, and so does the end of `patience`.
    pub fn write(&self, text: &str, patience: Option<Duration>) -> io::Result<Option<Signal>> {
        let stdout = io::stdout();
        let end = patience.map(|it| Instant::now() + it);
        let mut rest = text.as_bytes();
        while !rest.is_empty() {
            let left = end.map(|end| end.saturating_duration_since(Instant::now()));
            if left.is_some_and(|left| left.is_zero()) {
                return Ok(None);
            }
            let mut fds = [
                PollFd::new(stdout.as_fd(), PollFlags::POLLOUT),
                PollFd::new(self.signals.as_fd(), PollFlags::POLLIN),
            ];
            // What is to be written in any case is so for as long as it may take.
            let heeded = if end.is_some() { 1 } else { 2 };
            let heeded = fds.get_mut(..heeded).unwrap_or_default();
            match ppoll(heeded, left.map(TimeSpec::from), None) {
                Ok(_) => {}
                Err(Errno::EINTR) => continue,
                Err(errno) => return Err(errno.into()),
            }
            let [output, signal] = fds.map(|fd| fd.any() == Some(true));
            if signal
                && end.is_none()
                && let Some(signal) = self.arrived()?
            {
                return Ok(Some(signal));
            }
            if output {
                let piece = rest.get(..PIECE).unwrap_or(rest);
                match write(stdout.as_fd(), piece) {
                    Ok(count) => rest = rest.get(count..).unwrap_or_default(),
                    Err(Errno::EINTR | Errno::EAGAIN) => {}
                    Err(errno) => return Err(errno.into()),
                }
            }
        }
        Ok(None)
    }

    /// Has a signal do what it does to a program that does not ask: this one returns only where
    /// somebody has it ignored.
    pub fn end_by(self, signal: Signal) -> io::Result<()> {
        drop(self.signals);
        SigSet::from_iter(HEARD).thread_unblock()?;
        Ok(raise(signal)?)
    }

    /// Stops until somebody has this process go on.
    pub fn suspend(&self) -> io::Result<()> {
        Ok(raise(Signal::SIGSTOP)?)
    }
}

#[allow(unsafe_code)]
fn window_size() -> Result<libc::winsize, Errno> {
    let mut size = libc::winsize {
        ws_row: 0,
        ws_col: 0,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    // SAFETY: the request fills the structure it is given, and nothing else.
    let done = unsafe { libc::ioctl(io::stdout().as_raw_fd(), libc::TIOCGWINSZ, &raw mut size) };
    Errno::result(done).map(|_| size)
}
