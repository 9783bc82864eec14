//! Standard output and error without ever waiting for them. Touches the kernel.
//!
//! A blocking write to a console that somebody stopped hangs the writer, and the
//! writer is PID 1. So everything goes through a bounded queue: what the reader
//! cannot take is dropped, line by line, and counted. Where a write can wait whatever is
//! asked of it, a [`Carrier`] writes instead.

use std::collections::VecDeque;
use std::io::{self, IsTerminal, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::socket::{MsgFlags, send};
use nix::sys::stat::{Mode, SFlag, fstat};

use crate::plain;
use crate::sys::carrier::{Carrier, Fate};

/// What waits for a slow reader before lines are dropped, in bytes.
const QUEUE_LIMIT: usize = 256 * 1024;
/// Our own lines may use this much more: a daemon that floods the console must not
/// crowd out the result.
const RESERVE: usize = 256 * 1024;
/// A full queue holds its writer back this long before lines are dropped, so that a
/// burst is no loss where somebody reads; longer would stall the daemon, which waits
/// for its own output. A new hold begins when half of the queue has been read.
const HOLD: Duration = Duration::from_millis(100);
const OUR_PREFIX: &[u8] = b"sidecar-init:";

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
    /// What takes or refuses everything at once: `/dev/null` and its kind, or a placeholder
    /// for a stream that was closed.
    Instant(RawFd),
    /// A file, whose disk may be frozen; or a pipe or a terminal that could not be reopened
    /// (somebody else's, or without `/proc`), of which the description is shared with others
    /// and must not be changed. Its carrier, once there is something to write; and whether the
    /// end has begun.
    Carried(RawFd, Option<Carrier>, bool),
}

#[derive(Debug)]
struct Sink {
    target: Target,
    queue: VecDeque<u8>,
    dropped: u64,
    unreported: u64,
    closed: bool,
    full_since: Option<Instant>,
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

    /// Whether lines for `stream` should be written now: there is room, or waiting for
    /// room has been in vain.
    pub fn takes_more(&mut self, stream: Stream, now: Instant) -> bool {
        self.sink(stream).is_none_or(|sink| sink.takes_more(now))
    }

    /// When [`Console::takes_more`] will be true whatever the readers do; `None` where
    /// it is already.
    #[must_use]
    pub fn deadline(&self, now: Instant) -> Option<Instant> {
        [&self.error, &self.output]
            .into_iter()
            .flatten()
            .filter(|sink| sink.queue.len() >= QUEUE_LIMIT)
            .filter_map(|sink| Some(sink.full_since? + HOLD))
            .filter(|end| *end > now)
            .min()
    }

    /// Waits for room for `stream`, at most until `end` and as long as that helps.
    pub fn wait_for_room(&mut self, stream: Stream, end: Instant) {
        if let Some(sink) = self.sink(stream)
            && !sink.takes_more(Instant::now())
        {
            sink.flush_until(end, QUEUE_LIMIT / 2);
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
            .filter_map(|sink| sink.target.fd())
    }

    /// Whether a child of this process is a carrier.
    #[must_use]
    pub fn sent(&self, pid: i32) -> bool {
        self.targets()
            .any(|target| target.carrier_pid() == Some(pid))
    }

    /// Told of every child that was reaped; whether it was a carrier. Its number is anybody's
    /// from now on.
    pub fn reaped(&mut self, pid: i32) -> bool {
        let sinks = [&mut self.error, &mut self.output];
        let mut sinks = sinks.into_iter().flatten();
        let of = |sink: &&mut Sink| sink.target.carrier_pid() == Some(pid);
        let Some(sink) = sinks.find(of) else {
            return false;
        };
        sink.ask_carrier();
        if let Target::Carried(_, carrier, _) = &mut sink.target {
            *carrier = None;
        }
        true
    }

    fn targets(&self) -> impl Iterator<Item = &Target> {
        let sinks = [&self.error, &self.output].into_iter().flatten();
        sinks.map(|sink| &sink.target)
    }

    /// Writes what can be written now.
    pub fn flush_ready(&mut self) {
        for sink in [&mut self.error, &mut self.output].into_iter().flatten() {
            sink.flush_ready();
        }
    }

    /// Before the end: writes what is queued, but waits no longer than this. No carrier is
    /// left; the next line has a new one, or is written here where none can be had.
    pub fn flush_within(&mut self, patience: Duration) {
        let end = Instant::now() + patience;
        for sink in [&mut self.error, &mut self.output].into_iter().flatten() {
            sink.flush_until(end, 0);
            if let Target::Carried(_, carrier, ends) = &mut sink.target {
                *ends = true;
                if let Some(carrier) = carrier.take() {
                    carrier.finish(end);
                }
            }
        }
    }
}

impl Target {
    /// What to wait for; none where there is nothing to.
    fn fd(&self) -> Option<BorrowedFd<'_>> {
        match self {
            Self::Reopened(fd) => Some(fd.as_fd()),
            Self::Socket(fd) | Self::Instant(fd) => Some(borrow_standard(*fd)),
            Self::Carried(_, carrier, _) => carrier.as_ref().map(Carrier::as_fd),
        }
    }

