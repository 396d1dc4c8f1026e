//! Uploads: sets the pace that `pace` works out.

use aya_ebpf::helpers::generated::bpf_get_prandom_u32;
use chadthrottle_ebpf::{
    active::{Active, Snapshot},
    clock::{self, balance},
    layout::{Flow, UPLOAD},
    pace,
};

use super::{attribution::Limit, hooks::Socket, maps::GROUPS};

/// Sets the pace. A socket counts as active from when it connects.
#[inline]
pub(crate) fn set_pace(
    socket: Socket,
    flow: &mut Flow,
    limit: &Limit,
    now: u64,
    feedback: bool,
) {
    let Some(rate) = limit.rate(UPLOAD) else { return };
    let Some(group) = GROUPS.get(limit.index(UPLOAD)) else { return };
    clock::retune(&group.clock, &group.clock_rate, rate, now);
    let snapshot = Snapshot::take(&group.active, now, rate);
    let pace = if feedback {
        let [_, epoch] = &mut flow.epochs;
        let sockets = snapshot.count(&group.active, epoch).sockets();
        let idle = now.wrapping_sub(group.last.get());
        let pace = pace::pace(rate, sockets, balance(group.clock.get(), now), idle);
        // SAFETY: a helper call without pointers.
        let random = unsafe { bpf_get_prandom_u32() };
        if sockets.get() == 1 { pace } else { pace::out_of_step(pace, random) }
    } else {
        // Not counted: it may be idle; what it sends is counted in `packets`.
        rate.get() / snapshot.active.sockets()
    };
    socket.pace(flow, pace);
}

/// Sets the first congestion window, when the handshake is done, and the pace behind it.
#[inline]
pub(crate) fn set_initial_window(socket: Socket, flow: &mut Flow, limit: &Limit) {
    let Some(rate) = limit.rate(UPLOAD) else { return };
    let Some(group) = GROUPS.get(limit.index(UPLOAD)) else { return };
    let sockets = Active::unpack(group.active.get()).sockets();
    if let Some(segments) = pace::initial_window(rate, sockets) {
        socket.initial_window(segments);
        if segments <= pace::SMALL_WINDOW {
            let pace = pace::first(u64::from(flow.pace));
            socket.pace(flow, pace);
        }
    }
}
