//! The u32 filters of one hook, for all limits: any number of flows, looked up by the local port.
//!
//! ```text
//! preference of the family, root:  TCP, header of 5 words     -> table of TCP, bucket: local port
//!                                  TCP, header of 6..15 words ->   the same
//!                                  UDP ...                    -> table of UDP
//!                                  SYN                        -> mirror to a device of ours, go on
//! table, bucket n:                 ports, addresses           -> redirect to the limit's device
//! ```
//!
//! A bucket holds the flows whose local port ends in the same byte, so that thousands of flows
//! cost a packet a few comparisons. Fragments but the first have no ports and are not matched. A flow
//! that two limits share has a filter of each; that with the lower number decides.

use std::collections::{BTreeSet, HashMap, HashSet};

use chadthrottle_core::{Direction, Error, Result};
use netlink_packet_core::{Emitable, NLM_F_REPLACE};
use netlink_packet_route::{
    RouteNetlinkMessage,
    tc::{TcMessage, TcOption, TcU32Selector},
};

use super::flow::{Flow, Transport};
use crate::{
    rtnetlink::{Refusal, Socket},
    tc::{
        classifiers::no_filter,
        ear,
        hook::{ETHERTYPES, Hook, Listed, NODES, free_tables, list},
        message::{NEW, filter},
        site::Tenant,
        u32::{key, lead, link, mirror, redirect, table},
    },
};

/// As many as u32 allows.
const BUCKETS: u32 = 256;

/// What comes last in a root table: the kernel itself numbers from 0x800 up (`gen_new_kid`).
const LAST: u32 = NODES;

/// The filters as they should be in the kernel.
#[derive(Debug)]
pub(in crate::tc) struct Tree {
    direction: Direction,
    /// Where packets with SYN are mirrored to.
    ear: u32,
    /// By family, then transport.
    tables: [[u32; 2]; 2],
    /// With the numbers of their filters.
    flows: HashMap<Tenant, HashMap<Flow, u32>>,
    taken: HashMap<u32, BTreeSet<u32>>,
}

impl Tree {
    /// Plants the tables and what leads to them; no flow is matched yet. New connections are mirrored
    /// to the device `ear`.
    pub(in crate::tc) fn plant(
        rt: &mut Socket,
        hook: &Hook,
        direction: Direction,
        ear: u32,
    ) -> Result<Self> {
        let [tcp4, udp4, tcp6, udp6] = free_tables(rt, &hook.link)?;
        let tables = [[tcp4, udp4], [tcp6, udp6]];
        let tree =
            Self { direction, ear, tables, flows: HashMap::new(), taken: HashMap::new() };
        let answers = rt.execute_all(tree.frame(hook));
        let answers = answers.map_err(Refusal::from).and_then(CollectAll::collect_all);
        answers.map_err(|refusal| no_filter(&hook.link.name, refusal))?;
        Ok(tree)
    }

    /// Tables first, then the filters that lead to them.
    fn frame(&self, hook: &Hook) -> Vec<(RouteNetlinkMessage, u16)> {
        let spot = hook.spot(self.direction);
        let mut messages = Vec::new();
        for (family, ethertype) in ETHERTYPES.into_iter().enumerate() {
            let preference = hook.preference(self.direction, family);
            let tables = self.tables[family];
            for number in tables {
                messages.push(filter(
                    spot,
                    number << 20,
                    preference,
                    ethertype,
                    table(BUCKETS),
                ));
            }
            for (transport, number) in Transport::BOTH.into_iter().zip(tables) {
                for selector in entries(family, transport, self.direction) {
                    let options = lead(selector, number << 20);
                    messages.push(filter(spot, 0, preference, ethertype, options));
                }
            }
            // Last: what belongs to a flow never gets here.
            messages.push(filter(spot, LAST, preference, ethertype, self.mirror(family)));
        }
        messages
            .into_iter()
            .map(|message| (RouteNetlinkMessage::NewTrafficFilter(message), NEW))
            .collect()
    }

