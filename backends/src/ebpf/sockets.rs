//! Which sockets are meant: tagging what the members hold, untagging what they gave away.
//!
//! The kernel tags what members create from now on; this finds what they held before, what
//! they received from others, and accepted sockets of a listener that they share.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    mem,
    net::SocketAddr,
    os::fd::OwnedFd,
};

use chadthrottle_core::{
    BackendId, Error, Host, Result,
    journal::{Entry, Journal, Undo},
    process::Process,
};
use chadthrottle_ebpf::layout::Tag;
use rustix::net::getsockname;
use tracing::{debug, warn};

use super::{maps::Maps, members::Members};
use crate::{
    netns::{self, Netns},
    sockets::{
        self, Protocol, SocketInfo, SocketMap,
        diag::{self, DiagSocket},
    },
};

/// The sockets of one limit that user space has seen, by inode. (Some have no tag: listeners
/// that are shared.)
#[derive(Default)]
pub(super) struct Sockets {
    /// With the cgroup it was created in, `None` until `sock_diag` told.
    known: HashMap<u64, Option<u64>>,
    /// Sockets of other families: not looked at again.
    foreign: HashSet<u64>,
    /// Namespaces where an MPTCP socket was tagged by the last pass. Its subflows get the tag
    /// with their next packet, and only then can the iterator adopt them.
    subflows: Vec<Netns>,
    /// Journal records of the paces that applications had set themselves.
    paces: Vec<Entry>,
}

/// What a rescan found.
#[derive(Default)]
pub(super) struct Found {
    /// Namespaces with sockets that we tagged or untagged: the iterator must visit them.
    pub(super) changed: Vec<Netns>,
    /// Namespaces with sockets that were not known: `sock_diag` must be asked about them.
    unknown: Vec<Netns>,
}

/// What a rescan needs.
pub(super) struct Scan<'a> {
    pub(super) host: &'a Host,
    pub(super) journal: &'a Journal,
    pub(super) maps: &'a mut Maps,
    pub(super) tag: Tag,
    pub(super) members: &'a [Members],
}

impl Sockets {
    /// The ids of the cgroups in which the sockets were created.
    pub(super) fn cgroups(&self) -> BTreeSet<u64> {
        self.known.values().copied().flatten().collect()
    }

    /// The records of what has its own pace back.
    pub(super) fn take_records(&mut self) -> Vec<Entry> {
        mem::take(&mut self.paces)
    }

    /// Tags the sockets that came since the last look, untags those that no member holds.
    pub(super) fn rescan(&mut self, scan: &mut Scan<'_>) -> Result<Found> {
        let mut found = Found { changed: mem::take(&mut self.subflows), ..Found::default() };
        let mut held = HashSet::new();
        let mut listeners = Vec::new();
        for process in scan.members.iter().flat_map(Members::processes) {
            let Ok(inodes) = sockets::inodes_of(scan.host, process.key.pid) else { continue };
            let mut netns = None;
            for (fd, inode) in inodes {
                held.insert(inode);
                if self.known.contains_key(&inode) || self.foreign.contains(&inode) {
                    continue;
                }
                let Some(socket) = sockets::grab(process, fd, inode)? else { continue };
                let Some(info) = sockets::describe(&socket).filter(can_be_limited) else {
                    self.foreign.insert(inode);
                    continue;
                };
                let netns = match &netns {
                    Some(netns) => netns,
                    None => netns.insert(Netns::of(scan.host, process)?),
                };
                if info.listening {
                    listeners.push((inode, socket, info));
                } else if tag_open(scan, &socket, &info, &mut self.paces)? {
                    remember(&mut found.changed, netns);
                    if info.protocol == Protocol::Mptcp {
                        remember(&mut self.subflows, netns);
                    }
                }
                self.known.insert(inode, None);
                remember(&mut found.unknown, netns);
            }
        }
        tag_listeners(scan, &listeners, &mut self.paces)?;
        self.foreign.retain(|inode| held.contains(inode));
        if !self.subflows.is_empty() {
            scan.maps.forget_untagged()?;
        }
        self.untag_given_away(scan, &held, &mut found)?;
        self.learn_cgroups(&found);
        Ok(found)
    }

    /// Asks `sock_diag` where the new sockets were created.
    fn learn_cgroups(&mut self, found: &Found) {
        for netns in &found.unknown {
            for socket in dump(netns) {
                if let Some(cgroup) = self.known.get_mut(&socket.inode) {
                    *cgroup = socket.cgroup;
                }
            }
        }
    }

