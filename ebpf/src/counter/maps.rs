//! The maps, by the names that user space knows; what is in them is described in `tally`.

use core::{ffi::c_void, ptr};

use aya_ebpf::{
    bindings::{BPF_F_CLONE, BPF_F_NO_PREALLOC, bpf_map_type::BPF_MAP_TYPE_SK_STORAGE},
    btf_maps::{Array, HashMap},
    helpers::generated::bpf_sk_storage_get,
    macros::btf_map,
};
use chadthrottle_ebpf::{
    atomic::Shared,
    tally::{self, MAX_PROCESSES},
};

pub(crate) type Owner = tally::Owner<Shared>;
pub(crate) type Process = tally::Process<Shared>;

#[btf_map]
pub(crate) static OWNERS: Owners = Owners::new();
#[btf_map]
pub(crate) static PROCESSES: HashMap<u32, Process, { MAX_PROCESSES as usize }> = HashMap::new();
/// The number of the visit that is under way.
#[btf_map]
pub(crate) static VISIT: Array<u32, 1> = Array::new();

/// BPF_MAP_TYPE_SK_STORAGE with BPF_F_CLONE, which aya-ebpf's does not have.
#[repr(C)]
pub(crate) struct Owners {
    r#type: *const [i32; BPF_MAP_TYPE_SK_STORAGE as usize],
    key: *const i32,
    value: *const Owner,
    max_entries: *const [i32; 0],
    map_flags: *const [i32; (BPF_F_NO_PREALLOC | BPF_F_CLONE) as usize],
}

// SAFETY: the fields only describe the map to the loader and are never followed.
unsafe impl Sync for Owners {}

impl Owners {
    const fn new() -> Self {
        Self {
            r#type: ptr::null(),
            key: ptr::null(),
            value: ptr::null(),
            max_entries: ptr::null(),
            map_flags: ptr::null(),
        }
    }

    /// What is noted at this socket.
    #[inline]
    pub(crate) fn get(&self, sk: *mut c_void) -> Option<&mut Owner> {
        self.call(sk, ptr::null_mut(), 0)
    }

    /// The same; `initial` is noted when there is nothing. `None` when memory is short.
    #[inline]
    pub(crate) fn get_or(&self, sk: *mut c_void, mut initial: Owner) -> Option<&mut Owner> {
        /// BPF_SK_STORAGE_GET_F_CREATE.
        const CREATE: u64 = 1;
        self.call(sk, &raw mut initial, CREATE)
    }

    #[inline]
    fn call(&self, sk: *mut c_void, initial: *mut Owner, flags: u64) -> Option<&mut Owner> {
        let map = ptr::from_ref(self).cast_mut().cast();
        // SAFETY: the verifier checks the pointers; the value lives as long as the program
        // runs (RCU).
        unsafe { bpf_sk_storage_get(map, sk, initial.cast(), flags).cast::<Owner>().as_mut() }
    }
}

/// Enters a process that is not there yet; one that is stays as it is.
#[inline]
pub(crate) fn enter(tgid: u32, process: Process) {
    const BPF_NOEXIST: u64 = 1;
    // A full map counts it under 0, which the view says.
    let _full_or_there = PROCESSES.insert(tgid, &process, BPF_NOEXIST);
}
