//! Whether processes may still have something to do with a network namespace that they are not in.
//!
//! One that enters another namespace (`setns(2)`) keeps its sockets, and may leave threads behind.
//! `sock_diag` does not list sockets that are neither bound nor connected: they say themselves where
//! they belong. What cannot be found out counts as being there.

use std::{collections::HashSet, fs, os::unix::fs::MetadataExt};

use chadthrottle_core::{Host, Result, process::Process};
use rustix::io::Errno;
use tracing::debug;

use crate::sockets;

/// A namespace, by the inode of its file and by its cookie (`SO_NETNS_COOKIE`), before kernel 5.14 none.
#[derive(Debug, Clone, Copy)]
pub(super) struct Names {
    pub(super) id: u64,
    pub(super) cookie: Option<u64>,
}

/// Whether a thread of these processes is there, or a socket that one of them holds belongs there.
/// Those of `elsewhere` are known to belong to other namespaces.
pub(super) fn may_be_in(
    host: &Host,
    names: Names,
    processes: &[&Process],
    elsewhere: &HashSet<u64>,
) -> bool {
    // What a thread makes before it leaves is found afterwards.
    processes.iter().any(|process| has_thread(host, process, names.id))
        || processes.iter().any(|process| {
            has_socket(host, process, names.cookie, elsewhere).unwrap_or_else(|error| {
                debug!("{error}");
                error.kind != chadthrottle_core::ErrorKind::NoSuchTarget
            })
        })
}

fn has_thread(host: &Host, process: &Process, netns: u64) -> bool {
    let threads = host.proc.join(process.key.pid.to_string()).join("task");
    let is_there =
        |thread: fs::DirEntry| Ok(fs::metadata(thread.path().join("ns/net"))?.ino() == netns);
    let looked = fs::read_dir(threads).and_then(|mut threads| {
        threads.try_fold(false, |found, thread| match is_there(thread?) {
            Err(error) if has_ended(&error) => Ok(found),
            there => Ok(found || there?),
        })
    });
    looked.unwrap_or_else(|error| !has_ended(&error))
}

fn has_ended(error: &std::io::Error) -> bool {
    matches!(Errno::from_io_error(error), Some(Errno::NOENT | Errno::SRCH))
}

fn has_socket(
    host: &Host,
    process: &Process,
    cookie: Option<u64>,
    elsewhere: &HashSet<u64>,
) -> Result<bool> {
    for (number, inode) in sockets::inodes_of(host, process.key.pid)? {
        if elsewhere.contains(&inode) {
            continue;
        }
        if let Some(fd) = sockets::grab(process, number, inode)?
            && sockets::describe(&fd).is_some()
            && (cookie.is_none() || sockets::netns_cookie(&fd) == cookie)
        {
            return Ok(true);
        }
    }
    Ok(false)
}
