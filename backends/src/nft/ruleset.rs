//! The tables of one network namespace.
//!
//! ```text
//! table inet chadthrottle-INSTANCE {                 # owned: goes when our socket closes
//!   chain input {                                    # and output alike
//!     iiftype loopback accept
//!     socket mark & MASK vmap @download-marks        # sockets created elsewhere
//!     socket cgroupv2 level L vmap @download-cgroups # one rule for each level in use
//!   }
//!   chain download-7.1 { ... }                       # limit 7, its first generation
//! }
//! ```
//!
//! What a packet of nobody's costs does not grow with the number of limits: maps are hashed. A
//! rate changes by a new generation of chains, to which the maps are pointed in the same batch.

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::{CStr, CString},
};

use chadthrottle_core::{Counters, Direction, Result};
use nftnl::{
    Chain, ChainType, Hook, MsgType, Policy, ProtoFamily, Rule, Table,
    expr::{Bitwise, Cmp, CmpOp, Meta, Socket, SocketKey, Verdict},
};

use tracing::warn;

use super::{
    chains::{Action, Plan, counters_of, tally},
    egress::Egress,
};
use crate::{
    moved::{MARK_MASK, Mark, Place},
    netfilter::{Batch, Connection, Element, GoByMap, Key, Map},
    netns::{self, Netns},
};

/// After the filters of others (0) and after `security` (50): what they drop is not charged.
const PRIORITY: i32 = 150;
/// `ARPHRD_LOOPBACK` (`include/uapi/linux/if_arp.h`).
const LOOPBACK: u16 = 772;

/// A limit's number in the names of its chains, and the generation of its rules.
pub(super) type Number = u32;

/// What is in force for one limit in this namespace.
struct Installed {
    generation: u32,
    cgroups: BTreeSet<(u32, u64)>,
    mark: Mark,
}

/// See the module.
pub(super) struct Ruleset {
    netns: Netns,
    connection: Connection,
    table: Table,
    maps: Vec<Maps>,
    /// Levels of cgroups that have a rule.
    levels: BTreeSet<u32>,
    limits: BTreeMap<Number, Installed>,
    /// Where uploads are policed, when they are and the kernel can.
    egress: Option<Egress>,
}

/// The two maps of one direction.
struct Maps {
    direction: Direction,
    cgroups: Map,
    marks: Map,
}

impl Maps {
    fn new(table: &Table, direction: Direction) -> Self {
        let (cgroups, marks, id) = match direction {
            Direction::Download => (c"download-cgroups", c"download-marks", 1),
            Direction::Upload => (c"upload-cgroups", c"upload-marks", 3),
        };
        Self {
            direction,
            cgroups: Map::new(table, cgroups, id, Key::Cgroup),
            marks: Map::new(table, marks, id + 1, Key::Mark),
        }
    }
}

impl Ruleset {
    /// Makes the tables of this instance in a namespace.
    pub(super) fn open(netns: &Netns, instance: &str, polices: bool) -> Result<Self> {
        let connection = netns::run_in(netns, Connection::open)??;
        let name = CString::new(format!("chadthrottle-{instance}")).unwrap_or_default();
        let table = Table::new(&name, ProtoFamily::Inet);
        let mut batch = Batch::new();
        batch.create_owned_table(&name, ProtoFamily::Inet);
        let maps: Vec<Maps> =
            Direction::BOTH.into_iter().map(|direction| Maps::new(&table, direction)).collect();
        for maps in &maps {
            maps.cgroups.create(&mut batch);
            maps.marks.create(&mut batch);
            let chain = base_chain(&table, maps.direction);
            batch.add("create the chain", &chain, MsgType::Add);
            let mut rule = Rule::new(&chain);
            rule.add_expr(match maps.direction {
                Direction::Download => &Meta::IifType,
                Direction::Upload => &Meta::OifType,
            });
            rule.add_expr(&Cmp::new(CmpOp::Eq, LOOPBACK));
            rule.add_expr(&Verdict::Accept);
            batch.add("let loopback pass", &rule, MsgType::Add);
            let mut rule = Rule::new(&chain);
            rule.add_expr(&Socket::new(SocketKey::Mark, 0));
            rule.add_expr(&Bitwise::new(MARK_MASK, 0_u32));
            rule.add_expr(&GoByMap(&maps.marks));
            batch.add("match the marks of sockets", &rule, MsgType::Add);
        }
        connection.commit(batch)?;
        let mut egress = None;
        if polices {
            match Egress::open(&connection, netns, &name) {
                Ok(opened) => egress = Some(opened),
                Err(error) => warn!("senders of UDP may see EPERM: {error}"),
            }
        }
        let (levels, limits) = (BTreeSet::new(), BTreeMap::new());
        let netns = netns.clone();
        Ok(Self { netns, connection, table, maps, levels, limits, egress })
    }

