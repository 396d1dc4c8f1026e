//! One limit in one network namespace: its two devices, and what leads to them.

use std::{collections::HashSet, sync::Arc, time::Duration};

use chadthrottle_core::{
    BackendId, Counters, Direction, Error, Limits, Result, error::ErrorKind, journal::Entry,
};
use tracing::{debug, warn};

pub(super) use super::site::Ledger;
use super::{
    flows::Flow,
    marks::{self, Table},
    presence::Names,
    shaper::Shaper,
    shares::Use,
    site::{By, Lease, Shared, Sites, Tenant},
};
use crate::{
    moved::{MARK_MASK, Mark, Place},
    netns::{self, Netns},
    sockets::DiagSocket,
};

/// How the guardian calls a namespace that it keeps for us.
pub(super) fn label(netns: u64) -> String {
    format!("netns-{netns}")
}

/// See the module's documentation.
pub(super) struct Space {
    pub(super) netns: Netns,
    /// Shared with the other limits there.
    site: Shared,
    tenant: Option<Tenant>,
    pub(super) shapers: Vec<Shaper>,
    how: How,
    table: Option<Table>,
    /// The line in the journal for what the table leaves on connections.
    tracked: Option<Entry>,
    /// How many looks in a row found nothing of the target here.
    pub(super) deserted: u32,
}

/// How packets are known to be the target's.
#[derive(Debug, Clone)]
pub(super) enum How {
    Flows,
    Marks { mark: Mark, places: Vec<Place> },
}

impl Space {
    /// Makes everything; no packet is matched yet. When it fails nothing is left.
    pub(super) fn create(
        sites: &Sites,
        netns: &Netns,
        limits: &Limits,
        how: &How,
        ledger: Ledger<'_>,
    ) -> Result<Self> {
        if let Some((journal, _)) = ledger {
            // Also keeps the namespace alive for the guardian.
            journal.hold(&label(netns.id()), netns)?;
        }
        let by = match how {
            How::Flows => By::Flows,
            How::Marks { mark, .. } => By::Marks(mark.value() & marks::INSTANCE),
        };
        let site = sites.at(netns, by)?;
        // One descriptor for all limits there.
        let netns = site.lock().netns.clone();
        let mut space = Self {
            netns,
            site,
            tenant: None,
            shapers: Vec::new(),
            how: how.clone(),
            table: None,
            tracked: None,
            deserted: 0,
        };
        match space.furnish(limits, ledger) {
            Ok(()) => Ok(space),
            Err(error) => {
                if let Err(second) = space.clear(ledger) {
                    warn!("{second}");
                }
                Err(error)
            }
        }
    }

    fn furnish(&mut self, limits: &Limits, ledger: Ledger<'_>) -> Result<()> {
        let mut site = self.site.lock();
        let (journal, mtu) = (ledger.map(|(journal, _)| journal), site.mtu);
        for direction in Direction::BOTH {
            if let Some(limit) = limits.get(direction) {
                let rate = limit.rate.bytes_per_second();
                let rt = &mut site.rt;
                let shaper = Shaper::create(rt, &self.netns, direction, rate, mtu, journal)?;
                self.shapers.push(shaper);
            }
        }
        let devices = self.shapers.iter().map(|shaper| (shaper.direction, shaper.device.index));
        let mark = match self.how {
            How::Flows => None,
            How::Marks { mark, .. } => Some(mark),
        };
        let lease = Lease { devices: devices.collect(), mark };
        self.tenant = Some(site.enter(lease, ledger)?);
        drop(site);
        if let How::Marks { mark, places } = self.how.clone() {
            if let Some((journal, _)) = ledger {
                let undo = marks::tracked(&self.netns, mark);
                self.tracked = Some(journal.record(Some(BackendId::Tc), &undo)?);
            }
            self.table = Some(Table::open(&self.netns, mark, &places)?);
        }
        Ok(())
    }

    /// Hears of new connections from now on, where they are known by their flows.
    pub(super) fn listen(&self) -> Result<()> {
        self.site.lock().listen()
    }

    /// Takes in the interfaces that came, forgets those that went; says what could not be done.
    pub(super) fn follow_links(&mut self, ledger: Ledger<'_>) -> Result<Vec<Error>> {
        let mut site = self.site.lock();
        let errors = site.follow_links(ledger)?;
        let mtu = site.mtu;
        for shaper in &mut self.shapers {
            shaper.set_mtu(&mut site.rt, mtu)?;
        }
        Ok(errors)
    }

    /// Makes the filters match these flows; says whether some are new.
    pub(super) fn sync(&self, flows: &HashSet<Flow>) -> Result<bool> {
        match self.tenant {
            Some(tenant) => self.site.lock().sync(tenant, flows),
            None => Ok(false),
        }
    }

    /// Plants filters anew that somebody took away; says on which interfaces.
    pub(super) fn repair(&self, ledger: Ledger<'_>) -> Result<Vec<String>> {
        self.site.lock().repair(ledger)
    }

    /// Reads the filters back right after they were made.
    pub(super) fn verify(&self) -> Result<()> {
        self.site.lock().verify()
    }

    /// Interfaces where filters of others are asked before ours.
    pub(super) fn behind_others(&self) -> Vec<(String, Direction)> {
        let mut behind = self.site.lock().behind_others();
        let limited =
            |direction| self.shapers.iter().any(|shaper| shaper.direction == direction);
        behind.retain(|(_, direction)| limited(*direction));
        behind
    }

    /// Lets packets pass freely.
    fn leave(&mut self, ledger: Ledger<'_>) -> Result<()> {
        match self.tenant.take() {
            Some(tenant) => self.site.lock().leave(tenant, ledger),
            None => Ok(()),
        }
    }

