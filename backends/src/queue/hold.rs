//! Keeping packets back until whoever has them knows what he wanted to know.

use std::{
    os::fd::{AsFd, BorrowedFd},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use chadthrottle_core::Result;
use netlink_sys::Socket;
use tracing::debug;

use super::{
    port::{self, Port},
    wire::{Request, Verdict},
};
use crate::netns::Netns;

/// The first queue number that is tried, below those of [`super::Shaper`], and how many are.
const FIRST_QUEUE: u16 = 0x3000;
const QUEUES: u16 = 256;
/// The most packets that are kept; what comes then passes. A process that is stopped (SIGSTOP) keeps
/// no more than these back.
const MOST: u32 = 64;

/// A packet that waits.
pub type Held = u32;

/// A queue of `nfnetlink_queue`. What waits passes when it is dropped; take the rules away that feed
/// it before.
pub struct Holding {
    port: Mutex<Port>,
    socket: Arc<Socket>,
    /// What rules that feed it name.
    pub number: u16,
}

impl Holding {
    /// Takes a free queue of a namespace.
    pub fn take(netns: &Netns) -> Result<Self> {
        let mut port = Port::open(netns)?;
        let mut number = FIRST_QUEUE;
        loop {
            match port.request(0, number, Request::Hold { most: MOST }, &mut |_| {}) {
                Ok(()) => break,
                // Somebody else's, or so EPERM may mean.
                Err(error)
                    if matches!(error.raw_os_error(), Some(libc::EBUSY | libc::EPERM))
                        && number + 1 < FIRST_QUEUE + QUEUES =>
                {
                    number += 1;
                }
                Err(error) => return Err(port::explain(netns, number, error)),
            }
        }
        Ok(Self { socket: port.socket(), port: Mutex::new(port), number })
    }

    /// The packets that came since the last time.
    pub fn arrived(&self) -> Vec<Held> {
        let mut arrived = Vec::new();
        if let Err(error) = self.port().receive(0, &mut |packet| arrived.push(packet.id)) {
            debug!("cannot read what waits: {error}");
        }
        arrived
    }

    /// Lets these go on.
    pub fn release(&self, held: &[Held]) {
        let mut port = self.port();
        for id in held {
            port.judge(self.number, *id, Verdict::Accept);
        }
        port.flush();
    }

    /// Lets everything go on that has come.
    pub fn pass(&self) {
        self.release(&self.arrived());
    }

    fn port(&self) -> MutexGuard<'_, Port> {
        self.port.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Holding {
    fn drop(&mut self) {
        self.pass();
    }
}

impl AsFd for Holding {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
