//! Standard output and error without ever waiting for them. Touches the kernel.
//!
//! A blocking write to a console that somebody stopped hangs the writer, and the
//! writer is PID 1. So everything goes through a bounded queue: what the reader
//! cannot take is dropped, line by line, and counted.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{MsgFlags, send};
use nix::sys::stat::{FileStat, Mode, SFlag, fstat};

/// What waits for a slow reader before lines are dropped, in bytes.
const QUEUE_LIMIT: usize = 256 * 1024;

/// Which of the two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    /// Standard output.
    Output,
    /// Standard error.
    Error,
}

/// How a descriptor is written without waiting.
#[derive(Debug)]
enum Target {
    /// Our own open file description, non-blocking: a terminal, a console, a pipe.
    Reopened(OwnedFd),
    /// A socket, asked not to wait at each write.
    Socket(RawFd),
    /// A file, which never makes anyone wait; or a pipe that could not be reopened
    /// (no `/proc`), where a wait is the lesser evil to changing a description that
    /// is shared with others.
    Shared(RawFd),
}

#[derive(Debug)]
struct Sink {
    target: Target,
    queue: VecDeque<u8>,
    dropped: u64,
    unreported: u64,
    closed: bool,
}

/// The two streams; one sink serves both where they are the same file.
#[derive(Debug)]
pub struct Console {
    error: Option<Sink>,
    output: Option<Sink>,
}

static CONSOLE: Mutex<Console> = Mutex::new(Console {
    error: None,
    output: None,
});

/// The process's console, opened on first use and again after [`reopen`].
pub fn console() -> MutexGuard<'static, Console> {
    let mut console = CONSOLE.lock().unwrap_or_else(PoisonError::into_inner);
    if console.error.is_none() {
        console.open();
    }
    console
}

/// Opens the streams afresh: once `/proc` is mounted they can be made non-blocking.
pub fn reopen() {
    let mut console = CONSOLE.lock().unwrap_or_else(PoisonError::into_inner);
    console.open();
}

impl Console {
    fn open(&mut self) {
        self.error = Some(Sink::open(2));
        self.output = (!same_file(1, 2)).then(|| Sink::open(1));
    }

    fn sink(&mut self, stream: Stream) -> Option<&mut Sink> {
        match stream {
            Stream::Output if self.output.is_some() => self.output.as_mut(),
            _ => self.error.as_mut(),
        }
    }

    /// Writes or queues whole lines; drops them where the queue is full.
    pub fn write_lines(&mut self, stream: Stream, lines: &[u8]) {
        if let Some(sink) = self.sink(stream) {
            sink.push(lines);
        }
    }

    /// Lines dropped so far.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        [&self.error, &self.output]
            .into_iter()
            .flatten()
            .map(|sink| sink.dropped)
            .sum()
    }

    /// The descriptors that have something waiting to be written.
    pub fn waiting(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        [&self.error, &self.output]
            .into_iter()
            .flatten()
            .filter(|sink| !sink.queue.is_empty())
            .map(|sink| sink.target.fd())
    }

    /// Writes what can be written now.
    pub fn flush_ready(&mut self) {
        for sink in [&mut self.error, &mut self.output].into_iter().flatten() {
            sink.flush_ready();
        }
    }

    /// Writes what is queued, but waits no longer than this.
    pub fn flush_within(&mut self, patience: Duration) {
        let end = Instant::now() + patience;
        for sink in [&mut self.error, &mut self.output].into_iter().flatten() {
            loop {
                sink.flush_ready();
                let left = end.saturating_duration_since(Instant::now());
                if sink.queue.is_empty() || left.is_zero() {
                    break;
                }
                let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::ZERO);
                let mut waiting = [PollFd::new(sink.target.fd(), PollFlags::POLLOUT)];
                if matches!(poll(&mut waiting, timeout), Err(errno) if errno != Errno::EINTR) {
                    break;
                }
            }
        }
    }
}

impl Target {
    fn fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Reopened(fd) => fd.as_fd(),
            Self::Socket(fd) | Self::Shared(fd) => borrow_standard(*fd),
        }
    }

    fn write(&self, bytes: &[u8]) -> Result<usize, Errno> {
        match self {
            Self::Socket(fd) => send(*fd, bytes, MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL),
            Self::Reopened(_) | Self::Shared(_) => nix::unistd::write(self.fd(), bytes),
        }
    }
}

impl Sink {
    fn open(fd: RawFd) -> Self {
        Self {
            target: open_target(fd),
            queue: VecDeque::new(),
            dropped: 0,
            unreported: 0,
            closed: false,
        }
    }

