//! The record of what must be put back if we die.
//!
//! One file an instance in the run directory, one JSON object a line, append only. A line is
//! written before the change it describes is made. The file is locked (flock) by the instance
//! and, through the same open file description, by its guardian: a journal whose lock can be
//! taken belongs to nobody who lives.

use std::{
    collections::HashMap,
    os::fd::{AsFd, OwnedFd},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use crate::{backend::BackendId, error::Result, process::ProcessKey};

/// One change, described so that somebody else can take it back after we died.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "undo")]
pub enum Undo {
    /// A cgroup of ours. Its processes go back to its parent, then it is removed.
    Leaf {
        /// Where it is.
        path: PathBuf,
        /// Its id (inode): a directory that came later under the same name is not ours.
        id: u64,
    },
    /// A program attached with BPF_PROG_ATTACH, which outlives us.
    Attachment {
        /// The cgroup.
        path: PathBuf,
        /// Its id.
        id: u64,
        /// enum bpf_attach_type.
        attach_type: u32,
        /// The program's id.
        program: u32,
    },
    /// Sockets whose pace or window clamp we may have changed: all TCP sockets of this target.
    Sockets {
        /// Processes, with all their children.
        processes: Vec<ProcessKey>,
        /// Cgroups (ids), with all below.
        cgroups: Vec<u64>,
    },
    /// The pace (SO_MAX_PACING_RATE, bytes/s) that the application had set itself.
    Pace {
        /// SO_COOKIE.
        cookie: u64,
        /// Bytes per second.
        rate: u64,
    },
}

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

/// A file descriptor that the guardian holds for the day we die, by label.
pub type Held = HashMap<String, OwnedFd>;

/// The journal of this instance.
#[derive(Debug)]
pub struct Journal {}

/// Names one line, to be marked as done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry(pub u32);

impl Journal {
    /// Records a change that is about to be made; `backend` takes it back, `None` means core.
    pub fn record(&self, _backend: Option<BackendId>, _undo: &Undo) -> Result<Entry> {
        todo!()
    }
    /// Marks a change as taken back.
    pub fn done(&self, _entry: Entry) -> Result<()> {
        todo!()
    }
    /// Claims targets, all or none. Refused with the other instance's pid when one of them,
    /// or something above or below it, is claimed by a living instance.
    pub fn claim(&self, _claims: &[Claim]) -> Result<()> {
        todo!()
    }
    /// Hands a descriptor to the guardian, which keeps it open after we died.
    pub fn hold(&self, _label: &str, _fd: impl AsFd) -> Result<()> {
        todo!()
    }
    /// Where it lies.
    pub fn path(&self) -> &Path {
        todo!()
    }
}
