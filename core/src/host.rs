//! The machine we run on, its roots passed in so that tests can use trees of their own.

use std::path::PathBuf;

use crate::{cgroup::Cgroups, error::Result};

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
        todo!()
    }
    /// The cgroup v2 hierarchy, or the error that says how to mount it.
    pub fn cgroups(&self) -> Result<&Cgroups> {
        todo!()
    }
}
