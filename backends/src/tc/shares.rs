//! Dividing one rate among several namespaces, each of which is shaped by itself.

use chadthrottle_core::{Counters, backend::Count};

/// What a namespace made of its share.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Use {
    /// Payload, bytes per second.
    pub(super) rate: u64,
    /// More waits.
    pub(super) hungry: bool,
}

/// What the idle keep of an even share, so that they can begin at once.
const KEPT: u64 = 10;

/// The shares, together never more than `rate`: those for which nothing waits get a quarter more
/// than they use, the others divide the rest evenly.
pub(super) fn divide(rate: u64, uses: &[Use]) -> Vec<u64> {
    let even = rate / uses.len().max(1) as u64;
    let hungry = uses.iter().filter(|part| part.hungry).count() as u64;
    if hungry == 0 {
        return vec![even; uses.len()];
    }
    let modest = |part: &Use| (part.rate + part.rate / 4).clamp(even / KEPT, even);
    let taken: u64 = uses.iter().filter(|part| !part.hungry).map(modest).sum();
    let rest = (rate - taken) / hungry;
    uses.iter().map(|part| if part.hungry { rest } else { modest(part) }).collect()
}

/// Two counters as one.
pub(super) fn sum(a: Counters, b: Counters) -> Counters {
    let add = |a: Count, b: Count| Count {
        packets: a.packets + b.packets,
        bytes: a.bytes + b.bytes,
        dropped: a.dropped + b.dropped,
    };
    Counters { download: add(a.download, b.download), upload: add(a.upload, b.upload) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_gets_more_than_there_is() {
        let part = |rate, hungry| Use { rate, hungry };
        for (uses, expected) in [
            (vec![part(0, false), part(0, false)], vec![500, 500]),
            (vec![part(500, true), part(500, true)], vec![500, 500]),
            (vec![part(500, true), part(0, false)], vec![950, 50]),
            (vec![part(500, true), part(200, false)], vec![750, 250]),
            (vec![part(500, true), part(900, false)], vec![500, 500]),
        ] {
            let shares = divide(1000, &uses);
            assert_eq!(shares, expected, "{uses:?}");
            assert!(shares.iter().sum::<u64>() <= 1000);
        }
    }
}
