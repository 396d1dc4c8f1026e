//! How many sockets use a limit at the moment: each is counted once per epoch.
//!
//! One word holds the epoch and both counts, so one compare-and-swap keeps them consistent.

use core::num::NonZeroU64;

use crate::atomic::Shared;

/// Time is counted in ticks of 2^26 ns (67 ms): 32 bits of them last nine years.
const TICK_SHIFT: u32 = 26;
/// A short epoch, ticks: 268 ms, about the 250 to 300 ms that the lab ran with.
const SHORT: u32 = 4;
/// A long one, 1.07 s, for sockets that send a packet only now and then.
const LONG: u32 = 16;
/// A socket's share of this many packets must fit into a short epoch.
const PACKETS: u64 = 3;

/// The count of an epoch and of the one before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Active {
    /// The tick in which the epoch began; 0 = none yet.
    pub epoch: u32,
    /// Sockets seen in this epoch.
    pub now: u16,
    /// Sockets seen in the one before.
    pub before: u16,
}

impl Active {
    /// Reads the word.
    #[inline]
    #[must_use]
    pub const fn unpack(word: u64) -> Self {
        Self { epoch: (word >> 32) as u32, now: (word >> 16) as u16, before: word as u16 }
    }

    /// Makes the word.
    #[inline]
    #[must_use]
    pub const fn pack(self) -> u64 {
        (self.epoch as u64) << 32 | (self.now as u64) << 16 | self.before as u64
    }

    /// How many sockets share the limit, at least 1. The larger of the two counts: an epoch
    /// that has just begun has seen few.
    #[inline]
    #[must_use]
    pub const fn sockets(self) -> NonZeroU64 {
        let larger = if self.now > self.before { self.now } else { self.before };
        match NonZeroU64::new(larger as u64) {
            Some(n) => n,
            None => NonZeroU64::MIN,
        }
    }

    /// The same at time `now` (ns), a new epoch begun when this one is over.
    #[inline]
    #[must_use]
    pub const fn at(self, now: u64, rate: NonZeroU64) -> Self {
        let tick = (now >> TICK_SHIFT) as u32;
        let share = rate.get() / 4 / self.sockets().get();
        let span = if share > PACKETS * crate::packet::MSS { SHORT } else { LONG };
        let age = tick.wrapping_sub(self.epoch);
        if self.epoch != 0 && age < span {
            return self;
        }
        let before = if self.epoch != 0 && age < 2 * span { self.now } else { 0 };
        Self { epoch: if tick == 0 { 1 } else { tick }, now: 0, before }
    }

    /// One socket more.
    #[inline]
    #[must_use]
    pub const fn and_one(self) -> Self {
        Self { now: self.now.saturating_add(1), ..self }
    }
}

/// The count at one moment, to be read and added to.
#[derive(Debug, Clone, Copy)]
pub struct Snapshot {
    word: u64,
    /// The count.
    pub active: Active,
}

impl Snapshot {
    /// The count at time `now` (ns).
    #[inline]
    pub fn take(word: &Shared, now: u64, rate: NonZeroU64) -> Self {
        let word = word.get();
        Self { word, active: Active::unpack(word).at(now, rate) }
    }

    /// Counts a socket that was last counted in epoch `seen`, once per epoch; returns the
    /// count.
    #[inline]
    pub fn count(self, word: &Shared, seen: &mut u32) -> Active {
        if self.active.epoch == *seen {
            return self.active;
        }
        let more = self.active.and_one();
        // Lost to another CPU: the socket is counted at its next packet.
        if word.replace(self.word, more.pack()).is_ok() {
            *seen = more.epoch;
        }
        more
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use proptest::prelude::*;

    use super::*;
    use crate::clock::{MILLISECOND, SECOND};

    fn count(word: &Shared, seen: &mut u32, now: u64) {
        Snapshot::take(word, now, fast()).count(word, seen);
    }

    fn fast() -> NonZeroU64 {
        NonZeroU64::new(12_500_000).unwrap()
    }

    #[test]
    fn each_socket_counts_once_per_epoch() {
        let word = Shared::default();
        let mut seen = [0; 3];
        for step in 0..20 {
            for socket in &mut seen {
                count(&word, socket, 10 * SECOND + step * 100 * MILLISECOND);
            }
        }
        assert_eq!(Active::unpack(word.get()).sockets().get(), 3);
    }

    #[test]
    fn sockets_that_stop_are_forgotten() {
        let word = Shared::new(Active { epoch: 150, now: 9, before: 9 }.pack());
        let later = Active::unpack(word.get()).at(20 * SECOND, fast());
        assert_eq!((later.now, later.before), (0, 0));
    }

    #[test]
    fn racing_sockets_are_all_counted_in_the_end() {
        let word = Shared::default();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    let mut seen = [0; 50];
                    for _ in 0..1000 {
                        for socket in &mut seen {
                            count(&word, socket, 10 * SECOND);
                        }
                    }
                });
            }
        });
        assert_eq!(Active::unpack(word.get()).now, 200);
    }

    proptest! {
        #[test]
        fn packing_loses_nothing(word: u64) {
            prop_assert_eq!(Active::unpack(word).pack(), word);
        }

        #[test]
        fn there_is_always_one(word: u64, now: u64, rate in 1u64..1 << 40) {
            let active = Active::unpack(word).at(now, NonZeroU64::new(rate).unwrap());
            prop_assert!(active.sockets().get() >= 1);
            prop_assert!(active.epoch != 0);
        }
    }
}
