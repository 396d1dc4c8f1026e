//! What the threads of the view tell each other.

use std::{path::PathBuf, sync::Arc};

use chadthrottle_backends::sockets::Connection;
use chadthrottle_core::{
    BackendId, Counters, LimitId, Limits, Target, check::ProbeReport, diagnosis::Diagnosis,
};
use ratatui::crossterm::event::Event;

/// Everything that can happen to the view.
pub(crate) enum Message {
    /// Keys, mouse, a new size.
    Input(Event),
    /// A signal that ends the view.
    Signal,
    /// Once a second.
    Sample(Box<Snapshot>),
    /// What was asked for with [`Ask::Details`].
    Details(Box<Details>),
    /// From the thread that holds the limits.
    News(News),
    /// What the backends answered.
    Probe(Probed),
}

/// What `chadthrottle probe` would say.
pub(crate) struct Probed {
    pub(crate) backends: Vec<(BackendId, ProbeReport)>,
    pub(crate) diagnosis: Diagnosis,
}

/// Bytes per second to and from, or bytes in all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Pair {
    pub(crate) down: u64,
    pub(crate) up: u64,
}

impl Pair {
    pub(crate) fn sum(self) -> u64 {
        self.down.saturating_add(self.up)
    }
}

/// All processes at one moment.
#[derive(Debug, Clone, Default)]
pub(crate) struct Snapshot {
    pub(crate) rows: Vec<Row>,
    /// Of all processes, and of what no process is known for.
    pub(crate) total: Pair,
    pub(crate) unknown: Pair,
    pub(crate) sockets: usize,
    /// A program in the kernel counts.
    pub(crate) counting: bool,
    /// Why none does although it was wanted.
    pub(crate) refusal: Option<String>,
}

/// A process with IP sockets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Row {
    pub(crate) pid: i32,
    /// Nanoseconds after boot, 0 when unknown.
    pub(crate) started: u64,
    pub(crate) name: String,
    pub(crate) user: Arc<str>,
    /// Now.
    pub(crate) rate: Pair,
    /// Since the view was opened.
    pub(crate) total: Pair,
    pub(crate) ended: bool,
    /// Its parent, its parent's parent, and so on.
    pub(crate) ancestors: Arc<[i32]>,
    /// Where it lives, in the file system.
    pub(crate) cgroup: Option<Arc<PathBuf>>,
}

/// What can be told of one process.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Details {
    pub(crate) pid: i32,
    pub(crate) command: String,
    /// As /proc/PID/cgroup has it.
    pub(crate) cgroup: String,
    /// The systemd unit, by the cgroup's name.
    pub(crate) unit: Option<String>,
    pub(crate) connections: Vec<Flow>,
    /// Why there are none, or not all.
    pub(crate) problem: Option<String>,
}

/// A connection and how fast it is now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Flow {
    pub(crate) connection: Connection,
    pub(crate) rate: Pair,
}

/// What the view asks of the thread that measures.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Ask {
    /// With each sample, and at once: the details of this process; of none.
    Details(Option<i32>),
    /// Count in the kernel, or not.
    Counting(bool),
}

/// What the view orders of the thread that holds the limits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Order {
    Limit { what: What, limits: Limits, backend: Option<BackendId> },
    Change { id: LimitId, limits: Limits },
    Lift(LimitId),
}

/// Whom to limit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum What {
    Process {
        pid: i32,
        started: u64,
        name: String,
    },
    /// Followed across restarts.
    Unit {
        name: String,
        path: PathBuf,
    },
    Cgroup {
        path: PathBuf,
    },
}

impl What {
    pub(crate) fn name(&self) -> String {
        match self {
            Self::Process { pid, name, .. } => format!("{name} ({pid})"),
            Self::Unit { name, .. } => name.clone(),
            Self::Cgroup { path } => path.display().to_string(),
        }
    }
}

/// A limit in force.
#[derive(Debug, Clone)]
pub(crate) struct Active {
    pub(crate) id: LimitId,
    pub(crate) backend: BackendId,
    pub(crate) target: Target,
    pub(crate) limits: Limits,
    pub(crate) counters: Counters,
    /// What passes now, payload.
    pub(crate) rate: Pair,
}

/// From the thread that holds the limits.
pub(crate) enum News {
    /// Limits can be set.
    Ready,
    /// They cannot, and why.
    ViewOnly(String),
    /// All limits in force; after each change, and once a second.
    Active(Vec<Active>),
    /// An order was carried out.
    Done(String),
    /// An order was refused, or something else to know.
    Problem(String),
}
