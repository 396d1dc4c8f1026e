//! Its sockets: found, told of the limit, marked, and given back what they had.

use std::time::Duration;

use chadthrottle_core::{BackendId, Result, journal::Journal};
use tracing::warn;

use super::{Active, Tools, Way};
use crate::{moved::Members, steer::Manner};

/// How long senders may take to learn of a limit: an RTT of an open connection, and more.
const STOPPING: Duration = Duration::from_secs(1);
/// What a sender may have written below itself before it was paced, each of them: TCP small
/// queues allow a millisecond's worth, 1 MB at 8 Gbit/s.
const WRITTEN: u64 = 1_000_000;
/// Once a second is too seldom for paces that are shares.
const MANNER: Manner =
    Manner { backend: BackendId::Nft, wait: Duration::from_millis(80), waiting: None };

impl Active {
    /// Finds the sockets that came and went; frees those that went to others.
    pub(super) fn find_sockets(&mut self, tools: &Tools<'_>) -> Result<()> {
        let Self { holdings, members, mark, steering, .. } = self;
        let processes = members.iter().flat_map(Members::processes);
        holdings.follow(tools.host, tools.journal, processes, *mark, steering)
    }

    /// Paces senders and sets windows, where packets are queued. (Nothing is gained by it where
    /// they are dropped.)
    pub(super) fn steer(&mut self, tools: &Tools<'_>) -> Result<u64> {
        let connections = self.holdings.connections();
        self.steering.apply(tools.journal, &MANNER, &connections, &self.limits)
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
    pub(super) fn free_sockets(&mut self, tools: &Tools<'_>) -> Result<()> {
        // What came since the last look may have inherited the mark.
        for members in &mut self.members {
            members.look(tools.host);
        }
        if let Err(error) = self.find_sockets(tools) {
            warn!("{error}");
        }
        self.holdings.unmark(self.mark);
        self.free_all(tools.journal)
    }

    /// Gives all sockets their pace and window back.
    pub(super) fn free_all(&mut self, journal: &Journal) -> Result<()> {
        self.steering.free_all(journal, &self.holdings.connections())
    }
}