    fn carrier_pid(&self) -> Option<i32> {
        match self {
            Self::Carried(_, carrier, _) => carrier.as_ref().map(Carrier::pid),
            _ => None,
        }
    }

    fn write(&mut self, bytes: &[u8]) -> Result<usize, Errno> {
        match self {
            Self::Socket(fd) => send(*fd, bytes, MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL),
            Self::Reopened(fd) => nix::unistd::write(fd, bytes),
            Self::Instant(fd) => nix::unistd::write(borrow_standard(*fd), bytes),
            Self::Carried(fd, carrier, ends) => {
                let carrier = match carrier {
                    Some(carrier) => carrier,
                    None => match Carrier::start(borrow_standard(*fd)) {
                        Ok(started) => carrier.insert(started),
                        // Later there is nobody: a result that may wait is more than none.
                        Err(_) if *ends => return nix::unistd::write(borrow_standard(*fd), bytes),
                        // As if there were no space: another process may be had later.
                        Err(_) => return Err(Errno::ENOSPC),
                    },
                };
                carrier.give(bytes)
            }
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
            full_since: None,
        }
    }

    fn takes_more(&mut self, now: Instant) -> bool {
        if self.queue.len() < QUEUE_LIMIT / 2 {
            self.full_since = None;
        }
        self.queue.len() < QUEUE_LIMIT || now >= *self.full_since.get_or_insert(now) + HOLD
    }

    fn push(&mut self, mut lines: &[u8]) {
        if !self.queue.is_empty() || self.unreported > 0 {
            self.flush_ready();
        }
        if self.queue.is_empty() {
            let written = self.write(lines);
            lines = lines.get(written..).unwrap_or_default();
        }
        if lines.is_empty() {
            return;
        }
        let limit = if lines.starts_with(OUR_PREFIX) {
            QUEUE_LIMIT + RESERVE
        } else {
            QUEUE_LIMIT
        };
        if self.closed || self.queue.len() >= limit {
            self.drop_lines(lines);
            return;
        }
        // Said where the gap is, and so never after the result.
        if let Some(notice) = self.notice_of_drops() {
            self.queue.extend(notice.as_bytes());
        }
        self.queue.extend(lines);
    }

    fn drop_lines(&mut self, lines: &[u8]) {
        let count = memchr::memchr_iter(b'\n', lines).count() as u64;
        self.dropped += count;
        self.unreported += count;
    }

    fn notice_of_drops(&mut self) -> Option<String> {
        let count = std::mem::take(&mut self.unreported);
        (count > 0).then(|| {
            format!(
                "sidecar-init: warning: {count} lines dropped: the console was not read fast enough\n"
            )
        })
    }

    /// Counts what a carrier has lost, and lets go of one that has ended.
    fn ask_carrier(&mut self) {
        let Target::Carried(_, carrier, _) = &mut self.target else {
            return;
        };
        let Some((lost, fate)) = carrier.as_mut().map(Carrier::ask) else {
            return;
        };
        self.dropped += lost;
        self.unreported += lost;
        self.closed |= fate == Fate::Gone;
        if fate != Fate::Alive {
            *carrier = None;
        }
    }

    fn flush_ready(&mut self) {
        self.ask_carrier();
        loop {
            let (front, _) = self.queue.as_slices();
            if front.is_empty() {
                break;
            }
            let (written, halt) = write_ready(&mut self.target, front);
            drop(self.queue.drain(..written));
            match halt {
                None => {}
                Some(Halt::Full) => return,
                Some(stop) => return self.give_up(stop),
            }
        }
        let missing = self.unreported;
        if !self.closed
            && let Some(notice) = self.notice_of_drops()
        {
            let notice = notice.as_bytes();
            match write_ready(&mut self.target, notice) {
                (written, None | Some(Halt::Full)) => {
                    self.queue.extend(notice.iter().skip(written));
                }
                // Said again later; the notice itself is no loss.
                (_, Some(halt)) => {
                    self.closed |= halt == Halt::Gone;
                    self.unreported = missing;
                }
            }
        }
    }

    /// Writes until no more than `rest` bytes are queued, or until `end`.
    fn flush_until(&mut self, end: Instant, rest: usize) {
        loop {
            self.flush_ready();
            let left = end.saturating_duration_since(Instant::now());
            if self.queue.len() <= rest || left.is_zero() {
                return;
            }
            let Some(fd) = self.target.fd() else {
                return;
            };
            let mut waiting = [PollFd::new(fd, PollFlags::POLLOUT)];
            if matches!(ppoll(&mut waiting, Some(left.into()), None), Err(errno) if errno != Errno::EINTR)
            {
                return;
            }
        }
    }

