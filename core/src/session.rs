//! One run: backends, their engines, the limits in force, and the way back.
//!
//! Order matters here. The journal first, which fails without privileges, then leftovers of
//! dead instances, the guardian, the claim, and only then is anything touched. On the way out: the
//! limits, the engines, the leaves, the guardian, the journal.

use std::{collections::BTreeMap, path::PathBuf};

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
///
/// A session has any number of limits, each with its own targets; the [`LimitId`]s are its own,
/// not those of an engine. An engine runs from the first limit of its backend to the last.
pub struct Session {
    host: Host,
    backends: Vec<Box<dyn Backend>>,
    journal: Journal,
    guardian: Option<Guardian>,
    leaves: Vec<Leaf>,
    engines: Engines,
    limits: BTreeMap<LimitId, Held>,
    next: u32,
}

/// The engines that serve a limit, at most one a backend.
type Engines = Vec<(BackendId, Box<dyn Engine>)>;

/// A limit in force.
#[derive(Debug)]
pub struct Held {
    /// Who enforces it.
    pub backend: BackendId,
    /// Who is limited; all of them share `limits`.
    pub targets: Vec<Target>,
    /// How much may pass.
    pub limits: Limits,
    /// What its engine calls it.
    id: LimitId,
}

impl Session {
    /// Opens the journal, cleans up after dead instances and starts the guardian.
    /// Nothing is limited and no cgroup, program or socket is touched yet.
    pub fn open(host: Host, backends: Vec<Box<dyn Backend>>) -> Result<Self> {
        let mut undo =
            |id, undo: &_, held: &_, all: &_| undo_with(&backends, &host, id, undo, held, all);
        let journal = Journal::unnamed(&host)?;
        let guardian = Guardian::spawn(&journal)?;
        // Not before: whenever we are killed, somebody removes it.
        journal.publish()?;
        recover::sweep(&host, &mut undo).iter().for_each(recover::Outcome::log);
        Ok(Self {
            host,
            backends,
            journal,
            guardian: Some(guardian),
            leaves: Vec::new(),
            engines: Engines::new(),
            limits: BTreeMap::new(),
            next: 0,
        })
    }

