//! The process that puts things back when we are killed.
//!
//! Changes to sockets, cgroups of our own and legacy attachments outlive whoever made them, so
//! every run has a guardian from its start: the program itself, started again with
//! [`ARGUMENT`]. Its stdin is a socket to the run; when that closes without a word, the run is
//! dead, and the guardian takes back what the journal says. Its stdout is the journal's open
//! file description, and with it the lock that says that somebody still cares.

mod channel;
mod serve;
mod spawn;

pub(crate) use channel::Channel;
pub use serve::main;
pub use spawn::Guardian;

/// The hidden subcommand that must call [`main`].
pub const ARGUMENT: &str = "__guardian";
