//! What the loader finds out about this kernel and writes into `.rodata` before it loads us
//! (aya's `override_global`). The verifier sees constants, and drops what they switch off.
//!
//! All are 0 when unknown; what needs them is then left out. Offsets are bytes, from BTF.

chadthrottle_ebpf::constants! {
    /// `tcp_sock.rcv_wup`: what was acknowledged last. 0: no edge grants.
    OFF_RCV_WUP, rcv_wup;
    /// `tcp_sock.rcv_wnd`: the window offered last. 0: no edge grants.
    OFF_RCV_WND, rcv_wnd;
    /// `tcp_sock.rcv_nxt`: up to where data arrived.
    OFF_RCV_NXT, rcv_nxt;
    /// `tcp_sock.copied_seq`: up to where data were taken out of a subflow of MPTCP.
    OFF_COPIED_SEQ, copied_seq;
    /// `mptcp_sock.ack_seq`: the next byte of data expected, a u64. 0: MPTCP is not shown windows.
    OFF_ACK_SEQ, ack_seq;
    /// `tcp_sock.inet_conn.icsk_ack.rcv_mss`: the sender's segment size, a u16.
    OFF_RCV_MSS, rcv_mss;
    /// `tcp_sock.rx_opt.rcv_wscale`: the byte that has it, and the bits below it there.
    OFF_RCV_WSCALE, rcv_wscale;
    /// See `OFF_RCV_WSCALE`.
    SHIFT_RCV_WSCALE, rcv_wscale_shift;
    /// `sock_common.skc_net.net`: the network namespace. 0: no acknowledgement is kept.
    OFF_NET, net;
    /// `net.ns.inum`: its inode, a u32. 0: no acknowledgement is kept.
    OFF_INODE, inode;
    /// `sock_common.skc_state`, a u8; for the iterator.
    OFF_STATE, state;
    /// `sock_common.skc_num`: the local port, a u16 in host order; for the iterator.
    OFF_NUM, num;
    /// `sock_common.skc_cookie`; for tags of MPTCP sockets with an owner.
    OFF_COOKIE, cookie;
    /// `task_struct.pid`. 0: children are not followed here.
    OFF_PID, pid;
    /// `task_struct.tgid`. 0: children are not followed here.
    OFF_TGID, tgid;
    /// 1 when the kernel has bpf_skc_to_mptcp_sock (5.19 and CONFIG_MPTCP).
    HAS_MPTCP, has_mptcp;
    /// 1 when an iterator can set callback flags (about 6.12).
    SETS_CALLBACKS, sets_callbacks;
}
