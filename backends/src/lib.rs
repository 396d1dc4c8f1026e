//! The mechanisms that limit traffic, and the kernel interfaces that they share.
//!
//! Shared pieces: [`netfilter`] (nftables from Rust), [`sockets`] (which sockets a process has, how
//! to reach them, how to put them back), [`netns`] (working inside another network namespace),
//! [`btf`] (offsets from the kernel's own type information) and [`bpf`] (the bpf(2) calls that aya
//! keeps private).

pub mod bpf;
pub mod btf;
pub mod ebpf;
pub mod links;
pub mod netfilter;
pub mod netns;
pub mod rehearsal;
pub mod rtnetlink;
pub mod sockets;
