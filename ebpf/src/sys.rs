//! Atomic instructions on the BPF target, where `AtomicU64` can only be loaded and stored, and
//! a number that the compiler knows nothing about.
#![allow(
    unsafe_code,
    reason = "intrinsics are the only way to BPF_XADD and BPF_CMPXCHG; assembly"
)]

use core::intrinsics::{AtomicOrdering::Relaxed, atomic_cxchg, atomic_xadd};

use crate::atomic::Shared;

/// The same number, but the compiler does not know it: it keeps arithmetic that it would turn
/// into a branch, and bounds that it would leave out.
#[inline]
#[must_use]
pub fn opaque(mut value: i64) -> i64 {
    // SAFETY: no instruction at all.
    unsafe { core::arch::asm!("/* {0} */", inout(reg) value, options(pure, nomem, nostack)) };
    value
}

impl Shared {
    /// The value now.
    #[inline]
    #[must_use]
    pub fn get(&self) -> u64 {
        // SAFETY: valid and aligned; LLVM cannot select an atomic load for BPF below v4, an
        // aligned volatile one is the same instruction.
        unsafe { self.0.as_ptr().read_volatile() }
    }

    /// Overwrites the value.
    #[inline]
    pub fn set(&self, value: u64) {
        // SAFETY: as for `get`.
        unsafe { self.0.as_ptr().write_volatile(value) }
    }

    /// Adds `value`, wrapping; no addition is ever lost.
    #[inline]
    pub fn add(&self, value: u64) {
        // SAFETY: the pointer is valid and aligned.
        unsafe { atomic_xadd::<u64, u64, { Relaxed }>(self.0.as_ptr(), value) };
    }

    /// Sets `new` if the value is `old`, else says what it is.
    #[inline]
    pub fn replace(&self, old: u64, new: u64) -> Result<(), u64> {
        // SAFETY: the pointer is valid and aligned.
        let (seen, done) =
            unsafe { atomic_cxchg::<u64, { Relaxed }, { Relaxed }>(self.0.as_ptr(), old, new) };
        if done { Ok(()) } else { Err(seen) }
    }
}
