//! The programs that run in the kernel. Build with `ebpf/build.sh`, not with cargo alone.
//!
//! | program | hook | what it does |
//! |---|---|---|
//! | `chadthrottle_ingress`, `_egress` | cgroup_skb | counts, and refuses what is too much |
//! | `chadthrottle_sockops` | sock_ops | paces uploads, grants windows to downloads |
//! | `chadthrottle_wire` | tc egress | shows the granted window to the sender |
//! | `chadthrottle_sock_create` | cgroup/sock_create | tags new sockets |
//! | `chadthrottle_fork` | sched_process_fork | follows children |
//! | `chadthrottle_iter` | iter/tcp | adopts open sockets, and gives them back |
//!
//! Which limit a socket is under is decided in `kernel/attribution.rs`.
#![no_std]
#![no_main]
#![allow(
    unsafe_code,
    reason = "kernel helpers and contexts are raw pointers; the verifier checks"
)]
#![allow(missing_docs, reason = "a program, not a library")]

mod kernel;

use aya_ebpf::{
    macros::{cgroup_skb, cgroup_sock, classifier, raw_tracepoint, sock_ops},
    programs::{RawTracePointContext, SkBuffContext, SockContext, SockOpsContext, TcContext},
};
use chadthrottle_ebpf::layout::{DOWNLOAD, UPLOAD};

use crate::kernel::{creation, events, iterator, packets, wire};

/// Refuses with 0. Another program than egress: one that may return 2 cannot be attached here.
#[cgroup_skb(ingress)]
fn chadthrottle_ingress(ctx: SkBuffContext) -> i32 {
    i32::from(packets::passes(ctx.skb.skb, DOWNLOAD))
}

/// Refuses with 2, a congestion notice: 0 would give UDP senders EPERM.
#[cgroup_skb(egress)]
fn chadthrottle_egress(ctx: SkBuffContext) -> i32 {
    if packets::passes(ctx.skb.skb, UPLOAD) { 1 } else { 2 }
}

#[sock_ops]
fn chadthrottle_sockops(ctx: SockOpsContext) -> u32 {
    events::event(ctx.ops);
    1
}

#[classifier]
fn chadthrottle_wire(ctx: TcContext) -> i32 {
    wire::show(ctx.skb.skb);
    wire::NEXT
}

#[cgroup_sock(sock_create)]
fn chadthrottle_sock_create(ctx: SockContext) -> i32 {
    creation::tag_new_socket(ctx.sock.cast());
    1
}

#[raw_tracepoint(tracepoint = "sched_process_fork")]
fn chadthrottle_fork(ctx: RawTracePointContext) -> i32 {
    creation::follow_child(ctx.arg(0), ctx.arg(1));
    0
}

/// aya-ebpf has no macro for iterators.
#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/tcp")]
extern "C" fn chadthrottle_iter(ctx: *mut iterator::Context) -> u32 {
    iterator::visit(ctx);
    0
}

chadthrottle_ebpf::program!();
