//! The maps, by the names that user space knows; what is in them is described in `tally`.

use aya_ebpf::{
    bindings::{BPF_F_CLONE, BPF_F_NO_PREALLOC},
    btf_maps::{Array, HashMap},
    macros::btf_map,
};
use chadthrottle_ebpf::{
    atomic::Shared,
    program::SkStorage,
    tally::{self, MAX_PROCESSES},
};

pub(crate) type Owner = tally::Owner<Shared>;
pub(crate) type Process = tally::Process<Shared>;

#[btf_map]
pub(crate) static OWNERS: SkStorage<Owner, { (BPF_F_NO_PREALLOC | BPF_F_CLONE) as usize }> =
    SkStorage::new();
#[btf_map]
pub(crate) static PROCESSES: HashMap<u32, Process, { MAX_PROCESSES as usize }> = HashMap::new();
/// The number of the visit that is under way.
#[btf_map]
pub(crate) static VISIT: Array<u32, 1> = Array::new();

/// Enters a process that is not there yet; one that is stays as it is.
#[inline]
pub(crate) fn enter(tgid: u32, process: Process) {
    const BPF_NOEXIST: u64 = 1;
    // A full map counts it under 0, which the view says.
    let _full_or_there = PROCESSES.insert(tgid, &process, BPF_NOEXIST);
}
