//! One run: a backend, its engine, one limit, and the way back.
//!
//! Order matters here. The journal first, which fails without privileges, then leftovers of
//! dead instances, the guardian, the claim, and only then is anything touched. On the way out: the
//! limit, the engine, the leaves, the guardian, the journal.

use std::path::PathBuf;

use tracing::{info, warn};

use crate::{
    backend::{Backend, BackendId, Counters, Engine, LimitId, Notice},
    cgroup::Leaf,
    error::{Error, ErrorKind, Result},
    guardian::Guardian,
    host::Host,
    journal::{Claim, Journal},
    limit::Limits,
    recover,
    selection::{Rejected, Selection, candidates, rejection},
    target::Target,
};

/// Limits in force, and everything needed to take them back.
pub struct Session {
    host: Host,
    backends: Vec<Box<dyn Backend>>,
    journal: Journal,
    guardian: Option<Guardian>,
    leaves: Vec<Leaf>,
    running: Option<Running>,
}

/// What `start` made.
struct Running {
    engine: Box<dyn Engine>,
    limit: LimitId,
}

impl Session {
    /// Opens the journal, cleans up after dead instances and starts the guardian.
    /// Nothing is limited and no cgroup, program or socket is touched yet.
    pub fn open(host: Host, backends: Vec<Box<dyn Backend>>) -> Result<Self> {
        let mut undo =
            |id, undo: &_, held: &_, all: &_| undo_with(&backends, &host, id, undo, held, all);
        let journal = Journal::create(&host)?;
        recover::sweep(&host, &mut undo).iter().for_each(recover::Outcome::log);
        let guardian = Guardian::spawn(&journal)?;
        Ok(Self {
            host,
            backends,
            journal,
            guardian: Some(guardian),
            leaves: Vec::new(),
            running: None,
        })
    }

    /// A leaf below our own cgroup, for a command that is about to be started in it.
    pub fn leaf(&mut self) -> Result<PathBuf> {
        let own = self.host.cgroup_of(std::process::id().cast_signed())?;
        let leaf = Leaf::create(&own, &self.leaves.len().to_string(), &self.journal)?;
        let path = leaf.path().to_owned();
        self.leaves.push(leaf);
        Ok(path)
    }

    /// Claims the targets, picks the first backend that works here and for them, and limits.
    ///
    /// A backend that probed well and fails on the real target has undone what it did; with
    /// no `choice` the next one is tried.
    pub fn start(
        &mut self,
        choice: Option<BackendId>,
        targets: &[Target],
        limits: &Limits,
    ) -> Result<Selection> {
        let candidates = candidates(&self.backends, choice)?;
        self.journal.claim(&targets.iter().map(claim_of).collect::<Vec<_>>())?;

        let mut rejected: Vec<Rejected> = Vec::new();
        let mut first_error = None;
        for backend in candidates {
            if let Some(last) = rejected.last() {
                info!("not using {}: {}", last.backend, last.reason);
            }
            match attempt(backend, &self.host, &self.journal, targets, limits) {
                Ok(running) => {
                    let attach = running.engine.attach_kind();
                    self.running = Some(running);
                    return Ok(Selection { chosen: backend.id(), attach, rejected });
                }
                Err(error) if !is_about_backend(&error) => return Err(error),
                Err(error) => {
                    rejected
                        .push(Rejected { backend: backend.id(), reason: error.to_string() });
                    first_error.get_or_insert(error);
                }
            }
        }
        Err(no_backend(first_error, rejected.len()))
    }

    /// Changes the rates in place.
    pub fn update(&mut self, limits: &Limits) -> Result<()> {
        let running = self.running.as_mut().ok_or_else(not_started)?;
        running.engine.update(running.limit, limits)
    }

    /// What passed since the limit came into force.
    pub fn counters(&self) -> Result<Counters> {
        let running = self.running.as_ref().ok_or_else(not_started)?;
        running.engine.counters(running.limit)
    }

