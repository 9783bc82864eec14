//! A machine's addresses, routes and names. Touches the kernel through
//! [`crate::sys::interfaces`], and two files.

use std::fmt;
use std::path::Path;

use nix::errno::Errno;

use super::cmdline::StaticAddress;
use crate::policy::Network;
use crate::sys::files::{Access, FileError, install};
use crate::sys::interfaces;

/// The machine's own name.
pub const HOSTNAME: &str = "pipelock";
const INTERFACE: &str = "eth0";

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
        if address.is_ipv6() {
            bring_up(INTERFACE)?;
            // Where it cannot be left out, the address can be used a second later.
            let _ = interfaces::leave_out_duplicate_detection(INTERFACE);
        }
        interfaces::set_address(INTERFACE, address, prefix).map_err(|errno| {
            let what = format!("give {INTERFACE} the address {address}/{prefix}");
            NetworkError::Set(what, errno)
        })?;
        bring_up(INTERFACE)?;
    }
    if let Some(gateway) = network.gateway.or(ip.and_then(|ip| ip.gateway)) {
        interfaces::add_default_route(INTERFACE, gateway)
            .map_err(|errno| NetworkError::Set(format!("route through {gateway}"), errno))?;
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

fn bring_up(name: &str) -> Result<(), NetworkError> {
    interfaces::bring_up(name)
        .map_err(|errno| NetworkError::Set(format!("bring interface {name} up"), errno))
}
