//! Uploads: sets the pace that `pace` works out.

use chadthrottle_ebpf::{
    active::{self, Active},
    clock::{self, balance},
    layout::{Flow, UPLOAD},
    pace,
};

use super::{attribution::Limit, hooks::Socket, maps::GROUPS};

/// When a pace is set.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Moment {
    /// The socket connects, or was open before.
    Begins,
    /// The handshake is done; the initial window can be set.
    Established,
    /// A round trip was measured.
    Sample,
}

/// Sets the pace. A socket counts as active from when it connects.
#[inline]
pub(crate) fn set_pace(
    socket: Socket,
    flow: &mut Flow,
    limit: &Limit,
    now: u64,
    moment: Moment,
) {
    let Some(rate) = limit.rate(UPLOAD) else { return };
    let Some(group) = GROUPS.get(limit.index(UPLOAD)) else { return };
    clock::retune(&group.clock, &group.clock_rate, rate, now);
    let active = if moment == Moment::Sample {
        Active::unpack(group.active.get()).at(now, rate)
    } else {
        let [_, epoch] = &mut flow.epochs;
        active::count(&group.active, epoch, now, rate)
    };
    let sockets = active.sockets();
    socket.pace(flow, pace::pace(rate, sockets, balance(group.clock.get(), now)));
    if moment == Moment::Established {
        if let Some(segments) = pace::initial_window(rate, sockets) {
            socket.initial_window(segments);
        }
    }
}
