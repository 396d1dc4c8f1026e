//! cgroup v2: where it is mounted, whose cgroup is which, leaves of our own.

use std::path::{Path, PathBuf};

use crate::{error::Result, journal::{Entry, Journal}};

/// The mounted cgroup v2 hierarchy (pure v2: /sys/fs/cgroup; hybrid: /sys/fs/cgroup/unified).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cgroups {
    /// The mount point.
    pub mount: PathBuf,
    /// The cgroup that the mount point shows, as /proc/PID/cgroup spells it ("/" unless a
    /// cgroup namespace or a bind mount).
    pub root: PathBuf,
}

impl Cgroups {
    /// Finds the mount in the text of /proc/self/mountinfo.
    #[must_use]
    pub fn from_mountinfo(_text: &str) -> Option<Self> {
        todo!()
    }
    /// The directory of a process's cgroup, from the text of /proc/PID/cgroup.
    pub fn path_of(&self, _proc_pid_cgroup: &str) -> Result<PathBuf> {
        todo!()
    }
    /// Checks that `path` is a cgroup v2 directory; also takes "/system.slice/x" relative to
    /// the mount as /proc/PID/cgroup and systemctl spell it.
    pub fn resolve(&self, _path: &Path) -> Result<PathBuf> {
        todo!()
    }
    /// The cgroup of a systemd unit ("x" means "x.service"), searched by name.
    pub fn unit(&self, _name: &str) -> Result<PathBuf> {
        todo!()
    }
    /// The directory with this id, searched in the tree.
    #[must_use]
    pub fn find(&self, _id: u64) -> Option<PathBuf> {
        todo!()
    }
}

/// The cgroup's id: the inode of its directory, what bpf_skb_cgroup_id and sock_diag say.
pub fn id(_path: &Path) -> Result<u64> {
    todo!()
}
/// The pids in a cgroup and all below it.
pub fn processes(_path: &Path) -> Result<Vec<i32>> {
    todo!()
}

/// A cgroup of ours below another one; enables no controllers. Removed when dropped, its
/// processes moved back to the parent first.
#[derive(Debug)]
pub struct Leaf {}

impl Leaf {
    /// Makes `parent/chadthrottle-NAME`, recorded in the journal first; threaded when the
    /// parent is.
    pub fn create(_parent: &Path, _name: &str, _journal: &Journal) -> Result<Self> {
        todo!()
    }
    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        todo!()
    }
    /// Moves a process into it.
    pub fn add(&self, _pid: i32) -> Result<()> {
        todo!()
    }
    /// Moves what is in it back and removes it.
    pub fn remove(self) -> Result<()> {
        todo!()
    }
}
