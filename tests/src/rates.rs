//! What bins say: the steady rate, the first second, smoothness, fairness.

use std::time::Duration;

/// The length of a bin.
pub const BIN: Duration = Duration::from_millis(100);
/// Bins in a second.
pub const PER_SECOND: usize = 10;

/// 10 Mbit/s in bytes per second, the rate of most cases.
pub const TEN_MBIT: f64 = 1_250_000.0;

/// Mean bytes per second without the first `skip` seconds.
pub fn steady(bins: &[u64], skip: usize) -> f64 {
    mean(bins.get(skip * PER_SECOND..).unwrap_or_default())
}

/// Bytes of the first second.
pub fn first_second(bins: &[u64]) -> f64 {
    mean(&bins[..bins.len().min(PER_SECOND)])
}

/// Mean bytes per second of these bins; 0 of none.
pub fn mean(bins: &[u64]) -> f64 {
    if bins.is_empty() {
        return 0.0;
    }
    bins.iter().sum::<u64>() as f64 / (bins.len() as f64 * BIN.as_secs_f64())
}

/// Bytes per second of the second in which most came.
pub fn busiest_second(bins: &[u64]) -> f64 {
    bins.windows(PER_SECOND).map(mean).fold(0.0, f64::max)
}

/// Bytes per second as the slope of the line that fits the bytes received so far best (least
/// squares).
///
/// Traffic that comes in bursts makes the mean of a short window depend on whether one burst
/// more falls into it; the fitted line hardly does.
pub fn slope(bins: &[u64]) -> f64 {
    let count = bins.len() as f64;
    let mut total = 0;
    let received: Vec<f64> = bins.iter().map(|bin| (total += bin, total as f64).1).collect();
    let middle = (count - 1.0) / 2.0;
    let mean = received.iter().sum::<f64>() / count;
    let (mut up, mut along) = (0.0, 0.0);
    for (index, bytes) in received.into_iter().enumerate() {
        let time = index as f64 - middle;
        up += time * (bytes - mean);
        along += time * time;
    }
    if along > 0.0 { up / along / BIN.as_secs_f64() } else { 0.0 }
}

/// Coefficient of variation of the bins: standard deviation / mean.
pub fn cv(bins: &[u64]) -> f64 {
    if bins.is_empty() {
        return 0.0;
    }
    let count = bins.len() as f64;
    let mean = bins.iter().sum::<u64>() as f64 / count;
    let variance = bins.iter().map(|&bin| (bin as f64 - mean).powi(2)).sum::<f64>() / count;
    if mean > 0.0 { variance.sqrt() / mean } else { 0.0 }
}

/// Jain's fairness index: 1 when all flows got the same, 1/n when one got all.
pub fn jain(flows: &[u64]) -> f64 {
    let sum = flows.iter().map(|&bytes| bytes as f64).sum::<f64>();
    let squares = flows.iter().map(|&bytes| (bytes as f64).powi(2)).sum::<f64>();
    if squares > 0.0 { sum * sum / (flows.len() as f64 * squares) } else { 1.0 }
}

/// A rate in Mbit/s, for people.
pub fn mbit(bytes_per_second: f64) -> String {
    format!("{:.2} Mbit/s", bytes_per_second * 8e-6)
}

/// The bins in Mbit/s, for people.
pub fn show(bins: &[u64]) -> String {
    let rates = bins.iter().map(|&bin| format!("{:.1}", bin as f64 * 8e-5));
    format!("bins of 100 ms in Mbit/s: {}", rates.collect::<Vec<_>>().join(" "))
}

/// Asserts that bins flow at the limit (bytes/s), within `tolerance` (0.05 = 5 %).
///
/// # Panics
/// When they do not; shows the bins.
#[track_caller]
pub fn assert_rate(what: &str, bins: &[u64], limit: f64, tolerance: f64) {
    let off = off_limit(what, slope(bins), limit, tolerance);
    assert!(off.is_none(), "{}\n{}", off.unwrap_or_default(), show(bins));
}

/// Asserts that a rate somebody else measured is within `tolerance` of the limit.
///
/// # Panics
/// When it is not.
#[track_caller]
pub fn assert_close(what: &str, measured: f64, limit: f64, tolerance: f64) {
    let off = off_limit(what, measured, limit, tolerance);
    assert!(off.is_none(), "{}", off.unwrap_or_default());
}

/// What is wrong with a rate, if anything.
fn off_limit(what: &str, measured: f64, limit: f64, tolerance: f64) -> Option<String> {
    let share = measured / limit;
    let (measured, limit) = (mbit(measured), mbit(limit));
    ((share - 1.0).abs() > tolerance).then(|| {
        let percent = tolerance * 100.0;
        format!(
            "{what}: {measured} instead of {limit} ({share:.3}, allowed {percent:.0} % off)"
        )
    })
}

/// Asserts that a rate (bytes/s) is at least `floor`.
#[track_caller]
pub fn assert_fast(what: &str, measured: f64, floor: f64, bins: &[u64]) {
    assert!(
        measured >= floor,
        "{what}: only {}, at least {} expected\n{}",
        mbit(measured),
        mbit(floor),
        show(bins)
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_more_or_less_does_not_change_the_slope() {
        for phase in 0..8 {
            // 6 s of one burst every 800 ms, 10 Mbit/s in all.
            let burst =
                |bin: usize| if (bin + phase).is_multiple_of(8) { 1_000_000 } else { 0 };
            let bins: Vec<u64> = (0..60).map(burst).collect();
            let share = slope(&bins) / TEN_MBIT;
            assert!((0.97..1.03).contains(&share), "{share} at phase {phase}");
        }
    }

    #[test]
    fn the_slope_of_a_steady_rate_is_the_rate() {
        assert!((slope(&[125_000; 30]) / TEN_MBIT - 1.0).abs() < 1e-9);
        assert!((slope(&[62_500; 30]) / TEN_MBIT - 0.5).abs() < 1e-9);
    }

    #[test]
    fn shares() {
        assert!((jain(&[5, 5, 5, 5]) - 1.0).abs() < 1e-9);
        assert!((jain(&[20, 0, 0, 0]) - 0.25).abs() < 1e-9);
        assert!(cv(&[7; 10]) < 1e-9 && (cv(&[0, 2]) - 1.0).abs() < 1e-9);
    }
}
