//! How much of a download is let through before packets are dropped.

use super::{Shared, earned, leaks, outstanding, share};
use crate::{
    clock::{MILLISECOND, SECOND, Slack, bytes_in, time_of},
    layout::Edge,
    packet::MSS,
};

/// Unused time that an active limit may make up for.
const CREDIT: u64 = 600 * MILLISECOND;
/// Unused time that is kept over an idle gap.
const CREDIT_IDLE: u64 = 50 * MILLISECOND;
/// Backlog at which packets are dropped: TCP that ignores its window, or has none of ours.
const BACKSTOP: u64 = 400 * MILLISECOND;
/// ... plus the time of one segment per socket, at most this.
const BACKSTOP_SOCKETS: u64 = 600 * MILLISECOND;
/// Of a socket that drains: little is left to make up for when its window takes over.
const BACKSTOP_DRAINING: u64 = 100 * MILLISECOND;
/// Backlog at which packets are dropped where a share is less than [`super::LEAK`], of sockets in debt ...
const BACKSTOP_DEBT: u64 = 40 * MILLISECOND;
/// ... and of the others while all of them begin, in the first second after a pause.
const BACKSTOP_LEAK: u64 = 80 * MILLISECOND;

/// How a socket stands with what it was granted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// It uses permits from before the limit, which no window takes back.
    Draining,
    /// It was granted more than its share.
    InDebt,
    /// Neither.
    Clear,
    /// What it may send is shown to it exactly.
    Shown,
}

/// What the backstop knows of the limit's time.
#[derive(Debug, Clone, Copy)]
pub struct Times {
    /// Since the limit's last packet, ns.
    pub idle: u64,
    /// Since one of its sockets was closed, ns.
    pub since_close: u64,
    /// The largest round trip lately, ns.
    pub round_trip: u64,
    /// It is the first second after a pause.
    pub begins: bool,
}

/// The slack of TCP downloads.
///
/// Many sockets of a slow limit get more than their share through closed windows. What is too much
/// is dropped then: of those that had their share already, not of whoever comes last.
#[inline]
#[must_use]
pub fn slack(shared: &Shared, standing: Standing, times: &Times) -> Slack {
    let pause = if times.since_close < 1500 * MILLISECOND {
        SECOND
    } else {
        200 * MILLISECOND + 2 * times.round_trip
    };
    let sockets = time_of(MSS * shared.sockets.get(), shared.rate).min(BACKSTOP_SOCKETS);
    let leaks = standing != Standing::Shown && leaks(shared);
    let backlog = match standing {
        Standing::Draining => BACKSTOP_DRAINING,
        Standing::InDebt if leaks => BACKSTOP_DEBT,
        Standing::Clear if leaks && times.begins => BACKSTOP_LEAK,
        _ => BACKSTOP + sockets,
    };
    Slack { credit: if times.idle > pause { CREDIT_IDLE } else { CREDIT }, backlog }
}

impl Edge {
    /// How the socket stands with what it was granted.
    #[inline]
    #[must_use]
    pub fn standing(&self, shared: &Shared, now: u64, round_trip: u64) -> Standing {
        if !self.keeps() {
            return Standing::Shown;
        }
        let share = share(shared);
        let full = bytes_in(self.horizon(now, round_trip), share).cast_signed();
        if self.drains(outstanding(self.right, self.next), full + 3 * MSS.cast_signed()) {
            Standing::Draining
        } else if self.wired != 0 {
            Standing::Shown
        } else if self.tokens + earned(now, self.at, share) < 0 {
            Standing::InDebt
        } else {
            Standing::Clear
        }
    }
}