    /// A socket that is gone from all members is closed, or somebody else's now.
    fn untag_given_away(
        &mut self,
        scan: &mut Scan<'_>,
        held: &HashSet<u64>,
        found: &mut Found,
    ) -> Result<()> {
        let gone: Vec<u64> = self
            .known
            .extract_if(|inode, _| !held.contains(inode))
            .map(|(inode, _)| inode)
            .collect();
        if gone.is_empty() {
            return Ok(());
        }
        let owners = SocketMap::scan(scan.host)?;
        for inode in gone {
            for &pid in owners.owners(inode) {
                match untag(scan, pid, inode) {
                    Ok(netns) => {
                        debug!("socket {inode} belongs to process {pid} now");
                        remember(&mut found.changed, &netns);
                    }
                    Err(error) => debug!("socket {inode} of process {pid}: {error}"),
                }
            }
        }
        Ok(())
    }
}

/// Tags an open socket, unless the kernel already did; says whether it did so. An
/// application's own pace is written down first.
fn tag_open(
    scan: &mut Scan<'_>,
    socket: &OwnedFd,
    info: &SocketInfo,
    paces: &mut Vec<Entry>,
) -> Result<bool> {
    if scan.maps.tag_of(socket).is_some_and(|tag| same_limit(tag, scan.tag)) {
        return Ok(false);
    }
    // UDP sockets have a pace too, but nothing of ours ever changes it.
    let rate = sockets::pace(socket)?;
    if rate != sockets::NO_PACE && info.protocol != Protocol::Udp {
        let undo = Undo::Pace { cookie: info.cookie, rate };
        paces.push(scan.journal.record(Some(BackendId::Ebpf), &undo)?);
    }
    if let Err(error) = scan.maps.tag(socket, scan.tag) {
        warn!("cannot tag a socket: {error}");
        return Ok(false);
    }
    Ok(true)
}

/// A listener hands its tag on to what it accepts, so one that is shared with a process that
/// is not meant stays without: the rescan finds what our members accept on it.
fn tag_listeners(
    scan: &mut Scan<'_>,
    listeners: &[(u64, OwnedFd, SocketInfo)],
    paces: &mut Vec<Entry>,
) -> Result<()> {
    if listeners.is_empty() {
        return Ok(());
    }
    let owners = SocketMap::scan(scan.host)?;
    for (inode, socket, info) in listeners {
        let shared = owners
            .owners(*inode)
            .iter()
            .any(|pid| !scan.members.iter().any(|members| members.contains(*pid)));
        if shared {
            debug!("listener {inode} is shared with others and stays without a tag");
            continue;
        }
        tag_open(scan, socket, info, paces)?;
        if let Some(port) = local_port(socket)
            && let Err(error) = scan.maps.add_listener(port, scan.tag)
        {
            warn!("cannot note the listener on port {port}: {error}");
        }
    }
    Ok(())
}

fn untag(scan: &mut Scan<'_>, pid: i32, inode: u64) -> Result<Netns> {
    let process = Process::open(scan.host, pid)?;
    let numbers = sockets::inodes_of(scan.host, pid)?;
    let number = numbers.into_iter().find(|(_, other)| *other == inode);
    let socket = match number {
        Some((number, _)) => sockets::grab(&process, number, inode)?,
        None => None,
    };
    if let Some(socket) = socket
        && scan.maps.tag_of(&socket).is_some_and(|tag| same_limit(tag, scan.tag))
    {
        scan.maps
            .untag(&socket)
            .map_err(|error| Error::io("untag a socket of", &process, error))?;
    }
    Netns::of(scan.host, &process)
}

fn same_limit(a: Tag, b: Tag) -> bool {
    (a.limit, a.generation) == (b.limit, b.generation)
}

fn can_be_limited(info: &SocketInfo) -> bool {
    matches!(info.protocol, Protocol::Tcp | Protocol::Mptcp | Protocol::Udp)
}

fn local_port(socket: &OwnedFd) -> Option<u16> {
    let address = SocketAddr::try_from(getsockname(socket).ok()?).ok()?;
    Some(address.port())
}

fn remember(namespaces: &mut Vec<Netns>, netns: &Netns) {
    if !namespaces.contains(netns) {
        namespaces.push(netns.clone());
    }
}

/// The sockets of a namespace; none when it cannot be asked, and the log says why.
fn dump(netns: &Netns) -> Vec<DiagSocket> {
    match netns::run_in(netns, diag::dump).and_then(|dumped| dumped) {
        Ok(sockets) => sockets,
        Err(error) => {
            warn!("{error}");
            Vec::new()
        }
    }
}
