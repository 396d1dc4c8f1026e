//! The run directory: one journal an instance, and a lock for what concerns all.

use std::{
    env,
    fs::{self, DirBuilder, File},
    io,
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    process, thread,
    time::{Duration, Instant},
};

use rustix::{
    fs::{FlockOperation, Mode, OFlags, flock, open as open_file},
    io::Errno,
};

use super::{
    Entry, Undo,
    claims::Claim,
    file::{Contents, Header, JournalFile, Line, Pending, VERSION, run_error},
};
use crate::{
    error::{Error, ErrorKind, Result},
    host::Host,
    process::ProcessKey,
};

/// How the name of a journal ends.
const EXTENSION: &str = "journal";
/// How long we wait for others that look at the directory; each needs milliseconds.
const LOCK_PATIENCE: Duration = Duration::from_secs(5);

/// A living instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Instance {
    /// Its process; dead while its guardian is still at work.
    pub owner: ProcessKey,
    /// Its command line.
    pub command: String,
    /// What it limits.
    pub claims: Vec<Claim>,
}

/// The journal of an instance that is dead, and so is its guardian. It is locked while this
/// value lives, so nobody else takes the same things back.
#[derive(Debug)]
pub struct StaleJournal {
    file: JournalFile,
    contents: Contents,
}

impl StaleJournal {
    /// A journal whose lock we hold; what an earlier boot left is not pending any more.
    fn open(file: JournalFile, boot_id: &str) -> Result<Self> {
        let mut contents = file.read()?;
        match &contents.header {
            Some(header) if header.version != VERSION => {
                return Err(Error::new(ErrorKind::Failed, "read", file.path().display())
                    .meaning("Another version of chadthrottle wrote it.")
                    .advice("Run chadthrottle clean of that version."));
            }
            // Sockets, cgroups and attachments all die with the kernel that had them.
            Some(header) if header.boot_id != boot_id => contents.pending.clear(),
            _ => {}
        }
        Ok(Self { file, contents })
    }

    /// The journal of our own instance, for its guardian, which shares the lock.
    pub(crate) fn inherited(file: File, path: PathBuf, boot_id: &str) -> Result<Self> {
        Self::open(JournalFile::new(file, path), boot_id)
    }

    /// Where it lies.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.file.path()
    }

    /// What is to be taken back, newest first.
    pub fn pending(&self) -> impl Iterator<Item = &Pending> {
        self.contents.pending.values().rev()
    }

    /// Marks a change as taken back. The line is for the case that the work is broken off;
    /// without it (a full file system) somebody does once more what is already done.
    pub fn done(&mut self, entry: Entry) {
        self.contents.pending.remove(&entry.0);
        if let Err(error) = self.file.append(&Line::Done { entry: entry.0 }) {
            tracing::debug!("{error}");
        }
    }

    /// Removes the file when nothing is left in it.
    pub fn finish(self) -> Result<()> {
        if self.contents.pending.is_empty() { self.file.remove() } else { Ok(()) }
    }

    fn age(&self) -> u64 {
        self.contents.header.as_ref().map_or(0, |header| header.owner.start_time)
    }
}

/// The journals whose instance and guardian are dead, newest first. One that cannot be used
/// does not hide the others.
pub fn stale(host: &Host) -> Result<Vec<Result<StaleJournal>>> {
    if !host.run.exists() {
        return Ok(Vec::new());
    }
    // Without the directory's lock we could take a journal between its creation and its lock.
    let _lock = lock(host)?;
    let boot_id = host.boot_id()?;
    let mut found = Vec::new();
    for path in journals(host)? {
        match open_locked(&path) {
            Ok(Some(file)) => found.push(StaleJournal::open(file, &boot_id)),
            Ok(None) => {}
            Err(error) => found.push(Err(error)),
        }
    }
    found.sort_by_key(|journal| {
        std::cmp::Reverse(journal.as_ref().map_or(0, StaleJournal::age))
    });
    Ok(found)
}

/// The instances that live, or whose guardian still does.
pub fn live(host: &Host) -> Result<Vec<Instance>> {
    if !host.run.exists() {
        return Ok(Vec::new());
    }
    let _lock = lock(host)?;
    live_except(host, Path::new(""))
}

/// Keeps all other instances from starting, claiming and changing what instances share, as long as
/// it lives: for moments only.
#[derive(Debug)]
pub struct Exclusive {
    _lock: File,
}

/// Waits for the run directory.
pub fn exclusive(host: &Host) -> Result<Exclusive> {
    Ok(Exclusive { _lock: lock(host)? })
}

impl Exclusive {
    /// Every change on record in any journal of this boot, whoever made it and lives or not:
    /// tells what belongs to chadthrottle.
    pub fn recorded(&self, host: &Host) -> Result<Vec<Undo>> {
        let boot_id = host.boot_id()?;
        let mut found = Vec::new();
        for path in journals(host)? {
            let Some(file) = open(&path)? else { continue };
            let Contents { header, pending, .. } = JournalFile::new(file, path).read()?;
            if header.is_some_and(|header| header.boot_id == boot_id) {
                found.extend(pending.into_values().map(|pending| pending.undo));
            }
        }
        Ok(found)
    }
}

