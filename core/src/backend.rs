//! What a mechanism must be able to do to be a backend.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{
    check::ProbeReport,
    error::Result,
    host::Host,
    journal::{Held, Journal, Undo},
    limit::{Direction, Limits},
    target::Target,
};

/// The mechanisms, in the order in which `auto` tries them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BackendId {
    /// BPF programs on cgroups.
    Ebpf,
    /// HTB on ifb devices.
    Tc,
    /// nftables rules on cgroups.
    Nft,
}

impl BackendId {
    /// All of them, in the order of `auto`.
    pub const ALL: [Self; 3] = [Self::Ebpf, Self::Tc, Self::Nft];
}

impl fmt::Display for BackendId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ebpf => "ebpf",
            Self::Tc => "tc",
            Self::Nft => "nft",
        })
    }
}

/// What a backend can do: at all, and once it was probed, on this kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Capabilities {
    /// Paces or queues; else it only polices: what is over a limit is dropped.
    pub shapes: bool,
    /// `--pid` moves the process into a leaf below its own cgroup.
    pub moves_processes: bool,
    /// The kernel removes everything when we are killed; else the guardian does.
    pub crash_safe: bool,
}

/// A mechanism that can limit traffic.
pub trait Backend {
    /// Which one.
    fn id(&self) -> BackendId;

    /// What it can do.
    fn capabilities(&self) -> Capabilities;

    /// Asks this host, by real calls, whether it works here. Leaves nothing behind.
    fn probe(&self, host: &Host) -> ProbeReport;

    /// Begins what takes time and touches nothing, such as reading the kernel's types. Called
    /// as early as possible, for a backend that will probably be started.
    fn prepare(&self) {}

    /// Loads what is needed to serve limits. Nothing is limited yet.
    ///
    /// Everything that outlives the process is written to `journal` before it is made.
    fn start(&self, host: &Host, journal: &Journal) -> Result<Box<dyn Engine>>;

    /// Takes back one change that an instance of this backend recorded and did not live to
    /// take back itself. What is already gone is no error. `held` are the descriptors that the
    /// guardian kept (none in `clean`), `all` every change still to be taken back.
    fn undo(&self, host: &Host, undo: &Undo, held: &Held, all: &[Undo]) -> Result<()>;
}

/// Names a limit within its engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LimitId(pub u32);

/// What passed under one limit in one direction since it was added.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Count {
    /// Packets that passed, as the kernel handed them over (one GSO packet is one).
    pub packets: u64,
    /// Payload bytes that passed.
    pub bytes: u64,
    /// Packets that the backstop refused.
    pub dropped: u64,
}

/// What passed under one limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Counters {
    /// To the target.
    pub download: Count,
    /// From the target.
    pub upload: Count,
}

impl Counters {
    /// The counters of one direction.
    #[must_use]
    pub fn get(&self, direction: Direction) -> Count {
        match direction {
            Direction::Download => self.download,
            Direction::Upload => self.upload,
        }
    }
}

/// Something the user should know about a limit in force.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Notice {
    /// Part of the target is not covered, and why.
    Warning(String),
    /// All that this limit was for has ended.
    TargetEnded(LimitId),
}

/// A started backend: limits are added, changed and removed while traffic runs.
///
/// One limit has one or more targets that share it. Dropping an engine stops it and logs
/// what could not be undone.
pub trait Engine {
    /// Limits these targets, all of their processes and sockets sharing `limits`, from now
    /// on, open connections included. When it fails, nothing is left of the attempt.
    fn add(&mut self, targets: &[Target], limits: &Limits) -> Result<LimitId>;

    /// Changes the rates in place; no packet passes unlimited meanwhile.
    fn update(&mut self, id: LimitId, limits: &Limits) -> Result<()>;

    /// What passed since the limit was added.
    fn counters(&self, id: LimitId) -> Result<Counters>;

    /// How the limit is enforced, for the log: `link`, `legacy`.
    fn attach_kind(&self) -> &'static str;

    /// Keeps the limits true: new sockets, new children, restarted units. Called about once
    /// a second by whoever owns the engine.
    fn refresh(&mut self) -> Vec<Notice>;

    /// Lifts one limit; its sockets run at full speed again. Goes on after an error and returns
    /// the first, beside what passed in all as far as that could be read.
    fn remove(&mut self, id: LimitId) -> (Counters, Result<()>);

    /// Lifts all limits and takes back everything. Goes on after an error and returns the
    /// first; the journal keeps what is not undone.
    fn stop(self: Box<Self>) -> Result<()>;
}
