//! Policing uploads where they leave, so that no sender sees an error.
//!
//! A packet that is dropped in `output` is an `EPERM` to whoever sent it. So rules there only
//! write a mark of ours into the packet, and a table of the family `netdev` drops what is over
//! the rate at the egress hook of the interfaces. The first interface that a packet leaves
//! takes the mark off again: through a bridge, bond or VLAN it is charged once.
//!
//! Kernel 5.16. Used where packets cannot be queued.

use std::{
    collections::BTreeMap,
    ffi::{CStr, CString},
};

use chadthrottle_core::{Direction, Rate, Result, backend::Count};
use nftnl::{
    Chain, ChainType, Hook, MsgType, Policy, ProtoFamily, Rule, Table,
    expr::{Bitwise, Cmp, CmpOp, Meta},
};
use tracing::{debug, info};

use super::{
    chains::{self, counters_of},
    ruleset::Number,
};
use crate::{
    links,
    moved::{MARK_MASK, Mark},
    netfilter::{Batch, Connection, CountIn, Counted, Element, GoByMap, Key, Map},
    netns::{self, Netns},
};

/// A full segment with its Ethernet header and the payload in it: the hook counts both.
const FRAME: (u64, u64) = (1514, 1448);
/// `ETH_P_IPV6`.
const IPV6: u16 = 0x86dd;
/// An Ethernet header.
const LINK_HEADER: u64 = 14;

/// The table of one network namespace.
pub(super) struct Egress {
    table: Table,
    marks: Map,
    /// Interfaces that have a chain, by index.
    interfaces: BTreeMap<u32, String>,
    /// The generation of each limit's chain, and its mark.
    limits: BTreeMap<Number, (u32, Mark)>,
}

impl Egress {
    /// Fails where the kernel has no egress hook.
    pub(super) fn open(connection: &Connection, netns: &Netns, name: &CStr) -> Result<Self> {
        let table = Table::new(name, ProtoFamily::NetDev);
        let marks = Map::new(&table, c"upload-marks", 1, Key::Mark);
        let mut batch = Batch::new();
        batch.create_owned_table(name, ProtoFamily::NetDev);
        marks.create(&mut batch);
        connection.commit(batch)?;
        let mut egress =
            Self { table, marks, interfaces: BTreeMap::new(), limits: BTreeMap::new() };
        // Loopback is there always: with it the hook is tried.
        egress.attach(connection, 1, "lo")?;
        egress.detach(connection, 1);
        egress.follow(connection, netns)?;
        Ok(egress)
    }

    /// Takes in the interfaces that came, forgets those that went.
    pub(super) fn follow(&mut self, connection: &Connection, netns: &Netns) -> Result<()> {
        let list = || links::socket().and_then(|mut socket| links::list(&mut socket));
        let links = netns::run_in(netns, list)??;
        let there: BTreeMap<u32, String> = links
            .into_iter()
            .filter(|link| !link.is_loopback())
            .map(|link| (link.index, link.name))
            .collect();
        let gone: Vec<u32> = self
            .interfaces
            .keys()
            .filter(|index| !there.contains_key(index))
            .copied()
            .collect();
        for index in gone {
            debug!("interface {index} of {netns} is gone");
            self.detach(connection, index);
        }
        for (index, name) in there {
            if !self.interfaces.contains_key(&index) {
                // It may be gone again.
                match self.attach(connection, index, &name) {
                    Ok(()) => debug!("limiting on {name} of {netns}"),
                    Err(error) => info!("{error}"),
                }
            }
        }
        Ok(())
    }

    /// Puts a limit in force, or changes its rate.
    pub(super) fn set(
        &mut self,
        connection: &Connection,
        number: Number,
        mark: Mark,
        rate: Rate,
    ) -> Result<()> {
        let old = self.limits.get(&number).copied();
        let generation = old.map_or(0, |(generation, _)| generation) + 1;
        let name = chain_name(number, generation);
        let chain = Chain::new(&name, &self.table);
        let mut batch = Batch::new();
        if old.is_none() {
            for name in upload_counters(number) {
                batch.counter(&self.table, &name, MsgType::Add);
            }
        }
        batch.add("create the chain of a limit", &chain, MsgType::Add);
        let names = chains::Names::new(number, Direction::Upload);
        chains::police(&mut batch, &chain, &names, chains::scale(rate, FRAME), chains::BURST);
        let mut rule = Rule::new(&chain);
        rule.add_expr(&Meta::Mark { set: false });
        rule.add_expr(&Bitwise::new(!MARK_MASK, 0_u32));
        rule.add_expr(&Meta::Mark { set: true });
        batch.add("take the mark off", &rule, MsgType::Add);
        let mut rule = Rule::new(&chain);
        rule.add_expr(&Meta::Protocol);
        rule.add_expr(&Cmp::new(CmpOp::Eq, IPV6.to_be()));
        rule.add_expr(&CountIn(&names.ipv6));
        batch.add("count packets", &rule, MsgType::Add);
        chains::count_by_protocol(&mut batch, &chain, &names);
        if let Some((generation, mark)) = old {
            self.unmap(&mut batch, number, generation, mark);
        }
        self.marks.insert(&mut batch, &[element(mark, &name)]);
        if let Some((generation, _)) = old {
            self.delete(&mut batch, number, generation);
        }
        connection.commit(batch)?;
        self.limits.insert(number, (generation, mark));
        Ok(())
    }

