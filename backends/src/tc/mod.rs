//! The tc backend: HTB on ifb devices of our own.
//!
//! | where | what |
//! |---|---|
//! | `who`, `members` | which processes, cgroups and namespaces are meant |
//! | `known`, `flows` | which sockets they have, and the u32 filters that match their packets |
//! | `gate` | holding what opens a connection until it is known whose it is |
//! | `ear`, `attention` | hearing of new connections, and how often to look |
//! | `marks` | the other way: nftables, conntrack and `act_ctinfo` |
//! | `senders` | telling the target's connections what passes |
//! | `hook` | the clsact qdisc of an interface, where the filters hang |
//! | `shape`, `shaper`, `passed`, `device` | HTB on an ifb device: rates, bursts, queues, counters |
//! | `site` | one network namespace, as all limits there share it: interfaces and their filters |
//! | `space` | one limit in one network namespace |
//! | `limit`, `shares`, `presence` | one limit over all namespaces of its targets |
//! | `engine` | all limits, and the thread that looks after new sockets |
//! | `undo` | taking back what a dead instance left |
//! | `probe` | what this kernel lets us do |
//! | `message`, `u32` | netlink encodings |
//!
//! A packet of the target leaves (or reaches) an interface, a filter redirects it to our device,
//! HTB keeps it until it is its turn, and it goes on where it came from. No root qdisc is touched.

mod attention;
mod classifiers;
mod correction;
mod device;
mod ear;
mod engine;
mod flows;
mod gate;
mod hook;
mod known;
mod limit;
mod marks;
mod members;
mod message;
mod passed;
mod presence;
mod probe;
mod scratch;
mod senders;
mod shape;
mod shaper;
mod shares;
mod site;
mod space;
mod u32;
mod undo;
mod who;

use std::sync::OnceLock;

use chadthrottle_core::{
    Backend, BackendId, Capabilities, Engine, Host, Result,
    check::ProbeReport,
    journal::{Held, Journal, Undo},
};

/// HTB and ifb through rtnetlink; no BPF.
#[derive(Debug, Default)]
pub struct TcBackend {
    /// Whether packets can be known by marks, once that is asked.
    marks: OnceLock<bool>,
}

impl TcBackend {
    fn marks(&self) -> bool {
        *self.marks.get_or_init(|| probe::marks().is_ok())
    }
}

impl Backend for TcBackend {
    fn id(&self) -> BackendId {
        BackendId::Tc
    }

    fn capabilities(&self) -> Capabilities {
        // Devices, qdiscs and filters have no owner in the kernel: the guardian deletes them.
        let moves_processes = self.marks.get().copied().unwrap_or_default();
        Capabilities { shapes: true, moves_processes, crash_safe: false }
    }

    fn probe(&self, host: &Host) -> ProbeReport {
        let (report, marks) = probe::probe(host);
        if let Some(marks) = marks {
            self.marks.get_or_init(|| marks);
        }
        report
    }

    fn start(&self, host: &Host, journal: &Journal) -> Result<Box<dyn Engine>> {
        Ok(Box::new(engine::TcEngine::start(host, journal, self.marks())?))
    }

    fn undo(&self, host: &Host, undo: &Undo, held: &Held, all: &[Undo]) -> Result<()> {
        undo::undo(host, undo, held, all)
    }
}
