//! New sockets and new processes of a target.

use core::ffi::c_void;

use aya_ebpf::helpers::{bpf_get_current_pid_tgid, generated::bpf_probe_read_kernel};

use super::{
    attribution, constants,
    maps::{TAGS, TGIDS, ignore},
};

/// Tags a new socket: by the process that creates it, else by its cgroup.
#[inline]
pub(crate) fn tag_new_socket(sk: *mut c_void) {
    let tgid = (bpf_get_current_pid_tgid() >> 32) as u32;
    // SAFETY: nothing here keeps the reference; entries are replaced whole.
    let by_process = unsafe { TGIDS.get(tgid) }.copied();
    if let Some(tag) = by_process.or_else(attribution::of_current_cgroup) {
        // Without memory the socket is found by the rescan, or by its first packet.
        TAGS.get_or(sk, tag);
    }
}

/// A process forked: its child is under the same limit. A child that is not ours takes its
/// pid out, because a process that was limited may have had the same.
#[inline]
pub(crate) fn follow_child(parent: *const c_void, child: *const c_void) {
    let (pid, tgid) = (constants::pid(), constants::tgid());
    if pid == 0 || tgid == 0 {
        return;
    }
    let (Some(of), Some(new)) = (number(parent, tgid), number(child, tgid)) else { return };
    if of == new {
        return; // a thread
    }
    // SAFETY: nothing here keeps the reference; entries are replaced whole.
    let tag = unsafe { TGIDS.get(of) }.copied();
    // A full map means that the rescan finds the child; that there was nothing to remove is
    // the usual case.
    match tag {
        Some(tag) => ignore(TGIDS.insert(new, tag, 0)),
        None => ignore(TGIDS.remove(new)),
    }
}

/// A 32-bit number in a task_struct.
#[inline]
fn number(task: *const c_void, offset: u32) -> Option<u32> {
    let mut number = 0_u32;
    // SAFETY: the helper checks the address it reads from, and `number` has four bytes.
    let failed = unsafe {
        bpf_probe_read_kernel((&raw mut number).cast(), 4, task.byte_add(offset as usize))
    };
    (failed == 0).then_some(number)
}
