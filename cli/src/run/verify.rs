//! Whether a limit in force sees its target's packets at all.

use chadthrottle_backends::sockets::{Moved, Traffic};
use chadthrottle_core::{Counters, Direction, Host, Limits, Target};

/// So much may have passed before the limit was in force, or still be on its way to the counters.
const TOLERATED: u64 = 64 * 1024;
/// An idle target is looked at each second at first, later now and then.
const EAGER: u32 = 10;
const RARELY: u32 = 10;

/// Compares what the sockets of the targets moved with what the limit counted, until both have.
pub(super) struct Verification {
    host: Host,
    targets: Vec<Target>,
    traffic: Traffic,
    /// Directions that are limited and not yet seen to be.
    pending: Vec<Direction>,
    ticks: u32,
}

impl Verification {
    pub(super) fn new(host: Host, targets: &[Target], limits: &Limits) -> Self {
        let limited = |direction: &Direction| limits.get(*direction).is_some();
        Self {
            host,
            targets: targets.to_vec(),
            traffic: Traffic::default(),
            pending: Direction::BOTH.into_iter().filter(limited).collect(),
            ticks: 0,
        }
    }

    /// Called each second; what to warn of, if anything.
    pub(super) fn tick(&mut self, counters: &Counters) -> Option<String> {
        self.pending.retain(|direction| counters.get(*direction).packets == 0);
        self.ticks += 1;
        let is_due = self.ticks <= EAGER || self.ticks.is_multiple_of(RARELY);
        if self.pending.is_empty() || !is_due {
            return None;
        }
        let moved = self.traffic.look(&self.host, &self.targets);
        let unseen =
            self.pending.iter().find(|direction| bytes(moved, **direction) > TOLERATED)?;
        let message = format!(
            "the {unseen} limit has matched no packet, though the target moved {} kB: it does \
             not hold. Its sockets may belong to another network namespace or cgroup than the \
             backend sees, or somebody took its programs or rules away; try another --backend, \
             and chadthrottle probe",
            bytes(moved, *unseen) / 1000
        );
        // Once is enough.
        self.pending.clear();
        Some(message)
    }
}

fn bytes(moved: Moved, direction: Direction) -> u64 {
    match direction {
        Direction::Download => moved.received,
        Direction::Upload => moved.sent,
    }
}