    fn mirror(&self, family: usize) -> Vec<TcOption> {
        mirror(ear::selector(family), self.ear)
    }

    /// Mirrors new connections to another device; none is missed.
    pub(in crate::tc) fn hear(&mut self, rt: &mut Socket, hook: &Hook, ear: u32) -> Result<()> {
        self.ear = ear;
        let spot = hook.spot(self.direction);
        // The kernel chose the number of the root table.
        let last = |filter: &Listed| {
            filter.handle & NODES == LAST
                && !self.tables.as_flattened().contains(&(filter.handle >> 20))
        };
        let listed = list(rt, spot)?;
        for (family, ethertype) in ETHERTYPES.into_iter().enumerate() {
            let preference = hook.preference(self.direction, family);
            let mut ours = listed.iter().filter(|filter| filter.preference == preference);
            let Some(Listed { handle, .. }) = ours.find(|filter| last(filter)) else {
                continue;
            };
            let changed = filter(spot, *handle, preference, ethertype, self.mirror(family));
            rt.execute(RouteNetlinkMessage::NewTrafficFilter(changed), NLM_F_REPLACE)
                .map_err(|refusal| refusal.explain("change a filter of", &hook.link.name))?;
        }
        Ok(())
    }

    /// Makes the filters of one limit match exactly these flows: new ones first, so that none is free
    /// meanwhile. A flow that cannot be matched is tried again with the next call. Says whether some
    /// are new.
    pub(in crate::tc) fn sync(
        &mut self,
        rt: &mut Socket,
        hook: &Hook,
        (tenant, device): (Tenant, u32),
        flows: &HashSet<Flow>,
    ) -> Result<bool> {
        let has = self.flows.entry(tenant).or_default();
        let new: Vec<Flow> =
            flows.iter().filter(|flow| !has.contains_key(flow)).copied().collect();
        let old: Vec<(Flow, u32)> = has
            .iter()
            .filter(|(flow, _)| !flows.contains(flow))
            .map(|(flow, node)| (*flow, *node))
            .collect();
        if new.is_empty() && old.is_empty() {
            return Ok(false);
        }
        let mut messages = Vec::with_capacity(new.len() + old.len());
        let mut placed = Vec::with_capacity(new.len());
        for flow in new {
            let Some(node) = self.place(&flow) else { continue };
            messages.push((self.add(hook, &flow, node, device), NEW));
            placed.push((flow, node));
        }
        let added = messages.len();
        messages.extend(old.iter().map(|(flow, node)| (self.delete(hook, flow, *node), 0)));
        let answers = rt
            .execute_all(messages)
            .map_err(|error| Error::io("change the filters of", &hook.link.name, error))?;

        for ((flow, node), answer) in placed.into_iter().zip(&answers) {
            match answer {
                Ok(()) => drop(self.flows.entry(tenant).or_default().insert(flow, node)),
                Err(_) => self.vacate(node),
            }
        }
        for (flow, node) in old {
            self.flows.entry(tenant).or_default().remove(&flow);
            self.vacate(node);
        }
        match answers.into_iter().take(added).find_map(Result::err) {
            Some(refusal) => Err(no_filter(&hook.link.name, refusal)),
            None => Ok(added > 0),
        }
    }

    /// Deletes the filters of one limit.
    pub(in crate::tc) fn dismiss(
        &mut self,
        rt: &mut Socket,
        hook: &Hook,
        tenant: Tenant,
    ) -> Result<()> {
        self.sync(rt, hook, (tenant, 0), &HashSet::new())?;
        self.flows.remove(&tenant);
        Ok(())
    }

