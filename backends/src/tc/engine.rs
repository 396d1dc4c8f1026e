//! The engine: limits come and go; a thread looks after new sockets.
//!
//! The thread looks every [`CALM`], every [`BUSY`] in the first seconds after a limit began or
//! sockets came, and less often where looking takes long: it waits [`PARTS`] times as long as it
//! looked, [`BUSY_PARTS`] times when there is news. So long a new connection can be free; what arrives at a listener or a UDP
//! socket that is known has no such gap.

use std::{
    collections::BTreeMap,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use chadthrottle_core::{
    Counters, Engine, Error, Host, LimitId, Limits, Notice, Result, Target, error::ErrorKind,
    journal::Journal,
};
use tracing::warn;

use super::{limit::Active, marks};
use crate::moved::Slot;

/// How often sockets are looked at, when that is quick.
const CALM: Duration = Duration::from_millis(40);
/// How often when there is news, and for how long afterwards.
const BUSY: Duration = Duration::from_millis(10);
pub(super) const NEWS: Duration = Duration::from_secs(3);
/// How often at least, however long it takes.
const SELDOM: Duration = Duration::from_secs(1);
/// One part looking, so many waiting.
const PARTS: u32 = 15;
const BUSY_PARTS: u32 = 3;

/// All limits, and the thread that keeps them true.
pub(super) struct TcEngine {
    shared: Arc<Shared>,
    worker: Option<JoinHandle<()>>,
}

struct Shared {
    state: Mutex<State>,
    wake: Condvar,
}

struct State {
    host: Host,
    journal: Journal,
    limits: BTreeMap<LimitId, Active>,
    next: u32,
    notices: Vec<Notice>,
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
                next: 0,
                notices: Vec::new(),
                slot,
                stopping: false,
            }),
            wake: Condvar::new(),
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
        self.shared.wake.notify_all();
        if worker.join().is_err() {
            warn!("the thread of the tc backend has panicked");
        }
        let mut state = self.shared.state();
        let mut outcome = Ok(());
        for id in state.limits.keys().copied().collect::<Vec<_>>() {
            outcome = outcome.and(state.release(id).map(drop));
        }
        outcome
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn look_after(&self) {
        let mut state = self.state();
        while !state.stopping {
            let start = Instant::now();
            state.look();
            let news = state.limits.values().any(|active| active.has_news(start));
            let (least, parts) = if news { (BUSY, BUSY_PARTS) } else { (CALM, PARTS) };
            let pause = (start.elapsed() * parts).clamp(least, SELDOM);
            let waited = self.wake.wait_timeout(state, pause);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

impl State {
    fn look(&mut self) {
        let Self { host, journal, limits, notices, .. } = self;
        for (id, active) in limits {
            if let Err(error) = active.look(*id, (journal, host), notices) {
                // The same thing may fail twenty times a second.
                let warning = Notice::Warning(error.to_string());
                if active.is_news(&warning) {
                    notices.push(warning);
                }
            }
        }
    }

    fn active(&mut self, id: LimitId) -> Result<&mut Active> {
        self.limits.get_mut(&id).ok_or_else(unknown)
    }

    fn release(&mut self, id: LimitId) -> Result<Counters> {
        let active = self.limits.remove(&id).ok_or_else(unknown)?;
        active.release((&self.journal, &self.host))
    }
}

impl Engine for TcEngine {
    fn add(&mut self, targets: &[Target], limits: &Limits) -> Result<LimitId> {
        let mut state = self.shared.state();
        let id = LimitId(state.next);
        state.next += 1;
        let State { journal, host, notices, slot, .. } = &mut *state;
        // Numbers of marks begin with 1.
        let mark = slot.as_ref().map(|slot| marks::mark(slot, id.0 + 1)).transpose()?;
        let active = Active::start(id, targets, limits, mark, (journal, host), notices)?;
        state.limits.insert(id, active);
        Ok(id)
    }

    fn update(&mut self, id: LimitId, limits: &Limits) -> Result<()> {
        let mut state = self.shared.state();
        let (journal, host) = (state.journal.clone(), state.host.clone());
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

    fn remove(&mut self, id: LimitId) -> Result<Counters> {
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
