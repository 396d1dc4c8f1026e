//! How much payload a packet carries: what an application calls its data.
//!
//! A GSO packet holds one set of headers, so its length without them is exact; packets that
//! only acknowledge carry nothing and cost nothing.

/// Payload of a full TCP segment at an MTU of 1500 with timestamps, bytes.
pub const MSS: u64 = 1448;

/// `IPPROTO_TCP`.
pub const TCP: u8 = 6;
/// `IPPROTO_UDP`.
const UDP: u8 = 17;
/// Where a TCP header says how long it is, bytes ...
pub const TCP_DATA_OFFSET: u32 = 12;
/// ... where it has its window ...
pub const TCP_WINDOW: u32 = 14;
/// ... and its checksum.
pub const TCP_CHECKSUM: u32 = 16;
/// Bytes of a TCP header without options.
const TCP_HEADER: u32 = 20;
/// So many options are looked through for that of MPTCP: it comes last, behind padded timestamps and SACK.
const OPTIONS: u32 = 8;
/// Kinds of options: the end, padding, MPTCP (RFC 8684).
const END: u8 = 0;
const NO_OPERATION: u8 = 1;
const MPTCP: u8 = 30;
/// Its subtype that maps data to subflows, with these flags: it acknowledges data, and by 8 bytes.
const DSS: u8 = 2;
const DATA_ACK: u8 = 1;
const LONG_DATA_ACK: u8 = 2;
/// Bytes of a UDP header.
const UDP_HEADER: u32 = 8;
/// Bytes of the fixed IPv6 header.
const IPV6_HEADER: u32 = 40;
/// IPv6 extension headers that are skipped; a packet with more counts them as payload.
const MAX_EXTENSIONS: u32 = 4;

/// A packet from its IP header on.
pub trait Bytes {
    /// `N` bytes at `offset`, if the packet has them.
    fn read<const N: usize>(&self, offset: u32) -> Option<[u8; N]>;
}

/// What a packet is to us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Payload {
    /// Whether it is TCP; then it can be paced instead of refused.
    pub tcp: bool,
    /// Bytes after the transport header.
    pub bytes: u32,
}

/// The payload of a packet of `length` bytes. `None`: not IP, or too short to tell.
#[inline]
pub fn payload(packet: &impl Bytes, length: u32) -> Option<Payload> {
    let (protocol, headers) = transport(packet)?;
    let transport = match protocol {
        TCP => {
            let [offset] = packet.read(headers + TCP_DATA_OFFSET)?;
            u32::from(offset >> 4) * 4
        }
        UDP => UDP_HEADER,
        _ => 0,
    };
    let bytes = length.saturating_sub(headers + transport);
    Some(Payload { tcp: protocol == TCP, bytes })
}

/// The lower half of what a segment acknowledges of an MPTCP connection's data (`DATA_ACK`); its TCP
/// header starts at `header`. `None`: nothing, as in plain TCP.
#[inline]
pub fn data_acknowledged(packet: &impl Bytes, header: u32) -> Option<u32> {
    let [words] = packet.read(header + TCP_DATA_OFFSET)?;
    let end = header + u32::from(words >> 4) * 4;
    let mut at = header + TCP_HEADER;
    for _ in 0..OPTIONS {
        if at >= end {
            break;
        }
        let [kind, length, subtype, flags] = packet.read(at)?;
        match kind {
            END => break,
            NO_OPERATION => at += 1,
            MPTCP if subtype >> 4 == DSS && flags & DATA_ACK != 0 => {
                let lower = if flags & LONG_DATA_ACK != 0 { at + 8 } else { at + 4 };
                return Some(u32::from_be_bytes(packet.read(lower)?));
            }
            _ => at += u32::from(length),
        }
    }
    None
}

/// The transport protocol, and where its header starts. `None` as with [`payload`].
#[inline]
pub fn transport(packet: &impl Bytes) -> Option<(u8, u32)> {
    let start: [u8; 10] = packet.read(0)?;
    match start[0] >> 4 {
        4 => Some((start[9], u32::from(start[0] & 15) * 4)),
        6 => Some(after_extensions(packet, start[6])),
        _ => None,
    }
}

/// The transport protocol behind IPv6 extension headers, and where it starts.
#[inline]
fn after_extensions(packet: &impl Bytes, first: u8) -> (u8, u32) {
    /// Hop-by-hop options, routing, fragment, destination options (RFC 8200).
    const HOP: u8 = 0;
    const ROUTING: u8 = 43;
    const FRAGMENT: u8 = 44;
    const DESTINATION: u8 = 60;

    let (mut next, mut offset) = (first, IPV6_HEADER);
    for _ in 0..MAX_EXTENSIONS {
        if !matches!(next, HOP | ROUTING | FRAGMENT | DESTINATION) {
            break;
        }
        let Some([following, length]) = packet.read(offset) else { break };
        offset += if next == FRAGMENT { 8 } else { (u32::from(length) + 1) * 8 };
        next = following;
    }
    (next, offset)
}

