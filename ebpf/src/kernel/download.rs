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
    layout::{DOWNLOAD, Edge, Flow, Group, LINKED, LINKING, NARROW},
    program::field,
    wire::UNKNOWN,
};

/// Bytes of header that are reserved to be called again; the kernel fills them with NOPs.
const OPTION: u32 = 4;

use super::{
    attribution::Limit,
    constants,
    hooks::Socket,
    joined,
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
    // A SYN that passed our program tells of connections that we open.
    let least = if fresh && flow.edge.passed == 0 { LINKED } else { LINKING };
    let Some(global) = GLOBAL.get(0) else { return };
    let Some(mut seen) = look(ctx, sk, now, fresh) else { return };
    seen.wired = seen.scale != UNKNOWN && global.wired >= least;
    seen.clocked = global.clocked != 0;
    clock::retune(&group.clock, &group.clock_rate, rate, now);
    group.round_trip.set(clock::recent_largest(group.round_trip.get(), seen.round_trip));

    let snapshot = Snapshot::take(&group.active, now, rate);
    let shared = edge::Shared {
        rate,
        sockets: snapshot.active.sockets(),
        balance: balance(group.clock.get(), now),
        begun: group.begun.get(),
    };
    let linked = global.wired == LINKED;
    let whole = joined::connection(sk, flow, &mut seen, fresh, linked);
    let Flow { edge, epochs, state, .. } = flow;
    let (edge, epochs) = match whole {
        Some(whole) => (&mut whole.edge, &mut whole.epochs),
        None => (edge, epochs),
    };
    if edge.at == 0 || fresh && !seen.firm {
        edge.begin(&seen, &shared, fresh, snapshot.active.before != 0);
    }
    if fresh || offer(ctx, state, edge, group, &shared, &seen) {
        let [epoch, _] = epochs;
        snapshot.count(&group.active, epoch);
    }
}

/// Offers what the socket may be sent; returns whether it counts as active.
#[inline]
fn offer(
    ctx: *mut bpf_sock_ops,
    state: &mut u32,
    edge: &mut Edge,
    group: &Group<Shared>,
    shared: &edge::Shared,
    seen: &Seen,
) -> bool {
    let grant = edge::grant(edge, shared, seen);
    let socket = Socket::Event(ctx);
    if grant.closed {
        group.last_close.set(seen.now);
    }
    if edge.wired != 0 {
        if *state & NARROW != 0 {
            *state &= !NARROW;
            socket.clamp(state, edge::widest(shared.rate));
        }
        return grant.greedy;
    }
    *state |= NARROW;
    if grant.then != 0 {
        // SAFETY: a helper call on the program's own context.
        let failed = unsafe { bpf_reserve_hdr_opt(ctx, OPTION, 0) };
        // Without room for it (many SACK blocks) it takes two probes to open.
        edge.then = if failed == 0 { grant.then } else { 0 };
    }
    socket.clamp(state, grant.window);
    if grant.lift {
        socket.clamp(state, edge::widest(shared.rate));
    }
    grant.greedy
}

/// The window of the segment is chosen: what was to follow it.
#[inline]
pub(crate) fn window_is_chosen(ctx: *mut bpf_sock_ops, flow: &mut Flow) {
    if flow.edge.then != 0 {
        Socket::Event(ctx).clamp(&mut flow.state, flow.edge.then);
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
            scale: scale(tp),
            firm: false,
            wired: false,
            clocked: false,
            bare: !fresh && (*ctx).skb_len == 0,
        })
    }
}

/// By how many bits the windows of a TCP socket are shifted.
#[inline]
fn scale(tp: *mut c_void) -> u32 {
    if constants::rcv_wscale() == 0 {
        return UNKNOWN;
    }
    // SAFETY: the loader says where the field is.
    let bits = unsafe { field::<u8>(tp, constants::rcv_wscale()) };
    u32::from(bits) >> constants::rcv_wscale_shift() & 15
}
