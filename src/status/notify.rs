//! Tells a service manager or the host in sd_notify(3)'s form, over `NOTIFY_SOCKET`.
//! Touches the kernel: one socket for each message, never waited for.

use std::fmt;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::libc;
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockType, SockaddrLike, UnixAddr, VsockAddr, connect, send,
    sendto, socket,
};
use nix::time::{ClockId, clock_gettime};

use crate::environment::{NOTIFY_SOCKET, Variable, WATCHDOG_PID, WATCHDOG_USEC};
use crate::status::schema::{State, Word};

/// A connection over vsock takes a few hundred microseconds where somebody listens;
/// for one that is not answered, PID 1 waits this long and gives the message up.
const PATIENCE: Duration = Duration::from_millis(50);
/// A message that could not be sent is tried again after this long, then after twice as
/// long, and so on: a socket may be full for a moment, or be made later than we are.
const FIRST_RETRY: Duration = Duration::from_millis(100);
const LAST_RETRY: Duration = Duration::from_secs(10);
/// A watchdog is told at most this often, whatever `WATCHDOG_USEC` says: systemd's are
/// seconds, and two microseconds would be nothing but telling.
const WATCHDOG_FLOOR: Duration = Duration::from_millis(100);

/// A `NOTIFY_SOCKET` that makes no address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AddressError(String);

impl fmt::Display for AddressError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "cannot use NOTIFY_SOCKET {:?}: accepted are /path, @abstract, vsock:CID:PORT, \
             vsock-stream:CID:PORT, vsock-seqpacket:CID:PORT and vsock-dgram:CID:PORT",
            self.0
        )
    }
}

impl std::error::Error for AddressError {}

#[derive(Debug)]
enum Address {
    Unix(UnixAddr),
    /// With the socket types to try, in their order.
    Vsock(VsockAddr, &'static [SockType]),
}

/// What is still to be told, in the order in which it is.
#[derive(Debug, Default)]
struct Unsent {
    /// `RELOADING=1` with its time.
    reloading: Option<String>,
    ready: bool,
    status: bool,
    stopping: bool,
}

/// Who is told, if anybody.
#[derive(Debug, Default)]
pub struct Notifier {
    address: Option<Address>,
    /// The main process to name, where the reader counts processes as we do.
    main_pid: Option<u32>,
    ready: bool,
    stopping: bool,
    status: String,
    unsent: Unsent,
    /// When what is unsent is tried again, and how long after that.
    retry: Option<(Instant, Duration)>,
    watchdog: Option<(Duration, Instant)>,
    /// Whether the last message was lost, so that a silence is told once.
    failing: bool,
}

impl Notifier {
    /// From the environment: `NOTIFY_SOCKET`, `WATCHDOG_USEC` and `WATCHDOG_PID`.
    pub fn from_environment(main_pid: Option<u32>) -> Result<Self, AddressError> {
        let Some(socket) = NOTIFY_SOCKET.value().filter(|text| !text.is_empty()) else {
            return Ok(Self::default());
        };
        let number = |variable: Variable| variable.text()?.parse::<u64>().ok();
        let ours = number(WATCHDOG_PID).is_none_or(|pid| pid == u64::from(std::process::id()));
        let watchdog = number(WATCHDOG_USEC).filter(|usec| *usec > 0 && ours);
        Ok(Self {
            address: Some(parse(&socket.to_string_lossy())?),
            main_pid,
            // Half of what is allowed, as sd_watchdog_enabled(3) recommends.
            watchdog: watchdog.map(|usec| {
                let half = Duration::from_micros(usec / 2);
                (half.max(WATCHDOG_FLOOR), Instant::now())
            }),
            ..Self::default()
        })
    }

    /// Whether anybody is told.
    #[must_use]
    pub fn has_reader(&self) -> bool {
        self.address.is_some()
    }

    /// The manifest is being read again; [`Notifier::tell`] says when that is over.
    pub fn reloading(&mut self) -> Result<(), Errno> {
        self.begin_reload()?;
        self.send_unsent(Instant::now())
    }

