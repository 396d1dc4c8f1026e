//! A socket comes under a limit, with what its sender was allowed to send before.

use super::{Seen, Shared, leaks};
use crate::{
    branchless,
    clock::{MILLISECOND, bytes_in},
    layout::Edge,
    packet::MSS,
    wire::PATIENCE,
};

/// How long permits of the time before count: some round trips. Who kept them for longer was
/// slower than the limit anyway.
pub(super) const HANDOVER: u64 = 500 * MILLISECOND;

/// What is outstanding of an MPTCP connection is not free up to this time of the rate: less than the
/// backlog at which packets are dropped.
const PAID: u64 = 250 * MILLISECOND;

impl Edge {
    /// All zeroes, as the default, but cheap for the verifier; see [`branchless::zero`].
    #[inline]
    #[must_use]
    pub fn zeroed() -> Self {
        let zero = branchless::zero();
        let half = zero as u32;
        Self {
            at: zero,
            closed_at: zero,
            rate: zero,
            tokens: zero.cast_signed(),
            right: half,
            next: half,
            given_until: zero,
            given: half,
            then: half,
            arrived: zero,
            wire: half,
            shown: half,
            scale: half,
            passed: half,
            wired: half,
            firm: half,
            due: zero,
            promised: half,
            padding: half,
        }
    }

    /// A socket comes under the limit. One that was opened under it has its first window
    /// charged; in a group that already runs it gets 50 ms of its share to begin with. One
    /// that was open before keeps what it was given.
    #[inline]
    pub fn begin(&mut self, seen: &Seen, shared: &Shared, fresh: bool, running: bool) {
        let share = shared.rate.get() / (shared.sockets.get() + 1);
        let start = if running { bytes_in(50 * MILLISECOND, share) } else { 0 };
        // A probe's time of its share is less than the first window: it stops right after that.
        let slow = bytes_in(200 * MILLISECOND, share) < 2 * MSS;
        // Our program on the interfaces shows what is offered from here on.
        let first = if seen.wired && !seen.firm && leaks(shared) {
            seen.window.min(MSS as u32)
        } else {
            seen.window
        };
        let charged = if fresh { u64::from(first) } else { 0 };
        if fresh {
            *self = Self::zeroed();
        } else if self.is_new() {
            self.give(seen.right.wrapping_sub(seen.next), seen.now);
        }
        if seen.firm && !fresh {
            // Its edge does not creep, and what fits into the backlog is paid for.
            let all = seen.right.wrapping_sub(seen.next);
            self.given = all
                .saturating_sub(bytes_in(PAID, shared.rate.get()).min(u32::MAX.into()) as u32);
        }
        self.at = seen.now;
        self.rate = shared.rate.get();
        let credit = if fresh && slow { 0 } else { MSS };
        self.tokens = (credit + start).cast_signed() - charged.cast_signed();
        self.right = seen.right;
        self.next = seen.next;
        self.scale = seen.scale;
        self.passed = 0;
        self.firm = seen.firm.into();
        if seen.wired {
            // The sender is shown this with the segment that is about to be sent.
            self.passed = PATIENCE;
            self.wired = 1;
            self.shown = if seen.firm {
                seen.right
            } else {
                seen.next.wrapping_add(if fresh { first } else { 0 })
            };
            self.right = self.shown;
        }
        self.wire = self.right;
    }

    /// What the sender was allowed to send before the limit, or before its present rate, often
    /// megabytes, is free of charge for a moment. To drop it would only make it come again, and
    /// shrink the sender's congestion window for long after the limit.
    ///
    /// Half as much again, because the edge creeps while that drains: rounding to the window's
    /// scale adds to every acknowledgement, often a third of what arrives.
    #[inline]
    pub fn give(&mut self, outstanding: u32, now: u64) {
        self.given_until = now + HANDOVER;
        self.given = outstanding.saturating_add(outstanding / 2);
    }

    /// Whether `bytes` that arrive are free of charge; they are then used up.
    #[inline]
    #[must_use]
    pub const fn is_given(&mut self, bytes: u32, now: u64) -> bool {
        let given = now < self.given_until && self.given >= bytes;
        if given {
            self.given -= bytes;
        }
        given
    }

    /// Whether nothing has been decided about this socket yet.
    #[inline]
    #[must_use]
    pub const fn is_new(&self) -> bool {
        self.at == 0 && self.given_until == 0
    }
}
