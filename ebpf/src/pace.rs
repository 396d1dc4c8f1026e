//! Uploads: how fast a socket may send, so that its limit is met without a queue.
//!
//! The kernel's own pacing (`SO_MAX_PACING_RATE`) spreads the packets; the virtual clock of
//! the limit says what really passed, and the pace leans against the difference. The form and
//! its constants come from a laboratory prototype; see the benchmarks for what this one does.

use core::num::NonZeroU64;

use crate::{
    branchless,
    clock::{MILLISECOND, SECOND, Slack, time_of},
    packet::MSS,
};

/// The virtual backlog that the feedback aims at: what the first second has too much.
const AIM: u64 = 10 * MILLISECOND;
/// ... besides half a packet per socket, at most this.
const AIM_PACKETS: u64 = 40 * MILLISECOND;
/// The feedback speeds up by at most this share of [`FULL_SCALE`] (10 %) ...
const FASTER: i64 = 50 * MILLISECOND.cast_signed();
/// ... and slows down by at most this one (80 %): 16 sockets that start at once need it.
const SLOWER: i64 = -400 * MILLISECOND.cast_signed();
/// An error of this much would be 100 % of correction.
const FULL_SCALE: u64 = 500 * MILLISECOND;
/// Bytes of a packet in the aim: an MTU.
const PACKET: u64 = 1500;
/// Credit from which on what others leave unused is handed out, and over which the pace then
/// goes from the share to the whole rate ...
const SPARE: i64 = 100 * MILLISECOND.cast_signed();
const SPARE_SPAN: i64 = 400 * MILLISECOND.cast_signed();
/// ... while the limit is in use: a pause is no spare rate, and those who end it share it.
const IN_USE: u64 = 400 * MILLISECOND;
/// Unused time that an active limit may make up for.
const CREDIT: u64 = 500 * MILLISECOND;
/// Unused time that is kept over an idle second.
const CREDIT_IDLE: u64 = 50 * MILLISECOND;
/// Backlog at which the backstop refuses, besides [`BACKSTOP_PACKETS`] (return 2: the packet
/// stays in the socket, nothing is lost).
const BACKSTOP: u64 = 100 * MILLISECOND;
/// The same for a socket that is not paced: TCP tries again after 200 ms, and a bucket that
/// holds less than that starves it (measured .54 of the rate at 100 ms, 1.006 at 250 ms).
const BACKSTOP_UNPACED: u64 = 250 * MILLISECOND;
/// Packets that fit on top of the backstop whatever the rate ...
const BACKSTOP_PACKETS: u64 = 4;
/// ... but not in the first second of several sockets: all begin at once, and know nothing of one
/// another. The packet is then part of the backlog.
const BEGINNING: u64 = SECOND;
/// The backlog in which it has to fit.
const BEGINNING_BACKLOG: u64 = 70 * MILLISECOND;
/// The kernel's first congestion window, segments.
const INITIAL_WINDOW: u64 = 10;
/// More sockets than this begin with a single segment each ...
const FEW_SOCKETS: u64 = 4;
/// ... and any with a share below this many segments a second.
const SLOW_SEGMENTS: u64 = 10;

/// The pace of one of `sockets` that share `rate`, bytes per second, while the limit's
/// balance is `balance` ns (positive: a backlog) and its last packet was `idle` ns ago.
///
/// Sockets that fell silent are counted for a second or two. What they leave shows as credit at
/// once, and raises the pace of the others up to the whole rate.
#[inline]
#[must_use]
pub fn pace(rate: NonZeroU64, sockets: NonZeroU64, balance: i64, idle: u64) -> u64 {
    let aim = (AIM + time_of(PACKET * sockets.get() / 2, rate).min(AIM_PACKETS)).cast_signed();
    let error = branchless::clamp(aim - balance, SLOWER, FASTER);
    let corrected = (FULL_SCALE.cast_signed() + error).cast_unsigned();
    // In microseconds the product fits.
    let pace = rate.get() / sockets * (corrected / 1000) / (FULL_SCALE / 1000);
    let spare = if idle < IN_USE {
        branchless::clamp(-balance - SPARE, 0, SPARE_SPAN).cast_unsigned()
    } else {
        0
    };
    let spare = rate.get() * (spare / 1000) / (SPARE_SPAN.cast_unsigned() / 1000);
    pace.max(spare).max(1)
}

/// A pace up to an eighth faster or slower: sockets of one pace send in step, all at once and then
/// none. On average it is the same.
#[inline]
#[must_use]
pub const fn out_of_step(pace: u64, random: u32) -> u64 {
    pace - pace / 8 + (pace / 4) * (random & 1023) as u64 / 1023
}

/// First windows of so many segments are the least that there are, whatever they cost.
pub const SMALL_WINDOW: u32 = 2;

/// The pace behind the first packets of a connection. They go at once, before what they are the
/// price of; paid like all others, each socket would always be one ahead.
#[inline]
#[must_use]
pub const fn first(pace: u64) -> u64 {
    pace / 2 + 1
}

