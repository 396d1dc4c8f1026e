//! Telling the target's own connections what passes, so that little is lost in our queues.
//!
//! A sender behind a queue learns of it by loss alone: `mirred` clones what leaves, so that a local
//! one does not feel it, and not every kernel has `fq_codel`. So the connections are steered
//! ([`crate::steer`]): at once when some came, and every [`OFTEN`]. Where that takes long it happens
//! less often: it is followed by a rest of [`PARTS`] times what it took.

use std::time::{Duration, Instant};

use chadthrottle_core::{BackendId, Error, Host, Limits, Result, journal::Journal};
use rustix::io::Errno;
use tracing::{debug, warn};

use crate::{
    moved,
    steer::{Manner, Reach, Steering},
};

/// How often shares are reckoned anew.
const OFTEN: Duration = Duration::from_millis(100);
/// One part steering, so many resting, at most [`SELDOM`].
const PARTS: u32 = 20;
const SELDOM: Duration = Duration::from_secs(1);
/// What senders may have in our queue, which holds 100 ms.
const WAIT: Duration = Duration::from_millis(50);

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct Senders {
    steering: Steering,
    /// Until then we rest, whatever comes.
    rested: Instant,
    next: Instant,
    /// Descriptors cannot be fetched.
    refused: bool,
}

impl Senders {
    pub(super) fn new() -> Self {
        let now = Instant::now();
        Self { steering: Steering::default(), rested: now, next: now, refused: false }
    }

    /// Whether it is time; `news`: connections came.
    pub(super) fn are_due(&self, now: Instant, news: bool) -> bool {
        !self.refused && now >= if news { self.rested } else { self.next }
    }

    /// Makes it time, since the rates changed.
    pub(super) fn hurry(&mut self) {
        (self.rested, self.next) = (Instant::now(), Instant::now());
    }

    /// Tells all connections, when so much of the rate waits. What fails costs accuracy only.
    pub(super) fn tell(
        &mut self,
        journal: &Journal,
        limits: &Limits,
        connections: &[Reach<'_>],
        waiting: Duration,
    ) {
        let start = Instant::now();
        let manner = Manner { backend: BackendId::Tc, wait: WAIT, waiting: Some(waiting) };
        if let Err(error) = self.steering.apply(journal, &manner, connections, limits) {
            self.failed(&error);
        }
        let now = Instant::now();
        self.rested = now + ((now - start) * PARTS).min(SELDOM);
        self.next = self.rested.max(start + OFTEN);
    }

    fn failed(&mut self, error: &Error) {
        let errno = error.errno();
        let refused = [Errno::PERM, Errno::NOSYS];
        self.refused = refused.iter().any(|refused| errno == refused.raw_os_error());
        if self.refused {
            warn!("senders are not told of the limit and lose what is over it: {error}");
        } else {
            debug!("{error}");
        }
    }

    /// Whether connections begin, whose first packets are sent before they are told.
    pub(super) fn begin(&self) -> bool {
        self.steering.has_new()
    }

    /// Frees sockets that went to somebody else, and forgets those that were closed. `gone`: the
    /// target does not have it any more; says whether it is still open.
    pub(super) fn let_go(
        &mut self,
        host: &Host,
        journal: &Journal,
        gone: impl IntoIterator<Item = (u64, bool)>,
    ) -> Result<()> {
        let (open, closed): (Vec<_>, Vec<_>) = gone.into_iter().partition(|(_, open)| *open);
        for (inode, fd) in moved::given_away(host, open.iter().map(|(inode, _)| *inode))? {
            self.steering.free(journal, inode, &fd)?;
        }
        let mut rest = open.into_iter().chain(closed);
        rest.try_for_each(|(inode, _)| self.steering.forget(journal, inode))
    }

    /// For who finds out by himself which connections went.
    pub(super) fn steering(&mut self) -> &mut Steering {
        &mut self.steering
    }

    /// The sockets that were told.
    pub(super) fn inodes(&self) -> impl Iterator<Item = u64> {
        self.steering.inodes()
    }

    /// Gives all of them back what they had.
    pub(super) fn free(&mut self, journal: &Journal, connections: &[Reach<'_>]) -> Result<()> {
        self.steering.free_all(journal, connections)
    }
}
