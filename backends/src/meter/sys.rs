//! The promise that aya asks for, as in `ebpf/sys.rs`: what lies in the maps is plain old data.
#![allow(unsafe_code)] // `aya::Pod` is an unsafe trait.

use aya::Pod;
use chadthrottle_ebpf::tally::Process;

/// A map value as aya wants it: the layouts live in a crate that does not know aya.
#[repr(transparent)]
#[derive(Debug, Clone, Copy)]
pub(super) struct Plain(pub(super) Process);

// SAFETY: repr(C) without padding, only integers: every bit pattern is valid.
unsafe impl Pod for Plain {}
