//! sock_ops: what happens to a TCP socket, and who takes care of it.

use core::ffi::c_void;

use aya_ebpf::{
    bindings::{
        BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB, BPF_SOCK_OPS_HDR_OPT_LEN_CB,
        BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB, BPF_SOCK_OPS_RTT_CB, BPF_SOCK_OPS_RWND_INIT,
        BPF_SOCK_OPS_TCP_CONNECT_CB, BPF_SOCK_OPS_TCP_LISTEN_CB, BPF_SOCK_OPS_WRITE_HDR_OPT_CB,
        BPF_TCP_SYN_RECV, BPF_TCP_SYN_SENT, bpf_sock_ops,
    },
    helpers::{bpf_ktime_get_ns, generated::bpf_get_socket_cookie},
};
use chadthrottle_ebpf::{
    active::Active,
    address::{is_local_v4, is_local_v6},
    clock, edge,
    layout::{DOWNLOAD, LOCAL},
};

use super::{
    attribution::{self, Limit},
    download,
    hooks::{Socket, can_grant},
    maps::{FLOWS, GROUPS, LISTENERS, RATES, ignore},
    upload,
};

/// The first argument of HDR_OPT_LEN when no segment is being sent.
const WRITE_HDR_TCP_CURRENT_MSS: u32 = 1;
/// AF_INET6.
const AF_INET6: u32 = 10;

/// What sock_ops reports.
#[inline]
pub(crate) fn event(ctx: *mut bpf_sock_ops) {
    // SAFETY: the program's own context; `sk` is read once, so that the null check holds.
    let (op, argument) = unsafe { ((*ctx).op, (*ctx).__bindgen_anon_1.args[0]) };
    if op == BPF_SOCK_OPS_HDR_OPT_LEN_CB && argument == WRITE_HDR_TCP_CURRENT_MSS {
        return;
    }
    if op == BPF_SOCK_OPS_WRITE_HDR_OPT_CB {
        // SAFETY: the program's own context; `sk` is read once, so that the null check holds.
        let sk = unsafe { (*ctx).__bindgen_anon_2.sk }.cast::<c_void>();
        if !sk.is_null()
            && let Some(flow) = FLOWS.get(sk)
        {
            download::window_is_chosen(ctx, flow);
        }
        return;
    }
    if !matches!(
        op,
        BPF_SOCK_OPS_RWND_INIT
            | BPF_SOCK_OPS_TCP_LISTEN_CB
            | BPF_SOCK_OPS_TCP_CONNECT_CB
            | BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB
            | BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB
            | BPF_SOCK_OPS_RTT_CB
            | BPF_SOCK_OPS_HDR_OPT_LEN_CB
    ) {
        return;
    }
    // SAFETY: as above.
    let sk = unsafe { (*ctx).__bindgen_anon_2.sk }.cast::<c_void>();
    if sk.is_null() {
        if op == BPF_SOCK_OPS_RWND_INIT {
            first_window_of_accepted(ctx);
        }
        return;
    }
    // SAFETY: a helper call on the program's own context.
    let cookie = || unsafe { bpf_get_socket_cookie(ctx.cast()) };
    let limit = attribution::of_event(sk, cookie).filter(|limit| !limit.idle());
    match op {
        BPF_SOCK_OPS_RWND_INIT => {
            if let Some(limit) = limit.filter(|_| !is_local(ctx)) {
                first_window(ctx, limit.slot);
            }
        }
        BPF_SOCK_OPS_TCP_LISTEN_CB => {
            if let Some(limit) = limit {
                listens(ctx, sk, &limit);
            }
        }
        _ => serve(ctx, sk, limit.filter(|_| !is_local(ctx)), op),
    }
}

