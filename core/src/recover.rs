//! Taking back what the dead left: for the guardian, for `clean` and for the next start.

use crate::{
    backend::BackendId,
    cgroup,
    error::Result,
    host::Host,
    journal::{self, Entry, Held, Pending, StaleJournal, Undo},
};

/// Takes back one change of a backend. It gets the descriptors that the guardian held and
/// all changes of the same journal that are still to be taken back, newest first.
pub type Undoer<'a> = dyn FnMut(Option<BackendId>, &Undo, &Held, &[Undo]) -> Result<()> + 'a;

/// What became of one attempt to take something back.
#[derive(Debug)]
pub struct Outcome {
    /// What was tried, in words: "remove the cgroup /sys/fs/cgroup/x".
    pub what: String,
    /// Whether it is done.
    pub result: Result<()>,
}

impl Outcome {
    fn new(what: &(impl ToString + ?Sized), result: Result<()>) -> Self {
        Self { what: what.to_string(), result }
    }

    /// Tells the log.
    pub fn log(&self) {
        match &self.result {
            Ok(()) => tracing::info!("cleaned up: {}", self.what),
            Err(error) => tracing::warn!("{error}"),
        }
    }
}

/// Takes back what all dead instances left, newest first. Goes on after errors; what could
/// not be taken back stays in its journal for the next time.
pub fn sweep(host: &Host, undo: &mut Undoer<'_>) -> Vec<Outcome> {
    let mut outcomes = Vec::new();
    match journal::stale(host) {
        Err(error) => outcomes.push(Outcome::new("read the journals", Err(error))),
        Ok(journals) => {
            for journal in journals {
                match journal {
                    Ok(journal) => outcomes.extend(take_back(journal, &Held::new(), undo)),
                    Err(error) => outcomes.push(Outcome::new("read a journal", Err(error))),
                }
            }
        }
    }
    outcomes
}

/// In words, what [`sweep`] would take back.
pub fn planned(host: &Host) -> Result<Vec<String>> {
    let mut plan = Vec::new();
    for journal in journal::stale(host)? {
        plan.extend(journal?.pending().map(|pending| pending.undo.to_string()));
    }
    Ok(plan)
}

/// Takes back what is pending in one journal and removes it when nothing is left.
pub(crate) fn take_back(
    mut journal: StaleJournal,
    held: &Held,
    undo: &mut Undoer<'_>,
) -> Vec<Outcome> {
    let pending: Vec<Pending> = journal.pending().cloned().collect();
    let all: Vec<Undo> = pending.iter().map(|pending| pending.undo.clone()).collect();
    let mut outcomes = Vec::new();
    for Pending { entry, backend, undo: change } in &pending {
        let result = match change {
            Undo::Leaf { path, id } => cgroup::take_back(path, *id),
            _ => undo(*backend, change, held, &all),
        };
        if result.is_ok() {
            journal.done(Entry(*entry));
        }
        outcomes.push(Outcome::new(change, result));
    }
    if let Err(error) = journal.finish() {
        outcomes.push(Outcome::new("remove a journal", Err(error)));
    }
    outcomes
}
