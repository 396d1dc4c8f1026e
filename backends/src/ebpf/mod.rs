//! The eBPF backend: programs on cgroups, tags on sockets.
//!
//! | where | what |
//! |---|---|
//! | `object` | the programs, loaded once per engine |
//! | `maps` | slots for limits, tags for sockets, processes, cgroups |
//! | `members` | which processes are meant |
//! | `sockets` | which sockets are meant |
//! | `attach`, `hook` | the cgroups that our programs run in |
//! | `wire` | the interfaces on which windows are shown |
//! | `kept` | the thread that opens a window when it is earned |
//! | `engine` | all of it together, refreshed once a second |
//! | `undo` | giving sockets back what they had |
//! | `probe` | what this kernel lets us do |
//!
//! Packets are attributed and rates are kept in the kernel: see `ebpf/src`.

mod attach;
mod engine;
pub mod examine;
mod hook;
mod kept;
mod maps;
mod members;
mod object;
mod probe;
mod sockets;
mod sys;
mod undo;
mod wire;

use chadthrottle_core::{
    Backend, BackendId, Capabilities, Engine, Host, Result,
    check::ProbeReport,
    journal::{Held, Journal, Undo},
};
use tracing::warn;

/// Set to 1: attach to the root cgroup instead of the target's, limit only the target.
const TEST_ROOT_CGROUP: &str = "CHADTHROTTLE_TEST_ROOT_CGROUP";

/// `cgroup_skb`, `sock_ops` and friends; aya reads the object and makes its maps. Kernel 5.15 and newer.
#[derive(Debug, Default)]
pub struct EbpfBackend;

impl Backend for EbpfBackend {
    fn id(&self) -> BackendId {
        BackendId::Ebpf
    }

    fn capabilities(&self) -> Capabilities {
        // Links die with us; paces and windows of sockets do not: the guardian restores them.
        Capabilities { shapes: true, moves_processes: false, crash_safe: false }
    }

    fn probe(&self, host: &Host) -> ProbeReport {
        probe::probe(host)
    }

    fn prepare(&self) {
        object::prepare();
    }

    fn start(&self, host: &Host, journal: &Journal) -> Result<Box<dyn Engine>> {
        let root_only = std::env::var_os(TEST_ROOT_CGROUP).is_some_and(|value| value == "1");
        if root_only {
            warn!("TEST MODE: Using root cgroup {:?}", host.cgroups()?.mount);
        }
        Ok(Box::new(engine::EbpfEngine::start(host, journal, root_only)?))
    }

    fn undo(&self, host: &Host, undo: &Undo, held: &Held, all: &[Undo]) -> Result<()> {
        undo::undo(host, undo, held, all)
    }
}
