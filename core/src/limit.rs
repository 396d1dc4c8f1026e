//! A direction, a limit, and the limits of one run.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::rate::Rate;

/// Which way payload flows, as the target sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Direction {
    /// To the target: ingress.
    Download,
    /// From the target: egress.
    Upload,
}

impl Direction {
    /// Both, in the order in which they are always shown.
    pub const BOTH: [Self; 2] = [Self::Download, Self::Upload];
}

impl fmt::Display for Direction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Download => "download",
            Self::Upload => "upload",
        })
    }
}

/// How much payload may pass in one direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limit {
    /// Payload, as the application sees it.
    pub rate: Rate,
}

/// What one run asks for; a direction without a limit passes untouched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Limits {
    /// To the target.
    pub download: Option<Limit>,
    /// From the target.
    pub upload: Option<Limit>,
}

impl Limits {
    /// The limit of one direction.
    #[must_use]
    pub fn get(&self, direction: Direction) -> Option<Limit> {
        match direction {
            Direction::Download => self.download,
            Direction::Upload => self.upload,
        }
    }

    /// Whether nothing is limited at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.download.is_none() && self.upload.is_none()
    }
}
