//! Who is connected to the daemon's port, whose port it is, and whether it is anybody's.
//! Touches the kernel: connections, `/proc/net` and `/proc/<pid>/fd`.
//!
//! `pipelock_active_tunnels` leaves intercepted tunnels out: it is 0 while an agent is
//! in the middle of a response, so draining by it alone would cut that response off.

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::time::Duration;

use nix::errno::Errno;
use nix::libc;
use nix::poll::{PollFd, PollFlags};
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrStorage, connect, getsockname, getsockopt, socket,
    sockopt,
};

use super::signals;
use crate::plain;

use super::process::sees_processes;

/// Socket states as `/proc/net/tcp` writes them (proc_net_tcp.txt).
const ESTABLISHED: &str = "01";
const LISTENING: &str = "0A";

/// A connection within the machine is made or refused in the same moment; where its SYN is
/// dropped, because the queue is full, nobody waits longer than this to learn nothing.
const CONNECTING: Duration = Duration::from_millis(50);

/// What a connection to a port that should be closed finds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reach {
    /// It was refused: nobody listens.
    Closed,
    /// Somebody listens; who, where that can be told.
    Open(Option<String>),
    /// It was neither made nor refused; why.
    Unknown(String),
}

/// Whether anybody listens there still. Asked by connecting, which needs no `/proc`: only a
/// refusal proves that a port is closed.
#[must_use]
pub fn look_at_port(listen: SocketAddr) -> Reach {
    let mut unknown = None;
    for target in reachable(listen) {
        match try_connect(target) {
            Ok(()) => return Reach::Open(holder(listen)),
            Err(Errno::ECONNREFUSED) => {}
            // Nobody can be reached by it.
            Err(errno) if lacks_family(errno) && target.ip().is_loopback() => {}
            Err(errno) => unknown = Some(errno.desc().to_owned()),
        }
    }
    unknown.map_or(Reach::Closed, Reach::Unknown)
}

/// The same of a port of whatever address: whoever listens on one that is not the loopback's is
/// seen where `/proc` shows it.
#[must_use]
pub fn look_at_port_anywhere(listen: SocketAddr) -> Reach {
    match look_at_port(listen) {
        Reach::Closed if !sockets(listen, LISTENING).is_empty() => Reach::Open(holder(listen)),
        found => found,
    }
}

fn try_connect(target: SocketAddr) -> Result<(), Errno> {
    let stream = begin_connect(target)?;
    signals::wait(
        &mut [PollFd::new(stream.as_fd(), PollFlags::POLLOUT)],
        Some(CONNECTING),
    );
    match getsockopt(&stream, sockopt::SocketError)? {
        0 if stream.peer_addr().is_ok() => Ok(()),
        0 => Err(Errno::ETIMEDOUT),
        error => Err(Errno::from_raw(error)),
    }
}

/// The process that listens there, as `pid 7 (name)`.
fn holder(listen: SocketAddr) -> Option<String> {
    let listening = sockets(listen, LISTENING);
    let processes = fs::read_dir("/proc").ok()?.flatten();
    let pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let holds = |pid: &i32| {
        let descriptors = fs::read_dir(format!("/proc/{pid}/fd"));
        let mut targets = descriptors
            .into_iter()
            .flatten()
            .flatten()
            .filter_map(|entry| fs::read_link(entry.path()).ok());
        targets.any(|target| {
            let inode = target.to_str().and_then(socket_inode);
            inode.is_some_and(|inode| listening.iter().any(|it| it == inode))
        })
    };
    let pid = pids.into_iter().find(holds)?;
    let name = fs::read(format!("/proc/{pid}/comm")).unwrap_or_default();
    let name = name.strip_suffix(b"\n").unwrap_or(&name);
    Some(format!("pid {pid} ({})", plain::line_of(name)))
}

fn socket_inode(link: &str) -> Option<&str> {
    link.strip_prefix("socket:[")?.strip_suffix(']')
}

