//! Our filters on the interfaces of a namespace.

use std::collections::HashSet;

use chadthrottle_core::{Direction, Error, Result, error::ErrorKind};
use tracing::{debug, warn};

use super::{How, Ledger, Space};
use crate::{
    links::{self, Link},
    rtnetlink::Socket,
    tc::{
        flows::{Flow, Tree},
        hook::Hook,
        marks::Marking,
    },
};

/// Our filters on one interface.
pub(super) struct Attached {
    pub(super) hook: Hook,
    filters: Vec<Filters>,
}

/// The filters of one hook.
enum Filters {
    Flows(Tree),
    Marks(Marking),
}

impl Filters {
    fn is_intact(&self, rt: &mut Socket, hook: &Hook) -> Result<bool> {
        match self {
            Self::Flows(tree) => tree.is_intact(rt, hook),
            Self::Marks(marking) => marking.is_intact(rt, hook),
        }
    }
}

impl Space {
    /// Puts our filters on an interface; one that vanished meanwhile is no error.
    pub(super) fn attach(&mut self, link: &Link, ledger: Ledger<'_>) -> Result<()> {
        let directions: Vec<Direction> =
            self.shapers.iter().map(|shaper| shaper.direction).collect();
        let hook = match Hook::take(&mut self.rt, &self.netns, link, &directions, ledger) {
            Ok(hook) => hook,
            Err(error) if error.errno() == libc::ENODEV => return Ok(()),
            Err(error) => return Err(error),
        };
        let mut attached = Attached { hook, filters: Vec::new() };
        let planted: Result<()> = self.shapers.iter().try_for_each(|shaper| {
            let (direction, device) = (shaper.direction, shaper.device.index);
            let (rt, hook) = (&mut self.rt, &attached.hook);
            attached.filters.push(match self.how {
                How::Flows => Filters::Flows(Tree::plant(rt, hook, direction, device)?),
                How::Marks { mark, .. } => {
                    Filters::Marks(Marking::plant(rt, hook, direction, device, mark)?)
                }
            });
            Ok(())
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

    /// Takes in the interfaces that came, forgets those that went; says what could not be done.
    pub(in crate::tc) fn follow_links(&mut self, ledger: Ledger<'_>) -> Result<Vec<Error>> {
        if !self.watch.changed()? {
            return Ok(Vec::new());
        }
        let links = links::list(&mut self.rt)?;
        for shaper in &mut self.shapers {
            shaper.set_mtu(&mut self.rt, largest_mtu(&links))?;
        }
        let charged: Vec<&Link> = links::charged(&links).collect();
        let gone: Vec<u32> = self
            .hooks
            .keys()
            .filter(|index| !charged.iter().any(|link| link.index == **index))
            .copied()
            .collect();
        for index in gone {
            if let Some(attached) = self.hooks.remove(&index) {
                debug!("interface {} is not charged any more", attached.hook.link.name);
                attached.hook.release(&mut self.rt, ledger)?;
            }
        }
        let mut errors = Vec::new();
        for link in charged {
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

    /// Makes all filters match these flows; says whether some are new.
    pub(in crate::tc) fn sync(&mut self, flows: &HashSet<Flow>) -> Result<bool> {
        let mut outcome = Ok(());
        let mut new = false;
        for Attached { hook, filters } in self.hooks.values_mut() {
            for tree in filters {
                let Filters::Flows(tree) = tree else { continue };
                new |= flows.iter().any(|flow| !tree.has(flow));
                match tree.sync(&mut self.rt, hook, flows) {
                    // The interface went a moment ago: the watch will say so.
                    Err(error) if error.errno() == libc::ENODEV => {}
                    result => outcome = outcome.and(result),
                }
            }
        }
        outcome.map(|()| new)
    }

    /// Reads the filters back; where somebody took them away they are planted anew, to be filled
    /// by the next [`Space::sync`]. Says which interfaces that were.
    pub(in crate::tc) fn repair(&mut self, ledger: Ledger<'_>) -> Result<Vec<String>> {
        let links = links::list(&mut self.rt)?;
        let mut broken = Vec::new();
        for (index, Attached { hook, filters }) in &self.hooks {
            let exists = links.iter().any(|link| link.index == *index);
            for tree in filters {
                if exists && !tree.is_intact(&mut self.rt, hook)? && !broken.contains(index) {
                    broken.push(*index);
                }
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

    /// Reads the filters back right after they were made.
    pub(in crate::tc) fn verify(&mut self) -> Result<()> {
        for Attached { hook, filters } in self.hooks.values() {
            for tree in filters {
                if !tree.is_intact(&mut self.rt, hook)?
                    && links::exists(&mut self.rt, hook.link.index)?
                {
                    return Err(Error::new(
                        ErrorKind::NoBackend,
                        "read back our filters from",
                        &hook.link.name,
                    )
                    .meaning("The kernel took them, but does not match what they say.")
                    .advice("Use another backend."));
                }
            }
        }
        Ok(())
    }

    /// Interfaces where filters of others are asked before ours.
    pub(in crate::tc) fn behind_others(&self) -> impl Iterator<Item = (&str, Direction)> {
        self.hooks.values().flat_map(|attached| {
            let hook = &attached.hook;
            hook.others.iter().map(|direction| (hook.link.name.as_str(), *direction))
        })
    }
}

/// Of the interfaces that are charged; 1500 when there is none yet.
pub(super) fn largest_mtu(links: &[Link]) -> u32 {
    links::charged(links).map(|link| link.mtu).max().unwrap_or(1500)
}