    fn begin_reload(&mut self) -> Result<(), Errno> {
        if std::mem::take(&mut self.ready) {
            // The time tells this reload's READY from an earlier one's.
            let now = clock_gettime(ClockId::CLOCK_MONOTONIC)?;
            let usec = now.tv_sec().saturating_mul(1_000_000) + now.tv_nsec() / 1_000;
            self.unsent.ready = false;
            self.unsent.reloading = Some(format!("RELOADING=1\nMONOTONIC_USEC={usec}\n"));
        }
        Ok(())
    }

    /// Tells the state if it is another than the last one told, in one message.
    pub fn tell(&mut self, state: &Word<State>, in_words: &str) -> Result<(), Errno> {
        if self.address.is_none() {
            return Ok(());
        }
        match state {
            Word::Known(State::Ready) if !self.ready => {
                self.ready = true;
                self.unsent.ready = true;
            }
            Word::Known(State::Ready) => {}
            Word::Known(State::Reloading) => self.begin_reload()?,
            // Nobody heard that it was, and it no longer is.
            _ => self.ready &= !std::mem::take(&mut self.unsent.ready),
        }
        let words = in_words.lines().next().unwrap_or_default();
        if self.status != words {
            words.clone_into(&mut self.status);
            self.unsent.status = true;
        }
        self.send_unsent(Instant::now())
    }

    /// We are about to end.
    pub fn stopping(&mut self) -> Result<(), Errno> {
        if std::mem::replace(&mut self.stopping, true) {
            return Ok(());
        }
        self.unsent.stopping = true;
        // There may be no other time.
        self.retry = None;
        self.send_unsent(Instant::now())
    }

    /// When there is something to tell: to the watchdog, or once more. `None` where there
    /// is nothing.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        let watchdog = self.watchdog.map(|(_, next)| next);
        let retry = self.retry.map(|(at, _)| at);
        [watchdog, retry].into_iter().flatten().min()
    }

    /// Tells what it is time to tell.
    pub fn tick(&mut self, now: Instant) -> Result<(), Errno> {
        let result = self.send_unsent(now);
        match &mut self.watchdog {
            Some((interval, next)) if now >= *next => *next = now + *interval,
            _ => return result,
        }
        let told = self.send("WATCHDOG=1\n");
        result.and(self.once(told))
    }

    /// Sends what is unsent, unless that was tried a moment ago.
    fn send_unsent(&mut self, now: Instant) -> Result<(), Errno> {
        if self.retry.is_some_and(|(at, _)| now < at) {
            return Ok(());
        }
        while let Some(message) = self.next_message() {
            let result = self.send(&message);
            let failed = result.is_err();
            let told = self.once(result);
            if failed {
                let wait = self.retry.map_or(FIRST_RETRY, |(_, wait)| wait);
                self.retry = Some((now + wait, (wait * 2).min(LAST_RETRY)));
                return told;
            }
            if self.unsent.reloading.take().is_none() {
                let later = self.unsent.ready || self.unsent.status;
                self.unsent.ready = false;
                self.unsent.status = false;
                self.unsent.stopping &= later;
            }
        }
        self.retry = None;
        Ok(())
    }

    fn next_message(&self) -> Option<String> {
        let unsent = &self.unsent;
        if let Some(message) = &unsent.reloading {
            return Some(message.clone());
        }
        let mut message = String::new();
        if unsent.ready {
            message.push_str("READY=1\n");
            if let Some(pid) = self.main_pid {
                message.push_str(&format!("MAINPID={pid}\n"));
            }
        }
        if unsent.status {
            message.push_str(&format!("STATUS={}\n", self.status));
        }
        if message.is_empty() && unsent.stopping {
            message.push_str("STOPPING=1\n");
        }
        (!message.is_empty()).then_some(message)
    }

    fn send(&self, message: &str) -> Result<(), Errno> {
        match &self.address {
            Some(address) => deliver(address, message.as_bytes()),
            None => Ok(()),
        }
    }

