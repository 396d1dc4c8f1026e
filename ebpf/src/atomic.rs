//! A counter that several CPUs change at once, without locks.

use core::sync::atomic::AtomicU64;

/// How often [`Shared::update`] tries before it gives up. Two CPUs rarely meet twice; the
/// verifier wants a small bound.
const TRIES: u32 = 4;

/// A `u64` in a map value. Relaxed: each word stands for itself.
///
/// Rust has no compare-and-swap on its BPF target, hence the two implementations of
/// [`Shared::add`] and [`Shared::replace`]. BPF's needs kernel 5.12.
#[derive(Debug, Default)]
#[repr(transparent)]
pub struct Shared(pub(crate) AtomicU64);

impl Shared {
    /// A counter at `value`.
    #[must_use]
    pub const fn new(value: u64) -> Self {
        Self(AtomicU64::new(value))
    }

    /// Changes the value to what `change` makes of it, and returns that; `None` when `change`
    /// said so (`Err(false)`) or others were faster each time (`Err(true)`).
    #[inline]
    pub fn update(&self, change: impl Fn(u64) -> Option<u64>) -> Result<u64, bool> {
        let mut old = self.get();
        for _ in 0..TRIES {
            let new = change(old).ok_or(false)?;
            match self.replace(old, new) {
                Ok(()) => return Ok(new),
                Err(seen) => old = seen,
            }
        }
        Err(true)
    }
}

#[cfg(not(target_arch = "bpf"))]
impl Shared {
    /// The value now.
    pub fn get(&self) -> u64 {
        self.0.load(core::sync::atomic::Ordering::Relaxed)
    }

    /// Overwrites the value.
    pub fn set(&self, value: u64) {
        self.0.store(value, core::sync::atomic::Ordering::Relaxed);
    }

    /// Adds `value`, wrapping; no addition is ever lost.
    pub fn add(&self, value: u64) {
        self.0.fetch_add(value, core::sync::atomic::Ordering::Relaxed);
    }

    /// Sets `new` if the value is `old`, else says what it is.
    pub fn replace(&self, old: u64, new: u64) -> Result<(), u64> {
        use core::sync::atomic::Ordering::Relaxed;
        self.0.compare_exchange(old, new, Relaxed, Relaxed).map(|_| ())
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;

    #[test]
    fn no_addition_is_lost_between_threads() {
        let counter = Shared::default();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (0..10_000).for_each(|_| counter.add(3)));
            }
        });
        assert_eq!(counter.get(), 120_000);
    }

    #[test]
    fn an_update_that_declines_changes_nothing() {
        let counter = Shared::new(7);
        assert_eq!(counter.update(|_| None), Err(false));
        assert_eq!(counter.update(|old| Some(old + 1)), Ok(8));
    }
}