/// The first congestion window of a socket in segments: 20 ms of its share. `None`: the
/// kernel's own is small enough.
#[inline]
#[must_use]
pub fn initial_window(rate: NonZeroU64, sockets: NonZeroU64) -> Option<u32> {
    let segments = rate.get() / 50 / MSS / sockets;
    let slow = rate.get() < SLOW_SEGMENTS * MSS * sockets.get();
    let least = if slow || sockets.get() > FEW_SOCKETS { 1 } else { 2 };
    (segments < INITIAL_WINDOW).then(|| segments.max(least) as u32)
}

/// What an upload's packet meets.
#[derive(Debug, Clone, Copy)]
pub struct Upload {
    /// Bytes per second of the whole limit.
    pub rate: NonZeroU64,
    /// Sockets that use it.
    pub sockets: NonZeroU64,
    /// Time since its last packet, ns.
    pub idle: u64,
    /// Time since its first packet after a pause, ns.
    pub running: u64,
    /// Whether the socket is paced.
    pub paced: bool,
}

impl Upload {
    /// Whether this packet is the first after a pause.
    #[inline]
    #[must_use]
    pub fn begins(&self) -> bool {
        self.idle > SECOND + time_of(2 * MSS, self.rate)
    }

    /// The slack for a packet that takes `cost` ns.
    #[inline]
    #[must_use]
    pub fn slack(&self, cost: u64) -> Slack {
        let idle = self.begins() || !self.paced;
        let starting = self.paced && self.sockets.get() > 1 && self.running < BEGINNING;
        let backlog = if starting {
            BEGINNING_BACKLOG - cost.min(BEGINNING_BACKLOG)
        } else {
            let backstop = if self.paced { BACKSTOP } else { BACKSTOP_UNPACED };
            backstop + time_of(BACKSTOP_PACKETS * MSS, self.rate)
        };
        Slack { credit: if idle { CREDIT_IDLE } else { CREDIT }, backlog }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn n(value: u64) -> NonZeroU64 {
        NonZeroU64::new(value).unwrap()
    }

    #[test]
    fn on_target_the_pace_is_the_share() {
        let aim = AIM.cast_signed() + 1500 * 1000; // two sockets at 1 MB/s
        assert_eq!(pace(n(1_000_000), n(2), aim, 0), 500_000);
    }

    #[test]
    fn what_others_leave_goes_to_who_is_left() {
        let unused = -500 * MILLISECOND.cast_signed();
        assert_eq!(pace(n(1_000_000), n(100), unused, 0), 1_000_000);
        assert_eq!(pace(n(1_000_000), n(100), unused, SECOND), 11_000, "not after a pause");
    }

    #[test]
    fn out_of_step_is_the_same_on_average() {
        let sum: u64 = (0..1024).map(|random| out_of_step(1_000_000, random)).sum();
        assert!((sum / 1024).abs_diff(1_000_000) < 10);
        assert_eq!(out_of_step(8, 0), 7);
    }

    #[test]
    fn a_slow_limit_starts_small_and_a_fast_one_as_ever() {
        assert_eq!(initial_window(n(125_000), n(1)), Some(2));
        assert_eq!(initial_window(n(125_000), n(16)), Some(1));
        assert_eq!(initial_window(n(32_000), n(4)), Some(1));
        assert_eq!(initial_window(n(125_000_000), n(1)), None);
    }

    #[test]
    fn sockets_that_start_together_have_little_room() {
        let one = Upload { rate: n(32_000), sockets: n(1), idle: 0, running: 0, paced: true };
        let (cost, several) = (45 * MILLISECOND, Upload { sockets: n(16), ..one });
        assert_eq!(several.slack(cost).backlog, BEGINNING_BACKLOG - cost);
        assert_eq!(several.slack(SECOND).backlog, 0, "what is large passes in the end");
        let later = Upload { running: SECOND, ..several };
        assert_eq!(later.slack(cost).backlog, one.slack(cost).backlog);
        assert!(one.slack(cost).backlog > BACKSTOP + 4 * cost);
    }

    proptest! {
        #[test]
        fn the_pace_leans_against_the_balance(
            rate in 1_000u64..1 << 40, sockets in 1u64..1000,
            low in -(1i64 << 62)..1 << 62, high in -(1i64 << 62)..1 << 62,
        ) {
            let (low, high) = (low.min(high), low.max(high));
            let (eager, tired) = (pace(n(rate), n(sockets), low, SECOND), pace(n(rate), n(sockets), high, SECOND));
            prop_assert!(eager >= tired);
            prop_assert!(tired >= 1);
            prop_assert!(eager <= (rate / sockets).max(1) * 11 / 10 + 1);
        }

        #[test]
        fn feedback_settles_on_the_rate(rate in 100_000u64..1_000_000_000, sockets in 1u64..16) {
            // Each step all sockets send 10 ms at their pace; whatever the balance was.
            let (step, mut balance, mut sent) = (10 * MILLISECOND, -500_000_000_i64, 0);
            for i in 0..2000 {
                let bytes = pace(n(rate), n(sockets), balance, SECOND) * sockets / 100;
                balance += time_of(bytes, n(rate)).cast_signed() - step.cast_signed();
                if i >= 1000 { sent += bytes }
            }
            prop_assert!(sent.abs_diff(rate * 10) < rate / 10, "{sent} of {}", rate * 10);
        }
    }
}