    /// Failures in a row are told once.
    fn once(&mut self, result: Result<(), Errno>) -> Result<(), Errno> {
        let told = std::mem::replace(&mut self.failing, result.is_err());
        if told { Ok(()) } else { result }
    }
}

/// As systemd writes it: an absolute path, `@` for an abstract one, or a vsock address.
fn parse(text: &str) -> Result<Address, AddressError> {
    let refused = || AddressError(text.to_owned());
    if let Some(name) = text.strip_prefix('@') {
        let address = UnixAddr::new_abstract(name.as_bytes()).map_err(|_| refused())?;
        return Ok(Address::Unix(address));
    }
    if text.starts_with('/') {
        return Ok(Address::Unix(UnixAddr::new(text).map_err(|_| refused())?));
    }
    let (kind, rest) = text.split_once(':').ok_or_else(refused)?;
    let types: &[SockType] = match kind {
        // Hypervisors differ in what they carry. Datagrams come last: smolmachines' kernel
        // takes those that nobody will ever hear, and reports no error.
        "vsock" => &[SockType::SeqPacket, SockType::Stream, SockType::Datagram],
        "vsock-dgram" => &[SockType::Datagram],
        "vsock-seqpacket" => &[SockType::SeqPacket],
        "vsock-stream" => &[SockType::Stream],
        _ => return Err(refused()),
    };
    let (cid, port) = rest.split_once(':').ok_or_else(refused)?;
    let cid = cid.parse().map_err(|_| refused())?;
    let port = port.parse().map_err(|_| refused())?;
    Ok(Address::Vsock(VsockAddr::new(cid, port), types))
}

fn deliver(address: &Address, message: &[u8]) -> Result<(), Errno> {
    const FLAGS: SockFlag = SockFlag::SOCK_CLOEXEC.union(SockFlag::SOCK_NONBLOCK);
    const QUIETLY: MsgFlags = MsgFlags::MSG_DONTWAIT.union(MsgFlags::MSG_NOSIGNAL);
    match address {
        Address::Unix(address) => {
            let socket = socket(AddressFamily::Unix, SockType::Datagram, FLAGS, None)?;
            sendto(socket.as_raw_fd(), message, address, QUIETLY).map(drop)
        }
        Address::Vsock(address, types) => {
            let mut last = Errno::EPROTONOSUPPORT;
            for kind in *types {
                let result = socket(AddressFamily::Vsock, *kind, FLAGS, None).and_then(|socket| {
                    if *kind != SockType::Datagram {
                        connect_soon(&socket, address)?;
                        return send(socket.as_raw_fd(), message, QUIETLY).map(drop);
                    }
                    sendto(socket.as_raw_fd(), message, address, QUIETLY).map(drop)
                });
                match result {
                    Ok(()) => return Ok(()),
                    Err(errno) => last = errno,
                }
            }
            Err(last)
        }
    }
}

