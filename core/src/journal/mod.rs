//! The record of what must be put back if we die.
//!
//! One file an instance in the run directory, one JSON object a line, append only. A line is
//! written before the change it describes is made. The file is locked (flock) by the instance
//! and, through the same open file description, by its guardian: a journal whose lock can be
//! taken belongs to nobody who lives.

mod claims;
mod directory;
mod file;
mod undo;

use std::{
    collections::{BTreeSet, HashMap},
    fs::File,
    os::fd::{AsFd, OwnedFd},
    path::Path,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
    thread,
    time::{Duration, Instant},
};

pub use claims::Claim;
pub use directory::{Exclusive, Instance, StaleJournal, exclusive, live, stale};
pub use file::Pending;
pub use undo::Undo;

use crate::{
    backend::BackendId,
    error::{Error, ErrorKind, Result},
    guardian::Channel,
    host::Host,
    process::Process,
};
use file::{JournalFile, Line};

/// How long a claim waits for the guardian of an instance that has just died.
const GUARDIAN_PATIENCE: Duration = Duration::from_secs(2);

/// A file descriptor that the guardian holds for the day we die, by label.
pub type Held = HashMap<String, OwnedFd>;

/// The journal of this instance. Clones are the same journal.
#[derive(Debug, Clone)]
pub struct Journal {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    host: Host,
    instance: String,
    file: JournalFile,
    entries: Mutex<Entries>,
    guardian: OnceLock<Channel>,
}

/// What was recorded so far.
#[derive(Debug, Default)]
struct Entries {
    next: u32,
    pending: BTreeSet<u32>,
}

/// Names one line, to be marked as done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry(pub u32);

impl Journal {
    /// Opens a journal in the run directory, which is made when it is not there. A full or
    /// read-only file system shows here, before anything is touched.
    pub fn create(host: &Host) -> Result<Self> {
        let journal = Self::unnamed(host)?;
        journal.publish()?;
        Ok(journal)
    }

    /// One that nobody sees, and that is gone with its process, until [`Journal::publish`].
    pub fn unnamed(host: &Host) -> Result<Self> {
        let (instance, file) = directory::create(host)?;
        Ok(Self {
            inner: Arc::new(Inner {
                host: host.clone(),
                instance,
                file,
                entries: Mutex::default(),
                guardian: OnceLock::new(),
            }),
        })
    }

    /// Gives it its name in the run directory; before anything is claimed or recorded.
    pub fn publish(&self) -> Result<()> {
        self.inner.file.publish()
    }

    /// Records a change that is about to be made; `backend` takes it back, `None` means core.
    pub fn record(&self, backend: Option<BackendId>, undo: &Undo) -> Result<Entry> {
        let mut entries = self.entries();
        let entry = entries.next;
        self.inner.file.append(&Line::Record(Pending {
            entry,
            backend,
            undo: undo.clone(),
        }))?;
        entries.next += 1;
        entries.pending.insert(entry);
        Ok(Entry(entry))
    }

    /// Marks a change as taken back.
    pub fn done(&self, entry: Entry) -> Result<()> {
        let mut entries = self.entries();
        entries.pending.remove(&entry.0);
        self.inner.file.append(&Line::Done { entry: entry.0 })
    }

    /// Claims targets, all or none. Refused with the instance's pid when one of them, or
    /// something above or below it, is claimed by a living instance or already by this one.
    pub fn claim(&self, claims: &[Claim]) -> Result<()> {
        let host = &self.inner.host;
        let deadline = Instant::now() + GUARDIAN_PATIENCE;
        loop {
            let lock = directory::lock(host)?;
            let Some(conflict) = claims::conflict(host, claims, &self.instances()?) else {
                let _entries = self.entries();
                return self.inner.file.append(&Line::Claim(claims.to_vec()));
            };
            // The instance is dead and its guardian at work: the target is free in a moment.
            let dying = Process::reopen(host, conflict.owner).is_none();
            if !dying || Instant::now() >= deadline {
                return Err(conflict.error(host));
            }
            drop(lock);
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// Gives claims back while the run goes on.
    pub fn unclaim(&self, claims: &[Claim]) -> Result<()> {
        let _entries = self.entries();
        self.inner.file.append(&Line::Unclaim(claims.to_vec()))
    }

    /// Hands a descriptor to the guardian, which keeps it open after we died. Returns once
    /// the guardian has it. A descriptor held under the same label before is closed.
    pub fn hold(&self, label: &str, fd: impl AsFd) -> Result<()> {
        self.guardian()?.hold(label, fd.as_fd())
    }

    /// Makes the guardian close what it holds under this label.
    pub fn let_go(&self, label: &str) -> Result<()> {
        self.guardian()?.let_go(label)
    }

    /// Names this instance among all of this boot: PID-START.
    #[must_use]
    pub fn instance(&self) -> &str {
        &self.inner.instance
    }

    /// Where it lies.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.inner.file.path()
    }

    /// Removes the file: a clean end. Refused when something is not taken back yet; the file
    /// then stays for the guardian and for `clean`.
    pub fn close(self) -> Result<()> {
        let left = self.entries().pending.len();
        if left > 0 {
            return Err(Error::new(ErrorKind::Failed, "close", self.path().display())
                .meaning(format!("{left} of the recorded changes could not be taken back."))
                .advice("Run chadthrottle clean."));
        }
        self.inner.file.remove()
    }

    /// The file, whose lock the guardian keeps with us.
    pub(crate) fn share_file(&self) -> Result<File> {
        self.inner.file.share()
    }

    /// Connects [`Journal::hold`] with the guardian.
    pub(crate) fn connect(&self, channel: Channel) -> Result<()> {
        self.inner.guardian.set(channel).map_err(|_| {
            Error::new(ErrorKind::Failed, "start", "a guardian")
                .meaning("This journal already has one.")
        })
    }

    pub(crate) fn guardian(&self) -> Result<&Channel> {
        self.inner.guardian.get().ok_or_else(|| {
            Error::new(ErrorKind::Failed, "reach", "the guardian")
                .meaning("None was started for this journal.")
        })
    }

    /// The other living instances, and this one.
    fn instances(&self) -> Result<Vec<Instance>> {
        let mut instances = directory::live_except(&self.inner.host, self.path())?;
        instances.extend(self.inner.file.read()?.instance());
        Ok(instances)
    }

    /// Also serves as the lock that keeps lines whole and in order.
    fn entries(&self) -> MutexGuard<'_, Entries> {
        self.inner.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
