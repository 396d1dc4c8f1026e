//! One limit in one network namespace: its two devices, and its filters on every interface.

mod interfaces;

use std::{
    collections::{BTreeMap, HashSet},
    time::Duration,
};

use chadthrottle_core::{
    BackendId, Counters, Direction, Error, Host, Limits, Result,
    error::ErrorKind,
    journal::{Entry, Journal},
};
use tracing::{debug, warn};

use super::{
    ear::Ear,
    marks::{self, Table},
    presence::Names,
    shaper::Shaper,
    shares::Use,
};
use crate::{
    links::{self, Watch},
    moved::{MARK_MASK, Mark, Place},
    netns::{self, Netns},
    rtnetlink::Socket,
    sockets::{DiagSocket, diag::Diag},
};
use interfaces::{Attached, largest_mtu};

/// How the guardian calls a namespace that it keeps for us.
pub(super) fn label(netns: u64) -> String {
    format!("netns-{netns}")
}

/// Where changes are recorded; the rehearsal of the probe records none.
pub(super) type Ledger<'a> = Option<(&'a Journal, &'a Host)>;

/// See the module's documentation.
pub(super) struct Space {
    pub(super) netns: Netns,
    rt: Socket,
    watch: Watch,
    diag: Diag,
    /// One for each device, where packets are known by flows.
    pub(super) ears: Vec<Ear>,
    pub(super) shapers: Vec<Shaper>,
    hooks: BTreeMap<u32, Attached>,
    /// Interfaces that could not be taken in, and were said to be so.
    refused: HashSet<u32>,
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
        netns: &Netns,
        limits: &Limits,
        how: &How,
        ledger: Ledger<'_>,
    ) -> Result<Self> {
        if let Some((journal, _)) = ledger {
            // Also keeps the namespace alive for the guardian.
            journal.hold(&label(netns.id()), netns)?;
        }
        let opened = netns::run_in(netns, || -> Result<_> {
            Ok((links::socket()?, Watch::start()?, Diag::open()?))
        })?;
        let (rt, watch, diag) = opened?;
        let mut space = Self {
            netns: netns.clone(),
            rt,
            watch,
            diag,
            ears: Vec::new(),
            shapers: Vec::new(),
            hooks: BTreeMap::new(),
            refused: HashSet::new(),
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
        let links = links::list(&mut self.rt)?;
        for direction in Direction::BOTH {
            if let Some(limit) = limits.get(direction) {
                let rate = limit.rate.bytes_per_second();
                self.add_shaper(direction, rate, largest_mtu(&links), ledger)?;
            }
        }
        for link in links::charged(&links) {
            self.attach(link, ledger)?;
        }
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
    pub(super) fn listen(&mut self) -> Result<()> {
        if matches!(self.how, How::Marks { .. }) {
            return Ok(());
        }
        let devices: Vec<u32> = self.shapers.iter().map(|shaper| shaper.device.index).collect();
        self.ears = netns::run_in(&self.netns, || {
            devices.into_iter().map(Ear::open).collect::<Result<_>>()
        })??;
        Ok(())
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

    fn add_shaper(
        &mut self,
        direction: Direction,
        rate: u64,
        mtu: u32,
        ledger: Ledger<'_>,
    ) -> Result<()> {
        let journal = ledger.map(|(journal, _)| journal);
        let shaper = Shaper::create(&mut self.rt, &self.netns, direction, rate, mtu, journal)?;
        self.shapers.push(shaper);
        Ok(())
    }

    /// The sockets of the namespace.
    pub(super) fn sockets(&self) -> Result<Vec<DiagSocket>> {
        self.diag.dump()
    }

    /// Whether a socket here carries this mark.
    pub(super) fn has_marked(&self, mark: Mark) -> Result<bool> {
        self.diag.has_marked(mark.value(), MARK_MASK)
    }

    pub(super) fn names(&self) -> Names {
        Names { id: self.netns.id(), cookie: self.diag.netns_cookie() }
    }

    /// What was used of the share of a direction that is limited, as of the last refresh.
    pub(super) fn used(&self, direction: Direction) -> Option<Use> {
        let found = self.shapers.iter().find(|shaper| shaper.direction == direction);
        found.map(Shaper::used)
    }

    /// Reads counters and keeps the rates right. Goes on after an error and returns the first.
    pub(super) fn refresh(&mut self) -> Result<()> {
        let bare = self.hooks.values().any(|attached| !attached.hook.link.ethernet);
        let (received, sent) =
            if bare { links::bare_packets(&mut self.rt)? } else { Default::default() };
        let mut outcome = Ok(());
        for shaper in &mut self.shapers {
            let bare = match shaper.direction {
                Direction::Download => received,
                Direction::Upload => sent,
            };
            outcome = outcome.and(shaper.refresh(&mut self.rt, bare));
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
        shaper.set_rate(&mut self.rt, rate)
    }

    /// One of our devices that somebody deleted, or its qdisc.
    pub(super) fn lost_device(&mut self) -> Option<String> {
        let lost = self.shapers.iter().find(|shaper| shaper.is_lost(&mut self.rt));
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
        for (_, attached) in std::mem::take(&mut self.hooks) {
            outcome = outcome.and(attached.hook.release(&mut self.rt, ledger));
        }
        for shaper in &self.shapers {
            outcome = outcome.and(shaper.open(&mut self.rt));
        }
        outcome
    }

    /// How long what waits of TCP uploads takes to pass.
    pub(super) fn waiting(&mut self) -> Duration {
        let shaper = self.shapers.iter().find(|shaper| shaper.direction == Direction::Upload);
        // Counting says what cannot be read.
        shaper.and_then(|shaper| shaper.waiting(&mut self.rt).ok()).unwrap_or_default()
    }

    /// Lets more wait while TCP connections begin to upload. (Downloads would only send more before
    /// they hear of it.)
    pub(super) fn set_beginning(&mut self, beginning: bool) -> Result<()> {
        let uploads = |shaper: &&mut Shaper| shaper.direction == Direction::Upload;
        match self.shapers.iter_mut().find(uploads) {
            Some(shaper) => shaper.set_beginning(&mut self.rt, beginning),
            None => Ok(()),
        }
    }

    /// Bytes that still wait in our queues.
    pub(super) fn backlog(&mut self) -> u64 {
        self.shapers.iter().filter_map(|shaper| shaper.backlog(&mut self.rt).ok()).sum()
    }

    /// Deletes everything. Goes on after an error and returns the first.
    pub(super) fn clear(mut self, ledger: Ledger<'_>) -> Result<()> {
        let mut outcome = self.forget(ledger);
        for (_, attached) in std::mem::take(&mut self.hooks) {
            outcome = outcome.and(attached.hook.release(&mut self.rt, ledger));
        }
        for shaper in std::mem::take(&mut self.shapers) {
            let journal = ledger.map(|(journal, _)| journal);
            outcome = outcome.and(shaper.delete(&mut self.rt, journal));
        }
        outcome
    }
}
