//! Targets of the backends that know packets by the cgroup of their socket: nft and tc.
//!
//! - [`Members`] are the processes of one target. Those of `--pid` go into a leaf below their own
//!   cgroup, children included, and back when the limit is lifted; cgroups and units stay in
//!   place. Their [`Members::places`] are what rules match: id and level.
//! - [`Holdings`] are the sockets that members hold. Those that were created elsewhere (before
//!   the move, or by whoever handed them over) belong to another cgroup for ever, so they get a
//!   [`Mark`]; accepted sockets inherit it from their listener, and MPTCP subflows from their
//!   socket.
//! - [`record`] and [`undo()`] take marks back after we died.
//!
//! A socket that carries somebody else's mark (policy routing of a VPN) is never marked.

mod holdings;
mod mark;
mod members;
mod undo;

pub use holdings::{Found, Holdings, Socket, given_away, is_inside, namespaces};
pub use mark::{MARK_MASK, Mark, Marked, Slot};
pub use members::{Members, Place, State};
pub(crate) use undo::{gather, named};
pub use undo::{record, undo};
