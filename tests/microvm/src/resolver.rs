//! A name server on the guest's own network segment that records what it is asked.
//!
//! QEMU's user-mode network can only pass DNS on to the host's resolver, and a server on
//! the host would need the privileged port 53. So this one is a host of its own, on the
//! wire between the guest's card and that network: QEMU hands every Ethernet frame to a
//! datagram socket, the few kinds that are for us are answered here, ARP (RFC 826) and
//! DNS (RFC 1035) over UDP over IPv4, and all others go on to the other side. The
//! user-mode network must not see the questions: it takes every address of the segment
//! for the host's loopback, and says by ICMP that nobody listens there.

use std::net::Ipv4Addr;
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use crate::{Error, ScratchDir};

/// Where the guest finds the recording resolver.
pub const RESOLVER_ADDRESS: &str = "10.0.2.53";

const ADDRESS: [u8; 4] = [10, 0, 2, 53];
const MAC: [u8; 6] = [0x52, 0x54, 0, 0x0a, 0, 0x35];
const TYPE_A: u16 = 1;

/// A question the guest asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Query {
    /// The name, lower-case, without the final dot.
    pub name: String,
    /// The record type: 1 is A, 28 is AAAA.
    pub record_type: u16,
}

type Names = Vec<(String, Ipv4Addr)>;

/// One end of the wire: a socket of ours, and one of QEMU's.
#[derive(Debug)]
pub(crate) struct Port {
    /// Where QEMU sends this end's frames.
    pub(crate) socket: PathBuf,
    /// Where QEMU receives ours.
    pub(crate) peer: PathBuf,
}

impl Port {
    fn bind(scratch: &ScratchDir, name: &str) -> Result<(Port, UnixDatagram), Error> {
        let port = Port {
            socket: scratch.join(format!("{name}.sock")),
            peer: scratch.join(format!("{name}-q.sock")),
        };
        let listening = UnixDatagram::bind(&port.socket)
            .map_err(Error::io(format!("listen on {}", port.socket.display())))?;
        Ok((port, listening))
    }

    /// Hands every frame that arrives to `pass`, until the drop's empty one.
    fn relay(listening: UnixDatagram, mut pass: impl FnMut(&[u8]) + Send + 'static) {
        std::thread::spawn(move || {
            let mut buffer = vec![0; 65536];
            while let Ok(length @ 1..) = listening.recv(&mut buffer) {
                pass(buffer.get(..length).unwrap_or_default());
            }
        });
    }
}

impl Drop for Port {
    fn drop(&mut self) {
        // Wakes the thread, which ends; it has ended already if this fails.
        let _ = UnixDatagram::unbound().and_then(|socket| socket.send_to(&[], &self.socket));
    }
}

#[derive(Debug)]
pub(crate) struct Resolver {
    /// The guest's card.
    pub(crate) card: Port,
    /// The user-mode network.
    pub(crate) network: Port,
    queries: Arc<Mutex<Vec<Query>>>,
}

impl Resolver {
    pub(crate) fn start(scratch: &ScratchDir, names: Names) -> Result<Resolver, Error> {
        let (card, from_card) = Port::bind(scratch, "card")?;
        let (network, from_network) = Port::bind(scratch, "net")?;
        let queries = Arc::new(Mutex::new(Vec::new()));

        let sender = UnixDatagram::unbound().map_err(Error::io("make a socket"))?;
        let recorded = Arc::clone(&queries);
        let (to_card, to_network) = (card.peer.clone(), network.peer.clone());
        // A send fails when QEMU is ending, and then nobody misses the frame.
        Port::relay(from_card, move |frame| {
            let mut record = |query| {
                let mut queries = recorded.lock().unwrap_or_else(PoisonError::into_inner);
                queries.push(query);
            };
            let _ = match answer_frame(frame, &names, &mut record) {
                Some(answer) => sender.send_to(&answer, &to_card),
                None if is_for_us(frame) => Ok(0),
                None => sender.send_to(frame, &to_network),
            };
        });
        let sender = UnixDatagram::unbound().map_err(Error::io("make a socket"))?;
        let to_card = card.peer.clone();
        Port::relay(from_network, move |frame| {
            let _ = sender.send_to(frame, &to_card);
        });
        Ok(Resolver {
            card,
            network,
            queries,
        })
    }

