//! A rate and its spelling.

use serde::{Deserialize, Serialize};

/// Payload bytes per second.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Rate(u64);

impl Rate {
    /// Bytes per second.
    #[must_use]
    pub fn bytes_per_second(self) -> u64 {
        self.0
    }
}
