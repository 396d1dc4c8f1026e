//! Comparisons without branches. The verifier follows both sides of every branch, and what
//! follows it again for each: with those of the standard library it looks at twice as many
//! instructions, which is time that a limit takes to start.
//!
//! The operands must be less than 2^63 apart.

/// The smaller of two.
#[inline]
#[must_use]
pub fn min(a: i64, b: i64) -> i64 {
    let difference = a.wrapping_sub(b);
    b.wrapping_add(difference & sign(difference))
}

/// The larger of two.
#[inline]
#[must_use]
pub fn max(a: i64, b: i64) -> i64 {
    let difference = a.wrapping_sub(b);
    a.wrapping_sub(difference & sign(difference))
}

/// `value`, but not below `low` nor above `high`.
#[inline]
#[must_use]
pub fn clamp(value: i64, low: i64, high: i64) -> i64 {
    min(max(value, low), high)
}

/// Zero, but the compiler does not know it: several fields that are set to it stay as many stores.
/// Of zeroes it makes a call of `memset`, whose loop over bytes took the verifier longer than all
/// the rest of the programs that had one.
#[inline]
#[must_use]
pub fn zero() -> u64 {
    opaque(0).cast_unsigned()
}

/// -1 for a negative value, else 0.
#[inline]
fn sign(value: i64) -> i64 {
    opaque(value >> 63)
}

#[cfg(target_arch = "bpf")]
use crate::sys::opaque;

/// The compiler knows this number: only the kernel's verifier must not be shown a branch.
#[cfg(not(target_arch = "bpf"))]
#[inline]
const fn opaque(value: i64) -> i64 {
    value
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn they_are_those_of_the_standard_library(
            a in -(1i64 << 62)..1 << 62, b in -(1i64 << 62)..1 << 62, c in -(1i64 << 62)..1 << 62,
        ) {
            prop_assert_eq!(super::min(a, b), a.min(b));
            prop_assert_eq!(super::max(a, b), a.max(b));
            prop_assert_eq!(super::clamp(a, b.min(c), b.max(c)), a.clamp(b.min(c), b.max(c)));
        }
    }
}
