//! A cgroup of our own below another one.

use std::{
    fs::{self, OpenOptions},
    io::{self, Write},
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use rustix::io::Errno;

use super::tree;
use crate::{
    error::{Error, ErrorKind, Result},
    journal::{Entry, Journal, Undo},
};

/// How long removing a leaf waits for what is on its way out of it.
const PATIENCE: Duration = Duration::from_secs(1);
/// How long it waits between two attempts.
const PAUSE: Duration = Duration::from_millis(5);

/// A cgroup of ours below another one; enables no controllers. Removed when dropped, its
/// processes moved back to the parent first.
#[derive(Debug)]
pub struct Leaf {
    path: PathBuf,
    id: u64,
    journal: Journal,
    entry: Entry,
    removed: bool,
}

impl Leaf {
    /// Makes `parent/chadthrottle-INSTANCE-NAME`, recorded in the journal first; threaded when
    /// the parent is. INSTANCE is the journal's, which no other instance of this boot has.
    pub fn create(parent: &Path, name: &str, journal: &Journal) -> Result<Self> {
        let path = parent.join(format!("chadthrottle-{}-{name}", journal.instance()));
        // The id is known only after mkdir, so there are two records. The first one has none
        // and is safe all the same: nobody else makes a directory of this name.
        let announced = journal.record(None, &Undo::Leaf { path: path.clone(), id: 0 })?;
        if let Err(source) = fs::create_dir(&path) {
            journal.done(announced)?;
            return Err(cannot_create(&path, source));
        }
        // Until the end of this function a drop takes it back by the first record.
        let mut leaf =
            Self { path, id: 0, journal: journal.clone(), entry: announced, removed: false };
        if needs_threaded(parent) {
            write(&leaf.path.join("cgroup.type"), "threaded").map_err(|source| {
                Error::io("make a threaded cgroup of", leaf.path.display(), source)
                    .meaning("Its parent has threads in cgroups of their own.")
            })?;
        }
        leaf.id = tree::id(&leaf.path)?;
        leaf.entry =
            journal.record(None, &Undo::Leaf { path: leaf.path.clone(), id: leaf.id })?;
        journal.done(announced)?;
        Ok(leaf)
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its id (inode).
    #[must_use]
    pub fn id(&self) -> u64 {
        self.id
    }

    /// Moves a process with all its threads into it.
    pub fn add(&self, pid: i32) -> Result<()> {
        write(&self.path.join("cgroup.procs"), &pid.to_string()).map_err(|source| {
            let object = format!("process {pid} into {}", self.path.display());
            match Errno::from_io_error(&source) {
                Some(Errno::SRCH) => Error::new(ErrorKind::NoSuchTarget, "move", object)
                    .because(source)
                    .meaning("The process has ended."),
                _ => Error::io("move", object, source)
                    .meaning("The kernel does not let the process leave its cgroup."),
            }
        })
    }

    /// Moves what is in it back and removes it.
    pub fn remove(mut self) -> Result<()> {
        self.take_back()
    }

    fn take_back(&mut self) -> Result<()> {
        if self.removed {
            return Ok(());
        }
        self.removed = true; // One attempt: the journal keeps what it could not do.
        take_back(&self.path, self.id)?;
        self.journal.done(self.entry)
    }
}

impl Drop for Leaf {
    fn drop(&mut self) {
        if let Err(error) = self.take_back() {
            tracing::warn!("{error}");
        }
    }
}

/// Moves what is in a leaf back to the parent and removes it. A directory that is gone or has
/// another id (0: any) is not ours and no error.
pub(crate) fn take_back(path: &Path, id: u64) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match tree::id(path) {
            Err(error) if error.kind == ErrorKind::NoSuchTarget => return Ok(()),
            Err(error) => return Err(error),
            Ok(found) if id != 0 && found != id => return Ok(()),
            Ok(_) => {}
        }
        remove_empty_children(path);
        // What is moved may fork meanwhile; its children are found in the next round.
        let moved = move_to_parent(path);
        match fs::remove_dir(path) {
            Ok(()) => return Ok(()),
            Err(error) if tree::is_gone(&error) => return Ok(()),
            Err(error) if Instant::now() >= deadline => {
                return Err(cannot_remove(path, error, moved));
            }
            Err(_) => thread::sleep(PAUSE),
        }
    }
}

