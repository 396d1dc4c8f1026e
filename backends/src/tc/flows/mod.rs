//! Attribution by flows, for kernels where no mark leads from a packet to its socket's owner.
//!
//! `sock_diag` lists the sockets; those of the target become u32 filters. Nothing is moved, and
//! neither cgroup v2 nor netfilter is needed. The price: a connection that the target opens is
//! free until the next look, see [`super::engine`], where there is no [`super::gate`].

mod flow;
mod select;
mod tree;

pub(super) use flow::Flow;
pub(super) use select::{Owned, Selected, select};
pub(super) use tree::Tree;
