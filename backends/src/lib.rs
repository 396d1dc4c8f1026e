//! The mechanisms that limit traffic, and the kernel interfaces that they share.
//!
//! Shared pieces:
//!
//! | module | what |
//! |---|---|
//! | [`bpf`] | the bpf(2) calls that aya keeps private |
//! | [`btf`] | offsets from the kernel's own type information |
//! | [`links`] | interfaces of a namespace, and where a packet is charged once |
//! | [`meter`] | how much each process moves, without limiting it |
//! | [`moved`] | processes in leaves of their cgroups, and marks on what they had opened |
//! | [`neighbours`] | who else filters or shapes here |
//! | [`netfilter`] | nftables from Rust |
//! | [`netns`] | working inside another network namespace |
//! | [`queue`] | pacing packets in user space, as nftables hands them over |
//! | [`rehearsal`] | a stage of its own for a probe's real packets |
//! | [`rtnetlink`] | requests to rtnetlink |
//! | [`sockets`] | which sockets a process has, how to reach them, how to put them back |
//! | [`steer`] | paces and windows of sockets, set from user space |

pub mod bpf;
pub mod btf;
pub mod ebpf;
pub mod links;
pub mod meter;
pub mod moved;
pub mod neighbours;
pub mod netfilter;
pub mod netns;
pub mod nft;
mod packet_socket;
pub mod queue;
pub mod rehearsal;
pub mod rtnetlink;
pub mod sockets;
pub mod steer;
pub mod tc;
mod worker;
