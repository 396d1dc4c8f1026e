//! Whether packets can be handed to user space here, and how.

use chadthrottle_core::{Error, Result, check::Remedy, error::ErrorKind};
use nftnl::{Chain, MsgType, ProtoFamily, Rule, Table};

use crate::{
    netfilter::{Batch, Connection, Queue, QueueBy},
    netns::{self, Netns},
    queue::Shaper,
};

/// What paces packets.
pub(super) struct Queueing {
    pub(super) shaper: Shaper,
    /// How rules hand them over.
    pub(super) by: QueueBy,
}

/// Finds out in this namespace, and starts the thread that paces.
pub(super) fn start(netns: &Netns) -> Result<Queueing> {
    let connection = netns::run_in(netns, Connection::open)??;
    let by = rule(&connection)?;
    let shaper = Shaper::start()?;
    let lane = shaper.add_lane(None);
    shaper.bind(netns, lane)?;
    let _passed = shaper.remove(lane); // Nothing: no rule fed it.
    Ok(Queueing { shaper, by })
}

/// Which rule this kernel takes: one is made and deleted in the same batch, so that nobody ever
/// sees it.
fn rule(connection: &Connection) -> Result<QueueBy> {
    let mut refused = None;
    for by in [QueueBy::Queue, QueueBy::Target] {
        let name = std::ffi::CString::new(format!("chadthrottle-try-{}", std::process::id()));
        let table = Table::new(name.unwrap_or_default(), ProtoFamily::Inet);
        let mut batch = Batch::new();
        batch.create_owned_table(table.get_name(), ProtoFamily::Inet);
        let chain = Chain::new(c"try", &table);
        batch.add("create the chain", &chain, MsgType::Add);
        let mut rule = Rule::new(&chain);
        rule.add_expr(&Queue { number: 0, bypass: true, by });
        batch.add("add a rule that queues to a table", &rule, MsgType::Add);
        batch.delete_table(table.get_name(), ProtoFamily::Inet);
        match connection.try_commit(batch) {
            Ok(()) => return Ok(by),
            Err((_, error)) => refused = refused.or(Some(error)),
        }
    }
    let error = Error::new(ErrorKind::Failed, "hand packets to user space from", "nftables");
    let error = error
        .meaning("The kernel has neither nft_queue nor nft_compat with xt_NFQUEUE.")
        .remedy(Remedy::LoadModule("nft_queue".to_owned()));
    Err(match refused {
        Some(source) => error.because(source),
        None => error,
    })
}
