//! Taking marks, paces and window clamps off sockets when whoever put them there is dead.

use std::path::PathBuf;

use chadthrottle_core::{
    Error, ErrorKind, Host, Result, Target, cgroup,
    journal::Undo,
    process::{Process, ProcessKey},
};
use tracing::warn;

use super::{Mark, Members};
use crate::sockets::{self, Protocol};

/// The record that is written before the sockets of these targets are touched; `steered`: their
/// pace and window as well.
pub fn record(targets: &[Target], members: &[Members], mark: Mark, steered: bool) -> Undo {
    let (processes, mut cgroups) = named(targets);
    // Children whose parent has ended are found in the leaf only.
    cgroups.extend(members.iter().flat_map(Members::leaf_paths));
    Undo::Marks { processes, cgroups, mark: mark.value(), steered }
}

/// Takes such a record back; paces that applications had set themselves are in `all`.
pub fn undo(host: &Host, record: &Undo, all: &[Undo]) -> Result<()> {
    let (processes, cgroups, mark, steered) = match record {
        Undo::Marks { processes, cgroups, mark, steered } => {
            (processes, cgroups, Some(Mark::from_value(*mark)), *steered)
        }
        Undo::Sockets { processes, cgroups } => (processes, cgroups, None, true),
        // Read together with the sockets.
        Undo::Pace { .. } => return Ok(()),
        _ => {
            return Err(Error::new(ErrorKind::Failed, "take back", record)
                .meaning("It is not a change that this backend makes."));
        }
    };
    for process in gather(host, processes, cgroups) {
        for (number, inode) in sockets::inodes_of(host, process.key.pid).unwrap_or_default() {
            let Ok(Some(socket)) = sockets::grab(&process, number, inode) else { continue };
            let Some(info) = sockets::describe(&socket) else { continue };
            if let Some(mark) = mark
                && let Err(error) = mark.take_off(&socket)
            {
                warn!("cannot take the mark off a socket of process {process}: {error}");
            }
            if steered && info.protocol == Protocol::Tcp {
                let pace = all.iter().find_map(|record| match record {
                    Undo::Pace { cookie, rate } if *cookie == info.cookie => Some(*rate),
                    _ => None,
                });
                if let Err(error) = sockets::restore(&socket, pace) {
                    warn!("cannot restore a socket of process {process}: {error}");
                }
            }
        }
    }
    Ok(())
}

/// What records call targets: the processes among them, and the cgroups.
pub(crate) fn named(targets: &[Target]) -> (Vec<ProcessKey>, Vec<PathBuf>) {
    let mut names = (Vec::new(), Vec::new());
    for target in targets {
        match target {
            Target::Process(process) => names.0.push(process.key),
            Target::Cgroup(target) => names.1.push(target.path.clone()),
        }
    }
    names
}

/// The recorded processes that still run, with their children, and those in the cgroups.
pub(crate) fn gather(host: &Host, keys: &[ProcessKey], paths: &[PathBuf]) -> Vec<Process> {
    let mut processes: Vec<Process> =
        keys.iter().filter_map(|key| Process::reopen(host, *key)).collect();
    let children: Vec<ProcessKey> =
        processes.iter().flat_map(|process| process.children(host)).collect();
    processes.extend(children.into_iter().filter_map(|key| Process::reopen(host, key)));
    for path in paths {
        let pids = cgroup::processes(path).unwrap_or_default();
        processes.extend(pids.into_iter().filter_map(|pid| Process::open(host, pid).ok()));
    }
    processes
}
