//! A TCP segment without data, as it left, made ready to be sent once more.

use std::mem::offset_of;

use chadthrottle_ebpf::{
    layout::{KEPT_BYTES, Kept},
    packet::{TCP, TCP_CHECKSUM, TCP_WINDOW},
};

/// Where a TCP header has the window and the checksum.
const WINDOW: usize = TCP_WINDOW as usize;
const CHECKSUM: usize = TCP_CHECKSUM as usize;
/// What tells connections of a namespace apart: addresses and ports, and the namespace.
pub(super) type Connection = Vec<u8>;

/// A segment that waits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Segment {
    /// When it is sent, ns of the monotonic clock.
    pub(super) due: u64,
    /// The id of its network namespace.
    pub(super) netns: u64,
    /// The slot of its limit.
    pub(super) slot: u32,
    /// The interface.
    pub(super) interface: u32,
    /// The `EtherType`, in network order.
    pub(super) protocol: u16,
    /// From the link header on.
    pub(super) bytes: Vec<u8>,
    /// Which connection it is of.
    pub(super) connection: Connection,
}

impl Segment {
    /// Reads what the kernel program wrote; `None` when it makes no sense.
    pub(super) fn read(kept: &[u8]) -> Option<Self> {
        let word = |at| Some(u32::from_ne_bytes(kept.get(at..at + 4)?.try_into().ok()?));
        let at = |at| word(at).map(|word| word as usize);
        let due = kept.get(offset_of!(Kept, due)..)?.first_chunk()?;
        let frame = kept.get(offset_of!(Kept, frame)..)?.get(..KEPT_BYTES)?;
        let mut bytes = frame.get(..at(offset_of!(Kept, length))?)?.to_vec();
        let window = u16::try_from(word(offset_of!(Kept, window))?).ok()?;
        let ip = at(offset_of!(Kept, network))?;
        let tcp = at(offset_of!(Kept, transport))?.checked_sub(ip)?;
        show(bytes.get_mut(ip..)?, tcp, window)?;
        let packet = bytes.get(ip..)?;
        let netns = word(offset_of!(Kept, netns))?;
        let ports = packet.get(tcp..tcp + 4)?;
        let connection = [addresses(packet)?, ports, &netns.to_ne_bytes()].concat();
        Some(Self {
            due: u64::from_ne_bytes(*due),
            netns: netns.into(),
            slot: word(offset_of!(Kept, slot))?,
            connection,
            interface: word(offset_of!(Kept, interface))?,
            protocol: word(offset_of!(Kept, protocol))? as u16,
            bytes,
        })
    }
}

/// Writes the window into a packet whose TCP header starts at `tcp`, and the checksum, which the
/// kernel leaves to the interface.
fn show(packet: &mut [u8], tcp: usize, window: u16) -> Option<()> {
    packet
        .get_mut(tcp + WINDOW..)?
        .first_chunk_mut()
        .map(|field| *field = window.to_be_bytes())?;
    packet.get_mut(tcp + CHECKSUM..)?.first_chunk_mut().map(|field| *field = [0; 2])?;
    let addresses = addresses(packet)?;
    let segment = packet.get(tcp..)?;
    let length = u16::try_from(segment.len()).ok()?;
    let sum = !sum(&[addresses, &[0, TCP], &length.to_be_bytes(), segment]);
    packet.get_mut(tcp + CHECKSUM..)?.first_chunk_mut().map(|field| *field = sum.to_be_bytes())
}

/// Both addresses of a packet.
fn addresses(packet: &[u8]) -> Option<&[u8]> {
    match packet.first()? >> 4 {
        4 => packet.get(12..20),
        _ => packet.get(8..40),
    }
}

/// The sum of all words in ones' complement (RFC 1071); each part but the last has whole ones.
fn sum(parts: &[&[u8]]) -> u16 {
    let words = parts.iter().flat_map(|part| part.chunks(2));
    let add = |sum: u32, word: &[u8]| {
        sum + u32::from(word[0]) * 256 + u32::from(word.get(1).copied().unwrap_or(0))
    };
    let sum = words.fold(0, add);
    let sum = (sum >> 16) + (sum & 0xffff);
    (sum + (sum >> 16)) as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An acknowledgement of a connection over IPv4 with timestamps; the checksum is the kernel's.
    const IPV4: [u8; 52] = [
        0x45, 0x00, 0x00, 0x34, 0x00, 0x00, 0x40, 0x00, 0x40, 0x06, 0x3c, 0xc2, 0x7f, 0x00,
        0x00, 0x01, 0x7f, 0x00, 0x00, 0x01, 0x1f, 0x90, 0x9c, 0x40, 0x00, 0x00, 0x00, 0x01,
        0x00, 0x00, 0x00, 0x02, 0x80, 0x10, 0x02, 0x00, 0x00, 0x00, 0x00, 0x00, 0x01, 0x01,
        0x08, 0x0a, 0x00, 0x00, 0x00, 0x01, 0x00, 0x00, 0x00, 0x02,
    ];

    #[test]
    fn a_packet_adds_up_with_its_new_window() {
        let mut packet = IPV4;
        show(&mut packet, 20, 0x1234).unwrap();
        assert_eq!(packet[34..36], [0x12, 0x34]);
        let length = u16::try_from(packet.len() - 20).unwrap().to_be_bytes();
        let all = sum(&[&packet[12..20], &[0, TCP], &length, &packet[20..]]);
        assert_eq!(all, 0xffff, "a receiver adds the checksum as well (RFC 9293, 3.1)");
    }

    #[test]
    fn the_sum_is_that_of_the_rfc() {
        // RFC 1071, section 3.
        assert_eq!(sum(&[&[0x00, 0x01, 0xf2, 0x03], &[0xf4, 0xf5, 0xf6, 0xf7]]), 0xddf2);
    }

    #[test]
    fn what_is_too_short_is_refused() {
        assert_eq!(Segment::read(&[0; 20]), None);
        assert_eq!(Segment::read(&[0; size_of::<Kept>()]), None, "a frame of no bytes");
        assert_eq!(show(&mut [0x45; 30], 20, 1), None);
    }
}
