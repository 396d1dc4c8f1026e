//! Everything the tests stand on: real namespaces, real traffic, real leftovers.
//!
//! - [`lab`]: two network namespaces, connected, with an RTT if asked for
//! - [`cgroup`]: scratch cgroups
//! - [`process`]: processes placed in them, watched by their output
//! - [`load`]: the load generator, the tool and the handle on it
//! - [`relay`]: the delay between the namespaces
//! - [`throttle`]: chadthrottle itself, run and watched from outside
//! - [`leftovers`]: what a run must not leave behind
//! - [`picture`]: a terminal's screen as SVG
//! - [`screen`]: the live view on a terminal
//! - [`stage`]: all of these in one, for a case
//! - [`run_once`]: runs that end by themselves
//! - [`rates`]: what bins say
//! - [`conformance`]: the cases that every backend must pass
//! - [`bench`]: how exact a limit is
//!
//! Nothing here reaches into chadthrottle's code: it is tested as a user meets it. Only the tool
//! `session` does, for what no command can do yet.
#![allow(clippy::missing_panics_doc)] // A harness fails by panicking, everywhere.
#![allow(clippy::cast_precision_loss)] // Counts of bytes become rates; 52 bits are plenty.
#![allow(clippy::must_use_candidate)] // Its handles act when they are made and dropped.

#[macro_use]
pub mod skip;

pub mod bench;
pub mod cgroup;
pub mod conformance;
pub mod lab;
pub mod leftovers;
pub mod load;
pub mod picture;
pub mod process;
pub mod rates;
pub mod relay;
pub mod run_once;
pub mod screen;
pub mod stage;
pub mod sys;
pub mod throttle;
