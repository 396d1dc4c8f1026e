//! The thread that holds the limits: the same [`Session`] as the command line's, one limit for
//! each thing that the user limits. An order may take as long as a probe; keys do not wait.

use std::{
    collections::{HashMap, VecDeque},
    sync::mpsc::{Receiver, RecvTimeoutError, Sender},
    time::{Duration, Instant},
};

use chadthrottle_core::{
    Counters, Error, ErrorKind, Host, LimitId, Limits, Notice, Result, Target,
    process::Process, session::Session, target::CgroupTarget,
};

use super::model::{Active, Message, News, Order, Pair, What};
use crate::{backends, units};

/// How often limits are kept true.
const TICK: Duration = Duration::from_secs(1);
/// Over how many ticks a rate is a mean: a limited download without a round trip time comes in
/// bursts of half a second.
const WINDOW: usize = 3;

/// Holds limits until the orders end, then lifts them all.
pub(super) fn hold(host: Host, orders: &Receiver<Order>, view: &Sender<Message>) -> Result<()> {
    let say = |news| {
        // Nobody listens when the view is closing: then the limits are lifted.
        view.send(Message::News(news)).unwrap_or_default();
    };
    let session = match Session::open(host.clone(), backends::built()) {
        Ok(session) => session,
        Err(error) => {
            say(News::ViewOnly(error.to_string()));
            while orders.recv().is_ok() {}
            return Ok(());
        }
    };
    say(News::Ready);
    let mut limiter = Limiter { host, session, seen: HashMap::new() };
    let mut next = Instant::now() + TICK;
    loop {
        match orders.recv_timeout(next.saturating_duration_since(Instant::now())) {
            Ok(order) => {
                say(match limiter.carry_out(&order) {
                    Ok(done) => News::Done(done),
                    Err(error) => News::Problem(error.to_string()),
                });
                say(News::Active(limiter.active()));
            }
            Err(RecvTimeoutError::Timeout) => {
                next = Instant::now() + TICK;
                limiter.refresh().into_iter().for_each(|problem| say(News::Problem(problem)));
                if !limiter.seen.is_empty() {
                    limiter.measure();
                    say(News::Active(limiter.active()));
                }
            }
            Err(RecvTimeoutError::Disconnected) => return limiter.session.finish(),
        }
    }
}

struct Limiter {
    host: Host,
    session: Session,
    seen: HashMap<LimitId, Seen>,
}

/// What is remembered of a limit.
struct Seen {
    /// The last counters, oldest first.
    last: VecDeque<(Instant, Counters)>,
}

impl Limiter {
    /// What was done, in words.
    fn carry_out(&mut self, order: &Order) -> Result<String> {
        match order {
            Order::Limit { what, limits, backend } => {
                let target = target(&self.host, what)?;
                let (id, selection) =
                    self.session.add(*backend, std::slice::from_ref(&target), limits)?;
                let now = Instant::now();
                let last = VecDeque::from([(now, Counters::default())]);
                self.seen.insert(id, Seen { last });
                let mut done = format!("{target}: {} ({})", describe(limits), selection.chosen);
                for rejected in &selection.rejected {
                    done.push_str("; not ");
                    done.push_str(&rejected.backend.to_string());
                    done.push_str(": ");
                    done.push_str(&rejected.reason);
                }
                Ok(done)
            }
            Order::Change { id, limits } => {
                self.session.update(*id, limits)?;
                self.restart_window(*id);
                Ok(format!("{}: {}", self.name(*id), describe(limits)))
            }
            Order::Lift(id) => {
                let name = self.name(*id);
                self.seen.remove(id);
                let (passed, outcome) = self.session.lift(*id);
                outcome?;
                let bytes = passed.download.bytes + passed.upload.bytes;
                Ok(format!("{name} is free again, {} passed", units::bytes(bytes)))
            }
        }
    }

    /// What passed at the old rate says nothing of the new one.
    fn restart_window(&mut self, id: LimitId) {
        if let (Some(seen), Ok(counters)) = (self.seen.get_mut(&id), self.session.counters(id))
        {
            seen.last = VecDeque::from([(Instant::now(), counters)]);
        }
    }

    /// Keeps the limits true; what the user should know.
    fn refresh(&mut self) -> Vec<String> {
        let mut problems = Vec::new();
        for notice in self.session.refresh() {
            match notice {
                Notice::Warning(problem) => problems.push(problem),
                Notice::TargetEnded(id) => {
                    let name = self.name(id);
                    self.seen.remove(&id);
                    match self.session.lift(id).1 {
                        Ok(()) => problems.push(format!("{name} has ended, and its limit")),
                        Err(error) => problems.push(error.to_string()),
                    }
                }
            }
        }
        problems
    }

    fn measure(&mut self) {
        for (id, seen) in &mut self.seen {
            if let Ok(counters) = self.session.counters(*id) {
                seen.last.push_back((Instant::now(), counters));
                while seen.last.len() > WINDOW + 1 {
                    seen.last.pop_front();
                }
            }
        }
    }

    fn active(&self) -> Vec<Active> {
        let active = self.session.limits().filter_map(|(id, held)| {
            let seen = self.seen.get(&id)?;
            let counters = self.session.counters(id).unwrap_or_default();
            Some(Active {
                id,
                backend: held.backend,
                target: held.targets.first()?.clone(),
                limits: held.limits,
                counters,
                rate: seen.rate(),
            })
        });
        active.collect()
    }

    fn name(&self, id: LimitId) -> String {
        let held = self.session.limits().find(|(other, _)| *other == id);
        let target = held.and_then(|(_, held)| held.targets.first());
        target.map_or_else(String::new, Target::to_string)
    }
}

impl Seen {
    fn rate(&self) -> Pair {
        let (Some((from, before)), Some((to, now))) = (self.last.front(), self.last.back())
        else {
            return Pair::default();
        };
        let rate =
            |now: u64, before: u64| units::per_second(now.saturating_sub(before), *to - *from);
        Pair {
            down: rate(now.download.bytes, before.download.bytes),
            up: rate(now.upload.bytes, before.upload.bytes),
        }
    }
}

/// "download 10 Mbit/s, upload 1 Mbit/s"
pub(super) fn describe(limits: &Limits) -> String {
    let rates = chadthrottle_core::Direction::BOTH.into_iter().filter_map(|direction| {
        limits.get(direction).map(|limit| format!("{direction} {}", limit.rate))
    });
    rates.collect::<Vec<_>>().join(", ")
}

fn target(host: &Host, what: &What) -> Result<Target> {
    /// /proc/PID/stat counts 100 ticks a second on every architecture of today (`USER_HZ`).
    const NANOSECONDS_PER_TICK: u64 = 10_000_000;
    match what {
        What::Process { pid, started, name } => {
            let process = Process::open(host, *pid)?;
            if *started > 0 && process.key.start_time != started / NANOSECONDS_PER_TICK {
                return Err(Error::new(ErrorKind::NoSuchTarget, "limit", what.name())
                    .meaning(format!("{name} has ended; another process has its pid now.")));
            }
            Ok(Target::Process(process))
        }
        What::Unit { name, path } => Ok(Target::Cgroup(CgroupTarget {
            path: path.clone(),
            name: name.clone(),
            follow: true,
        })),
        What::Cgroup { path } => Ok(Target::Cgroup(CgroupTarget {
            path: host.cgroups()?.resolve(path)?,
            name: path.display().to_string(),
            follow: false,
        })),
    }
}
