//! The maps, by the names that user space knows; what is in them is described in `layout`.

use aya_ebpf::{
    bindings::{BPF_F_CLONE, BPF_F_NO_PREALLOC},
    btf_maps::{Array, HashMap, RingBuf},
    macros::btf_map,
};
use chadthrottle_ebpf::{
    atomic::Shared,
    layout::{Flow, Global, Group, Kept, Listener, MAX_LIMITS, Rate, Tag},
    program::SkStorage,
};

#[btf_map]
pub(crate) static TAGS: SkStorage<Tag, { (BPF_F_NO_PREALLOC | BPF_F_CLONE) as usize }> =
    SkStorage::new();
#[btf_map]
pub(crate) static FLOWS: SkStorage<Flow, { BPF_F_NO_PREALLOC as usize }> = SkStorage::new();
#[btf_map]
pub(crate) static RATES: Array<Rate, { (MAX_LIMITS * 2) as usize }> = Array::new();
#[btf_map]
pub(crate) static GROUPS: Array<Group<Shared>, { (MAX_LIMITS * 2) as usize }> = Array::new();
#[btf_map]
pub(crate) static GLOBAL: Array<Global, 1> = Array::new();
/// tgid -> the tag of its new sockets.
#[btf_map]
pub(crate) static TGIDS: HashMap<u32, Tag, 16384> = HashMap::new();
/// cgroup id -> the tag of sockets created in it or below.
#[btf_map]
pub(crate) static CGROUPS: HashMap<u64, Tag, 4096> = HashMap::new();
/// Acknowledgements for user space to send when they are due.
#[btf_map]
pub(crate) static KEPT: RingBuf<Kept, { 256 * 1024 }> = RingBuf::new();
#[btf_map]
pub(crate) static LISTENERS: HashMap<u32, Listener, 4096> = HashMap::new();

/// A full map, or nothing to remove: where this is called, a comment says what makes up for
/// it.
#[inline]
pub(crate) fn ignore(_: Result<(), i32>) {}
