//! The nftables backend: cgroups of sockets, matched by rules.
//!
//! | where | what |
//! |---|---|
//! | `ruleset` | the tables of one network namespace |
//! | `chains` | what is done with the packets of one limit |
//! | `egress` | uploads without a queue: dropped where they leave |
//! | `queueing` | whether packets can be paced in user space |
//! | `active` | one limit: its processes, sockets, rules and queues |
//! | `engine` | all of them, refreshed once a second |
//! | `probe` | what this kernel lets us do |

mod active;
mod chains;
mod egress;
mod engine;
mod probe;
mod queueing;
mod ruleset;

use std::sync::OnceLock;

use chadthrottle_core::{
    Backend, BackendId, Capabilities, Engine, Host, Result,
    check::ProbeReport,
    journal::{Held, Journal, Undo},
};

use crate::moved;

/// nftables through nftnl; no `nft` program. Kernel 5.13 and newer.
#[derive(Debug, Default)]
pub struct NftBackend {
    /// Drop what is over a limit even where it could be paced: how kernels without a queue are
    /// served.
    polices: bool,
    /// Whether packets can be paced here, once that is asked.
    paces: OnceLock<bool>,
}

impl NftBackend {
    /// One that drops what is over a limit, whatever the kernel has.
    #[must_use]
    pub fn policing() -> Self {
        Self { polices: true, paces: OnceLock::new() }
    }
}

impl Backend for NftBackend {
    fn id(&self) -> BackendId {
        BackendId::Nft
    }

    fn capabilities(&self) -> Capabilities {
        // Tables die with us; leaves and marks do not: the guardian takes them back.
        let shapes = !self.polices && self.paces.get().copied().unwrap_or(true);
        Capabilities { shapes, moves_processes: true, crash_safe: false }
    }

    fn probe(&self, host: &Host) -> ProbeReport {
        let (report, paces) = probe::probe(host);
        if let Some(paces) = paces {
            self.paces.get_or_init(|| paces);
        }
        report
    }

    fn start(&self, host: &Host, journal: &Journal) -> Result<Box<dyn Engine>> {
        Ok(Box::new(engine::NftEngine::start(host, journal, self.polices)?))
    }

    fn undo(&self, host: &Host, undo: &Undo, _held: &Held, all: &[Undo]) -> Result<()> {
        moved::undo(host, undo, all)
    }
}
