//! The filters on a device that sort packets into its classes.

use chadthrottle_core::{Error, check::Remedy};
use netlink_packet_route::tc::TcMessage;

use super::{
    ear,
    hook::ETHERTYPES,
    message::{Spot, filter, handle},
    shape::{FREE, KINDS},
    u32::{classify, key, terminal},
};
use crate::rtnetlink::Refusal;

/// The filters that sort packets into the classes of their kinds, and pure acks into the free one
/// (an ACK and nothing else, in a packet with less than 64 bytes) as well as what opens connections.
pub(super) fn all(link: u32) -> Vec<TcMessage> {
    const V4: u16 = KINDS[0].ethertype;
    const V6: u16 = KINDS[1].ethertype;
    let spot = Spot { link, parent: handle(1, 0) };
    let ack = [
        // Without IP options, no fragment.
        (
            1,
            V4,
            vec![
                key(0, 0x4500_0000, 0xff00_ffc0),
                key(4, 0, 0x0000_3fff),
                key(8, 6 << 16, 0x00ff_0000),
                key(32, 0x0010_0000, 0x00ff_0000),
            ],
        ),
        (2, V6, vec![key(4, 6 << 8, 0xffc0_ff00), key(52, 0x0010_0000, 0x00ff_0000)]),
    ];
    let acks = ack.into_iter().map(|(preference, ethertype, keys)| {
        let options = classify(terminal(keys), handle(1, FREE));
        filter(spot, 0, preference, ethertype, options)
    });
    let kinds = KINDS.iter().map(|kind| {
        let protocol = u32::from(kind.protocol);
        let (preference, key) = match kind.ethertype {
            V4 => (3, key(8, protocol << 16, 0x00ff_0000)),
            _ => (4, key(4, protocol << 8, 0x0000_ff00)),
        };
        let options = classify(terminal(vec![key]), handle(1, kind.class));
        filter(spot, 0, preference, kind.ethertype, options)
    });
    // Mirrored ones of others must neither wait nor be counted.
    let syn = ETHERTYPES.into_iter().enumerate().map(|(family, ethertype)| {
        let options = classify(ear::selector(family), handle(1, FREE));
        filter(spot, 0, 1 + family as u16, ethertype, options)
    });
    acks.chain(syn).chain(kinds).collect()
}

pub(super) fn no_filter(name: &str, refusal: Refusal) -> Error {
    let missing = refusal.code() == libc::ENOENT;
    let error = refusal.explain("add a u32 filter to", name);
    if missing && error.meaning.is_empty() {
        return error
            .meaning("The kernel has no u32 classifier, or no mirred action.")
            .remedy(Remedy::LoadModule("cls_u32".to_owned()));
    }
    error
}
