//! Numbers as people read them: three digits and a unit by powers of ten.

use std::time::Duration;

/// "62.3 MB"
pub(crate) fn bytes(count: u64) -> String {
    scaled(count, &["B", "kB", "MB", "GB", "TB", "PB"])
}

/// "9.93 Mbit/s", from bytes per second as everything here counts.
pub(crate) fn rate(bytes_per_second: u64) -> String {
    scaled(
        bytes_per_second.saturating_mul(8),
        &["bit/s", "kbit/s", "Mbit/s", "Gbit/s", "Tbit/s"],
    )
}

/// The mean over a time, bytes per second; 0 over no time.
pub(crate) fn per_second(bytes: u64, time: Duration) -> u64 {
    let mean = (u128::from(bytes) * 1_000_000_000).checked_div(time.as_nanos()).unwrap_or(0);
    u64::try_from(mean).unwrap_or(u64::MAX)
}

/// Three digits of `value` in the largest of `units` (each a thousand times the one before)
/// that leaves at least 1.
fn scaled(value: u64, units: &[&str]) -> String {
    #[allow(clippy::cast_precision_loss, reason = "three digits are shown")]
    let mut value = value as f64;
    let mut unit = 0;
    // From 999.5 on three digits would show as 1000.
    while value >= 999.5 && unit + 1 < units.len() {
        value /= 1000.0;
        unit += 1;
    }
    let decimals = match value {
        _ if unit == 0 => 0,
        v if v < 9.995 => 2,
        v if v < 99.95 => 1,
        _ => 0,
    };
    format!("{value:.decimals$} {}", units[unit])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_digits() {
        for (count, text) in [
            (0, "0 B"),
            (999, "999 B"),
            (1_000, "1.00 kB"),
            (62_345_678, "62.3 MB"),
            (999_499, "999 kB"),
            (999_500, "1.00 MB"),
            (u64::MAX, "18447 PB"),
        ] {
            assert_eq!(bytes(count), text);
        }
        for (bytes_per_second, text) in
            [(0, "0 bit/s"), (1_241_250, "9.93 Mbit/s"), (125_000_000_000, "1.00 Tbit/s")]
        {
            assert_eq!(rate(bytes_per_second), text);
        }
    }

    #[test]
    fn means() {
        assert_eq!(per_second(1_000, Duration::from_millis(500)), 2_000);
        assert_eq!(per_second(1_000, Duration::ZERO), 0);
        assert_eq!(per_second(u64::MAX, Duration::from_nanos(1)), u64::MAX);
    }
}
