//! Entering and leaving namespaces, and dividing the rate among them.

use std::collections::HashSet;

use chadthrottle_core::{Direction, Error, Notice, Result};
use tracing::debug;

use super::{Active, Ledger, change::finish};
use crate::{
    netns::Netns,
    tc::{shares, space::Space},
};

/// After so many looks in a row, one a second, that found nothing of the targets in a namespace they have
/// left it: who comes back sooner is limited from his first packet on.
const LEFT: u32 = 5;

impl Active {
    /// Limits the targets in those of these namespaces that they have entered since.
    pub(super) fn enter(
        &mut self,
        here: &[Netns],
        ledger: Ledger<'_>,
        notices: &mut Vec<Notice>,
    ) -> Result<()> {
        for netns in here {
            if self.spaces.contains_key(&netns.id()) {
                continue;
            }
            debug!("limiting in {netns}");
            let how = self.who.how();
            let space = Space::create(&self.sites, netns, &self.limits, &how, Some(ledger))?;
            if let Err(error) = space.listen() {
                notices.push(deaf(&error));
            }
            for (name, direction) in space.behind_others() {
                notices.push(Notice::Warning(format!(
                    "others have filters for the {direction} on {name}, which are asked before \
                     ours: what they accept for good is not limited"
                )));
            }
            self.spaces.insert(netns.id(), space);
            self.share()?;
        }
        Ok(())
    }

    /// Ends the limit in namespaces that the targets have left: their processes are `here`.
    pub(super) fn leave(&mut self, here: &[Netns], ledger: Ledger<'_>) -> Result<()> {
        let mut left = Vec::new();
        for (id, space) in &mut self.spaces {
            let is_in = here.iter().any(|netns| netns.id() == *id)
                || self.who.has_sockets_in(space, ledger.1)?;
            space.deserted = if is_in { 0 } else { space.deserted + 1 };
            if space.deserted >= LEFT {
                left.push(*id);
            }
        }
        for id in left {
            if self.may_be_in(id, ledger)? {
                self.spaces.entry(id).and_modify(|space| space.deserted = 0);
                continue;
            }
            let Some(mut space) = self.spaces.remove(&id) else { continue };
            debug!("nothing of the target is in {} any more", space.netns);
            let refreshed = space.refresh();
            self.before = shares::sum(self.before, space.counters());
            refreshed.and(finish(vec![space], ledger)).and(self.share())?;
        }
        Ok(())
    }

    /// The second look at a namespace that seems to be left.
    fn may_be_in(&self, id: u64, ledger: Ledger<'_>) -> Result<bool> {
        let Some(space) = self.spaces.get(&id) else { return Ok(false) };
        let mut elsewhere = HashSet::new();
        for (_, other) in self.spaces.iter().filter(|(other, _)| **other != id) {
            elsewhere.extend(other.sockets_now()?.iter().map(|socket| socket.inode));
        }
        // What came meanwhile is listed by now.
        Ok(self.who.may_be_in(space.names(), ledger.1, &elsewhere)
            || self.who.has_sockets_in(space, ledger.1)?)
    }

    /// Reads the counters, and divides the rates among the namespaces by what they use. Goes on
    /// after an error and returns the first.
    pub(super) fn count(&mut self) -> Result<()> {
        let mut refreshed = Ok(());
        for space in self.spaces.values_mut() {
            refreshed = refreshed.and(space.refresh());
        }
        self.share()?;
        refreshed
    }

    /// A device shapes one namespace only: the limit is divided, so that it holds over all.
    pub(super) fn share(&mut self) -> Result<()> {
        for direction in Direction::BOTH {
            let Some(limit) = self.limits.get(direction) else { continue };
            let rate = limit.rate.bytes_per_second();
            // After an update that failed half way some do not have it.
            let (mut spaces, uses): (Vec<_>, Vec<_>) = self
                .spaces
                .values_mut()
                .filter_map(|space| space.used(direction).map(|used| (space, used)))
                .unzip();
            for (space, share) in spaces.iter_mut().zip(shares::divide(rate, &uses)) {
                space.set_rate(direction, share)?;
            }
        }
        Ok(())
    }
}

fn deaf(error: &Error) -> Notice {
    Notice::Warning(format!(
        "new connections may be free until sockets are listed the next time, for up to 40 ms: {error}"
    ))
}