    /// Whether uploads can be policed where they leave.
    pub(super) fn has_egress(&self) -> bool {
        self.egress.is_some()
    }

    /// Looks which interfaces came and went.
    pub(super) fn follow_interfaces(&mut self) -> Result<()> {
        match &mut self.egress {
            Some(egress) => egress.follow(&self.connection, &self.netns),
            None => Ok(()),
        }
    }

    pub(super) fn netns(&self) -> &Netns {
        &self.netns
    }

    /// Whether it serves no limit.
    pub(super) fn is_empty(&self) -> bool {
        self.limits.is_empty()
    }

    pub(super) fn has(&self, number: Number) -> bool {
        self.limits.contains_key(&number)
    }

    /// Puts a limit in force, or changes how: new chains replace the old ones at once.
    pub(super) fn set(
        &mut self,
        number: Number,
        plan: &Plan,
        places: &[Place],
        mark: Mark,
    ) -> Result<()> {
        // Before packets are marked for it, and after they are no more.
        if let (Some(egress), Action::Mark { rate, .. }) = (&mut self.egress, plan.upload) {
            egress.set(&self.connection, number, mark, rate)?;
        }
        let mut batch = Batch::new();
        let old = self.limits.get(&number);
        let new = Installed {
            generation: old.map_or(0, |old| old.generation) + 1,
            cgroups: keys(places),
            mark,
        };
        let levels = self.add_levels(&mut batch, &new.cgroups);
        if old.is_none() {
            for name in counters_of(number) {
                batch.counter(&self.table, &name, MsgType::Add);
            }
        }
        for direction in Direction::BOTH {
            let name = chain_name(number, new.generation, direction);
            let chain = Chain::new(&name, &self.table);
            batch.add("create the chain of a limit", &chain, MsgType::Add);
            plan.fill(&mut batch, &chain, number, direction);
        }
        if let Some(old) = old {
            self.unmap(&mut batch, number, old);
        }
        self.map(&mut batch, number, &new);
        if let Some(old) = old {
            self.delete_chains(&mut batch, number, old);
        }
        self.connection.commit(batch)?;
        self.levels.extend(levels);
        self.limits.insert(number, new);
        Ok(())
    }

    /// Matches these places from now on; nothing else changes.
    pub(super) fn set_places(&mut self, number: Number, places: &[Place]) -> Result<()> {
        let keys = keys(places);
        let Some(old) = self.limits.get(&number) else { return Ok(()) };
        if old.cgroups == keys {
            return Ok(());
        }
        let mut batch = Batch::new();
        let levels = self.add_levels(&mut batch, &keys);
        for maps in &self.maps {
            let chain = chain_name(number, old.generation, maps.direction);
            let elements = |keys: BTreeSet<&(u32, u64)>| -> Vec<Element> {
                keys.into_iter().map(|(_, id)| cgroup_element(*id, &chain)).collect()
            };
            maps.cgroups.remove(&mut batch, &elements(old.cgroups.difference(&keys).collect()));
            maps.cgroups.insert(&mut batch, &elements(keys.difference(&old.cgroups).collect()));
        }
        self.connection.commit(batch)?;
        self.levels.extend(levels);
        if let Some(limit) = self.limits.get_mut(&number) {
            limit.cgroups = keys;
        }
        Ok(())
    }

    /// Takes a limit out.
    pub(super) fn remove(&mut self, number: Number) -> Result<()> {
        let Some(old) = self.limits.get(&number) else { return Ok(()) };
        let mut batch = Batch::new();
        self.unmap(&mut batch, number, old);
        self.delete_chains(&mut batch, number, old);
        for name in counters_of(number) {
            batch.counter(&self.table, &name, MsgType::Del);
        }
        self.connection.commit(batch)?;
        self.limits.remove(&number);
        match &mut self.egress {
            Some(egress) => egress.remove(&self.connection, number),
            None => Ok(()),
        }
    }

