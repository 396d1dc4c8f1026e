//! What the loader finds out about this kernel, as `program.rs` describes.

chadthrottle_ebpf::constants! {
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
