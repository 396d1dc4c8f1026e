//! Which processes are meant, and the cgroups that their new sockets are created in.

use std::{
    collections::BTreeMap,
    path::{Component, Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering},
};

use chadthrottle_core::{
    Error, ErrorKind, Host, Result,
    cgroup::{self, Cgroups, Leaf},
    journal::Journal,
    process::{self, Process},
    target::{CgroupTarget, Target},
};
use rustix::io::Errno;
use tracing::{debug, info};

/// A cgroup whose sockets, and those of all cgroups below, are limited.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// Where it is.
    pub path: PathBuf,
    /// Its id (inode), what `socket cgroupv2` compares.
    pub id: u64,
    /// How far below the root of our cgroup namespace it is (`net/netfilter/nft_socket.c`): 0 is the root.
    pub level: u32,
}

impl Place {
    /// A cgroup.
    pub fn at(host: &Host, path: &Path) -> Result<Self> {
        Self::of(host.cgroups()?, path, cgroup::id(path)?)
    }

    fn of(cgroups: &Cgroups, path: &Path, id: u64) -> Result<Self> {
        let level = level(cgroups, path).ok_or_else(|| {
            Error::new(ErrorKind::NoBackend, "match the sockets of", path.display())
                .meaning("It lies above the cgroup namespace that chadthrottle runs in.")
                .advice("Run chadthrottle outside the container.")
        })?;
        Ok(Self { path: path.to_owned(), id, level })
    }
}

/// How far a cgroup is below the root of our cgroup namespace; `None` above it. The kernel adds how
/// deep that lies (`nft_socket_cgroup_subtree_level`). Those that do not yet match nothing within a
/// namespace, which the rehearsal tells.
fn level(cgroups: &Cgroups, path: &Path) -> Option<u32> {
    // "/a/b": a bind mount shows a part. "/../..": the mount was made outside of our namespace.
    let (up, down): (Vec<_>, Vec<_>) = cgroups
        .root
        .components()
        .filter(|part| *part != Component::RootDir)
        .partition(|part| *part == Component::ParentDir);
    let below = path.strip_prefix(&cgroups.mount).unwrap_or(path).components().count();
    (down.len() + below).checked_sub(up.len()).map(|level| level as u32)
}

/// What became of a target since the last look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// It is there.
    Alive,
    /// Its cgroup is gone, but may come again (a unit that restarts).
    Away,
    /// All of it has ended.
    Ended,
}

/// One target of a limit and the processes that belong to it now.
#[derive(Debug)]
pub struct Members {
    target: Target,
    /// By pid; a process is kept open so that its pid cannot mean another one.
    processes: BTreeMap<i32, Process>,
    /// Where those of a process target live now.
    leaves: Vec<Leaf>,
    /// The id of a cgroup target, `None` while the cgroup does not exist.
    cgroup: Option<u64>,
}

impl Members {
    /// Finds the processes of a target; those of `--pid` are moved into leaves, each recorded in
    /// the journal first. When it fails everything is put back.
    pub fn enter(host: &Host, journal: &Journal, target: &Target) -> Result<Self> {
        let mut members = Self {
            target: target.clone(),
            processes: BTreeMap::new(),
            leaves: Vec::new(),
            cgroup: None,
        };
        match target {
            Target::Process(process) => {
                // Dropped on an error, the leaves move back what is in them.
                members.take_in(host, journal, process)?;
                members.take_in_children(host, journal)?;
            }
            Target::Cgroup(target) => {
                members.cgroup = Some(cgroup::id(&target.path)?);
                members.list(host, std::slice::from_ref(&target.path));
            }
        }
        Ok(members)
    }

    /// The processes that belong to it, as of the last look.
    pub fn processes(&self) -> impl Iterator<Item = &Process> {
        self.processes.values()
    }

    /// Whether this pid belongs to it.
    #[must_use]
    pub fn contains(&self, pid: i32) -> bool {
        self.processes.contains_key(&pid)
    }

    /// The cgroups that rules must match.
    pub fn places(&self, host: &Host) -> Result<Vec<Place>> {
        let cgroups = host.cgroups()?;
        Ok(match (&self.target, self.cgroup) {
            (Target::Cgroup(target), Some(id)) => vec![Place::of(cgroups, &target.path, id)?],
            (Target::Cgroup(_), None) => Vec::new(),
            (Target::Process(_), _) => {
                let leaves = self.leaves.iter();
                let places = leaves.map(|leaf| Place::of(cgroups, leaf.path(), leaf.id()));
                places.collect::<Result<_>>()?
            }
        })
    }

    /// The leaves in which processes of this target live.
    pub(super) fn leaf_paths(&self) -> impl Iterator<Item = PathBuf> {
        self.leaves.iter().map(|leaf| leaf.path().to_owned())
    }

    /// Looks who came and who went since the last time, without the second look at who left the
    /// leaves; cheap enough for many times a second.
    pub fn look(&mut self, host: &Host) {
        let paths: Vec<PathBuf> = match &self.target {
            Target::Cgroup(target) => vec![target.path.clone()],
            Target::Process(_) => self.leaf_paths().collect(),
        };
        self.list(host, &paths);
    }

    /// The whole look, once a second. Processes that somebody has moved out of their leaf
    /// meanwhile get one where they are now.
    pub fn refresh(&mut self, host: &Host, journal: &Journal) -> Result<State> {
        match self.target.clone() {
            Target::Process(_) => self.refresh_family(host, journal),
            Target::Cgroup(target) => Ok(self.refresh_cgroup(host, &target)),
        }
    }

