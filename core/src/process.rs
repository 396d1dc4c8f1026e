//! A process that cannot be mistaken for another one with the same pid.

use std::{fmt, os::fd::OwnedFd, sync::Arc};

use serde::{Deserialize, Serialize};

use crate::{error::Result, host::Host};

/// A pid and the time it started: names a process for ever.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ProcessKey {
    /// Process id (tgid) in our pid namespace.
    pub pid: i32,
    /// Field 22 of /proc/PID/stat: clock ticks after boot.
    pub start_time: u64,
}

/// An open process: pidfd and key.
#[derive(Debug, Clone)]
pub struct Process {
    /// Who it is.
    pub key: ProcessKey,
    /// /proc/PID/comm when it was opened.
    pub name: String,
    pidfd: Arc<OwnedFd>,
}

impl Process {
    /// Opens a running process. No such pid, a thread, a zombie and a kernel thread are refused.
    pub fn open(_host: &Host, _pid: i32) -> Result<Self> {
        todo!()
    }
    /// Opens it again by key, `None` when it has ended (also when the pid is reused).
    #[must_use]
    pub fn reopen(_host: &Host, _key: ProcessKey) -> Option<Self> {
        todo!()
    }
    /// The pidfd: readable once the process has ended (poll).
    #[must_use]
    pub fn pidfd(&self) -> &OwnedFd {
        &self.pidfd
    }
    /// Whether it still runs.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        todo!()
    }
}

impl fmt::Display for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.key.pid, self.name)
    }
}