/// Where one who listens there can be asked, the likelier first: who listens on every address
/// does so on loopback, of the one family or the other ([`lacks_family`]). Go means both by
/// either wildcard, and only the other where a machine has but that.
#[must_use]
pub fn reachable(listen: SocketAddr) -> Vec<SocketAddr> {
    let mut loopback = [
        IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(Ipv6Addr::LOCALHOST),
    ];
    if !listen.ip().is_unspecified() {
        return vec![listen];
    }
    if listen.is_ipv6() {
        loopback.reverse();
    }
    loopback.map(|ip| SocketAddr::new(ip, listen.port())).into()
}

/// Whether that was the reason for a connection to loopback: the machine has no such family,
/// or no address of it.
#[must_use]
pub fn lacks_family(errno: Errno) -> bool {
    matches!(
        errno,
        Errno::EADDRNOTAVAIL | Errno::EAFNOSUPPORT | Errno::ENETUNREACH
    )
}

/// Begins a connection without waiting for it.
pub fn begin_connect(target: SocketAddr) -> Result<TcpStream, Errno> {
    let family = match target {
        SocketAddr::V4(_) => AddressFamily::Inet,
        SocketAddr::V6(_) => AddressFamily::Inet6,
    };
    let fd = socket(
        family,
        SockType::Stream,
        SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC,
        None,
    )?;
    match connect(fd.as_raw_fd(), &SockaddrStorage::from(target)) {
        Ok(()) | Err(Errno::EINPROGRESS) => Ok(TcpStream::from(fd)),
        Err(errno) => Err(errno),
    }
}

/// Established connections to what the daemon listens on; 0 without `/proc`.
#[must_use]
pub fn established(listen: SocketAddr) -> u64 {
    sockets(listen, ESTABLISHED).len() as u64
}

/// Connections that wait to be accepted there; 0 without `/proc`.
#[must_use]
pub fn waiting(listen: SocketAddr) -> u64 {
    rows(listen, LISTENING).iter().map(|row| row.waiting).sum()
}

/// Whether the socket that listens there is this process's; `None` where that cannot be
/// told: no `/proc` that shows our processes, or no right to look into this one, which root
/// has only with `CAP_SYS_PTRACE` (proc_pid_fd(5)) and not in a container as engines make it.
///
/// Whoever else has the port would answer the probes of a daemon that is about to fail
/// for want of it.
#[must_use]
pub fn listens(pid: i32, listen: SocketAddr) -> Option<bool> {
    sees_processes().ok()?;
    let descriptors = fs::read_dir(format!("/proc/{pid}/fd")).ok()?;
    let mut readable = true;
    let own: Vec<(RawFd, String)> = descriptors
        .flatten()
        .filter_map(|entry| {
            let target = match fs::read_link(entry.path()) {
                Ok(target) => target,
                Err(error) => {
                    // Any other failure is a descriptor that was closed meanwhile.
                    readable &= error.kind() != io::ErrorKind::PermissionDenied;
                    return None;
                }
            };
            let inode = target.to_str().and_then(socket_inode)?;
            Some((entry.file_name().to_str()?.parse().ok()?, inode.to_owned()))
        })
        .collect();
    // The tables can only say no: in a large machine it takes the kernel 10 ms to write
    // them, for they walk every bucket of connections there could be.
    if one_listens(pid, own.iter().map(|(number, _)| *number), listen) {
        return Some(true);
    }
    let listening = sockets(listen, LISTENING);
    let found = own.iter().any(|(_, inode)| listening.contains(inode));
    (readable && !listening.is_empty()).then_some(found)
}

/// Whether one of these descriptors of the process listens there, asked of the socket
/// itself (pidfd_getfd(2), Linux 5.6); false as well where it cannot be asked.
fn one_listens(pid: i32, mut numbers: impl Iterator<Item = RawFd>, listen: SocketAddr) -> bool {
    open_process(pid).is_some_and(|process| {
        numbers.any(|number| {
            copy_descriptor(&process, number).is_some_and(|socket| {
                getsockopt(&socket, sockopt::AcceptConn) == Ok(true)
                    && local_address(&socket).is_some_and(|local| {
                        local.port() == listen.port()
                            && (listen.ip().is_unspecified() || local.ip() == listen.ip())
                    })
            })
        })
    })
}

