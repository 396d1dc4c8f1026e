//! When: the clock and the waiting packets of one limit in one direction.

use std::time::{Duration, Instant};

use chadthrottle_core::{Rate, backend::Count};

use super::{fair::FairQueue, packet::Packet, wire::Verdict};

/// What an idle lane may send at once, as time at its rate. Also what makes up for a timer
/// that came late: without it every lateness is lost for good.
const BURST: Duration = Duration::from_millis(20);
/// How long a packet waits at most, as time at the rate.
const DEPTH: Duration = Duration::from_millis(100);
/// At low rates a TCP connection needs room for a few segments all the same, bytes.
const MIN_DEPTH: u64 = 30_000;
/// The same for each of many connections: below three segments a loss means a timeout.
const FLOW_DEPTH: u64 = 3 * 1448;
/// From this rate on (50 Mbit/s) packets are taken uncut: cutting them costs more than it gives.
const LARGE_FROM: u64 = 6_250_000;

/// One limit in one direction.
#[derive(Debug)]
pub(super) struct Lane {
    /// `None`: nothing waits, everything is only counted.
    rate: Option<Rate>,
    /// When the next packet may pass.
    next: Instant,
    waiting: FairQueue,
    /// What more may wait, until this time and until it is gone again.
    extra: (u64, Instant),
    count: Count,
}

impl Lane {
    pub(super) fn new(rate: Option<Rate>, now: Instant) -> Self {
        Self {
            rate,
            next: now,
            waiting: FairQueue::default(),
            extra: (0, now),
            count: Count::default(),
        }
    }

    pub(super) fn set_rate(&mut self, rate: Option<Rate>, now: Instant) {
        self.rate = rate;
        // What was paid in advance was paid at the old rate.
        self.next = now;
    }

    /// Lets so many bytes more wait than usual: what senders were allowed to send before there
    /// was a limit, and will within `time`.
    pub(super) fn expect(&mut self, bytes: u64, now: Instant, time: Duration) {
        self.extra = (bytes, now + time);
    }

    /// Whether packets should come uncut.
    pub(super) fn wants_large(&self) -> bool {
        self.rate.is_none_or(|rate| rate.bytes_per_second() >= LARGE_FROM)
    }

    pub(super) fn count(&self) -> Count {
        self.count
    }

    /// When something is to be done, if ever.
    pub(super) fn due(&self) -> Option<Instant> {
        (!self.waiting.is_empty()).then_some(self.next)
    }

    /// Takes a packet that the kernel handed over, and says what becomes of this or others now.
    pub(super) fn arrive(&mut self, packet: Packet, judge: &mut impl FnMut(Packet, Verdict)) {
        let is_free = packet.bytes == 0;
        if is_free && (packet.overtakes || !self.waiting.holds(packet.flow)) {
            self.count.packets += 1;
            judge(packet, Verdict::Accept);
            return;
        }
        self.waiting.push(packet);
        while self.waiting.bytes() > self.depth() {
            let Some(packet) = self.waiting.pop_of_longest() else { break };
            self.count.dropped += 1;
            judge(packet, Verdict::Drop);
        }
    }

    /// Lets pass what is due.
    pub(super) fn release(&mut self, now: Instant, judge: &mut impl FnMut(Packet, Verdict)) {
        self.next = self.next.max(now.checked_sub(BURST).unwrap_or(now));
        if self.extra.0 > 0
            && now > self.extra.1
            && self.waiting.bytes() < self.depth() - self.extra.0
        {
            self.extra.0 = 0;
        }
        while self.rate.is_none() || self.next <= now {
            let Some(packet) = self.waiting.pop() else { break };
            self.next += self.time_of(packet.bytes);
            self.count.packets += 1;
            self.count.bytes += u64::from(packet.bytes);
            judge(packet, Verdict::Accept);
        }
    }

    /// Lets everything pass: the limit is lifted.
    pub(super) fn open(&mut self, now: Instant, judge: &mut impl FnMut(Packet, Verdict)) {
        self.rate = None;
        self.release(now, judge);
    }

