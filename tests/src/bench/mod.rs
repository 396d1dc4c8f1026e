//! How exact a limit is, measured and written down.
//!
//! - `grid`: which cells there are
//! - `cell`: how one is measured
//! - `reaction`: how fast limits come and go
//! - `report`: docs/benchmarks.md

pub mod cell;
pub mod grid;
pub mod reaction;
pub mod report;
