//! What is known about the sockets of a target between two looks.

use std::collections::{HashMap, HashSet};

use chadthrottle_core::{Host, Result};

use super::{flows::Owned, members::Members};
use crate::{
    sockets::{self, DiagSocket, Protocol, SocketMap},
    steer::Reach,
};

/// Descriptor tables are read only when a socket appeared that was not there before, when somebody
/// joined the target, or once a second: for the rest one list of all sockets is enough.
#[derive(Debug, Default)]
pub(super) struct Known {
    /// All sockets of the last look, whoever has them.
    seen: HashSet<u64>,
    /// Those in the descriptor tables of the target's processes: pid, and number there.
    held: HashMap<u64, (i32, i32)>,
    /// The target's TCP connections in each namespace: inode and cookie.
    connections: HashMap<u64, HashMap<u64, u64>>,
    /// Some of them were not there before.
    news: bool,
    /// Of those, the ones that wait for connections or packets, when others hold them too.
    shared: HashSet<u64>,
    /// Those whose sharing has been found out.
    examined: HashSet<u64>,
    /// Cookies of the target's sockets in each namespace: one that was closed sends the rest without
    /// an owner.
    cookies: HashMap<u64, HashSet<u64>>,
    pids: Vec<i32>,
    stale: bool,
}

impl Known {
    /// Makes the next [`Known::learn`] read everything.
    pub(super) fn look_again(&mut self) {
        self.stale = true;
        self.examined.clear();
    }

    /// Takes in a list of all sockets of one namespace.
    pub(super) fn learn(
        &mut self,
        host: &Host,
        members: &[Members],
        netns: u64,
        sockets: &[DiagSocket],
    ) -> Result<()> {
        let pids: Vec<i32> = members.iter().flat_map(Members::pids).collect();
        let inodes: HashSet<u64> = sockets.iter().map(|socket| socket.inode).collect();
        if self.stale || pids != self.pids || !inodes.is_subset(&self.seen) {
            self.held = pids
                .iter()
                // What ends meanwhile has no sockets any more.
                .flat_map(|&pid| {
                    let held = sockets::inodes_of(host, pid).unwrap_or_default();
                    held.into_iter().map(move |(number, inode)| (inode, (pid, number)))
                })
                .collect();
            if self.stale {
                self.seen.clear();
            }
            (self.pids, self.stale) = (pids, false);
        }
        self.seen.extend(inodes);
        self.examine(host, members, sockets)?;
        let ours: Vec<&DiagSocket> = {
            let view = self.view(members);
            sockets.iter().filter(|socket| view.has(socket)).collect()
        };
        let connections = ours.iter().filter(|socket| is_open(socket));
        let connections: HashMap<u64, u64> =
            connections.map(|socket| (socket.inode, socket.cookie)).collect();
        let before = self.connections.remove(&netns).unwrap_or_default();
        self.news |= connections.keys().any(|inode| !before.contains_key(inode));
        if !connections.is_empty() {
            self.connections.insert(netns, connections);
        }
        let ours: Vec<u64> = ours.into_iter().map(|socket| socket.cookie).collect();
        let listed: HashSet<u64> = sockets.iter().map(|socket| socket.cookie).collect();
        let mut cookies = self.cookies.remove(&netns).unwrap_or_default();
        cookies.retain(|cookie| listed.contains(cookie));
        cookies.extend(ours);
        if !cookies.is_empty() {
            self.cookies.insert(netns, cookies);
        }
        Ok(())
    }

    /// Finds out which of the target's open doors others can use too.
    fn examine(
        &mut self,
        host: &Host,
        members: &[Members],
        sockets: &[DiagSocket],
    ) -> Result<()> {
        let view = self.view(members);
        let doors: HashSet<u64> = sockets
            .iter()
            .filter(|socket| socket.inode != 0 && is_door(socket) && view.has(socket))
            .map(|socket| socket.inode)
            .collect();
        if doors.is_subset(&self.examined) {
            return Ok(());
        }
        let owners = SocketMap::scan(host)?;
        let strangers = |inode: u64| {
            let pids = owners.owners(inode).iter();
            pids.filter(|pid| !members.iter().any(|members| members.has_process(**pid))).count()
        };
        self.shared = doors.iter().copied().filter(|&inode| strangers(inode) > 0).collect();
        self.examined = doors;
        Ok(())
    }

    /// The target's TCP connections, where they can be fetched.
    pub(super) fn connections<'a>(&'a self, members: &'a [Members]) -> Vec<Reach<'a>> {
        let all = self.connections.values().flatten();
        all.filter_map(|(&inode, &cookie)| {
            let (pid, number) = *self.held.get(&inode)?;
            let holder = members.iter().find_map(|members| members.process(pid))?;
            Some(Reach { holder, number, inode, cookie })
        })
        .collect()
    }

    /// Whether connections came since the last time.
    pub(super) fn take_news(&mut self) -> bool {
        std::mem::take(&mut self.news)
    }

    /// Which of these sockets the target does not hold any more, and whether they are still open.
    pub(super) fn lost(
        &self,
        inodes: impl Iterator<Item = u64>,
    ) -> impl Iterator<Item = (u64, bool)> {
        inodes
            .filter(|inode| !self.held.contains_key(inode))
            .map(|inode| (inode, self.seen.contains(&inode)))
    }

    pub(super) fn view<'a>(&'a self, members: &'a [Members]) -> View<'a> {
        View { known: self, members }
    }
}

/// TCP connections that somebody holds, those that are being opened too.
fn is_open(socket: &DiagSocket) -> bool {
    let is_connection = socket.protocol == Protocol::Tcp && socket.remote.1 != 0;
    is_connection && socket.inode != 0 && !socket.remote.0.is_loopback()
}

/// Listeners, and UDP sockets without a peer.
fn is_door(socket: &DiagSocket) -> bool {
    socket.is_listening() || (socket.protocol == Protocol::Udp && socket.remote.1 == 0)
}

/// See [`Owned`].
pub(super) struct View<'a> {
    known: &'a Known,
    members: &'a [Members],
}

impl Owned for View<'_> {
    fn has(&self, socket: &DiagSocket) -> bool {
        let created = |id| self.members.iter().any(|members| members.has_cgroup(id));
        let held = match socket.inode {
            0 => self.known.cookies.values().any(|cookies| cookies.contains(&socket.cookie)),
            inode => self.known.held.contains_key(&inode),
        };
        held || socket.cgroup.is_some_and(created)
    }

    fn is_shared(&self, socket: &DiagSocket) -> bool {
        self.known.shared.contains(&socket.inode)
    }
}
