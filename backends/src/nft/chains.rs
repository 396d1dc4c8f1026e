//! What the chains of one limit do with a packet.

use std::ffi::{CStr, CString};

use chadthrottle_core::{Direction, Limits, Rate, backend::Count};
use nftnl::{
    Chain, MsgType, Rule,
    expr::{Bitwise, Cmp, CmpOp, Meta, Verdict},
};

use super::ruleset::Number;
use crate::{
    moved::{MARK_MASK, Mark},
    netfilter::{Batch, CountIn, Counted, LimitOver, Queue, QueueBy},
};

/// A full segment on Ethernet and the payload in it (MTU 1500, IPv4, timestamps): a limit of
/// nftables counts from the IP header on, and the application shall get the rate.
const SEGMENT: (u64, u64) = (1500, 1448);
/// Before a queue the kernel's limit is the backstop, at five quarters of the rate: it never
/// meets what is paced, and takes floods before they cost us anything.
const BACKSTOP: (u64, u64) = (5, 4);
/// The burst beyond one second of the rate: a GSO packet of 64 KiB must fit at any rate.
pub(super) const BURST: u32 = 65_536;

/// More the kernel's limit cannot hold (145 Gbit/s): nanoseconds x bytes must fit in 64 bits
/// (`nft_limit_init`). Nothing that fast is policed.
const MAX_RATE: u64 = u64::MAX / 1_000_000_000 - u32::MAX as u64;

/// IPv4 and TCP with timestamps; IPv4 and UDP; what IPv6 adds.
const HEADERS_TCP: u64 = 52;
const HEADERS_OTHER: u64 = 28;
const HEADERS_MORE_IPV6: u64 = 20;

/// What is done in one direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Action {
    /// Counted only.
    Count,
    /// Paced by whoever serves this queue.
    Queue { number: u16, by: QueueBy, rate: Rate, expected: u64 },
    /// What is over the rate is dropped.
    Police { rate: Rate },
    /// Marked for the egress of its interface, which drops what is over the rate.
    Mark { mark: Mark, rate: Rate },
}

/// What is done with the packets of one limit in one namespace.
#[derive(Debug, Clone, Copy)]
pub(super) struct Plan {
    pub(super) download: Action,
    pub(super) upload: Action,
}

impl Plan {
    /// Without a queue; with `mark`, uploads are dropped at the egress of interfaces.
    pub(super) fn policing(limits: &Limits, mark: Option<Mark>) -> Self {
        let action = |direction| match (limits.get(direction), mark) {
            (None, _) => Action::Count,
            (Some(limit), Some(mark)) if direction == Direction::Upload => {
                Action::Mark { mark, rate: limit.rate }
            }
            (Some(limit), _) => Action::Police { rate: limit.rate },
        };
        Self { download: action(Direction::Download), upload: action(Direction::Upload) }
    }

    fn get(&self, direction: Direction) -> Action {
        match direction {
            Direction::Download => self.download,
            Direction::Upload => self.upload,
        }
    }

    /// Adds the rules of one direction to its chain.
    pub(super) fn fill(
        &self,
        batch: &mut Batch,
        chain: &Chain<'_>,
        number: Number,
        direction: Direction,
    ) {
        let names = Names::new(number, direction);
        match self.get(direction) {
            Action::Count => count(batch, chain, &names),
            Action::Police { rate } => {
                police(batch, chain, &names, scale(rate, SEGMENT), BURST);
                count(batch, chain, &names);
            }
            Action::Mark { mark, .. } => {
                let mut rule = Rule::new(chain);
                rule.add_expr(&Meta::Mark { set: false });
                rule.add_expr(&Bitwise::new(!MARK_MASK, mark.value()));
                rule.add_expr(&Meta::Mark { set: true });
                batch.add("mark packets", &rule, MsgType::Add);
            }
            // A packet that is dropped in output is an error to its sender, so only what was
            // queued may be dropped, and what nobody serves does not pass.
            Action::Queue { number, by, .. } if direction == Direction::Upload => {
                queue(batch, chain, Queue { number, by, bypass: false });
            }
            Action::Queue { number, by, rate, expected } => {
                let burst = u32::try_from(expected + u64::from(BURST)).unwrap_or(u32::MAX);
                police(batch, chain, &names, scale(rate, BACKSTOP), burst);
                queue(batch, chain, Queue { number, by, bypass: true });
            }
        }
    }
}

fn queue(batch: &mut Batch, chain: &Chain<'_>, queue: Queue) {
    let mut rule = Rule::new(chain);
    rule.add_expr(&queue);
    batch.add("queue packets", &rule, MsgType::Add);
}