/// Keeps the hooks of a socket, its pace and its window in line with its limit; a socket
/// without one gets back what we changed.
#[inline]
fn serve(ctx: *mut bpf_sock_ops, sk: *mut c_void, limit: Option<Limit>, op: u32) {
    let socket = Socket::Event(ctx);
    let flow = match limit {
        Some(_) => FLOWS.get_or_zeroed(sk),
        None => FLOWS.get(sk),
    };
    let Some(flow) = flow else { return };
    let Some(limit) = limit.filter(|_| flow.state & LOCAL == 0) else {
        return socket.release(flow);
    };
    socket.sync(flow, &limit);
    // SAFETY: a helper call without pointers.
    let now = unsafe { bpf_ktime_get_ns() };
    if op == BPF_SOCK_OPS_HDR_OPT_LEN_CB {
        // Before the peer's SYN there is no edge to count from.
        if !in_handshake(ctx) && can_grant() {
            download::set_window(ctx, sk, flow, &limit, now, false);
        }
        return;
    }
    upload::set_pace(socket, flow, &limit, now, true);
    if op == BPF_SOCK_OPS_RTT_CB {
        return;
    }
    if op == BPF_SOCK_OPS_TCP_CONNECT_CB {
        // The window scale is still open.
        if let Some(rate) = limit.rate(DOWNLOAD) {
            socket.clamp(&mut flow.state, edge::widest(rate));
        }
        return;
    }
    upload::set_initial_window(socket, flow, &limit);
    if can_grant() {
        download::set_window(ctx, sk, flow, &limit, now, true);
    }
}

/// Whether the socket is still connecting, or being accepted.
#[inline]
fn in_handshake(ctx: *mut bpf_sock_ops) -> bool {
    // SAFETY: the program's own context.
    matches!(unsafe { (*ctx).state }, BPF_TCP_SYN_SENT | BPF_TCP_SYN_RECV)
}

/// A limited socket listens: what it accepts starts with a small window and scale.
#[inline]
fn listens(ctx: *mut bpf_sock_ops, sk: *mut c_void, limit: &Limit) {
    let Some(rate) = limit.rate(DOWNLOAD) else { return };
    let Some(flow) = FLOWS.get_or_zeroed(sk) else { return };
    Socket::Event(ctx).clamp(&mut flow.state, edge::widest(rate));
    // SAFETY: the program's own context.
    let port = unsafe { (*ctx).local_port };
    // A full map costs the accepted sockets their small first window, not the limit.
    ignore(LISTENERS.insert(port, limit.slot + 1, 0));
}

/// The first window of a socket that is being accepted: it is a request yet, without storage.
#[inline]
fn first_window_of_accepted(ctx: *mut bpf_sock_ops) {
    // SAFETY: the program's own context; then a map whose entries are replaced whole.
    let listener = unsafe { LISTENERS.get((*ctx).local_port) };
    let Some(slot) = listener.and_then(|listener| listener.checked_sub(1)) else { return };
    let in_use = RATES.get(slot * 2).is_some_and(|rate| rate.in_use != 0);
    if in_use && !is_local(ctx) {
        first_window(ctx, slot);
    }
}

#[inline]
fn first_window(ctx: *mut bpf_sock_ops, slot: u32) {
    let index = slot * 2 + DOWNLOAD;
    let Some(rate) = RATES.get(index).and_then(|rate| clock::rate(rate.bytes_per_second))
    else {
        return;
    };
    let Some(group) = GROUPS.get(index) else { return };
    let sockets = Active::unpack(group.active.get()).and_one().sockets();
    // SAFETY: the program's own context.
    unsafe { (*ctx).__bindgen_anon_1.reply = edge::first_window(rate, sockets) };
}

/// Whether the peer is this host.
#[inline]
fn is_local(ctx: *mut bpf_sock_ops) -> bool {
    // SAFETY: the program's own context; word by word, as the verifier wants it.
    unsafe {
        if (*ctx).family == AF_INET6 {
            let remote = (&raw const (*ctx).remote_ip6).cast::<u32>();
            let local = (&raw const (*ctx).local_ip6).cast::<u32>();
            let word = |of: *const u32, i: usize| of.add(i).read_volatile();
            is_local_v6(
                [word(remote, 0), word(remote, 1), word(remote, 2), word(remote, 3)],
                [word(local, 0), word(local, 1), word(local, 2), word(local, 3)],
            )
        } else {
            is_local_v4((*ctx).remote_ip4, (*ctx).local_ip4)
        }
    }
}
