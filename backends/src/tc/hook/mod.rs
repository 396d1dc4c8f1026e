//! Where our filters hang: the clsact qdisc of an interface, which may be somebody else's.

mod clsact;
mod listed;
mod removal;

use chadthrottle_core::{
    BackendId, Direction, Error, ErrorKind, Host, Result,
    journal::{Entry, Journal, Undo, exclusive},
};
use netlink_packet_route::tc::TcHandle;

pub(super) use listed::{Listed, NODES, free_tables, list, no_table};
pub(super) use removal::remove;

use super::message::{EGRESS, INGRESS, Spot};
use crate::{
    links::Link,
    netns::Netns,
    rtnetlink::{Refusal, Socket},
};
use clsact::{Holder, add_clsact, holder, ingress_in_the_way, made_by_chadthrottle, no_clsact};

/// Our preferences: behind those that tools hand out by themselves (49152 and down), so that
/// whoever filters on purpose is asked first.
const FIRST_PREFERENCE: u16 = 0xd000;
/// An instance has so many preferences in a row: for downloads and uploads, IPv4 and IPv6 each. u32
/// keeps the tables of both hooks of a clsact qdisc together, by preference.
const PREFERENCES: u16 = 4;

/// IPv4 and IPv6: the ethertypes of a direction's two preferences.
pub(super) const ETHERTYPES: [u16; 2] = [0x0800, 0x86dd];

/// Which hook a direction uses.
pub(super) fn parent(direction: Direction) -> TcHandle {
    match direction {
        Direction::Download => INGRESS,
        Direction::Upload => EGRESS,
    }
}

/// Our place on an interface.
#[derive(Debug)]
pub(super) struct Hook {
    pub(super) link: Link,
    /// The first of our preferences.
    preference: u16,
    entry: Option<Entry>,
    made_clsact: bool,
    /// What we hang on has a hook for uploads.
    has_egress: bool,
    /// Where filters of others are asked before ours, as of the last look.
    others: Vec<Direction>,
}

impl Hook {
    /// Takes a place on an interface, recorded first; makes the clsact qdisc when there is none.
    pub(super) fn take(
        rt: &mut Socket,
        netns: &Netns,
        link: &Link,
        journal: Option<(&Journal, &Host)>,
    ) -> Result<Self> {
        // Other instances of ours may be about to make or delete the same qdisc.
        let guard = journal.map(|(_, host)| exclusive(host)).transpose()?;
        let found = holder(rt, link)?;
        let listed = Direction::BOTH
            .iter()
            .map(|&direction| Ok((direction, list(rt, spot(link.index, direction))?)))
            .collect::<Result<Vec<_>>>()?;
        let used = || listed.iter().flat_map(|(_, filters)| filters);
        let taken =
            |free: u16| used().any(|filter| filter.preference & !(PREFERENCES - 1) == free);
        let preference = (FIRST_PREFERENCE..u16::MAX)
            .step_by(usize::from(PREFERENCES))
            .find(|&free| !taken(free))
            .ok_or_else(|| full(link))?;
        let made_clsact = found == Holder::None
            || guard.as_ref().zip(journal).is_some_and(|(guard, (_, host))| {
                made_by_chadthrottle(guard, host, netns, link)
            });
        let mut hook = Self {
            link: link.clone(),
            preference,
            entry: None,
            made_clsact,
            has_egress: found != Holder::Ingress,
            others: Vec::new(),
        };
        for (direction, filters) in &listed {
            hook.see(*direction, filters);
        }
        if let Some((journal, _)) = journal {
            let undo = Undo::Filters {
                netns: netns.id(),
                link: link.index,
                name: link.name.clone(),
                preference,
                made_clsact,
            };
            hook.entry = Some(journal.record(Some(BackendId::Tc), &undo)?);
        }
        if found == Holder::None
            && let Err(refusal) = add_clsact(rt, link.index)
        {
            if let (Some((journal, _)), Some(entry)) = (journal, hook.entry) {
                journal.done(entry)?;
            }
            return Err(no_clsact(link, refusal));
        }
        Ok(hook)
    }

    /// Deletes our filters and tables, and the qdisc when it is of our making and nobody uses it.
    /// An interface that is gone has taken everything with it.
    pub(super) fn release(
        self,
        rt: &mut Socket,
        journal: Option<(&Journal, &Host)>,
    ) -> Result<()> {
        let guard = journal.map(|(_, host)| exclusive(host)).transpose()?;
        remove(rt, self.link.index, self.preference, self.made_clsact)
            .map_err(|refusal| cannot_remove(&self.link.name, refusal))?;
        drop(guard);
        match (journal, self.entry) {
            (Some((journal, _)), Some(entry)) => journal.done(entry),
            _ => Ok(()),
        }
    }

    /// Deletes our filters and tables of one direction.
    pub(super) fn clear(&self, rt: &mut Socket, direction: Direction) -> Result<()> {
        removal::remove_from(rt, self.spot(direction), first(self.preference, direction))
            .map_err(|refusal| cannot_remove(&self.link.name, refusal))
    }

    /// Whether filters of a direction can hang here.
    pub(super) fn admit(&self, direction: Direction) -> Result<()> {
        if direction == Direction::Upload && !self.has_egress {
            return Err(ingress_in_the_way(&self.link));
        }
        Ok(())
    }

    /// Notes whether others filter a direction, given all of its filters.
    pub(super) fn see(&mut self, direction: Direction, filters: &[Listed]) {
        self.others.retain(|other| *other != direction);
        if filters.iter().any(|filter| !filter.is_ours()) {
            self.others.push(direction);
        }
    }

    /// Where filters of others are asked before ours.
    pub(super) fn others(&self) -> &[Direction] {
        &self.others
    }

    pub(super) fn spot(&self, direction: Direction) -> Spot {
        spot(self.link.index, direction)
    }

    /// The preference of a direction and a family: 0 is IPv4, 1 is IPv6.
    pub(super) fn preference(&self, direction: Direction, family: usize) -> u16 {
        first(self.preference, direction) + family as u16
    }
}

/// The first of a direction's two preferences.
fn first(preference: u16, direction: Direction) -> u16 {
    match direction {
        Direction::Download => preference,
        Direction::Upload => preference + 2,
    }
}

pub(super) fn spot(link: u32, direction: Direction) -> Spot {
    Spot { link, parent: parent(direction) }
}

fn full(link: &Link) -> Error {
    Error::new(ErrorKind::Failed, "find a free preference on", &link.name)
        .meaning("Thousands of instances have filters there.")
        .advice("Run chadthrottle clean.")
}

fn cannot_remove(name: &str, refusal: Refusal) -> Error {
    refusal.explain("delete our filters from", name).advice("Run chadthrottle clean.")
}