/// The living instances but one; the caller holds the directory's lock.
pub(super) fn live_except(host: &Host, own: &Path) -> Result<Vec<Instance>> {
    let mut found = Vec::new();
    for path in journals(host)?.into_iter().filter(|path| path != own) {
        let Some(file) = open(&path)? else { continue };
        if try_lock(&file, &path)? {
            continue;
        }
        found.extend(JournalFile::new(file, path).read()?.instance());
    }
    Ok(found)
}

/// Makes the journal of this process: its instance's name and the locked file with a header, which is
/// not in the directory yet ([`JournalFile::publish`]).
pub(super) fn create(host: &Host) -> Result<(String, JournalFile)> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&host.run)
        .map_err(|error| run_error("create", &host.run, error))?;
    let _lock = lock(host)?;
    let (instance, file) = create_file(host)?;
    let written = write_header(host, &file);
    if written.is_err() {
        file.remove()?;
    }
    written.map(|()| (instance, file))
}

fn create_file(host: &Host) -> Result<(String, JournalFile)> {
    let owner = own_key(host)?;
    let mut instance = format!("{}-{}", owner.pid, owner.start_time);
    let named = |instance: &str| host.run.join(instance).with_extension(EXTENSION);
    // The name may be taken: by another journal of this process, by one of an earlier boot, or
    // by a process of another pid namespace.
    let mut number = 0;
    while named(&instance).exists() {
        number += 1;
        instance = format!("{}-{}-{number}", owner.pid, owner.start_time);
    }
    let path = named(&instance);
    let file =
        unnamed(&host.run, &path).map_err(|errno| run_error("create", &path, errno.into()))?;
    try_lock(&file, &path)?;
    Ok((instance, JournalFile::new(file, path)))
}

/// A file of the directory without a name; where the file system has none, with the name `path`.
fn unnamed(directory: &Path, path: &Path) -> std::result::Result<File, Errno> {
    let flags = OFlags::RDWR | OFlags::APPEND | OFlags::CLOEXEC;
    let mode = Mode::RUSR | Mode::WUSR;
    let file = match open_file(directory, flags | OFlags::TMPFILE, mode) {
        Err(Errno::OPNOTSUPP | Errno::ISDIR) => {
            open_file(path, flags | OFlags::CREATE | OFlags::EXCL, mode)
        }
        opened => opened,
    };
    file.map(File::from)
}

fn write_header(host: &Host, file: &JournalFile) -> Result<()> {
    let arguments: Vec<_> =
        env::args_os().map(|arg| arg.to_string_lossy().into_owned()).collect();
    file.reserve()?;
    file.append(&Line::Header(Header {
        version: VERSION,
        boot_id: host.boot_id()?,
        owner: own_key(host)?,
        command: arguments.join(" "),
    }))
}

fn own_key(host: &Host) -> Result<ProcessKey> {
    let pid = i32::try_from(process::id()).unwrap_or(0);
    ProcessKey::of(host, pid).ok_or_else(|| {
        Error::new(ErrorKind::Failed, "read", host.proc.join("self/stat").display())
            .meaning("The process cannot see itself: /proc belongs to another pid namespace.")
            .advice("Mount /proc of this pid namespace.")
    })
}

/// Takes the directory's lock; it is released when the file is dropped.
pub(super) fn lock(host: &Host) -> Result<File> {
    let path = host.run.join("lock");
    let file = File::options()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&path)
        .map_err(|error| run_error("open", &path, error))?;
    let deadline = Instant::now() + LOCK_PATIENCE;
    while !try_lock(&file, &path)? {
        if Instant::now() >= deadline {
            return Err(Error::new(ErrorKind::Failed, "lock", path.display())
                .meaning("Another instance of chadthrottle has held the lock for seconds.")
                .advice("See which one with: sudo fuser -v on that file; is it stopped?"));
        }
        thread::sleep(Duration::from_millis(5));
    }
    Ok(file)
}

/// Whether nobody else has it. The lock belongs to the open file description.
fn try_lock(file: &File, path: &Path) -> Result<bool> {
    match flock(file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(true),
        Err(Errno::WOULDBLOCK) => Ok(false),
        Err(errno) => Err(run_error("lock", path, errno.into())),
    }
}

/// A journal that belongs to nobody who lives, locked.
fn open_locked(path: &Path) -> Result<Option<JournalFile>> {
    let Some(file) = open(path)? else { return Ok(None) };
    let ours = try_lock(&file, path)?
        // Its owner may have removed it between our open and our lock.
        && file.metadata().is_ok_and(|data| data.nlink() > 0);
    Ok(ours.then(|| JournalFile::new(file, path.to_owned())))
}

/// `None` when it is gone.
fn open(path: &Path) -> Result<Option<File>> {
    match File::options().read(true).append(true).open(path) {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(run_error("open", path, error)),
    }
}

fn journals(host: &Host) -> Result<Vec<PathBuf>> {
    let entries =
        fs::read_dir(&host.run).map_err(|error| run_error("read", &host.run, error))?;
    Ok(entries
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|extension| extension == EXTENSION))
        .collect())
}
