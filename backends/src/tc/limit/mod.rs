//! One limit in force: its targets, their sockets, and the namespaces they are limited in.

mod change;
mod namespaces;

use std::{
    collections::{BTreeMap, HashSet},
    time::{Duration, Instant},
};

use chadthrottle_core::{
    Counters, Host, LimitId, Limits, Notice, Result, Target, journal::Journal,
};
use tracing::warn;

use super::{
    attention::NEWS, members::State, senders::Senders, shares, site::Sites, space::Space,
    who::Who,
};
use crate::{
    moved::{Mark, Place},
    netns::Netns,
};

/// How often what is taken for granted in between is looked at again: descriptors that were passed
/// on, namespaces that were changed, filters that somebody deleted.
const THOROUGH: Duration = Duration::from_secs(1);
/// How often counters are read.
const COUNT: Duration = Duration::from_millis(250);

/// The journal and the host, for what is recorded.
type Ledger<'a> = (&'a Journal, &'a Host);

/// See the module's documentation.
pub(super) struct Active {
    limits: Limits,
    who: Who,
    senders: Senders,
    sites: Sites,
    spaces: BTreeMap<u64, Space>,
    /// What passed in namespaces, or before an update, that are not ours any more.
    before: Counters,
    /// The target is gone and was reported as such.
    away: bool,
    ended: bool,
    said: HashSet<String>,
    looked: Instant,
    counted: Instant,
    /// When it began, or its flows last changed.
    changed: Instant,
}

impl Active {
    /// Limits what the targets have now. When it fails nothing is left.
    pub(super) fn start(
        id: LimitId,
        targets: &[Target],
        limits: &Limits,
        (mark, sites): (Option<Mark>, &Sites),
        ledger: Ledger<'_>,
        notices: &mut Vec<Notice>,
    ) -> Result<Self> {
        let mut active = Self {
            limits: *limits,
            who: Who::enter(targets, mark, ledger, notices)?,
            senders: Senders::new(),
            sites: sites.clone(),
            spaces: BTreeMap::new(),
            before: Counters::default(),
            away: false,
            ended: false,
            said: HashSet::new(),
            looked: Instant::now(),
            counted: Instant::now(),
            changed: Instant::now(),
        };
        let filled = active.look(id, ledger, notices).and_then(|()| active.verify());
        match filled {
            Ok(()) => Ok(active),
            Err(error) => {
                if let Err(second) = active.release(ledger).1 {
                    warn!("{second}");
                }
                Err(error)
            }
        }
    }

    fn verify(&self) -> Result<()> {
        self.spaces.values().try_for_each(Space::verify)
    }

    /// Whether sockets came lately, so that more may come.
    pub(super) fn has_news(&self, now: Instant) -> bool {
        now.duration_since(self.changed) < NEWS
    }

    /// Where it limits now.
    pub(super) fn namespaces(&self) -> impl Iterator<Item = u64> {
        self.spaces.keys().copied()
    }

    /// Where new connections may be its own: in these cgroups of these namespaces.
    pub(super) fn gated(&self) -> impl Iterator<Item = (&Netns, &Place)> {
        let netns = self.spaces.values().map(|space| &space.netns);
        netns.flat_map(|netns| self.who.gated().map(move |place| (netns, place)))
    }

    /// The word for how packets are known.
    pub(super) fn attribution(&self) -> &'static str {
        match self.who {
            Who::Flows { .. } => "flows",
            Who::Marks(_) => "marks",
        }
    }

    /// Whether this has not been said yet.
    pub(super) fn is_news(&mut self, notice: &Notice) -> bool {
        match notice {
            Notice::Warning(text) => self.said.insert(text.clone()),
            Notice::TargetEnded(_) => true,
        }
    }

    /// Makes the filters match the sockets that the targets have now.
    pub(super) fn look(
        &mut self,
        id: LimitId,
        ledger: Ledger<'_>,
        notices: &mut Vec<Notice>,
    ) -> Result<()> {
        let now = Instant::now();
        let thorough = now.duration_since(self.looked) >= THOROUGH;
        if thorough {
            self.looked = now;
        }
        let mut said = Vec::new();
        let begins = self.spaces.is_empty();
        if let Some(states) =
            self.who.refresh(thorough || begins, &mut self.senders, ledger, &mut said)?
        {
            for space in self.spaces.values_mut() {
                space.set_places(self.who.places())?;
            }
            self.report(id, &states, notices);
        }
        let here = self.who.namespaces(ledger.1);
        self.enter(&here, ledger, notices)?;
        let mut outcome = Ok(());
        let mut found = Vec::new();
        for (netns, space) in &mut self.spaces {
            match self.who.find(space, ledger, &mut said) {
                Ok(flows) => found.extend(flows.map(|flows| (*netns, flows))),
                Err(error) => outcome = outcome.and(Err(error)),
            }
        }
        // Senders of open connections hear of a limit before their packets have to wait. With new
        // ones every moment until they are matched counts.
        let news = self.who.take_news();
        if begins {
            self.tell(ledger)?;
        }
        for (netns, flows) in found {
            let Some(space) = self.spaces.get_mut(&netns) else { continue };
            match space.sync(&flows) {
                Ok(true) => self.changed = now,
                Ok(false) => {}
                Err(error) => outcome = outcome.and(Err(error)),
            }
        }
        if !begins && self.senders.are_due(now, news) {
            outcome = outcome.and(self.tell(ledger));
        }
        if thorough {
            for space in self.spaces.values_mut() {
                for name in space.repair(Some(ledger))? {
                    said.push(format!(
                        "somebody deleted our filters from {name}; they are there again"
                    ));
                }
            }
            outcome = outcome.and(self.replace_lost(ledger, &mut said));
            outcome = outcome.and(self.who.let_go(&mut self.senders, ledger));
            outcome = outcome.and(self.leave(&here, ledger));
        }
        if now.duration_since(self.counted) >= COUNT {
            self.counted = now;
            outcome = outcome.and(self.count());
        }
        for text in said {
            let notice = Notice::Warning(text);
            if self.is_news(&notice) {
                notices.push(notice);
            }
        }
        outcome
    }

    /// Tells senders what passes.
    fn tell(&mut self, ledger: Ledger<'_>) -> Result<()> {
        let waiting = match self.limits.upload {
            Some(_) => self.spaces.values_mut().map(Space::waiting).max().unwrap_or_default(),
            None => Duration::ZERO,
        };
        self.who.tell(&mut self.senders, ledger, &self.limits, waiting)?;
        let beginning = self.senders.begin();
        self.spaces.values_mut().try_for_each(|space| space.set_beginning(beginning))
    }

    fn report(&mut self, id: LimitId, states: &[State], notices: &mut Vec<Notice>) {
        let away = states.contains(&State::Away);
        if away && !self.away {
            notices.push(Notice::Warning(
                "a limited cgroup is gone; it is limited again when it comes back".to_owned(),
            ));
        }
        self.away = away;
        if !self.ended && states.iter().all(|state| *state == State::Ended) {
            self.ended = true;
            notices.push(Notice::TargetEnded(id));
        }
    }

    /// Of this moment.
    pub(super) fn read_counters(&mut self) -> Result<Counters> {
        self.count()?;
        Ok(self.counters())
    }

    /// As of at most a quarter of a second ago.
    fn counters(&self) -> Counters {
        let all = self.spaces.values().map(Space::counters);
        all.fold(self.before, shares::sum)
    }
}
