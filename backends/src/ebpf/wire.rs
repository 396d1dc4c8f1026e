//! The interfaces on which the sender of a download is shown the window that it was granted.
//!
//! tc egress of the interfaces on which the targets' network namespaces speak IP, by links
//! (`tcx`, kernel 6.6), which go when we do. Without them downloads are held by the window that
//! the kernel offers alone, see `docs/rate-control.md`.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
};

use aya::programs::links::FdLink;
use chadthrottle_core::{Error, Result};
use tracing::debug;

use super::object::Object;
use crate::{
    links::{self, Link, Watch},
    netns::{self, Netns},
    rtnetlink::Socket,
};

/// Our program on interfaces, by the id of their namespace.
#[derive(Default)]
pub(super) struct Wire {
    at: BTreeMap<u64, Place>,
}

/// One network namespace.
struct Place {
    netns: Netns,
    socket: Socket,
    watch: Watch,
    /// By the interface's number. A link is gone when its descriptor closes, so also when we are
    /// killed. Held, never read.
    links: BTreeMap<u32, FdLink>,
    /// Interfaces that did not take our program.
    refused: BTreeSet<u32>,
}

impl Wire {
    /// Attaches in these namespaces, and to the interfaces that came there. Where that fails
    /// windows are not shown, and the limit holds without.
    pub(super) fn cover(&mut self, object: &mut Object, needed: &[Netns]) {
        if !object.has_wire {
            return;
        }
        for netns in needed {
            let outcome = match self.at.get_mut(&netns.id()) {
                Some(place) => place.follow(object),
                None => Place::enter(object, netns).map(|place| {
                    self.at.insert(netns.id(), place);
                }),
            };
            if let Err(error) = outcome {
                debug!("windows are not shown in {netns}: {error}");
            }
        }
    }

    /// Detaches in namespaces that are not among these.
    pub(super) fn keep(&mut self, needed: &[Netns]) {
        self.at.retain(|_, place| needed.contains(&place.netns));
    }

    /// Whether it is attached anywhere.
    pub(super) fn is_attached(&self) -> bool {
        self.at.values().any(|place| !place.links.is_empty())
    }
}

impl Place {
    fn enter(object: &mut Object, netns: &Netns) -> Result<Self> {
        let (watch, socket) =
            netns::run_in(netns, || Ok((Watch::start()?, links::socket()?)))??;
        let (links, refused) = (BTreeMap::new(), BTreeSet::new());
        let mut place = Self { netns: netns.clone(), socket, watch, links, refused };
        place.attach(object)?;
        Ok(place)
    }

    fn follow(&mut self, object: &mut Object) -> Result<()> {
        if self.watch.changed()? { self.attach(object) } else { Ok(()) }
    }

    fn attach(&mut self, object: &mut Object) -> Result<()> {
        let all = links::list(&mut self.socket)?;
        let wanted: Vec<&Link> = links::charged(&all).collect();
        self.links.retain(|index, _| wanted.iter().any(|link| link.index == *index));
        self.refused.retain(|index| wanted.iter().any(|link| link.index == *index));
        for link in wanted {
            if self.links.contains_key(&link.index) || self.refused.contains(&link.index) {
                continue;
            }
            match netns::run_in(&self.netns, || object.link_interface(&link.name))? {
                Ok(attached) => drop(self.links.insert(link.index, attached)),
                Err(error) => self.refuse(link, error),
            }
        }
        Ok(())
    }

    fn refuse(&mut self, link: &Link, error: io::Error) {
        debug!("{}", Error::io("attach to the egress of", &link.name, error));
        self.refused.insert(link.index);
    }
}
