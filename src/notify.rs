//! Tells a service manager or the host in sd_notify(3)'s form, over `NOTIFY_SOCKET`.
//! Touches the kernel: one socket for each message, never waited for.

use std::fmt;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockType, SockaddrLike, UnixAddr, VsockAddr, connect, send,
    sendto, socket,
};
use nix::time::{ClockId, clock_gettime};

/// A connection over vsock takes a few hundred microseconds where somebody listens;
/// for one that is not answered, PID 1 waits this long and gives the message up.
const PATIENCE: Duration = Duration::from_millis(50);
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

/// Who is told, if anybody.
#[derive(Debug, Default)]
pub struct Notifier {
    address: Option<Address>,
    /// The main process to name, where the reader counts processes as we do.
    main_pid: Option<u32>,
    ready: bool,
    stopping: bool,
    status: String,
    watchdog: Option<(Duration, Instant)>,
    /// Whether the last message was lost, so that a silence is told once.
    failing: bool,
}

impl Notifier {
    /// From the environment: `NOTIFY_SOCKET`, `WATCHDOG_USEC` and `WATCHDOG_PID`.
    pub fn from_environment(main_pid: Option<u32>) -> Result<Self, AddressError> {
        let Some(socket) = std::env::var_os("NOTIFY_SOCKET").filter(|text| !text.is_empty()) else {
            return Ok(Self::default());
        };
        let number = |name| std::env::var(name).ok()?.parse::<u64>().ok();
        let ours = number("WATCHDOG_PID").is_none_or(|pid| pid == u64::from(std::process::id()));
        let watchdog = number("WATCHDOG_USEC").filter(|usec| *usec > 0 && ours);
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

    /// The manifest is being read again; [`Notifier::tell`] says when that is over.
    pub fn reloading(&mut self) -> Result<(), Errno> {
        if !std::mem::take(&mut self.ready) {
            return Ok(());
        }
        // The time tells this reload's READY from an earlier one's.
        let now = clock_gettime(ClockId::CLOCK_MONOTONIC)?;
        let usec = now.tv_sec().saturating_mul(1_000_000) + now.tv_nsec() / 1_000;
        self.send(&format!("RELOADING=1\nMONOTONIC_USEC={usec}\n"))
    }

    /// Tells the state if it is another than the last one told, in one message.
    pub fn tell(&mut self, state: &str, in_words: &str) -> Result<(), Errno> {
        if self.address.is_none() {
            return Ok(());
        }
        let mut message = String::new();
        match state {
            "ready" if !self.ready => {
                self.ready = true;
                message.push_str("READY=1\n");
                if let Some(pid) = self.main_pid {
                    message.push_str(&format!("MAINPID={pid}\n"));
                }
            }
            "reloading" => self.reloading()?,
            _ => {}
        }
        let words = in_words.lines().next().unwrap_or_default();
        if self.status != words {
            words.clone_into(&mut self.status);
            message.push_str(&format!("STATUS={words}\n"));
        }
        if message.is_empty() {
            return Ok(());
        }
        self.send(&message)
    }

    /// We are about to end.
    pub fn stopping(&mut self) -> Result<(), Errno> {
        if std::mem::replace(&mut self.stopping, true) {
            return Ok(());
        }
        self.send("STOPPING=1\n")
    }

    /// When the watchdog wants to hear of us; `None` where there is none.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        self.watchdog.map(|(_, next)| next)
    }

    /// Tells the watchdog if it is time.
    pub fn tick(&mut self, now: Instant) -> Result<(), Errno> {
        match &mut self.watchdog {
            Some((interval, next)) if now >= *next => *next = now + *interval,
            _ => return Ok(()),
        }
        self.send("WATCHDOG=1\n")
    }

    /// Sends one message. Failures in a row are told once.
    fn send(&mut self, message: &str) -> Result<(), Errno> {
        let Some(address) = &self.address else {
            return Ok(());
        };
        let result = deliver(address, message.as_bytes());
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
        let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::ZERO);
        match poll(
            &mut [PollFd::new(socket.as_fd(), PollFlags::POLLOUT)],
            timeout,
        ) {
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
    use super::*;

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
