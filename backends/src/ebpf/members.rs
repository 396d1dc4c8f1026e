//! Which processes are meant: those of a family, or those of a cgroup.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    path::{Component, Path, PathBuf},
};

use chadthrottle_core::{
    Error, ErrorKind, Host, Result,
    cgroup::{self, Cgroups},
    process::Process,
    target::{CgroupTarget, Target},
};
use chadthrottle_ebpf::layout::Tag;
use tracing::{debug, info};

use super::maps::Maps;

/// One target of a limit and the processes that belong to it now.
pub(super) struct Members {
    target: Target,
    /// By pid; a process is kept open so that its pid cannot mean another one.
    processes: BTreeMap<i32, Process>,
    /// The id of a cgroup target, `None` while the cgroup does not exist.
    cgroup: Option<u64>,
}

/// What became of a target since the last look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    Alive,
    /// The cgroup is gone, but it may come again.
    Away,
    Ended,
}

impl Members {
    /// Enters the target into the maps, so that what it does from now on is known in the
    /// kernel, then looks who belongs to it.
    pub(super) fn enter(
        host: &Host,
        target: &Target,
        maps: &mut Maps,
        tag: Tag,
    ) -> Result<Self> {
        let mut members =
            Self { target: target.clone(), processes: BTreeMap::new(), cgroup: None };
        match target {
            Target::Process(process) => {
                if !host.in_initial_pid_namespace() {
                    return Err(foreign_pids(process));
                }
                maps.add_process(process.key.pid, tag)?;
                members.processes.insert(process.key.pid, process.clone());
                // A child that is forked while we look is entered by the kernel, or found in
                // the next pass.
                while members.add_children(host, maps, tag)? {}
            }
            Target::Cgroup(target) => {
                members.enter_cgroup(host.cgroups()?, target, maps, tag)?;
                members.list_cgroup(host, &target.path);
            }
        }
        Ok(members)
    }

    /// The processes that belong to it, as of the last look.
    pub(super) fn processes(&self) -> impl Iterator<Item = &Process> {
        self.processes.values()
    }

    pub(super) fn contains(&self, pid: i32) -> bool {
        self.processes.contains_key(&pid)
    }

    /// The cgroup of a cgroup target, with its id.
    pub(super) fn cgroup(&self) -> Option<(PathBuf, u64)> {
        match &self.target {
            Target::Cgroup(target) => Some((target.path.clone(), self.cgroup?)),
            Target::Process(_) => None,
        }
    }

    /// Looks again who belongs to it.
    pub(super) fn refresh(
        &mut self,
        host: &Host,
        maps: &mut Maps,
        tag: Tag,
        kernel_follows_forks: bool,
    ) -> Result<State> {
        match self.target.clone() {
            Target::Process(_) => self.refresh_family(host, maps, tag, kernel_follows_forks),
            Target::Cgroup(target) => self.refresh_cgroup(host, &target, maps, tag),
        }
    }

    /// Takes the target out of the maps.
    pub(super) fn leave(&mut self, maps: &mut Maps) -> Result<()> {
        self.processes.clear();
        match self.cgroup.take() {
            Some(id) => maps.remove_cgroup(id),
            None => Ok(()),
        }
    }

    fn refresh_family(
        &mut self,
        host: &Host,
        maps: &mut Maps,
        tag: Tag,
        kernel_follows_forks: bool,
    ) -> Result<State> {
        for pid in maps.processes(tag) {
            if let Entry::Vacant(vacant) = self.processes.entry(pid) {
                match Process::open(host, pid) {
                    Ok(child) => drop(vacant.insert(child)),
                    Err(_) => maps.remove_process(pid)?,
                }
            }
        }
        if !kernel_follows_forks {
            while self.add_children(host, maps, tag)? {}
        }
        for pid in self.ended() {
            self.processes.remove(&pid);
            maps.remove_process(pid)?;
        }
        Ok(if self.processes.is_empty() { State::Ended } else { State::Alive })
    }

    fn ended(&self) -> Vec<i32> {
        self.processes.values().filter(|p| !p.is_alive()).map(|p| p.key.pid).collect()
    }

    /// One pass over the children of all members; says whether it found a new one.
    fn add_children(&mut self, host: &Host, maps: &mut Maps, tag: Tag) -> Result<bool> {
        let mut found = false;
        for parent in self.processes.values().cloned().collect::<Vec<_>>() {
            for key in parent.children(host) {
                if self.processes.contains_key(&key.pid) {
                    continue;
                }
                if let Some(child) = Process::reopen(host, key) {
                    maps.add_process(child.key.pid, tag)?;
                    self.processes.insert(child.key.pid, child);
                    found = true;
                }
            }
        }
        Ok(found)
    }

    fn refresh_cgroup(
        &mut self,
        host: &Host,
        target: &CgroupTarget,
        maps: &mut Maps,
        tag: Tag,
    ) -> Result<State> {
        let now = cgroup::id(&target.path).ok();
        if now != self.cgroup {
            if let Some(old) = self.cgroup.take() {
                debug!("{} is gone", target.name);
                maps.remove_cgroup(old)?;
            }
            if now.is_some() {
                self.enter_cgroup(host.cgroups()?, target, maps, tag)?;
                info!("{} is back and limited again", target.name);
            }
        }
        if self.cgroup.is_none() {
            self.processes.clear();
            return Ok(if target.follow { State::Away } else { State::Ended });
        }
        self.list_cgroup(host, &target.path);
        Ok(State::Alive)
    }

    fn enter_cgroup(
        &mut self,
        cgroups: &Cgroups,
        target: &CgroupTarget,
        maps: &mut Maps,
        tag: Tag,
    ) -> Result<()> {
        let id = cgroup::id(&target.path)?;
        maps.add_cgroup(id, depth(cgroups, &target.path), tag)?;
        self.cgroup = Some(id);
        Ok(())
    }

    /// Opens the processes that came, forgets those that went.
    fn list_cgroup(&mut self, host: &Host, path: &Path) {
        let pids = cgroup::processes(path).unwrap_or_default();
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

/// The kernel's programs see the pids of the initial namespace only.
fn foreign_pids(process: &Process) -> Error {
    Error::new(ErrorKind::NoBackend, "limit process", process)
        .meaning(
            "We run in a pid namespace of our own, where pids are not those of the kernel.",
        )
        .advice("Run it outside of the container, or limit the cgroup: --cgroup PATH.")
}

/// How far below the root of the whole hierarchy, which `bpf_skb_ancestor_cgroup_id` counts from: a
/// bind mount shows a part ("/a/b"). A mount that was made outside of our cgroup namespace is spelled
/// from that namespace's root ("/../.."), and the way up counts nothing; how deep the root of a
/// namespace lies that is mounted as "/" nobody tells.
fn depth(cgroups: &Cgroups, path: &Path) -> u32 {
    let below = path.strip_prefix(&cgroups.mount).unwrap_or(path);
    let parts = cgroups.root.components().chain(below.components());
    parts.filter(|part| matches!(part, Component::Normal(_))).count() as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn depths_count_from_the_root_of_all() {
        for (root, path, expected) in [
            ("/", "/cg", 0),
            ("/", "/cg/a/b", 2),
            ("/docker/x", "/cg/a", 3),
            ("/../..", "/cg", 0),
            ("/../..", "/cg/a/b/c", 3),
            ("/../../x", "/cg/a", 2),
        ] {
            let cgroups = Cgroups { mount: "/cg".into(), root: root.into() };
            assert_eq!(depth(&cgroups, Path::new(path)), expected, "{root} {path}");
        }
    }
}
