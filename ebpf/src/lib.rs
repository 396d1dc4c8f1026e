//! What kernel and user space share: the layout of the maps, and the arithmetic of the rates.
//!
//! The arithmetic is plain functions, so that the host tests cover what the kernel runs.
//! The kernel programs themselves are in `main.rs` and `kernel/`.
#![no_std]
#![cfg_attr(target_arch = "bpf", feature(core_intrinsics, asm_experimental_arch))]
#![cfg_attr(
    target_arch = "bpf",
    allow(internal_features, reason = "core has no compare-and-swap for BPF")
)]

pub mod active;
pub mod address;
pub mod atomic;
pub mod branchless;
pub mod clock;
pub mod edge;
pub mod layout;
pub mod pace;
pub mod packet;
#[cfg(target_arch = "bpf")]
pub mod program;
#[cfg(target_arch = "bpf")]
pub mod sys;
pub mod tally;
pub mod wire;