    /// The machine it runs on.
    #[must_use]
    pub fn host(&self) -> &Host {
        &self.host
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
    /// Refused when another limit, of this session or of another instance, covers one of them.
    ///
    /// A backend that probed well and fails on the real target has undone what it did; with
    /// no `choice` the next one is tried.
    pub fn add(
        &mut self,
        choice: Option<BackendId>,
        targets: &[Target],
        limits: &Limits,
    ) -> Result<(LimitId, Selection)> {
        let candidates = candidates(&self.backends, choice)?;
        let claims = claims_of(targets);
        self.journal.claim(&claims)?;
        let place = Place {
            host: &self.host,
            journal: &self.journal,
            targets,
            limits,
            asked: choice.is_some(),
        };
        match place.with_first(&candidates, &mut self.engines) {
            Ok((engine_id, selection)) => {
                let id = LimitId(self.next);
                self.next += 1;
                let held = Held {
                    backend: selection.chosen,
                    targets: targets.to_vec(),
                    limits: *limits,
                    id: engine_id,
                };
                self.limits.insert(id, held);
                Ok((id, selection))
            }
            Err(error) => {
                if let Err(second) = self.journal.unclaim(&claims) {
                    warn!("{second}");
                }
                Err(error)
            }
        }
    }

    /// Changes the rates of a limit in place.
    pub fn update(&mut self, id: LimitId, limits: &Limits) -> Result<()> {
        let held = self.limits.get_mut(&id).ok_or_else(unknown)?;
        let engine = engine(&mut self.engines, held.backend)?;
        engine.update(held.id, limits)?;
        held.limits = *limits;
        Ok(())
    }

    /// What passed since the limit came into force.
    pub fn counters(&self, id: LimitId) -> Result<Counters> {
        let held = self.limits.get(&id).ok_or_else(unknown)?;
        let engine = self.engines.iter().find(|(backend, _)| *backend == held.backend);
        engine.ok_or_else(unknown)?.1.counters(held.id)
    }

    /// The limits in force, oldest first.
    pub fn limits(&self) -> impl Iterator<Item = (LimitId, &Held)> {
        self.limits.iter().map(|(id, held)| (*id, held))
    }

    /// Keeps the limits true; call it about once a second.
    pub fn refresh(&mut self) -> Vec<Notice> {
        let mut notices = Vec::new();
        for (backend, engine) in &mut self.engines {
            for notice in engine.refresh() {
                match notice {
                    Notice::TargetEnded(ended) => {
                        let ours = |held: &Held| held.backend == *backend && held.id == ended;
                        let found = self.limits.iter().find(|(_, held)| ours(held));
                        notices.extend(found.map(|(id, _)| Notice::TargetEnded(*id)));
                    }
                    warning @ Notice::Warning(_) => notices.push(warning),
                }
            }
        }
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

    /// Lifts one limit, and stops its engine when it serves no other; leaves stay: a command
    /// goes on unlimited. Returns what passed in all.
    pub fn lift(&mut self, id: LimitId) -> (Counters, Result<()>) {
        let Some(held) = self.limits.remove(&id) else {
            return (Counters::default(), Err(unknown()));
        };
        let (counters, mut outcome) = match engine(&mut self.engines, held.backend) {
            Ok(engine) => engine.remove(held.id),
            Err(error) => (Counters::default(), Err(error)),
        };
        if self.limits.values().all(|other| other.backend != held.backend) {
            for (_, engine) in
                self.engines.extract_if(.., |(backend, _)| *backend == held.backend)
            {
                outcome = outcome.and(engine.stop());
            }
        }
        // What could not be lifted stays ours: nobody else should limit it meanwhile.
        let outcome = outcome.and_then(|()| self.journal.unclaim(&claims_of(&held.targets)));
        (counters, outcome)
    }

    /// Takes back everything. Goes on after an error and returns the first.
    pub fn finish(mut self) -> Result<()> {
        let mut outcome = Ok(());
        // Whole engines: they know what to do first when many limits end.
        for (_, engine) in self.engines.drain(..) {
            outcome = outcome.and(engine.stop());
        }
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
        outcome
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

/// One limit that is looking for its engine.
struct Place<'a> {
    host: &'a Host,
    journal: &'a Journal,
    targets: &'a [Target],
    limits: &'a Limits,
    /// Whether the user named the backend.
    asked: bool,
}

impl Place<'_> {
    /// With the first backend that takes it; its id there.
    fn with_first(
        &self,
        candidates: &[&dyn Backend],
        engines: &mut Engines,
    ) -> Result<(LimitId, Selection)> {
        let mut rejected: Vec<Rejected> = Vec::new();
        let mut first_error = None;
        for backend in candidates {
            let chosen = backend.id();
            match self.with(*backend, engines) {
                Ok((id, attach)) => {
                    let asked = self.asked;
                    return Ok((id, Selection { chosen, asked, attach, rejected }));
                }
                Err(error) if !is_about_backend(&error) => return Err(error),
                Err(error) => {
                    // The only one: its reason is what the run ends with.
                    if !self.asked {
                        info!("not using {chosen}: {error}");
                    }
                    rejected.push(Rejected { backend: chosen, reason: error.to_string() });
                    first_error.get_or_insert(error);
                }
            }
        }
        Err(no_backend(first_error, rejected.len()))
    }

    /// With this backend: its engine when it runs, else a new one. Also says how it attaches.
    fn with(
        &self,
        backend: &dyn Backend,
        engines: &mut Engines,
    ) -> Result<(LimitId, &'static str)> {
        if let Ok(engine) = engine(engines, backend.id()) {
            let id = engine.add(self.targets, self.limits)?;
            return Ok((id, engine.attach_kind()));
        }
        if let Some(rejection) = rejection(backend, self.host) {
            return Err(rejection);
        }
        let mut engine = backend.start(self.host, self.journal)?;
        match engine.add(self.targets, self.limits) {
            Ok(id) => {
                let attach = engine.attach_kind();
                engines.push((backend.id(), engine));
                Ok((id, attach))
            }
            Err(error) => {
                if let Err(second) = engine.stop() {
                    warn!("{second}");
                }
                Err(error)
            }
        }
    }
}

fn engine(engines: &mut Engines, id: BackendId) -> Result<&mut Box<dyn Engine>> {
    let found = engines.iter_mut().find(|(backend, _)| *backend == id);
    found.map(|(_, engine)| engine).ok_or_else(unknown)
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

fn claims_of(targets: &[Target]) -> Vec<Claim> {
    let claim = |target: &Target| match target {
        Target::Process(process) => Claim::Process(process.key),
        Target::Cgroup(cgroup) => Claim::Cgroup { path: cgroup.path.clone() },
    };
    targets.iter().map(claim).collect()
}

fn unknown() -> Error {
    Error::new(ErrorKind::Failed, "find", "the limit").meaning("It is not in force (any more).")
}