/// A limit in bytes per second of packets.
pub(super) fn scale(rate: Rate, (numerator, denominator): (u64, u64)) -> u64 {
    let rate = u128::from(rate.bytes_per_second()) * u128::from(numerator);
    u64::try_from(rate / u128::from(denominator)).unwrap_or(u64::MAX).max(1)
}

/// Drops and counts what is over the rate.
pub(super) fn police(
    batch: &mut Batch,
    chain: &Chain<'_>,
    names: &Names,
    rate: u64,
    burst: u32,
) {
    if rate > MAX_RATE {
        return;
    }
    let mut rule = Rule::new(chain);
    rule.add_expr(&LimitOver { rate, burst });
    rule.add_expr(&CountIn(&names.dropped));
    rule.add_expr(&Verdict::Drop);
    batch.add("limit packets", &rule, MsgType::Add);
}

/// Counts what passes, by how long its headers are.
fn count(batch: &mut Batch, chain: &Chain<'_>, names: &Names) {
    let mut rule = Rule::new(chain);
    rule.add_expr(&Meta::NfProto);
    rule.add_expr(&Cmp::new(CmpOp::Eq, libc::NFPROTO_IPV6 as u8));
    rule.add_expr(&CountIn(&names.ipv6));
    batch.add("count packets", &rule, MsgType::Add);
    count_by_protocol(batch, chain, names);
}

/// Counts what passes.
pub(super) fn count_by_protocol(batch: &mut Batch, chain: &Chain<'_>, names: &Names) {
    let mut rule = Rule::new(chain);
    rule.add_expr(&Meta::L4Proto);
    rule.add_expr(&Cmp::new(CmpOp::Eq, libc::IPPROTO_TCP as u8));
    rule.add_expr(&CountIn(&names.tcp));
    rule.add_expr(&Verdict::Accept);
    batch.add("count packets", &rule, MsgType::Add);
    let mut rule = Rule::new(chain);
    rule.add_expr(&CountIn(&names.other));
    batch.add("count packets", &rule, MsgType::Add);
}

/// The counters of one limit in one direction.
pub(super) struct Names {
    dropped: CString,
    pub(super) ipv6: CString,
    tcp: CString,
    other: CString,
}

impl Names {
    pub(super) fn new(number: Number, direction: Direction) -> Self {
        let name = |what: &CStr| {
            let what = what.to_string_lossy();
            CString::new(format!("{direction}-{number}-{what}")).unwrap_or_default()
        };
        Self {
            dropped: name(c"dropped"),
            ipv6: name(c"ipv6"),
            tcp: name(c"tcp"),
            other: name(c"other"),
        }
    }

    fn into_vec(self) -> Vec<CString> {
        vec![self.dropped, self.ipv6, self.tcp, self.other]
    }
}

/// The counters of one limit: first those of the download.
pub(super) fn counters_of(number: Number) -> Vec<CString> {
    let of = |direction| Names::new(number, direction).into_vec();
    Direction::BOTH.into_iter().flat_map(of).collect()
}

/// What the counters of one direction (a half of [`counters_of`]) mean.
pub(super) fn tally(counted: &[Counted]) -> Count {
    let [dropped, ipv6, tcp, other] = counted else { return Count::default() };
    // A GSO packet has its headers once, and acknowledgements have nothing else.
    let headers = tcp.packets * HEADERS_TCP
        + other.packets * HEADERS_OTHER
        + ipv6.packets * HEADERS_MORE_IPV6;
    Count {
        packets: tcp.packets + other.packets,
        bytes: (tcp.bytes + other.bytes).saturating_sub(headers),
        dropped: dropped.packets,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn payload_is_what_headers_leave() {
        let counted = |packets, bytes| Counted { packets, bytes };
        let all = [counted(3, 4500), counted(1, 1500), counted(2, 3000), counted(1, 128)];
        assert_eq!(
            tally(&all),
            Count { packets: 3, bytes: 3128 - 2 * 52 - 28 - 20, dropped: 3 }
        );
        let acknowledgements = [Counted::default(), counted(5, 5 * 72), counted(5, 5 * 72)];
        assert_eq!(tally(&[&acknowledgements[..], &[Counted::default()]].concat()).bytes, 0);
    }

    #[test]
    fn the_application_gets_the_rate() {
        let rate = Rate::from_bytes_per_second(1_448_000).unwrap();
        assert_eq!(scale(rate, SEGMENT), 1_500_000);
        assert_eq!(scale(rate, BACKSTOP), 1_810_000);
    }
}
