//! Subflows of MPTCP: the permits are those of their connection.
//!
//! The window that a subflow shows is that of the whole connection, counted from the data that are
//! acknowledged. So the MPTCP socket has one state for all its subflows, and its numbers are those of the
//! data. A peer that does not speak MPTCP is known by what our segments lack: they acknowledge no data.

use core::ffi::c_void;

use aya_ebpf::helpers::generated::bpf_skc_to_tcp_sock;
use chadthrottle_ebpf::{
    clock::SECOND,
    edge::Seen,
    layout::{Edge, Flow, JOINED, PLAIN},
    program::field,
    wire::UNKNOWN,
};

use super::{attribution, constants, maps::FLOWS};

/// The state of the connection that this socket is a subflow of; `seen` is then what is seen of that.
/// `None`: it has its own, as long as our program on the interfaces is neither `linked` nor has been
/// passed by a segment.
#[inline]
pub(crate) fn connection<'a>(
    sk: *mut c_void,
    flow: &mut Flow,
    seen: &mut Seen,
    fresh: bool,
    linked: bool,
) -> Option<&'a mut Flow> {
    let mptcp = attribution::connection(sk);
    if mptcp.is_null() || flow.state & PLAIN != 0 {
        return None;
    }
    flow.state &= !JOINED;
    let shown = seen.wired && (linked || flow.edge.passed != 0);
    let next = if shown { expected(sk, mptcp) } else { None };
    let whole = next.and_then(|_| FLOWS.get_or_zeroed(mptcp));
    let (Some(next), Some(whole)) = (next, whole) else {
        // The kernel's window, then.
        seen.wired = false;
        seen.scale = UNKNOWN;
        return None;
    };
    if whole.limit != flow.limit || whole.generation != flow.generation {
        whole.limit = flow.limit;
        whole.generation = flow.generation;
        whole.epochs = [0; 2];
        whole.edge = Edge::zeroed();
        // Its first packets came before this.
        whole.edge.given_until = flow.edge.given_until;
    }
    let limited_anew = !fresh && flow.edge.at == 0 && seen.now - whole.edge.at > SECOND;
    if limited_anew {
        whole.edge.at = 0;
    }
    if whole.edge.at != 0 && whole.edge.passed == 0 {
        flow.state |= PLAIN;
        flow.edge.at = 0;
        whole.edge.at = 0;
        return None;
    }
    flow.state |= JOINED;
    flow.edge.at = seen.now;
    flow.edge.scale = seen.scale;
    whole.edge.scale = seen.scale;
    seen.firm = true;
    let outstanding = seen.right.wrapping_sub(seen.next);
    seen.next = next;
    seen.right = next.wrapping_add(outstanding);
    Some(whole)
}

/// The next byte of data expected: what the connection has, and what waits in this subflow until the
/// application has read. `None`: not known, or not yet.
#[inline]
fn expected(sk: *mut c_void, mptcp: *mut c_void) -> Option<u32> {
    // SAFETY: `sk` is a socket; null when it is not TCP.
    let tp = unsafe { bpf_skc_to_tcp_sock(sk) }.cast::<c_void>();
    if tp.is_null() || constants::ack_seq() == 0 {
        return None;
    }
    // SAFETY: the loader says where the fields are.
    unsafe {
        let acknowledged = field::<u64>(mptcp, constants::ack_seq());
        let arrived = field::<u32>(tp, constants::rcv_nxt());
        let waiting = arrived.wrapping_sub(field::<u32>(tp, constants::copied_seq()));
        (acknowledged != 0).then_some((acknowledged as u32).wrapping_add(waiting))
    }
}

/// The permits of a socket, wherever they are.
#[inline]
pub(crate) fn permits(sk: *mut c_void, flow: &mut Flow) -> Option<&mut Edge> {
    if flow.state & JOINED == 0 {
        return Some(&mut flow.edge);
    }
    let mptcp = attribution::connection(sk);
    if mptcp.is_null() {
        return None;
    }
    FLOWS.get(mptcp).map(|whole| &mut whole.edge)
}
