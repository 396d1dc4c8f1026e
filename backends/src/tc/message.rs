//! Messages of traffic control, as far as netlink-packet-route has no types for them.

use netlink_packet_core::{DefaultNla, NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::{
    RouteNetlinkMessage,
    tc::{TcAttribute, TcHandle, TcMessage, TcOption},
};

/// Makes something that must not be there yet.
pub(super) const NEW: u16 = NLM_F_CREATE | NLM_F_EXCL;

/// `TCA_OPTIONS` of `include/uapi/linux/rtnetlink.h`.
const OPTIONS: u16 = 2;
/// `TC_LINKLAYER_ETHERNET`: with it no rate table is needed.
const ETHERNET: u8 = 1;
/// A tick of the packet scheduler is 64 ns (`PSCHED_SHIFT`, `include/net/pkt_sched.h`).
const TICK_NS: u128 = 64;

/// Where something hangs: a device and its parent there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Spot {
    pub(super) link: u32,
    pub(super) parent: TcHandle,
}

/// A handle or class id, as `tc` writes it: MAJOR:MINOR.
pub(super) const fn handle(major: u16, minor: u16) -> TcHandle {
    TcHandle { major, minor }
}

/// `TC_H_MIN_INGRESS` and `TC_H_MIN_EGRESS` of the clsact qdisc.
pub(super) const INGRESS: TcHandle = handle(u16::MAX, TcHandle::MIN_INGRESS);
pub(super) const EGRESS: TcHandle = handle(u16::MAX, TcHandle::MIN_EGRESS);

/// Options of a qdisc or class, each attribute as (kind, bytes).
pub(super) type Attributes = Vec<(u16, Vec<u8>)>;

/// A message about a qdisc or class of this kind.
pub(super) fn queueing(
    spot: Spot,
    own: TcHandle,
    kind: &str,
    options: impl IntoOptions,
) -> TcMessage {
    let mut message = TcMessage::default();
    message.header.index = spot.link.cast_signed();
    message.header.parent = spot.parent;
    message.header.handle = own;
    message.attributes = vec![TcAttribute::Kind(kind.to_owned())];
    message.attributes.extend(options.into_options());
    message
}

/// What can be the options of a message.
pub(super) trait IntoOptions {
    fn into_options(self) -> Option<TcAttribute>;
}

impl IntoOptions for () {
    fn into_options(self) -> Option<TcAttribute> {
        None
    }
}

/// A structure without attributes around it.
impl IntoOptions for Vec<u8> {
    fn into_options(self) -> Option<TcAttribute> {
        Some(TcAttribute::Other(DefaultNla::new(OPTIONS, self)))
    }
}

impl IntoOptions for Attributes {
    fn into_options(self) -> Option<TcAttribute> {
        let options = self.into_iter().map(|(kind, bytes)| DefaultNla::new(kind, bytes));
        Some(TcAttribute::Options(options.map(TcOption::Other).collect()))
    }
}

impl IntoOptions for Vec<TcOption> {
    fn into_options(self) -> Option<TcAttribute> {
        Some(TcAttribute::Options(self))
    }
}

/// A message about a filter. `own` 0 means all of the preference; `protocol` is an ethertype.
pub(super) fn filter(
    spot: Spot,
    own: u32,
    preference: u16,
    protocol: u16,
    options: Vec<TcOption>,
) -> TcMessage {
    let mut message = queueing(spot, TcHandle::from(own), "u32", ());
    message.header.info = u32::from(preference) << 16 | u32::from(protocol.to_be());
    if !options.is_empty() {
        message.attributes.push(TcAttribute::Options(options));
    }
    message
}

/// `struct tc_ratespec` (`include/uapi/linux/pkt_sched.h`), bytes per second. What does not fit
/// into its 32 bits stands in an attribute of its own, see [`rate64`].
pub(super) fn ratespec(rate: u64) -> [u8; 12] {
    let mut bytes = [0; 12];
    bytes[1] = ETHERNET;
    bytes[8..].copy_from_slice(&u32::try_from(rate).unwrap_or(u32::MAX).to_ne_bytes());
    bytes
}

/// The attribute for a rate above 34 Gbit/s.
pub(super) fn rate64(kind: u16, rate: u64) -> Option<(u16, Vec<u8>)> {
    (rate > u64::from(u32::MAX)).then(|| (kind, rate.to_ne_bytes().to_vec()))
}

/// So many bytes at this rate, as the time they take, in ticks.
pub(super) fn ticks(bytes: u64, rate: u64) -> u32 {
    let ns = u128::from(bytes) * 1_000_000_000 / u128::from(rate.max(1));
    u32::try_from(ns / TICK_NS).unwrap_or(u32::MAX)
}

/// Several u32 in a row.
pub(super) fn words(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_ne_bytes()).collect()
}

/// The requests about qdiscs.
pub(super) fn new_qdisc(message: TcMessage) -> (RouteNetlinkMessage, u16) {
    (RouteNetlinkMessage::NewQueueDiscipline(message), NEW)
}
