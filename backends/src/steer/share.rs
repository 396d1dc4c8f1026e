//! The arithmetic: whose share is how large, and what a sender is told.

use std::time::Duration;

use crate::sockets;

/// Two segments on Ethernet, bytes: with less a receiver acknowledges late (RFC 9293, 3.8.6.3).
const MIN_WINDOW: u64 = 2 * 1448;
/// So much of the rate should wait behind the limit, ms: enough for it never to run dry. More where
/// connections are slow and do not fill it evenly: one part of so many of the time between their bursts.
const STANDING_MS: (u64, u64) = (25, 50);
const STANDING_PARTS: u64 = 20;
/// What waits beyond that is made up for within about this time, ms.
const CORRECTING_MS: i64 = 500;
/// How far paces may be from the shares for it, per mille: senders that cannot be told should not
/// push the others aside.
const CORRECTION: (i64, i64) = (-250, 100);

/// A connection sends about so much at once where it has no round trip: TCP's initial window, bytes.
const BURST: u64 = 10 * 1448;

/// More than there is.
pub(super) const ALL: u64 = u64::MAX;

/// What connections want of one rate, bytes per second.
#[derive(Debug, Default)]
pub(super) struct Demands {
    /// Ascending.
    sorted: Vec<u64>,
    /// The number of each, and the sum of all before it.
    below: Vec<(usize, u128)>,
}

impl Demands {
    pub(super) fn new(demands: impl Iterator<Item = u64>) -> Self {
        let mut sorted: Vec<u64> = demands.collect();
        sorted.sort_unstable();
        let sums = sorted.iter().scan(0, |sum, &demand| {
            let below = *sum;
            *sum += u128::from(demand);
            Some(below)
        });
        Self { below: sums.enumerate().collect(), sorted }
    }

    /// The most that a connection can have, which now wants so much, when all others get what they
    /// want or as much as itself (max-min fairness).
    pub(super) fn share(&self, rate: u64, own: u64) -> u64 {
        let level = self.level(rate.into(), 0);
        if own >= level {
            return level;
        }
        // Its own demand is among those that are met, and may as well be without end.
        self.level(u128::from(rate) + u128::from(own), 1)
    }

    /// What each gets whose demand cannot be met, `more` of them besides those here.
    fn level(&self, rate: u128, more: usize) -> u64 {
        let count = self.sorted.len();
        let is_met = |&(at, below): &(usize, u128)| {
            let rest = (count - at + more) as u128;
            below + u128::from(self.sorted[at]) * rest < rate
        };
        let met = self.below.partition_point(is_met);
        let taken =
            if met == 0 { 0 } else { self.below[met - 1].1 + u128::from(self.sorted[met - 1]) };
        let level = (rate - taken).checked_div((count - met + more) as u128);
        level.and_then(|level| u64::try_from(level).ok()).unwrap_or(ALL)
    }
}

/// How long a burst of a connection with such a share lasts it.
pub(super) fn burst_ms(share: u64) -> u64 {
    BURST * 1000 / share.max(1)
}

/// The pace of a connection, bytes per second, when so much of the rate waits all the time.
pub(super) fn pace(share: u64, standing: Duration) -> u64 {
    let waiting_ms = i64::try_from(standing.as_millis()).unwrap_or(i64::MAX);
    let (least, most) = STANDING_MS;
    let wanted_ms = (burst_ms(share) / STANDING_PARTS).clamp(least, most).cast_signed();
    let correction = wanted_ms.saturating_sub(waiting_ms).saturating_mul(1000) / CORRECTING_MS;
    let per_mille = 1000 + correction.clamp(CORRECTION.0, CORRECTION.1);
    (u128::from(share) * u128::from(per_mille.unsigned_abs()) / 1000) as u64
}

/// The window of a connection, bytes, when so much of its share may wait.
pub(super) fn window(share: u64, rtt_us: u32, wait: Duration) -> u32 {
    let time_us = u128::from(rtt_us) + wait.as_micros();
    let bytes = u128::from(share) * time_us / 1_000_000;
    let bytes = u64::try_from(bytes).unwrap_or(u64::MAX).max(MIN_WINDOW);
    u32::try_from(bytes).unwrap_or(u32::MAX).min(sockets::NO_CLAMP)
}

#[cfg(test)]
mod tests {
    use super::*;

    const WAIT: Duration = Duration::from_millis(80);

    #[test]
    fn windows() {
        assert_eq!(window(1_250_000, 20_000, WAIT), 125_000);
        assert_eq!(window(1_250_000 / 5, 20_000, WAIT), 25_000);
        assert_eq!(window(1250, 0, WAIT), 2896);
        assert_eq!(window(125_000_000_000, 300_000, WAIT), sockets::NO_CLAMP);
    }

    #[test]
    fn what_some_do_not_want_the_others_have() {
        for (demands, own, share) in [
            (vec![ALL], ALL, 1000),
            (vec![ALL; 4], ALL, 250),
            (vec![ALL, 200], ALL, 800),
            (vec![ALL, 200], 200, 500),
            (vec![ALL, ALL, 900], 900, 333),
            // Idle ones cost nothing, and begin with their part at once.
            (vec![ALL, 0, 0, 0], ALL, 1000),
            (vec![ALL, 0, 0, 0], 0, 500),
            // Nobody is held back who could have more.
            (vec![600, 0], 600, 1000),
            (vec![600, 100], 600, 900),
            (vec![600, 100], 100, 500),
        ] {
            let all = Demands::new(demands.iter().copied());
            assert_eq!(all.share(1000, own), share, "{own} of {demands:?}");
        }
        assert_eq!(Demands::new(std::iter::empty()).share(1000, 0), 1000);
    }

    #[test]
    fn paces_keep_a_little_waiting() {
        for (waiting, expected) in [(0, 1050), (25, 1000), (75, 900), (100, 850), (500, 750)] {
            let waiting = Duration::from_millis(waiting);
            assert_eq!(pace(1_000_000, waiting), expected * 1000, "{waiting:?}");
        }
        assert_eq!(pace(1000, Duration::ZERO), 1100, "where bursts are seconds apart");
    }
}
