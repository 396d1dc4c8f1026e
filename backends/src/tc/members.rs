//! Which processes, cgroups and network namespaces a target is, read from /proc.
//!
//! No process is moved: the sockets tell whose they are by the descriptor tables and by the cgroup
//! in which they were created. So this works where the cgroup tree is read-only, and there is
//! nothing to be put back.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
};

use chadthrottle_core::{
    Host, Result, Target, cgroup,
    process::{self, Process},
};
use tracing::{debug, info};

use crate::{moved::Place, netns::Netns};

/// One target of a limit.
#[derive(Debug)]
pub(super) struct Members {
    target: Target,
    /// By pid, with where each was seen.
    processes: BTreeMap<i32, (Process, Option<Seen>)>,
    /// A cgroup target and all cgroups below it.
    cgroups: BTreeSet<u64>,
    /// The first of these.
    place: Option<Place>,
    /// What the kernel handed out last when /proc was read: without a newer pid nobody was born.
    last_pid: Option<String>,
}

/// Where a process lives.
#[derive(Debug)]
struct Seen {
    netns: Netns,
    /// Its cgroup, where it is meant for itself and rules can name that.
    place: Option<Place>,
}

/// What became of a target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    Alive,
    /// The cgroup is gone, but it may come again.
    Away,
    Ended,
}

impl Members {
    pub(super) fn enter(host: &Host, target: &Target) -> Result<Self> {
        let mut members = Self {
            target: target.clone(),
            processes: BTreeMap::new(),
            cgroups: BTreeSet::new(),
            place: None,
            last_pid: None,
        };
        match target {
            Target::Process(process) => {
                members.processes.insert(process.key.pid, (process.clone(), None));
            }
            Target::Cgroup(target) => drop(cgroup::id(&target.path)?),
        }
        members.refresh(host);
        members.look_again();
        Ok(members)
    }

    /// Looks again who belongs to it. Cheap when nobody came.
    pub(super) fn refresh(&mut self, host: &Host) -> State {
        let state = match self.target.clone() {
            Target::Process(_) => {
                self.processes.retain(|_, (process, _)| process.is_alive());
                self.find_children(host);
                if self.processes.is_empty() { State::Ended } else { State::Alive }
            }
            Target::Cgroup(target) => {
                let cgroups = cgroup::ids(&target.path);
                if self.cgroups.is_empty() && !cgroups.is_empty() && self.last_pid.is_some() {
                    info!("{} is back and limited again", target.name);
                }
                if self.cgroups != cgroups {
                    self.place = Place::at(host, &target.path).ok();
                }
                self.cgroups = cgroups;
                self.last_pid = Some(String::new());
                self.list(host, &cgroup::processes(&target.path).unwrap_or_default());
                match (self.cgroups.is_empty(), target.follow) {
                    (false, _) => State::Alive,
                    (true, true) => State::Away,
                    (true, false) => State::Ended,
                }
            }
        };
        self.learn_places(host);
        state
    }

    /// Forgets what is taken for granted in between: a process may change its namespace.
    pub(super) fn look_again(&mut self) {
        for (_, seen) in self.processes.values_mut() {
            *seen = None;
        }
    }

    fn learn_places(&mut self, host: &Host) {
        let own = matches!(self.target, Target::Process(_));
        for (process, seen) in self.processes.values_mut() {
            if seen.is_none()
                && let Ok(netns) = Netns::of(host, process)
            {
                let place = own.then(|| place_of(host, process)).flatten();
                *seen = Some(Seen { netns, place });
            }
        }
    }

    fn find_children(&mut self, host: &Host) {
        let last = last_pid(host);
        if last.is_some() && last == self.last_pid {
            return;
        }
        self.last_pid = last;
        loop {
            let roots: Vec<i32> = self.processes.keys().copied().collect();
            let before = self.processes.len();
            for key in process::children(host, &roots) {
                if let Some(child) = Process::reopen(host, key) {
                    self.processes.entry(key.pid).or_insert((child, None));
                }
            }
            if self.processes.len() == before {
                return;
            }
        }
    }

    /// Opens the processes that came, forgets those that went.
    fn list(&mut self, host: &Host, pids: &[i32]) {
        self.processes.retain(|pid, (process, _)| pids.contains(pid) && process.is_alive());
        for &pid in pids {
            if !self.processes.contains_key(&pid)
                && let Ok(process) = Process::open(host, pid)
            {
                self.processes.insert(pid, (process, None));
            }
        }
    }

    pub(super) fn pids(&self) -> impl Iterator<Item = i32> {
        self.processes.keys().copied()
    }

    pub(super) fn processes(&self) -> impl Iterator<Item = &Process> {
        self.processes.values().map(|(process, _)| process)
    }

    pub(super) fn process(&self, pid: i32) -> Option<&Process> {
        self.processes.get(&pid).map(|(process, _)| process)
    }

    pub(super) fn has_process(&self, pid: i32) -> bool {
        self.processes.contains_key(&pid)
    }

    /// Whether sockets created in this cgroup are meant.
    pub(super) fn has_cgroup(&self, id: u64) -> bool {
        self.cgroups.contains(&id)
    }

    /// The cgroups in which its sockets are created.
    pub(super) fn places(&self) -> impl Iterator<Item = &Place> {
        let seen = self.processes.values().filter_map(|(_, seen)| seen.as_ref());
        seen.filter_map(|seen| seen.place.as_ref()).chain(&self.place)
    }

    /// Whether rules can name a cgroup of it; true of nobody's.
    pub(super) fn have_places(&self) -> bool {
        self.processes.is_empty() || self.places().next().is_some()
    }

    /// The namespaces of its processes. A cgroup that is empty will be filled from ours: it is the
    /// leaf of a command.
    pub(super) fn namespaces(&self) -> Vec<Netns> {
        let mut found: Vec<Netns> = Vec::new();
        for Seen { netns, .. } in self.processes.values().filter_map(|(_, seen)| seen.as_ref())
        {
            if !found.contains(netns) {
                found.push(netns.clone());
            }
        }
        if found.is_empty() && matches!(self.target, Target::Cgroup(_)) {
            found.extend(Netns::current());
        }
        found
    }
}

/// The cgroup of a process, where rules can name it.
fn place_of(host: &Host, process: &Process) -> Option<Place> {
    let own = host.cgroup_of(process.key.pid).and_then(|path| Place::at(host, &path));
    own.inspect_err(|error| debug!("no rule can name it: {error}")).ok()
}

/// The last field of /proc/loadavg: the pid that was handed out last in our pid namespace.
fn last_pid(host: &Host) -> Option<String> {
    let text = fs::read_to_string(host.proc.join("loadavg")).ok()?;
    text.split_whitespace().last().map(str::to_owned)
}
