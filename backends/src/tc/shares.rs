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

/// Which part of an even share everybody has, so that it can begin at once. What is not used of it
/// others have too: when it is, that is too much until the next look.
const KEPT: u64 = 10;

/// The shares. What those get for which nothing waits is a quarter more than they use; nobody gets more
/// than others who want more. What is left then goes to those that use something.
pub(super) fn divide(rate: u64, uses: &[Use]) -> Vec<u64> {
    let even = rate / uses.len().max(1) as u64;
    let wanted = |part: &Use| if part.hungry { rate } else { part.rate + part.rate / 4 };
    let mut wants: Vec<u64> = uses.iter().map(wanted).collect();
    if wants.iter().all(|want| *want == 0) {
        return vec![even; uses.len()];
    }
    let (most, left) = level(rate, wants.clone());
    let active = wants.iter().filter(|want| **want > 0).count() as u64;
    for want in wants.iter_mut().filter(|want| **want > 0) {
        *want = (*want).min(most) + left / active;
    }
    wants.into_iter().map(|want| want.max(even / KEPT)).collect()
}

/// The most that one may have so that all have that or what they want, and what is left then.
fn level(rate: u64, mut wants: Vec<u64>) -> (u64, u64) {
    wants.sort_unstable();
    let mut left = rate;
    for (number, want) in wants.iter().enumerate() {
        let most = left / (wants.len() - number) as u64;
        if *want > most {
            return (most, 0);
        }
        left -= want;
    }
    (rate, left)
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
    fn who_wants_more_has_what_others_leave() {
        let part = |rate, hungry| Use { rate, hungry };
        for (uses, expected) in [
            (vec![part(0, false)], vec![1000]),
            (vec![part(500, true)], vec![1000]),
            (vec![part(0, false), part(0, false)], vec![500, 500]),
            (vec![part(500, true), part(500, true)], vec![500, 500]),
            (vec![part(500, true), part(0, false)], vec![1000, 50]),
            (vec![part(500, true), part(20, false)], vec![975, 50]),
            (vec![part(500, true), part(200, false)], vec![750, 250]),
            (vec![part(500, true), part(900, false)], vec![500, 500]),
            (vec![part(600, false), part(0, false)], vec![1000, 50]),
            (vec![part(400, false), part(80, false)], vec![700, 300]),
            (vec![part(100, true), part(800, false), part(40, false)], vec![475, 475, 50]),
        ] {
            let shares = divide(1000, &uses);
            assert_eq!(shares, expected, "{uses:?}");
        }
    }

    #[test]
    fn what_is_used_is_never_more_than_there_is() {
        for n in 1..20 {
            let part = |i: u64| Use { rate: i * 90, hungry: i % 3 == 2 };
            let parts: Vec<Use> = (0..n).map(part).collect();
            let shares = divide(1000, &parts);
            let passed = shares
                .iter()
                .zip(&parts)
                .map(|(share, part)| if part.hungry { *share } else { part.rate.min(*share) });
            assert!(passed.sum::<u64>() <= 1000, "{parts:?} {shares:?}");
        }
    }
}
