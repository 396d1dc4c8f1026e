//! The arithmetic of a rate limit: HTB's rates, bursts and queue.
//!
//! ```text
//! ifb  htb 1:  1:1 rate      1:10 TCP over IPv4    each: [tbf splitter] fifo or fq_codel
//!                            1:11 TCP over IPv6
//!                            1:12 UDP over IPv4
//!                            1:13 UDP over IPv6
//!              1:20 acks, not limited
//! ```
//!
//! **Payload.** HTB counts whole frames. What a user asks for is payload, so the four kinds of
//! packets, whose headers differ, have classes of their own: payload = bytes - packets x headers.
//! From what passed, the rate that HTB needs is set anew ([`super::correction`]).
//!
//! **Large GSO packets.** HTB takes one of 64 KB whole, which at 1 Mbit/s is half a second. Below
//! [`SPLIT_BELOW`] a tbf qdisc stands before the queue: what is larger than its burst it cuts into
//! segments (`tbf_segment`, `net/sched/sch_tbf.c`, kernel 3.13), and at a rate whose packet times
//! round to zero it never delays anything.

use std::time::Duration;

use super::message::{Attributes, Spot, handle, queueing, rate64, ratespec, ticks, words};
use netlink_packet_route::tc::{TcHandle, TcMessage, TcOption, TcQdiscFqCodelOption};

/// Ethernet, which every device but those of tunnels has, see [`super::correction::without_ethernet`].
pub(super) const ETHERNET: u64 = 14;

/// A kind of packets with headers of one size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Kind {
    /// The minor number of its class.
    pub(super) class: u16,
    pub(super) ethertype: u16,
    /// IP protocol number.
    pub(super) protocol: u8,
    /// Ethernet, IP and TCP (with timestamps) or UDP headers, in bytes.
    pub(super) headers: u64,
}

impl Kind {
    pub(super) fn is_tcp(&self) -> bool {
        self.protocol == TCP
    }
}

const IPV4: u16 = 0x0800;
const IPV6: u16 = 0x86dd;
const TCP: u8 = 6;
const UDP: u8 = 17;

/// All four. TCP's timestamps (RFC 7323) are the default of every system but Windows: without
/// them the application gets 0.8 % more than it asked for.
pub(super) const KINDS: [Kind; 4] = [
    Kind { class: 0x10, ethertype: IPV4, protocol: TCP, headers: ETHERNET + 20 + 32 },
    Kind { class: 0x11, ethertype: IPV6, protocol: TCP, headers: ETHERNET + 40 + 32 },
    Kind { class: 0x12, ethertype: IPV4, protocol: UDP, headers: ETHERNET + 20 + 8 },
    Kind { class: 0x13, ethertype: IPV6, protocol: UDP, headers: ETHERNET + 40 + 8 },
];

/// The class of all kinds together, and the one that is not limited.
pub(super) const ALL: u16 = 1;
pub(super) const FREE: u16 = 0x20;

/// 100 Mbit/s: from there on 64 KB take less than 6 ms and need not be cut.
const SPLIT_BELOW: u64 = 12_500_000;
/// The queue holds so much time, and at least so many bytes.
const QUEUE: Duration = Duration::from_millis(100);
const QUEUE_BYTES: u64 = 30_000;
/// Of TCP uploads, which come in bursts where there is no round trip ([`crate::steer`]).
const QUEUE_OF_UPLOADS: Duration = Duration::from_millis(130);
/// While connections begin to send: ten segments of each go before it is paced
/// (`tcp_update_skb_after_send`, `net/ipv4/tcp_output.c`). Less than TCP's shortest timeout, 200 ms.
const QUEUE_AT_FIRST: Duration = Duration::from_millis(190);
/// How long a burst may be: HTB's own default collapses from 100 Mbit/s on.
const BURST: Duration = Duration::from_millis(8);
const BURST_BYTES: u64 = 10_000;
/// A rate at which the time of a packet rounds to 0 ns, so that tbf only cuts.
const INSTANT: u64 = 100_000_000_000_000;
/// 100 Gbit/s: for what is not limited.
const UNLIMITED: u64 = 12_500_000_000;