    /// Compares with what the kernel has: whether every filter is there and matches what it should.
    /// Some kernels take a match that they do not know and ignore it.
    pub(in crate::tc) fn is_intact(&self, listed: &[Listed], hook: &Hook) -> bool {
        let ours: HashMap<u32, &Listed> = listed
            .iter()
            .filter(|filter| filter.preference & !1 == hook.preference(self.direction, 0))
            .map(|filter| (filter.handle, filter))
            .collect();
        let entries = (0..2).flat_map(|family| {
            Transport::BOTH.map(|transport| entries(family, transport, self.direction).count())
        });
        // And one for SYN.
        let entries: usize = entries.sum::<usize>() + ETHERTYPES.len();
        let leading = ours.iter().filter(|(handle, filter)| {
            *handle & NODES != 0
                && !self.tables.as_flattened().contains(&(*handle >> 20))
                && !filter.selector.is_empty()
        });
        let flows = self.flows.values().flatten().all(|(flow, node)| {
            let expected = bytes_of(&flow.selector(self.direction));
            ours.get(node).is_some_and(|filter| filter.selector.starts_with(&expected))
        });
        flows && leading.count() == entries
    }

    fn add(&self, hook: &Hook, flow: &Flow, node: u32, device: u32) -> RouteNetlinkMessage {
        let options = redirect(node & !NODES, flow.selector(self.direction), device);
        RouteNetlinkMessage::NewTrafficFilter(self.message(hook, flow, node, options))
    }

    fn delete(&self, hook: &Hook, flow: &Flow, node: u32) -> RouteNetlinkMessage {
        RouteNetlinkMessage::DelTrafficFilter(self.message(hook, flow, node, Vec::new()))
    }

    fn message(
        &self,
        hook: &Hook,
        flow: &Flow,
        node: u32,
        options: Vec<TcOption>,
    ) -> TcMessage {
        let preference = hook.preference(self.direction, flow.family());
        filter(hook.spot(self.direction), node, preference, ETHERTYPES[flow.family()], options)
    }

    /// A free number in the flow's bucket; `None` when 4095 flows have it already.
    fn place(&mut self, flow: &Flow) -> Option<u32> {
        let table = self.tables[flow.family()][flow.transport as usize];
        let bucket = table << 20 | u32::from(flow.port & 0xff) << 12;
        let taken = self.taken.entry(bucket).or_default();
        let free = (1..=NODES).find(|number| !taken.contains(number))?;
        taken.insert(free);
        Some(bucket | free)
    }

    fn vacate(&mut self, node: u32) {
        if let Some(taken) = self.taken.get_mut(&(node & !NODES)) {
            taken.remove(&(node & NODES));
        }
    }
}

/// The selectors that lead from the root to a table, one for each length of the IP header.
fn entries(
    family: usize,
    transport: Transport,
    direction: Direction,
) -> impl Iterator<Item = TcU32Selector> {
    // The low byte of the local port.
    let hash = match direction {
        Direction::Upload => 0x00ff_0000,
        Direction::Download => 0x0000_00ff,
    };
    let words = if family == 0 { 5..=15_u32 } else { 10..=10 };
    words.map(move |words| {
        let keys = match family {
            0 => vec![
                key(0, (0x40 | words) << 24, 0xff00_0000),
                key(8, transport.number() << 16, 0x00ff_0000),
                // The fragment offset: ports are in the first fragment only.
                key(4, 0, 0x0000_1fff),
            ],
            _ => vec![key(4, transport.number() << 8, 0x0000_ff00)],
        };
        link(keys, 4 * words as u16, hash)
    })
}

fn bytes_of(selector: &TcU32Selector) -> Vec<u8> {
    let mut bytes = vec![0; selector.buffer_len()];
    selector.emit(&mut bytes);
    bytes
}

/// The first refusal, if there is one.
trait CollectAll {
    fn collect_all(self) -> Result<(), Refusal>;
}

impl<T: IntoIterator<Item = Result<(), Refusal>>> CollectAll for T {
    fn collect_all(self) -> Result<(), Refusal> {
        self.into_iter().collect()
    }
}
