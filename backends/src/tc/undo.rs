//! Taking back what a dead instance left: devices, filters, qdiscs.

use std::os::fd::AsFd;

use chadthrottle_core::{
    Error, ErrorKind, Host, Result,
    journal::{Held, Undo, exclusive},
};
use tracing::debug;

use super::{device, hook, marks, space};
use crate::{
    links,
    moved::{self, Mark},
    netns::{self, Netns},
    rtnetlink::Socket,
};

/// Takes back one record.
pub(super) fn undo(host: &Host, record: &Undo, held: &Held, all: &[Undo]) -> Result<()> {
    match record {
        Undo::Device { netns, name } => {
            inside(host, *netns, held, |rt| device::delete(rt, name))
        }
        Undo::Filters { netns, link, name, preference, made_clsact } => {
            inside(host, *netns, held, |rt| {
                // Another instance may be about to use the same qdisc.
                let _guard = exclusive(host)?;
                hook::remove(rt, *link, *preference, *made_clsact)
                    .map_err(|refusal| refusal.explain("delete our filters from", name))
            })
        }
        Undo::Tracked { netns, mark } => inside(host, *netns, held, |_| {
            let mark = Mark::from_value(*mark);
            // Without nf_conntrack_netlink nothing can be done, and they time out.
            match marks::clear(mark) {
                Ok(count) => debug!("the mark is off {count} connections"),
                Err(error) => debug!("connections keep their mark: {error}"),
            }
            Ok(())
        }),
        Undo::Marks { .. } | Undo::Sockets { .. } | Undo::Pace { .. } => {
            moved::undo(host, record, all)
        }
        _ => Err(Error::new(ErrorKind::Failed, "take back", record)
            .meaning("It is not a change that this backend makes.")),
    }
}

/// Works in the namespace of this id: the one that the guardian kept, or one that something still
/// names. A namespace that is gone has taken everything with it.
fn inside(
    host: &Host,
    id: u64,
    held: &Held,
    work: impl FnOnce(&mut Socket) -> Result<()> + Send,
) -> Result<()> {
    let kept = held.get(&space::label(id)).and_then(|fd| {
        let fd = fd.as_fd().try_clone_to_owned().ok()?;
        Netns::try_from(fd).ok()
    });
    let found = match kept {
        Some(netns) => Some(netns),
        None => Netns::find(host, id)?,
    };
    let Some(netns) = found else {
        debug!("the network namespace {id} is gone");
        return Ok(());
    };
    netns::run_in(&netns, || work(&mut links::socket()?))?
}
