//! The machine we run on, its roots passed in so that tests can use trees of their own.

use std::{
    env, fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

pub use rustix::thread::CapabilitySet;

use crate::{
    cgroup::{self, Cgroups},
    check::Remedy,
    error::{Error, ErrorKind, Result},
};

/// The environment variable that moves the run directory, for tests.
pub const RUN_DIR_VARIABLE: &str = "CHADTHROTTLE_RUN_DIR";

/// The inode of the initial pid namespace: `PROC_PID_INIT_INO` of `linux/proc_ns.h`.
const INITIAL_PID_NAMESPACE: u64 = 0xEFFF_FFFC;

/// Where the kernel's file systems are.
#[derive(Debug, Clone)]
pub struct Host {
    /// Usually /proc.
    pub proc: PathBuf,
    /// Usually /run/chadthrottle.
    pub run: PathBuf,
    /// The cgroup v2 hierarchy, also on hybrid hosts; `None` when it is not mounted.
    pub cgroups: Option<Cgroups>,
    /// uname -r.
    pub release: String,
}

impl Host {
    /// Looks at this machine.
    pub fn detect() -> Result<Self> {
        let proc = PathBuf::from("/proc");
        let mountinfo = proc.join("self/mountinfo");
        let mounts = fs::read_to_string(&mountinfo).map_err(|error| {
            Error::io("read", mountinfo.display(), error)
                .meaning("Without /proc nothing can be found out about processes.")
                .advice("Mount it: sudo mount -t proc proc /proc.")
        })?;
        let run = env::var_os(RUN_DIR_VARIABLE)
            .map_or_else(|| PathBuf::from("/run/chadthrottle"), PathBuf::from);
        Ok(Self {
            proc,
            run,
            // A later mount may lie over an earlier one, so each candidate is looked at.
            cgroups: Cgroups::candidates(&mounts)
                .into_iter()
                .find(|found| cgroup::is_cgroup2(&found.mount)),
            release: rustix::system::uname().release().to_string_lossy().into_owned(),
        })
    }

    /// The cgroup v2 hierarchy, or the error that says how to mount it.
    pub fn cgroups(&self) -> Result<&Cgroups> {
        self.cgroups.as_ref().ok_or_else(|| {
            Error::new(ErrorKind::Failed, "find", "the cgroup v2 hierarchy")
                .meaning("No cgroup2 file system is mounted here.")
                .remedy(Remedy::MountCgroup2)
        })
    }

    /// The cgroup directory of a process.
    pub fn cgroup_of(&self, pid: i32) -> Result<PathBuf> {
        let path = self.proc.join(pid.to_string()).join("cgroup");
        let text = fs::read_to_string(&path).map_err(|error| {
            let gone = error.kind() == io::ErrorKind::NotFound
                || error.raw_os_error() == Some(rustix::io::Errno::SRCH.raw_os_error());
            let mut wrapped = Error::io("read", path.display(), error);
            if gone {
                wrapped.kind = ErrorKind::NoSuchTarget;
                wrapped = wrapped.meaning("The process has ended.");
            }
            wrapped
        })?;
        self.cgroups()?.path_of(&text)
    }

    /// Whether the pids we see are those that the kernel's programs see.
    #[must_use]
    pub fn in_initial_pid_namespace(&self) -> bool {
        inode(&self.proc.join("self/ns/pid")) == Some(INITIAL_PID_NAMESPACE)
    }

    /// The random id of this boot: what was recorded under another one is gone.
    pub fn boot_id(&self) -> Result<String> {
        let path = self.proc.join("sys/kernel/random/boot_id");
        fs::read_to_string(&path)
            .map(|id| id.trim().to_owned())
            .map_err(|error| Error::io("read", path.display(), error))
    }
}

/// The inode behind a path, links followed.
fn inode(path: &Path) -> Option<u64> {
    fs::metadata(path).ok().map(|data| data.ino())
}

/// The names of those of `needed` that our effective set (capget(2)) lacks:
/// `CAP_NET_ADMIN`. All of them when the set cannot be read.
#[must_use]
pub fn missing_capabilities(needed: CapabilitySet) -> Vec<String> {
    let effective = rustix::thread::capabilities(None)
        .map_or(CapabilitySet::empty(), |sets| sets.effective);
    needed.difference(effective).iter_names().map(|(name, _)| format!("CAP_{name}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn detects_this_machine() {
        let host = Host::detect().unwrap();
        assert!(!host.release.is_empty());
        assert_eq!(host.boot_id().unwrap().len(), 36);
    }

    #[test]
    fn missing_cgroup2_has_a_remedy() {
        let mut host = Host::detect().unwrap();
        host.cgroups = None;
        assert_eq!(host.cgroups().unwrap_err().remedy, Remedy::MountCgroup2);
    }

    #[test]
    fn capabilities_that_are_there_are_not_missing() {
        let effective = rustix::thread::capabilities(None).unwrap().effective;
        assert!(missing_capabilities(effective).is_empty());
        let absent = CapabilitySet::NET_ADMIN.difference(effective);
        let expected = usize::from(!absent.is_empty());
        assert_eq!(missing_capabilities(CapabilitySet::NET_ADMIN).len(), expected);
    }
}
