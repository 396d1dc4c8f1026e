//! What a packet carries, and which flow it belongs to.

use std::hash::{DefaultHasher, Hash, Hasher};

use chadthrottle_ebpf::packet::{self, Bytes};

/// A packet that waits for its verdict.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Packet {
    /// Which [`super::port::Port`] it came from.
    pub(super) port: usize,
    /// Which queue of it.
    pub(super) queue: u16,
    /// Its name there.
    pub(super) id: u32,
    /// Payload.
    pub(super) bytes: u32,
    /// The same for all packets of a connection in one direction.
    pub(super) flow: u64,
    /// It may pass before others of its flow: a TCP segment that only acknowledges.
    pub(super) overtakes: bool,
}

/// The first bytes of a packet.
struct Start<'a>(&'a [u8]);

impl Bytes for Start<'_> {
    fn read<const N: usize>(&self, offset: u32) -> Option<[u8; N]> {
        self.0.get(offset as usize..)?.first_chunk().copied()
    }
}

/// What `start`, the first bytes of a packet of `length` bytes, tells.
pub(super) fn read(port: usize, queue: u16, id: u32, length: u32, start: &[u8]) -> Packet {
    let found = packet::payload(&Start(start), length);
    // What is not IP or cannot be read counts in full.
    let bytes = found.map_or(length, |payload| payload.bytes);
    let transport = transport(start);
    let is_tcp = found.is_some_and(|payload| payload.tcp);
    let overtakes = bytes == 0 && is_tcp && transport.is_some_and(only_acknowledges);
    Packet { port, queue, id, bytes, flow: flow(start, transport), overtakes }
}

/// The transport header, when it follows the IP header at once and is there.
fn transport(start: &[u8]) -> Option<&[u8]> {
    match start.first()? >> 4 {
        // Only the first fragment has one.
        4 if fragment_offset(start)? == 0 => start.get(usize::from(start[0] & 15) * 4..),
        6 if matches!(*start.get(6)?, 6 | 17) => start.get(40..),
        _ => None,
    }
}

/// Where in its packet an IPv4 fragment starts (RFC 791, section 3.1).
fn fragment_offset(start: &[u8]) -> Option<u16> {
    let field: [u8; 2] = start.get(6..8)?.try_into().ok()?;
    Some(u16::from_be_bytes(field) & 0x1fff)
}

/// No SYN, FIN or RST (RFC 9293, section 3.1), which must keep their place.
fn only_acknowledges(tcp: &[u8]) -> bool {
    const FIN_SYN_RST: u8 = 0b111;
    tcp.get(13).is_some_and(|flags| (flags & FIN_SYN_RST).count_ones() == 0)
}

/// Addresses, protocol and ports, as a hash: two flows that share one share their turn.
fn flow(start: &[u8], transport: Option<&[u8]>) -> u64 {
    let mut hasher = DefaultHasher::new();
    let (addresses, protocol) = match start.first().map(|byte| byte >> 4) {
        Some(4) => (start.get(12..20), start.get(9)),
        Some(6) => (start.get(8..40), start.get(6)),
        _ => (None, None),
    };
    addresses.hash(&mut hasher);
    protocol.hash(&mut hasher);
    transport.and_then(|header| header.get(..4)).hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tcp(port: u8, flags: u8, data: u32) -> Packet {
        let mut packet = vec![0; 40];
        packet[0] = 0x45;
        packet[9] = 6;
        packet[19] = 9;
        packet[21] = port;
        packet[32] = 5 << 4;
        packet[33] = flags;
        read(0, 5, 1, 40 + data, &packet)
    }

    #[test]
    fn the_payload_is_what_is_paid_for() {
        assert_eq!(tcp(1, 0x10, 1448).bytes, 1448);
        assert_eq!(read(0, 5, 1, 99, &[0; 4]).bytes, 99, "not IP");
    }

    #[test]
    fn only_acknowledgements_overtake() {
        assert!(tcp(1, 0x10, 0).overtakes);
        assert!(!tcp(1, 0x11, 0).overtakes, "FIN");
        assert!(!tcp(1, 0x02, 0).overtakes, "SYN");
        assert!(!tcp(1, 0x10, 1).overtakes, "data");
    }

    #[test]
    fn flows_differ_by_port() {
        assert_eq!(tcp(1, 0x10, 7).flow, tcp(1, 0x18, 9).flow);
        assert_ne!(tcp(1, 0x10, 7).flow, tcp(2, 0x10, 7).flow);
    }
}
