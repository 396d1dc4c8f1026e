//! One limit in force.

use std::{
    collections::{BTreeMap, HashSet},
    time::Duration,
};

use chadthrottle_core::{
    BackendId, Counters, Direction, Host, Limits, Result, Target,
    backend::Count,
    journal::{Entry, Journal},
};
use tracing::{debug, warn};

use super::{
    chains::{Action, Plan},
    queueing::Queueing,
    ruleset::Ruleset,
};
use crate::{
    moved::{self, Holdings, Mark, Members, Place, Slot, State, given_away},
    netns::Netns,
    queue::LaneId,
    steer::Steering,
};

/// How long senders may take to learn of a limit: an RTT of an open connection, and more.
const STOPPING: Duration = Duration::from_secs(1);
/// What a sender may have written below itself before it was paced, each of them: TCP small
/// queues allow a millisecond's worth, 1 MB at 8 Gbit/s.
const WRITTEN: u64 = 1_000_000;

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
        if lifted {
            self.free_all(tools.journal);
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
        self.free_sockets(tools);
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

    /// Has rules in every namespace of a member, and for a cgroup at home; takes them out of namespaces where
    /// no member is any more, which would live on for our sake.
    fn install(&mut self, tools: &mut Tools<'_>) -> Result<()> {
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
    fn install_in(&mut self, tools: &mut Tools<'_>, netns: &Netns) -> Result<()> {
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

    /// Finds the sockets that came and went; frees those that went to others.
    fn find_sockets(&mut self, tools: &Tools<'_>) -> Result<()> {
        let processes = self.members.iter().flat_map(Members::processes);
        let found = self.holdings.scan(tools.host, processes)?;
        for (socket, fd) in given_away(tools.host, &found.gone)? {
            let freed =
                self.mark.take_off(&fd).and(self.steering.free(tools.journal, socket, &fd));
            if let Err(error) = freed {
                warn!("{error}");
            }
        }
        found.gone.iter().try_for_each(|socket| self.steering.forget(tools.journal, socket))
    }

    /// Paces senders and sets windows, where packets are queued. (Nothing is gained by it where
    /// they are dropped.)
    fn steer(&mut self, tools: &Tools<'_>) -> Result<u64> {
        let sockets = self.holdings.iter();
        self.steering.apply(tools.journal, BackendId::Nft, sockets, &self.limits)
    }

    /// Has the queues keep what senders will send all the same.
    fn expect_more(&self, tools: &Tools<'_>) -> Result<()> {
        let Some(queueing) = tools.queueing else { return Ok(()) };
        let senders = self.holdings.iter().filter(|socket| !socket.info.listening).count();
        for (way, lane) in &self.lanes {
            let bytes = match way {
                Way::Down => self.expected,
                Way::Up => WRITTEN * senders.max(1) as u64,
            };
            queueing.shaper.expect(*lane, bytes, STOPPING)?;
        }
        Ok(())
    }

    /// Marks the sockets that were created elsewhere; says what cannot be marked.
    fn mark_sockets(&mut self, tools: &Tools<'_>, first: bool) -> Result<Vec<String>> {
        let (host, mark) = (tools.host, self.mark);
        let warnings =
            self.holdings.mark_strangers(host, &self.members, &self.places, mark, first)?;
        Ok(warnings.into_iter().filter(|text| self.warned.insert(text.clone())).collect())
    }

    /// Gives all sockets back what they had.
    fn free_sockets(&mut self, tools: &Tools<'_>) {
        // What came since the last look may have inherited the mark.
        for members in &mut self.members {
            members.look(tools.host);
        }
        if let Err(error) = self.find_sockets(tools) {
            warn!("{error}");
        }
        self.holdings.unmark(self.mark);
        self.free_all(tools.journal);
    }

    /// Gives all sockets their pace and window back.
    fn free_all(&mut self, journal: &Journal) {
        for socket in self.holdings.iter() {
            let freed = socket.grab().and_then(|fd| match fd {
                Some(fd) => self.steering.free(journal, socket, &fd),
                None => self.steering.forget(journal, socket),
            });
            if let Err(error) = freed {
                warn!("{error}");
            }
        }
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
