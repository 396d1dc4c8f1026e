//! iter/task_file: every open file of every process. Those that are IP sockets are written out,
//! with who holds them, and the holder is noted as their owner.

use core::ffi::c_void;

use aya_ebpf::helpers::generated::{
    bpf_get_socket_cookie, bpf_probe_read_kernel, bpf_seq_write, bpf_sock_from_file,
};
use chadthrottle_ebpf::{
    program::field,
    tally::{HELD, Held, NAME},
};

use crate::{
    constants,
    maps::{OWNERS, Owner, PROCESSES, Process, VISIT, enter},
};

const AF_INET: u16 = 2;
const AF_INET6: u16 = 10;

/// `struct bpf_iter__task_file`: what the kernel calls us with for each file.
#[repr(C)]
pub(crate) struct Context {
    /// `struct bpf_iter_meta`, which starts with the file to write to. Not a pointer to a struct
    /// of ours: LLVM orders two forward declarations by address, other bytes at every build.
    meta: *const *mut c_void,
    task: *const c_void,
    fd: u64,
    file: *mut c_void,
}

/// Looks at one file.
#[inline]
pub(crate) fn visit(ctx: *const Context) {
    // SAFETY: the program's own context; both are null after the last file.
    let (task, file) = unsafe { ((*ctx).task, (*ctx).file) };
    if task.is_null() || file.is_null() {
        return;
    }
    // SAFETY: checked not to be null; null again for what is no socket.
    let socket = unsafe { bpf_sock_from_file(file.cast()) }.cast::<c_void>();
    if socket.is_null() {
        return;
    }
    // SAFETY: the loader says where the fields are.
    let (sk, tgid) = unsafe {
        (
            field::<*mut c_void>(socket, constants::socket_sk()),
            field::<u32>(task, constants::tgid()),
        )
    };
    if sk.is_null() {
        return;
    }
    // SAFETY: as above.
    let family = unsafe { field::<u16>(sk, constants::family()) };
    if family != AF_INET && family != AF_INET6 {
        return;
    }
    let name = name_of(task);
    let visit = VISIT.get(0).copied().unwrap_or(0);
    let Some(owner) = OWNERS.get_or(sk, Owner { tgid, visit, ..Owner::default() }) else {
        return;
    };
    if owner.visit != visit {
        owner.visit = visit;
        owner.tgid = tgid;
    }
    if PROCESSES.get_ptr(tgid).is_none() {
        enter(tgid, Process { name, ..Process::default() });
    }
    let held = Held {
        // SAFETY: a helper call on a socket.
        cookie: unsafe { bpf_get_socket_cookie(sk) },
        received: owner.received.get(),
        sent: owner.sent.get(),
        // SAFETY: as above.
        started: unsafe { field::<u64>(task, constants::started()) },
        name,
        tgid,
        owner: owner.tgid,
    };
    // SAFETY: `held` has HELD bytes. When the buffer is full the kernel empties it and calls us
    // once more for the same file.
    unsafe {
        bpf_seq_write((*(*ctx).meta).cast(), (&raw const held).cast(), HELD as u32);
    }
}

/// `task_struct.comm`.
#[inline]
fn name_of(task: *const c_void) -> [u8; NAME] {
    let mut name = [0; NAME];
    // SAFETY: the helper checks the address it reads from; without a name it stays empty.
    unsafe {
        bpf_probe_read_kernel(
            name.as_mut_ptr().cast(),
            NAME as u32,
            task.byte_add(constants::comm() as usize),
        );
    }
    name
}
