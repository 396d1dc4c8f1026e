//! What a run tells while it runs: events for machines, the log for people.

use std::{
    collections::HashSet,
    time::{Duration, Instant},
};

use chadthrottle_core::{
    Counters, Direction, Host, LimitId, Limits, Notice, Target, backend::Count,
    selection::Selection, session::Session,
};
use tracing::{info, warn};

use crate::{
    events::{Event, Events, Stat},
    exit::Failure,
    units,
};

use super::verify::Verification;

/// Tells it.
pub(super) struct Report {
    events: Events,
    /// The counters of the last tick and when that was.
    last: (Counters, Instant),
    /// What was warned of: each second would be too often.
    warned: HashSet<String>,
    /// Whether the limit sees its target's packets; from `enforced` on.
    verification: Option<Verification>,
}

impl Report {
    pub(super) fn new(events: Events) -> Self {
        let last = (Counters::default(), Instant::now());
        Self { events, last, warned: HashSet::new(), verification: None }
    }

    /// The limits are in force from now on.
    pub(super) fn enforced(
        &mut self,
        host: &Host,
        selection: &Selection,
        targets: &[Target],
        limits: &Limits,
    ) {
        self.last.1 = Instant::now();
        self.verification = Some(Verification::new(host.clone(), targets, limits));
        let Selection { chosen, attach, rejected, .. } = selection;
        let targets: Vec<String> = targets.iter().map(Target::to_string).collect();
        let rates = Direction::BOTH.into_iter().filter_map(|direction| {
            limits.get(direction).map(|limit| format!("{direction} {}", limit.rate))
        });
        info!(
            "limiting {} to {} with {chosen} ({}), {}",
            targets.join(", "),
            rates.collect::<Vec<_>>().join(", "),
            in_words(attach),
            why(selection)
        );
        self.events.set_backend(*chosen);
        self.events.emit(Event::Selected { attach, rejected });
        self.events.emit(Event::Enforced { targets, limits });
    }

    /// Keeps the limits true and says what passed; whether all targets have ended.
    pub(super) fn tick(&mut self, session: &mut Session, id: LimitId) -> bool {
        let mut is_over = false;
        for notice in session.refresh() {
            match notice {
                Notice::Warning(message) => self.warn(&message),
                Notice::TargetEnded(_) => is_over = true,
            }
        }
        match session.counters(id) {
            Ok(counters) => {
                self.stats(counters);
                let problem = self.verification.as_mut().and_then(|it| it.tick(&counters));
                if let Some(message) = problem {
                    self.warn(&message);
                }
            }
            Err(error) => self.warn(&error.to_string()),
        }
        is_over
    }

    /// The limits are lifted.
    pub(super) fn released(&mut self, totals: Counters) {
        self.events.emit(Event::Released { totals });
    }

    /// It did not come to that, or not to a good end.
    pub(super) fn failed(&mut self, failure: &Failure) {
        let (status, message) = (failure.exit.code(), failure.error.to_string());
        self.events.emit(Event::Failed { status, message: &message });
    }

    fn stats(&mut self, counters: Counters) {
        let now = Instant::now();
        let time = now - self.last.1;
        let stat = |direction| stat(counters.get(direction), self.last.0.get(direction), time);
        let event = Event::Stats {
            download: stat(Direction::Download),
            upload: stat(Direction::Upload),
        };
        self.events.emit(event);
        self.last = (counters, now);
    }

    fn warn(&mut self, message: &str) {
        if self.warned.insert(message.to_owned()) {
            warn!("{message}");
            self.events.emit(Event::Warning { message });
        }
    }
}

/// How packets are known or held, and what that means where it is not the best way.
fn in_words(attach: &str) -> String {
    let meaning = match attach {
        "police" => {
            "what is over the limit is dropped, not queued, so that rates are less exact"
        }
        "flows" => {
            "a new connection waits until it is found or, where nothing can hold it, is free, for \
             milliseconds"
        }
        _ => return attach.to_owned(),
    };
    format!("{attach}: {meaning}")
}

/// Why this backend; the reasons of those that were rejected stand in the log before.
fn why(Selection { asked, rejected, .. }: &Selection) -> String {
    let names: Vec<String> = rejected.iter().map(|other| other.backend.to_string()).collect();
    match (asked, names.is_empty()) {
        (true, _) => "as asked".to_owned(),
        (false, true) => "the best one, and it works here".to_owned(),
        (false, false) => format!("since {} cannot", names.join(" and ")),
    }
}

/// What passed in one direction, and how fast since `before`.
fn stat(now: Count, before: Count, time: Duration) -> Stat {
    let rate = units::per_second(now.bytes.saturating_sub(before.bytes), time);
    Stat { bytes: now.bytes, rate, dropped: now.dropped }
}
