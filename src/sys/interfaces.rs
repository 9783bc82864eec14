//! A machine's interfaces: addresses, routes, up. Touches the kernel: ioctls (netdevice(7)),
//! and a file of `/proc/sys`.

use std::mem;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsRawFd, OwnedFd};
use std::{fs, io};

use nix::errno::Errno;
use nix::libc;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

// libc has them as c_int; the structures hold shorts.
const IFF_UP: libc::c_short = 1;
const AF_INET: libc::sa_family_t = 2;

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

/// Brings an interface up.
pub fn bring_up(name: &str) -> Result<(), Errno> {
    let socket = control_socket(AddressFamily::Inet)?;
    let mut request = interface_request(name);
    control(&socket, libc::SIOCGIFFLAGS, &mut request)?;
    #[allow(unsafe_code)]
    // SAFETY: SIOCGIFFLAGS has just filled this member of the union.
    let flags = unsafe { request.ifr_ifru.ifru_flags };
    request.ifr_ifru.ifru_flags = flags | IFF_UP;
    control(&socket, libc::SIOCSIFFLAGS, &mut request)
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

/// Has addresses of version 6 serve at once. For a second the kernel asks whether another has
/// the same one (RFC 4862, 5.4), and nothing can be bound to it meanwhile; of an address of
/// version 4, which somebody chose as well, nobody asks that.
pub fn leave_out_duplicate_detection(name: &str) -> io::Result<()> {
    fs::write(format!("/proc/sys/net/ipv6/conf/{name}/accept_dad"), "0")
}

/// Gives an interface an address. One of version 6 is accepted only if it is up.
pub fn set_address(name: &str, address: IpAddr, prefix: u8) -> Result<(), Errno> {
    match address {
        IpAddr::V4(ip) => {
            let socket = control_socket(AddressFamily::Inet)?;
            let mask = u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0);
            for (operation, value) in [
                (libc::SIOCSIFADDR, ip),
                (libc::SIOCSIFNETMASK, Ipv4Addr::from(mask)),
            ] {
                let mut request = interface_request(name);
                request.ifr_ifru.ifru_addr = ipv4_sockaddr(value);
                control(&socket, operation, &mut request)?;
            }
            Ok(())
        }
        IpAddr::V6(ip) => {
            let socket = control_socket(AddressFamily::Inet6)?;
            let mut request = Inet6InterfaceRequest {
                address: ip.octets(),
                prefix: u32::from(prefix),
                index: interface_index(&socket, name)?,
            };
            unless_there(control(&socket, libc::SIOCSIFADDR, &mut request))
        }
    }
}

fn unless_there(result: Result<(), Errno>) -> Result<(), Errno> {
    match result {
        Err(Errno::EEXIST) => Ok(()),
        result => result,
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

/// Routes everything through `gateway`. The kernel's `ip=` may have set the same route.
pub fn add_default_route(name: &str, gateway: IpAddr) -> Result<(), Errno> {
    let flags = libc::RTF_UP | libc::RTF_GATEWAY;
    unless_there(match gateway {
        IpAddr::V4(ip) => {
            let socket = control_socket(AddressFamily::Inet)?;
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
            let socket = control_socket(AddressFamily::Inet6)?;
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
                index: interface_index(&socket, name)?,
            };
            control(&socket, libc::SIOCADDRT, &mut route)
        }
    })
}
