//! cgroup_skb: counts the payload of limited sockets and refuses what is too much.
//!
//! TCP is slowed by `events`, and refused only as a backstop; everything else has a bucket of
//! 50 to 100 ms here.

use core::{ffi::c_void, num::NonZeroU64};

use aya_ebpf::{
    bindings::__sk_buff,
    helpers::{
        bpf_ktime_get_ns,
        generated::{
            bpf_get_prandom_u32, bpf_get_socket_cookie, bpf_sk_fullsock, bpf_skc_to_tcp_sock,
        },
    },
};
use chadthrottle_ebpf::{
    active::{Active, Snapshot},
    atomic::Shared,
    clock::{self, MILLISECOND, SECOND, Slack, balance},
    edge,
    layout::{Edge, Flow, Group, LOCAL, PACED, UPLOAD},
    pace::Upload,
    packet::payload,
    program::{Packet, field},
};

use super::{
    attribution, constants,
    hooks::can_grant,
    joined,
    maps::{FLOWS, GROUPS},
};

/// The interface of loopback, in every network namespace.
const LOOPBACK: u32 = 1;
/// What is not TCP has no feedback: a bucket of 50 ms, and no credit ...
const BUCKET: u64 = 50 * MILLISECOND;
/// ... above which packets are refused with a chance that grows from 0 to 1 within so much more.
/// A full bucket would take whoever's packet comes first after there is room, of senders in step
/// always the same one's.
const CHANCE: u64 = 50 * MILLISECOND;

/// What others gave permits for passes, and the time it takes is not saved up meanwhile.
const GIVEN: Slack = Slack { credit: 0, backlog: u64::MAX };

/// Whether a packet may pass. What we do not know passes.
#[inline]
pub(crate) fn passes(skb: *mut __sk_buff, direction: u32) -> bool {
    decide(skb, direction).unwrap_or(true)
}

#[inline]
fn decide(skb: *mut __sk_buff, direction: u32) -> Option<bool> {
    // SAFETY: the program's own context; `sk` is read once, so that the null check holds.
    let (sk, interface, length) =
        unsafe { ((*skb).__bindgen_anon_2.sk, (*skb).ifindex, (*skb).len) };
    if sk.is_null() {
        return None;
    }
    // SAFETY: checked not to be null; null again for a socket that is not a full one.
    let sk = unsafe { bpf_sk_fullsock(sk) }.cast::<c_void>();
    if sk.is_null() {
        return None;
    }
    if interface == LOOPBACK {
        if let Some(flow) = FLOWS.get(sk) {
            flow.state |= LOCAL;
        }
        return None;
    }
    // SAFETY: a helper call on the program's own context.
    let cookie = || unsafe { bpf_get_socket_cookie(skb.cast()) };
    let limit = attribution::of_packet(skb, sk, cookie)?;
    let rate = limit.rate(direction)?;
    let group = GROUPS.get(limit.index(direction))?;
    let packet = payload(&Packet(skb), length).filter(|packet| packet.bytes != 0)?;

    // SAFETY: a helper call without pointers.
    let now = unsafe { bpf_ktime_get_ns() };
    clock::retune(&group.clock, &group.clock_rate, rate, now);
    let cost = clock::time_of(u64::from(packet.bytes), rate);
    let (cost, slack) = if packet.tcp {
        let flow = FLOWS.get_or_zeroed(sk)?;
        if direction == UPLOAD {
            (cost, upload_slack(flow, group, rate, now, cost))
        } else {
            let edge = joined::permits(sk, flow)?;
            if is_given(edge, sk, packet.bytes, now) {
                (0, GIVEN)
            } else {
                (cost, download_slack(edge, group, rate, now))
            }
        }
    } else {
        (cost, bucket())
    };
    if clock::charge(&group.clock, now, cost, slack) {
        group.last.set(now);
        group.packets.add(1);
        group.bytes.add(u64::from(packet.bytes));
        Some(true)
    } else {
        group.dropped.add(1);
        Some(false)
    }
}

/// The slack of what is not TCP.
#[inline]
fn bucket() -> Slack {
    // SAFETY: a helper call without pointers.
    let random = u64::from(unsafe { bpf_get_prandom_u32() });
    Slack { credit: 0, backlog: BUCKET + (CHANCE * random >> 32) }
}

/// Whether what arrives was allowed before the limit; asked of the socket at its first packet.
#[inline]
fn is_given(edge: &mut Edge, sk: *mut c_void, bytes: u32, now: u64) -> bool {
    if can_grant() && edge.is_new() {
        // SAFETY: `sk` is a socket; null when it is not TCP.
        let tp = unsafe { bpf_skc_to_tcp_sock(sk) }.cast::<c_void>();
        if !tp.is_null() {
            // SAFETY: the loader says where the window is.
            let window = unsafe { field::<u32>(tp, constants::rcv_wnd()) };
            edge.give(window, now);
        }
    }
    edge.is_given(bytes, now)
}

/// The backstop of TCP downloads.
#[inline]
fn download_slack(edge: &Edge, group: &Group<Shared>, rate: NonZeroU64, now: u64) -> Slack {
    let idle = now.wrapping_sub(group.last.get());
    if idle > SECOND {
        group.begun.set(now);
    }
    let begun = group.begun.get();
    let times = edge::Times {
        idle,
        since_close: now.wrapping_sub(group.last_close.get()),
        round_trip: group.round_trip.get(),
        begins: now.wrapping_sub(begun) < SECOND,
    };
    let sockets = Active::unpack(group.active.get()).sockets();
    let balance = balance(group.clock.get(), now);
    let shared = edge::Shared { rate, sockets, balance, begun };
    edge::slack(&shared, edge.standing(&shared, now, times.round_trip), &times)
}

/// The backstop of TCP uploads; the socket is also counted as active here.
#[inline]
fn upload_slack(
    flow: &mut Flow,
    group: &Group<Shared>,
    rate: NonZeroU64,
    now: u64,
    cost: u64,
) -> Slack {
    let [_, epoch] = &mut flow.epochs;
    let active = Snapshot::take(&group.active, now, rate).count(&group.active, epoch);
    let upload = Upload {
        rate,
        sockets: active.sockets(),
        idle: now.wrapping_sub(group.last.get()),
        running: now.wrapping_sub(group.begun.get()),
        paced: flow.state & PACED != 0,
    };
    if upload.begins() {
        group.begun.set(now);
    }
    upload.slack(cost)
}
