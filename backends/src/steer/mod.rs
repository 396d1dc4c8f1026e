//! Keeping senders from sending more than a limit lets pass, from user space (`pidfd_getfd`).
//!
//! What is over a limit waits or is lost behind it. A sender that knows does not send it:
//!
//! - uploads get a pace (`SO_MAX_PACING_RATE`) of the whole rate, which also makes TCP keep
//!   little of what it has written below itself (TCP small queues hold a millisecond's worth at
//!   the pace);
//! - downloads get a window (`TCP_WINDOW_CLAMP`) of the rate x (RTT + what may wait), shared by
//!   the connections that receive. It never closes what a sender was allowed to send before.
//!
//! Neither enforces anything. It is set when a limit begins and once a second for sockets that
//! came since; kernel 5.6 (`pidfd_getfd`), `CAP_SYS_PTRACE`. MPTCP sockets take neither.

use std::{collections::HashMap, net::SocketAddr, os::fd::OwnedFd};

use chadthrottle_core::{
    BackendId, Limits, Rate, Result,
    journal::{Entry, Journal, Undo},
};
use rustix::net::{getpeername, getsockname};
use tracing::debug;

use crate::{
    moved::Socket,
    sockets::{self, Protocol, TcpState},
};

/// What may wait behind a limit beyond the RTT, ms of its rate: less than is dropped there.
const WAIT_MS: u64 = 80;
/// Two segments on Ethernet, bytes: with less a receiver acknowledges late (RFC 9293, 3.8.6.3).
const MIN_WINDOW: u64 = 2 * 1448;
/// A connection that received something within this time shares the window, ms.
const ACTIVE_MS: u32 = 1000;

/// The sockets of one limit that were steered.
#[derive(Debug, Default)]
pub struct Steering {
    /// The pace that each had before, by inode, with the record of one that an application chose.
    own: HashMap<u64, (u64, Option<Entry>)>,
}

impl Steering {
    /// Paces the TCP sockets and sets their windows. Returns how much their peers may send at
    /// most that was allowed before, in bytes.
    ///
    /// An application's own pace is written to the journal first, and never raised.
    pub fn apply<'a>(
        &mut self,
        journal: &Journal,
        backend: BackendId,
        sockets: impl Iterator<Item = &'a Socket>,
        limits: &Limits,
    ) -> Result<u64> {
        // What is set on a listener passes to all that is accepted on it, by whomever.
        let tcp = sockets
            .filter(|socket| socket.info.protocol == Protocol::Tcp && !socket.info.listening);
        let mut states: Vec<(&Socket, OwnedFd, TcpState)> = Vec::new();
        for socket in tcp {
            let Some(fd) = socket.grab()? else { continue };
            // Loopback is never limited.
            if stays_here(&fd) {
                continue;
            }
            if let Ok(state) = sockets::tcp_state(&fd) {
                states.push((socket, fd, state));
            }
        }
        let active = |state: &TcpState| state.since_received_ms < ACTIVE_MS;
        let receivers = states.iter().filter(|(_, _, state)| active(state));
        let (flows, allowed) = receivers.fold((0, 0), |(flows, allowed), (_, _, state)| {
            (flows + 1, allowed + u64::from(state.window))
        });
        for (socket, fd, state) in &states {
            if let Some(limit) = limits.upload {
                self.pace(journal, backend, socket, fd, limit.rate)?;
            }
            if let Some(limit) = limits.download
                && active(state)
            {
                let window = window(limit.rate, state.rtt_us, flows);
                // It may have been closed a moment ago.
                if let Err(error) = sockets::set_window_clamp(fd, window) {
                    debug!("{error}");
                }
            }
        }
        Ok(allowed)
    }

    fn pace(
        &mut self,
        journal: &Journal,
        backend: BackendId,
        socket: &Socket,
        fd: &OwnedFd,
        rate: Rate,
    ) -> Result<()> {
        let now = sockets::pace(fd)?;
        let wanted = rate.bytes_per_second();
        let own = if let Some(own) = self.own.get(&socket.inode) {
            own.0
        } else {
            let mut entry = None;
            if now != sockets::NO_PACE {
                let undo = Undo::Pace { cookie: socket.info.cookie, rate: now };
                entry = Some(journal.record(Some(backend), &undo)?);
            }
            self.own.insert(socket.inode, (now, entry));
            now
        };
        if now != wanted.min(own) {
            sockets::set_pace(fd, wanted.min(own))?;
        }
        Ok(())
    }

    /// Nobody holds this socket any more.
    pub fn forget(&mut self, journal: &Journal, socket: &Socket) -> Result<()> {
        match self.own.remove(&socket.inode) {
            Some((_, Some(entry))) => journal.done(entry),
            _ => Ok(()),
        }
    }

    /// Gives a socket its own pace and window back.
    pub fn free(&mut self, journal: &Journal, socket: &Socket, fd: &OwnedFd) -> Result<()> {
        if socket.info.protocol != Protocol::Tcp || socket.info.listening || stays_here(fd) {
            return Ok(());
        }
        let own = self.own.get(&socket.inode).map(|(own, _)| *own);
        sockets::restore(fd, own.filter(|own| *own != sockets::NO_PACE))?;
        self.forget(journal, socket)
    }
}

/// Whether a connection's other end is on this machine: its address is ours or loopback.
fn stays_here(socket: &OwnedFd) -> bool {
    let address =
        |any| SocketAddr::try_from(any).ok().map(|address| address.ip().to_canonical());
    let peer = getpeername(socket).ok().flatten().and_then(address);
    let own = getsockname(socket).ok().and_then(address);
    peer.is_some_and(|peer| peer.is_loopback() || Some(peer) == own)
}

/// The window of one of `flows` connections.
fn window(rate: Rate, rtt_us: u32, flows: u64) -> u32 {
    let rate = u128::from(rate.bytes_per_second());
    let time_us = u128::from(rtt_us) + u128::from(WAIT_MS) * 1000;
    let share = rate * time_us / 1_000_000 / u128::from(flows.max(1));
    let share = u64::try_from(share).unwrap_or(u64::MAX).max(MIN_WINDOW);
    u32::try_from(share).unwrap_or(u32::MAX).min(sockets::NO_CLAMP)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows() {
        let rate = Rate::from_bytes_per_second(1_250_000).unwrap();
        assert_eq!(window(rate, 20_000, 1), 125_000);
        assert_eq!(window(rate, 20_000, 5), 25_000);
        assert_eq!(window(rate, 0, 1000), 2896);
        let fast = Rate::from_bytes_per_second(125_000_000_000).unwrap();
        assert_eq!(window(fast, 300_000, 1), sockets::NO_CLAMP);
    }
}
