//! One limit in force.

mod rules;
mod sockets;

use std::collections::{BTreeMap, HashSet};

use chadthrottle_core::{
    BackendId, Counters, Direction, Host, Limits, Result, Target,
    backend::Count,
    journal::{Entry, Journal},
};
use tracing::warn;

use super::{queueing::Queueing, ruleset::Ruleset};
use crate::{
    moved::{self, Holdings, Mark, Members, Place, Slot, State},
    netns::Netns,
    queue::LaneId,
    steer::Steering,
};

/// What the engine has for all limits.
pub(super) struct Tools<'a> {
    pub(super) host: &'a Host,
    pub(super) journal: &'a Journal,
    pub(super) home: &'a Netns,
    pub(super) slot: &'a mut Slot,
    pub(super) rulesets: &'a mut Vec<Ruleset>,
    pub(super) queueing: Option<&'a Queueing>,
}

/// Its targets, their sockets, and how its packets are treated.
pub(super) struct Active {
    number: u32,
    mark: Mark,
    limits: Limits,
    targets: Vec<Target>,
    members: Vec<Members>,
    holdings: Holdings,
    /// Journal records of what was done to sockets.
    entries: Vec<Entry>,
    places: Vec<Place>,
    steering: Steering,
    /// What peers may still send that was allowed before the limit, bytes.
    expected: u64,
    /// One of each limited direction, when packets are queued.
    lanes: BTreeMap<Way, LaneId>,
    /// The queue of each direction in each namespace.
    queues: BTreeMap<(u64, Way), u16>,
    /// What was counted in namespaces that are left.
    left: Counters,
    warned: HashSet<String>,
    away: bool,
}

/// A direction that can be a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Way {
    Down,
    Up,
}

impl From<Direction> for Way {
    fn from(direction: Direction) -> Self {
        match direction {
            Direction::Download => Self::Down,
            Direction::Upload => Self::Up,
        }
    }
}

/// What a look at a limit brought.
#[derive(Debug, Default)]
pub(super) struct Refreshed {
    pub(super) warnings: Vec<String>,
    pub(super) ended: bool,
}

impl Active {
    /// Moves the processes where they can be known; nothing is limited yet. When it fails all of
    /// them are back.
    pub(super) fn enter(
        host: &Host,
        journal: &Journal,
        number: u32,
        mark: Mark,
        targets: &[Target],
        limits: &Limits,
    ) -> Result<Self> {
        let mut members = Vec::new();
        for target in targets {
            // On an error the leaves of those before are dropped, which moves back what is in them.
            members.push(Members::enter(host, journal, target)?);
        }
        Ok(Self {
            number,
            mark,
            limits: *limits,
            targets: targets.to_vec(),
            members,
            holdings: Holdings::default(),
            entries: Vec::new(),
            places: Vec::new(),
            steering: Steering::default(),
            expected: 0,
            lanes: BTreeMap::new(),
            queues: BTreeMap::new(),
            left: Counters::default(),
            warned: HashSet::new(),
            away: false,
        })
    }

    pub(super) fn number(&self) -> u32 {
        self.number
    }

    /// Puts the limit in force, open sockets included. Returns what is not covered, in words.
    pub(super) fn enforce(&mut self, tools: &mut Tools<'_>) -> Result<Vec<String>> {
        self.record(tools)?;
        self.places = self.places_now(tools.host)?;
        // Senders learn of it before anything waits for them.
        self.find_sockets(tools)?;
        self.expected = self.steer(tools)?;
        self.install(tools)?;
        self.expect_more(tools)?;
        self.mark_sockets(tools, true)
    }

    /// Changes the rates in place.
    pub(super) fn update(&mut self, tools: &mut Tools<'_>, limits: &Limits) -> Result<()> {
        let old = std::mem::replace(&mut self.limits, *limits);
        let namespaces: Vec<Netns> = tools
            .rulesets
            .iter()
            .filter(|ruleset| ruleset.has(self.number))
            .map(|ruleset| ruleset.netns().clone())
            .collect();
        let outcome = namespaces.iter().try_for_each(|netns| self.install_in(tools, netns));
        if outcome.is_err() {
            self.limits = old;
        }
        let lifted = Direction::BOTH.into_iter().any(|direction| {
            old.get(direction).is_some() && self.limits.get(direction).is_none()
        });
        if lifted && let Err(error) = self.free_all(tools.journal) {
            warn!("{error}");
        }
        self.steer(tools)?;
        let Some(queueing) = tools.queueing else { return outcome };
        for direction in Direction::BOTH {
            let Some(lane) = self.lanes.get(&direction.into()).copied() else { continue };
            if let Some(limit) = self.limits.get(direction) {
                queueing.shaper.set_rate(lane, Some(limit.rate))?;
            } else {
                self.lanes.remove(&direction.into());
                self.queues.retain(|(_, way), _| *way != direction.into());
                add(self.left_of(direction), queueing.shaper.remove(lane));
            }
        }
        outcome
    }

