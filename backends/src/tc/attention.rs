//! How often sockets are looked at.
//!
//! As soon as a connection that is opened waits or is heard, and [`ECHOES`] after that, since an accepted
//! socket is in a descriptor table only later. Besides every [`CALM`], every [`BUSY`] in the first
//! seconds after a limit began or sockets came, and less often where looking takes long: a look is
//! followed by a rest of [`PARTS`] times what it took, [`BUSY_PARTS`] times when there is news.
//! What is heard may break the rest until [`CREDIT`] of it is owed. So long a new connection can be
//! free; what arrives at a listener or a UDP socket that is known has no such gap.

use std::time::{Duration, Instant};

/// How often sockets are looked at, when that is quick.
const CALM: Duration = Duration::from_millis(40);
/// How often when there is news, and for how long afterwards.
const BUSY: Duration = Duration::from_millis(10);
pub(super) const NEWS: Duration = Duration::from_secs(3);
/// How often at least, however long it takes.
const SELDOM: Duration = Duration::from_secs(1);
/// One part looking, so many resting.
const PARTS: u32 = 15;
const BUSY_PARTS: u32 = 3;
/// How much rest may be owed when something is heard.
const CREDIT: Duration = Duration::from_millis(300);
/// When to look again after something was heard.
const ECHOES: [Duration; 4] = [
    Duration::from_millis(1),
    Duration::from_millis(3),
    Duration::from_millis(10),
    Duration::from_millis(30),
];

/// What was heard last, and how much rest is owed.
#[derive(Debug)]
pub(super) struct Attention {
    /// Until then we should rest.
    rested: Instant,
    heard: Option<Instant>,
}

/// How long to wait before the next look.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Pause {
    /// When something is heard.
    pub(super) least: Duration,
    /// Anyhow.
    pub(super) most: Duration,
}

impl Attention {
    pub(super) fn new(now: Instant) -> Self {
        Self { rested: now, heard: None }
    }

    /// Somebody opens a connection.
    pub(super) fn heard(&mut self, now: Instant) {
        self.heard = Some(now);
    }

    /// After a look that took so long.
    pub(super) fn looked(&mut self, now: Instant, took: Duration, news: bool) -> Pause {
        let (often, parts) = if news { (BUSY, BUSY_PARTS) } else { (CALM, PARTS) };
        let rest = (took * parts).min(SELDOM);
        self.rested = self.rested.max(now) + rest;
        let owed = self.rested - now;
        let least = owed.saturating_sub(CREDIT);
        let echo = self.heard.and_then(|at| {
            let ago = now - at;
            ECHOES.into_iter().find(|&echo| echo > ago).map(|echo| echo.saturating_sub(ago))
        });
        let most = echo.unwrap_or_else(|| owed.min(SELDOM).max(often)).max(least);
        Pause { least, most }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn looks_again_soon_after_something_was_heard() {
        let start = Instant::now();
        let most = |ago: u32| {
            let mut attention = Attention::new(start);
            attention.heard(start);
            attention.looked(start + ago * MS / 10, MS / 100, false).most
        };
        assert_eq!(most(0), MS);
        assert_eq!(most(10), 2 * MS);
        assert_eq!(most(95), MS / 2);
        assert_eq!(most(400), CALM);
        assert_eq!(Attention::new(start).looked(start, MS / 100, true).most, BUSY);
    }

    #[test]
    fn rests_in_proportion_when_nothing_is_heard() {
        let start = Instant::now();
        let rest = |took, news| Attention::new(start).looked(start, took, news);
        assert_eq!(rest(4 * MS, false), Pause { least: Duration::ZERO, most: 60 * MS });
        assert_eq!(rest(4 * MS, true), Pause { least: Duration::ZERO, most: 12 * MS });
        assert_eq!(rest(300 * MS, false).most, SELDOM);
    }

    /// However often something is heard: one part in all but what the credit pays for.
    #[test]
    fn a_flood_of_connections_costs_no_more_than_its_share() {
        let (start, took) = (Instant::now(), 2 * MS);
        let mut attention = Attention::new(start);
        let (mut now, mut looked) = (start, Duration::ZERO);
        while now < start + 10 * SELDOM {
            now += took;
            looked += took;
            let pause = attention.looked(now, took, false);
            now += pause.least;
            attention.heard(now);
        }
        let share = 10 * SELDOM / PARTS + CREDIT / PARTS + 2 * took;
        assert!(looked <= share, "{looked:?} of {share:?}");
        assert!(looked >= share / 2);
    }
}
