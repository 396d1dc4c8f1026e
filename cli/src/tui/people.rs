//! What /proc says of processes beside their sockets, read once for each and kept.

use std::{collections::HashMap, fs, os::unix::fs::MetadataExt, path::PathBuf, sync::Arc};

use chadthrottle_core::Host;
use nix::unistd::{Uid, User};

/// Cgroups are read anew for so many processes a sample: they rarely change.
const REREAD: usize = 50;
/// So many are read for the first time in one sample: thousands take a few.
const FIRST: usize = 1000;
/// No chain of parents is longer.
const GENERATIONS: usize = 64;

/// What is known of one process.
#[derive(Debug, Clone)]
pub(super) struct Person {
    pub(super) user: Arc<str>,
    pub(super) ancestors: Arc<[i32]>,
    pub(super) cgroup: Option<Arc<PathBuf>>,
    pub(super) is_alive: bool,
    started: u64,
    is_read: bool,
    /// In which sample it was last asked for.
    seen: u32,
}

pub(super) struct People {
    host: Host,
    known: HashMap<i32, Person>,
    users: HashMap<u32, Arc<str>>,
    cgroups: HashMap<String, Arc<PathBuf>>,
    parents: HashMap<i32, i32>,
    nobody: Arc<str>,
    sample: u32,
    reads: usize,
    rereads: usize,
}

impl People {
    pub(super) fn new(host: &Host) -> Self {
        Self {
            host: host.clone(),
            known: HashMap::new(),
            users: HashMap::new(),
            cgroups: HashMap::new(),
            parents: HashMap::new(),
            nobody: "".into(),
            sample: 0,
            reads: 0,
            rereads: 0,
        }
    }

    /// A sample begins.
    pub(super) fn begin(&mut self) {
        self.sample = self.sample.wrapping_add(1);
        self.reads = 0;
        self.rereads = 0;
    }

    /// What is known of a process; `look` if it may have ended.
    pub(super) fn of(&mut self, pid: i32, started: u64, look: bool) -> Person {
        let sample = self.sample;
        let mut person = match self.known.remove(&pid) {
            Some(person)
                if person.started == started || person.started == 0 || started == 0 =>
            {
                person
            }
            _ => Person {
                user: Arc::clone(&self.nobody),
                ancestors: Arc::from([]),
                cgroup: None,
                is_alive: true,
                started,
                is_read: false,
                seen: sample,
            },
        };
        let stale =
            person.is_read && pid.cast_unsigned() % 64 == sample % 64 && self.rereads < REREAD;
        if !person.is_read && self.reads < FIRST {
            self.reads += 1;
            self.read(pid, &mut person);
        } else if stale {
            self.rereads += 1;
            person.cgroup = self.cgroup(pid).or(person.cgroup);
        }
        if look {
            person.is_alive = self.host.proc.join(pid.to_string()).exists();
        }
        person.seen = sample;
        self.known.insert(pid, person.clone());
        person
    }

    /// Who was not asked for is forgotten.
    pub(super) fn end(&mut self) {
        let sample = self.sample;
        self.known.retain(|_, person| person.seen == sample);
        if self.parents.len() > 4 * self.known.len() + 1024 {
            self.parents.clear();
        }
    }

    fn read(&mut self, pid: i32, person: &mut Person) {
        person.is_read = true;
        if let Ok(data) = fs::metadata(self.host.proc.join(pid.to_string())) {
            person.user = self.user(data.uid());
        }
        person.cgroup = self.cgroup(pid);
        let mut ancestors = Vec::new();
        let mut at = self.parent(pid, true);
        while at > 0 && ancestors.len() < GENERATIONS {
            ancestors.push(at);
            at = self.parent(at, false);
        }
        person.ancestors = ancestors.into();
    }

    fn user(&mut self, uid: u32) -> Arc<str> {
        let name = self.users.entry(uid).or_insert_with(|| {
            let user = User::from_uid(Uid::from_raw(uid)).ok().flatten();
            user.map_or_else(|| uid.to_string(), |user| user.name).into()
        });
        Arc::clone(name)
    }

    /// 0 when there is none. A process that lost its parent keeps its limit, so what was read
    /// once stays true.
    fn parent(&mut self, pid: i32, is_new: bool) -> i32 {
        if let Some(parent) = self.parents.get(&pid)
            && !is_new
        {
            return *parent;
        }
        let stat = fs::read_to_string(self.host.proc.join(format!("{pid}/stat")));
        let parent = stat.ok().and_then(|stat| parent_in(&stat)).unwrap_or(0);
        self.parents.insert(pid, parent);
        parent
    }

    fn cgroup(&mut self, pid: i32) -> Option<Arc<PathBuf>> {
        let text = fs::read_to_string(self.host.proc.join(format!("{pid}/cgroup"))).ok()?;
        if let Some(path) = self.cgroups.get(&text) {
            return Some(Arc::clone(path));
        }
        let path = Arc::new(self.host.cgroups().ok()?.path_of(&text).ok()?);
        self.cgroups.insert(text, Arc::clone(&path));
        Some(path)
    }
}

/// Field 4, behind the name in parentheses, which may hold anything.
fn parent_in(stat: &str) -> Option<i32> {
    stat.rsplit_once(") ")?.1.split(' ').nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parents() {
        assert_eq!(parent_in("12 (a) b) (c) S 7 12 12 0"), Some(7));
        assert_eq!(parent_in(""), None);
    }

    #[test]
    fn knows_itself() {
        let mut people = People::new(&Host::detect().unwrap());
        people.begin();
        let own = people.of(std::process::id().cast_signed(), 0, true);
        assert!(own.is_alive && !own.user.is_empty());
        assert!(own.ancestors.contains(&1) || own.ancestors.is_empty());
    }
}