#[cfg(test)]
mod tests {
    extern crate std;
    use std::{vec, vec::Vec};

    use proptest::prelude::*;

    use super::*;

    impl Bytes for Vec<u8> {
        fn read<const N: usize>(&self, offset: u32) -> Option<[u8; N]> {
            self.get(offset as usize..)?.get(..N)?.try_into().ok()
        }
    }

    fn of(packet: &Vec<u8>) -> Option<(bool, u32)> {
        payload(packet, packet.len() as u32).map(|p| (p.tcp, p.bytes))
    }

    fn ipv4(protocol: u8, options: usize, transport: &[u8], data: usize) -> Vec<u8> {
        let mut packet = vec![0; 20 + options];
        packet[0] = 0x40 | (5 + options as u8 / 4);
        packet[9] = protocol;
        packet.extend(transport);
        packet.resize(packet.len() + data, 0xaa);
        packet
    }

    fn tcp_header(length: usize) -> Vec<u8> {
        let mut header = vec![0; length];
        header[12] = (length as u8 / 4) << 4;
        header
    }

    #[test]
    fn ipv4_tcp_and_udp() {
        assert_eq!(of(&ipv4(TCP, 0, &tcp_header(32), 1448)), Some((true, 1448)));
        assert_eq!(of(&ipv4(TCP, 0, &tcp_header(40), 0)), Some((true, 0)), "a SYN is free");
        assert_eq!(of(&ipv4(TCP, 8, &tcp_header(20), 1)), Some((true, 1)), "IP options");
        assert_eq!(of(&ipv4(UDP, 0, &[0; 8], 1400)), Some((false, 1400)));
        assert_eq!(of(&ipv4(1, 0, &[], 64)), Some((false, 64)), "ICMP");
    }

    #[test]
    fn data_acknowledged_by_mptcp() {
        let segment = |options: &[u8]| {
            let mut segment = tcp_header(20 + options.len());
            segment[20..].copy_from_slice(options);
            data_acknowledged(&segment, 0)
        };
        let timestamps = [1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2];
        let with = |option: &[u8]| segment(&[&timestamps, option].concat());
        assert_eq!(with(&[30, 12, 0x20, 3, 9, 9, 9, 9, 0, 0, 1, 2]), Some(0x102), "8 bytes");
        assert_eq!(with(&[30, 8, 0x20, 1, 0, 0, 1, 2]), Some(0x102), "4 bytes");
        assert_eq!(with(&[30, 8, 0x20, 4, 0, 0, 1, 2]), None, "a mapping alone");
        assert_eq!(with(&[30, 8, 0x30, 1, 0, 0, 1, 2]), None, "an address");
        assert_eq!(segment(&timestamps), None, "plain TCP");
        assert_eq!(segment(&[9, 0, 0, 0]), None, "an option of no length");
        let sack = [1, 1, 5, 10, 0, 0, 0, 1, 0, 0, 0, 2];
        let behind = [&timestamps[..], &sack, &[30, 8, 0x20, 1, 0, 0, 1, 2]].concat();
        assert_eq!(segment(&behind), Some(0x102));
    }

    #[test]
    fn ipv6_with_extension_headers() {
        let mut packet = vec![0; 40];
        packet[0] = 0x60;
        packet[6] = 0; // hop-by-hop, 8 bytes
        packet.extend([60, 0, 0, 0, 0, 0, 0, 0]); // destination options, 16 bytes
        packet.extend([44, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        packet.extend([TCP, 9, 0, 0, 0, 0, 0, 0]); // fragment, always 8
        packet.extend(tcp_header(32));
        packet.extend([1; 777]);
        assert_eq!(of(&packet), Some((true, 777)));
    }

    #[test]
    fn what_is_not_ip_is_left_alone() {
        assert_eq!(of(&vec![]), None);
        assert_eq!(of(&vec![0; 60]), None);
        assert_eq!(of(&ipv4(TCP, 0, &[], 0)), None, "truncated");
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(packet in prop::collection::vec(any::<u8>(), 0..200)) {
            let length = packet.len() as u32;
            if let Some(found) = payload(&packet, length) {
                prop_assert!(found.bytes <= length);
            }
        }
    }
}