/// Connects within [`PATIENCE`].
fn connect_soon(socket: &OwnedFd, address: &dyn SockaddrLike) -> Result<(), Errno> {
    match connect(socket.as_raw_fd(), address) {
        Err(Errno::EINPROGRESS) => {}
        result => return result,
    }
    let end = Instant::now() + PATIENCE;
    loop {
        let left = end.saturating_duration_since(Instant::now());
        let mut waiting = [PollFd::new(socket.as_fd(), PollFlags::POLLOUT)];
        match ppoll(&mut waiting, Some(left.into()), None) {
            Ok(0) => return Err(Errno::ETIMEDOUT),
            // A signal waits in its pipe; the connection is still being made.
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno),
            Ok(_) => break,
        }
    }
    match nix::sys::socket::getsockopt(socket, nix::sys::socket::sockopt::SocketError)? {
        0 => Ok(()),
        errno => Err(Errno::from_raw(errno as libc::c_int)),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixDatagram;
    use std::path::{Path, PathBuf};

    use super::*;

    fn socket_path(name: &str) -> PathBuf {
        let path = std::env::temp_dir().join(format!("sidecar-{name}-{}", std::process::id()));
        let _ = std::fs::remove_file(&path);
        path
    }

    fn notifier(path: &Path) -> Notifier {
        Notifier {
            address: Some(parse(path.to_str().unwrap()).unwrap()),
            ..Notifier::default()
        }
    }

    fn messages(socket: &UnixDatagram) -> Vec<String> {
        socket.set_nonblocking(true).unwrap();
        let mut buffer = [0; 4096];
        let mut messages = Vec::new();
        while let Ok(count) = socket.recv(&mut buffer) {
            messages.push(String::from_utf8_lossy(&buffer[..count]).into_owned());
        }
        messages
    }

    #[test]
    fn what_nobody_heard_is_told_again_later_and_later() {
        let path = socket_path("late");
        let mut notifier = notifier(&path);
        assert!(notifier.tell(&State::Starting.into(), "starting").is_err());
        assert!(
            notifier.tell(&State::Ready.into(), "ready; so").is_ok(),
            "said once"
        );
        let mut waits = Vec::new();
        for _ in 0..9 {
            let at = notifier.deadline().unwrap();
            notifier.send_unsent(Instant::now()).unwrap();
            assert_eq!(notifier.deadline(), Some(at), "too early");
            notifier.tick(at).unwrap();
            waits.push((notifier.deadline().unwrap() - at).as_millis());
        }
        assert_eq!(
            waits,
            [200, 400, 800, 1600, 3200, 6400, 10_000, 10_000, 10_000]
        );
        let socket = UnixDatagram::bind(&path).unwrap();
        notifier.tick(notifier.deadline().unwrap()).unwrap();
        assert_eq!(notifier.deadline(), None);
        assert_eq!(messages(&socket), ["READY=1\nSTATUS=ready; so\n"]);
        notifier.tell(&State::Ready.into(), "ready; so").unwrap();
        assert!(messages(&socket).is_empty());
        std::fs::remove_file(path).unwrap();
    }

    #[test]
    fn what_is_no_longer_true_is_not_told_late() {
        let path = socket_path("untrue");
        let mut notifier = notifier(&path);
        let _ = notifier.tell(&State::Ready.into(), "ready");
        let _ = notifier.tell(&State::Backoff.into(), "backoff: exited");
        let socket = UnixDatagram::bind(&path).unwrap();
        notifier.tick(notifier.deadline().unwrap()).unwrap();
        assert_eq!(messages(&socket), ["STATUS=backoff: exited\n"]);
        notifier.tell(&State::Ready.into(), "ready").unwrap();
        assert_eq!(messages(&socket), ["READY=1\nSTATUS=ready\n"]);
        drop(socket);
        std::fs::remove_file(&path).unwrap();
        let _ = notifier.reloading();
        let _ = notifier.tell(&State::Ready.into(), "ready");
        let socket = UnixDatagram::bind(&path).unwrap();
        notifier.stopping().unwrap();
        let heard = messages(&socket);
        assert_eq!(heard.len(), 3, "{heard:?}");
        assert!(heard[0].starts_with("RELOADING=1\nMONOTONIC_USEC="));
        assert_eq!(heard[1..], ["READY=1\n", "STOPPING=1\n"]);
        std::fs::remove_file(path).unwrap();
    }

    #[test]
    fn reads_every_form_of_address_that_systemd_writes() {
        assert!(matches!(parse("/run/n"), Ok(Address::Unix(_))));
        let Ok(Address::Unix(address)) = parse("@name") else {
            panic!()
        };
        assert_eq!(address.as_abstract(), Some(&b"name"[..]));
        for (text, count) in [
            ("vsock:2:1234", 3),
            ("vsock-stream:2:1234", 1),
            ("vsock-seqpacket:2:1234", 1),
            ("vsock-dgram:4294967295:1", 1),
        ] {
            let Ok(Address::Vsock(_, types)) = parse(text) else {
                panic!("{text}")
            };
            assert_eq!(types.len(), count, "{text}");
        }
        for text in ["run/n", "vsock:2", "vsock:two:1", "tcp:1:2", "vsock:-1:1"] {
            let error = parse(text).unwrap_err().to_string();
            assert!(error.contains(text), "{error}");
        }
    }
}