    /// Moves the processes back and removes the leaves. Goes on after an error and returns the
    /// first; the journal keeps what could not be done.
    pub fn leave(&mut self) -> Result<()> {
        self.processes.clear();
        let mut outcome = Ok(());
        for leaf in self.leaves.drain(..).rev() {
            outcome = outcome.and(leaf.remove());
        }
        outcome
    }

    /// Makes a process a member, in a leaf below its own cgroup.
    fn take_in(&mut self, host: &Host, journal: &Journal, process: &Process) -> Result<()> {
        let pid = process.key.pid;
        let own = host.cgroup_of(pid)?;
        if !self.leaves.iter().any(|leaf| own.starts_with(leaf.path())) {
            let known = self.leaves.iter().position(|leaf| leaf.path().parent() == Some(&own));
            let at = if let Some(at) = known {
                at
            } else {
                self.leaves.push(Leaf::create(&own, &leaf_name(), journal)?);
                self.leaves.len() - 1
            };
            self.leaves[at].add(pid).map_err(|error| refused(error, &own))?;
        }
        // Moved by pid: still the same process, unless it has ended meanwhile.
        if !process.is_alive() {
            return Err(Error::new(ErrorKind::NoSuchTarget, "limit process", process)
                .meaning("The process has ended."));
        }
        self.processes.insert(pid, process.clone());
        Ok(())
    }

    /// Takes in children until there are no new ones. A child that is born to a member is in its
    /// leaf already, so a pass that finds none is the last.
    fn take_in_children(&mut self, host: &Host, journal: &Journal) -> Result<()> {
        loop {
            let known: Vec<i32> = self.processes.keys().copied().collect();
            let children = process::children(host, &known);
            let new = children.into_iter().filter(|key| !self.processes.contains_key(&key.pid));
            let new: Vec<Process> = new.filter_map(|key| Process::reopen(host, key)).collect();
            if new.is_empty() {
                return Ok(());
            }
            for child in new {
                match self.take_in(host, journal, &child) {
                    Err(error) if error.kind == ErrorKind::NoSuchTarget => {}
                    other => other?,
                }
            }
        }
    }

    fn refresh_family(&mut self, host: &Host, journal: &Journal) -> Result<State> {
        let before: Vec<Process> = self.processes.values().cloned().collect();
        self.look(host);
        // Who is alive and not found in the leaves was moved by somebody else.
        let mut strayed = false;
        for process in before.iter().filter(|process| process.is_alive()) {
            if self.processes.contains_key(&process.key.pid) {
                continue;
            }
            match self.take_in(host, journal, process) {
                Ok(()) => {
                    info!("process {process} was moved to another cgroup and is limited there");
                    strayed = true;
                }
                Err(error) if error.kind == ErrorKind::NoSuchTarget => {}
                Err(error) => return Err(error),
            }
        }
        if strayed {
            self.take_in_children(host, journal)?;
        }
        Ok(if self.processes.is_empty() { State::Ended } else { State::Alive })
    }

    fn refresh_cgroup(&mut self, host: &Host, target: &CgroupTarget) -> State {
        let now = cgroup::id(&target.path).ok();
        if now != self.cgroup {
            if self.cgroup.is_some() {
                debug!("{} is gone", target.name);
            }
            if now.is_some() {
                info!("{} is back and limited again", target.name);
            }
            self.cgroup = now;
        }
        if self.cgroup.is_none() {
            self.processes.clear();
            return if target.follow { State::Away } else { State::Ended };
        }
        self.list(host, std::slice::from_ref(&target.path));
        State::Alive
    }

    /// Opens the processes that came, forgets those that went.
    fn list(&mut self, host: &Host, paths: &[PathBuf]) {
        let pids: Vec<i32> =
            paths.iter().flat_map(|path| cgroup::processes(path).unwrap_or_default()).collect();
        self.processes.retain(|pid, process| pids.contains(pid) && process.is_alive());
        for pid in pids {
            if !self.processes.contains_key(&pid)
                && let Ok(process) = Process::open(host, pid)
            {
                self.processes.insert(pid, process);
            }
        }
    }
}

/// No leaf of this process ever had the same name.
fn leaf_name() -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    format!("p{}", COUNT.fetch_add(1, Ordering::Relaxed))
}

/// Why a process does not go into a leaf, where the kernel says no more than an errno.
fn refused(mut error: Error, own: &Path) -> Error {
    let errno = error.errno();
    if errno == Errno::OPNOTSUPP.raw_os_error() || errno == Errno::BUSY.raw_os_error() {
        error.meaning = format!(
            "Its cgroup {} enables controllers or has threaded cgroups: it takes no leaf with \
             processes.",
            own.display()
        );
        return error.advice("Limit the cgroup instead: --cgroup PATH.");
    }
    error
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_count_from_our_cgroup_namespace() {
        for (root, path, expected) in [
            ("/", "/cg", Some(0)),
            ("/", "/cg/a/b", Some(2)),
            ("/docker/x", "/cg/a", Some(3)),
            ("/../..", "/cg/a/b", Some(0)),
            ("/../..", "/cg/a/b/c", Some(1)),
            ("/../..", "/cg/a", None),
        ] {
            let cgroups = Cgroups { mount: "/cg".into(), root: root.into() };
            assert_eq!(level(&cgroups, Path::new(path)), expected, "{root} {path}");
        }
    }
}
