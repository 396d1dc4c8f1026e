//! The last words of a run.

use std::{fmt, time::Duration};

use chadthrottle_core::{BackendId, Counters, Direction, Limits};

use crate::units;

/// What passed while the limits were in force.
pub(super) struct Summary<'a> {
    pub(super) totals: Counters,
    pub(super) limits: &'a Limits,
    /// How long they were.
    pub(super) time: Duration,
    pub(super) backend: BackendId,
}

/// A line for each limited direction.
impl fmt::Display for Summary<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let limited = |direction| self.limits.get(direction).map(|limit| (direction, limit));
        for (n, (direction, limit)) in
            Direction::BOTH.into_iter().filter_map(limited).enumerate()
        {
            let count = self.totals.get(direction);
            let newline = if n > 0 { "\n" } else { "" };
            let name = direction.to_string();
            write!(
                f,
                "{newline}{name:9} {} in {:.1} s, mean {} of {} ({})",
                units::bytes(count.bytes),
                self.time.as_secs_f64(),
                units::rate(units::per_second(count.bytes, self.time)),
                limit.rate,
                self.backend,
            )?;
            if count.dropped > 0 {
                write!(f, ", {} packets dropped", count.dropped)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use chadthrottle_core::{Limit, Rate, backend::Count};

    use super::*;

    #[test]
    fn a_line_for_each_limited_direction() {
        let limit = |bytes| Rate::from_bytes_per_second(bytes).map(|rate| Limit { rate });
        let mut limits = Limits { download: limit(1_250_000), upload: None };
        let totals = Counters {
            download: Count { packets: 9, bytes: 62_312_000, dropped: 0 },
            upload: Count { packets: 3, bytes: 1_004_000, dropped: 2 },
        };
        let text = |limits: &Limits| {
            let time = Duration::from_millis(50_200);
            Summary { totals, limits, time, backend: BackendId::Ebpf }.to_string()
        };
        let download = "download  62.3 MB in 50.2 s, mean 9.93 Mbit/s of 10 Mbit/s (ebpf)";
        assert_eq!(text(&limits), download);
        limits.upload = limit(64_000);
        assert_eq!(
            text(&limits),
            format!(
                "{download}\nupload    1.00 MB in 50.2 s, mean 160 kbit/s of 512 kbit/s (ebpf), \
                 2 packets dropped"
            )
        );
    }
}