    /// What the kernel counted of a limit here.
    pub(super) fn counters(&self, number: Number) -> Result<Counters> {
        let names = counters_of(number);
        let table = self.table.get_name();
        let counted = self.connection.counters(table, ProtoFamily::Inet, &names)?;
        let (download, upload) = counted.split_at(counted.len() / 2);
        let mut counters = Counters { download: tally(download), upload: tally(upload) };
        if let Some(egress) = &self.egress {
            let left = egress.count(&self.connection, number)?;
            counters.upload.packets += left.packets;
            counters.upload.bytes += left.bytes;
            counters.upload.dropped += left.dropped;
        }
        Ok(counters)
    }

    /// Adds rules for levels that have none yet, and returns these.
    fn add_levels(&self, batch: &mut Batch, cgroups: &BTreeSet<(u32, u64)>) -> Vec<u32> {
        let levels: BTreeSet<u32> = cgroups.iter().map(|(level, _)| *level).collect();
        let new: Vec<u32> = levels.difference(&self.levels).copied().collect();
        for maps in &self.maps {
            let chain = base_chain(&self.table, maps.direction);
            for level in &new {
                let mut rule = Rule::new(&chain);
                rule.add_expr(&Socket::new(SocketKey::CgroupV2, *level));
                rule.add_expr(&GoByMap(&maps.cgroups));
                batch.add("match the cgroups of sockets", &rule, MsgType::Add);
            }
        }
        new
    }

    fn map(&self, batch: &mut Batch, number: Number, limit: &Installed) {
        for (maps, cgroups, mark) in self.elements(number, limit) {
            maps.cgroups.insert(batch, &cgroups);
            maps.marks.insert(batch, &[mark]);
        }
    }

    fn unmap(&self, batch: &mut Batch, number: Number, limit: &Installed) {
        for (maps, cgroups, mark) in self.elements(number, limit) {
            maps.cgroups.remove(batch, &cgroups);
            maps.marks.remove(batch, &[mark]);
        }
    }

    /// What leads to the chains of a limit.
    fn elements<'a>(
        &'a self,
        number: Number,
        limit: &'a Installed,
    ) -> impl Iterator<Item = (&'a Maps, Vec<Element>, Element)> {
        self.maps.iter().map(move |maps| {
            let chain = chain_name(number, limit.generation, maps.direction);
            let cgroups =
                limit.cgroups.iter().map(|(_, id)| cgroup_element(*id, &chain)).collect();
            let mark = (limit.mark.value().to_ne_bytes().to_vec(), chain);
            (maps, cgroups, mark)
        })
    }

    fn delete_chains(&self, batch: &mut Batch, number: Number, limit: &Installed) {
        for direction in Direction::BOTH {
            let name = chain_name(number, limit.generation, direction);
            let chain = Chain::new(&name, &self.table);
            // A rule without a handle means all rules of its chain.
            batch.add("empty the chain of a limit", &Rule::new(&chain), MsgType::Del);
            batch.add("delete the chain of a limit", &chain, MsgType::Del);
        }
    }
}

fn keys(places: &[Place]) -> BTreeSet<(u32, u64)> {
    places.iter().map(|place| (place.level, place.id)).collect()
}

fn cgroup_element(id: u64, chain: &CStr) -> Element {
    (id.to_ne_bytes().to_vec(), chain.to_owned())
}

fn chain_name(number: Number, generation: u32, direction: Direction) -> CString {
    CString::new(format!("{direction}-{number}.{generation}")).unwrap_or_default()
}

/// The chain that all packets of one direction pass.
fn base_chain(table: &Table, direction: Direction) -> Chain<'_> {
    let (name, hook) = match direction {
        Direction::Download => (c"input", Hook::In),
        Direction::Upload => (c"output", Hook::Out),
    };
    let mut chain = Chain::new(name, table);
    chain.set_type(ChainType::Filter);
    chain.set_hook(hook, PRIORITY);
    chain.set_policy(Policy::Accept);
    chain
}