    /// How long this much takes at the rate.
    fn time_of(&self, bytes: u32) -> Duration {
        self.rate.map_or(Duration::ZERO, |rate| {
            // Below 2^32 x 10^9, so it fits.
            Duration::from_nanos(u64::from(bytes) * 1_000_000_000 / rate.bytes_per_second())
        })
    }

    /// The most payload that may wait.
    fn depth(&self) -> u64 {
        self.rate.map_or(u64::MAX, |rate| {
            let depth = u128::from(rate.bytes_per_second()) * DEPTH.as_millis() / 1000;
            let flows = self.waiting.flows() as u64;
            let depth = u64::try_from(depth).unwrap_or(u64::MAX);
            depth.max(MIN_DEPTH).max(flows * FLOW_DEPTH).saturating_add(self.extra.0)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MEGABYTE: u64 = 1_000_000;

    fn rate(bytes: u64) -> Option<Rate> {
        Rate::from_bytes_per_second(bytes)
    }

    fn packet(bytes: u32, flow: u64) -> Packet {
        Packet { port: 0, queue: 0, id: 0, bytes, flow, overtakes: false }
    }

    /// Offers twice the rate for a second in steps of a millisecond, and counts what passes.
    fn second(lane: &mut Lane, start: Instant, misses: impl Fn(u32) -> bool) -> u64 {
        let mut passed = 0;
        for millisecond in 0..1000 {
            let now = start + Duration::from_millis(millisecond.into());
            lane.arrive(packet(2000, u64::from(millisecond % 3)), &mut |_, _| {});
            if !misses(millisecond) {
                lane.release(now, &mut |packet, verdict| {
                    assert_eq!(verdict, Verdict::Accept);
                    passed += u64::from(packet.bytes);
                });
            }
        }
        passed
    }

    #[test]
    fn the_rate_is_kept() {
        let start = Instant::now();
        let passed = second(&mut Lane::new(rate(MEGABYTE), start), start, |_| false);
        assert!(passed.abs_diff(MEGABYTE) <= 4000, "{passed}");
    }

    #[test]
    fn a_late_timer_loses_nothing() {
        let start = Instant::now();
        let late = |millisecond| millisecond % 15 != 0;
        let passed = second(&mut Lane::new(rate(MEGABYTE), start), start, late);
        assert!(passed.abs_diff(MEGABYTE) <= 20_000, "{passed}");
    }

    #[test]
    fn an_idle_lane_saves_little() {
        let start = Instant::now();
        let mut lane = Lane::new(rate(MEGABYTE), start);
        (0..90).for_each(|_| lane.arrive(packet(1000, 1), &mut |_, _| {}));
        let mut passed = 0;
        let much_later = start + Duration::from_secs(60);
        lane.release(much_later, &mut |packet, _| passed += packet.bytes);
        assert!((20_000..=22_000).contains(&passed), "{passed}");
    }

    #[test]
    fn what_waits_too_long_is_dropped_and_counted() {
        let start = Instant::now();
        let mut lane = Lane::new(rate(MEGABYTE), start);
        let mut dropped = 0;
        (0..150).for_each(|_| {
            lane.arrive(packet(1000, 1), &mut |_, verdict| {
                dropped += u64::from(verdict == Verdict::Drop);
            });
        });
        assert_eq!((dropped, lane.count().dropped), (50, 50));
    }

    #[test]
    fn an_open_lane_only_counts() {
        let start = Instant::now();
        let mut lane = Lane::new(rate(1000), start);
        lane.arrive(packet(1000, 1), &mut |_, _| {});
        lane.arrive(packet(1000, 1), &mut |_, _| {});
        lane.open(start, &mut |_, verdict| assert_eq!(verdict, Verdict::Accept));
        assert_eq!((lane.count().bytes, lane.due()), (2000, None));
    }

    #[test]
    fn acknowledgements_pass_at_once() {
        let start = Instant::now();
        let mut lane = Lane::new(rate(1000), start);
        lane.arrive(packet(1000, 1), &mut |_, _| {});
        let mut passed = 0;
        let ack = Packet { overtakes: true, ..packet(0, 1) };
        lane.arrive(ack, &mut |_, _| passed += 1);
        lane.arrive(packet(0, 1), &mut |_, _| passed += 1);
        assert_eq!(passed, 1, "a FIN waits behind its data");
    }
}
