//! Who is limited.

use std::{fmt, path::PathBuf};

use crate::process::Process;

/// One thing that the user pointed at.
#[derive(Debug, Clone)]
pub enum Target {
    /// Whatever lives in this cgroup or below it.
    Cgroup(CgroupTarget),
    /// One process, its sockets old and new, and its children's.
    Process(Process),
}

/// A cgroup as a target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CgroupTarget {
    /// Where it is in the file system.
    pub path: PathBuf,
    /// How the user called it: the unit, the command, the path.
    pub name: String,
    /// It may vanish and come again at the same path (a unit that restarts); the limit
    /// follows it.
    pub follow: bool,
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cgroup(cgroup) => f.write_str(&cgroup.name),
            Self::Process(process) => write!(f, "{process}"),
        }
    }
}