/// A descriptor for the process itself; of a number it is not that of another one later.
#[allow(unsafe_code)]
fn open_process(pid: i32) -> Option<OwnedFd> {
    // SAFETY: takes two numbers; what it returns is a new descriptor, close-on-exec.
    let opened = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    let opened = RawFd::try_from(opened).ok().filter(|fd| *fd >= 0)?;
    // SAFETY: nobody else has it.
    Some(unsafe { OwnedFd::from_raw_fd(opened) })
}

/// The same open file as the process's descriptor of this number, close-on-exec.
#[allow(unsafe_code)]
fn copy_descriptor(process: &OwnedFd, number: RawFd) -> Option<OwnedFd> {
    let process = process.as_raw_fd();
    // SAFETY: takes three numbers; what it returns is a new descriptor.
    let copied = unsafe { libc::syscall(libc::SYS_pidfd_getfd, process, number, 0) };
    let copied = RawFd::try_from(copied).ok().filter(|fd| *fd >= 0)?;
    // SAFETY: nobody else has it.
    Some(unsafe { OwnedFd::from_raw_fd(copied) })
}

fn local_address(socket: &OwnedFd) -> Option<SocketAddr> {
    let address: SockaddrStorage = getsockname(socket.as_raw_fd()).ok()?;
    if let Some(v4) = address.as_sockaddr_in() {
        return Some(SocketAddr::from((v4.ip(), v4.port())));
    }
    let v6 = address.as_sockaddr_in6()?;
    Some(SocketAddr::from((v6.ip(), v6.port())))
}

/// Whether somebody listens there, and none of these sockets was made by this user; false as
/// well where that cannot be told.
#[must_use]
pub fn is_another_users(listen: SocketAddr, uid: u32) -> bool {
    let (mut anybody, mut this_user) = (false, false);
    each_row(listen, LISTENING, |row| {
        anybody = true;
        this_user = row.uid == Some(uid);
        !this_user
    });
    anybody && !this_user
}

/// The inodes of the sockets with this local address and state, of both families, each once:
/// the kernel writes a table in pieces, and what others open and close meanwhile may move a
/// socket from one piece to the next.
fn sockets(listen: SocketAddr, state: &str) -> Vec<String> {
    let rows = rows(listen, state).into_iter();
    let mut inodes: Vec<String> = rows.map(|row| row.inode).collect();
    inodes.sort_unstable();
    inodes.dedup();
    inodes
}

/// What the tables say of one socket.
struct Entry {
    /// What it has received and nobody took: of a listening one, its connections.
    waiting: u64,
    uid: Option<u32>,
    inode: String,
}

fn rows(listen: SocketAddr, state: &str) -> Vec<Entry> {
    let mut rows = Vec::new();
    each_row(listen, state, |row| {
        rows.push(row);
        true
    });
    rows
}

/// Shows `take` each socket with this local address and state, until it has enough. No more of
/// a table is held than a piece, and no more read than is asked for: every connection of the
/// last minute is in it, and the kernel looks for the next one through every bucket there is.
fn each_row(listen: SocketAddr, state: &str, mut take: impl FnMut(Entry) -> bool) {
    let port = format!(":{:04X}", listen.port());
    // Only a wildcard listener has clients on several of our addresses.
    let address = match listen.ip() {
        ip if ip.is_unspecified() => String::new(),
        IpAddr::V4(ip) => native_words(&ip.octets()),
        IpAddr::V6(ip) => native_words(&ip.octets()),
    };
    let piece = if state == LISTENING { ROW } else { PIECE };
    for table in ["/proc/net/tcp", "/proc/net/tcp6"] {
        let Ok(table) = File::open(table) else {
            continue;
        };
        let mut table = BufReader::with_capacity(piece, table);
        let (mut line, mut is_head) = (String::new(), true);
        while table.read_line(&mut line).is_ok_and(|length| length > 0) {
            match row(&line, &address, &port, state) {
                Row::Wanted(entry) => {
                    if !take(entry) {
                        return;
                    }
                }
                // Those that listen come first (proc_net_tcp.rst).
                Row::Another(it) if state == LISTENING && it != LISTENING && !is_head => break,
                Row::Another(_) => {}
            }
            is_head = false;
            line.clear();
        }
    }
}

