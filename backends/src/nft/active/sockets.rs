//! Its sockets: found, told of the limit, marked, and given back what they had.

use std::time::Duration;

use chadthrottle_core::{BackendId, Result, journal::Journal};
use tracing::warn;

use super::{Active, Tools, Way};
use crate::moved::{Members, given_away};

/// How long senders may take to learn of a limit: an RTT of an open connection, and more.
const STOPPING: Duration = Duration::from_secs(1);
/// What a sender may have written below itself before it was paced, each of them: TCP small
/// queues allow a millisecond's worth, 1 MB at 8 Gbit/s.
const WRITTEN: u64 = 1_000_000;

impl Active {
    /// Finds the sockets that came and went; frees those that went to others.
    pub(super) fn find_sockets(&mut self, tools: &Tools<'_>) -> Result<()> {
        let processes = self.members.iter().flat_map(Members::processes);
        let found = self.holdings.scan(tools.host, processes)?;
        for (socket, fd) in given_away(tools.host, &found.gone)? {
            let freed =
                self.mark.take_off(&fd).and(self.steering.free(tools.journal, socket, &fd));
            if let Err(error) = freed {
                warn!("{error}");
            }
        }
        found.gone.iter().try_for_each(|socket| self.steering.forget(tools.journal, socket))
    }

    /// Paces senders and sets windows, where packets are queued. (Nothing is gained by it where
    /// they are dropped.)
    pub(super) fn steer(&mut self, tools: &Tools<'_>) -> Result<u64> {
        let sockets = self.holdings.iter();
        self.steering.apply(tools.journal, BackendId::Nft, sockets, &self.limits)
    }

    /// Has the queues keep what senders will send all the same.
    pub(super) fn expect_more(&self, tools: &Tools<'_>) -> Result<()> {
        let Some(queueing) = tools.queueing else { return Ok(()) };
        let senders = self.holdings.iter().filter(|socket| !socket.info.listening).count();
        for (way, lane) in &self.lanes {
            let bytes = match way {
                Way::Down => self.expected,
                Way::Up => WRITTEN * senders.max(1) as u64,
            };
            queueing.shaper.expect(*lane, bytes, STOPPING)?;
        }
        Ok(())
    }

    /// Marks the sockets that were created elsewhere; says what cannot be marked.
    pub(super) fn mark_sockets(
        &mut self,
        tools: &Tools<'_>,
        first: bool,
    ) -> Result<Vec<String>> {
        let (host, mark) = (tools.host, self.mark);
        let warnings =
            self.holdings.mark_strangers(host, &self.members, &self.places, mark, first)?;
        Ok(warnings.into_iter().filter(|text| self.warned.insert(text.clone())).collect())
    }

    /// Gives all sockets back what they had.
    pub(super) fn free_sockets(&mut self, tools: &Tools<'_>) {
        // What came since the last look may have inherited the mark.
        for members in &mut self.members {
            members.look(tools.host);
        }
        if let Err(error) = self.find_sockets(tools) {
            warn!("{error}");
        }
        self.holdings.unmark(self.mark);
        self.free_all(tools.journal);
    }

    /// Gives all sockets their pace and window back.
    pub(super) fn free_all(&mut self, journal: &Journal) {
        for socket in self.holdings.iter() {
            let freed = socket.grab().and_then(|fd| match fd {
                Some(fd) => self.steering.free(journal, socket, &fd),
                None => self.steering.forget(journal, socket),
            });
            if let Err(error) = freed {
                warn!("{error}");
            }
        }
    }
}
