//! What the threads that serve limits need: being woken, and the processor when they want it.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use chadthrottle_core::{Error, Result};
use rustix::{
    event::{EventfdFlags, eventfd},
    io::{read, write},
    process::setpriority_process,
    thread::gettid,
};
use tracing::debug;

/// The nice value that comes first (setpriority(2): of the one thread, on Linux).
const FIRST: i32 = -20;

/// Has the calling thread come before others: its turns are short, and late ones cost rate.
/// Without `CAP_SYS_NICE` it has the priority of others.
pub(crate) fn come_first() {
    if let Err(errno) = setpriority_process(Some(gettid()), FIRST) {
        debug!("limits are served at the usual priority: {errno}");
    }
}

/// Wakes a thread that polls it.
pub(crate) struct Wake(OwnedFd);

impl Wake {
    pub(crate) fn new() -> Result<Self> {
        let fd = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK);
        fd.map(Self).map_err(|errno| Error::io("make", "an eventfd", errno.into()))
    }

    pub(crate) fn wake(&self) {
        // It fails only when it is awake already.
        if let Err(errno) = write(&self.0, &1_u64.to_ne_bytes()) {
            debug!("the thread is awake: {errno}");
        }
    }

    /// So that the next poll waits again.
    pub(crate) fn clear(&self) {
        if let Err(errno) = read(&self.0, &mut [0; 8]) {
            debug!("the eventfd was read already: {errno}");
        }
    }
}

impl AsFd for Wake {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
