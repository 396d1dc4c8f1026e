//! Keeping senders from sending more than a limit lets pass, from user space (`pidfd_getfd`).
//!
//! What is over a limit waits or is lost behind it. A sender that knows does not send it:
//!
//! - uploads get a pace (`SO_MAX_PACING_RATE`), which also makes TCP keep little of what it has
//!   written below itself (TCP small queues hold a millisecond's worth at the pace);
//! - downloads get a window (`TCP_WINDOW_CLAMP`) of their share x (RTT + what may wait). It never
//!   closes what a sender was allowed to send before.
//!
//! Neither enforces anything. What a connection's share is follows from what all of them moved
//! since they were looked at last (max-min fairness), so it is as right as looks are frequent. Kernel 5.6
//! (`pidfd_getfd`), `CAP_SYS_PTRACE`. MPTCP sockets take neither.

mod share;
mod standing;
mod steered;

use std::{
    collections::HashMap,
    net::SocketAddr,
    os::fd::OwnedFd,
    time::{Duration, Instant},
};

use chadthrottle_core::{
    BackendId, Direction, Limits, Result, journal::Journal, process::Process,
};
use rustix::net::{getpeername, getsockname};

use self::{
    share::{ALL, Demands},
    standing::Standing,
    steered::Steered,
};
use crate::sockets;

/// A connection received a short time ago when that was less than this, ms.
const LATELY_MS: u32 = 1000;
/// How long a connection counts as new.
const NEW: Duration = Duration::from_secs(1);

/// Where a TCP connection can be fetched.
#[derive(Debug, Clone, Copy)]
pub struct Reach<'a> {
    /// Who holds it.
    pub holder: &'a Process,
    /// Under which number there.
    pub number: i32,
    /// Its number in sockfs.
    pub inode: u64,
    /// `SO_COOKIE`.
    pub cookie: u64,
}

impl Reach<'_> {
    fn grab(&self) -> Result<Option<OwnedFd>> {
        sockets::grab(self.holder, self.number, self.inode)
    }
}

/// How senders are told.
#[derive(Debug, Clone, Copy)]
pub struct Manner {
    /// Who tells them.
    pub backend: BackendId,
    /// What may wait behind a limit beyond the RTT: less than is dropped there.
    pub wait: Duration,
    /// How long what waits of uploads takes to pass. `None`: that is not known, and each may send
    /// at the whole rate.
    pub waiting: Option<Duration>,
}

/// The sockets of one limit that were steered, by inode.
#[derive(Debug, Default)]
pub struct Steering {
    known: HashMap<u64, Steered>,
    /// The connections that were there before the limit have been seen.
    begun: bool,
    standing: Standing,
}

impl Steering {
    /// Paces these connections and sets their windows. Returns how much their peers may send at
    /// most that was allowed before, in bytes.
    ///
    /// An application's own pace is written to the journal first, and never raised.
    pub fn apply(
        &mut self,
        journal: &Journal,
        manner: &Manner,
        connections: &[Reach<'_>],
        limits: &Limits,
    ) -> Result<u64> {
        let (now, old) = (Instant::now(), !std::mem::replace(&mut self.begun, true));
        let mut present = Vec::with_capacity(connections.len());
        // Descriptors are closed at once: a process may have more than we may open.
        for connection in connections {
            let Some(fd) = connection.grab()? else { continue };
            // Loopback is never limited.
            if stays_here(&fd) {
                continue;
            }
            let Ok(state) = sockets::tcp_state(&fd) else { continue };
            let steered = self
                .known
                .entry(connection.inode)
                .or_insert_with(|| Steered::new(now, &state, old));
            steered.look(now, &state);
            present.push((connection, state));
        }
        let wanted = |direction| {
            let all = present.iter().map(|(connection, _)| &self.known[&connection.inode]);
            Demands::new(all.map(|steered| steered.wants(direction)))
        };
        let demands = [wanted(Direction::Download), wanted(Direction::Upload)];
        let standing = manner.waiting.zip(limits.upload).map(|(waiting, limit)| {
            let share =
                demands[index(Direction::Upload)].share(limit.rate.bytes_per_second(), ALL);
            let least = self.standing.least(now, waiting, share);
            // At first more waits than ever after.
            if self.has_new() { waiting } else { least }
        });
        let mut allowed = 0;
        for (connection, state) in present {
            let Some(steered) = self.known.get_mut(&connection.inode) else { continue };
            if state.since_received_ms < LATELY_MS {
                allowed += u64::from(state.window);
            }
            let wanted = steered.wanted(manner.wait, limits, &demands, standing, &state);
            if steered.has(wanted) {
                continue;
            }
            if let Some(fd) = connection.grab()? {
                steered.tell(journal, manner.backend, connection.cookie, &fd, wanted)?;
            }
        }
        Ok(allowed)
    }

    /// Whether connections came lately, whose first packets are sent before they are told.
    #[must_use]
    pub fn has_new(&self) -> bool {
        let now = Instant::now();
        self.known.values().any(|steered| steered.is_new(now))
    }

    /// The sockets that were steered.
    pub fn inodes(&self) -> impl Iterator<Item = u64> {
        self.known.keys().copied()
    }

    /// Nobody holds this socket any more.
    pub fn forget(&mut self, journal: &Journal, inode: u64) -> Result<()> {
        match self.known.remove(&inode).and_then(Steered::into_entry) {
            Some(entry) => journal.done(entry),
            None => Ok(()),
        }
    }

    /// Gives a socket its own pace and window back.
    pub fn free(&mut self, journal: &Journal, inode: u64, fd: &OwnedFd) -> Result<()> {
        if let Some(steered) = self.known.get(&inode)
            && steered.is_changed()
        {
            sockets::restore(fd, steered.own_pace())?;
        }
        self.forget(journal, inode)
    }

    /// Gives those of these that were told something back what they had, and forgets all. Goes on
    /// after an error and returns the first; the record of what failed stays in the journal.
    pub fn free_all(&mut self, journal: &Journal, connections: &[Reach<'_>]) -> Result<()> {
        let mut outcome = Ok(());
        for connection in connections {
            if !self.known.get(&connection.inode).is_some_and(Steered::is_changed) {
                continue;
            }
            let freed = connection.grab().and_then(|fd| match fd {
                Some(fd) => self.free(journal, connection.inode, &fd),
                None => Ok(()),
            });
            if freed.is_err() {
                self.known.remove(&connection.inode);
            }
            outcome = outcome.and(freed);
        }
        for inode in self.inodes().collect::<Vec<_>>() {
            outcome = outcome.and(self.forget(journal, inode));
        }
        outcome
    }
}

fn index(direction: Direction) -> usize {
    match direction {
        Direction::Download => 0,
        Direction::Upload => 1,
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
