//! The interfaces on which the sender of a download is shown the window that it was granted.
//!
//! tc egress of the interfaces on which the targets' network namespaces speak IP, by links
//! (`tcx`, kernel 6.6), which go when we do. Without them downloads are held by the window that
//! the kernel offers alone, see `docs/rate-control.md`: so a limit is in force before all
//! interfaces are linked, which takes the kernel some tens of milliseconds each.

use std::{
    collections::{BTreeMap, BTreeSet, btree_map::Entry},
    io,
    os::fd::{AsFd, OwnedFd},
    panic::resume_unwind,
    thread::{self, JoinHandle},
};

use aya::maps::Map;
use chadthrottle_core::{Error, Result};
use chadthrottle_ebpf::layout::{LINKED, LINKING};
use tracing::debug;

use super::kept::{self, Sender};
use crate::{
    bpf,
    links::{self, Watch},
    netns::{self, Netns},
    rtnetlink::Socket,
};

/// Our program on interfaces.
pub(super) struct Wire {
    /// By the id of the namespace.
    at: BTreeMap<u64, Place>,
    /// The map with acknowledgements to be sent, until there is somebody who sends them.
    kept: Option<Map>,
    sender: Option<Sender>,
}

/// What became of linking some interfaces, by number.
type Linked = Vec<(u32, io::Result<OwnedFd>)>;

/// One network namespace.
struct Place {
    netns: Netns,
    socket: Socket,
    watch: Watch,
    /// Acknowledgements of its sockets are sent when they are due.
    clocked: bool,
    /// Interfaces came or went since they were listed.
    changed: bool,
    /// A thread that links interfaces.
    linking: Option<JoinHandle<Linked>>,
    /// By the interface's number. A link is gone when its descriptor closes, so also when we are
    /// killed. Held, never read.
    links: BTreeMap<u32, OwnedFd>,
    /// Interfaces that did not take our program.
    refused: BTreeSet<u32>,
}

impl Wire {
    /// Nowhere yet.
    pub(super) fn new(kept: Map) -> Self {
        Self { at: BTreeMap::new(), kept: Some(kept), sender: None }
    }

    /// Begins to link the program in these namespaces, and to the interfaces that came there. Where
    /// that fails windows are not shown, and the limit holds without.
    pub(super) fn cover(&mut self, program: Option<impl AsFd>, needed: &[Netns]) {
        let Some(program) = program else { return };
        if let Some(kept) = self.kept.take() {
            match Sender::start(kept) {
                Ok(sender) => self.sender = Some(sender),
                Err(error) => debug!("no acknowledgement is sent again: {error}"),
            }
        }
        for netns in needed {
            if let Err(error) = self.cover_one(program.as_fd(), netns) {
                debug!("windows are not shown in {netns}: {error}");
            }
        }
    }

    fn cover_one(&mut self, program: impl AsFd, netns: &Netns) -> Result<()> {
        let place = match self.at.entry(netns.id()) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(new) => new.insert(Place::enter(netns, self.sender.as_ref())?),
        };
        place.follow(program)
    }

    /// Detaches in namespaces that are not among these.
    pub(super) fn keep(&mut self, needed: &[&Netns]) {
        self.at.retain(|_, place| {
            let stays = needed.contains(&&place.netns);
            if let Some(sender) = self.sender.as_ref().filter(|_| !stays) {
                sender.leave(&place.netns);
            }
            stays
        });
    }

    /// The limit of this slot has changed: its senders are to hear of it.
    pub(super) fn hurry(&self, slot: u32) {
        if let Some(sender) = &self.sender {
            sender.hurry(slot);
        }
    }

    /// Whether acknowledgements are sent when they are due, wherever it is.
    pub(super) fn is_clocked(&self) -> bool {
        self.at.values().all(|place| place.clocked)
    }

    /// Whether it is on interfaces, as [`Global::wired`](chadthrottle_ebpf::layout::Global::wired) has it.
    pub(super) fn state(&self) -> u32 {
        let mut places = self.at.values();
        if places.clone().any(|place| place.linking.is_some()) {
            return LINKING;
        }
        if places.any(|place| !place.links.is_empty()) { LINKED } else { 0 }
    }
}

impl Place {
    fn enter(netns: &Netns, sender: Option<&Sender>) -> Result<Self> {
        let (watch, socket, frames) = netns::run_in(netns, || {
            Result::Ok((Watch::start()?, links::socket()?, kept::packet_socket()))
        })??;
        let clocked = match (sender, frames) {
            (Some(sender), Ok(frames)) => {
                sender.enter(netns, frames);
                true
            }
            (_, Err(error)) => {
                debug!("no acknowledgement is sent again in {netns}: a packet socket: {error}");
                false
            }
            (None, Ok(_)) => false,
        };
        Ok(Self {
            netns: netns.clone(),
            socket,
            watch,
            clocked,
            changed: true,
            linking: None,
            links: BTreeMap::new(),
            refused: BTreeSet::new(),
        })
    }

    /// Takes in what was linked, and links what came.
    fn follow(&mut self, program: impl AsFd) -> Result<()> {
        if self.linking.as_ref().is_some_and(JoinHandle::is_finished) {
            self.take_in();
        }
        self.changed |= self.watch.changed()?;
        if !self.changed || self.linking.is_some() {
            return Ok(());
        }
        let all = links::list(&mut self.socket)?;
        let wanted: BTreeSet<u32> = links::charged(&all).map(|link| link.index).collect();
        self.changed = false;
        self.links.retain(|index, _| wanted.contains(index));
        self.refused.retain(|index| wanted.contains(index));
        let known =
            |index: &u32| self.links.contains_key(index) || self.refused.contains(index);
        let new: Vec<u32> = wanted.into_iter().filter(|index| !known(index)).collect();
        if !new.is_empty() {
            self.linking = Some(link(&self.netns, program, new)?);
        }
        Ok(())
    }

    fn take_in(&mut self) {
        let Some(linking) = self.linking.take() else { return };
        for (index, linked) in linking.join().unwrap_or_else(|panic| resume_unwind(panic)) {
            match linked {
                Ok(link) => drop(self.links.insert(index, link)),
                Err(error) => {
                    let what = format!("interface {index} of {}", self.netns);
                    debug!("{}", Error::io("attach to the egress of", what, error));
                    self.refused.insert(index);
                }
            }
        }
    }
}

impl Drop for Place {
    /// Nothing is linked any more when we are gone.
    fn drop(&mut self) {
        self.take_in();
    }
}

/// Links the program to these interfaces of a namespace, on a thread of its own.
fn link(netns: &Netns, program: impl AsFd, interfaces: Vec<u32>) -> Result<JoinHandle<Linked>> {
    let failed = |error| Error::io("start a thread for", netns, error);
    let program = program.as_fd().try_clone_to_owned().map_err(failed)?;
    let entered = netns.clone();
    let work = move || {
        let link = |index: &u32| (*index, bpf::link_egress(&program, *index));
        let linked = netns::run_in(&entered, || interfaces.iter().map(link).collect());
        linked.unwrap_or_else(|error| {
            debug!("windows are not shown in {entered}: {error}");
            Vec::new()
        })
    };
    thread::Builder::new().name("wire".into()).spawn(work).map_err(failed)
}
