//! Our filters on the interfaces of a site.

use std::{
    collections::{BTreeMap, HashSet},
    time::{Duration, Instant},
};

use chadthrottle_core::{Direction, Error, Result, error::ErrorKind};
use tracing::{debug, warn};

use super::{By, Lease, Ledger, Site, Tenant, counts};
use crate::{
    links::{self, Link},
    rtnetlink::Socket,
    tc::{
        flows::{Flow, Tree},
        hook::{Hook, Listed, list},
        marks::Marking,
    },
};

/// How often filters are read back at most. Each limit asks once a second.
const CHECK: Duration = Duration::from_millis(900);

/// Our filters on one interface.
#[derive(Debug)]
pub(super) struct Attached {
    pub(super) hook: Hook,
    filters: BTreeMap<Direction, Filters>,
    /// They were found as they were meant once.
    verified: bool,
}

/// The filters of one hook.
#[derive(Debug)]
enum Filters {
    Flows(Tree),
    Marks(Marking),
}

impl Filters {
    fn is_intact(&self, listed: &[Listed], hook: &Hook) -> bool {
        match self {
            Self::Flows(tree) => tree.is_intact(listed, hook),
            Self::Marks(marking) => marking.is_intact(listed, hook),
        }
    }
}

impl Attached {
    /// Plants what the limits of a direction share, when it is not there.
    fn plant(
        &mut self,
        rt: &mut Socket,
        by: By,
        (direction, ear): (Direction, u32),
    ) -> Result<()> {
        if self.filters.contains_key(&direction) {
            return Ok(());
        }
        self.hook.admit(direction)?;
        let filters = match by {
            By::Flows => Filters::Flows(Tree::plant(rt, &self.hook, direction, ear)?),
            By::Marks(instance) => {
                Filters::Marks(Marking::plant(rt, &self.hook, direction, instance)?)
            }
        };
        self.filters.insert(direction, filters);
        self.verified = false;
        Ok(())
    }

    /// Redirects by marks from now on; by flows when they are known.
    fn admit(&mut self, rt: &mut Socket, tenant: Tenant, lease: &Lease) -> Result<()> {
        for (direction, device) in &lease.devices {
            if let (Some(Filters::Marks(marking)), Some(mark)) =
                (self.filters.get_mut(direction), lease.mark)
            {
                marking.admit(rt, &self.hook, (tenant, *device), mark)?;
            }
        }
        Ok(())
    }

    pub(super) fn dismiss(&mut self, rt: &mut Socket, tenant: Tenant) -> Result<()> {
        for filters in self.filters.values_mut() {
            match filters {
                Filters::Flows(tree) => tree.dismiss(rt, &self.hook, tenant)?,
                Filters::Marks(marking) => marking.dismiss(rt, &self.hook, tenant),
            }
        }
        Ok(())
    }

    pub(super) fn hear(
        &mut self,
        rt: &mut Socket,
        direction: Direction,
        device: u32,
    ) -> Result<()> {
        match self.filters.get_mut(&direction) {
            Some(Filters::Flows(tree)) => tree.hear(rt, &self.hook, device),
            _ => Ok(()),
        }
    }

    pub(super) fn clear(&mut self, rt: &mut Socket, direction: Direction) -> Result<()> {
        self.filters.remove(&direction);
        self.hook.clear(rt, direction)
    }

    /// Reads all filters back.
    fn is_intact(&mut self, rt: &mut Socket) -> Result<bool> {
        let mut intact = true;
        for (direction, filters) in &self.filters {
            let listed = list(rt, self.hook.spot(*direction))?;
            self.hook.see(*direction, &listed);
            intact &= filters.is_intact(&listed, &self.hook);
        }
        Ok(intact)
    }
}

impl Site {
    /// Puts our filters on an interface; one that vanished meanwhile is no error.
    pub(super) fn attach(&mut self, link: &Link, ledger: Ledger<'_>) -> Result<()> {
        let hook = match Hook::take(&mut self.rt, &self.netns, link, ledger) {
            Ok(hook) => hook,
            Err(error) if error.errno() == libc::ENODEV => return Ok(()),
            Err(error) => return Err(error),
        };
        let mut attached = Attached { hook, filters: BTreeMap::new(), verified: false };
        let by = self.by;
        let planted = self
            .directions()
            .into_iter()
            .try_for_each(|direction| attached.plant(&mut self.rt, by, direction))
            .and_then(|()| {
                let mut all = self.tenants.iter();
                all.try_for_each(|(tenant, lease)| attached.admit(&mut self.rt, *tenant, lease))
            });
        if let Err(error) = planted {
            if let Err(second) = attached.hook.release(&mut self.rt, ledger) {
                warn!("{second}");
            }
            return if error.errno() == libc::ENODEV { Ok(()) } else { Err(error) };
        }
        self.hooks.insert(link.index, attached);
        Ok(())
    }