    /// Looks who came and who went.
    pub(super) fn refresh(&mut self, tools: &mut Tools<'_>) -> Result<Refreshed> {
        let mut refreshed = Refreshed::default();
        let mut states = Vec::new();
        for members in &mut self.members {
            states.push(members.refresh(tools.host, tools.journal)?);
        }
        let away = states.contains(&State::Away);
        if away && !self.away {
            refreshed.warnings.push(
                "a limited cgroup is gone; it is limited again when it comes back".to_owned(),
            );
        }
        self.away = away;
        if states.iter().all(|state| *state == State::Ended) {
            refreshed.ended = true;
            return Ok(refreshed);
        }
        let places = self.places_now(tools.host)?;
        if places != self.places {
            self.places = places;
            self.record(tools)?;
            for ruleset in tools.rulesets.iter_mut() {
                ruleset.set_places(self.number, &self.places)?;
            }
        }
        self.install(tools)?;
        self.find_sockets(tools)?;
        let warnings = self.mark_sockets(tools, false)?;
        self.steer(tools)?;
        refreshed.warnings.extend(warnings);
        Ok(refreshed)
    }

    /// Lets everything run free again. Goes on after an error and returns the first.
    pub(super) fn release(&mut self, tools: &mut Tools<'_>) -> Result<()> {
        let mut outcome = Ok(());
        for ruleset in tools.rulesets.iter_mut() {
            outcome = outcome.and(ruleset.remove(self.number));
        }
        if let Some(queueing) = tools.queueing {
            for (_, lane) in std::mem::take(&mut self.lanes) {
                let _passed = queueing.shaper.remove(lane); // Counted before.
            }
        }
        outcome = outcome.and(self.free_sockets(tools));
        for members in &mut self.members {
            outcome = outcome.and(members.leave());
        }
        // What failed stays in the journal: the guardian tries once more.
        for entry in self.entries.drain(..) {
            outcome = outcome.and_then(|()| tools.journal.done(entry));
        }
        outcome
    }

    pub(super) fn counters(&self, tools: &Tools<'_>) -> Result<Counters> {
        self.count(tools.rulesets, tools.queueing)
    }

    /// What passed since the limit was added.
    pub(super) fn count(
        &self,
        rulesets: &[Ruleset],
        queueing: Option<&Queueing>,
    ) -> Result<Counters> {
        let mut counters = self.left;
        for ruleset in rulesets.iter().filter(|ruleset| ruleset.has(self.number)) {
            add_all(&mut counters, ruleset.counters(self.number)?);
        }
        if let Some(queueing) = queueing {
            for (way, lane) in &self.lanes {
                let count = queueing.shaper.count(*lane)?;
                match way {
                    Way::Down => add(&mut counters.download, count),
                    Way::Up => add(&mut counters.upload, count),
                }
            }
        }
        Ok(counters)
    }

    fn left_of(&mut self, direction: Direction) -> &mut Count {
        match direction {
            Direction::Download => &mut self.left.download,
            Direction::Upload => &mut self.left.upload,
        }
    }

    fn places_now(&self, host: &Host) -> Result<Vec<Place>> {
        let mut places = Vec::new();
        for members in &self.members {
            places.extend(members.places(host)?);
        }
        Ok(places)
    }

    /// Written before sockets are touched.
    fn record(&mut self, tools: &Tools<'_>) -> Result<()> {
        let record = moved::record(&self.targets, &self.members, self.mark, true);
        self.entries.push(tools.journal.record(Some(BackendId::Nft), &record)?);
        Ok(())
    }
}

fn add_all(sum: &mut Counters, more: Counters) {
    add(&mut sum.download, more.download);
    add(&mut sum.upload, more.upload);
}

fn add(sum: &mut Count, more: Count) {
    sum.packets += more.packets;
    sum.bytes += more.bytes;
    sum.dropped += more.dropped;
}
