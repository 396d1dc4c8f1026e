//! Changing a limit in place, and ending it.

use std::{
    thread,
    time::{Duration, Instant},
};

use chadthrottle_core::{Counters, Direction, Limits, Result};
use tracing::{debug, warn};

use super::{Active, Ledger};
use crate::tc::{shares, space::Space};

/// How long what waits in our queues may take to leave them when the limit ends.
const DRAIN: Duration = Duration::from_millis(200);
const PAUSE: Duration = Duration::from_millis(2);

impl Active {
    /// Changes the rates in place. A direction that is limited from now on, or not any more, gets
    /// new devices before the old ones go.
    pub(in crate::tc) fn update(&mut self, limits: &Limits, ledger: Ledger<'_>) -> Result<()> {
        let same = Direction::BOTH.into_iter().all(|direction| {
            limits.get(direction).is_some() == self.limits.get(direction).is_some()
        });
        self.senders.hurry();
        if same {
            self.limits = *limits;
            return self.share();
        }
        // A direction that is free from now on has nothing to tell.
        self.who.free(&mut self.senders, ledger)?;
        self.count()?;
        self.limits = *limits;
        let all: Vec<u64> = self.spaces.keys().copied().collect();
        all.into_iter().try_for_each(|netns| self.renew(netns, ledger))
    }

    /// Makes new devices and filters in a namespace; then the old ones go.
    fn renew(&mut self, netns: u64, ledger: Ledger<'_>) -> Result<()> {
        let Some(old) = self.spaces.get(&netns) else { return Ok(()) };
        let how = self.who.how();
        let mut new = Space::create(&self.sites, &old.netns, &self.limits, &how, Some(ledger))?;
        if let Err(error) = new.listen() {
            // Said when the limit began.
            debug!("{error}");
        }
        let found = self.who.find(&mut new, ledger, &mut Vec::new());
        let matched = found.and_then(|flows| flows.map_or(Ok(false), |flows| new.sync(&flows)));
        if let Err(error) = matched {
            if let Err(second) = new.clear(Some(ledger)) {
                warn!("{second}");
            }
            return Err(error);
        }
        let Some(old) = self.spaces.insert(netns, new) else { return Ok(()) };
        self.before = shares::sum(self.before, old.counters());
        finish(vec![old], ledger)
    }

    /// Replaces devices that somebody deleted: our filters would lead into the void.
    pub(super) fn replace_lost(
        &mut self,
        ledger: Ledger<'_>,
        said: &mut Vec<String>,
    ) -> Result<()> {
        let spaces = self.spaces.iter_mut();
        let lost = spaces.filter_map(|(netns, space)| Some((*netns, space.lost_device()?)));
        for (netns, name) in lost.collect::<Vec<_>>() {
            self.renew(netns, ledger)?;
            said.push(format!(
                "somebody deleted our device {name} or its qdisc; another one is in its place"
            ));
        }
        Ok(())
    }

    /// Lets everything pass from now on; what is ours stays until [`Self::release`].
    pub(in crate::tc) fn open(&mut self, ledger: Ledger<'_>) -> Result<()> {
        if let Err(error) = self.count() {
            debug!("{error}");
        }
        let mut outcome = Ok(());
        for space in self.spaces.values_mut() {
            outcome = outcome.and(space.open(Some(ledger)));
        }
        outcome.and(self.who.free(&mut self.senders, ledger))
    }

    /// Lets everything pass, then deletes all. Goes on after an error; returns the first, beside
    /// what passed in all.
    pub(in crate::tc) fn release(mut self, ledger: Ledger<'_>) -> (Counters, Result<()>) {
        if let Err(error) = self.count() {
            debug!("{error}");
        }
        let counters = self.counters();
        let spaces = std::mem::take(&mut self.spaces).into_values().collect();
        let finished = finish(spaces, ledger);
        (counters, finished.and(self.who.leave(&mut self.senders, ledger)))
    }
}

/// Ends the limit in these namespaces: filters first, then what waits may go, then the devices.
pub(super) fn finish(mut spaces: Vec<Space>, ledger: Ledger<'_>) -> Result<()> {
    let mut outcome = Ok(());
    for space in &mut spaces {
        outcome = outcome.and(space.open(Some(ledger)));
    }
    let deadline = Instant::now() + DRAIN;
    while spaces.iter_mut().any(|space| space.backlog() > 0) && Instant::now() < deadline {
        thread::sleep(PAUSE);
    }
    for space in spaces {
        outcome = outcome.and(space.clear(Some(ledger)));
    }
    outcome
}
