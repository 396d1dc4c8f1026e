//! cgroup_skb: adds the payload of a packet to its socket and to its process.

use core::ffi::c_void;

use aya_ebpf::{
    bindings::__sk_buff,
    helpers::generated::{bpf_sk_fullsock, bpf_skc_to_mptcp_sock},
};
use chadthrottle_ebpf::{atomic::Shared, packet::payload, program::Packet};

use crate::{
    constants,
    maps::{OWNERS, Owner, PROCESSES, Process},
};

/// The interface of loopback, in every network namespace.
const LOOPBACK: u32 = 1;

/// Counts one packet, in the counters that these name.
#[inline]
pub(crate) fn count(
    skb: *mut __sk_buff,
    of_socket: impl Fn(&Owner) -> &Shared,
    of_process: impl Fn(&Process) -> &Shared,
) {
    // SAFETY: the program's own context; `sk` is read once, so that the null check holds.
    let (sk, interface, length) =
        unsafe { ((*skb).__bindgen_anon_2.sk, (*skb).ifindex, (*skb).len) };
    if sk.is_null() || interface == LOOPBACK {
        return;
    }
    // SAFETY: checked not to be null; null again for a socket that is not a full one.
    let sk = unsafe { bpf_sk_fullsock(sk) }.cast::<c_void>();
    if sk.is_null() {
        return;
    }
    let Some(packet) = payload(&Packet(skb), length).filter(|packet| packet.bytes != 0) else {
        return;
    };
    let bytes = u64::from(packet.bytes);
    let owner = OWNERS.get(sk).or_else(|| OWNERS.get(of_mptcp(sk)?));
    let tgid = owner.map_or(0, |owner| {
        of_socket(owner).add(bytes);
        owner.tgid
    });
    if let Some(process) = PROCESSES.get_ptr(tgid).or_else(|| PROCESSES.get_ptr(0)) {
        // SAFETY: a pointer into the map; the entry is not given to another process while the
        // program runs (RCU).
        of_process(unsafe { &*process }).add(bytes);
    }
}

/// The MPTCP socket that this TCP socket carries data for: that is the one a process holds.
#[inline]
fn of_mptcp(sk: *mut c_void) -> Option<*mut c_void> {
    if constants::has_mptcp() == 0 {
        return None;
    }
    // SAFETY: the verifier checks the pointers; null for a socket that is not MPTCP.
    let mptcp = unsafe { bpf_skc_to_mptcp_sock(sk) }.cast::<c_void>();
    (!mptcp.is_null()).then_some(mptcp)
}
