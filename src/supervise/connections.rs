//! Counts the clients connected to the daemon. Touches the kernel: `/proc/net`.
//!
//! `pipelock_active_tunnels` leaves intercepted tunnels out: it is 0 while an agent is
//! in the middle of a response, so draining by it alone would cut that response off.

use std::fs;
use std::net::{IpAddr, SocketAddr};

/// The state `TCP_ESTABLISHED` as `/proc/net/tcp` writes it (proc_net_tcp.txt).
const ESTABLISHED: &str = "01";

/// Established connections to what the daemon listens on; 0 without `/proc`.
#[must_use]
pub fn established(listen: SocketAddr) -> u64 {
    ["/proc/net/tcp", "/proc/net/tcp6"]
        .iter()
        .filter_map(|table| fs::read_to_string(table).ok())
        .map(|table| count(&table, listen))
        .sum()
}

fn count(table: &str, listen: SocketAddr) -> u64 {
    let port = format!(":{:04X}", listen.port());
    // Only a wildcard listener has clients on several of our addresses.
    let address = match listen.ip() {
        ip if ip.is_unspecified() => String::new(),
        IpAddr::V4(ip) => native_words(&ip.octets()),
        IpAddr::V6(ip) => native_words(&ip.octets()),
    };
    let is_client = |line: &&str| {
        let mut fields = line.split_ascii_whitespace().skip(1);
        let local = fields.next().unwrap_or_default();
        local.ends_with(&port) && local.starts_with(&address) && fields.nth(1) == Some(ESTABLISHED)
    };
    table.lines().skip(1).filter(is_client).count() as u64
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
            assert_eq!(established(listen), 0, "{address}");
        }
    }
}
