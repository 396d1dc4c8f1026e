//! The u32 classifier: selectors, keys, actions.
//!
//! Offsets count from the IP header, or, after a link with an offset, also from where that offset
//! leads (`nexthdr` for tc(8)): there the ports are, whatever IP options stand before them.

use netlink_packet_core::DefaultNla;
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

/// A selector of every packet that leads on, and does not decide when nothing there matches.
pub(super) fn passage() -> TcU32Selector {
    let mut selector = terminal(vec![key(0, 0, 0)]);
    selector.flags = TcU32SelectorFlags::empty();
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

/// The options of a filter that mirrors to a device and lets the filters that follow decide.
pub(super) fn mirror(selector: TcU32Selector, device: u32) -> Vec<TcOption> {
    let mut mirror = TcMirror::default();
    mirror.generic.action = TcActionType::Unspec;
    mirror.eaction = TcMirrorActionType::EgressMirror;
    mirror.ifindex = device;
    let options = vec![TcActionOption::Mirror(TcActionMirrorOption::Parms(mirror))];
    act(selector, vec![action("mirred", options)])
}

/// The options of a filter with these actions.
pub(super) fn act(selector: TcU32Selector, actions: Vec<TcAction>) -> Vec<TcOption> {
    let numbered = actions.into_iter().zip(1..).map(|(mut action, number)| {
        action.tab = number;
        action
    });
    vec![
        TcOption::U32(TcFilterU32Option::Selector(selector)),
        TcOption::U32(TcFilterU32Option::Action(numbered.collect())),
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

/// Redirects to a device, as if it were sent there.
pub(super) fn mirred(device: u32) -> TcAction {
    let mut mirror = TcMirror::default();
    mirror.generic.action = TcActionType::Stolen;
    mirror.eaction = TcMirrorActionType::EgressRedir;
    mirror.ifindex = device;
    action("mirred", vec![TcActionOption::Mirror(TcActionMirrorOption::Parms(mirror))])
}

/// Takes these bits off the mark of a packet (`act_skbedit`, kernel 4.16), and goes on.
pub(super) fn clear_mark(mask: u32) -> TcAction {
    const PARMS: u16 = 2;
    const MARK: u16 = 5;
    const MASK: u16 = 8;
    action(
        "skbedit",
        vec![
            raw(PARMS, control(PIPE)),
            raw(MARK, 0_u32.to_ne_bytes().to_vec()),
            raw(MASK, mask.to_ne_bytes().to_vec()),
        ],
    )
}

/// Gives a packet the mark of its connection, of that only these bits (`act_ctinfo`, kernel 5.3),
/// and lets the filters that follow have it.
pub(super) fn recall_mark(mask: u32) -> TcAction {
    const ACT: u16 = 3;
    const MARK_MASK: u16 = 7;
    action(
        "ctinfo",
        vec![raw(ACT, control(CONTINUE)), raw(MARK_MASK, mask.to_ne_bytes().to_vec())],
    )
}

/// `TC_ACT_PIPE`: the next action; `TC_ACT_UNSPEC`: the next filter.
const PIPE: i32 = 3;
const CONTINUE: i32 = -1;

/// `tc_gen` of `include/uapi/linux/pkt_cls.h`: index, capab, action, refcnt, bindcnt.
fn control(action: i32) -> Vec<u8> {
    [0, 0, action, 0, 0].into_iter().flat_map(i32::to_ne_bytes).collect()
}

fn raw(kind: u16, value: Vec<u8>) -> TcActionOption {
    TcActionOption::Other(DefaultNla::new(kind, value))
}

fn action(kind: &str, options: Vec<TcActionOption>) -> TcAction {
    let mut action = TcAction::default();
    action.attributes = vec![
        TcActionAttribute::Kind(kind.to_owned()),
        TcActionAttribute::Options(options),
        TcActionAttribute::Cookie(COOKIE.to_vec()),
    ];
    action
}
