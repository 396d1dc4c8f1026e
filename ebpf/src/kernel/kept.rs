//! Acknowledgements that are handed to user space, to be sent again when what they show is earned.

use core::ffi::c_void;

use aya_ebpf::{
    bindings::__sk_buff,
    helpers::generated::{bpf_skb_load_bytes, bpf_skc_to_tcp_sock},
};
use chadthrottle_ebpf::{layout::KEPT_BYTES, program::field, sys::opaque, wire::Promise};

use super::{constants, maps::KEPT};

/// What follows a segment. Numbers, since the verifier loses track of what an `Option` holds.
pub(crate) struct Later {
    /// When, and the window field.
    pub(crate) promise: Promise,
    /// The slot of its limit.
    pub(crate) slot: u32,
    /// In which network namespace; 0 = nothing follows.
    pub(crate) netns: u32,
}

impl Later {
    /// Nothing.
    pub(crate) const NEVER: Self =
        Self { promise: Promise { due: 0, window: 0 }, slot: 0, netns: 0 };
}

/// Where a packet has its headers, and how long it is, bytes.
pub(crate) struct Place {
    /// Where the IP header starts.
    pub(crate) network: u32,
    /// Where the TCP header starts.
    pub(crate) transport: u32,
    pub(crate) length: u32,
}

/// Hands a copy to user space. Where that fails the sender asks, when its own timer ends.
#[inline]
pub(crate) fn keep(skb: *mut __sk_buff, place: &Place, later: &Later) {
    const MOST: u32 = KEPT_BYTES as u32;
    if later.netns == 0 || !(1..=MOST).contains(&place.length) {
        return;
    }
    let Some(mut entry) = KEPT.reserve(0) else { return };
    let kept = entry.as_mut_ptr();
    // The verifier shall see that it fits.
    let length = (opaque(i64::from(place.length - 1)) as u32 & (MOST - 1)) + 1;
    // SAFETY: room for a `Kept` that nobody else sees yet; the helper fills `frame`, the fields
    // before it are written one by one.
    let failed = unsafe {
        (&raw mut (*kept).due).write(later.promise.due);
        (&raw mut (*kept).netns).write(later.netns);
        (&raw mut (*kept).interface).write((*skb).ifindex);
        (&raw mut (*kept).protocol).write((*skb).protocol);
        (&raw mut (*kept).length).write(length);
        (&raw mut (*kept).network).write(place.network);
        (&raw mut (*kept).transport).write(place.transport);
        (&raw mut (*kept).window).write(u32::from(later.promise.window));
        (&raw mut (*kept).slot).write(later.slot);
        bpf_skb_load_bytes(skb.cast(), 0, (&raw mut (*kept).frame).cast(), length)
    };
    if failed == 0 { entry.submit(0) } else { entry.discard(0) }
}

/// The network namespace of a socket; 0 when that is not known.
#[inline]
pub(crate) fn namespace(sk: *mut c_void) -> u32 {
    // SAFETY: `sk` is a socket; null when it is not TCP.
    let tp = unsafe { bpf_skc_to_tcp_sock(sk) }.cast::<c_void>();
    if tp.is_null() || constants::net() == 0 || constants::inode() == 0 {
        return 0;
    }
    // SAFETY: the loader says where the fields are.
    unsafe {
        let net = field::<*const c_void>(tp, constants::net());
        field::<u32>(net, constants::inode())
    }
}
