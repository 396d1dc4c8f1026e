//! The words and rules of chadthrottle.
//!
//! What a rate, a limit and a target are; what a backend must be able to do; how a run
//! holds its limits and how everything it changed is put back. Nothing here knows BPF,
//! netlink or the command line.
#![forbid(unsafe_code)]

pub mod backend;
pub mod cgroup;
pub mod check;
pub mod diagnosis;
pub mod error;
pub mod guardian;
pub mod host;
pub mod journal;
pub mod limit;
pub mod process;
pub mod rate;
pub mod recover;
pub mod selection;
pub mod session;
pub mod system;
pub mod target;

pub use backend::{Backend, BackendId, Capabilities, Counters, Engine, LimitId, Notice};
pub use error::{Error, ErrorKind, Result};
pub use host::Host;
pub use limit::{Direction, Limit, Limits};
pub use rate::Rate;
pub use target::Target;
