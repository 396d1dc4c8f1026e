//! The virtual clock of a limit (GCRA): the time at which all that passed is paid for.
//!
//! A clock ahead of the real one is a backlog, a clock behind it is credit. Both are times,
//! so they mean the same at every rate.

use core::num::NonZeroU64;

use crate::atomic::Shared;

/// Nanoseconds in a millisecond.
pub const MILLISECOND: u64 = 1_000_000;
/// Nanoseconds in a second.
pub const SECOND: u64 = 1_000_000_000;
/// The largest rate the arithmetic takes, bytes per second. More is as good as this.
const MAX_RATE: u64 = 1 << 40;

/// A rate that limits, bytes of payload per second; `None` for 0, which does not.
#[inline]
#[must_use]
pub fn rate(bytes_per_second: u64) -> Option<NonZeroU64> {
    NonZeroU64::new(if bytes_per_second > MAX_RATE { MAX_RATE } else { bytes_per_second })
}

/// How long `bytes` take at `rate`, ns.
#[inline]
#[must_use]
pub fn time_of(bytes: u64, rate: NonZeroU64) -> u64 {
    bytes * SECOND / rate
}

/// How many bytes `rate` earns in `ns` (whole microseconds; below 5 hours).
#[inline]
#[must_use]
pub const fn bytes_in(ns: u64, rate: u64) -> u64 {
    rate * (ns / 1000) / 1_000_000
}

/// How far the virtual clock may be from the real one.
#[derive(Debug, Clone, Copy)]
pub struct Slack {
    /// Behind it: unused time that may still be used, ns.
    pub credit: u64,
    /// Ahead of it: what passes before the backstop refuses, ns.
    pub backlog: u64,
}

/// The clock after a packet that takes `cost` ns, or `None` when the packet is refused.
#[inline]
#[must_use]
pub const fn admit(clock: u64, now: u64, cost: u64, slack: Slack) -> Option<u64> {
    let earliest = if clock == 0 { now } else { now.saturating_sub(slack.credit) };
    let base = if clock > earliest { clock } else { earliest };
    if base > now.saturating_add(slack.backlog) { None } else { Some(base + cost) }
}

/// Charges a packet to the clock; false when it must be refused.
///
/// When other CPUs are faster each time the packet passes and is added without the bound on
/// credit: nothing goes uncharged.
#[inline]
pub fn charge(clock: &Shared, now: u64, cost: u64, slack: Slack) -> bool {
    match clock.update(|old| admit(old, now, cost, slack)) {
        Ok(_) => true,
        Err(others_were_faster) => {
            if others_were_faster {
                clock.add(cost);
            }
            others_were_faster
        }
    }
}

/// Starts the clock afresh when the rate is not the one it ran at: a backlog from a slow rate
/// would stall a fast one, and credit from a fast one flood a slow one.
#[inline]
pub fn retune(clock: &Shared, runs_at: &Shared, rate: NonZeroU64, now: u64) {
    let old = runs_at.get();
    if old != rate.get() && runs_at.replace(old, rate.get()).is_ok() {
        clock.set(now);
    }
}

/// The group's balance, ns: positive when more passed than the rate allows (a backlog).
#[inline]
#[must_use]
pub const fn balance(clock: u64, now: u64) -> i64 {
    if clock == 0 { 0 } else { clock.wrapping_sub(now).cast_signed() }
}

/// The larger of a new value and what is left of the largest so far, which fades by 1/256 with
/// each.
#[inline]
#[must_use]
pub const fn recent_largest(largest: u64, new: u64) -> u64 {
    if new > largest { new } else { largest - (largest >> 8) }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

    use proptest::prelude::*;

    use super::*;

    const SLACK: Slack = Slack { credit: 0, backlog: 100 * MILLISECOND };

    fn mega() -> NonZeroU64 {
        rate(1_000_000).unwrap()
    }

    #[test]
    fn zero_is_no_rate() {
        assert_eq!(rate(0), None);
        assert_eq!(rate(u64::MAX).unwrap().get(), MAX_RATE);
    }

    #[test]
    fn a_new_clock_gives_no_credit() {
        assert_eq!(admit(0, SECOND, 5, Slack { credit: SECOND, backlog: 0 }), Some(SECOND + 5));
    }

    #[test]
    fn a_new_rate_forgives_the_backlog() {
        let (clock, runs_at) = (Shared::new(100 * SECOND), Shared::new(1));
        retune(&clock, &runs_at, mega(), SECOND);
        assert_eq!((clock.get(), runs_at.get()), (SECOND, 1_000_000));
    }

    #[test]
    fn racing_threads_share_one_budget() {
        let (clock, passed) = (Shared::default(), AtomicU64::new(0));
        let cost = time_of(1000, mega());
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..10_000 {
                        if charge(&clock, SECOND, cost, SLACK) {
                            passed.fetch_add(1, Relaxed);
                        }
                    }
                });
            }
        });
        // 100 ms at 1 ms each and the one that overdraws; each thread may slip one by.
        let passed = passed.load(Relaxed);
        assert!((101..=105).contains(&passed), "{passed}");
        assert_eq!(clock.get(), SECOND + passed * cost);
    }

    proptest! {
        // Each case simulates seconds of traffic.
        #![proptest_config(ProptestConfig::with_cases(32))]

        #[test]
        fn never_more_than_rate_and_burst(
            packets in prop::collection::vec((0u64..50 * MILLISECOND, 1u64..65_000), 1..300),
            bytes_per_second in 1_000u64..1_000_000_000,
        ) {
            let rate = rate(bytes_per_second).unwrap();
            let (clock, mut now, mut passed, mut largest) = (Shared::default(), SECOND, 0, 0);
            for (gap, bytes) in packets {
                now += gap;
                if charge(&clock, now, time_of(bytes, rate), SLACK) {
                    passed += bytes;
                    largest = largest.max(bytes);
                }
            }
            let allowed = bytes_in(now - SECOND + SLACK.backlog, bytes_per_second);
            prop_assert!(passed <= allowed + largest + 300, "{passed} of {allowed}");
        }

        #[test]
        fn a_greedy_sender_gets_the_rate(bytes_per_second in 20_000u64..1_000_000_000) {
            let rate = rate(bytes_per_second).unwrap();
            let (clock, mut passed) = (Shared::default(), 0);
            for tick in 0..40_000 {
                let now = SECOND + tick * MILLISECOND / 4;
                while charge(&clock, now, time_of(1400, rate), SLACK) {
                    passed += 1400;
                    if passed > 20 * bytes_per_second { break }
                }
            }
            let wanted = bytes_per_second * 10;
            prop_assert!(passed.abs_diff(wanted) <= bytes_per_second / 8 + 1400);
        }
    }
}
