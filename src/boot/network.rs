//! A machine's addresses, routes and names. Touches the kernel: interface ioctls
//! (netdevice(7)) and two files.

use std::fmt;
use std::mem;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;

use nix::errno::Errno;
use nix::libc;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

use super::cmdline::StaticAddress;
use crate::policy::Network;
use crate::sys::files::{Access, FileError, install};

/// The machine's own name.
pub const HOSTNAME: &str = "pipelock";
const INTERFACE: &str = "eth0";
// libc has them as c_int; the structures hold shorts.
const IFF_UP: libc::c_short = 1;
const AF_INET: libc::sa_family_t = 2;

/// Something about the network that could not be set up.
#[derive(Debug)]
pub enum NetworkError {
    /// An ioctl failed: what was tried.
    Set(String, Errno),
    /// A file could not be written.
    File(FileError),
}

impl fmt::Display for NetworkError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Set(what, errno) => {
                write!(f, "cannot {what}: {}", errno.desc())?;
                if *errno == Errno::ENODEV {
                    f.write_str("\nhint: the machine has no network device; give it one, or leave network.address out")?;
                }
                Ok(())
            }
            Self::File(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for NetworkError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Set(_, errno) => Some(errno),
            Self::File(error) => error.source(),
        }
    }
}

/// Sets the host name and brings the loopback interface up.
pub fn prepare() -> Result<(), NetworkError> {
    nix::unistd::sethostname(HOSTNAME)
        .map_err(|errno| NetworkError::Set(format!("set the host name to {HOSTNAME}"), errno))?;
    bring_up("lo")
}

/// Gives `eth0` the manifest's address, else the one of the kernel's `ip=`, and
/// writes the names.
pub fn configure(network: &Network, ip: Option<&StaticAddress>) -> Result<(), NetworkError> {
    write_names(network, ip)?;
    if let Some((address, prefix)) = network.address.or(ip.map(|ip| ip.address)) {
        set_address(address, prefix)?;
        bring_up(INTERFACE)?;
    }
    if let Some(gateway) = network.gateway.or(ip.and_then(|ip| ip.gateway)) {
        add_default_route(gateway)?;
    }
    Ok(())
}

/// Writes `/etc/hosts` and `/etc/resolv.conf`.
pub fn write_names(network: &Network, ip: Option<&StaticAddress>) -> Result<(), NetworkError> {
    let write = |path: &str, text: &str| {
        install(Path::new(path), text.as_bytes(), Access::PUBLIC).map_err(NetworkError::File)
    };
    write("/etc/hosts", &render_hosts(network))?;
    match render_resolvers(network, ip) {
        Some(resolvers) => write("/etc/resolv.conf", &resolvers),
        None => Ok(()),
    }
}

/// The text of `/etc/hosts`.
#[must_use]
pub fn render_hosts(network: &Network) -> String {
    let mut text = format!("127.0.0.1 localhost {HOSTNAME}\n::1 localhost\n");
    for (name, address) in &network.hosts {
        text.push_str(&format!("{address} {name}\n"));
    }
    text
}

/// The text of `/etc/resolv.conf`: the manifest's servers, else those of `ip=`.
fn render_resolvers(network: &Network, ip: Option<&StaticAddress>) -> Option<String> {
    let servers = match ip {
        Some(ip) if network.dns.is_empty() => &ip.dns,
        _ => &network.dns,
    };
    (!servers.is_empty()).then(|| {
        servers
            .iter()
            .map(|server| format!("nameserver {server}\n"))
            .collect()
    })
}

fn control_socket(family: AddressFamily) -> Result<OwnedFd, Errno> {
    socket(family, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)
}

fn interface_request(name: &str) -> libc::ifreq {
    #[allow(unsafe_code)]
    // SAFETY: ifreq is plain data; all zeroes is a valid value of it.
    let mut request: libc::ifreq = unsafe { mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = libc::c_char::from_ne_bytes([from]);
    }
    request
}

// musl takes the request as an int; every one of them fits.
#[allow(unsafe_code, clippy::cast_possible_truncation)]
fn control<T>(socket: &OwnedFd, request: libc::c_ulong, argument: &mut T) -> Result<(), Errno> {
    // SAFETY: every caller passes the structure that belongs to the request, and it
    // lives through the call.
    let result = unsafe {
        libc::ioctl(
            socket.as_raw_fd(),
            request as libc::Ioctl,
            std::ptr::from_mut(argument),
        )
    };
    Errno::result(result).map(drop)
}

fn bring_up(name: &str) -> Result<(), NetworkError> {
    let failed = |errno| NetworkError::Set(format!("bring interface {name} up"), errno);
    let socket = control_socket(AddressFamily::Inet).map_err(failed)?;
    let mut request = interface_request(name);
    control(&socket, libc::SIOCGIFFLAGS, &mut request).map_err(failed)?;
    #[allow(unsafe_code)]
    // SAFETY: SIOCGIFFLAGS has just filled this member of the union.
    let flags = unsafe { request.ifr_ifru.ifru_flags };
    request.ifr_ifru.ifru_flags = flags | IFF_UP;
    control(&socket, libc::SIOCSIFFLAGS, &mut request).map_err(failed)
}