/// What is asked for of those that listen, in bytes: a line of `/proc/net/tcp` has 150.
const ROW: usize = 256;
/// And of all others.
const PIECE: usize = 16 * 1024;

/// A line of a table: one that is looked for, or one in that state.
enum Row<'a> {
    Wanted(Entry),
    Another(&'a str),
}

fn row<'a>(line: &'a str, address: &str, port: &str, wanted: &str) -> Row<'a> {
    let mut fields = line.split_ascii_whitespace().skip(1);
    let local = fields.next().unwrap_or_default();
    let state = fields.nth(1).unwrap_or_default();
    // After the state: queues, timer, retransmissions, uid, timeout, inode.
    match fields.next() {
        Some(queues) if state == wanted && local.ends_with(port) && local.starts_with(address) => {
            let waiting = queues.split_once(':').map_or("0", |(_, received)| received);
            Row::Wanted(Entry {
                waiting: u64::from_str_radix(waiting, 16).unwrap_or(0),
                uid: fields.nth(2).and_then(|uid| uid.parse().ok()),
                inode: fields.nth(1).unwrap_or_default().to_owned(),
            })
        }
        _ => Row::Another(state),
    }
}

/// An address as the kernel prints it: words of 32 bits in the machine's byte order.
fn native_words(octets: &[u8]) -> String {
    octets
        .chunks_exact(4)
        .filter_map(|word| word.try_into().ok())
        .map(|word| format!("{:08X}", u32::from_ne_bytes(word)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, TcpStream};
    use std::time::{Duration, Instant};

    /// Whether it comes to be so: what another test forks this moment holds our sockets too,
    /// until it executes something.
    fn comes_true(so: impl Fn() -> bool) -> bool {
        let end = Instant::now() + Duration::from_secs(20);
        while !so() && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(1));
        }
        so()
    }

    #[test]
    fn a_port_is_closed_when_a_connection_is_refused_and_else_its_holder_is_named() {
        for address in ["127.0.0.1:0", "0.0.0.0:0", "[::]:0", "[::1]:0"] {
            let listener = TcpListener::bind(address).unwrap();
            let listen = listener.local_addr().unwrap();
            let own = format!("pid {} (", std::process::id());
            let named =
                || matches!(look_at_port(listen), Reach::Open(Some(it)) if it.starts_with(&own));
            assert!(comes_true(named), "{address}: {:?}", look_at_port(listen));
            drop(listener);
            let closed = || look_at_port(listen) == Reach::Closed;
            assert!(comes_true(closed), "{address}");
        }
        // Go listens on the wildcard of one family where it may not on both.
        let listener = TcpListener::bind("0.0.0.0:0").unwrap();
        let both = SocketAddr::from((Ipv6Addr::UNSPECIFIED, listener.local_addr().unwrap().port()));
        assert!(matches!(look_at_port(both), Reach::Open(_)));
    }

    #[test]
    fn every_address_is_asked_on_loopback_of_its_own_family_first() {
        let asked = |listen: &str| -> Vec<String> {
            let targets = reachable(listen.parse().unwrap()).into_iter();
            targets.map(|target| target.to_string()).collect()
        };
        assert_eq!(asked("0.0.0.0:8888"), ["127.0.0.1:8888", "[::1]:8888"]);
        assert_eq!(asked("[::]:8888"), ["[::1]:8888", "127.0.0.1:8888"]);
        for one in ["10.0.2.15:8888", "[fd00::2]:8888"] {
            assert_eq!(asked(one), [one]);
        }
    }

    #[test]
    fn a_queue_that_is_full_is_no_closed_port() {
        let listener = socket(
            AddressFamily::Inet,
            SockType::Stream,
            SockFlag::empty(),
            None,
        )
        .unwrap();
        let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        nix::sys::socket::bind(listener.as_raw_fd(), &SockaddrStorage::from(any)).unwrap();
        let least = nix::sys::socket::Backlog::new(0).unwrap();
        nix::sys::socket::listen(&listener, least).unwrap();
        let listen = local_address(&listener).unwrap();
        let waiting: Vec<_> = (0..3).filter_map(|_| begin_connect(listen).ok()).collect();
        let found = look_at_port(listen);
        assert_eq!(found, Reach::Unknown(Errno::ETIMEDOUT.desc().to_owned()));
        drop(waiting);
    }

    #[test]
    fn who_listens_is_told_without_reading_of_all_the_connections_there_were() {
        const CONNECTIONS: usize = 2000;
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let listen = listener.local_addr().unwrap();
        for _ in 0..CONNECTIONS {
            // Closed by its client first: it stays in the table for a minute.
            drop(TcpStream::connect(listen).unwrap());
            listener.accept().unwrap();
        }
        let user = nix::unistd::getuid().as_raw();
        let read = || -> usize {
            let counts = fs::read_to_string("/proc/thread-self/io").unwrap();
            let line = counts.lines().find_map(|line| line.strip_prefix("rchar: "));
            line.unwrap().parse().unwrap()
        };
        let asked = |ask: &dyn Fn()| {
            let before = read();
            ask();
            read() - before
        };
        let whole = fs::read_to_string("/proc/net/tcp").unwrap().len();
        assert!(whole > CONNECTIONS * 150, "{whole}");
        for (what, took) in [
            ("whose", asked(&|| assert!(!is_another_users(listen, user)))),
            ("how many wait", asked(&|| assert_eq!(waiting(listen), 0))),
        ] {
            assert!(took < whole / 4, "{what}: {took} of {whole} bytes");
        }
    }

    #[test]
    fn counts_the_clients_of_one_listener_and_nothing_else() {
        for address in ["127.0.0.1:0", "127.9.8.7:0", "[::1]:0"] {
            let listener = TcpListener::bind(address).unwrap();
            let listen = listener.local_addr().unwrap();
            assert_eq!(established(listen), 0);
            let own = i32::try_from(std::process::id()).unwrap();
            let number = [listener.as_raw_fd()];
            assert!(one_listens(own, number.into_iter(), listen), "{address}");
            assert_eq!(listens(own, listen), Some(true), "{address}");
            assert_eq!(listens(i32::MAX, listen), None);
            let clients: Vec<_> = (0..3)
                .map(|_| TcpStream::connect(listen).unwrap())
                .collect();
            let served: Vec<_> = (0..3).map(|_| listener.accept().unwrap()).collect();
            assert_eq!(established(listen), 3, "{address}");
            let anywhere = SocketAddr::new("0.0.0.0".parse().unwrap(), listen.port());
            assert_eq!(established(anywhere), 3, "{address}");
            let elsewhere = SocketAddr::new("127.1.2.3".parse().unwrap(), listen.port());
            assert_eq!(established(elsewhere), 0, "{address}");
            drop((clients, served));
            let elses = std::process::Command::new("sleep").arg("60").spawn();
            let mut elses = elses.unwrap();
            let pid = i32::try_from(elses.id()).unwrap();
            let user = nix::unistd::getuid().as_raw();
            assert!(!is_another_users(listen, user) && is_another_users(listen, user + 1));
            assert!(!one_listens(pid, 0..3, listen), "{address}");
            assert_eq!(listens(pid, listen), Some(false), "{address}");
            elses.kill().unwrap();
            elses.wait().unwrap();
            assert!(comes_true(|| established(listen) == 0), "{address}");
        }
    }
}
