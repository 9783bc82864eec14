//! CIDRs, addresses and sockets of a manifest. Pure.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::manifest::{Rejection, quoted};

/// An address and its prefix length.
pub type Prefixed = (IpAddr, u8);

/// The network pipelock may reach although it is private: one CIDR that
/// pipelock accepts (`net.ParseCIDR`, no host bits, no `/0`), in the one form that
/// it would print itself. Returned as text, which is what gets rendered.
pub fn cidr(text: &str) -> Result<String, Rejection> {
    let (address, prefix) = prefixed(text, "CIDR", |ip| {
        let ip = ip.to_canonical();
        Some(format!("write \"{ip}/{}\"", width(ip)))
    })?;
    if prefix == 0 {
        return Err(Rejection::new(format!(
            "{} is every address, and would turn pipelock's SSRF protection off",
            quoted(text)
        ))
        .hint("write the internal network alone"));
    }
    let network = network_of(address, prefix);
    if network != address {
        return Err(Rejection::new(format!(
            "{} is not a network: it has host bits set",
            quoted(text)
        ))
        .hint(format!("write \"{network}/{prefix}\"")));
    }
    let canonical = format!("{network}/{prefix}");
    if canonical != text {
        return Err(
            Rejection::new(format!("{} is not in its usual form", quoted(text)))
                .hint(format!("write \"{canonical}\"")),
        );
    }
    Ok(canonical)
}

/// An interface's own address with its prefix length; host bits are wanted.
pub fn interface(text: &str) -> Result<Prefixed, Rejection> {
    let (address, prefix) = prefixed(text, "address with a prefix length", |ip| {
        let usual = if ip.is_ipv4() { 24 } else { 64 };
        let such = format!("{ip}/{usual}");
        let hint = format!("add the prefix length, such as \"{such}\"");
        interface(&such).is_ok().then_some(hint)
    })?;
    usable(text, address)?;
    if prefix == 0 {
        return Err(Rejection::new(format!(
            "{} puts every address on the local link",
            quoted(text)
        )));
    }
    // RFC 3021: both addresses of a /31 are hosts.
    if let IpAddr::V4(v4) = address
        && prefix < 31
    {
        let host_bits = u32::MAX.checked_shr(u32::from(prefix)).unwrap_or_default();
        let what = match u32::from(v4) & host_bits {
            0 => Some("network"),
            bits if bits == host_bits => Some("broadcast"),
            _ => None,
        };
        if let Some(what) = what {
            return Err(Rejection::new(format!(
                "{} is the {what} address, not a host's",
                quoted(text)
            )));
        }
    }
    Ok((address, prefix))
}

/// An address of another host.
pub fn address(text: &str) -> Result<IpAddr, Rejection> {
    let Ok(address) = text.parse::<IpAddr>() else {
        let refusal = Rejection::new(format!("{} is not an IP address", quoted(text)));
        return Err(match meant_address(text) {
            Some(ip) => refusal.hint(format!("write \"{ip}\"")),
            None => refusal,
        });
    };
    usable(text, address)?;
    Ok(address)
}

/// The address that somebody meant with a prefix length or a zone behind it.
pub fn meant_address(text: &str) -> Option<IpAddr> {
    let bare = text.split(['/', '%']).next()?;
    let address = bare.parse().ok()?;
    usable(bare, address).is_ok().then_some(address)
}

/// Whether two addresses are in one network of this prefix length.
pub fn on_link(interface: Prefixed, other: IpAddr) -> bool {
    let (address, prefix) = interface;
    address.is_ipv4() == other.is_ipv4() && network_of(address, prefix) == network_of(other, prefix)
}

/// Address and port to listen on. Go's `:8888` is not read: which addresses it
/// means depends on the machine.
pub fn listen(text: &str) -> Result<SocketAddr, Rejection> {
    let refusal = Rejection::new(format!("{} is not an IP address and a port", quoted(text)));
    let Ok(socket) = text.parse::<SocketAddr>() else {
        return Err(match meant(text.trim()) {
            Some(meant) => refusal.hint(format!("write \"{meant}\"")),
            None => refusal
                .hint("write one address and a port, as in \"0.0.0.0:8888\" or \"[::1]:8888\""),
        });
    };
    if socket.port() == 0 {
        return Err(Rejection::new(format!(
            "{} has port 0, which is a different port at every start",
            quoted(text)
        ))
        .hint("write a port from 1 to 65535"));
    }
    if let Some(what) = no_listener(socket.ip()) {
        return Err(Rejection::new(format!(
            "{} has {what}, and no server listens there",
            quoted(text)
        ))
        .hint("write an address of the machine's own, and a port"));
    }
    if let SocketAddr::V6(v6) = socket
        && (v6.scope_id() != 0 || v6.ip().to_ipv4_mapped().is_some())
    {
        return Err(match meant(text) {
            Some(meant) => refusal.hint(format!("write \"{meant}\"")),
            None => refusal,
        });
    }
    Ok(socket)
}

