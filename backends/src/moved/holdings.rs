//! Which sockets the members hold, and which of them need a mark.

use std::{
    collections::{HashMap, HashSet},
    os::fd::OwnedFd,
};

use chadthrottle_core::{Host, Result, journal::Journal, process::Process};
use tracing::{debug, warn};

use super::{
    mark::{Mark, Marked},
    members::{Members, Place},
};
use crate::{
    netns::{self, Netns},
    sockets::{self, Protocol, SocketInfo, SocketMap, diag},
    steer::{Reach, Steering},
};

/// A socket that a member holds.
#[derive(Debug, Clone)]
pub struct Socket {
    /// Who holds it, and under which number there.
    holder: (Process, i32),
    /// Its number in sockfs.
    pub inode: u64,
    /// What it is.
    pub info: SocketInfo,
    standing: Standing,
}

/// How rules know a socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    /// Nobody has looked yet.
    Unknown,
    /// By its cgroup.
    Inside,
    /// By the mark.
    Marked,
    /// Not at all: a listener that is shared with others, or one with a mark of somebody else.
    Not,
}

impl Socket {
    /// Where it can be fetched when it is a TCP connection. (What is set on a listener would pass to
    /// all that is accepted on it, by whomever.)
    #[must_use]
    pub fn reach(&self) -> Option<Reach<'_>> {
        let SocketInfo { protocol, cookie, listening, .. } = self.info;
        let (holder, number) = (&self.holder.0, self.holder.1);
        let is_connection = protocol == Protocol::Tcp && !listening;
        is_connection.then_some(Reach { holder, number, inode: self.inode, cookie })
    }

    /// Our own descriptor for it; `None` when it is closed by now. Keep it for a moment only:
    /// meanwhile the connection does not close.
    pub fn grab(&self) -> Result<Option<OwnedFd>> {
        sockets::grab(&self.holder.0, self.holder.1, self.inode)
    }
}

/// What changed since the last scan.
#[derive(Debug, Default)]
pub struct Found {
    /// Sockets that were not there, each with a descriptor.
    pub new: Vec<(Socket, OwnedFd)>,
    /// Those that no member holds any more.
    pub gone: Vec<Socket>,
}

/// The TCP, MPTCP and UDP sockets of the members of one limit, by inode.
#[derive(Debug, Default)]
pub struct Holdings {
    known: HashMap<u64, Socket>,
    /// Sockets of other families: not looked at again.
    foreign: HashSet<u64>,
    /// Whether sockets of a cgroup, by its id, are known by their cgroup.
    inside: HashMap<u64, bool>,
}

