//! The maps, by the names that user space knows; what is in them is described in `layout`.

use core::{ffi::c_void, ptr};

use aya_ebpf::{
    bindings::{BPF_F_CLONE, BPF_F_NO_PREALLOC, bpf_map_type::BPF_MAP_TYPE_SK_STORAGE},
    btf_maps::{Array, HashMap},
    helpers::generated::{bpf_sk_storage_delete, bpf_sk_storage_get},
    macros::btf_map,
};
use chadthrottle_ebpf::{
    atomic::Shared,
    layout::{Flow, Global, Group, Listener, MAX_LIMITS, Rate, Tag},
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
#[btf_map]
pub(crate) static LISTENERS: HashMap<u32, Listener, 4096> = HashMap::new();

/// BPF_SK_STORAGE_GET_F_CREATE.
const CREATE: u64 = 1;

/// BPF_MAP_TYPE_SK_STORAGE with flags of our choice; aya-ebpf's has no BPF_F_CLONE.
#[repr(C)]
pub(crate) struct SkStorage<T, const FLAGS: usize> {
    r#type: *const [i32; BPF_MAP_TYPE_SK_STORAGE as usize],
    key: *const i32,
    value: *const T,
    max_entries: *const [i32; 0],
    map_flags: *const [i32; FLAGS],
}

// SAFETY: the fields only describe the map to the loader and are never followed.
unsafe impl<T, const FLAGS: usize> Sync for SkStorage<T, FLAGS> {}

impl<T, const FLAGS: usize> SkStorage<T, FLAGS> {
    const fn new() -> Self {
        Self {
            r#type: ptr::null(),
            key: ptr::null(),
            value: ptr::null(),
            max_entries: ptr::null(),
            map_flags: ptr::null(),
        }
    }

    /// What is stored at this socket. Other CPUs may change it meanwhile: words, no whole.
    #[inline]
    pub(crate) fn get(&self, sk: *mut c_void) -> Option<&mut T> {
        self.call(sk, ptr::null_mut(), 0)
    }

    /// The same; `initial` is stored when there is nothing. `None` when memory is short.
    #[inline]
    pub(crate) fn get_or(&self, sk: *mut c_void, mut initial: T) -> Option<&mut T> {
        self.call(sk, &raw mut initial, CREATE)
    }

    /// The same, with all zeroes as the initial value: the kernel's own default.
    #[inline]
    pub(crate) fn get_or_zeroed(&self, sk: *mut c_void) -> Option<&mut T> {
        self.call(sk, ptr::null_mut(), CREATE)
    }

    /// Forgets what is stored at this socket.
    #[inline]
    pub(crate) fn delete(&self, sk: *mut c_void) {
        // SAFETY: the verifier checks the pointers. That nothing was stored is no error.
        unsafe { bpf_sk_storage_delete(self.map(), sk) };
    }

    #[inline]
    fn call(&self, sk: *mut c_void, initial: *mut T, flags: u64) -> Option<&mut T> {
        // SAFETY: the verifier checks the pointers; the value lives as long as the program
        // runs (RCU).
        unsafe {
            bpf_sk_storage_get(self.map(), sk, initial.cast(), flags).cast::<T>().as_mut()
        }
    }

    const fn map(&self) -> *mut c_void {
        ptr::from_ref(self).cast_mut().cast()
    }
}

/// A full map, or nothing to remove: where this is called, a comment says what makes up for
/// it.
#[inline]
pub(crate) fn ignore(_: Result<(), i32>) {}
