//! What passed through the classes of a device.

use netlink_packet_route::{
    RouteNetlinkMessage,
    tc::{TcHandle, TcMessage},
};

use super::{
    message::handle,
    shape::{ETHERNET, KINDS, Kind},
};
use crate::rtnetlink::{Refusal, Reply, Socket, attributes, u32_of};

/// `struct tcmsg`.
const HEADER: usize = 20;
/// `TCA_STATS2`, and in it `TCA_STATS_BASIC` and `TCA_STATS_QUEUE`.
const STATS: u16 = 7;
const BASIC: u16 = 1;
const QUEUE: u16 = 3;
/// What tbf cuts packets to on Ethernet, bytes.
const FRAME: u64 = 1500 + ETHERNET;

/// What passed through a class since it was made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Passed {
    /// Frames, in bytes.
    pub(super) bytes: u64,
    /// Packets; one that HTB took whole counts as its segments.
    pub(super) packets: u64,
    pub(super) dropped: u64,
    /// Bytes that wait.
    pub(super) backlog: u64,
}

impl Passed {
    /// Without the headers.
    pub(super) fn payload(&self, kind: &Kind) -> u64 {
        self.bytes.saturating_sub(self.packets * kind.headers)
    }
}

/// Reads it, of all kinds. `None` when the device or its qdisc is gone: the kernel lists nothing then.
pub(super) fn read(
    rt: &mut Socket,
    link: u32,
) -> Result<Option<[Passed; KINDS.len()]>, Refusal> {
    let mut request = TcMessage::default();
    request.header.index = link.cast_signed();
    request.header.parent = handle(1, 0);
    Ok(counts(&rt.dump(RouteNetlinkMessage::GetTrafficClass(request))?))
}

/// What passed through the classes of all kinds, when they are there. Flows of `fq_codel` are listed
/// as classes as well: some have the minor numbers of ours, and none says what passed.
fn counts(replies: &[Reply]) -> Option<[Passed; KINDS.len()]> {
    let all: Vec<(TcHandle, Passed)> = replies.iter().filter_map(parse_class).collect();
    let of = |kind: &Kind| {
        let class = handle(1, kind.class);
        all.iter().find(|(found, _)| *found == class).map(|(_, passed)| *passed)
    };
    let found: Option<Vec<Passed>> = KINDS.iter().map(of).collect();
    found?.try_into().ok()
}

fn parse_class(reply: &Reply) -> Option<(TcHandle, Passed)> {
    let class = TcHandle::from(u32_of(reply.payload.get(8..)?)?);
    let mut passed = Passed::default();
    let stats = attributes(&reply.payload, HEADER).find(|(kind, _)| *kind == STATS)?.1;
    for (kind, value) in attributes(stats, 0) {
        match kind {
            BASIC => {
                passed.bytes = u64::from_ne_bytes(value.get(..8)?.try_into().ok()?);
                passed.packets = u64::from(u32_of(value.get(8..)?)?);
            }
            QUEUE => {
                passed.backlog = waiting(u32_of(value)?, u32_of(value.get(4..)?)?);
                passed.dropped = u64::from(u32_of(value.get(8..)?)?);
            }
            _ => {}
        }
    }
    Some((class, passed))
}

/// Bytes that wait. Where tbf cuts packets, older kernels (seen on 5.10) do not add what it cut to its
/// backlog, and take it off as it goes (`tbf_segment` in `sch_tbf.c`): the backlog falls below
/// nothing, and the number of packets has to do.
fn waiting(packets: u32, backlog: u32) -> u64 {
    match u32::try_from(backlog.cast_signed()) {
        Ok(backlog) => backlog.into(),
        Err(_) => u64::from(packets) * FRAME,
    }
}

#[cfg(test)]
mod tests {
    use super::{super::shape::FREE, *};

    /// As the kernel lists a class: `struct tcmsg`, and attributes in `TCA_STATS2`.
    fn class(class: TcHandle, stats: &[(u16, &[u8])]) -> Reply {
        let attribute = |kind: u16, value: &[u8]| {
            let length = 4 + value.len() as u16;
            [&length.to_ne_bytes(), &kind.to_ne_bytes(), value].concat()
        };
        let mut payload = vec![0; HEADER];
        payload[8..12].copy_from_slice(&u32::from(class).to_ne_bytes());
        let stats: Vec<u8> =
            stats.iter().flat_map(|(kind, value)| attribute(*kind, value)).collect();
        payload.extend(attribute(STATS, &stats));
        Reply { kind: 0, payload }
    }

    #[test]
    fn flows_of_fq_codel_are_none_of_our_classes() {
        let basic = [7000_u64.to_ne_bytes(), 5_u64.to_ne_bytes()].concat();
        let ours = KINDS.map(|kind| class(handle(1, kind.class), &[(BASIC, &basic)]));
        let flow = class(handle(KINDS[0].class << 4, KINDS[0].class), &[(QUEUE, &[0; 20])]);
        let replies = [&ours[..], &[flow, class(handle(1, FREE), &[])]].concat();
        let passed = counts(&replies).expect("all kinds");
        assert!(passed.iter().all(|passed| (passed.bytes, passed.packets) == (7000, 5)));
    }

    #[test]
    fn a_device_that_is_gone_counts_as_unread() {
        let one = class(handle(1, KINDS[0].class), &[(BASIC, &[0; 16])]);
        assert_eq!((counts(&[]), counts(&[one])), (None, None));
    }

    #[test]
    fn a_backlog_below_nothing_is_counted_in_packets() {
        assert_eq!(waiting(3, 4000), 4000);
        assert_eq!(waiting(3, 100_000u32.wrapping_neg()), 3 * FRAME);
    }
}
