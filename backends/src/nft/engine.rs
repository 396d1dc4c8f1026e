//! The engine: limits come and go, the tables, queues and marks follow.

use std::collections::{BTreeMap, HashSet};

use chadthrottle_core::{
    Counters, Engine, Error, Host, LimitId, Limits, Notice, Result, Target, error::ErrorKind,
    journal::Journal,
};
use tracing::warn;

use super::{
    active::{Active, Tools},
    queueing::{self, Queueing},
    ruleset::Ruleset,
};
use crate::{moved::Slot, netns::Netns};

/// All limits of this instance, and the tables that serve them.
pub(super) struct NftEngine {
    host: Host,
    journal: Journal,
    slot: Slot,
    /// Our own namespace: limits of cgroups have rules here too, for processes that come later.
    home: Netns,
    rulesets: Vec<Ruleset>,
    queueing: Option<Queueing>,
    limits: BTreeMap<LimitId, Active>,
    next: u32,
}

impl NftEngine {
    pub(super) fn start(host: &Host, journal: &Journal, polices: bool) -> Result<Self> {
        let home = Netns::current()?;
        let queueing = match (!polices).then(|| queueing::start(&home)) {
            Some(Ok(queueing)) => Some(queueing),
            Some(Err(error)) => {
                warn!("packets over the limit are dropped instead of paced: {error}");
                None
            }
            None => None,
        };
        Ok(Self {
            host: host.clone(),
            journal: journal.clone(),
            slot: Slot::reserve()?,
            home,
            rulesets: Vec::new(),
            queueing,
            limits: BTreeMap::new(),
            next: 0,
        })
    }

    /// The limit and what it is served with; they are different fields of ours.
    fn with<T>(
        &mut self,
        id: LimitId,
        work: impl FnOnce(&mut Active, &mut Tools<'_>) -> Result<T>,
    ) -> Result<T> {
        let active = self.limits.get_mut(&id).ok_or_else(unknown)?;
        let mut tools = Tools {
            host: &self.host,
            journal: &self.journal,
            home: &self.home,
            slot: &mut self.slot,
            rulesets: &mut self.rulesets,
            queueing: self.queueing.as_ref(),
        };
        work(active, &mut tools)
    }

    /// The smallest number that no limit has: marks have room for 4095.
    fn free_number(&self) -> u32 {
        let used: HashSet<u32> = self.limits.values().map(Active::number).collect();
        (1..=used.len() as u32 + 1).find(|number| !used.contains(number)).unwrap_or(u32::MAX)
    }

    /// Lifts a limit. Goes on after an error and returns the first.
    fn release(&mut self, id: LimitId) -> (Counters, Result<()>) {
        let counted = self.with(id, |active, tools| active.counters(tools));
        let outcome = self.with(id, Active::release);
        self.limits.remove(&id);
        self.close_empty();
        let counters = counted.as_ref().copied().unwrap_or_default();
        (counters, outcome.and(counted.map(drop)))
    }

    /// The kernel deletes the tables that serve nobody with the sockets that own them.
    fn close_empty(&mut self) {
        self.rulesets.retain(|ruleset| !ruleset.is_empty());
    }

    fn shut_down(&mut self) -> Result<()> {
        let mut outcome = Ok(());
        for id in self.limits.keys().copied().collect::<Vec<_>>() {
            outcome = outcome.and(self.release(id).1);
        }
        self.close_empty();
        outcome
    }
}

impl Engine for NftEngine {
    fn add(&mut self, targets: &[Target], limits: &Limits) -> Result<LimitId> {
        let number = self.free_number();
        let mark = self.slot.mark(number).ok_or_else(|| {
            Error::new(ErrorKind::Failed, "add", "a limit")
                .meaning("One instance of chadthrottle has room for 4095 limits.")
        })?;
        let id = LimitId(self.next);
        self.next += 1;
        let active = Active::enter(&self.host, &self.journal, number, mark, targets, limits)?;
        self.limits.insert(id, active);
        match self.with(id, Active::enforce) {
            Ok(notices) => {
                for notice in notices {
                    warn!("{notice}");
                }
                Ok(id)
            }
            Err(error) => {
                if let Err(second) = self.release(id).1 {
                    warn!("{second}");
                }
                Err(error)
            }
        }
    }

    fn update(&mut self, id: LimitId, limits: &Limits) -> Result<()> {
        self.with(id, |active, tools| active.update(tools, limits))
    }

    fn counters(&self, id: LimitId) -> Result<Counters> {
        let active = self.limits.get(&id).ok_or_else(unknown)?;
        active.count(&self.rulesets, self.queueing.as_ref())
    }

    fn attach_kind(&self) -> &'static str {
        if self.queueing.is_some() { "queue" } else { "police" }
    }

    fn refresh(&mut self) -> Vec<Notice> {
        let mut notices = Vec::new();
        for id in self.limits.keys().copied().collect::<Vec<_>>() {
            match self.with(id, Active::refresh) {
                Ok(refreshed) => {
                    notices.extend(refreshed.warnings.into_iter().map(Notice::Warning));
                    if refreshed.ended {
                        notices.push(Notice::TargetEnded(id));
                    }
                }
                Err(error) => notices.push(Notice::Warning(error.to_string())),
            }
        }
        self.close_empty();
        for ruleset in &mut self.rulesets {
            if let Err(error) = ruleset.follow_interfaces() {
                notices.push(Notice::Warning(error.to_string()));
            }
        }
        notices
    }

    fn remove(&mut self, id: LimitId) -> (Counters, Result<()>) {
        self.release(id)
    }

    fn stop(mut self: Box<Self>) -> Result<()> {
        self.shut_down()
    }
}

impl Drop for NftEngine {
    fn drop(&mut self) {
        if let Err(error) = self.shut_down() {
            warn!("{error}");
        }
    }
}

fn unknown() -> Error {
    Error::new(ErrorKind::Failed, "find", "the limit").meaning("It is not in force.")
}
