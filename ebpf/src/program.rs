//! What the programs of both objects are made of: the contexts, maps and numbers of the kernel.
#![allow(
    unsafe_code,
    reason = "kernel helpers and contexts are raw pointers; the verifier checks"
)]

use core::{ffi::c_void, ptr};

use aya_ebpf::{
    bindings::{__sk_buff, bpf_map_type::BPF_MAP_TYPE_SK_STORAGE},
    helpers::generated::{bpf_sk_storage_delete, bpf_sk_storage_get, bpf_skb_load_bytes},
};

use crate::packet::Bytes;

/// Numbers that the loader finds out about this kernel and writes into `.rodata` before it loads
/// the program (aya's `override_global`), each with a function that reads it. The verifier sees
/// constants, and drops what they switch off.
#[macro_export]
macro_rules! constants {
    ($($(#[$doc:meta])* $name:ident, $get:ident;)*) => {$(
        $(#[$doc])*
        #[unsafe(no_mangle)]
        static $name: u32 = 0;
        $(#[$doc])*
        #[inline]
        pub(crate) fn $get() -> u32 {
            // SAFETY: a static; volatile, because the value of the build is not the one here.
            unsafe { core::ptr::read_volatile(&raw const $name) }
        }
    )*};
}

/// Reads a field of a kernel object.
///
/// # Safety
/// `object` is a pointer that the verifier knows the type of (BTF), and a `T` lies at `offset`
/// in it. The access then cannot fault, whatever becomes of the object.
#[inline]
#[must_use]
pub unsafe fn field<T: Copy>(object: *const c_void, offset: u32) -> T {
    // SAFETY: as above.
    unsafe { object.byte_add(offset as usize).cast::<T>().read_volatile() }
}

/// Reads a packet through the kernel's helper.
pub struct Packet(pub *mut __sk_buff);

impl Bytes for Packet {
    #[inline]
    fn read<const N: usize>(&self, offset: u32) -> Option<[u8; N]> {
        let mut bytes = [0; N];
        // SAFETY: `bytes` has room for N bytes.
        let failed = unsafe {
            bpf_skb_load_bytes(self.0.cast(), offset, bytes.as_mut_ptr().cast(), N as u32)
        };
        (failed == 0).then_some(bytes)
    }
}

/// BPF_SK_STORAGE_GET_F_CREATE.
const CREATE: u64 = 1;

/// BPF_MAP_TYPE_SK_STORAGE with flags of our choice; aya-ebpf's has no BPF_F_CLONE.
#[repr(C)]
pub struct SkStorage<T, const FLAGS: usize> {
    r#type: *const [i32; BPF_MAP_TYPE_SK_STORAGE as usize],
    key: *const i32,
    value: *const T,
    max_entries: *const [i32; 0],
    map_flags: *const [i32; FLAGS],
}

// SAFETY: the fields only describe the map to the loader and are never followed.
unsafe impl<T, const FLAGS: usize> Sync for SkStorage<T, FLAGS> {}

impl<T, const FLAGS: usize> SkStorage<T, FLAGS> {
    /// One more map.
    #[must_use]
    pub const fn new() -> Self {
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
    #[must_use]
    pub fn get(&self, sk: *mut c_void) -> Option<&mut T> {
        self.call(sk, ptr::null_mut(), 0)
    }

    /// The same; `initial` is stored when there is nothing. `None` when memory is short.
    #[inline]
    pub fn get_or(&self, sk: *mut c_void, mut initial: T) -> Option<&mut T> {
        self.call(sk, &raw mut initial, CREATE)
    }

    /// The same, with all zeroes as the initial value: the kernel's own default.
    #[inline]
    pub fn get_or_zeroed(&self, sk: *mut c_void) -> Option<&mut T> {
        self.call(sk, ptr::null_mut(), CREATE)
    }

    /// Forgets what is stored at this socket.
    #[inline]
    pub fn delete(&self, sk: *mut c_void) {
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

/// Where a `panic!` would end, and the license that the GPL-only helpers want.
#[macro_export]
macro_rules! program {
    () => {
        #[panic_handler]
        fn panic(_: &core::panic::PanicInfo) -> ! {
            // No path leads here; the verifier would refuse the loop.
            loop {}
        }

        #[unsafe(no_mangle)]
        #[unsafe(link_section = "license")]
        static LICENSE: [u8; 4] = *b"GPL\0";
    };
}
