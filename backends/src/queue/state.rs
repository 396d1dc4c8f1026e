//! What the thread that paces packets works on: which queue feeds which lane, and what is due.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    time::Instant,
};

use chadthrottle_core::Result;
use tracing::{debug, warn};

use super::{
    lane::Lane,
    packet::Packet,
    port::Port,
    wire::{Request, Verdict},
};
use crate::netns::Netns;

/// Names a lane: one limit in one direction, in all namespaces.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LaneId(pub(super) u32);

/// The ports, the lanes, and which feeds which.
#[derive(Default)]
pub(super) struct State {
    pub(super) ports: BTreeMap<usize, Port>,
    pub(super) lanes: BTreeMap<LaneId, Lane>,
    /// Which lane a queue of a port feeds.
    pub(super) queues: BTreeMap<(usize, u16), LaneId>,
    /// Lanes in which something waits.
    pub(super) busy: BTreeSet<LaneId>,
    /// Grows when ports come or go.
    pub(super) generation: u64,
    pub(super) next_port: usize,
    pub(super) next_lane: u32,
    pub(super) next_queue: u16,
    pub(super) stopping: bool,
}

impl State {
    /// Reads what has come, lets pass what is due; returns when to do it again, if nothing
    /// comes before.
    pub(super) fn turn(&mut self) -> Option<Instant> {
        let mut arrived = Vec::new();
        let mut more = false;
        for (index, port) in &mut self.ports {
            match port.receive(*index, &mut |packet| arrived.push(packet)) {
                Ok(received) => more |= received.more,
                Err(error) => warn!("cannot read packets of {}: {error}", port.netns()),
            }
        }
        self.arrive(&arrived);
        let now = Instant::now();
        let mut judged = Vec::new();
        let mut due = more.then_some(now);
        self.busy.retain(|id| {
            let Some(lane) = self.lanes.get_mut(id) else { return false };
            lane.release(now, &mut |packet, verdict| judged.push((packet, verdict)));
            let next = lane.due();
            due = [due, next].into_iter().flatten().min();
            next.is_some()
        });
        self.judge(&judged);
        self.ports.values_mut().for_each(Port::flush);
        due
    }

    /// Puts packets into their lanes.
    fn arrive(&mut self, packets: &[Packet]) {
        let mut judged = Vec::new();
        for packet in packets {
            let id = self.queues.get(&(packet.port, packet.queue));
            match id.and_then(|id| self.lanes.get_mut(id).map(|lane| (id, lane))) {
                Some((id, lane)) => {
                    lane.arrive(*packet, &mut |packet, verdict| judged.push((packet, verdict)));
                    self.busy.insert(*id);
                }
                // Its limit was lifted a moment ago.
                None => judged.push((*packet, Verdict::Accept)),
            }
        }
        self.judge(&judged);
    }

    fn judge(&mut self, judged: &[(Packet, Verdict)]) {
        for (packet, verdict) in judged {
            if let Some(port) = self.ports.get_mut(&packet.port) {
                port.judge(packet.queue, packet.id, *verdict);
            }
        }
    }

    /// Lets everything in a lane pass.
    pub(super) fn open(&mut self, id: LaneId) {
        let mut judged = Vec::new();
        if let Some(lane) = self.lanes.get_mut(&id) {
            lane.open(Instant::now(), &mut |packet, verdict| judged.push((packet, verdict)));
        }
        self.judge(&judged);
        self.ports.values_mut().for_each(Port::flush);
    }

    /// The port of a namespace, opened when it is not yet.
    pub(super) fn port(&mut self, netns: &Netns) -> Result<usize> {
        if let Some(index) = self.port_of(netns) {
            return Ok(index);
        }
        let index = self.next_port;
        self.ports.insert(index, Port::open(netns)?);
        self.next_port += 1;
        self.generation += 1;
        Ok(index)
    }

    pub(super) fn port_of(&self, netns: &Netns) -> Option<usize> {
        self.ports.iter().find(|(_, port)| port.netns() == netns).map(|(index, _)| *index)
    }

    pub(super) fn queues_of(&self, lane: LaneId) -> Vec<(usize, u16)> {
        let of_lane = self.queues.iter().filter(|(_, other)| **other == lane);
        of_lane.map(|(queue, _)| *queue).collect()
    }

    pub(super) fn request(
        &mut self,
        port: usize,
        queue: u16,
        request: Request,
    ) -> io::Result<()> {
        let mut arrived = Vec::new();
        let found = self.ports.get_mut(&port).ok_or(io::ErrorKind::NotFound)?;
        let answer = found.request(port, queue, request, &mut |packet| arrived.push(packet));
        self.arrive(&arrived);
        answer
    }

    pub(super) fn give_up(&mut self, port: usize, queue: u16) {
        if let Err(error) = self.request(port, queue, Request::Unbind) {
            debug!("cannot give up the packet queue {queue}: {error}");
        }
    }

    pub(super) fn close_if_unused(&mut self, port: usize) {
        let is_used = self.queues.keys().any(|(other, _)| *other == port);
        if !is_used && self.ports.remove(&port).is_some() {
            self.generation += 1;
        }
    }
}
