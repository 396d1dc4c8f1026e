//! Our ifb devices: what is redirected to one passes its qdisc and goes on where it came from.

use std::{
    path::Path,
    sync::atomic::{AtomicU32, Ordering},
};

use chadthrottle_core::{
    BackendId, Direction, Error, Result,
    check::Remedy,
    journal::{Entry, Journal, Undo},
};
use netlink_packet_route::{
    RouteNetlinkMessage,
    link::{
        AfSpecInet6, AfSpecUnspec, In6AddrGenMode, InfoKind, LinkAttribute, LinkFlags,
        LinkInfo, LinkMessage,
    },
};

use tracing::{debug, warn};

use super::message::NEW;
use crate::{
    links,
    netns::{self, Netns},
    rtnetlink::{Refusal, Socket},
};

/// How the names of our devices begin.
const PREFIX: &str = "chad";
/// Is there once the module is loaded, or when it is built in.
const MODULE: &str = "/sys/module/ifb";
/// Packets between HTB and the device's own work; 32 by default.
const QUEUE_LENGTH: u32 = 1000;
/// How many names are tried: another one of ours, in another pid namespace, may have the first.
const TRIES: u32 = 8;

/// A device, up; it sends nothing by itself.
#[derive(Debug)]
pub(super) struct Device {
    pub(super) index: u32,
    pub(super) name: String,
    /// Its line in the journal; the rehearsal of the probe writes none.
    entry: Option<Entry>,
}

impl Device {
    /// Makes one in the socket's namespace, recorded first.
    pub(super) fn create(
        rt: &mut Socket,
        netns: &Netns,
        direction: Direction,
        journal: Option<&Journal>,
    ) -> Result<Self> {
        let loaded = Path::new(MODULE).exists();
        let mut tried = 0;
        loop {
            let name = new_name(direction);
            let entry = match journal {
                Some(journal) => {
                    let undo = Undo::Device { netns: netns.id(), name: name.clone() };
                    Some(journal.record(Some(BackendId::Tc), &undo)?)
                }
                None => None,
            };
            let Err(refusal) = rt.execute(RouteNetlinkMessage::NewLink(ifb(&name)), NEW) else {
                if !loaded && let Err(error) = delete_automatic() {
                    debug!("what the module made stays: {error}");
                }
                return match set_up(rt, &name) {
                    Ok(index) => Ok(Self { index, name, entry }),
                    Err(error) => {
                        // Its index may be unknown; its name is enough.
                        let device = Self { index: 0, name, entry };
                        if let Err(second) = device.delete(rt, journal) {
                            warn!("{second}");
                        }
                        Err(error)
                    }
                };
            };
            if let (Some(journal), Some(entry)) = (journal, entry) {
                journal.done(entry)?;
            }
            tried += 1;
            if refusal.code() != libc::EEXIST || tried == TRIES {
                return Err(cannot_create(&name, refusal));
            }
        }
    }

    /// Deletes it, with its qdisc and what waits there. One that is gone is no error.
    pub(super) fn delete(self, rt: &mut Socket, journal: Option<&Journal>) -> Result<()> {
        delete(rt, &self.name)?;
        match (journal, self.entry) {
            (Some(journal), Some(entry)) => journal.done(entry),
            _ => Ok(()),
        }
    }
}

/// Deletes the ifb device of this name, if there is one.
pub(super) fn delete(rt: &mut Socket, name: &str) -> Result<()> {
    let Some(link) = links::named(rt, name)?.filter(|link| link.kind == "ifb") else {
        return Ok(());
    };
    let mut message = LinkMessage::default();
    message.header.index = link.index;
    match rt.execute(RouteNetlinkMessage::DelLink(message), 0) {
        Err(refusal) if refusal.code() != libc::ENODEV => {
            Err(refusal.explain("delete the device", name))
        }
        _ => Ok(()),
    }
}

/// Deletes the devices that the module made because we loaded it: `numifbs`, by default 2, in the
/// initial network namespace (`drivers/net/ifb.c`).
fn delete_automatic() -> Result<()> {
    let initial = Netns::at(Path::new("/proc/1/ns/net"))?;
    netns::run_in(&initial, || {
        let mut rt = links::socket()?;
        ["ifb0", "ifb1"].into_iter().try_for_each(|name| delete(&mut rt, name))
    })?
}

/// `chadPID-Nd`, in hexadecimal: 15 bytes at most.
fn new_name(direction: Direction) -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed) % 4096;
    let letter = match direction {
        Direction::Download => 'd',
        Direction::Upload => 'u',
    };
    format!("{PREFIX}{:x}-{number:x}{letter}", std::process::id())
}

/// Without an IPv6 address of its own: it would solicit routers through our queue, and be counted.
/// Returns its index.
fn set_up(rt: &mut Socket, name: &str) -> Result<u32> {
    let mut message = LinkMessage::default();
    message.header.index = index_of(rt, name)?;
    let mut silent = message.clone();
    let none = vec![AfSpecInet6::AddrGenMode(In6AddrGenMode::None)];
    silent.attributes = vec![LinkAttribute::AfSpecUnspec(vec![AfSpecUnspec::Inet6(none)])];
    if let Err(refusal) = rt.execute(RouteNetlinkMessage::SetLink(silent), 0) {
        debug!("no IPv6: {refusal}");
    }
    message.header.flags = LinkFlags::Up;
    message.header.change_mask = LinkFlags::Up;
    let index = message.header.index;
    let set = rt.execute(RouteNetlinkMessage::SetLink(message), 0);
    set.map(|()| index).map_err(|refusal| refusal.explain("set up the ifb device", name))
}

/// Not up yet, see [`set_up`].
fn ifb(name: &str) -> LinkMessage {
    let mut message = LinkMessage::default();
    message.attributes = vec![
        LinkAttribute::IfName(name.to_owned()),
        LinkAttribute::TxQueueLen(QUEUE_LENGTH),
        LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Ifb)]),
    ];
    message
}

fn index_of(rt: &mut Socket, name: &str) -> Result<u32> {
    links::named(rt, name)?.map(|link| link.index).ok_or_else(|| {
        Error::new(chadthrottle_core::ErrorKind::Failed, "find the device", name)
            .meaning("Somebody deleted it as soon as it was made.")
    })
}

fn cannot_create(name: &str, refusal: Refusal) -> Error {
    let code = refusal.code();
    let error = refusal.explain("create the ifb device", name);
    match code {
        libc::EOPNOTSUPP => error
            .meaning("The kernel has no ifb devices.")
            .remedy(Remedy::LoadModule("ifb".to_owned())),
        libc::EPERM | libc::EACCES => {
            error.remedy(Remedy::GrantCapability("CAP_NET_ADMIN".to_owned()))
        }
        _ => error,
    }
}
