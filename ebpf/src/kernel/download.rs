//! Downloads: offers the window that `edge` works out.

use core::ffi::c_void;

use aya_ebpf::{
    bindings::{BPF_TCP_SYN_RECV, BPF_TCP_SYN_SENT, bpf_sock_ops},
    helpers::generated::{bpf_get_prandom_u32, bpf_skc_to_tcp_sock},
};
use chadthrottle_ebpf::{
    active::{self, Active},
    clock::{self, balance},
    edge::{self, Seen},
    layout::{DOWNLOAD, Flow},
};

use super::{
    attribution::Limit,
    constants,
    hooks::{Socket, can_grant},
    maps::GROUPS,
};

/// When a window is decided.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Moment {
    /// The socket connects: its window scale is still open.
    Connects,
    /// The handshake is done.
    Established,
    /// A segment is about to be sent.
    Sends,
}

/// Decides the window of the segment that is about to be sent.
#[inline]
pub(crate) fn set_window(
    ctx: *mut bpf_sock_ops,
    sk: *mut c_void,
    flow: &mut Flow,
    limit: &Limit,
    now: u64,
    moment: Moment,
) {
    let Some(rate) = limit.rate(DOWNLOAD) else { return };
    let socket = Socket::Event(ctx);
    if moment == Moment::Connects {
        socket.clamp(flow, edge::widest(rate));
        return;
    }
    // Before the peer's SYN there is no edge to count from.
    // SAFETY: the program's own context.
    let state = unsafe { (*ctx).state };
    let in_handshake = matches!(state, BPF_TCP_SYN_SENT | BPF_TCP_SYN_RECV);
    if !can_grant() || moment == Moment::Sends && in_handshake {
        return;
    }
    let Some(group) = GROUPS.get(limit.index(DOWNLOAD)) else { return };
    let Some(seen) = look(ctx, sk, now) else { return };
    clock::retune(&group.clock, &group.clock_rate, rate, now);
    group.round_trip.set(clock::recent_largest(group.round_trip.get(), seen.round_trip));

    let active = Active::unpack(group.active.get()).at(now, rate);
    let shared = edge::Shared {
        rate,
        sockets: active.sockets(),
        balance: balance(group.clock.get(), now),
    };
    let [epoch, _] = &mut flow.epochs;
    let fresh = moment == Moment::Established;
    if fresh || flow.edge.at == 0 {
        flow.edge = edge::begin(&seen, &shared, fresh, active.before != 0);
        active::count(&group.active, epoch, now, rate);
        if fresh {
            return;
        }
    }
    let grant = edge::grant(&mut flow.edge, &shared, &seen);
    if grant.greedy {
        active::count(&group.active, epoch, now, rate);
    }
    if grant.closed {
        group.last_close.set(now);
    }
    socket.clamp(flow, grant.window);
    if grant.lift {
        socket.clamp(flow, edge::widest(rate));
    }
}

/// Reads the receive window off the socket.
#[inline]
fn look(ctx: *mut bpf_sock_ops, sk: *mut c_void, now: u64) -> Option<Seen> {
    // SAFETY: `sk` is a socket; null when it is not TCP.
    let tp = unsafe { bpf_skc_to_tcp_sock(sk) }.cast::<c_void>();
    if tp.is_null() {
        return None;
    }
    // SAFETY: the program's own context; the loader says where the fields are.
    unsafe {
        let window = constants::field::<u32>(tp, constants::rcv_wnd());
        Some(Seen {
            now,
            next: (*ctx).rcv_nxt,
            right: constants::field::<u32>(tp, constants::rcv_wup()).wrapping_add(window),
            window,
            mss: match constants::rcv_mss() {
                0 => 0,
                offset => u32::from(constants::field::<u16>(tp, offset)),
            },
            round_trip: u64::from((*ctx).srtt_us >> 3) * 1000,
            random: bpf_get_prandom_u32(),
        })
    }
}