impl Holdings {
    /// Reads the descriptor tables of the members.
    pub fn scan<'a>(
        &mut self,
        host: &Host,
        members: impl Iterator<Item = &'a Process>,
    ) -> Result<Found> {
        let mut found = Found::default();
        let mut held = HashSet::new();
        for process in members {
            let Ok(inodes) = sockets::inodes_of(host, process.key.pid) else { continue };
            for (number, inode) in inodes {
                if !held.insert(inode) || self.foreign.contains(&inode) {
                    continue;
                }
                if let Some(socket) = self.known.get_mut(&inode) {
                    socket.holder = (process.clone(), number);
                    continue;
                }
                let Some(fd) = sockets::grab(process, number, inode)? else { continue };
                let Some(info) = sockets::describe(&fd).filter(can_be_limited) else {
                    self.foreign.insert(inode);
                    continue;
                };
                let holder = (process.clone(), number);
                let socket = Socket { holder, inode, info, standing: Standing::Unknown };
                self.known.insert(inode, socket.clone());
                found.new.push((socket, fd));
            }
        }
        self.foreign.retain(|inode| held.contains(inode));
        let gone = self.known.extract_if(|inode, _| !held.contains(inode));
        found.gone = gone.map(|(_, socket)| socket).collect();
        Ok(found)
    }

    /// Finds the sockets that came and went; gives those that went to others back what they had.
    /// Goes on after such an error and logs it.
    pub fn follow<'a>(
        &mut self,
        host: &Host,
        journal: &Journal,
        members: impl Iterator<Item = &'a Process>,
        mark: Mark,
        steering: &mut Steering,
    ) -> Result<()> {
        let found = self.scan(host, members)?;
        let gone = || found.gone.iter().map(|socket| socket.inode);
        for (inode, fd) in given_away(host, gone())? {
            if let Err(error) = mark.take_off(&fd).and(steering.free(journal, inode, &fd)) {
                warn!("{error}");
            }
        }
        gone().try_for_each(|inode| steering.forget(journal, inode))
    }

    /// The sockets, as of the last scan.
    pub fn iter(&self) -> impl Iterator<Item = &Socket> {
        self.known.values()
    }

    /// The TCP connections among them.
    #[must_use]
    pub fn connections(&self) -> Vec<Reach<'_>> {
        self.iter().filter_map(Socket::reach).collect()
    }

    /// Marks the sockets that were created outside of `places` and that nobody has looked at
    /// yet. `first`: the limit has just begun, so a socket without a packet is an old one too.
    ///
    /// A listener hands its mark on to what it accepts, so one that is shared with a process
    /// that is not meant stays without. Returns what cannot be marked, in words.
    pub fn mark_strangers(
        &mut self,
        host: &Host,
        members: &[Members],
        places: &[Place],
        mark: Mark,
        first: bool,
    ) -> Result<Vec<String>> {
        let mut cgroups = HashMap::new();
        let unknown: Vec<Process> = self
            .known
            .values()
            .filter(|socket| socket.standing == Standing::Unknown)
            .map(|socket| socket.holder.0.clone())
            .collect();
        if unknown.is_empty() {
            return Ok(Vec::new());
        }
        for netns in namespaces(host, unknown.iter()) {
            match netns::run_in(&netns, diag::dump).and_then(|dumped| dumped) {
                Ok(dumped) => cgroups.extend(
                    dumped
                        .into_iter()
                        .filter_map(|socket| Some((socket.inode, socket.cgroup?))),
                ),
                Err(error) => warn!("{error}"),
            }
        }
        let mut owners = None;
        let mut refused = Vec::new();
        for socket in self.known.values_mut().filter(|s| s.standing == Standing::Unknown) {
            match cgroups.get(&socket.inode) {
                Some(id) => {
                    let inside =
                        self.inside.entry(*id).or_insert_with(|| is_inside(host, *id, places));
                    if *inside {
                        socket.standing = Standing::Inside;
                        continue;
                    }
                }
                None if first => {}
                None => continue, // Not bound, so it has no packets: looked at again.
            }
            if socket.info.listening {
                let owners = match &owners {
                    Some(owners) => owners,
                    None => owners.insert(SocketMap::scan(host)?),
                };
                let members = |pid: &i32| members.iter().any(|members| members.contains(*pid));
                if !owners.owners(socket.inode).iter().all(members) {
                    debug!(
                        "listener {} is shared with others and stays unmarked",
                        socket.inode
                    );
                    socket.standing = Standing::Not;
                    continue;
                }
            }
            let Some(fd) = socket.grab()? else { continue };
            socket.standing = match mark.put_on(&fd)? {
                Marked::Yes => Standing::Marked,
                Marked::Foreign(other) => {
                    let (holder, inode) = (&socket.holder.0, socket.inode);
                    refused.push(format!(
                        "socket {inode} of process {holder} was open before and carries a mark \
                         ({other:#x}) that decides about its route: it is not limited"
                    ));
                    Standing::Not
                }
            };
        }
        Ok(refused)
    }

    /// Takes the mark off every socket that carries it. Goes on after errors and logs them.
    pub fn unmark(&mut self, mark: Mark) {
        for socket in self
            .known
            .values_mut()
            .filter(|s| s.info.listening || s.standing != Standing::Inside)
        {
            let unmarked =
                socket.grab().and_then(|fd| fd.map_or(Ok(()), |fd| mark.take_off(fd)));
            if let Err(error) = unmarked {
                warn!("{error}");
            }
            socket.standing = Standing::Unknown;
        }
    }
}

/// Those of `gone` that somebody else holds now, each with a descriptor.
pub fn given_away(
    host: &Host,
    gone: impl IntoIterator<Item = u64>,
) -> Result<Vec<(u64, OwnedFd)>> {
    let mut gone = gone.into_iter().peekable();
    if gone.peek().is_none() {
        return Ok(Vec::new());
    }
    let owners = SocketMap::scan(host)?;
    let mut found = Vec::new();
    for inode in gone {
        for &pid in owners.owners(inode).iter().take(1) {
            let Ok(process) = Process::open(host, pid) else { continue };
            let numbers = sockets::inodes_of(host, pid).unwrap_or_default();
            let number = numbers.into_iter().find(|(_, held)| *held == inode);
            if let Some((number, _)) = number {
                let fd = sockets::grab(&process, number, inode)?;
                found.extend(fd.map(|fd| (inode, fd)));
            }
        }
    }
    Ok(found)
}

/// The distinct network namespaces of processes that still run.
pub fn namespaces<'a>(host: &Host, processes: impl Iterator<Item = &'a Process>) -> Vec<Netns> {
    let mut found: Vec<Netns> = Vec::new();
    for netns in processes.filter_map(|process| Netns::of(host, process).ok()) {
        if !found.contains(&netns) {
            found.push(netns);
        }
    }
    found
}

/// Whether the cgroup with this id is one of the places or lies below one.
#[must_use]
pub fn is_inside(host: &Host, id: u64, places: &[Place]) -> bool {
    places.iter().any(|place| place.id == id)
        || host
            .cgroups()
            .ok()
            .and_then(|cgroups| cgroups.find(id))
            .is_some_and(|path| places.iter().any(|place| path.starts_with(&place.path)))
}

fn can_be_limited(info: &SocketInfo) -> bool {
    matches!(info.protocol, Protocol::Tcp | Protocol::Mptcp | Protocol::Udp)
}
