//! Downloads: offers the window that `edge` works out.

use core::ffi::c_void;

use aya_ebpf::{
    bindings::bpf_sock_ops,
    helpers::generated::{bpf_get_prandom_u32, bpf_reserve_hdr_opt, bpf_skc_to_tcp_sock},
};
use chadthrottle_ebpf::{
    active::Snapshot,
    atomic::Shared,
    clock::{self, balance},
    edge::{self, Seen},
    layout::{DOWNLOAD, Flow, Group, LINKED, LINKING},
    program::field,
    wire::UNKNOWN,
};

/// Bytes of header that are reserved to be called again; the kernel fills them with NOPs.
const OPTION: u32 = 4;

use super::{
    attribution::{self, Limit},
    constants,
    hooks::Socket,
    maps::{GLOBAL, GROUPS},
};

/// Decides the window of the segment that is about to be sent; `fresh` when the handshake was
/// just done.
#[inline]
pub(crate) fn set_window(
    ctx: *mut bpf_sock_ops,
    sk: *mut c_void,
    flow: &mut Flow,
    limit: &Limit,
    now: u64,
    fresh: bool,
) {
    let Some(rate) = limit.rate(DOWNLOAD) else { return };
    let Some(group) = GROUPS.get(limit.index(DOWNLOAD)) else { return };
    let begins = fresh || flow.edge.at == 0;
    let Some(mut seen) = look(ctx, sk, now, fresh) else { return };
    clock::retune(&group.clock, &group.clock_rate, rate, now);
    group.round_trip.set(clock::recent_largest(group.round_trip.get(), seen.round_trip));

    let snapshot = Snapshot::take(&group.active, now, rate);
    let shared = edge::Shared {
        rate,
        sockets: snapshot.active.sockets(),
        balance: balance(group.clock.get(), now),
        begun: group.begun.get(),
    };
    if begins {
        seen.scale = scale(sk);
        // A SYN that passed our program tells of connections that we open.
        let least = if fresh && flow.edge.passed == 0 { LINKED } else { LINKING };
        seen.wired =
            seen.scale != UNKNOWN && GLOBAL.get(0).is_some_and(|global| global.wired >= least);
        flow.edge.begin(&seen, &shared, fresh, snapshot.active.before != 0);
    }
    if fresh || offer(ctx, flow, group, &shared, &seen) {
        let [epoch, _] = &mut flow.epochs;
        snapshot.count(&group.active, epoch);
    }
}

/// Offers what the socket may be sent; returns whether it counts as active.
#[inline]
fn offer(
    ctx: *mut bpf_sock_ops,
    flow: &mut Flow,
    group: &Group<Shared>,
    shared: &edge::Shared,
    seen: &Seen,
) -> bool {
    let grant = edge::grant(&mut flow.edge, shared, seen);
    let socket = Socket::Event(ctx);
    if grant.closed {
        group.last_close.set(seen.now);
    }
    if flow.edge.wired != 0 {
        if flow.edge.narrow != 0 {
            flow.edge.narrow = 0;
            socket.clamp(flow, edge::widest(shared.rate));
        }
        return grant.greedy;
    }
    flow.edge.narrow = 1;
    if grant.then != 0 {
        // SAFETY: a helper call on the program's own context.
        let failed = unsafe { bpf_reserve_hdr_opt(ctx, OPTION, 0) };
        // Without room for it (many SACK blocks) it takes two probes to open.
        flow.edge.then = if failed == 0 { grant.then } else { 0 };
    }
    socket.clamp(flow, grant.window);
    if grant.lift {
        socket.clamp(flow, edge::widest(shared.rate));
    }
    grant.greedy
}

/// The window of the segment is chosen: what was to follow it.
#[inline]
pub(crate) fn window_is_chosen(ctx: *mut bpf_sock_ops, flow: &mut Flow) {
    if flow.edge.then != 0 {
        Socket::Event(ctx).clamp(flow, flow.edge.then);
        flow.edge.then = 0;
    }
}

/// Reads the receive window off the socket.
#[inline]
fn look(ctx: *mut bpf_sock_ops, sk: *mut c_void, now: u64, fresh: bool) -> Option<Seen> {
    // SAFETY: `sk` is a socket; null when it is not TCP.
    let tp = unsafe { bpf_skc_to_tcp_sock(sk) }.cast::<c_void>();
    if tp.is_null() {
        return None;
    }
    // SAFETY: the program's own context; the loader says where the fields are.
    unsafe {
        let window = field::<u32>(tp, constants::rcv_wnd());
        Some(Seen {
            now,
            next: (*ctx).rcv_nxt,
            right: field::<u32>(tp, constants::rcv_wup()).wrapping_add(window),
            window,
            mss: match constants::rcv_mss() {
                0 => 0,
                offset => u32::from(field::<u16>(tp, offset)),
            },
            round_trip: u64::from((*ctx).srtt_us >> 3) * 1000,
            random: bpf_get_prandom_u32(),
            scale: UNKNOWN,
            wired: false,
            clocked: GLOBAL.get(0).is_some_and(|global| global.clocked != 0),
            bare: !fresh && (*ctx).skb_len == 0,
        })
    }
}

/// By how many bits windows are shifted. Those of MPTCP are left alone: they are windows of the
/// whole connection, whose sender takes none back.
#[inline]
fn scale(sk: *mut c_void) -> u32 {
    // SAFETY: `sk` is a socket; null when it is not TCP.
    let tp = unsafe { bpf_skc_to_tcp_sock(sk) }.cast::<c_void>();
    if tp.is_null() || constants::rcv_wscale() == 0 || attribution::is_mptcp(sk) {
        return UNKNOWN;
    }
    // SAFETY: the loader says where the field is.
    let bits = unsafe { field::<u8>(tp, constants::rcv_wscale()) };
    u32::from(bits) >> constants::rcv_wscale_shift() & 15
}
