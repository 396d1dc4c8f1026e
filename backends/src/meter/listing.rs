//! Without a program: what `sock_diag` says of TCP connections, and /proc of who holds them.

use std::{
    collections::{HashMap, hash_map::Entry},
    time::Instant,
};

use chadthrottle_core::{Host, Result, process};

use super::{Sample, SocketTally, Tally};
use crate::sockets::{Connection, SocketMap, connections};

pub(super) struct Listing {
    host: Host,
    /// By cookie: what had passed when the meter started, or at the last look.
    known: HashMap<u64, (u64, u64)>,
    /// What each process moved since.
    totals: HashMap<i32, Tally>,
    /// What passed each socket since.
    first: Option<HashMap<u64, (u64, u64)>>,
    unknown: (u64, u64),
}

impl Listing {
    pub(super) fn new(host: &Host) -> Self {
        Self {
            host: host.clone(),
            known: HashMap::new(),
            totals: HashMap::new(),
            first: None,
            unknown: (0, 0),
        }
    }

    pub(super) fn sample(&mut self) -> Result<Sample> {
        let connections = connections()?;
        let holders = SocketMap::scan(&self.host)?;
        let mut sample = Sample::new(Instant::now());
        if self.first.is_none() {
            // Nothing has passed since the start.
            let now = |c: &Connection| (c.socket.cookie, (c.received, c.sent));
            let first: HashMap<_, _> = connections.iter().map(now).collect();
            self.known.clone_from(&first);
            self.first = Some(first);
        }
        let mut known = HashMap::with_capacity(connections.len());
        for connection in connections.iter().filter(|c| !c.is_loopback()) {
            let cookie = connection.socket.cookie;
            let (received, sent) = (connection.received, connection.sent);
            known.insert(cookie, (received, sent));
            let before = self.known.get(&cookie).copied().unwrap_or_default();
            let gained = (received.saturating_sub(before.0), sent.saturating_sub(before.1));
            let pids = holders.owners(connection.socket.inode);
            let at_first = self.first.as_ref().and_then(|first| first.get(&cookie)).copied();
            let (first_received, first_sent) = at_first.unwrap_or_default();
            for (number, &pid) in pids.iter().enumerate() {
                sample.sockets.push(SocketTally {
                    pid,
                    cookie,
                    received: received.saturating_sub(first_received),
                    sent: sent.saturating_sub(first_sent),
                });
                let tally = match self.totals.entry(pid) {
                    Entry::Occupied(entry) => entry.into_mut(),
                    Entry::Vacant(entry) => {
                        let Some(tally) = begin(&self.host, pid) else { continue };
                        entry.insert(tally)
                    }
                };
                tally.sockets += 1;
                // Of several that hold it, the first.
                if number == 0 {
                    tally.received += gained.0;
                    tally.sent += gained.1;
                }
            }
            if pids.is_empty() {
                self.unknown.0 += gained.0;
                self.unknown.1 += gained.1;
            }
        }
        self.known = known;
        sample.unknown = self.unknown;
        sample.sockets.sort_by_key(|socket| (socket.pid, socket.cookie));
        sample.processes.clone_from(&self.totals);
        self.totals.retain(|_, tally| std::mem::take(&mut tally.sockets) > 0);
        Ok(sample)
    }
}

/// A process that is seen for the first time.
fn begin(host: &Host, pid: i32) -> Option<Tally> {
    let name = process::name(host, pid)?;
    Some(Tally { name, started: 0, sockets: 0, received: 0, sent: 0 })
}
