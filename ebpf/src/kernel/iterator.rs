//! iter/tcp: sockets that were open before the limit, and after it.

use core::ffi::c_void;

use aya_ebpf::helpers::{
    bpf_ktime_get_ns,
    generated::{bpf_get_socket_cookie, bpf_skc_to_tcp_sock},
};
use chadthrottle_ebpf::{
    edge,
    layout::{ADOPT, CLAMPED, DOWNLOAD, Flow, Global, LOCAL, RESTORE},
    program::field,
};

use super::{
    attribution::{self, Limit},
    constants,
    hooks::{Socket, can_grant},
    maps::{FLOWS, GLOBAL, LISTENERS, ignore},
    upload,
};

/// TCP_LISTEN.
const LISTEN: u8 = 10;

/// `struct bpf_iter__tcp`: what the kernel calls us with for each socket.
#[repr(C)]
pub(crate) struct Context {
    meta: *const c_void,
    sk: *mut c_void,
}

/// Does to one socket what GLOBAL says.
#[inline]
pub(crate) fn visit(ctx: *const Context) {
    let Some(global) = GLOBAL.get(0) else { return };
    // SAFETY: the program's own context; null after the last socket.
    let sk = unsafe { (*ctx).sk };
    if sk.is_null() {
        return;
    }
    // SAFETY: checked not to be null; null for requests and those in TIME_WAIT.
    let tp = unsafe { bpf_skc_to_tcp_sock(sk) }.cast::<c_void>();
    if tp.is_null() {
        return;
    }
    let meant = |limit: u32| global.iterator_limit == 0 || global.iterator_limit == limit;
    // SAFETY: a helper call on a socket.
    let cookie = || unsafe { bpf_get_socket_cookie(tp) };
    let limit = attribution::of_tag(tp, cookie).filter(|limit| !limit.idle());
    let Some(limit) = limit else {
        return restore(tp, |_| true);
    };
    match global.iterator {
        ADOPT if meant(limit.slot + 1) => adopt(tp, &limit, global),
        RESTORE => restore(tp, |flow| meant(flow.limit)),
        _ => {}
    }
}

/// Hooks a socket as `events` does when it connects.
#[inline]
fn adopt(tp: *mut c_void, limit: &Limit, global: &Global) {
    let Some(flow) = FLOWS.get_or_zeroed(tp) else { return };
    if flow.state & LOCAL != 0 {
        return;
    }
    let socket = Socket::Visited(tp);
    let download = limit.rate(DOWNLOAD);
    if is_listener(tp) {
        if let Some(rate) = download {
            socket.clamp(&mut flow.state, edge::widest(rate));
            // SAFETY: the loader says where the port is.
            let port = unsafe { field::<u16>(tp, constants::num()) };
            // A full map costs the accepted sockets their small first window, not the limit.
            ignore(LISTENERS.insert(u32::from(port), limit.slot + 1, 0));
        }
        return;
    }
    socket.sync(flow, limit);
    // SAFETY: a helper call without pointers.
    let now = unsafe { bpf_ktime_get_ns() };
    // Without callbacks nothing would correct the first pace: the plain share then.
    upload::set_pace(socket, flow, limit, now, constants::sets_callbacks() != 0);
    // What is shown on the wire needs no clamp; a socket that does not call us is shown nothing.
    let shown = global.wired != 0 && constants::sets_callbacks() != 0;
    let clamps = can_grant() && !shown;
    if clamps && download.is_some() && flow.state & CLAMPED == 0 {
        // The window stops growing at what is offered now; the next segment decides on.
        // SAFETY: the loader says where the window is.
        let window = unsafe { field::<u32>(tp, constants::rcv_wnd()) };
        socket.clamp(&mut flow.state, window.max(edge::CLOSED));
    }
}

/// Gives a socket back what we changed, and forgets it.
#[inline]
fn restore(tp: *mut c_void, meant: impl FnOnce(&Flow) -> bool) {
    let Some(flow) = FLOWS.get(tp) else { return };
    if meant(flow) {
        Socket::Visited(tp).release(flow);
        FLOWS.delete(tp);
    }
}

/// Whether it listens; no, when the loader could not say how to tell.
#[inline]
fn is_listener(tp: *const c_void) -> bool {
    constants::state() != 0
        && constants::num() != 0
        // SAFETY: the loader says where the state is.
        && unsafe { field::<u8>(tp, constants::state()) } == LISTEN
}