/// Attributes of HTB (`include/uapi/linux/pkt_sched.h`).
const HTB_PARMS: u16 = 1;
const HTB_INIT: u16 = 2;
const HTB_RATE64: u16 = 6;
const HTB_CEIL64: u16 = 7;
/// Of tbf.
const TBF_PARMS: u16 = 1;
const TBF_RATE64: u16 = 4;
const TBF_BURST: u16 = 6;

/// How one direction is limited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Shape {
    /// Frames, bytes per second.
    rate: u64,
    /// The largest frame that must pass whole, in bytes.
    frame: u32,
    /// Whether the kernel has `fq_codel`.
    fq_codel: bool,
    tcp: Tcp,
}

/// Whose TCP it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tcp {
    /// Senders elsewhere.
    Downloads,
    /// Local senders.
    Uploads,
    /// Local senders that begin.
    FirstUploads,
}

impl Shape {
    /// For a rate of frames in bytes per second and interfaces of this MTU.
    pub(super) fn new(rate: u64, mtu: u32, fq_codel: bool, tcp: Tcp) -> Self {
        // Ethernet with a VLAN tag.
        Self { rate: rate.max(1), frame: mtu.max(1500) + 18, fq_codel, tcp }
    }

    fn bytes_in(&self, time: Duration) -> u64 {
        (u128::from(self.rate) * time.as_nanos() / 1_000_000_000) as u64
    }

    fn splits(&self) -> bool {
        self.rate < SPLIT_BELOW
    }

    /// Bytes that the queue of one class holds.
    fn queue(&self, kind: &Kind) -> u32 {
        let time = match self.tcp {
            Tcp::Uploads if kind.is_tcp() => QUEUE_OF_UPLOADS,
            Tcp::FirstUploads if kind.is_tcp() => QUEUE_AT_FIRST,
            _ => QUEUE,
        };
        let bytes = self.bytes_in(time).max(QUEUE_BYTES).max(2 * u64::from(self.frame));
        u32::try_from(bytes).unwrap_or(u32::MAX)
    }

    /// The qdisc at the root of the device. What no filter classifies is TCP over IPv4.
    pub(super) fn root(link: u32) -> TcMessage {
        let version = 3;
        let rate_to_quantum = 10;
        let default = u32::from(KINDS[0].class);
        let globals = words(&[version, rate_to_quantum, default, 0, 0]);
        let spot = Spot { link, parent: TcHandle::ROOT };
        let options: Attributes = vec![(HTB_INIT, globals)];
        queueing(spot, handle(1, 0), "htb", options)
    }

    /// All classes, parents first.
    pub(super) fn classes(&self, link: u32) -> Vec<TcMessage> {
        let mut classes = vec![self.class(link, 0, ALL, self.rate, self.rate)];
        let quarter = (self.rate / KINDS.len() as u64).max(1);
        classes.extend(
            KINDS.iter().map(|kind| self.class(link, ALL, kind.class, quarter, self.rate)),
        );
        classes.push(self.class(link, 0, FREE, UNLIMITED, UNLIMITED));
        classes
    }

    fn class(&self, link: u32, parent: u16, own: u16, rate: u64, ceil: u64) -> TcMessage {
        let of = |rate: u64| Self { rate, ..*self }.bytes_in(BURST).max(BURST_BYTES);
        let mut parms = Vec::new();
        parms.extend(ratespec(rate));
        parms.extend(ratespec(ceil));
        // Turns among the kinds: a frame each, or a large packet where they stay whole.
        let quantum = if self.splits() { self.frame } else { 64 * 1024 };
        let (level, priority) = (0, 0);
        parms.extend(words(&[
            ticks(of(rate), rate),
            ticks(of(ceil), ceil),
            quantum,
            level,
            priority,
        ]));
        let mut options: Attributes = vec![(HTB_PARMS, parms)];
        options.extend(rate64(HTB_RATE64, rate));
        options.extend(rate64(HTB_CEIL64, ceil));
        let spot = Spot { link, parent: handle(1, parent) };
        queueing(spot, handle(1, own), "htb", options)
    }

    /// The queues below the classes of the four kinds.
    pub(super) fn leaves(&self, link: u32) -> Vec<TcMessage> {
        KINDS.iter().flat_map(|kind| self.leaf(link, kind)).collect()
    }

