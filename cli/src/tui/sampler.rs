//! The thread that measures: once a second, all processes and what they move.

use std::{
    collections::{HashMap, VecDeque},
    sync::mpsc::{Receiver, RecvTimeoutError, Sender},
    time::{Duration, Instant},
};

use chadthrottle_backends::meter::{Meter, Sample};
use chadthrottle_core::Host;

use super::{
    details,
    model::{Ask, Message, Pair, Row, Snapshot},
    people::People,
};
use crate::units;

/// How often.
const TICK: Duration = Duration::from_secs(1);
/// A rate is a mean over so many samples: calm, and still soon true.
const WINDOW: usize = 2;
/// How long a process that has ended is still shown, in samples.
const AFTERWARDS: u32 = 5;

/// Measures until nobody asks or listens any more.
pub(super) fn sample(host: &Host, asks: &Receiver<Ask>, view: &Sender<Message>) {
    let mut sampler = Sampler::new(host);
    let mut next = Instant::now();
    loop {
        match asks.recv_timeout(next.saturating_duration_since(Instant::now())) {
            Ok(Ask::Details(pid)) => {
                sampler.details = pid.map(details::Watch::new);
                if let Some(message) = sampler.look_closer()
                    && view.send(message).is_err()
                {
                    return;
                }
            }
            Ok(Ask::Counting(wants_counting)) => {
                sampler.restart(wants_counting);
                next = Instant::now();
            }
            Err(RecvTimeoutError::Timeout) => {
                // The first rate should not take a second.
                let soon = sampler.last.len() == 1;
                next = Instant::now() + if soon { TICK / 2 } else { TICK };
                let snapshot = sampler.snapshot();
                if view.send(Message::Sample(Box::new(snapshot))).is_err() {
                    return;
                }
                if let Some(message) = sampler.look_closer()
                    && view.send(message).is_err()
                {
                    return;
                }
            }
            Err(RecvTimeoutError::Disconnected) => return,
        }
    }
}

struct Sampler {
    host: Host,
    meter: Meter,
    people: People,
    /// The last samples, oldest first.
    last: VecDeque<Sample>,
    /// Processes that have ended, and for how many samples.
    ended: HashMap<i32, (Row, u32)>,
    details: Option<details::Watch>,
}

impl Sampler {
    fn new(host: &Host) -> Self {
        Self {
            host: host.clone(),
            meter: Meter::start(host, true),
            people: People::new(host),
            last: VecDeque::new(),
            ended: HashMap::new(),
            details: None,
        }
    }

    /// Totals start anew.
    fn restart(&mut self, wants_counting: bool) {
        self.meter = Meter::start(&self.host, wants_counting);
        self.last.clear();
        self.ended.clear();
    }

    fn look_closer(&mut self) -> Option<Message> {
        let sample = self.last.back()?;
        let details = self.details.as_mut()?.look(&self.host, sample);
        Some(Message::Details(Box::new(details)))
    }

    fn snapshot(&mut self) -> Snapshot {
        let mut snapshot = Snapshot {
            counting: self.meter.is_counting(),
            refusal: self.meter.refusal().map(str::to_owned),
            ..Snapshot::default()
        };
        let sample = match self.meter.sample() {
            Ok(sample) => sample,
            Err(error) => {
                snapshot.refusal = Some(error.to_string());
                return snapshot;
            }
        };
        self.last.push_back(sample);
        while self.last.len() > WINDOW + 1 {
            self.last.pop_front();
        }
        let (first, now) = (&self.last[0], &self.last[self.last.len() - 1]);
        let time = now.at - first.at;
        let rate = |now: (u64, u64), before: (u64, u64)| Pair {
            down: units::per_second(now.0.saturating_sub(before.0), time),
            up: units::per_second(now.1.saturating_sub(before.1), time),
        };
        snapshot.sockets = now.socket_count();
        snapshot.unknown = rate(now.unknown, first.unknown);
        snapshot.total = snapshot.unknown;
        self.people.begin();
        for (&pid, tally) in &now.processes {
            let moved = (tally.received, tally.sent);
            let before = first.processes.get(&pid).filter(|old| {
                old.started == tally.started || old.started == 0 || tally.started == 0
            });
            let before = before.map_or((0, 0), |old| (old.received, old.sent));
            let rate = rate(moved, before);
            snapshot.total.down += rate.down;
            snapshot.total.up += rate.up;
            let ended = tally.sockets == 0;
            if ended && moved == (0, 0) {
                continue; // No sockets, and never a byte.
            }
            let person = self.people.of(pid, tally.started, ended);
            let row = Row {
                pid,
                started: tally.started,
                name: tally.name.clone(),
                user: person.user,
                rate,
                total: Pair { down: moved.0, up: moved.1 },
                ended: ended && !person.is_alive,
                ancestors: person.ancestors,
                cgroup: person.cgroup,
            };
            if row.ended {
                self.ended.entry(pid).or_insert((row, 0));
            } else {
                self.ended.remove(&pid);
                snapshot.rows.push(row);
            }
        }
        self.people.end();
        self.ended.retain(|_, (row, age)| {
            *age += 1;
            if *age > WINDOW as u32 {
                row.rate = Pair::default();
            }
            *age <= AFTERWARDS
        });
        snapshot.rows.extend(self.ended.values().map(|(row, _)| row.clone()));
        snapshot
    }
}
