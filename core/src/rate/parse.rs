//! Reading a rate as a user types it.
//!
//! A number (digits, with decimals after a point), optional white space, a unit:
//!
//! - bits, in any case, with or without `/s`: `bit kbit mbit gbit tbit`, and by powers of
//!   1024 `kibit mibit gibit`;
//! - bytes, with `/s` and a capital B: `B/s kB/s MB/s GB/s`, `KiB/s MiB/s GiB/s`.
//!
//! What means different things in different tools is refused, with both valid spellings in
//! the message: `10mbps` is megabytes for tc and megabits for iperf3, `10M` is megabytes for
//! wget and megabits for iperf3. A guess would be wrong by a factor of eight.

use std::str::FromStr;

use super::Rate;

/// Why a text is no rate: one sentence for the user, with a spelling that works.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ParseRateError(String);

impl ParseRateError {
    /// Names the bound that was crossed; `bytes` says on which side.
    pub(super) fn out_of_bounds(text: &str, bytes: u64) -> Self {
        Self(if bytes < Rate::MIN.bytes_per_second() {
            format!("{text} is too slow: the lowest rate is {}", Rate::MIN)
        } else {
            format!("{text} is too fast: the highest rate is {}", Rate::MAX)
        })
    }
}

impl FromStr for Rate {
    type Err = ParseRateError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let text = text.trim();
        let shown = text.escape_debug().to_string();
        let refuse = |why: String| Err(ParseRateError(why));

        if text.starts_with('-') {
            return refuse(format!("{shown} is negative: the lowest rate is {}", Self::MIN));
        }
        let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
        let (number, rest) = text.split_at(end);
        let Some(number) = Decimal::parse(number) else {
            return refuse(format!(
                "{shown} does not begin with a number: write 10mbit for bits or 1MB/s for bytes"
            ));
        };
        if rest.starts_with(',') {
            let point = shown.replacen(',', ".", 1);
            return refuse(format!(
                "{shown} has a comma: write decimals after a point, {point}"
            ));
        }
        let unit = rest.trim_start();
        let Some(bits) = bits_of_unit(unit) else {
            return refuse(format!("{shown} {}", wrong_unit(number.text, unit)));
        };
        let bytes = number.times(bits).map_or(u64::MAX, |bits| bits / 8);
        Self::from_bytes_per_second(bytes)
            .ok_or_else(|| ParseRateError::out_of_bounds(&shown, bytes))
    }
}

/// How many bits per second one of this unit is.
fn bits_of_unit(unit: &str) -> Option<u64> {
    let bytes = match unit {
        "B/s" => 1,
        "kB/s" | "KB/s" => 1_000,
        "MB/s" => 1_000_000,
        "GB/s" => 1_000_000_000,
        "KiB/s" | "kiB/s" => 1 << 10,
        "MiB/s" => 1 << 20,
        "GiB/s" => 1 << 30,
        _ => 0,
    };
    if bytes > 0 {
        return Some(bytes * 8);
    }
    let unit = unit.to_ascii_lowercase();
    Some(match unit.strip_suffix("/s").unwrap_or(&unit) {
        "bit" => 1,
        "kbit" => 1_000,
        "mbit" => 1_000_000,
        "gbit" => 1_000_000_000,
        "tbit" => 1_000_000_000_000,
        "kibit" => 1 << 10,
        "mibit" => 1 << 20,
        "gibit" => 1 << 30,
        _ => return None,
    })
}

/// What is wrong with a unit, and the two spellings that the user may have meant.
fn wrong_unit(number: &str, unit: &str) -> String {
    let prefix = unit.chars().next().map_or('m', |c| c.to_ascii_lowercase());
    let (bit, byte) = match prefix {
        'k' => ("kbit", "kB/s"),
        'g' => ("gbit", "GB/s"),
        _ => ("mbit", "MB/s"),
    };
    let why = if unit.is_empty() {
        "has no unit"
    } else if is_ambiguous(unit) {
        "is ambiguous"
    } else {
        "has an unknown unit"
    };
    format!("{why}: write {number}{bit} for bits or {number}{byte} for bytes")
}

/// A prefix with nothing, `b`, `bps` or the like behind it: bits for some tools, bytes for
/// others.
fn is_ambiguous(unit: &str) -> bool {
    let unit = unit.to_ascii_lowercase();
    let unit = unit.trim_start_matches(['k', 'm', 'g', 't']);
    let unit = unit.strip_prefix('i').unwrap_or(unit);
    matches!(unit, "" | "b" | "/s" | "b/s" | "ps" | "bps")
}

/// A number as it was typed, exact.
struct Decimal<'a> {
    text: &'a str,
    /// The digits without the point.
    digits: u128,
    /// 10 to the number of decimals.
    scale: u128,
}

impl<'a> Decimal<'a> {
    /// More decimals than a terabit has bits change nothing.
    const DECIMALS: usize = 12;

    /// Digits, or digits, a point and digits.
    fn parse(text: &'a str) -> Option<Self> {
        let (whole, decimals) = text.split_once('.').unwrap_or((text, "0"));
        let is_number = |s: &str| !s.is_empty() && s.bytes().all(|b| b.is_ascii_digit());
        if !is_number(whole) || !is_number(decimals) {
            return None;
        }
        let decimals = &decimals[..decimals.len().min(Self::DECIMALS)];
        let digits = format!("{whole}{decimals}");
        let scale = 10_u128.pow(u32::try_from(decimals.len()).ok()?);
        // Digits that do not fit are a number beyond every bound.
        Some(Self { text, digits: digits.parse().unwrap_or(u128::MAX), scale })
    }