    fn push(&mut self, mut lines: &[u8]) {
        if !self.queue.is_empty() {
            self.flush_ready();
        }
        if self.queue.is_empty() {
            let written = self.write(lines);
            lines = lines.get(written..).unwrap_or_default();
        }
        if lines.is_empty() {
            return;
        }
        if self.closed || self.queue.len() >= QUEUE_LIMIT {
            let count = memchr::memchr_iter(b'\n', lines).count() as u64;
            self.dropped += count;
            self.unreported += count;
        } else {
            self.queue.extend(lines);
        }
    }

    fn flush_ready(&mut self) {
        loop {
            let (front, _) = self.queue.as_slices();
            if front.is_empty() {
                break;
            }
            let target = &self.target;
            match write_all_ready(target, front) {
                (0, closed) => {
                    self.closed |= closed;
                    if closed {
                        self.queue.clear();
                    }
                    return;
                }
                (written, _) => drop(self.queue.drain(..written)),
            }
        }
        if self.unreported > 0 && !self.closed {
            let count = std::mem::take(&mut self.unreported);
            let notice = format!(
                "sidecar-init: warning: {count} lines dropped: the console was not read fast enough\n"
            );
            let written = self.write(notice.as_bytes());
            self.queue.extend(notice.as_bytes().iter().skip(written));
        }
    }

    fn write(&mut self, bytes: &[u8]) -> usize {
        if self.closed {
            return 0;
        }
        let (written, closed) = write_all_ready(&self.target, bytes);
        self.closed |= closed;
        written
    }
}

/// Writes until the reader is full; how much, and whether the reader is gone.
fn write_all_ready(target: &Target, bytes: &[u8]) -> (usize, bool) {
    let mut written = 0;
    while let Some(rest) = bytes.get(written..).filter(|rest| !rest.is_empty()) {
        match target.write(rest) {
            Ok(0) | Err(Errno::EAGAIN | Errno::ENOBUFS | Errno::ENOSPC) => break,
            Ok(n) => written += n,
            Err(Errno::EINTR) => {}
            Err(_) => return (written, true),
        }
    }
    (written, false)
}

fn open_target(fd: RawFd) -> Target {
    let stat = fstat(borrow_standard(fd)).ok();
    let kind = |stat: &FileStat| SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT;
    match stat.as_ref().map(kind) {
        Some(SFlag::S_IFSOCK) => Target::Socket(fd),
        Some(SFlag::S_IFIFO | SFlag::S_IFCHR) => {
            let flags = OFlag::O_WRONLY | OFlag::O_NONBLOCK | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
            nix::fcntl::open(format!("/proc/self/fd/{fd}").as_str(), flags, Mode::empty())
                .map_or(Target::Shared(fd), Target::Reopened)
        }
        _ => Target::Shared(fd),
    }
}

fn same_file(one: RawFd, other: RawFd) -> bool {
    match (fstat(borrow_standard(one)), fstat(borrow_standard(other))) {
        (Ok(a), Ok(b)) => (a.st_dev, a.st_ino, a.st_rdev) == (b.st_dev, b.st_ino, b.st_rdev),
        _ => false,
    }
}

#[allow(unsafe_code)]
fn borrow_standard(fd: RawFd) -> BorrowedFd<'static> {
    debug_assert!(fd == 1 || fd == 2);
    // SAFETY: only ever 1 or 2, which Rust's runtime keeps open from before main to
    // the end and which nothing here closes.
    unsafe { BorrowedFd::borrow_raw(fd) }
}

/// The console's standard error as a writer, for the logger.
#[derive(Debug, Clone, Copy)]
pub struct LogWriter;

impl Write for LogWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        console().write_lines(Stream::Error, bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Sends `log`'s records to the console. `filter` is `env_logger`'s syntax; `info` by default.
pub fn init_logging(filter: Option<&str>) {
    let mut builder = env_logger::Builder::new();
    builder
        .filter_level(log::LevelFilter::Info)
        .format(|buffer, record| {
            let level = match record.level() {
                log::Level::Error => "error: ",
                log::Level::Warn => "warning: ",
                log::Level::Info => "",
                log::Level::Debug => "debug: ",
                log::Level::Trace => "trace: ",
            };
            writeln!(buffer, "sidecar-init: {level}{}", record.args())
        })
        .target(env_logger::Target::Pipe(Box::new(LogWriter)));
    if let Some(filter) = filter {
        builder.parse_filters(filter);
    }
    // A second logger in one process is a test's affair, and harmless.
    let _ = builder.try_init();
}
