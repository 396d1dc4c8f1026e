//! Counts the payload of each process and each socket, and limits nothing. Attached to the root
//! cgroup while the live view is open. Build with `ebpf/build.sh`, not with cargo alone.
//!
//! | program | hook | what it does |
//! |---|---|---|
//! | `counter_ingress`, `_egress` | cgroup_skb | counts |
//! | `counter_sock_create` | cgroup/sock_create | notes whose a new socket is |
//! | `counter_files` | iter/task_file | says who holds which socket, and notes it |
#![no_std]
#![no_main]
#![allow(
    unsafe_code,
    reason = "kernel helpers and contexts are raw pointers; the verifier checks"
)]
#![allow(missing_docs, reason = "a program, not a library")]

mod constants;
mod files;
mod maps;
mod packets;

use aya_ebpf::{
    helpers::{bpf_get_current_comm, bpf_get_current_pid_tgid},
    macros::{cgroup_skb, cgroup_sock},
    programs::{SkBuffContext, SockContext},
};

use crate::maps::{OWNERS, Owner, PROCESSES, Process, enter};

#[cgroup_skb(ingress)]
fn counter_ingress(ctx: SkBuffContext) -> i32 {
    packets::count(ctx.skb.skb, |owner| &owner.received, |process| &process.received);
    1
}

#[cgroup_skb(egress)]
fn counter_egress(ctx: SkBuffContext) -> i32 {
    packets::count(ctx.skb.skb, |owner| &owner.sent, |process| &process.sent);
    1
}

/// The process is entered with its name at once: it may have ended when we next look.
#[cgroup_sock(sock_create)]
fn counter_sock_create(ctx: SockContext) -> i32 {
    let tgid = (bpf_get_current_pid_tgid() >> 32) as u32;
    OWNERS.get_or(ctx.sock.cast(), Owner { tgid, ..Owner::default() });
    if PROCESSES.get_ptr(tgid).is_none() {
        let name = bpf_get_current_comm().unwrap_or_default();
        enter(tgid, Process { name, ..Process::default() });
    }
    1
}

/// aya-ebpf has no macro for iterators.
#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/task_file")]
extern "C" fn counter_files(ctx: *mut files::Context) -> u32 {
    files::visit(ctx);
    0
}

chadthrottle_ebpf::program!();
