//! What the loader finds out about this kernel, as `kernel/constants.rs` describes.

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

constants! {
    /// `socket.sk`.
    OFF_SOCKET_SK, socket_sk;
    /// `sock_common.skc_family`, a u16.
    OFF_FAMILY, family;
    /// `task_struct.tgid`.
    OFF_TGID, tgid;
    /// `task_struct.start_boottime`, a u64 in nanoseconds.
    OFF_STARTED, started;
    /// `task_struct.comm`.
    OFF_COMM, comm;
    /// 1 when the kernel has bpf_skc_to_mptcp_sock (5.19 and CONFIG_MPTCP).
    HAS_MPTCP, has_mptcp;
}

/// Reads a field of a kernel object.
///
/// # Safety
/// `object` is a pointer that the verifier knows the type of (BTF), and a `T` lies at `offset`
/// in it. The access then cannot fault, whatever becomes of the object.
#[inline]
pub(crate) unsafe fn field<T: Copy>(object: *const core::ffi::c_void, offset: u32) -> T {
    // SAFETY: as above.
    unsafe { object.byte_add(offset as usize).cast::<T>().read_volatile() }
}