/// What an address is that no server can be bound to: many hosts', or one that says nothing
/// without a zone, which is not read.
fn no_listener(ip: IpAddr) -> Option<&'static str> {
    match ip.to_canonical() {
        ip if ip.is_multicast() => Some("a multicast address"),
        IpAddr::V4(Ipv4Addr::BROADCAST) => Some("the broadcast address"),
        IpAddr::V6(ip) if ip.is_unicast_link_local() => Some("a link-local address"),
        _ => None,
    }
}

/// The address and port that somebody meant. Whoever wrote an address is never told to listen
/// on every one.
fn meant(text: &str) -> Option<SocketAddr> {
    let at = |ip: IpAddr, port| {
        let ip = ip.to_canonical();
        (no_listener(ip).is_none() && port > 0).then(|| SocketAddr::new(ip, port))
    };
    let bare = |host: &str| -> Option<IpAddr> {
        let inside = host
            .strip_prefix('[')
            .and_then(|host| host.strip_suffix(']'));
        inside.unwrap_or(host).parse().ok()
    };
    if let Some(ip) = bare(text) {
        return at(ip, 8888);
    }
    if let Ok(socket) = text.parse::<SocketAddr>() {
        return at(socket.ip(), socket.port());
    }
    let (host, port) = text.rsplit_once(':').unwrap_or(("", text));
    let port = port.parse::<u16>().ok()?;
    match host {
        "" | "*" => at(Ipv4Addr::UNSPECIFIED.into(), port),
        "localhost" => at(Ipv4Addr::LOCALHOST.into(), port),
        // An address of IPv6 without its brackets may end anywhere.
        _ if host.contains(':') && !host.starts_with('[') => None,
        _ => at(bare(host)?, port),
    }
}

/// Address and prefix length as Go's `net.ParseCIDR` reads them, but for leading
/// zeros and IPv4 in IPv6 form, which are refused.
fn prefixed(
    text: &str,
    wanted: &str,
    bare: impl FnOnce(IpAddr) -> Option<String>,
) -> Result<Prefixed, Rejection> {
    let refuse = |cause: &str| {
        let article = if wanted.starts_with('a') { "an" } else { "a" };
        Rejection::new(format!(
            "{} is not {article} {wanted}: {cause}",
            quoted(text)
        ))
    };
    let Some((address, prefix)) = text.split_once('/') else {
        return Err(match text.parse::<IpAddr>() {
            Ok(ip) => {
                let refusal = refuse("it has no prefix length");
                match bare(ip) {
                    Some(hint) => refusal.hint(hint),
                    None => refusal,
                }
            }
            Err(_) => refuse("an address, a slash and a prefix length are wanted"),
        });
    };
    let Ok(address) = address.parse::<IpAddr>() else {
        return Err(if address.contains('%') {
            refuse("it has a zone")
        } else {
            refuse(&format!("{} is not an IP address", quoted(address)))
        });
    };
    if let IpAddr::V6(v6) = address
        && let Some(v4) = v6.to_ipv4_mapped()
    {
        return Err(refuse("it is an IPv4 address in IPv6 form")
            .hint(format!("write it as IPv4, starting \"{v4}/\"")));
    }
    let digits = !prefix.is_empty()
        && prefix.bytes().all(|b| b.is_ascii_digit())
        && (prefix == "0" || !prefix.starts_with('0'));
    match prefix.parse::<u8>() {
        Ok(length) if digits && length <= width(address) => Ok((address, length)),
        _ => Err(refuse(&format!(
            "{} is not a prefix length from 0 to {}",
            quoted(prefix),
            width(address)
        ))),
    }
}

fn usable(text: &str, address: IpAddr) -> Result<(), Rejection> {
    let mapped = matches!(address, IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some());
    let cause = if address.is_unspecified() {
        "the unspecified address"
    } else if address.is_multicast() {
        "a multicast address"
    } else if address == IpAddr::V4(Ipv4Addr::BROADCAST) {
        "the broadcast address"
    } else if mapped {
        "an IPv4 address in IPv6 form"
    } else {
        return Ok(());
    };
    Err(Rejection::new(format!(
        "{} is {cause}, not a host's",
        quoted(text)
    )))
}

fn width(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

fn network_of(address: IpAddr, prefix: u8) -> IpAddr {
    match address {
        IpAddr::V4(v4) => {
            let host_bits = u32::MAX.checked_shr(u32::from(prefix)).unwrap_or_default();
            Ipv4Addr::from(u32::from(v4) & !host_bits).into()
        }
        IpAddr::V6(v6) => {
            let host_bits = u128::MAX.checked_shr(u32::from(prefix)).unwrap_or_default();
            Ipv6Addr::from(u128::from(v6) & !host_bits).into()
        }
    }
}