    pub(crate) fn queries(&self) -> Vec<Query> {
        self.queries
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

fn is_for_us(frame: &[u8]) -> bool {
    frame.get(..6).is_some_and(|destination| destination == MAC)
}

fn answer_frame(frame: &[u8], names: &Names, record: &mut impl FnMut(Query)) -> Option<Vec<u8>> {
    let sender = frame.get(6..12)?;
    let payload = frame.get(14..)?;
    let (kind, answer) = match frame.get(12..14)? {
        [0x08, 0x06] => ([0x08, 0x06], answer_arp(payload)?),
        [0x08, 0x00] if is_for_us(frame) => ([0x08, 0x00], answer_ip(payload, names, record)?),
        _ => return None,
    };
    Some([sender, &MAC, &kind, &answer].concat())
}

/// "Who has our address?" "We have."
fn answer_arp(request: &[u8]) -> Option<Vec<u8>> {
    let is_request = request.get(..8)? == [0, 1, 8, 0, 6, 4, 0, 1];
    let asks_for_us = request.get(24..28)? == ADDRESS;
    let asker = request.get(8..18)?;
    (is_request && asks_for_us)
        .then(|| [&[0, 1, 8, 0, 6, 4, 0, 2], &MAC[..], &ADDRESS, asker].concat())
}

/// UDP to our port 53, unfragmented; everything else is silence.
fn answer_ip(packet: &[u8], names: &Names, record: &mut impl FnMut(Query)) -> Option<Vec<u8>> {
    let header = usize::from(packet.first()? & 0x0f) * 4;
    let is_udp = *packet.get(9)? == 17 && packet.get(16..20)? == ADDRESS;
    let segment = packet.get(header..)?;
    if !is_udp || segment.get(2..4)? != [0, 53] {
        return None;
    }
    let source = packet.get(12..16)?;
    let length = usize::from(u16_at(segment, 4)?);
    let answer = answer_dns(segment.get(8..length)?, names, record)?;

    let udp_length = u16::try_from(8 + answer.len()).ok()?;
    let total = (20 + udp_length).to_be_bytes();
    let mut ip = [
        &[0x45, 0][..],
        &total,
        &[0, 0, 0x40, 0, 64, 17, 0, 0],
        &ADDRESS,
        source,
    ]
    .concat();
    let checksum = internet_checksum(&ip).to_be_bytes();
    ip.get_mut(10..12)?.copy_from_slice(&checksum);
    // A UDP checksum of zero means none was made (RFC 768).
    let udp = [
        &[0, 53],
        segment.get(..2)?,
        &udp_length.to_be_bytes(),
        &[0, 0],
    ]
    .concat();
    Some([ip, udp, answer].concat())
}

/// One question to a message, as every client asks. A known name has its address, an empty
/// answer for other record types; an unknown one does not exist.
fn answer_dns(message: &[u8], names: &Names, record: &mut impl FnMut(Query)) -> Option<Vec<u8>> {
    let is_query = message.get(2)? & 0x80 == 0 && message.get(4..6)? == [0, 1];
    if !is_query {
        return None;
    }
    let mut labels = Vec::new();
    let mut at = 12;
    loop {
        let length = usize::from(*message.get(at)?);
        at += 1;
        if length == 0 {
            break;
        }
        labels.push(String::from_utf8_lossy(message.get(at..at + length)?).to_lowercase());
        at += length;
    }
    let name = labels.join(".");
    let record_type = u16_at(message, at)?;
    let question = message.get(12..at + 4)?;
    let address = names
        .iter()
        .find(|(known, _)| *known == name)
        .map(|(_, address)| *address);
    record(Query { name, record_type });

    let answered = address.filter(|_| record_type == TYPE_A);
    let recursion_desired = message.get(2)? & 1;
    let not_found = if address.is_none() { 3 } else { 0 };
    let flags = [0x84 | recursion_desired, 0x80 | not_found];
    let counts = [0, 1, 0, u8::from(answered.is_some()), 0, 0, 0, 0];
    let mut answer = [message.get(..2)?, &flags, &counts, question].concat();
    if let Some(address) = answered {
        // The name again by pointer, A, IN, no caching, four bytes.
        answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 0, 0, 4]);
        answer.extend(address.octets());
    }
    Some(answer)
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    bytes
        .get(at..at + 2)?
        .try_into()
        .ok()
        .map(u16::from_be_bytes)
}

/// RFC 1071.
fn internet_checksum(bytes: &[u8]) -> u16 {
    let mut sum: u32 = bytes
        .chunks_exact(2)
        .filter_map(|pair| pair.try_into().ok())
        .map(|pair| u32::from(u16::from_be_bytes(pair)))
        .sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn question(name: &str, record_type: u8) -> Vec<u8> {
        let mut message = vec![0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        for label in name.split('.') {
            message.push(u8::try_from(label.len()).unwrap());
            message.extend(label.as_bytes());
        }
        message.extend([0, 0, record_type, 0, 1]);
        message
    }

    fn ask(name: &str, record_type: u8) -> (Vec<u8>, Vec<Query>) {
        let names = vec![("upstream.test".to_owned(), Ipv4Addr::new(10, 0, 2, 2))];
        let mut queries = Vec::new();
        let answer = answer_dns(&question(name, record_type), &names, &mut |query| {
            queries.push(query);
        });
        (answer.unwrap(), queries)
    }

    #[test]
    fn answers_a_known_name_with_its_address_and_records_the_question() {
        let (answer, queries) = ask("Upstream.test", 1);
        assert_eq!(answer[..4], [0x12, 0x34, 0x85, 0x80]);
        assert_eq!(answer[answer.len() - 4..], [10, 0, 2, 2]);
        assert_eq!(
            queries,
            [Query {
                name: "upstream.test".into(),
                record_type: 1
            }]
        );
    }

    #[test]
    fn has_no_records_of_other_types_for_a_known_name() {
        let (answer, _) = ask("upstream.test", 28);
        assert_eq!((answer[3] & 0x0f, answer[7]), (0, 0));
    }

    #[test]
    fn denies_that_an_unknown_name_exists() {
        let (answer, _) = ask("elsewhere.test", 1);
        assert_eq!((answer[3] & 0x0f, answer[7]), (3, 0));
    }

    #[test]
    fn ignores_frames_that_are_cut_short() {
        let names = Vec::new();
        let dns = question("a.test", 1);
        let udp_length = u16::try_from(dns.len() + 8).unwrap().to_be_bytes();
        let ip = [
            &[0x45, 0, 0, 0, 0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 2, 15],
            &ADDRESS[..],
        ]
        .concat();
        let udp = [&[0x80, 1, 0, 53], &udp_length[..], &[0, 0]].concat();
        let frame = [&MAC[..], &[2; 6], &[8, 0], &ip, &udp, &dns].concat();
        assert!(answer_frame(&frame, &names, &mut |_| ()).is_some());
        for length in 0..frame.len() {
            assert_eq!(answer_frame(&frame[..length], &names, &mut |_| ()), None);
        }
    }
}