    /// Matches sockets of these places from now on.
    pub(super) fn set_places(&mut self, places: &[Place]) -> Result<()> {
        match &mut self.table {
            Some(table) => table.set_places(places),
            None => Ok(()),
        }
    }

    /// Marks nothing any more, and takes the marks off connections.
    fn forget(&mut self, ledger: Ledger<'_>) -> Result<()> {
        let How::Marks { mark, .. } = self.how else { return Ok(()) };
        self.table = None;
        match netns::run_in(&self.netns, || marks::clear(mark))? {
            Ok(count) => debug!("the mark is off {count} connections"),
            // Without nf_conntrack_netlink they keep it until they time out.
            Err(error) => debug!("connections keep their mark: {error}"),
        }
        match (ledger, self.tracked.take()) {
            (Some((journal, _)), Some(entry)) => journal.done(entry),
            _ => Ok(()),
        }
    }

    /// The sockets of the namespace, listed once a look for all limits there.
    pub(super) fn sockets(&self) -> Result<Arc<Vec<DiagSocket>>> {
        self.site.lock().sockets()
    }

    /// The same, as of now.
    pub(super) fn sockets_now(&self) -> Result<Vec<DiagSocket>> {
        self.site.lock().diag.dump()
    }

    /// Whether a socket here carries this mark.
    pub(super) fn has_marked(&self, mark: Mark) -> Result<bool> {
        self.site.lock().diag.has_marked(mark.value(), MARK_MASK)
    }

    pub(super) fn names(&self) -> Names {
        Names { id: self.netns.id(), cookie: self.site.lock().diag.netns_cookie() }
    }

    /// What was used of the share of a direction that is limited, as of the last refresh.
    pub(super) fn used(&self, direction: Direction) -> Option<Use> {
        let found = self.shapers.iter().find(|shaper| shaper.direction == direction);
        found.map(Shaper::used)
    }

    /// Reads counters and keeps the rates right. Goes on after an error and returns the first.
    pub(super) fn refresh(&mut self) -> Result<()> {
        let mut site = self.site.lock();
        let (received, sent) = site.bare_packets()?;
        let mut outcome = Ok(());
        for shaper in &mut self.shapers {
            let bare = match shaper.direction {
                Direction::Download => received,
                Direction::Upload => sent,
            };
            outcome = outcome.and(shaper.refresh(&mut site.rt, bare));
        }
        outcome
    }

    /// Changes the rate of a direction in place.
    pub(super) fn set_rate(&mut self, direction: Direction, rate: u64) -> Result<()> {
        let found = self.shapers.iter_mut().find(|shaper| shaper.direction == direction);
        let shaper = found.ok_or_else(|| {
            Error::new(ErrorKind::Failed, "change the rate of", direction)
                .meaning("This direction is not limited.")
        })?;
        shaper.set_rate(&mut self.site.lock().rt, rate)
    }

    /// One of our devices that somebody deleted, or its qdisc.
    pub(super) fn lost_device(&self) -> Option<String> {
        let rt = &mut self.site.lock().rt;
        let lost = self.shapers.iter().find(|shaper| shaper.is_lost(rt));
        lost.map(|shaper| shaper.device.name.clone())
    }

    /// As of the last refresh.
    pub(super) fn counters(&self) -> Counters {
        let mut counters = Counters::default();
        for shaper in &self.shapers {
            match shaper.direction {
                Direction::Download => counters.download = shaper.count(),
                Direction::Upload => counters.upload = shaper.count(),
            }
        }
        counters
    }

    /// Lets packets pass freely from now on, and what waits go at once.
    pub(super) fn open(&mut self, ledger: Ledger<'_>) -> Result<()> {
        let mut outcome = self.forget(ledger);
        outcome = outcome.and(self.leave(ledger));
        for shaper in &self.shapers {
            outcome = outcome.and(shaper.open(&mut self.site.lock().rt));
        }
        outcome
    }

    /// How long what waits of TCP uploads takes to pass.
    pub(super) fn waiting(&mut self) -> Duration {
        let shaper = self.shapers.iter().find(|shaper| shaper.direction == Direction::Upload);
        // Counting says what cannot be read.
        shaper
            .and_then(|shaper| shaper.waiting(&mut self.site.lock().rt).ok())
            .unwrap_or_default()
    }

    /// Lets more wait while TCP connections begin to upload. (Downloads would only send more before
    /// they hear of it.)
    pub(super) fn set_beginning(&mut self, beginning: bool) -> Result<()> {
        let uploads = |shaper: &&mut Shaper| shaper.direction == Direction::Upload;
        match self.shapers.iter_mut().find(uploads) {
            Some(shaper) => shaper.set_beginning(&mut self.site.lock().rt, beginning),
            None => Ok(()),
        }
    }

    /// Bytes that still wait in our queues.
    pub(super) fn backlog(&mut self) -> u64 {
        let rt = &mut self.site.lock().rt;
        self.shapers.iter().filter_map(|shaper| shaper.backlog(rt).ok()).sum()
    }

    /// Deletes everything. Goes on after an error and returns the first.
    pub(super) fn clear(mut self, ledger: Ledger<'_>) -> Result<()> {
        let mut outcome = self.forget(ledger);
        outcome = outcome.and(self.leave(ledger));
        for shaper in std::mem::take(&mut self.shapers) {
            let journal = ledger.map(|(journal, _)| journal);
            outcome = outcome.and(shaper.delete(&mut self.site.lock().rt, journal));
        }
        outcome
    }
}