    /// Keeps the limit true; call it about once a second.
    pub fn refresh(&mut self) -> Vec<Notice> {
        let mut notices =
            self.running.as_mut().map(|running| running.engine.refresh()).unwrap_or_default();
        if self.guardian.as_mut().is_some_and(|guardian| !guardian.is_alive()) {
            self.guardian = None;
            notices.push(Notice::Warning(
                "the guardian process has ended: if this run is killed, `chadthrottle clean` \
                 must put things back"
                    .to_owned(),
            ));
        }
        notices
    }

    /// Lifts the limit, but keeps the leaves: a command goes on unlimited.
    pub fn lift(&mut self) -> (Counters, Result<()>) {
        let Some(running) = self.running.take() else {
            return (Counters::default(), Ok(()));
        };
        let Running { mut engine, limit } = running;
        let removed = engine.remove(limit);
        let counters = removed.as_ref().copied().unwrap_or_default();
        (counters, removed.map(drop).and(engine.stop()))
    }

    /// Takes back everything. Goes on after an error; returns the first, and what passed.
    pub fn finish(mut self) -> (Counters, Result<()>) {
        let (counters, mut outcome) = self.lift();
        for leaf in self.leaves.drain(..).rev() {
            outcome = outcome.and(leaf.remove());
        }
        // The journal goes first: killed in between, the guardian finds nothing to do. With
        // something left it is told nothing: it tries again once we are gone.
        outcome = outcome.and_then(|()| self.journal.close());
        if outcome.is_ok()
            && let Some(guardian) = self.guardian.take()
        {
            outcome = guardian.release();
        }
        (counters, outcome)
    }
}

/// Takes back one recorded change: the closure that sweep, guardian and clean share.
pub fn undo_with(
    backends: &[Box<dyn Backend>],
    host: &Host,
    id: Option<BackendId>,
    undo: &crate::journal::Undo,
    held: &crate::journal::Held,
    all: &[crate::journal::Undo],
) -> Result<()> {
    match backends.iter().find(|backend| Some(backend.id()) == id) {
        Some(backend) => backend.undo(host, undo, held, all),
        None => Err(Error::new(ErrorKind::Failed, "take back", format!("{undo}"))
            .meaning("The backend that did it is not built into this version.")
            .advice("Run `chadthrottle clean` of the version that did it.")),
    }
}

fn attempt(
    backend: &dyn Backend,
    host: &Host,
    journal: &Journal,
    targets: &[Target],
    limits: &Limits,
) -> Result<Running> {
    if let Some(rejection) = rejection(backend, host) {
        return Err(rejection);
    }
    let mut engine = backend.start(host, journal)?;
    match engine.add(targets, limits) {
        Ok(limit) => Ok(Running { engine, limit }),
        Err(error) => {
            if let Err(second) = engine.stop() {
                warn!("{second}");
            }
            Err(error)
        }
    }
}

/// Whether another backend could do better: not when the target or the request is at fault.
fn is_about_backend(error: &Error) -> bool {
    !matches!(error.kind, ErrorKind::Usage | ErrorKind::NoSuchTarget)
}

fn no_backend(first: Option<Error>, tried: usize) -> Error {
    match first {
        Some(mut error) => {
            if tried > 1 {
                error.meaning.push_str(" The other backends failed too; see the log.");
            }
            if error.kind == ErrorKind::Failed {
                error.kind = ErrorKind::NoBackend;
            }
            error
        }
        None => Error::new(ErrorKind::NoBackend, "find", "a backend")
            .meaning("None is built into this version."),
    }
}

fn claim_of(target: &Target) -> Claim {
    match target {
        Target::Process(process) => Claim::Process(process.key),
        Target::Cgroup(cgroup) => Claim::Cgroup { path: cgroup.path.clone() },
    }
}

fn not_started() -> Error {
    Error::new(ErrorKind::Failed, "read", "the limit").meaning("No limit has been started.")
}
