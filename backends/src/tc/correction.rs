//! How many bytes of frames carry a byte of payload, learnt from what passed.

use std::time::{Duration, Instant};

use super::shape::{ETHERNET, KINDS};

/// How many of the packets that passed had no Ethernet header, when so many, whoever's, crossed
/// interfaces without one: as many as can have been, as a limited program is the likely one to
/// load them. A few are still on their way through our queue, or came from it.
pub(super) fn without_ethernet(passed: u64, crossed: u64) -> u64 {
    if crossed >= passed - passed / 10 { passed } else { crossed }
}

/// How many bytes of frames carry so many bytes of payload.
#[derive(Debug, Clone, Copy)]
pub(super) struct Correction {
    /// In units of [`ONE`].
    ratio: u64,
    frames: u64,
    payload: u64,
    at: Instant,
}

/// How often it is reckoned anew, from how many bytes of payload at least.
const INTERVAL: Duration = Duration::from_millis(250);
const SAMPLE: u64 = 20_000;
/// A frame that is all payload.
const ONE: u64 = 1 << 16;
/// Packets of less than 44 bytes do not get more, so that a change of their size is no burst.
const LARGEST: u64 = 5 * ONE / 2;
/// Smaller changes of the ratio are not worth a message.
const NOTABLE: u64 = ONE / 1000;

impl Correction {
    /// From full frames of TCP over IPv4.
    pub(super) fn new(mtu: u32) -> Self {
        let frame = u64::from(mtu.clamp(576, 1500)) + ETHERNET;
        let ratio = frame * ONE / (frame - KINDS[0].headers);
        Self { ratio, frames: 0, payload: 0, at: Instant::now() }
    }

    /// The rate of frames that carries this rate of payload.
    pub(super) fn frames(&self, payload: u64) -> u64 {
        (u128::from(payload) * u128::from(self.ratio) / u128::from(ONE)) as u64
    }

    /// Reckons with what has passed by now in all; says whether the ratio is another one.
    pub(super) fn reckon(&mut self, frames: u64, payload: u64, now: Instant) -> bool {
        let (new_frames, new_payload) =
            (frames.saturating_sub(self.frames), payload.saturating_sub(self.payload));
        if now.duration_since(self.at) < INTERVAL || new_payload < SAMPLE {
            return false;
        }
        (self.frames, self.payload, self.at) = (frames, payload, now);
        let ratio = new_frames.saturating_mul(ONE) / new_payload;
        let ratio = ratio.clamp(ONE, LARGEST);
        let differs = ratio.abs_diff(self.ratio) > NOTABLE;
        if differs {
            self.ratio = ratio;
        }
        differs
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_of_a_tunnel_have_no_ethernet_header() {
        assert_eq!(without_ethernet(100, 0), 0);
        assert_eq!(without_ethernet(100, 40), 40);
        assert_eq!(without_ethernet(100, 91), 100);
        assert_eq!(without_ethernet(100, 5000), 100);
        assert_eq!(without_ethernet(0, 0), 0);
    }

    #[test]
    fn payload_is_learnt_from_what_passed() {
        let mut correction = Correction::new(1500);
        assert!(correction.frames(1_448_000).abs_diff(1_514_000) < 30);
        let later = Instant::now() + INTERVAL;
        assert!(!correction.reckon(1514, 1448, later), "one packet says nothing");
        // UDP with 100 bytes of payload.
        assert!(correction.reckon(142_000, 100_000, later));
        assert!(correction.frames(1_000_000).abs_diff(1_420_000) < 20);
        assert!(!correction.reckon(284_000, 200_000, later), "too early");
        assert!(!correction.reckon(284_000, 200_000, later + INTERVAL), "the same");
    }
}