fn ipv4_sockaddr(address: Ipv4Addr) -> libc::sockaddr {
    let [a, b, c, d] = address.octets();
    let mut data = [0; 14];
    for (to, from) in data.iter_mut().skip(2).zip([a, b, c, d]) {
        *to = libc::c_char::from_ne_bytes([from]);
    }
    libc::sockaddr {
        sa_family: AF_INET,
        sa_data: data,
    }
}

/// `struct in6_ifreq` of `linux/ipv6.h`, which libc leaves out.
#[repr(C)]
struct Inet6InterfaceRequest {
    address: [u8; 16],
    prefix: u32,
    index: i32,
}

fn interface_index(socket: &OwnedFd, name: &str) -> Result<i32, Errno> {
    let mut request = interface_request(name);
    control(socket, libc::SIOCGIFINDEX, &mut request)?;
    #[allow(unsafe_code)]
    // SAFETY: SIOCGIFINDEX has just filled this member of the union.
    Ok(unsafe { request.ifr_ifru.ifru_ifindex })
}

fn set_address(address: IpAddr, prefix: u8) -> Result<(), NetworkError> {
    let failed = |errno| {
        NetworkError::Set(
            format!("give {INTERFACE} the address {address}/{prefix}"),
            errno,
        )
    };
    match address {
        IpAddr::V4(ip) => {
            let socket = control_socket(AddressFamily::Inet).map_err(failed)?;
            let mask = u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0);
            for (operation, value) in [
                (libc::SIOCSIFADDR, ip),
                (libc::SIOCSIFNETMASK, Ipv4Addr::from(mask)),
            ] {
                let mut request = interface_request(INTERFACE);
                request.ifr_ifru.ifru_addr = ipv4_sockaddr(value);
                control(&socket, operation, &mut request).map_err(failed)?;
            }
            Ok(())
        }
        IpAddr::V6(ip) => {
            // An address is accepted only on an interface that is up.
            bring_up(INTERFACE)?;
            let socket = control_socket(AddressFamily::Inet6).map_err(failed)?;
            let mut request = Inet6InterfaceRequest {
                address: ip.octets(),
                prefix: u32::from(prefix),
                index: interface_index(&socket, INTERFACE).map_err(failed)?,
            };
            match control(&socket, libc::SIOCSIFADDR, &mut request) {
                Ok(()) | Err(Errno::EEXIST) => Ok(()),
                Err(errno) => Err(failed(errno)),
            }
        }
    }
}

/// `struct in6_rtmsg` of `linux/ipv6_route.h`.
#[repr(C)]
struct Inet6Route {
    destination: [u8; 16],
    source: [u8; 16],
    gateway: [u8; 16],
    kind: u32,
    destination_length: u16,
    source_length: u16,
    metric: u32,
    info: libc::c_ulong,
    flags: u32,
    index: i32,
}

fn add_default_route(gateway: IpAddr) -> Result<(), NetworkError> {
    let failed = |errno| NetworkError::Set(format!("route through {gateway}"), errno);
    let flags = libc::RTF_UP | libc::RTF_GATEWAY;
    let result = match gateway {
        IpAddr::V4(ip) => {
            let socket = control_socket(AddressFamily::Inet).map_err(failed)?;
            #[allow(unsafe_code)]
            // SAFETY: rtentry is plain data; all zeroes is a valid value of it.
            let mut route: libc::rtentry = unsafe { mem::zeroed() };
            route.rt_dst = ipv4_sockaddr(Ipv4Addr::UNSPECIFIED);
            route.rt_genmask = ipv4_sockaddr(Ipv4Addr::UNSPECIFIED);
            route.rt_gateway = ipv4_sockaddr(ip);
            route.rt_flags = flags;
            control(&socket, libc::SIOCADDRT, &mut route)
        }
        IpAddr::V6(ip) => {
            let socket = control_socket(AddressFamily::Inet6).map_err(failed)?;
            let mut route = Inet6Route {
                destination: Ipv6Addr::UNSPECIFIED.octets(),
                source: Ipv6Addr::UNSPECIFIED.octets(),
                gateway: ip.octets(),
                kind: 0,
                destination_length: 0,
                source_length: 0,
                metric: 1,
                info: 0,
                flags: u32::from(flags),
                index: interface_index(&socket, INTERFACE).map_err(failed)?,
            };
            control(&socket, libc::SIOCADDRT, &mut route)
        }
    };
    match result {
        // The kernel's ip= has set the same route.
        Ok(()) | Err(Errno::EEXIST) => Ok(()),
        Err(errno) => Err(failed(errno)),
    }
}
