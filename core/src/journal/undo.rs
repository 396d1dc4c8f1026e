//! What can be taken back.

use std::{fmt, path::PathBuf};

use serde::{Deserialize, Serialize};

use crate::process::ProcessKey;

/// One change, described so that somebody else can take it back after we died.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "undo")]
pub enum Undo {
    /// A cgroup of ours. Its processes go back to its parent, then it is removed.
    Leaf {
        /// Where it is.
        path: PathBuf,
        /// Its id (inode): a directory that came later under the same name is not ours. 0
        /// between the record and mkdir.
        id: u64,
    },
    /// A program attached with `BPF_PROG_ATTACH`, which outlives us.
    Attachment {
        /// The cgroup.
        path: PathBuf,
        /// Its id.
        id: u64,
        /// enum `bpf_attach_type`.
        attach_type: u32,
        /// The program's id.
        program: u32,
    },
    /// Sockets whose pace or window clamp we may have changed: all TCP sockets of this target.
    Sockets {
        /// Processes, with all their children.
        processes: Vec<ProcessKey>,
        /// Cgroups, with all below. By path: a unit that restarts gets another id.
        cgroups: Vec<PathBuf>,
    },
    /// Sockets of this target may carry a mark of ours (`SO_MARK`).
    Marks {
        /// Processes, with all their children.
        processes: Vec<ProcessKey>,
        /// Cgroups, with all below.
        cgroups: Vec<PathBuf>,
        /// The mark; sockets with another one are not touched.
        mark: u32,
        /// Whether the pace and window clamp of TCP sockets may be changed too.
        steered: bool,
    },
    /// The pace (`SO_MAX_PACING_RATE`, bytes/s) that the application had set itself.
    Pace {
        /// `SO_COOKIE`.
        cookie: u64,
        /// Bytes per second.
        rate: u64,
    },
    /// Conntrack entries of a network namespace may carry a mark of ours.
    Tracked {
        /// The inode of the namespace.
        netns: u64,
        /// The mark; entries with another one are not touched.
        mark: u32,
    },
    /// An ifb device of ours; our name is proof enough, since nobody else uses it.
    Device {
        /// The inode of its network namespace.
        netns: u64,
        /// Its name.
        name: String,
    },
    /// Filters of ours on an interface.
    Filters {
        /// The inode of the interface's network namespace.
        netns: u64,
        /// The interface's number there: the kernel does not use one twice, a name may go to
        /// another interface.
        link: u32,
        /// Its name, for people.
        name: String,
        /// The first of their preferences.
        preference: u16,
        /// The clsact qdisc that they hang on is of chadthrottle's making, and goes with the
        /// last filter.
        made_clsact: bool,
    },
}

/// In plain words, as an infinitive: "remove the cgroup /sys/fs/cgroup/x".
impl fmt::Display for Undo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Leaf { path, .. } => write!(f, "remove the cgroup {}", path.display()),
            Self::Attachment { path, program, .. } => {
                write!(f, "detach the program {program} from the cgroup {}", path.display())
            }
            Self::Sockets { processes, cgroups } => {
                let owners = owners(processes, cgroups);
                write!(f, "give the sockets of {owners} their speed back")
            }
            Self::Marks { processes, cgroups, mark, .. } => {
                let owners = owners(processes, cgroups);
                write!(f, "take the mark {mark:#010x} off the sockets of {owners}")
            }
            Self::Pace { cookie, rate } => write!(
                f,
                "give the socket with cookie {cookie} back its own pace of {rate} bytes a second"
            ),
            Self::Tracked { netns, mark } => write!(
                f,
                "take the mark {mark:#010x} off connections in the network namespace {netns}"
            ),
            Self::Device { netns, name } => {
                write!(f, "delete the device {name} in the network namespace {netns}")
            }
            Self::Filters { netns, name, preference, .. } => write!(
                f,
                "delete the filters with preference {preference} of {name} in the network \
                 namespace {netns}"
            ),
        }
    }
}

/// "process 1, the cgroup /x"
fn owners(processes: &[ProcessKey], cgroups: &[PathBuf]) -> String {
    let processes = processes.iter().map(|key| format!("process {}", key.pid));
    let cgroups = cgroups.iter().map(|path| format!("the cgroup {}", path.display()));
    processes.chain(cgroups).collect::<Vec<_>>().join(", ")
}
