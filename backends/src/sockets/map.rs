//! All sockets of all processes.

use std::collections::HashMap;

use chadthrottle_core::{Error, Host, Result};
use rustix::{
    fs::{CWD, Mode, RawDir, openat},
    io::Errno,
};

use super::{DIRECTORY, each_socket};

/// Who holds which socket, at the moment of the scan.
///
/// Tells a socket that a target shares with processes that are not meant (a listener
/// inherited over fork), and one that went to another process (`SCM_RIGHTS`).
#[derive(Debug, Clone, Default)]
pub struct SocketMap {
    owners: HashMap<u64, Vec<i32>>,
}

impl SocketMap {
    /// Reads the descriptor tables of all processes that we may look into; what ends or is
    /// closed meanwhile is skipped.
    ///
    /// Fails only when the proc file system itself cannot be read.
    pub fn scan(host: &Host) -> Result<Self> {
        let failed = |errno: Errno| Error::io("read", host.proc.display(), errno.into());
        let proc = openat(CWD, &host.proc, DIRECTORY, Mode::empty()).map_err(failed)?;
        let mut owners: HashMap<u64, Vec<i32>> = HashMap::new();
        let mut buffer = Vec::with_capacity(32 * 1024);
        let mut entries = RawDir::new(&proc, buffer.spare_capacity_mut());
        while let Some(entry) = entries.next() {
            let entry = entry.map_err(failed)?;
            let Some(pid) = entry.file_name().to_str().ok().and_then(|n| n.parse().ok()) else {
                continue; // not a process
            };
            let path = format!("{pid}/fd");
            let Ok(fds) = openat(&proc, path, DIRECTORY, Mode::empty()) else { continue };
            let ended = each_socket(&fds, |_, inode| {
                let pids = owners.entry(inode).or_default();
                // Its own duplicates come one after the other.
                if pids.last() != Some(&pid) {
                    pids.push(pid);
                }
            });
            if let Err(errno) = ended {
                tracing::trace!(pid, %errno, "process ended while its sockets were read");
            }
        }
        Ok(Self { owners })
    }

    /// The processes that hold this socket; empty when none does (or it is of another kind:
    /// a connection not accepted yet, a kernel socket, one in flight over a unix socket).
    #[must_use]
    pub fn owners(&self, inode: u64) -> &[i32] {
        self.owners.get(&inode).map_or(&[], Vec::as_slice)
    }

    /// All sockets, as (inode, the processes that hold it).
    pub fn iter(&self) -> impl Iterator<Item = (u64, &[i32])> {
        self.owners.iter().map(|(&inode, pids)| (inode, pids.as_slice()))
    }

    /// How many sockets there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.owners.len()
    }

    /// Whether no process holds any socket.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.owners.is_empty()
    }
}
