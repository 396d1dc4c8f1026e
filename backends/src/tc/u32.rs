//! The u32 classifier: selectors, keys, actions.
//!
//! Offsets count from the IP header, or, after a link with an offset, also from where that offset
//! leads (`nexthdr` for tc(8)): there the ports are, whatever IP options stand before them.

use netlink_packet_route::tc::{
    TcAction, TcActionAttribute, TcActionMirrorOption, TcActionOption, TcActionType,
    TcFilterU32Option, TcHandle, TcMirror, TcMirrorActionType, TcOption, TcU32Key,
    TcU32Selector, TcU32SelectorFlags,
};

/// What every action of ours carries, so that it is known again.
pub(super) const COOKIE: &[u8] = b"chadthrottle";

/// Matches 32 bits at an offset from the IP header.
pub(super) fn key(off: i32, val: u32, mask: u32) -> TcU32Key {
    let mut key = TcU32Key::default();
    (key.off, key.val, key.mask) = (off, val & mask, mask);
    key
}

/// Matches 32 bits at an offset from where the last link led.
pub(super) fn next_key(off: i32, val: u32, mask: u32) -> TcU32Key {
    let mut key = key(off, val, mask);
    key.offmask = -1;
    key
}

/// A selector that decides: what matches is done with.
pub(super) fn terminal(keys: Vec<TcU32Key>) -> TcU32Selector {
    let mut selector = TcU32Selector::default();
    selector.flags = TcU32SelectorFlags::Terminal;
    selector.nkeys = keys.len() as u8;
    selector.keys = keys;
    selector
}

/// A selector that leads on: `off` is where the next header begins, and `hash` the bits of its
/// first word that choose the bucket.
pub(super) fn link(keys: Vec<TcU32Key>, off: u16, hash: u32) -> TcU32Selector {
    let mut selector = terminal(keys);
    selector.flags = TcU32SelectorFlags::Offset;
    selector.off = off;
    selector.hoff = off.cast_signed();
    selector.hmask = hash;
    selector
}

/// The options of a filter that redirects to a device.
pub(super) fn redirect(table: u32, selector: TcU32Selector, device: u32) -> Vec<TcOption> {
    vec![
        TcOption::U32(TcFilterU32Option::Hash(table)),
        TcOption::U32(TcFilterU32Option::Selector(selector)),
        TcOption::U32(TcFilterU32Option::Action(vec![mirred(device)])),
    ]
}

/// The options of a filter that leads to a table.
pub(super) fn lead(selector: TcU32Selector, table: u32) -> Vec<TcOption> {
    vec![
        TcOption::U32(TcFilterU32Option::Selector(selector)),
        TcOption::U32(TcFilterU32Option::Link(table)),
    ]
}

/// The options of a filter that chooses a class.
pub(super) fn classify(selector: TcU32Selector, class: TcHandle) -> Vec<TcOption> {
    vec![
        TcOption::U32(TcFilterU32Option::ClassId(class)),
        TcOption::U32(TcFilterU32Option::Selector(selector)),
    ]
}

/// The options that make a table with so many buckets.
pub(super) fn table(buckets: u32) -> Vec<TcOption> {
    vec![TcOption::U32(TcFilterU32Option::Divisor(buckets))]
}

fn mirred(device: u32) -> TcAction {
    let mut mirror = TcMirror::default();
    mirror.generic.action = TcActionType::Stolen;
    mirror.eaction = TcMirrorActionType::EgressRedir;
    mirror.ifindex = device;
    let mut action = TcAction::default();
    action.attributes = vec![
        TcActionAttribute::Kind("mirred".to_owned()),
        TcActionAttribute::Options(vec![TcActionOption::Mirror(TcActionMirrorOption::Parms(
            mirror,
        ))]),
        TcActionAttribute::Cookie(COOKIE.to_vec()),
    ];
    action
}
