//! A network namespace as all limits of this instance share it: its interfaces, the filters there, and
//! what hears of new connections.
//!
//! What a packet of nobody's passes is there once, however many limits there are. A limit is a
//! [`Tenant`]: its filters come and go without touching those of others.

mod interfaces;

use std::{
    collections::{BTreeMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::Instant,
};

use chadthrottle_core::{Direction, Host, Result, journal::Journal};
use tracing::debug;

use super::ear::Ear;
use crate::{
    links::{self, Link, Watch},
    moved::Mark,
    netns::{self, Netns},
    rtnetlink::Socket,
    sockets::{DiagSocket, diag::Diag},
};
use interfaces::{Attached, largest_mtu};

/// Where changes are recorded; the rehearsal of the probe records none.
pub(super) type Ledger<'a> = Option<(&'a Journal, &'a Host)>;

/// The part of a limit in a site.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Tenant(u32);

impl Tenant {
    /// The only one of a rehearsal.
    pub(super) const REHEARSAL: Self = Self(0);
}

/// What a tenant's packets are redirected to, and its mark where they are known by marks.
#[derive(Debug)]
pub(super) struct Lease {
    pub(super) devices: Vec<(Direction, u32)>,
    pub(super) mark: Option<Mark>,
}

impl Lease {
    fn device(&self, direction: Direction) -> Option<u32> {
        self.devices.iter().find(|(other, _)| *other == direction).map(|(_, device)| *device)
    }
}

/// The sites in which something is limited. Clones are the same.
#[derive(Debug, Clone, Default)]
pub(super) struct Sites(Arc<Mutex<Known>>);

/// By namespace; those that nothing is limited in any more are gone.
type Known = BTreeMap<(u64, By), Weak<Mutex<Site>>>;

/// How packets are known: of an instance's limits some may be by marks, others by flows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum By {
    Flows,
    /// With the bits that all marks of this instance have.
    Marks(u32),
}

impl Sites {
    /// The one of this namespace, made when it is not there.
    pub(super) fn at(&self, netns: &Netns, by: By) -> Result<Shared> {
        let mut sites = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        sites.retain(|_, site| site.strong_count() > 0);
        if let Some(site) = sites.get(&(netns.id(), by)).and_then(Weak::upgrade) {
            return Ok(Shared(site));
        }
        let site = Arc::new(Mutex::new(Site::open(netns, by)?));
        sites.insert((netns.id(), by), Arc::downgrade(&site));
        Ok(Shared(site))
    }

    /// Begins a look: sockets are listed anew, once for all limits of a site.
    pub(super) fn look_again(&self) {
        let sites = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for site in sites.values().filter_map(Weak::upgrade).map(Shared) {
            site.lock().sockets = None;
        }
    }

    /// What hears of new connections.
    pub(super) fn ears(&self) -> Vec<Ear> {
        let sites = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let sites = sites.values().filter_map(Weak::upgrade).map(Shared);
        sites.flat_map(|site| site.lock().ears.clone()).map(|(_, ear)| ear).collect()
    }
}

/// One of all limits there; it ends with the last of these.
#[derive(Debug)]
pub(super) struct Shared(Arc<Mutex<Site>>);

impl Shared {
    pub(super) fn lock(&self) -> MutexGuard<'_, Site> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct Site {
    pub(super) netns: Netns,
    pub(super) rt: Socket,
    watch: Watch,
    pub(super) diag: Diag,
    /// As listed in this look.
    sockets: Option<Arc<Vec<DiagSocket>>>,
    by: By,
    /// The largest of the interfaces that are charged.
    pub(super) mtu: u32,
    hooks: BTreeMap<u32, Attached>,
    /// Interfaces that could not be taken in, and were said to be so.
    refused: HashSet<u32>,
    tenants: BTreeMap<Tenant, Lease>,
    /// By direction: whose device new connections are mirrored to.
    listeners: BTreeMap<Direction, Tenant>,
    ears: Vec<(Direction, Ear)>,
    /// When the filters were read back last.
    checked: Instant,
    next: u32,
}

impl Site {
    fn open(netns: &Netns, by: By) -> Result<Self> {
        let opened = netns::run_in(netns, || -> Result<_> {
            Ok((links::socket()?, Watch::start()?, Diag::open()?))
        })?;
        let (mut rt, watch, diag) = opened?;
        let mtu = largest_mtu(&links::list(&mut rt)?);
        Ok(Self {
            netns: netns.clone(),
            rt,
            watch,
            diag,
            sockets: None,
            by,
            mtu,
            hooks: BTreeMap::new(),
            refused: HashSet::new(),
            tenants: BTreeMap::new(),
            listeners: BTreeMap::new(),
            ears: Vec::new(),
            checked: Instant::now(),
            next: 0,
        })
    }

