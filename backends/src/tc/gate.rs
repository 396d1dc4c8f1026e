//! Holding what opens a connection until it is known whose it is.
//!
//! ```text
//! table inet chadthrottle-gate-PID-N {        # owned: goes when our socket closes
//!   chain output {
//!     tcp flags & (fin | syn | rst | ack) == syn  goto opens
//!   }
//!   chain opens {
//!     oiftype loopback accept
//!     socket cgroupv2 level L == ID  queue num N bypass   # for each cgroup of the targets
//!   }
//! }
//! ```
//!
//! The connection's socket can be listed while its first packet waits, so that its filters are there
//! before the peer hears of it. Others in the same cgroup wait as long: for one look. Where the kernel
//! lacks something of this, new connections are heard only ([`super::ear`]), and a warning says so.

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::CString,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
};

use chadthrottle_core::Result;
use nftnl::{
    Chain, ChainType, Hook, MsgType, Policy, ProtoFamily, Rule, Table,
    expr::{
        Bitwise, Cmp, CmpOp, Meta, Payload, Socket, SocketKey, TransportHeaderField, Verdict,
    },
};

use crate::{
    moved::Place,
    netfilter::{Batch, Connection, Queue, QueueBy},
    netns::{self, Netns},
    queue::{Held, Holding},
};

/// After the filters of others (0) and `security` (50): what they drop need not be held.
const PRIORITY: i32 = 150;
/// `ARPHRD_LOOPBACK` (`include/uapi/linux/if_arp.h`).
const LOOPBACK: u16 = 772;
/// Where TCP's flags are, and of them FIN, SYN, RST and ACK. (nftnl 0.9 says bits and takes bytes.)
const FLAGS: TransportHeaderField =
    TransportHeaderField::Raw { offset_bits: 13, length_bits: 1 };
const DECISIVE: u8 = 0x17;
const SYN: u8 = 0x02;

/// A cgroup: level and id.
type Key = (u32, u64);

/// The gates of all namespaces in which something is limited, each of them for all limits.
#[derive(Default)]
pub(super) struct Gates {
    open: BTreeMap<u64, Gate>,
    /// Namespaces in which there can be none; asked again with the next limit there.
    refused: BTreeSet<u64>,
}

impl Gates {
    /// Holds what these cgroups send in these namespaces from now on, and nothing else. Says where
    /// that cannot be.
    pub(super) fn follow<'a>(
        &mut self,
        limited: impl IntoIterator<Item = (&'a Netns, &'a Place)>,
    ) -> Vec<String> {
        let mut wanted: BTreeMap<u64, (&Netns, BTreeSet<Key>)> = BTreeMap::new();
        for (netns, place) in limited {
            let (_, keys) = wanted.entry(netns.id()).or_insert((netns, BTreeSet::new()));
            keys.insert((place.level, place.id));
        }
        self.open.retain(|netns, _| wanted.contains_key(netns));
        self.refused.retain(|netns| wanted.contains_key(netns));
        let mut said = Vec::new();
        for (id, (netns, keys)) in wanted {
            if self.refused.contains(&id) {
                continue;
            }
            let set = match self.open.get_mut(&id) {
                Some(gate) => gate.set(keys),
                None => Gate::open(netns, &keys).map(|gate| drop(self.open.insert(id, gate))),
            };
            if let Err(error) = set {
                said.push(free_at_first(&error.to_string()));
                self.open.remove(&id);
                self.refused.insert(id);
            }
        }
        said
    }

    /// What holds packets.
    pub(super) fn holdings(&self) -> impl Iterator<Item = &Arc<Holding>> {
        self.open.values().map(|gate| &gate.holding)
    }

    /// What waits now, to be handed to [`release`].
    pub(super) fn arrived(&self) -> Vec<(Arc<Holding>, Vec<Held>)> {
        self.holdings().map(|holding| (Arc::clone(holding), holding.arrived())).collect()
    }
}

/// Lets these go on.
pub(super) fn release(held: &[(Arc<Holding>, Vec<Held>)]) {
    for (holding, held) in held {
        holding.release(held);
    }
}

/// What it means that nothing can be held.
pub(super) fn free_at_first(why: &str) -> String {
    format!(
        "new connections cannot wait until they are found: what they send before, for milliseconds, is \
         not limited: {why}"
    )
}

