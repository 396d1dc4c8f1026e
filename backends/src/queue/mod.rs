//! Pacing the packets that nftables hands to user space (`nfnetlink_queue`).
//!
//! A rule's verdict `queue num N bypass` holds each of a target's packets until we give our own
//! verdict on it, so its rate is kept without BPF, without a qdisc, in both directions and for
//! every protocol. A packet that waits in the output hook still belongs to its socket: TCP
//! writes no more than a few segments ahead (TCP small queues), and a UDP sender never sees
//! `EPERM`. When we die the kernel drops what waits, and `bypass` lets all later packets pass
//! on to the next rule.
//!
//! | where | what |
//! |---|---|
//! | `wire` | the messages of `nfnetlink_queue` |
//! | `packet` | what a packet carries and which flow it belongs to |
//! | `fair` | who is next: deficit round robin among flows |
//! | `lane` | when: a clock that advances by payload / rate |
//! | `port` | one netlink socket in one network namespace |
//! | `state` | the ports and lanes, and what is due |
//! | `serve` | the thread that runs it all |
//! | `hold` | keeping a few packets back for a moment, without any of these |
//!
//! Kernel 3.14 or newer with `nfnetlink_queue`, and `CAP_NET_ADMIN` in the namespace.

mod fair;
mod hold;
mod lane;
mod packet;
mod port;
mod serve;
mod state;
mod wire;

pub use hold::{Held, Holding};
pub use serve::Shaper;
pub use state::LaneId;
