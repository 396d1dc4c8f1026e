//! Who limits what: no target is limited by two instances.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::directory::Instance;
use crate::{
    error::{Error, ErrorKind},
    host::Host,
    process::{self, ProcessKey},
};

/// What an instance holds, for others to see.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "claim")]
pub enum Claim {
    /// A process and its children.
    Process(ProcessKey),
    /// A cgroup and all below, by path.
    Cgroup {
        /// The path as resolved.
        path: PathBuf,
    },
}

impl Claim {
    fn describe(&self, host: &Host) -> String {
        match self {
            Self::Process(key) => match process::name(host, key.pid) {
                Some(name) => format!("process {} ({name})", key.pid),
                None => format!("process {}", key.pid),
            },
            Self::Cgroup { path } => format!("cgroup {}", path.display()),
        }
    }
}

/// A claim that collides with an earlier one.
#[derive(Debug)]
pub(super) struct Conflict {
    claim: Claim,
    /// The claim it collides with.
    with: Claim,
    /// Whose that is.
    pub(super) owner: ProcessKey,
}

impl Conflict {
    pub(super) fn error(&self, host: &Host) -> Error {
        let error = Error::new(ErrorKind::Failed, "limit", self.claim.describe(host));
        let (pid, with) = (self.owner.pid, self.with.describe(host));
        if std::process::id().cast_signed() == pid {
            return error
                .meaning(format!("It is, wholly or partly, under the limit on {with} already."))
                .advice("Change that limit, or lift it first.");
        }
        error
            .meaning(format!("chadthrottle (pid {pid}) already limits {with}."))
            .advice("Stop it, or change its limit instead.")
    }
}

/// The first of `claims` that collides with one of these instances.
pub(super) fn conflict(host: &Host, claims: &[Claim], others: &[Instance]) -> Option<Conflict> {
    if others.iter().all(|other| other.claims.is_empty()) {
        return None; // Saves looking at all processes.
    }
    let mine: Vec<Reach> = claims.iter().map(|claim| Reach::of(host, claim)).collect();
    for other in others {
        for with in &other.claims {
            let theirs = Reach::of(host, with);
            if let Some(at) = mine.iter().position(|reach| reach.meets(&theirs)) {
                let claim = claims[at].clone();
                return Some(Conflict { claim, with: with.clone(), owner: other.owner });
            }
        }
    }
    None
}

/// All that a claim covers at this moment.
#[derive(Debug)]
enum Reach {
    Tree {
        /// The process that is claimed, first, and its children.
        processes: Vec<ProcessKey>,
        /// The cgroups they live in.
        cgroups: Vec<PathBuf>,
    },
    Cgroup(PathBuf),
}

impl Reach {
    fn of(host: &Host, claim: &Claim) -> Self {
        match claim {
            // The pid of a process that has ended may be another one's now.
            Claim::Process(key) if !key.exists(host) => {
                Self::Tree { processes: vec![*key], cgroups: Vec::new() }
            }
            Claim::Process(key) => {
                let mut processes = vec![*key];
                processes.extend(process::children(host, &[key.pid]));
                let cgroups =
                    processes.iter().filter_map(|key| host.cgroup_of(key.pid).ok()).collect();
                Self::Tree { processes, cgroups }
            }
            Claim::Cgroup { path } => Self::Cgroup(path.clone()),
        }
    }

    /// Whether something would be limited by both.
    fn meets(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Tree { processes: a, .. }, Self::Tree { processes: b, .. }) => {
                b.contains(&a[0]) || a.contains(&b[0])
            }
            (Self::Tree { cgroups, .. }, Self::Cgroup(path))
            | (Self::Cgroup(path), Self::Tree { cgroups, .. }) => {
                cgroups.iter().any(|cgroup| cgroup.starts_with(path))
            }
            (Self::Cgroup(a), Self::Cgroup(b)) => a.starts_with(b) || b.starts_with(a),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(pid: i32) -> ProcessKey {
        ProcessKey { pid, start_time: 1 }
    }

    fn tree(pids: &[i32], cgroup: &str) -> Reach {
        Reach::Tree {
            processes: pids.iter().copied().map(key).collect(),
            cgroups: vec![cgroup.into()],
        }
    }

    fn cgroup(path: &str) -> Reach {
        Reach::Cgroup(path.into())
    }

    #[test]
    fn overlaps() {
        for (a, b, expected) in [
            (tree(&[5], "/a"), tree(&[5], "/a"), true),
            (tree(&[5], "/a"), tree(&[6], "/a"), false),
            (tree(&[5, 6, 7], "/a"), tree(&[7], "/b"), true),
            // Siblings: a child of both is not possible, a common parent is no overlap.
            (tree(&[5, 6], "/a"), tree(&[7, 8], "/a"), false),
            (tree(&[5], "/a/b"), cgroup("/a"), true),
            (tree(&[5], "/a"), cgroup("/a"), true),
            (tree(&[5], "/a"), cgroup("/a/b"), false),
            (tree(&[5], "/ab"), cgroup("/a"), false),
            (cgroup("/a"), cgroup("/a"), true),
            (cgroup("/a"), cgroup("/a/b/c"), true),
            (cgroup("/a/b"), cgroup("/a/c"), false),
            (cgroup("/ab"), cgroup("/a"), false),
        ] {
            assert_eq!(a.meets(&b), expected, "{a:?} {b:?}");
            assert_eq!(b.meets(&a), expected, "{b:?} {a:?}");
        }
    }
}