/// Whether there can be a gate in this namespace.
pub(super) fn attempt(netns: &Netns) -> Result<()> {
    Gate::open(netns, &BTreeSet::from([(1, 1)])).map(drop)
}

/// One namespace's.
struct Gate {
    name: CString,
    /// Owns the table, which goes before what holds packets.
    connection: Connection,
    by: QueueBy,
    holding: Arc<Holding>,
    keys: BTreeSet<Key>,
}

impl Gate {
    /// By whatever this kernel has. What is asked first is built in where modules are few: to look in
    /// vain for a module takes 15 ms.
    fn open(netns: &Netns, keys: &BTreeSet<Key>) -> Result<Self> {
        Self::open_by(netns, keys, QueueBy::Target)
            .or_else(|_| Self::open_by(netns, keys, QueueBy::Queue))
    }

    fn open_by(netns: &Netns, keys: &BTreeSet<Key>, by: QueueBy) -> Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("chadthrottle-gate-{}-{number}", std::process::id());
        let gate = Self {
            name: CString::new(name).unwrap_or_default(),
            connection: netns::run_in(netns, Connection::open)??,
            by,
            holding: Arc::new(Holding::take(netns)?),
            keys: keys.clone(),
        };
        let mut batch = Batch::new();
        batch.create_owned_table(&gate.name, ProtoFamily::Inet);
        let table = gate.table();
        let opens = Chain::new(c"opens", &table);
        batch.add("create a chain", &opens, MsgType::Add);
        let mut output = Chain::new(c"output", &table);
        output.set_type(ChainType::Filter);
        output.set_hook(Hook::Out, PRIORITY);
        output.set_policy(Policy::Accept);
        batch.add("create a chain", &output, MsgType::Add);
        let mut rule = Rule::new(&output);
        rule.add_expr(&Meta::L4Proto);
        rule.add_expr(&Cmp::new(CmpOp::Eq, libc::IPPROTO_TCP as u8));
        rule.add_expr(&Payload::Transport(FLAGS));
        rule.add_expr(&Bitwise::new(DECISIVE, 0_u8));
        rule.add_expr(&Cmp::new(CmpOp::Eq, SYN));
        rule.add_expr(&Verdict::Goto { chain: opens.get_name().to_owned() });
        batch.add("match what opens connections", &rule, MsgType::Add);
        gate.fill(&mut batch, &opens, keys);
        gate.connection.commit(batch)?;
        Ok(gate)
    }

    /// Other cgroups from now on.
    fn set(&mut self, keys: BTreeSet<Key>) -> Result<()> {
        if self.keys == keys {
            return Ok(());
        }
        let table = self.table();
        let opens = Chain::new(c"opens", &table);
        let mut batch = Batch::new();
        if self.keys.is_subset(&keys) {
            self.hold(&mut batch, &opens, keys.difference(&self.keys));
        } else {
            // A rule without a handle means all rules of its chain.
            batch.add("empty a chain", &Rule::new(&opens), MsgType::Del);
            self.fill(&mut batch, &opens, &keys);
        }
        self.keys = keys;
        self.connection.commit(batch)
    }

    fn fill(&self, batch: &mut Batch, opens: &Chain<'_>, keys: &BTreeSet<Key>) {
        let mut rule = Rule::new(opens);
        rule.add_expr(&Meta::OifType);
        rule.add_expr(&Cmp::new(CmpOp::Eq, LOOPBACK));
        rule.add_expr(&Verdict::Accept);
        batch.add("let loopback pass", &rule, MsgType::Add);
        self.hold(batch, opens, keys);
    }

    fn hold<'a>(
        &self,
        batch: &mut Batch,
        opens: &Chain<'_>,
        keys: impl IntoIterator<Item = &'a Key>,
    ) {
        for (level, id) in keys {
            let mut rule = Rule::new(opens);
            rule.add_expr(&Socket::new(SocketKey::CgroupV2, *level));
            rule.add_expr(&Cmp::new(CmpOp::Eq, &id.to_ne_bytes()[..]));
            rule.add_expr(&Queue { number: self.holding.number, bypass: true, by: self.by });
            batch.add("hold what a cgroup opens", &rule, MsgType::Add);
        }
    }

    fn table(&self) -> Table {
        Table::new(&self.name, ProtoFamily::Inet)
    }
}
