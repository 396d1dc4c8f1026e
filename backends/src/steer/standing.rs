//! What waits behind a limit all the time.
//!
//! Where the round trip is shorter than two milliseconds TCP sends up to 64 KB at once, at whatever pace
//! (`tcp_tso_autosize`, `net/ipv4/tcp_output.c`, kernel 5.18): then nothing for as long as that takes at
//! its pace. The mean of such a queue says little. What is left when it is shortest is what the
//! paces have too much.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use super::share::burst_ms;

/// The least is taken over the time between two bursts of a connection, within these bounds.
const OVER_MS: (u64, u64) = (500, 1000);

/// What waited lately, in time.
#[derive(Debug, Default)]
pub(super) struct Standing {
    past: VecDeque<(Instant, Duration)>,
}

impl Standing {
    /// Now so much waits; returns the least of late, where connections have such a share (bytes per
    /// second).
    pub(super) fn least(&mut self, now: Instant, waiting: Duration, share: u64) -> Duration {
        let over = Duration::from_millis(burst_ms(share).clamp(OVER_MS.0, OVER_MS.1));
        self.past.retain(|(at, _)| now.duration_since(*at) < over);
        self.past.push_back((now, waiting));
        self.past.iter().map(|(_, waiting)| *waiting).min().unwrap_or(waiting)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn is_the_least_of_late() {
        let (start, mut standing) = (Instant::now(), Standing::default());
        for (at, waiting, least) in
            [(0, 80, 80), (100, 20, 20), (200, 90, 20), (600, 70, 70), (700, 90, 70)]
        {
            let found = standing.least(start + at * MS, waiting * MS, 125_000);
            assert_eq!(found, least * MS, "after {at} ms");
        }
    }

    #[test]
    fn slow_ones_are_looked_at_for_longer() {
        let least = |share| {
            let (start, mut standing) = (Instant::now(), Standing::default());
            standing.least(start, 20 * MS, share);
            standing.least(start + 900 * MS, 90 * MS, share)
        };
        assert_eq!((least(125_000), least(8_000)), (90 * MS, 20 * MS));
    }
}