    /// Waiting would not help: what is queued is dropped.
    fn give_up(&mut self, halt: Halt) {
        self.closed |= halt == Halt::Gone;
        let lost: Vec<u8> = std::mem::take(&mut self.queue).into();
        self.drop_lines(&lost);
    }

    fn write(&mut self, bytes: &[u8]) -> usize {
        self.ask_carrier();
        if self.closed {
            return 0;
        }
        match write_ready(&mut self.target, bytes) {
            (written, None | Some(Halt::Full)) => written,
            (written, Some(halt)) => {
                self.closed |= halt == Halt::Gone;
                self.drop_lines(bytes.get(written..).unwrap_or_default());
                bytes.len()
            }
        }
    }
}

/// Why no more could be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Halt {
    /// The reader is behind; poll(2) tells when there is room.
    Full,
    /// No space on the disk. poll(2) calls such a file writable, so waiting for room
    /// would be spinning.
    NoSpace,
    /// The reader is gone.
    Gone,
}

/// Writes as much as can be written now; how much, and what ended it early.
fn write_ready(target: &mut Target, bytes: &[u8]) -> (usize, Option<Halt>) {
    let mut written = 0;
    while let Some(rest) = bytes.get(written..).filter(|rest| !rest.is_empty()) {
        let halt = match target.write(rest) {
            Ok(count) if count > 0 => {
                written += count;
                continue;
            }
            Err(Errno::EINTR) => continue,
            Ok(_) | Err(Errno::EAGAIN | Errno::ENOBUFS) => Halt::Full,
            Err(Errno::ENOSPC | Errno::EDQUOT | Errno::EFBIG) => Halt::NoSpace,
            Err(_) => Halt::Gone,
        };
        return (written, Some(halt));
    }
    (written, None)
}

fn open_target(fd: RawFd) -> Target {
    /// `/dev/null`, `/dev/full` and their kind (the kernel's devices.txt).
    const MEMORY: u64 = 1;
    let Ok(stat) = fstat(borrow_standard(fd)) else {
        return Target::Instant(fd);
    };
    match SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT {
        SFlag::S_IFSOCK => Target::Socket(fd),
        SFlag::S_IFDIR => Target::Instant(fd),
        SFlag::S_IFCHR if nix::sys::stat::major(stat.st_rdev) == MEMORY => Target::Instant(fd),
        SFlag::S_IFIFO | SFlag::S_IFCHR => {
            let flags = OFlag::O_WRONLY | OFlag::O_NONBLOCK | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
            nix::fcntl::open(format!("/proc/self/fd/{fd}").as_str(), flags, Mode::empty())
                .map_or(Target::Carried(fd, None, false), Target::Reopened)
        }
        _ => Target::Carried(fd, None, false),
    }
}

fn same_file(one: RawFd, other: RawFd) -> bool {
    match (fstat(borrow_standard(one)), fstat(borrow_standard(other))) {
        (Ok(a), Ok(b)) => (a.st_dev, a.st_ino, a.st_rdev) == (b.st_dev, b.st_ino, b.st_rdev),
        _ => false,
    }
}

/// Opens those of descriptors 0 to 2 that are closed: what is opened next would take their
/// numbers, and be written to as a console. Where there is no `/dev/null`, a directory
/// serves: writing to it fails, and so tells that nobody reads.
pub fn open_standard_streams() {
    // Rust's own ways close what they opened.
    use std::os::fd::IntoRawFd;
    for stream in 0..=2 {
        if is_open(stream) {
            continue;
        }
        // The lowest free number is the one just found to be free.
        let opened = nix::fcntl::open(c"/dev/null", OFlag::O_RDWR, Mode::empty()).or_else(|_| {
            let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY;
            nix::fcntl::open(c"/", flags, Mode::empty())
        });
        let _ = opened.map(IntoRawFd::into_raw_fd);
    }
}

#[allow(unsafe_code)]
fn is_open(fd: RawFd) -> bool {
    // SAFETY: a plain number, which may be none's.
    unsafe { nix::libc::fcntl(fd, nix::libc::F_GETFD) >= 0 }
}

#[allow(unsafe_code)]
fn borrow_standard(fd: RawFd) -> BorrowedFd<'static> {
    debug_assert!(fd == 1 || fd == 2);
    // SAFETY: only ever 1 or 2, which `main` keeps open from its begin to the end and which nothing here closes.
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

/// Whether a person reads the console.
#[must_use]
pub fn is_terminal() -> bool {
    io::stderr().is_terminal()
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
            // Hints and a manifest's problems stand on lines of their own, and each is ours.
            let text = record.args().to_string();
            // Whatever they quote ends none of them.
            plain::lines(&text)
                .lines()
                .try_for_each(|line| writeln!(buffer, "sidecar-init: {level}{line}"))
        })
        .target(env_logger::Target::Pipe(Box::new(LogWriter)));
    if let Some(filter) = filter {
        builder.parse_filters(filter);
    }
    // A second logger in one process is a test's affair, and harmless.
    let _ = builder.try_init();
}
