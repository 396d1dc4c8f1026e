//! The messages of `nfnetlink_queue` (`include/uapi/linux/netfilter/nfnetlink_queue.h`).

/// `NFNL_SUBSYS_QUEUE` << 8.
const SUBSYSTEM: u16 = 3 << 8;
const MSG_PACKET: u16 = SUBSYSTEM;
const MSG_VERDICT: u16 = SUBSYSTEM | 1;
const MSG_CONFIG: u16 = SUBSYSTEM | 2;
/// `NLMSG_ERROR`, which also carries acknowledgements.
const MSG_ERROR: u16 = 2;
const NLM_F_REQUEST: u16 = 1;
const NLM_F_ACK: u16 = 4;
/// struct nlmsghdr.
const HEADER: usize = 16;
/// struct nfgenmsg.
const GENERIC: usize = 4;

const NFQA_PACKET_HDR: u16 = 1;
const NFQA_VERDICT_HDR: u16 = 2;
const NFQA_PAYLOAD: u16 = 10;
const NFQA_CAP_LEN: u16 = 13;

const NFQA_CFG_CMD: u16 = 1;
const NFQA_CFG_PARAMS: u16 = 2;
const NFQA_CFG_QUEUE_MAXLEN: u16 = 3;
const NFQA_CFG_MASK: u16 = 4;
const NFQA_CFG_FLAGS: u16 = 5;
const NFQA_CFG_F_FAIL_OPEN: u32 = 1;
const NFQA_CFG_F_GSO: u32 = 4;
const COPY_PACKET: u8 = 2;

/// Bytes of each packet that we look at: an IPv6 header with extensions and a TCP header.
pub(super) const COPIED: u32 = 160;
/// The most packets that wait in one queue; more are dropped by the kernel.
const MAX_PACKETS: u32 = 16 * 1024;

/// The kernel's hands are off the packet until it gets one of these (linux/netfilter.h).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    Drop = 0,
    Accept = 1,
}

/// What we want of a queue.
#[derive(Debug, Clone, Copy)]
pub(super) enum Request {
    /// Take it; `EBUSY` or `EPERM` when somebody else has it.
    Bind {
        /// See [`Request::Segments`].
        large: bool,
    },
    /// Take it for so few packets; those that come when it is full pass.
    Hold {
        /// How many.
        most: u32,
    },
    /// Whether packets come as they are (up to 64 KiB) or cut into segments of the MTU.
    Segments {
        /// As they are.
        large: bool,
    },
    /// Let go of it; the kernel drops what waits.
    Unbind,
}

/// What the kernel sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Message<'a> {
    /// A packet waits.
    Packet {
        /// In which queue.
        queue: u16,
        /// Its name for the verdict.
        id: u32,
        /// How long it is, from the IP header on.
        length: u32,
        /// Its first bytes.
        start: &'a [u8],
    },
    /// The answer to a request that asked for one: 0, or the errno.
    Answer {
        /// Of the request.
        sequence: u32,
        /// 0 or positive.
        errno: i32,
    },
    /// Anything else.
    Other,
}

/// A request that asks for an answer.
pub(super) fn config(queue: u16, sequence: u32, request: Request) -> Vec<u8> {
    let mut out = Vec::with_capacity(128);
    message(&mut out, MSG_CONFIG, NLM_F_REQUEST | NLM_F_ACK, sequence, queue, |out| {
        match request {
            Request::Bind { large } => {
                bind(out, MAX_PACKETS);
                segments(out, large);
            }
            Request::Hold { most } => {
                bind(out, most);
                flag(out, NFQA_CFG_F_FAIL_OPEN, true);
            }
            Request::Segments { large } => segments(out, large),
            Request::Unbind => attribute(out, NFQA_CFG_CMD, &[2, 0, 0, 0]),
        }
    });
    out
}

fn bind(out: &mut Vec<u8>, most: u32) {
    attribute(out, NFQA_CFG_CMD, &[1, 0, 0, 0]);
    let mut parameters = COPIED.to_be_bytes().to_vec();
    parameters.push(COPY_PACKET);
    attribute(out, NFQA_CFG_PARAMS, &parameters);
    attribute(out, NFQA_CFG_QUEUE_MAXLEN, &most.to_be_bytes());
}

fn segments(out: &mut Vec<u8>, large: bool) {
    flag(out, NFQA_CFG_F_GSO, large);
}

fn flag(out: &mut Vec<u8>, flag: u32, set: bool) {
    attribute(out, NFQA_CFG_MASK, &flag.to_be_bytes());
    let flags = if set { flag } else { 0 };
    attribute(out, NFQA_CFG_FLAGS, &flags.to_be_bytes());
}

/// Adds a verdict to `out`; many go to the kernel in one write.
pub(super) fn verdict(out: &mut Vec<u8>, queue: u16, id: u32, verdict: Verdict) {
    message(out, MSG_VERDICT, NLM_F_REQUEST, 0, queue, |out| {
        let mut header = (verdict as u32).to_be_bytes().to_vec();
        header.extend(id.to_be_bytes());
        attribute(out, NFQA_VERDICT_HDR, &header);
    });
}

