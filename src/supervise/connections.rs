//! Who is connected to the daemon's port, and whose port it is. Touches the kernel:
//! `/proc/net` and the daemon's `/proc/<pid>/fd`.
//!
//! `pipelock_active_tunnels` leaves intercepted tunnels out: it is 0 while an agent is
//! in the middle of a response, so draining by it alone would cut that response off.

use std::fs;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

use nix::libc;
use nix::sys::socket::{SockaddrStorage, getsockname, getsockopt, sockopt};

use super::sandbox::sees_processes;
use crate::install::read_kernel_file;

/// Socket states as `/proc/net/tcp` writes them (proc_net_tcp.txt).
const ESTABLISHED: &str = "01";
const LISTENING: &str = "0A";

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
            let inode = target
                .to_str()?
                .strip_prefix("socket:[")?
                .strip_suffix(']')?;
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

/// The inodes of the sockets with this local address and state, of both families.
fn sockets(listen: SocketAddr, state: &str) -> Vec<String> {
    let rows = rows(listen, state).into_iter();
    rows.map(|row| row.inode).collect()
}

/// What the tables say of one socket.
struct Row {
    /// What it has received and nobody took: of a listening one, its connections.
    waiting: u64,
    inode: String,
}

fn rows(listen: SocketAddr, state: &str) -> Vec<Row> {
    ["/proc/net/tcp", "/proc/net/tcp6"]
        .iter()
        .filter_map(|table| read_kernel_file(table).ok())
        .flat_map(|table| matching(&table, listen, state))
        .collect()
}

fn matching(table: &str, listen: SocketAddr, state: &str) -> Vec<Row> {
    let port = format!(":{:04X}", listen.port());
    // Only a wildcard listener has clients on several of our addresses.
    let address = match listen.ip() {
        ip if ip.is_unspecified() => String::new(),
        IpAddr::V4(ip) => native_words(&ip.octets()),
        IpAddr::V6(ip) => native_words(&ip.octets()),
    };
    let row = |line: &str| {
        let mut fields = line.split_ascii_whitespace().skip(1);
        let local = fields.next()?;
        let matches =
            local.ends_with(&port) && local.starts_with(&address) && fields.nth(1) == Some(state);
        // After the state: queues, timer, retransmissions, uid, timeout, inode.
        let queues = fields.next().filter(|_| matches)?;
        let waiting = queues.split_once(':').map_or("0", |(_, received)| received);
        Some(Row {
            waiting: u64::from_str_radix(waiting, 16).unwrap_or(0),
            inode: fields.nth(4).unwrap_or_default().to_owned(),
        })
    };
    table.lines().skip(1).filter_map(row).collect()
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
            assert!(!one_listens(pid, 0..3, listen), "{address}");
            assert_eq!(listens(pid, listen), Some(false), "{address}");
            elses.kill().unwrap();
            elses.wait().unwrap();
            assert_eq!(established(listen), 0, "{address}");
        }
    }
}
