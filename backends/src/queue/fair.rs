//! Who is next: deficit round robin among flows (Shreedhar and Varghese, 1995), so that a bulk
//! transfer does not stand in the way of a short one.

use std::collections::{HashMap, VecDeque};

use super::packet::Packet;

/// What a flow may send in its turn, bytes: a full segment.
const QUANTUM: i64 = 1514;

/// Packets that wait, by flow.
#[derive(Debug, Default)]
pub(super) struct FairQueue {
    flows: HashMap<u64, Flow>,
    /// Flows that have packets, in the order of their turns.
    turns: VecDeque<u64>,
    bytes: u64,
}

#[derive(Debug, Default)]
struct Flow {
    packets: VecDeque<Packet>,
    bytes: u64,
    deficit: i64,
}

impl FairQueue {
    /// Payload that waits.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Flows that have packets here.
    pub(super) fn flows(&self) -> usize {
        self.turns.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.turns.is_empty()
    }

    /// Whether packets of this flow wait.
    pub(super) fn holds(&self, flow: u64) -> bool {
        self.flows.contains_key(&flow)
    }

    pub(super) fn push(&mut self, packet: Packet) {
        let flow = self.flows.entry(packet.flow).or_insert_with(|| {
            self.turns.push_back(packet.flow);
            Flow::default()
        });
        flow.packets.push_back(packet);
        flow.bytes += u64::from(packet.bytes);
        self.bytes += u64::from(packet.bytes);
    }

    /// The packet whose turn it is.
    pub(super) fn pop(&mut self) -> Option<Packet> {
        loop {
            let name = *self.turns.front()?;
            let flow = self.flows.get_mut(&name)?;
            if flow.deficit <= 0 {
                flow.deficit += QUANTUM;
                self.turns.rotate_left(1);
                continue;
            }
            let packet = flow.packets.pop_front()?;
            flow.deficit -= i64::from(packet.bytes).max(1);
            self.took(name, packet);
            return Some(packet);
        }
    }

    /// Takes the oldest packet of the flow that has most: its sender learns of it first.
    pub(super) fn pop_of_longest(&mut self) -> Option<Packet> {
        let name = *self.flows.iter().max_by_key(|(_, flow)| flow.bytes)?.0;
        let packet = self.flows.get_mut(&name)?.packets.pop_front()?;
        self.took(name, packet);
        Some(packet)
    }

    fn took(&mut self, name: u64, packet: Packet) {
        self.bytes -= u64::from(packet.bytes);
        if let Some(flow) = self.flows.get_mut(&name) {
            flow.bytes -= u64::from(packet.bytes);
            if flow.packets.is_empty() {
                self.flows.remove(&name);
                self.turns.retain(|other| *other != name);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packet(flow: u64, id: u32, bytes: u32) -> Packet {
        Packet { port: 0, queue: 0, id, bytes, flow, overtakes: false }
    }

    #[test]
    fn flows_take_turns_by_bytes() {
        let mut queue = FairQueue::default();
        for id in 0..60 {
            queue.push(packet(1, id, 500));
            queue.push(packet(2, id, 1500));
        }
        let mut sent = [0_u64; 2];
        for _ in 0..40 {
            let packet = queue.pop().unwrap();
            sent[packet.flow as usize - 1] += u64::from(packet.bytes);
        }
        assert!(sent[0] * 5 > sent[1] * 4 && sent[1] * 5 > sent[0] * 4, "{sent:?}");
    }

    #[test]
    fn a_flow_keeps_its_order_and_a_newcomer_need_not_wait() {
        let mut queue = FairQueue::default();
        (0..50).for_each(|id| queue.push(packet(1, id, 1448)));
        assert_eq!(queue.pop().unwrap().id, 0);
        queue.push(packet(2, 99, 100));
        let next: Vec<u32> = (0..3).map(|_| queue.pop().unwrap().id).collect();
        assert!(next.contains(&99), "{next:?}");
        let rest: Vec<u32> = std::iter::from_fn(|| queue.pop()).map(|p| p.id).collect();
        assert!(rest.is_sorted());
        assert!(queue.is_empty() && queue.bytes() == 0);
    }

    #[test]
    fn a_large_packet_is_paid_for_in_later_turns() {
        let mut queue = FairQueue::default();
        queue.push(packet(1, 0, 60_000));
        queue.push(packet(1, 1, 60_000));
        (0..40).for_each(|id| queue.push(packet(2, id, 1448)));
        let flows: Vec<u64> = (0..30).map(|_| queue.pop().unwrap().flow).collect();
        assert_eq!(flows.iter().filter(|flow| **flow == 1).count(), 1);
    }

    #[test]
    fn the_longest_flow_gives_way() {
        let mut queue = FairQueue::default();
        (0..9).for_each(|id| queue.push(packet(1, id, 1448)));
        queue.push(packet(2, 0, 1448));
        let dropped = queue.pop_of_longest().unwrap();
        assert_eq!((dropped.flow, dropped.id), (1, 0));
    }
}
