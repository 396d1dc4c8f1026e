//! The one promise that aya asks for: what lies in the maps is plain old data.
#![allow(unsafe_code)] // `aya::Pod` is an unsafe trait; its promise is made here and nowhere else.

use aya::Pod;
use chadthrottle_ebpf::layout::{Global, Group, Rate, Tag};

/// A map value as aya wants it: the layouts live in a crate that does not know aya.
#[repr(transparent)]
#[derive(Debug, Clone, Copy)]
pub(super) struct Plain<T>(pub(super) T);

// SAFETY: repr(C) without padding, only integers: every bit pattern is valid.
unsafe impl Pod for Plain<Tag> {}
// SAFETY: as above.
unsafe impl Pod for Plain<Rate> {}
// SAFETY: as above.
unsafe impl Pod for Plain<Group> {}
// SAFETY: as above.
unsafe impl Pod for Plain<Global> {}
