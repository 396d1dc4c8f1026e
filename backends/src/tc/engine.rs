//! The engine: limits come and go; a thread looks after new sockets.
//!
//! The thread looks as soon as something opens a connection, which waits meanwhile
//! ([`super::gate`]) or is heard ([`super::ear`]), and now and then besides; how often is decided in
//! [`super::attention`].

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use chadthrottle_core::{
    Counters, Engine, Error, Host, LimitId, Limits, Notice, Result, Target, error::ErrorKind,
    journal::Journal,
};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
};
use tracing::warn;

use super::{
    attention::{Attention, Pause},
    ear::Ear,
    gate::{self, Gates},
    limit::Active,
    marks,
    site::Sites,
    space,
};
use crate::{
    moved::Slot,
    queue::Holding,
    worker::{self, Wake},
};

/// A look that takes less is repeated whenever a limit begins.
const QUICK: Duration = Duration::from_millis(1);

/// All limits, and the thread that keeps them true.
pub(super) struct TcEngine {
    shared: Arc<Shared>,
    worker: Option<JoinHandle<()>>,
}

struct Shared {
    state: Mutex<State>,
    /// Ends the thread's waiting: limits have changed.
    wake: Wake,
}

struct State {
    host: Host,
    journal: Journal,
    limits: BTreeMap<LimitId, Active>,
    sites: Sites,
    gates: Gates,
    next: u32,
    notices: Vec<Notice>,
    /// The namespaces that the guardian keeps for us.
    kept: BTreeSet<u64>,
    /// Our marks, where packets are known by them.
    slot: Option<Slot>,
    stopping: bool,
}

impl TcEngine {
    /// By `marks`, where the kernel can, or by flows.
    pub(super) fn start(host: &Host, journal: &Journal, marks: bool) -> Result<Self> {
        let slot = if marks { Some(Slot::reserve()?) } else { None };
        let shared = Arc::new(Shared {
            state: Mutex::new(State {
                host: host.clone(),
                journal: journal.clone(),
                limits: BTreeMap::new(),
                sites: Sites::default(),
                gates: Gates::default(),
                next: 0,
                notices: Vec::new(),
                kept: BTreeSet::new(),
                slot,
                stopping: false,
            }),
            wake: Wake::new()?,
        });
        let worker = thread::Builder::new().name("tc".to_owned()).spawn({
            let shared = Arc::clone(&shared);
            move || shared.look_after()
        });
        let worker =
            worker.map_err(|error| Error::io("start a thread for", "the tc backend", error))?;
        Ok(Self { shared, worker: Some(worker) })
    }