    fn leaf(&self, link: u32, kind: &Kind) -> Vec<TcMessage> {
        let (class, queue) = (kind.class, self.queue(kind));
        let class_spot = Spot { link, parent: handle(1, class) };
        // Handles of their own: one that exists elsewhere would be moved as it is, not made anew.
        let (split, below, whole) =
            (handle(class, 0), handle(class << 4, 0), handle((class << 4) + 1, 0));
        if !self.splits() {
            return vec![self.queue_qdisc(class_spot, whole, queue)];
        }
        let mut leaf = vec![self.splitter(class_spot, split, queue)];
        if self.fq_codel {
            // tbf brings a fifo of its own; its only class is number 1.
            leaf.push(self.queue_qdisc(Spot { link, parent: handle(class, 1) }, below, queue));
        }
        leaf
    }

    fn splitter(&self, spot: Spot, own: TcHandle, queue: u32) -> TcMessage {
        let mut parms = Vec::new();
        parms.extend(ratespec(INSTANT));
        parms.extend([0; 12]);
        parms.extend(words(&[queue, 0, 0]));
        let mut options: Attributes =
            vec![(TBF_PARMS, parms), (TBF_BURST, words(&[self.frame]))];
        options.extend(rate64(TBF_RATE64, INSTANT));
        queueing(spot, own, "tbf", options)
    }

    fn queue_qdisc(&self, spot: Spot, own: TcHandle, queue: u32) -> TcMessage {
        if !self.fq_codel {
            // struct tc_fifo_qopt
            return queueing(spot, own, "bfifo", words(&[queue]));
        }
        // Flows take turns, and CoDel leaves alone what steering lets wait ([`crate::steer`]): with a
        // target of 20 to 50 ms it dropped what had just been allowed. At low rates what is
        // allowed are two segments. A full queue loses one packet of its longest flow, not half of it.
        let frames_us = 3_000_000 * u64::from(self.frame) / self.rate;
        let target = frames_us.clamp(QUEUE.as_micros() as u64, 10_000_000) as u32;
        let options = vec![
            TcOption::FqCodel(TcQdiscFqCodelOption::Target(target)),
            TcOption::FqCodel(TcQdiscFqCodelOption::Interval(2 * target)),
            TcOption::FqCodel(TcQdiscFqCodelOption::Limit(queue.div_ceil(1_000))),
            TcOption::FqCodel(TcQdiscFqCodelOption::Ecn(0)),
            TcOption::FqCodel(TcQdiscFqCodelOption::DropBatchSize(1)),
        ];
        queueing(spot, own, "fq_codel", options)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queues_hold_a_tenth_of_a_second() {
        for (mbit, bytes) in [(1_u64, 30_000), (10, 125_000), (1000, 12_500_000)] {
            let shape = Shape::new(mbit * 125_000, 1500, false, Tcp::Downloads);
            assert_eq!(shape.queue(&KINDS[0]), bytes, "{mbit} Mbit/s");
        }
    }

    #[test]
    fn rates_above_34_gbit_have_64_bits() {
        let options = |gbit: u64| {
            let shape = Shape::new(gbit * 125_000_000, 1500, false, Tcp::Downloads);
            let mut class = shape.class(1, 0, 1, shape.rate, shape.rate);
            class.attributes.pop().unwrap()
        };
        let length = |gbit| netlink_packet_core::Nla::value_len(&options(gbit));
        assert_eq!(length(40), length(10) + 2 * 12);
    }

    #[test]
    fn what_is_fast_is_not_cut() {
        let kinds = |mbit: u64| -> Vec<String> {
            let shape = Shape::new(mbit * 125_000, 1500, false, Tcp::Downloads);
            let leaves = shape.leaf(1, &KINDS[0]);
            leaves.iter().map(|leaf| format!("{:?}", leaf.attributes[0])).collect()
        };
        assert!(kinds(10)[0].contains("tbf") && kinds(200)[0].contains("bfifo"));
    }

    #[test]
    fn a_burst_is_8_ms_in_ticks() {
        // 1 MB at 1 Gbit/s are 8 ms, 125000 ticks of 64 ns.
        assert_eq!(ticks(1_000_000, 125_000_000), 125_000);
    }
}
