//! A rate and its spelling.

mod parse;

use std::fmt;

use serde::{Deserialize, Serialize};

pub use parse::ParseRateError;

/// Payload bytes per second, between [`Rate::MIN`] and [`Rate::MAX`]; never 0.
///
/// [`Display`](fmt::Display) writes it exactly, in bits, in the largest unit that it fills
/// ("10 Mbit/s", "8.388608 Mbit/s"); [`FromStr`](std::str::FromStr) reads that back and all
/// the spellings that a user may type.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(into = "u64", try_from = "u64")]
pub struct Rate(u64);

impl Rate {
    /// 8 kbit/s. Below it one full segment takes well over a second, longer than
    /// TCP's initial retransmission timeout of 1 s (RFC 6298): connections would break
    /// instead of being slow.
    pub const MIN: Self = Self(1_000);

    /// 1 Tbit/s. Faster than any link; the clocks' arithmetic in u64 nanoseconds stays far
    /// from overflow.
    pub const MAX: Self = Self(125_000_000_000);

    /// A rate of payload bytes per second; `None` outside [`Rate::MIN`] to [`Rate::MAX`].
    #[must_use]
    pub fn from_bytes_per_second(bytes: u64) -> Option<Self> {
        (Self::MIN.0..=Self::MAX.0).contains(&bytes).then_some(Self(bytes))
    }

    /// Bytes per second.
    #[must_use]
    pub fn bytes_per_second(self) -> u64 {
        self.0
    }

    /// Bits per second.
    #[must_use]
    pub fn bits_per_second(self) -> u64 {
        self.0 * 8
    }
}

impl From<Rate> for u64 {
    fn from(rate: Rate) -> Self {
        rate.0
    }
}

impl TryFrom<u64> for Rate {
    type Error = ParseRateError;

    fn try_from(bytes: u64) -> Result<Self, Self::Error> {
        Self::from_bytes_per_second(bytes)
            .ok_or_else(|| ParseRateError::out_of_bounds(&format!("{bytes} B/s"), bytes))
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        /// Bits per second, name, decimals that a whole number of bits can need.
        const UNITS: [(u64, &str, usize); 4] = [
            (1_000_000_000_000, "Tbit/s", 12),
            (1_000_000_000, "Gbit/s", 9),
            (1_000_000, "Mbit/s", 6),
            (1_000, "kbit/s", 3),
        ];
        let bits = self.bits_per_second();
        // Rate::MIN is 8 kbit/s, so the last unit is always filled.
        let (unit, name, decimals) =
            UNITS.into_iter().find(|(unit, ..)| bits >= *unit).unwrap_or(UNITS[3]);
        let fraction = format!("{:0decimals$}", bits % unit);
        let fraction = fraction.trim_end_matches('0');
        let point = if fraction.is_empty() { "" } else { "." };
        write!(f, "{}{point}{fraction} {name}", bits / unit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shown_in_bits_exactly() {
        for (bytes, text) in [
            (1_000, "8 kbit/s"),
            (64_000, "512 kbit/s"),
            (1_250_000, "10 Mbit/s"),
            (1_048_576, "8.388608 Mbit/s"),
            (187_500_000, "1.5 Gbit/s"),
            (125_000_000_000, "1 Tbit/s"),
        ] {
            assert_eq!(Rate::from_bytes_per_second(bytes).unwrap().to_string(), text);
        }
    }

    #[test]
    fn bounds() {
        for bytes in [0, 999, 125_000_000_001, u64::MAX] {
            assert_eq!(Rate::from_bytes_per_second(bytes), None);
        }
        assert_eq!(Rate::from_bytes_per_second(1_000), Some(Rate::MIN));
        assert_eq!(Rate::from_bytes_per_second(125_000_000_000), Some(Rate::MAX));
    }

    #[test]
    fn stored_as_bytes_and_checked_when_read() {
        let rate: Rate = serde_json::from_str("1250000").unwrap();
        assert_eq!(serde_json::to_string(&rate).unwrap(), "1250000");
        assert!(serde_json::from_str::<Rate>("0").is_err());
    }
}
