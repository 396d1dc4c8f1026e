//! Giving sockets back what they had: on release, by the guardian, by `clean`.
//!
//! The iterator knows exactly which sockets were paced or clamped and what they had before,
//! those included that no process holds any more. Where it is missing, and in `clean`, the
//! sockets are reached through the processes that hold them.

use std::{fs::File, os::fd::AsFd};

use chadthrottle_core::{
    Error, Host, Result, Target, cgroup,
    journal::{Held, Undo},
    process::Process,
};
use chadthrottle_ebpf::layout::RESTORE;
use tracing::{debug, warn};

use super::maps::aim_held_iterator;
use crate::{
    bpf, moved,
    netns::{self, Netns},
    sockets::{self, Protocol},
};

/// Labels of what the guardian holds.
pub(super) const HELD_ITERATOR: &str = "ebpf-iterator";
pub(super) const HELD_GLOBAL: &str = "ebpf-global";

/// The record that is written before sockets of these targets are touched.
pub(super) fn sockets_of(targets: &[Target]) -> Undo {
    let (processes, cgroups) = moved::named(targets);
    Undo::Sockets { processes, cgroups }
}

/// Takes back one record of a dead instance.
pub(super) fn undo(host: &Host, record: &Undo, held: &Held, all: &[Undo]) -> Result<()> {
    match record {
        Undo::Attachment { path, id, attach_type, program } => {
            detach(path, *id, *attach_type, *program)
        }
        Undo::Sockets { processes, cgroups } => {
            let processes = moved::gather(host, processes, cgroups);
            restore(host, &processes, held, all);
            Ok(())
        }
        // Read together with the sockets.
        Undo::Pace { .. } => Ok(()),
        _ => Err(Error::new(chadthrottle_core::ErrorKind::Failed, "take back", record)
            .meaning("It is not a change that this backend makes.")),
    }
}

fn restore(host: &Host, processes: &[Process], held: &Held, all: &[Undo]) {
    let (Some(program), Some(global)) = (held.get(HELD_ITERATOR), held.get(HELD_GLOBAL)) else {
        return restore_by_descriptor(host, processes.iter(), all);
    };
    let aimed = global.try_clone().and_then(|global| aim_held_iterator(global, RESTORE));
    if let Err(error) = aimed {
        debug!("the iterator cannot be used: {error}");
        return restore_by_descriptor(host, processes.iter(), all);
    }
    for netns in namespaces_of(host, processes.iter()) {
        if let Err(error) = run_iterator_in(&netns, program) {
            warn!("{error}");
        }
    }
}

/// Gives every TCP socket of these processes its pace and window back.
pub(super) fn restore_by_descriptor<'a>(
    host: &Host,
    processes: impl Iterator<Item = &'a Process>,
    records: &[Undo],
) {
    for process in processes {
        for (fd, inode) in sockets::inodes_of(host, process.key.pid).unwrap_or_default() {
            let Ok(Some(socket)) = sockets::grab(process, fd, inode) else { continue };
            let Some(info) = sockets::describe(&socket) else { continue };
            if !matches!(info.protocol, Protocol::Tcp | Protocol::Mptcp) {
                continue;
            }
            let pace = records.iter().find_map(|record| match record {
                Undo::Pace { cookie, rate } if *cookie == info.cookie => Some(*rate),
                _ => None,
            });
            if let Err(error) = sockets::restore(&socket, pace) {
                warn!("cannot restore a socket of process {process}: {error}");
            }
        }
    }
}

/// Runs the iterator's program over the TCP sockets of one namespace.
pub(super) fn run_iterator_in(netns: &Netns, program: impl AsFd) -> Result<()> {
    let program = program.as_fd();
    netns::run_in(netns, || bpf::run_iterator(program))?
        .map_err(|error| Error::io("iterate over the sockets of", netns, error))
}

/// The distinct network namespaces of processes that still run.
pub(super) fn namespaces_of<'a>(
    host: &Host,
    processes: impl Iterator<Item = &'a Process>,
) -> Vec<Netns> {
    let mut namespaces: Vec<Netns> = Vec::new();
    for netns in processes.filter_map(|process| Netns::of(host, process).ok()) {
        if !namespaces.contains(&netns) {
            namespaces.push(netns);
        }
    }
    namespaces
}

/// Detaches our program, if it is still attached to that very cgroup.
fn detach(path: &std::path::Path, id: u64, attach_type: u32, program: u32) -> Result<()> {
    if cgroup::id(path).ok() != Some(id) {
        return Ok(());
    }
    let detached = File::open(path)
        .and_then(|directory| bpf::detach_by_id(&directory, attach_type, program));
    match detached {
        Err(error) if error.raw_os_error() == Some(2) => Ok(()),
        other => other.map_err(|error| Error::io("detach from", path.display(), error)),
    }
}
