//! How exact a limit is, measured and written down.
//!
//! - `grid`: which cells there are
//! - `limiter`: who limits: a backend of ours, HTB by hand, peers
//! - `cell`: how one is measured
//! - `lanes`: many of them, side by side
//! - `figures`: what is no rate: times, latency, fairness between unequals, cost
//! - `record`: what was measured so far
//! - `report`, `chart`, `reasons`: docs/benchmarks.md

pub mod cell;
pub mod chart;
pub mod figures;
pub mod grid;
pub mod lanes;
pub mod limiter;
pub mod reasons;
pub mod record;
pub mod report;