/// A command may have made cgroups below its leaf; those that nobody uses go with it.
fn remove_empty_children(path: &Path) {
    let mut children = Vec::new();
    tree::walk(path, &mut |entry| children.push(entry.path()));
    for child in children.iter().rev() {
        if let Err(error) = fs::remove_dir(child) {
            tracing::debug!("{} stays: {error}", child.display());
        }
    }
}

fn move_to_parent(path: &Path) -> io::Result<()> {
    let Some(parent) = path.parent() else { return Ok(()) };
    let file = if kind(path).contains("threaded") { "cgroup.threads" } else { "cgroup.procs" };
    for id in tree::read_ids(&path.join(file))? {
        match write(&parent.join(file), &id.to_string()) {
            Err(error) if Errno::from_io_error(&error) != Some(Errno::SRCH) => {
                return Err(error);
            }
            _ => {}
        }
    }
    Ok(())
}

/// Below a threaded cgroup and below the root of a threaded subtree a new cgroup takes no
/// processes until it is threaded as well (Documentation/admin-guide/cgroup-v2.rst).
fn needs_threaded(parent: &Path) -> bool {
    matches!(kind(parent).as_str(), "threaded" | "domain threaded")
}

/// The text of cgroup.type; the root of the hierarchy has none.
fn kind(path: &Path) -> String {
    fs::read_to_string(path.join("cgroup.type"))
        .map_or_else(|_| String::new(), |text| text.trim().to_owned())
}

/// Writes to a file of the kernel's: never creates one, and in one write(2).
fn write(file: &Path, text: &str) -> io::Result<()> {
    OpenOptions::new().write(true).open(file)?.write_all(text.as_bytes())
}

fn cannot_create(path: &Path, source: io::Error) -> Error {
    let errno = Errno::from_io_error(&source);
    let mut error = Error::io("create cgroup", path.display(), source);
    let (kind, meaning, advice) = match errno {
        Some(Errno::ROFS) => (
            ErrorKind::NotPermitted,
            "The cgroup tree is mounted read-only, as in most containers.",
            "Run it outside the container, or use --backend ebpf with --cgroup or --pid.",
        ),
        Some(Errno::ACCESS | Errno::PERM) => (
            ErrorKind::NotPermitted,
            "We may not write to this part of the cgroup tree.",
            "Run it with sudo.",
        ),
        Some(Errno::AGAIN) => (
            ErrorKind::Failed,
            "A parent's cgroup.max.depth or cgroup.max.descendants allows no more cgroups.",
            "Raise that limit.",
        ),
        Some(Errno::NOENT | Errno::NODEV) => {
            (ErrorKind::NoSuchTarget, "Its parent does not exist any more.", "")
        }
        _ => return error,
    };
    error.kind = kind;
    error = error.meaning(meaning);
    if advice.is_empty() { error } else { error.advice(advice) }
}

fn cannot_remove(path: &Path, source: io::Error, moved: io::Result<()>) -> Error {
    let error = |source| Error::io("remove cgroup", path.display(), source);
    match moved {
        Err(cause) if Errno::from_io_error(&cause) == Some(Errno::BUSY) => error(cause)
            .meaning(
                "Controllers were enabled in its parent meanwhile, so its processes cannot go \
                 back there; they stay where they are, unlimited.",
            )
            .advice("Run chadthrottle clean when they have ended."),
        Err(cause) => error(cause)
            .meaning("Its processes cannot go back to the parent.")
            .advice("Run chadthrottle clean when they have ended."),
        Ok(()) => error(source)
            .meaning("Processes live in cgroups that were made below it.")
            .advice("Run chadthrottle clean when they have ended."),
    }
}