    /// The product, rounded down; `None` when it does not fit.
    fn times(&self, factor: u64) -> Option<u64> {
        let product = self.digits.checked_mul(u128::from(factor))? / self.scale;
        u64::try_from(product).ok()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn message(text: &str) -> String {
        text.parse::<Rate>().expect_err(text).to_string()
    }

    #[test]
    fn accepted() {
        for (text, bytes) in [
            ("10mbit", 1_250_000),
            ("10Mbit", 1_250_000),
            ("10MBIT", 1_250_000),
            ("10mbit/s", 1_250_000),
            ("10Mbit/s", 1_250_000),
            ("10 Mbit/s", 1_250_000),
            (" 10\tmbit ", 1_250_000),
            ("010mbit", 1_250_000),
            ("10.0mbit", 1_250_000),
            ("500kbit", 62_500),
            ("8000bit", 1_000),
            ("8007bit", 1_000),
            ("1.5gbit", 187_500_000),
            ("0.5mbit", 62_500),
            ("1tbit", 125_000_000_000),
            ("100kibit", 12_800),
            ("1mibit", 131_072),
            ("1Gibit/s", 134_217_728),
            ("1500B/s", 1_500),
            ("500kB/s", 500_000),
            ("500KB/s", 500_000),
            ("1MB/s", 1_000_000),
            ("1 MB/s", 1_000_000),
            ("1GB/s", 1_000_000_000),
            ("512KiB/s", 524_288),
            ("1MiB/s", 1_048_576),
            ("1GiB/s", 1_073_741_824),
            ("0.333333333333333333333333333333333333333333333mbit", 41_666),
        ] {
            let rate = text.parse::<Rate>().unwrap_or_else(|e| panic!("{text}: {e}"));
            assert_eq!(rate.bytes_per_second(), bytes, "{text}");
        }
    }

    #[test]
    fn what_tools_disagree_about_is_refused_with_both_spellings() {
        for (text, bits, bytes) in [
            ("10M", "10mbit", "10MB/s"),
            ("10m", "10mbit", "10MB/s"),
            ("10mb", "10mbit", "10MB/s"),
            ("10Mb", "10mbit", "10MB/s"),
            ("10MB", "10mbit", "10MB/s"),
            ("10mbps", "10mbit", "10MB/s"),
            ("10Mbps", "10mbit", "10MB/s"),
            ("10MBps", "10mbit", "10MB/s"),
            ("10Mb/s", "10mbit", "10MB/s"),
            ("10mb/s", "10mbit", "10MB/s"),
            ("10Mi", "10mbit", "10MB/s"),
            ("1k", "1kbit", "1kB/s"),
            ("1.5G", "1.5gbit", "1.5GB/s"),
            ("10bps", "10mbit", "10MB/s"),
        ] {
            assert_eq!(
                message(text),
                format!("{text} is ambiguous: write {bits} for bits or {bytes} for bytes")
            );
        }
        assert_eq!(message("10"), "10 has no unit: write 10mbit for bits or 10MB/s for bytes");
    }

    #[test]
    fn refused() {
        let slow = "is too slow: the lowest rate is 8 kbit/s";
        let fast = "is too fast: the highest rate is 1 Tbit/s";
        let number = "does not begin with a number";
        let unit = "has an unknown unit";
        for (text, why) in [
            ("", number),
            ("fast", number),
            ("NaN", number),
            ("infmbit", number),
            ("+1mbit", number),
            (".5mbit", number),
            ("1.mbit", number),
            ("1.2.3mbit", number),
            ("mbit", number),
            ("٣mbit", number),
            ("-1mbit", "is negative: the lowest rate is 8 kbit/s"),
            ("-5", "is negative"),
            ("1,5mbit", "write decimals after a point, 1.5mbit"),
            ("1e6bit", unit),
            ("1_000kbit", unit),
            ("0x10mbit", unit),
            ("10furlongs", unit),
            ("10mbit/h", unit),
            ("10mbit /s", unit),
            ("0mbit", slow),
            ("0.0MB/s", slow),
            ("800bit", slow),
            ("7999bit", slow),
            ("999B/s", slow),
            ("1001gbit", fast),
            ("126GB/s", fast),
            ("99999999999999999999999999999999999999999999999mbit", fast),
            ("340282366920938463463374607431768211455tbit", fast),
        ] {
            let message = message(text);
            assert!(message.contains(why), "{text:?}: {message}");
        }
    }

    #[test]
    fn control_characters_do_not_reach_the_terminal() {
        assert!(!message("10\u{1b}[2J").contains('\u{1b}'));
    }

    proptest! {
        #[test]
        fn shown_and_read_back(bytes in 1_000_u64..=125_000_000_000) {
            let rate = Rate::from_bytes_per_second(bytes).unwrap();
            prop_assert_eq!(rate.to_string().parse(), Ok(rate));
        }

        #[test]
        fn never_panics(text in any::<String>(), unit in "[kKmMgGtTiIbB/sp.,0-9 -]{0,12}") {
            for text in [text.as_str(), &unit, &format!("9{unit}")] {
                if let Ok(rate) = text.parse::<Rate>() {
                    prop_assert!((Rate::MIN..=Rate::MAX).contains(&rate));
                }
            }
        }

        #[test]
        fn more_is_never_less(a in 1_000_u64..=900_000, b in 1_000_u64..=900_000, d in 0..4_u32) {
            let (low, high) = (a.min(b), a.max(b));
            for unit in ["kbit", "kibit", "kB/s", "KiB/s"] {
                let read = |n: u64| format!("{n}.{d}{unit}").parse::<Rate>();
                prop_assert!(read(low).unwrap() <= read(high).unwrap());
            }
        }
    }
}
