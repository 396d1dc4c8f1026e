//! Its rules in each network namespace, and the queues that they feed.

use chadthrottle_core::{Direction, Result, Target};
use tracing::debug;

use super::{Active, Tools, Way, add_all};
use crate::{
    moved::{self, Members},
    netns::Netns,
    nft::{
        chains::{Action, Plan},
        queueing::Queueing,
        ruleset::Ruleset,
    },
};

impl Active {
    /// Has rules in every namespace of a member, and for a cgroup at home; takes them out of namespaces where
    /// no member is any more, which would live on for our sake.
    pub(super) fn install(&mut self, tools: &mut Tools<'_>) -> Result<()> {
        let processes = self.members.iter().flat_map(Members::processes);
        let mut needed = moved::namespaces(tools.host, processes);
        let newcomers = self.targets.iter().any(|target| matches!(target, Target::Cgroup(_)));
        if newcomers && !needed.contains(tools.home) {
            needed.push(tools.home.clone());
        }
        for netns in &needed {
            let known = tools.rulesets.iter().any(|r| r.netns() == netns && r.has(self.number));
            if !known {
                self.install_in(tools, netns)?;
            }
        }
        for ruleset in tools.rulesets.iter_mut() {
            if ruleset.has(self.number) && !needed.contains(ruleset.netns()) {
                debug!("no limited process is in {} any more", ruleset.netns());
                add_all(&mut self.left, ruleset.counters(self.number)?);
                ruleset.remove(self.number)?;
                let id = ruleset.netns().id();
                for way in [Way::Down, Way::Up] {
                    if let Some(queue) = self.queues.remove(&(id, way))
                        && let Some(queueing) = tools.queueing
                    {
                        queueing.shaper.unbind(ruleset.netns(), queue);
                    }
                }
            }
        }
        Ok(())
    }

    /// Makes or replaces the rules in one namespace.
    pub(super) fn install_in(&mut self, tools: &mut Tools<'_>, netns: &Netns) -> Result<()> {
        tools.slot.hold_in(netns)?;
        let known = tools.rulesets.iter().position(|ruleset| ruleset.netns() == netns);
        let at = if let Some(at) = known {
            at
        } else {
            let (instance, polices) = (tools.journal.instance(), tools.queueing.is_none());
            tools.rulesets.push(Ruleset::open(netns, instance, polices)?);
            tools.rulesets.len() - 1
        };
        let plan = if let Some(queueing) = tools.queueing {
            Plan {
                download: self.action(queueing, netns, Direction::Download)?,
                upload: self.action(queueing, netns, Direction::Upload)?,
            }
        } else {
            let mark = tools.rulesets[at].has_egress().then_some(self.mark);
            Plan::policing(&self.limits, mark)
        };
        tools.rulesets[at].set(self.number, &plan, &self.places, self.mark)
    }

    /// What is done with the packets of one direction: the queue is taken before a rule feeds it.
    fn action(
        &mut self,
        queueing: &Queueing,
        netns: &Netns,
        direction: Direction,
    ) -> Result<Action> {
        let Some(limit) = self.limits.get(direction) else { return Ok(Action::Count) };
        let way = Way::from(direction);
        let lane = *self
            .lanes
            .entry(way)
            .or_insert_with(|| queueing.shaper.add_lane(Some(limit.rate)));
        let number = match self.queues.get(&(netns.id(), way)) {
            Some(number) => *number,
            None => queueing.shaper.bind(netns, lane)?,
        };
        self.queues.insert((netns.id(), way), number);
        Ok(Action::Queue { number, by: queueing.by, rate: limit.rate, expected: self.expected })
    }
}