    /// Lets a limit that came later have its filters on an interface.
    pub(super) fn admit(&mut self, index: u32, tenant: Tenant) -> Result<()> {
        let (directions, by) = (self.directions(), self.by);
        let (Some(attached), Some(lease)) =
            (self.hooks.get_mut(&index), self.tenants.get(&tenant))
        else {
            return Ok(());
        };
        let planted = directions
            .into_iter()
            .try_for_each(|direction| attached.plant(&mut self.rt, by, direction));
        match planted.and_then(|()| attached.admit(&mut self.rt, tenant, lease)) {
            // It went a moment ago: the watch will say so.
            Err(error) if error.errno() == libc::ENODEV => Ok(()),
            result => result,
        }
    }

    /// Takes in the interfaces that came, forgets those that went; says what could not be done.
    pub(in crate::tc) fn follow_links(&mut self, ledger: Ledger<'_>) -> Result<Vec<Error>> {
        if !self.watch.changed()? {
            return Ok(Vec::new());
        }
        let links = links::list(&mut self.rt)?;
        self.mtu = self.mtu.max(largest_mtu(&links));
        let charged: Vec<Link> = links::charged(&links).cloned().collect();
        let gone = self.hooks.keys().filter(|index| !counts(&charged, **index));
        for index in gone.copied().collect::<Vec<_>>() {
            if let Some(attached) = self.hooks.remove(&index) {
                debug!("interface {} is not charged any more", attached.hook.link.name);
                attached.hook.release(&mut self.rt, ledger)?;
            }
        }
        let mut errors = Vec::new();
        for link in &charged {
            if self.hooks.contains_key(&link.index) || self.refused.contains(&link.index) {
                continue;
            }
            debug!("interface {} is taken in", link.name);
            if let Err(error) = self.attach(link, ledger) {
                self.refused.insert(link.index);
                errors.push(error);
            }
        }
        Ok(errors)
    }

    /// Makes all filters of a limit match these flows; says whether some are new.
    pub(in crate::tc) fn sync(
        &mut self,
        tenant: Tenant,
        flows: &HashSet<Flow>,
    ) -> Result<bool> {
        let Some(lease) = self.tenants.get(&tenant) else { return Ok(false) };
        let mut outcome = Ok(());
        let mut new = false;
        for Attached { hook, filters, .. } in self.hooks.values_mut() {
            for (direction, device) in &lease.devices {
                let Some(Filters::Flows(tree)) = filters.get_mut(direction) else { continue };
                match tree.sync(&mut self.rt, hook, (tenant, *device), flows) {
                    Ok(some) => new |= some,
                    // The interface went a moment ago: the watch will say so.
                    Err(error) if error.errno() == libc::ENODEV => {}
                    Err(error) => outcome = outcome.and(Err(error)),
                }
            }
        }
        outcome.map(|()| new)
    }

    /// Reads the filters back, whoever of the limits asks; where somebody took them away they are planted anew, to be filled by the next [`Site::sync`] of each. Says which
    /// interfaces that were.
    pub(in crate::tc) fn repair(&mut self, ledger: Ledger<'_>) -> Result<Vec<String>> {
        let now = Instant::now();
        if now.duration_since(self.checked) < CHECK {
            return Ok(Vec::new());
        }
        self.checked = now;
        let links = links::list(&mut self.rt)?;
        let mut broken = Vec::new();
        for (index, attached) in &mut self.hooks {
            if counts(&links, *index) && !attached.is_intact(&mut self.rt)? {
                broken.push(*index);
            }
        }
        let mut names = Vec::new();
        for index in broken {
            let Some(attached) = self.hooks.remove(&index) else { continue };
            let link = attached.hook.link.clone();
            names.push(link.name.clone());
            attached.hook.release(&mut self.rt, ledger)?;
            self.attach(&link, ledger)?;
        }
        Ok(names)
    }

    /// Reads the filters back right after they were made: a kernel that ignores a match would limit
    /// everybody. What the limits share is looked at once.
    pub(in crate::tc) fn verify(&mut self) -> Result<()> {
        for attached in self.hooks.values_mut() {
            if attached.verified {
                continue;
            }
            attached.verified = attached.is_intact(&mut self.rt)?;
            if !attached.verified && links::exists(&mut self.rt, attached.hook.link.index)? {
                return Err(Error::new(
                    ErrorKind::NoBackend,
                    "read back our filters from",
                    &attached.hook.link.name,
                )
                .meaning("The kernel took them, but does not match what they say.")
                .advice("Use another backend."));
            }
        }
        Ok(())
    }

    /// Interfaces where filters of others are asked before ours.
    pub(in crate::tc) fn behind_others(&self) -> Vec<(String, Direction)> {
        let all = self.hooks.values().flat_map(|Attached { hook, .. }| {
            hook.others().iter().map(|direction| (hook.link.name.clone(), *direction))
        });
        all.collect()
    }
}

/// Of the interfaces that are charged; 1500 when there is none yet.
pub(super) fn largest_mtu(links: &[Link]) -> u32 {
    links::charged(links).map(|link| link.mtu).max().unwrap_or(1500)
}
