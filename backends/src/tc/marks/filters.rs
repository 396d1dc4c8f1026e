//! The tc side of marks: from the mark of a packet to the device of its limit.
//!
//! ```text
//! preference of the family, root:  no mark (downloads)    -> that of the connection, go on
//!                                  a mark of our instance -> table
//! table:                           the mark of a limit    -> redirect to its device
//! ```
//!
//! So a packet of nobody's passes two filters, however many limits there are.

use std::collections::{BTreeMap, BTreeSet};

use chadthrottle_core::{Direction, Result};
use netlink_packet_route::{
    RouteNetlinkMessage,
    tc::{TcFilterU32Option, TcMessage, TcOption, TcU32Selector},
};

use super::{COUNTED, INSTANCE};
use crate::{
    moved::{MARK_MASK, Mark},
    rtnetlink::Socket,
    tc::{
        classifiers::no_filter,
        hook::{ETHERTYPES, Hook, Listed, NODES, free_tables, no_table},
        message::{NEW, filter},
        site::Tenant,
        u32::{act, clear_mark, key, lead, mirred, passage, recall_mark, table, terminal},
    },
};

/// The filters of one hook. They stay the same, whatever sockets the targets have.
#[derive(Debug)]
pub(in crate::tc) struct Marking {
    direction: Direction,
    /// The bits of our marks that say which instance.
    instance: u32,
    /// By family.
    tables: [u32; 2],
    limits: BTreeMap<u32, (Tenant, Mark)>,
}

impl Marking {
    /// Plants what all limits share; no packet is matched yet.
    pub(in crate::tc) fn plant(
        rt: &mut Socket,
        hook: &Hook,
        direction: Direction,
        instance: u32,
    ) -> Result<Self> {
        let tables = free_tables(rt, &hook.link)?;
        let marking = Self { direction, instance, tables, limits: BTreeMap::new() };
        for family in 0..ETHERTYPES.len() {
            marking.add(rt, hook, family, marking.tables[family] << 20, table(1))?;
            for options in marking.frame(family) {
                marking.add(rt, hook, family, 0, options)?;
            }
        }
        Ok(marking)
    }

    /// Of downloads the mark is that of the connection, recalled where there is none yet.
    fn frame(&self, family: usize) -> Vec<Vec<TcOption>> {
        let recall = act(any(), vec![recall_mark(MARK_MASK)]);
        let lead = lead(passage(), self.tables[family] << 20);
        let options = match self.direction {
            Direction::Download => vec![recall, lead],
            Direction::Upload => vec![lead],
        };
        options
            .into_iter()
            .zip(self.leading())
            .map(|(options, mark)| marked(options, mark))
            .collect()
    }

    /// The marks, with their masks, of what leads to the table.
    fn leading(&self) -> Vec<[u32; 2]> {
        match self.direction {
            Direction::Download => vec![[0, u32::MAX], [self.instance, INSTANCE]],
            Direction::Upload => vec![[self.instance | COUNTED, INSTANCE | COUNTED]],
        }
    }

    /// The mark, with its mask, of a limit's packets.
    fn mark_of(&self, mark: Mark) -> [u32; 2] {
        match self.direction {
            Direction::Download => [mark.value(), MARK_MASK],
            Direction::Upload => [mark.value() | COUNTED, MARK_MASK],
        }
    }

    /// Redirects what carries a mark.
    pub(in crate::tc) fn admit(
        &mut self,
        rt: &mut Socket,
        hook: &Hook,
        (tenant, device): (Tenant, u32),
        mark: Mark,
    ) -> Result<()> {
        let free = (1..=NODES).find(|node| !self.limits.contains_key(node));
        let node = free.ok_or_else(|| no_table(&hook.link))?;
        self.limits.insert(node, (tenant, mark));
        // A mark is taken off again, since nobody further up asked for it; of uploads COUNTED stays: a
        // tunnel must see that the packet was attributed.
        let bits = match self.direction {
            Direction::Download => MARK_MASK,
            Direction::Upload => mark.value() & 0xfff & !COUNTED,
        };
        for (family, table) in self.tables.into_iter().enumerate() {
            let mut options = act(any(), vec![clear_mark(bits), mirred(device)]);
            options.push(TcOption::U32(TcFilterU32Option::Hash(table << 20)));
            let options = marked(options, self.mark_of(mark));
            self.add(rt, hook, family, table << 20 | node, options)?;
        }
        Ok(())
    }

    /// Deletes the filters of one limit.
    pub(in crate::tc) fn dismiss(&mut self, rt: &mut Socket, hook: &Hook, tenant: Tenant) {
        let nodes = self.limits.iter().filter(|(_, (other, _))| *other == tenant);
        for node in nodes.map(|(node, _)| *node).collect::<Vec<_>>() {
            self.limits.remove(&node);
            for (family, table) in self.tables.into_iter().enumerate() {
                let message = self.message(hook, family, table << 20 | node, Vec::new());
                // One that somebody deleted is no error.
                if let Err(refusal) =
                    rt.execute(RouteNetlinkMessage::DelTrafficFilter(message), 0)
                {
                    tracing::debug!("a filter of {} is gone: {refusal}", hook.link.name);
                }
            }
        }
    }

    fn add(
        &self,
        rt: &mut Socket,
        hook: &Hook,
        family: usize,
        node: u32,
        options: Vec<TcOption>,
    ) -> Result<()> {
        let message = self.message(hook, family, node, options);
        rt.execute(RouteNetlinkMessage::NewTrafficFilter(message), NEW)
            .map_err(|refusal| no_filter(&hook.link.name, refusal))
    }

    fn message(
        &self,
        hook: &Hook,
        family: usize,
        node: u32,
        options: Vec<TcOption>,
    ) -> TcMessage {
        let preference = hook.preference(self.direction, family);
        filter(hook.spot(self.direction), node, preference, ETHERTYPES[family], options)
    }

    /// Whether the kernel has them, marks included: some kernels take a mark and ignore it.
    pub(in crate::tc) fn is_intact(&self, listed: &[Listed], hook: &Hook) -> bool {
        let limits = self.limits.values().map(|(_, mark)| self.mark_of(*mark));
        let marks: Vec<[u32; 2]> = self.leading().into_iter().chain(limits).collect();
        let expected = (0..ETHERTYPES.len()).flat_map(|family| {
            let preference = hook.preference(self.direction, family);
            marks.iter().map(move |mark| (preference, *mark))
        });
        let found = listed.iter().filter_map(|filter| Some((filter.preference, filter.mark?)));
        let found: BTreeSet<_> = found.collect();
        expected.into_iter().all(|mark| found.contains(&mark))
    }
}

fn any() -> TcU32Selector {
    terminal(vec![key(0, 0, 0)])
}

/// What asks for a mark besides.
fn marked(mut options: Vec<TcOption>, [value, mask]: [u32; 2]) -> Vec<TcOption> {
    let words = [value, mask, 0].into_iter().flat_map(u32::to_ne_bytes);
    options.push(TcOption::U32(TcFilterU32Option::Mark(words.collect())));
    options
}