    /// Takes in a limit; of flows none is matched yet. When it fails nothing of it is left.
    pub(super) fn enter(&mut self, lease: Lease, ledger: Ledger<'_>) -> Result<Tenant> {
        let tenant = Tenant(self.next);
        self.next += 1;
        for (direction, _) in &lease.devices {
            self.listeners.entry(*direction).or_insert(tenant);
        }
        self.tenants.insert(tenant, lease);
        match self.settle(tenant, ledger) {
            Ok(()) => Ok(tenant),
            Err(error) => {
                if let Err(second) = self.leave(tenant, ledger) {
                    tracing::warn!("{second}");
                }
                Err(error)
            }
        }
    }

    fn settle(&mut self, tenant: Tenant, ledger: Ledger<'_>) -> Result<()> {
        let known: Vec<u32> = self.hooks.keys().copied().collect();
        for index in &known {
            self.admit(*index, tenant)?;
        }
        // What refused others is asked again: this one must hear of it.
        let refused = std::mem::take(&mut self.refused);
        if self.tenants.len() > 1 && refused.is_empty() {
            return Ok(());
        }
        let links = links::list(&mut self.rt)?;
        let mut new = links::charged(&links).filter(|link| !known.contains(&link.index));
        new.try_for_each(|link| self.attach(link, ledger))
    }

    /// Hears of new connections from now on, where they are known by their flows.
    pub(super) fn listen(&mut self) -> Result<()> {
        if self.by != By::Flows {
            return Ok(());
        }
        for (direction, tenant) in self.listeners.clone() {
            let device = self.tenants.get(&tenant).and_then(|lease| lease.device(direction));
            let Some(device) = device else { continue };
            if self.ears.iter().all(|(other, _)| *other != direction) {
                let ear = netns::run_in(&self.netns, || Ear::open(device))??;
                self.ears.push((direction, ear));
            }
        }
        Ok(())
    }

    /// Deletes the filters of a limit, and with the last one all. Goes on after an error and returns
    /// the first. One that is gone already is no error.
    pub(super) fn leave(&mut self, tenant: Tenant, ledger: Ledger<'_>) -> Result<()> {
        if self.tenants.remove(&tenant).is_none() {
            return Ok(());
        }
        let mut outcome = Ok(());
        if self.tenants.is_empty() {
            (self.listeners, self.ears) = Default::default();
            for (_, attached) in std::mem::take(&mut self.hooks) {
                outcome = outcome.and(attached.hook.release(&mut self.rt, ledger));
            }
            return outcome;
        }
        for direction in Direction::BOTH {
            outcome = outcome.and(self.hand_over(tenant, direction));
        }
        for attached in self.hooks.values_mut() {
            outcome = outcome.and(attached.dismiss(&mut self.rt, tenant));
        }
        outcome
    }

    /// Lets another limit's device hear when that of this one will go, and removes what nobody needs.
    fn hand_over(&mut self, tenant: Tenant, direction: Direction) -> Result<()> {
        if self.listeners.get(&direction) != Some(&tenant) {
            return Ok(());
        }
        let heir = self
            .tenants
            .iter()
            .find_map(|(tenant, lease)| Some((*tenant, lease.device(direction)?)));
        // Until the end of this it hears.
        let old: Vec<_> = self.ears.extract_if(.., |(other, _)| *other == direction).collect();
        let Some((heir, device)) = heir else {
            self.listeners.remove(&direction);
            let mut attached = self.hooks.values_mut();
            return attached.try_for_each(|attached| attached.clear(&mut self.rt, direction));
        };
        self.listeners.insert(direction, heir);
        if !old.is_empty()
            && let Err(error) = self.listen()
        {
            debug!("{error}");
        }
        for attached in self.hooks.values_mut() {
            // Where somebody deleted them they will be planted anew.
            if let Err(error) = attached.hear(&mut self.rt, direction, device) {
                debug!("{error}");
            }
        }
        Ok(())
    }

    /// The sockets of the namespace, as of this look.
    pub(super) fn sockets(&mut self) -> Result<Arc<Vec<DiagSocket>>> {
        if self.sockets.is_none() {
            self.sockets = Some(Arc::new(self.diag.dump()?));
        }
        Ok(self.sockets.clone().unwrap_or_default())
    }

    /// Packets, whoever's, that crossed interfaces without an Ethernet header up to now, as
    /// (received, sent).
    pub(super) fn bare_packets(&mut self) -> Result<(u64, u64)> {
        let bare = self.hooks.values().any(|attached| !attached.hook.link.ethernet);
        if bare { links::bare_packets(&mut self.rt) } else { Ok((0, 0)) }
    }

    /// The directions that somebody limits here, with the device where they are heard.
    fn directions(&self) -> Vec<(Direction, u32)> {
        let devices = self.listeners.iter().filter_map(|(direction, tenant)| {
            Some((*direction, self.tenants.get(tenant)?.device(*direction)?))
        });
        devices.collect()
    }
}

/// Whether an interface counts among these.
fn counts(links: &[Link], index: u32) -> bool {
    links.iter().any(|link| link.index == index)
}
