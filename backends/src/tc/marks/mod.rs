//! Attribution by marks: exact, from the first packet of a connection on.
//!
//! ```text
//! nft output   socket of the target's cgroup, or marked before  -> packet mark, conntrack mark
//! tc egress    packet mark  -> the limit's device for uploads
//! tc ingress   act_ctinfo: conntrack mark -> packet mark  -> the limit's device for downloads
//! ```
//!
//! Processes are moved into leaves, and sockets that are older than that are marked, see
//! [`crate::moved`]. Of marks only the bits of [`crate::moved::MARK_MASK`] are touched, and only
//! where they are all zero. One of them, [`COUNTED`], says that a packet has been attributed: a
//! tunnel keeps the mark (and the socket) of a packet that it wraps, and what is outside must not
//! be charged again, nor its conntrack entry, which the tunnel's other users share, be marked.

mod conntrack;
mod filters;
mod table;

use std::collections::BTreeSet;

use chadthrottle_core::{
    BackendId, Error, ErrorKind, Host, Result, Target,
    journal::{Entry, Journal, Undo},
    process::Process,
};

pub(super) use conntrack::clear;
pub(super) use filters::Marking;
pub(super) use table::Table;

use super::{members::State, senders::Senders};
use crate::{
    moved::{self, Holdings, MARK_MASK, Mark, Members, Place},
    netns::Netns,
    sockets::DiagSocket,
    steer::Reach,
};

/// See the module's documentation. Numbers of limits end below it.
pub(super) const COUNTED: u32 = 0x800;
/// The bits of a mark that say which instance.
pub(super) const INSTANCE: u32 = 0xff00_0000;

/// Who is meant, known to the kernel by cgroups and marks.
pub(super) struct Marks {
    pub(super) mark: Mark,
    targets: Vec<Target>,
    members: Vec<Members>,
    holdings: Holdings,
    pub(super) places: Vec<Place>,
    entries: Vec<Entry>,
    home: Netns,
    fresh: bool,
}

impl Marks {
    /// Moves the processes; nothing is matched yet. When it fails all of them are back.
    pub(super) fn enter(
        host: &Host,
        journal: &Journal,
        mark: Mark,
        targets: &[Target],
    ) -> Result<Self> {
        let home = Netns::current()?;
        let members = targets
            .iter()
            // On an error the leaves of those before are dropped, which moves them back.
            .map(|target| Members::enter(host, journal, target))
            .collect::<Result<Vec<_>>>()?;
        let mut marks = Self {
            mark,
            targets: targets.to_vec(),
            members,
            holdings: Holdings::default(),
            places: Vec::new(),
            entries: Vec::new(),
            home,
            fresh: true,
        };
        marks.record(journal)?;
        marks.places = marks.places_now(host)?;
        Ok(marks)
    }

    /// Written before sockets are touched.
    fn record(&mut self, journal: &Journal) -> Result<()> {
        let record = moved::record(&self.targets, &self.members, self.mark, true);
        self.entries.push(journal.record(Some(BackendId::Tc), &record)?);
        Ok(())
    }

    fn places_now(&self, host: &Host) -> Result<Vec<Place>> {
        let places = self.members.iter().map(|members| members.places(host));
        Ok(places.collect::<Result<Vec<_>>>()?.into_iter().flatten().collect())
    }

    /// The whole look, once a second; what is not covered, in words.
    pub(super) fn refresh(
        &mut self,
        host: &Host,
        journal: &Journal,
        senders: &mut Senders,
    ) -> Result<(Vec<State>, Vec<String>)> {
        let mut states = Vec::new();
        for members in &mut self.members {
            states.push(match members.refresh(host, journal)? {
                moved::State::Alive => State::Alive,
                moved::State::Away => State::Away,
                moved::State::Ended => State::Ended,
            });
        }
        let places = self.places_now(host)?;
        if places != self.places {
            self.places = places;
            self.record(journal)?;
        }
        self.find_sockets(host, journal, senders)?;
        let first = std::mem::take(&mut self.fresh);
        let said = self.holdings.mark_strangers(
            host,
            &self.members,
            &self.places,
            self.mark,
            first,
        )?;
        Ok((states, said))
    }

    /// Finds the sockets that came and went; frees those that went to others.
    pub(super) fn find_sockets(
        &mut self,
        host: &Host,
        journal: &Journal,
        senders: &mut Senders,
    ) -> Result<()> {
        let processes = self.members.iter().flat_map(Members::processes);
        self.holdings.follow(host, journal, processes, self.mark, senders.steering())
    }

    /// The TCP connections of the members.
    pub(super) fn connections(&self) -> Vec<Reach<'_>> {
        self.holdings.connections()
    }

    pub(super) fn processes(&self) -> impl Iterator<Item = &Process> {
        self.members.iter().flat_map(Members::processes)
    }

    /// Whether one of these sockets was created in a cgroup of the targets.
    pub(super) fn have_cgroup_of(&self, host: &Host, sockets: &[DiagSocket]) -> bool {
        let cgroups: BTreeSet<u64> =
            sockets.iter().filter_map(|socket| socket.cgroup).collect();
        cgroups.into_iter().any(|id| moved::is_inside(host, id, &self.places))
    }

    /// The namespaces of the members; for a cgroup ours too, from where a command comes.
    pub(super) fn namespaces(&self, host: &Host) -> Vec<Netns> {
        let mut found = moved::namespaces(host, self.processes());
        let cgroup = self.targets.iter().any(|target| matches!(target, Target::Cgroup(_)));
        if cgroup && !found.contains(&self.home) {
            found.push(self.home.clone());
        }
        found
    }

    /// Takes marks off sockets and moves processes back. Goes on after an error, of those before
    /// (`outcome`) too, and returns the first.
    pub(super) fn leave(&mut self, journal: &Journal, mut outcome: Result<()>) -> Result<()> {
        self.holdings.unmark(self.mark);
        for members in &mut self.members {
            outcome = outcome.and(members.leave());
        }
        // What failed stays in the journal: the guardian tries once more.
        for entry in self.entries.drain(..) {
            outcome = outcome.and_then(|()| journal.done(entry));
        }
        outcome
    }
}

/// The record that conntrack entries of a namespace may carry a mark.
pub(super) fn tracked(netns: &Netns, mark: Mark) -> Undo {
    Undo::Tracked { netns: netns.id(), mark: mark.value() }
}

/// The mark of a limit that leaves room for [`COUNTED`].
pub(super) fn mark(slot: &moved::Slot, number: u32) -> Result<Mark> {
    slot.mark(number).filter(|mark| mark.value() & COUNTED == 0).ok_or_else(|| {
        Error::new(ErrorKind::Failed, "find a mark for", format!("limit {number}"))
            .meaning("An instance has marks for 2047 limits.")
    })
}

/// A mark without our bits is nobody's that we know.
pub(super) const OTHERS: u32 = !MARK_MASK;