fn message(
    out: &mut Vec<u8>,
    kind: u16,
    flags: u16,
    sequence: u32,
    queue: u16,
    attributes: impl FnOnce(&mut Vec<u8>),
) {
    let start = out.len();
    out.extend([0; 4]); // the length, known below
    out.extend(kind.to_ne_bytes());
    out.extend(flags.to_ne_bytes());
    out.extend(sequence.to_ne_bytes());
    out.extend([0; 4]); // from us
    out.extend([0, 0]); // AF_UNSPEC, NFNETLINK_V0
    out.extend(queue.to_be_bytes());
    attributes(out);
    let length = (out.len() - start) as u32;
    out[start..start + 4].copy_from_slice(&length.to_ne_bytes());
}

fn attribute(out: &mut Vec<u8>, kind: u16, value: &[u8]) {
    out.extend((4 + value.len() as u16).to_ne_bytes());
    out.extend(kind.to_ne_bytes());
    out.extend(value);
    out.resize(out.len().next_multiple_of(4), 0);
}

/// Takes the first message off `bytes`; `None` when there is none, or half of one.
pub(super) fn parse<'a>(bytes: &mut &'a [u8]) -> Option<Message<'a>> {
    let length = u32_at(bytes, 0, u32::from_ne_bytes)? as usize;
    let kind = u16_at(bytes, 4, u16::from_ne_bytes)?;
    let message = bytes.get(..length.max(HEADER))?;
    *bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    Some(match kind {
        MSG_PACKET => packet(message).unwrap_or(Message::Other),
        MSG_ERROR => {
            let errno = u32_at(message, HEADER, u32::from_ne_bytes)?.cast_signed();
            let sequence = u32_at(message, HEADER + 4 + 8, u32::from_ne_bytes)?;
            Message::Answer { sequence, errno: -errno }
        }
        _ => Message::Other,
    })
}

fn packet(message: &[u8]) -> Option<Message<'_>> {
    let queue = u16_at(message, HEADER + 2, u16::from_be_bytes)?;
    let mut rest = message.get(HEADER + GENERIC..)?;
    let (mut id, mut whole, mut start) = (None, None, None);
    while let Some(length) = u16_at(rest, 0, u16::from_ne_bytes) {
        /// `NLA_F_NESTED` and `NLA_F_NET_BYTEORDER`.
        const FLAGS: u16 = 0xc000;
        let kind = u16_at(rest, 2, u16::from_ne_bytes)? & !FLAGS;
        let value = rest.get(4..usize::from(length))?;
        match kind {
            NFQA_PACKET_HDR => id = u32_at(value, 0, u32::from_be_bytes),
            NFQA_CAP_LEN => whole = u32_at(value, 0, u32::from_be_bytes),
            NFQA_PAYLOAD => start = Some(value),
            _ => {}
        }
        rest = rest.get(usize::from(length).next_multiple_of(4)..).unwrap_or_default();
    }
    let start = start.unwrap_or_default();
    // Said only when the packet was cut.
    let length = whole.unwrap_or(start.len() as u32);
    Some(Message::Packet { queue, id: id?, length, start })
}

fn u16_at(bytes: &[u8], at: usize, order: fn([u8; 2]) -> u16) -> Option<u16> {
    Some(order(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn u32_at(bytes: &[u8], at: usize, order: fn([u8; 4]) -> u32) -> Option<u32> {
    Some(order(bytes.get(at..at + 4)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A packet message as a 6.18 kernel on x86 sends it, for queue 5.
    fn captured() -> Vec<u8> {
        let mut out = Vec::new();
        message(&mut out, MSG_PACKET, 0, 0, 5, |out| {
            attribute(out, NFQA_PACKET_HDR, &[0, 0, 1, 2, 8, 0, 3]);
            attribute(out, NFQA_CAP_LEN, &[0, 0, 0xff, 0xdc]);
            attribute(out, NFQA_PAYLOAD, &[0x45, 1, 2, 3, 4]);
        });
        out
    }

    #[test]
    fn a_packet_is_read() {
        let mut bytes = &captured()[..];
        let start = &[0x45, 1, 2, 3, 4][..];
        let expected = Message::Packet { queue: 5, id: 0x102, length: 0xffdc, start };
        assert_eq!(parse(&mut bytes), Some(expected));
        assert!(bytes.is_empty());
    }

    #[test]
    fn several_messages_in_one_read() {
        let all = [captured(), captured()].concat();
        let mut bytes = &all[..];
        assert!(parse(&mut bytes).is_some() && parse(&mut bytes).is_some());
        assert_eq!(parse(&mut bytes), None);
    }

    #[test]
    fn what_is_cut_short_is_nothing_or_something_else() {
        let whole = captured();
        for length in 0..whole.len() {
            assert_eq!(parse(&mut &whole[..length]), None, "{length}");
        }
    }

    #[test]
    fn verdicts_are_32_bytes_each() {
        let mut out = Vec::new();
        verdict(&mut out, 5, 0x0102_0304, Verdict::Accept);
        verdict(&mut out, 5, 7, Verdict::Drop);
        assert_eq!(out.len(), 64);
        assert_eq!(out[18..20], [0, 5]);
        assert_eq!(out[24..32], [0, 0, 0, 1, 1, 2, 3, 4]);
    }

    #[test]
    fn an_answer_carries_the_errno() {
        let mut out = Vec::new();
        message(&mut out, MSG_ERROR, 0, 9, 0, |_| {});
        out.truncate(HEADER);
        out.extend((-16_i32).to_ne_bytes());
        out.extend(config(5, 77, Request::Unbind));
        let length = out.len() as u32;
        out[..4].copy_from_slice(&length.to_ne_bytes());
        assert_eq!(parse(&mut &out[..]), Some(Message::Answer { sequence: 77, errno: 16 }));
    }
}
