//! When a window that was closed opens again, where user space is the clock.

use super::{DEBT, EARN, Seen, Shared, leaks};
use crate::{
    branchless,
    clock::{MILLISECOND, SECOND, bytes_in},
    layout::Edge,
};

/// What a window opens by: this much of the share, ns, a segment at least ...
const TICK: i64 = 10 * MILLISECOND.cast_signed();
/// ... or this much for each socket of the limit, up to [`super::HORIZON`]: two thousand acknowledgements
/// a second in all.
const TICK_SOCKET: i64 = MILLISECOND.cast_signed() / 2;
/// More is not waited for, bytes: keeps the product within its type.
const MOST: i64 = 1 << 33;
/// For how long at most, ns: what an event can earn.
const LONGEST: i64 = EARN;

/// Debt down to which a dry socket still gets one segment a round trip: what it earns in one, since a
/// window that opens again takes as long. Negative without a round trip: nothing is granted that
/// was not earned.
#[inline]
pub(super) fn debt(shared: &Shared, seen: &Seen, share: u64, mss: i64) -> i64 {
    let round_trip = if leaks(shared) { 0 } else { seen.round_trip.min(DEBT) };
    bytes_in(round_trip, share).cast_signed() - mss
}

impl Edge {
    /// Whether a window is promised that the sender cannot know yet, and need not know better.
    #[inline]
    pub(super) const fn waits(&self, seen: &Seen, mss: i64) -> bool {
        let left = self.promised.wrapping_sub(seen.next).cast_signed();
        seen.now < self.due && left as i64 >= mss
    }

    /// Promises the next window of a socket that has just been closed: when it will have earned that.
    /// `outstanding` bytes of it are charged already.
    #[inline]
    pub(super) fn promise(
        &mut self,
        shared: &Shared,
        seen: &Seen,
        share: u64,
        mss: i64,
        outstanding: i64,
    ) {
        let tick = TICK_SOCKET * shared.sockets.get().cast_signed();
        let tick = branchless::clamp(tick, TICK, super::HORIZON.cast_signed());
        let window = bytes_in(tick.cast_unsigned(), share).cast_signed();
        // What the kernel offers, or little more.
        let most =
            branchless::min(i64::from(super::widest(shared.rate)), i64::from(seen.window));
        let window = branchless::clamp(window, mss, branchless::max(most, mss));
        let missing = window - outstanding - self.tokens;
        let missing = branchless::clamp(missing, 0, MOST).cast_unsigned();
        // A share of nothing at all waits for the longest time as well.
        let wait = (missing * SECOND / (share | 1)).cast_signed();
        self.due = seen.now + branchless::min(wait, LONGEST).cast_unsigned();
        // Rounded down to the window's unit it would be less than a segment.
        let unit = (1 << (self.scale & 15)) - 1;
        self.promised =
            seen.next.wrapping_add(window.cast_unsigned() as u32).wrapping_add(unit);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        edge::{Grant, grant},
        wire,
    };
    use core::num::NonZeroU64;

    const SCALE: u32 = 7;
    /// What the kernel offers: as much as it can.
    const OFFERED: u16 = u16::MAX;

    /// A sender without a round trip that has been asked to be quick: what it got in so long, and
    /// the most that it got at once.
    fn receive(rate: u64, sockets: u64, seconds: u64) -> (u64, u64) {
        let number = |value| NonZeroU64::new(value).unwrap();
        let shared =
            Shared { rate: number(rate), sockets: number(sockets), balance: 0, begun: 0 };
        let (mut now, mut next, mut edge) = (SECOND, u32::MAX - 5000, Edge::default());
        let at = |now, next: u32| Seen {
            now,
            next,
            right: next.wrapping_add(u32::from(OFFERED) << SCALE),
            window: u32::from(OFFERED) << SCALE,
            mss: 1448,
            round_trip: 50_000,
            random: 512,
            scale: SCALE,
            firm: false,
            wired: true,
            clocked: true,
            bare: true,
        };
        edge.begin(&at(now, next), &shared, false, false);
        let (mut received, mut most) = (0, 0);
        while now < SECOND * (seconds + 1) {
            let _: Grant = grant(&mut edge, &shared, &at(now, next));
            let shown = wire::window(&mut edge, now, next, OFFERED).unwrap_or(OFFERED);
            let window = match wire::promise(&mut edge, now, next, OFFERED) {
                Some(promise) => {
                    assert_eq!(shown, 0, "closed until then");
                    now = promise.due;
                    promise.window
                }
                None => shown,
            };
            let sent = u32::from(window) << SCALE;
            assert!(sent >= 1448, "a segment at least: {edge:?}");
            now += 50_000;
            next = next.wrapping_add(sent);
            received += u64::from(sent);
            most = most.max(u64::from(sent));
        }
        (received, most)
    }

    #[test]
    fn without_a_round_trip_it_is_exact_and_smooth() {
        for (rate, sockets) in [(32_000, 1), (1_250_000, 1), (1_250_000, 16), (125_000_000, 1)]
        {
            let share = rate / sockets;
            let (got, most) = receive(rate, sockets, 20);
            assert!(got.abs_diff(share * 20) < share / 2, "{got} of {} at {rate}", share * 20);
            assert!(most <= (share / 50).max(2 * 1448), "{most} at once at {rate}");
        }
    }

    #[test]
    fn a_share_of_almost_nothing_waits_no_longer_than_a_stop() {
        let (got, _) = receive(1000, 1, 20);
        assert!(got <= 20 * (1448 + 256), "a segment a second: {got}");
    }
}