    pub(super) fn remove(&mut self, connection: &Connection, number: Number) -> Result<()> {
        let Some((generation, mark)) = self.limits.get(&number).copied() else { return Ok(()) };
        let mut batch = Batch::new();
        self.unmap(&mut batch, number, generation, mark);
        self.delete(&mut batch, number, generation);
        for name in upload_counters(number) {
            batch.counter(&self.table, &name, MsgType::Del);
        }
        connection.commit(batch)?;
        self.limits.remove(&number);
        Ok(())
    }

    /// What passed and what was dropped.
    pub(super) fn count(&self, connection: &Connection, number: Number) -> Result<Count> {
        if !self.limits.contains_key(&number) {
            return Ok(Count::default());
        }
        let names = upload_counters(number);
        let counted =
            connection.counters(self.table.get_name(), ProtoFamily::NetDev, &names)?;
        let without_link = |counted: Counted| Counted {
            bytes: counted.bytes.saturating_sub(LINK_HEADER * counted.packets),
            ..counted
        };
        let counted: Vec<Counted> = counted.into_iter().map(without_link).collect();
        Ok(chains::tally(&counted))
    }

    fn attach(&mut self, connection: &Connection, index: u32, device: &str) -> Result<()> {
        let chain = base_chain(&self.table, index, device);
        let mut batch = Batch::new();
        batch.add("attach to the egress of an interface", &chain, MsgType::Add);
        let mut rule = Rule::new(&chain);
        rule.add_expr(&Meta::Mark { set: false });
        rule.add_expr(&Bitwise::new(MARK_MASK, 0_u32));
        rule.add_expr(&GoByMap(&self.marks));
        batch.add("match the marks of packets", &rule, MsgType::Add);
        connection.commit(batch)?;
        self.interfaces.insert(index, device.to_owned());
        Ok(())
    }

    /// The kernel may have deleted the chain with its interface.
    fn detach(&mut self, connection: &Connection, index: u32) {
        self.interfaces.remove(&index);
        let name = base_name(index);
        let chain = Chain::new(&name, &self.table);
        let mut batch = Batch::new();
        batch.add("empty a chain", &Rule::new(&chain), MsgType::Del);
        batch.add("delete a chain", &chain, MsgType::Del);
        if let Err(error) = connection.commit(batch) {
            debug!("{error}");
        }
    }

    fn unmap(&self, batch: &mut Batch, number: Number, generation: u32, mark: Mark) {
        self.marks.remove(batch, &[element(mark, &chain_name(number, generation))]);
    }

    fn delete(&self, batch: &mut Batch, number: Number, generation: u32) {
        let name = chain_name(number, generation);
        let chain = Chain::new(&name, &self.table);
        batch.add("empty the chain of a limit", &Rule::new(&chain), MsgType::Del);
        batch.add("delete the chain of a limit", &chain, MsgType::Del);
    }
}

fn element(mark: Mark, chain: &CStr) -> Element {
    (mark.value().to_ne_bytes().to_vec(), chain.to_owned())
}

/// The chain at the egress hook of an interface.
pub(super) fn base_chain<'a>(table: &'a Table, index: u32, device: &str) -> Chain<'a> {
    let mut chain = Chain::new(base_name(index), table);
    chain.set_type(ChainType::Filter);
    // NF_NETDEV_EGRESS is 1 (include/uapi/linux/netfilter.h), as NF_INET_LOCAL_IN is.
    chain.set_hook(Hook::In, 0);
    chain.set_policy(Policy::Accept);
    chain.set_device(CString::new(device).unwrap_or_default());
    chain
}

fn base_name(index: u32) -> CString {
    CString::new(format!("egress-{index}")).unwrap_or_default()
}

fn chain_name(number: Number, generation: u32) -> CString {
    CString::new(format!("upload-{number}.{generation}")).unwrap_or_default()
}

fn upload_counters(number: Number) -> Vec<CString> {
    counters_of(number).split_off(4)
}
