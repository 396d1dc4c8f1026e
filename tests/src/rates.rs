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

/// Asserts that a rate (bytes/s) is within `tolerance` (0.05 = 5 %) of the limit.
#[track_caller]
pub fn assert_rate(what: &str, measured: f64, limit: f64, tolerance: f64, bins: &[u64]) {
    assert!(
        (measured / limit - 1.0).abs() <= tolerance,
        "{what}: {} instead of {} ({:.3} of it, allowed {:.0} %)\n{}",
        mbit(measured),
        mbit(limit),
        measured / limit,
        tolerance * 100.0,
        show(bins)
    );
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