    fn shut_down(&mut self) -> Result<()> {
        let Some(worker) = self.worker.take() else { return Ok(()) };
        self.shared.state().stopping = true;
        self.shared.wake.wake();
        if worker.join().is_err() {
            warn!("the thread of the tc backend has panicked");
        }
        let mut state = self.shared.state();
        let State { host, journal, limits, gates, .. } = &mut *state;
        // Nobody looks any more at what would wait.
        *gates = Gates::default();
        let mut outcome = Ok(());
        // All of them, before the first device goes: to delete one takes the kernel 16 ms. The oldest
        // last, since it hears for all: to listen elsewhere would take as long for each.
        for active in limits.values_mut().rev() {
            outcome = outcome.and(active.open((journal, host)));
        }
        for active in std::mem::take(limits).into_values() {
            outcome = outcome.and(active.release((journal, host)).1);
        }
        outcome
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn look_after(&self) {
        worker::come_first();
        let mut attention = Attention::new(Instant::now());
        loop {
            let mut state = self.state();
            if state.stopping {
                return;
            }
            // Before looking: what comes meanwhile is news again.
            state.sites.ears().iter().for_each(Ear::clear);
            let start = Instant::now();
            state.look();
            let news = state.limits.values().any(|active| active.has_news(start));
            let mut sources = state.sources();
            drop(state);
            let looked = Instant::now();
            let took = looked - start;
            let pause = attention.looked(looked, took, news);
            loop {
                match self.wait(&sources, &pause, looked) {
                    Ended::Heard => attention.heard(Instant::now()),
                    // What begins has looked by itself: a thousand are not looked at for each.
                    Ended::Woken if took >= QUICK && !self.state().stopping => {
                        sources = self.state().sources();
                        continue;
                    }
                    Ended::Woken | Ended::Time => {}
                }
                break;
            }
        }
    }

    /// Waits until it is time, or until something is held or heard and the least has passed; says
    /// which.
    fn wait(&self, (ears, holdings): &Sources, pause: &Pause, start: Instant) -> Ended {
        let mut fds = vec![PollFd::new(&self.wake, PollFlags::IN)];
        fds.extend(holdings.iter().map(|holding| PollFd::new(holding, PollFlags::IN)));
        let to_rest = fds.len();
        fds.extend(ears.iter().map(|ear| PollFd::new(ear, PollFlags::IN)));
        if !await_any(&mut fds, pause.most.saturating_sub(start.elapsed())) {
            return Ended::Time;
        }
        if !fds[0].revents().is_empty() {
            self.wake.clear();
            return Ended::Woken;
        }
        loop {
            let rest = pause.least.saturating_sub(start.elapsed());
            if rest.is_zero() {
                return Ended::Heard;
            }
            // Nobody waits for our rest.
            for holding in holdings {
                holding.pass();
            }
            await_any(&mut fds[..to_rest], rest);
            if !fds[0].revents().is_empty() {
                self.wake.clear();
                return Ended::Woken;
            }
        }
    }
}

/// What hears of new connections, and what holds them.
type Sources = (Vec<Ear>, Vec<Arc<Holding>>);

/// Why waiting ended.
enum Ended {
    Time,
    Heard,
    /// Limits have changed.
    Woken,
}

/// Waits for one of these, at most so long; says whether one has come.
fn await_any(fds: &mut [PollFd<'_>], most: Duration) -> bool {
    match poll(fds, Timespec::try_from(most).ok().as_ref()) {
        Ok(count) => count > 0,
        Err(Errno::INTR) => false,
        Err(errno) => {
            warn!("cannot wait for new connections: {errno}");
            thread::sleep(most);
            false
        }
    }
}

impl State {
    fn sources(&self) -> Sources {
        (self.sites.ears(), self.gates.holdings().cloned().collect())
    }

    /// Looks at all limits; what waits to be known goes on then.
    fn look(&mut self) {
        let Self { host, journal, limits, gates, sites, notices, .. } = self;
        let held = gates.arrived();
        sites.look_again();
        for (id, active) in limits {
            if let Err(error) = active.look(*id, (journal, host), notices) {
                // The same thing may fail twenty times a second.
                let warning = Notice::Warning(error.to_string());
                if active.is_news(&warning) {
                    notices.push(warning);
                }
            }
        }
        gate::release(&held);
        self.follow_gates();
        self.follow_namespaces();
    }

    /// Holds what opens connections where something is limited.
    fn follow_gates(&mut self) {
        let Self { gates, limits, notices, .. } = self;
        let said = gates.follow(limits.values().flat_map(Active::gated));
        notices.extend(said.into_iter().map(Notice::Warning));
    }

    /// Has the guardian let go of namespaces in which nothing is limited any more.
    fn follow_namespaces(&mut self) {
        let needed: BTreeSet<u64> = self.limits.values().flat_map(Active::namespaces).collect();
        for left in self.kept.difference(&needed) {
            if let Err(error) = self.journal.let_go(&space::label(*left)) {
                warn!("{error}");
            }
        }
        self.kept = needed;
    }

    fn active(&mut self, id: LimitId) -> Result<&mut Active> {
        self.limits.get_mut(&id).ok_or_else(unknown)
    }

    fn release(&mut self, id: LimitId) -> (Counters, Result<()>) {
        let Some(active) = self.limits.remove(&id) else {
            return (Counters::default(), Err(unknown()));
        };
        self.follow_gates();
        let released = active.release((&self.journal, &self.host));
        self.follow_namespaces();
        released
    }
}

impl Engine for TcEngine {
    fn add(&mut self, targets: &[Target], limits: &Limits) -> Result<LimitId> {
        let mut state = self.shared.state();
        let id = LimitId(state.next);
        state.next += 1;
        let State { journal, host, notices, slot, sites, .. } = &mut *state;
        sites.look_again();
        // Numbers of marks begin with 1.
        let mark = slot.as_ref().map(|slot| marks::mark(slot, id.0 + 1)).transpose()?;
        let active =
            Active::start(id, targets, limits, (mark, sites), (journal, host), notices)?;
        state.limits.insert(id, active);
        state.follow_gates();
        state.follow_namespaces();
        drop(state);
        // Until then the thread does not wait for what this limit hears.
        self.shared.wake.wake();
        Ok(id)
    }

    fn update(&mut self, id: LimitId, limits: &Limits) -> Result<()> {
        let mut state = self.shared.state();
        let (journal, host) = (state.journal.clone(), state.host.clone());
        state.sites.look_again();
        state.active(id)?.update(limits, (&journal, &host))
    }

    fn counters(&self, id: LimitId) -> Result<Counters> {
        self.shared.state().active(id)?.read_counters()
    }

    fn attach_kind(&self) -> &'static str {
        let state = self.shared.state();
        state.limits.values().next_back().map_or("flows", Active::attribution)
    }

    fn refresh(&mut self) -> Vec<Notice> {
        let mut state = self.shared.state();
        state.look();
        std::mem::take(&mut state.notices)
    }

    fn remove(&mut self, id: LimitId) -> (Counters, Result<()>) {
        self.shared.state().release(id)
    }

    fn stop(mut self: Box<Self>) -> Result<()> {
        self.shut_down()
    }
}

impl Drop for TcEngine {
    fn drop(&mut self) {
        if let Err(error) = self.shut_down() {
            warn!("{error}");
        }
    }
}

fn unknown() -> Error {
    Error::new(ErrorKind::Failed, "find", "the limit").meaning("It is not in force.")
}
