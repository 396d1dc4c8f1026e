//! Which limit a socket is under. The tag on the socket decides; this is the only file that
//! knows how a socket without a valid one gets it.

use core::{ffi::c_void, num::NonZeroU64, ptr};

use aya_ebpf::{
    bindings::__sk_buff,
    helpers::generated::{
        bpf_get_current_ancestor_cgroup_id, bpf_skb_ancestor_cgroup_id, bpf_skc_to_mptcp_sock,
    },
};
use chadthrottle_ebpf::{
    clock,
    layout::{CGROUP_DEPTHS, DOWNLOAD, Flow, Global, Tag},
    program::field,
};

use super::{
    constants,
    maps::{CGROUPS, GLOBAL, RATES, TAGS},
};

/// A limit in force.
#[derive(Clone, Copy)]
pub(crate) struct Limit {
    /// Its slot.
    pub(crate) slot: u32,
    /// The generation that the tag names, and the slot still has.
    pub(crate) generation: u32,
    /// Bytes per second, download and upload; 0 = no limit in this direction.
    rates: [u64; 2],
}

impl Limit {
    /// The entry in RATES and GROUPS.
    #[inline]
    pub(crate) fn index(&self, direction: u32) -> u32 {
        self.slot * 2 + direction
    }

    /// The rate of a direction that is limited.
    #[inline]
    pub(crate) fn rate(&self, direction: u32) -> Option<NonZeroU64> {
        let [download, upload] = self.rates;
        clock::rate(if direction == DOWNLOAD { download } else { upload })
    }

    /// Neither direction is limited (any more).
    #[inline]
    pub(crate) fn idle(&self) -> bool {
        self.rates == [0; 2]
    }
}

/// The limit of a packet's socket. In order: the socket's own tag; that of the MPTCP socket
/// it carries data for; that of the nearest tagged cgroup above it. What is found is written
/// to the socket, so that it costs one lookup from then on, and accepted sockets inherit it.
#[inline]
pub(crate) fn of_packet(
    skb: *mut __sk_buff,
    sk: *mut c_void,
    cookie: impl Fn() -> u64,
) -> Option<Limit> {
    let global = GLOBAL.get(0)?;
    let tag = TAGS.get(sk);
    if let Some(tag) = &tag {
        if let Some(limit) = valid(tag, &cookie) {
            return Some(limit);
        }
        if tag.limit == 0 && tag.generation == global.generation {
            return None;
        }
    }
    if let Some((limit, found)) = of_mptcp(sk) {
        write(sk, tag, found);
        return Some(limit);
    }
    if global.cgroup_depths == [0; CGROUP_DEPTHS] {
        return None;
    }
    // SAFETY: a helper call on the program's own context.
    let found = nearest(global, |level| unsafe { bpf_skb_ancestor_cgroup_id(skb, level) });
    let limit = found.and_then(|found| valid(&found, || 0));
    let none = Tag { limit: 0, generation: global.generation, owner: 0 };
    write(sk, tag, found.filter(|_| limit.is_some()).unwrap_or(none));
    limit
}

/// The limit of a socket that an event of its own is about: its tag, or its MPTCP socket's.
#[inline]
pub(crate) fn of_event(sk: *mut c_void, cookie: impl Fn() -> u64) -> Option<Limit> {
    of_tag(sk, cookie).or_else(|| {
        let (limit, found) = of_mptcp(sk)?;
        write(sk, TAGS.get(sk), found);
        Some(limit)
    })
}

/// The limit that the socket's own tag names. All that the iterator can ask: a subflow of
/// MPTCP gets its tag with its next packet, and the next visit finds it.
#[inline]
pub(crate) fn of_tag(sk: *mut c_void, cookie: impl Fn() -> u64) -> Option<Limit> {
    TAGS.get(sk).and_then(|tag| valid(tag, cookie))
}

/// The tag for a socket that the current task creates in a tagged cgroup.
#[inline]
pub(crate) fn of_current_cgroup() -> Option<Tag> {
    let global = GLOBAL.get(0)?;
    // SAFETY: a helper call without pointers.
    nearest(global, |level| unsafe { bpf_get_current_ancestor_cgroup_id(level) })
}

/// The limit that the state of a socket belongs to, if it is still in force.
#[inline]
pub(crate) fn of_flow(flow: &Flow) -> Option<Limit> {
    valid(&Tag { limit: flow.limit, generation: flow.generation, owner: 0 }, || 0)
}

/// The limit that a tag names, if it counts: the slot still belongs to the same limit, and
/// the tag is meant for this socket. `cookie` is asked only when the tag names an owner.
#[inline]
fn valid(tag: &Tag, cookie: impl FnOnce() -> u64) -> Option<Limit> {
    let (slot, generation) = (tag.limit.checked_sub(1)?, tag.generation);
    let (download, upload) = (RATES.get(slot * 2)?, RATES.get(slot * 2 + 1)?);
    if download.in_use == 0 || download.generation != generation {
        return None;
    }
    let rates = [download.bytes_per_second, upload.bytes_per_second];
    (tag.owner == 0 || tag.owner == cookie()).then_some(Limit { slot, generation, rates })
}

/// The MPTCP socket that this TCP socket carries data for; null when there is none.
#[inline]
pub(crate) fn connection(sk: *mut c_void) -> *mut c_void {
    if constants::has_mptcp() == 0 {
        return ptr::null_mut();
    }
    // SAFETY: the verifier checks the pointer.
    unsafe { bpf_skc_to_mptcp_sock(sk) }.cast()
}

/// The tag of the MPTCP socket that this TCP socket carries data for. Applications hold only
/// the MPTCP socket, so only that is tagged.
#[inline]
fn of_mptcp(sk: *mut c_void) -> Option<(Limit, Tag)> {
    let mptcp = connection(sk);
    if mptcp.is_null() {
        return None;
    }
    let tag = *TAGS.get(mptcp)?;
    let limit = valid(&tag, || match constants::cookie() {
        0 => 0,
        // SAFETY: the loader says where the cookie is.
        offset => unsafe { field(mptcp, offset) },
    })?;
    Some((limit, Tag { owner: 0, ..tag }))
}

/// The tag of the deepest tagged cgroup; `ancestor` gives the id at a level, 0 for none.
#[inline]
fn nearest(global: &Global, ancestor: impl Fn(i32) -> u64) -> Option<Tag> {
    for depth in &global.cgroup_depths {
        let level = i32::from(*depth).checked_sub(1).filter(|level| *level >= 0)?;
        // SAFETY: nothing here keeps the reference; entries are replaced whole.
        if let Some(tag) = unsafe { CGROUPS.get(ancestor(level)) } {
            return Some(*tag);
        }
    }
    None
}

/// Puts a tag on a socket, or over the one it has.
#[inline]
fn write(sk: *mut c_void, old: Option<&mut Tag>, new: Tag) {
    match old {
        Some(old) => *old = new,
        // Without memory the next packet tries again.
        None => drop(TAGS.get_or(sk, new)),
    }
}
