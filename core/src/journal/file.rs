//! The file itself: its lines, how they are appended and read.

use std::{
    collections::BTreeMap,
    fs::{self, File, Metadata},
    io::{self, Write},
    os::{
        fd::AsRawFd,
        unix::fs::{FileExt, MetadataExt},
    },
    path::{Path, PathBuf},
};

use rustix::{
    fs::{AtFlags, CWD, FallocateFlags, fallocate, linkat},
    io::Errno,
};
use serde::{Deserialize, Serialize};

use super::{claims::Claim, directory::Instance, undo::Undo};
use crate::{
    backend::BackendId,
    error::{Error, ErrorKind, Result},
    process::ProcessKey,
};

/// The form of the lines. A journal of another version is left to the version that wrote it.
pub(super) const VERSION: u32 = 1;

/// Room that is reserved at the start, so that a file system that fills up later does not
/// keep us from recording and from marking as done (a line has about 200 bytes).
const RESERVED: u64 = 64 * 1024;

/// The first line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Header {
    pub(super) version: u32,
    /// `/proc/sys/kernel/random/boot_id`.
    pub(super) boot_id: String,
    /// Whose journal it is.
    #[serde(flatten)]
    pub(super) owner: ProcessKey,
    /// Its command line, for people.
    pub(super) command: String,
}

/// A change that is recorded and not taken back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pending {
    /// Its number in the journal.
    pub entry: u32,
    /// Who takes it back; `None` means core.
    pub backend: Option<BackendId>,
    /// What is to be taken back.
    #[serde(rename = "change")]
    pub undo: Undo,
}

/// Any line.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Line {
    Header(Header),
    Record(Pending),
    Done { entry: u32 },
    Claim(Vec<Claim>),
    Unclaim(Vec<Claim>),
}

/// All lines together.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Contents {
    /// `None` when the instance died before it was written.
    pub(super) header: Option<Header>,
    /// By number, oldest first.
    pub(super) pending: BTreeMap<u32, Pending>,
    pub(super) claims: Vec<Claim>,
}

impl Contents {
    /// A last line without its end was torn by a crash: the change it announces was not made.
    pub(super) fn parse(text: &[u8]) -> Self {
        let mut contents = Self::default();
        let whole = text.iter().rposition(|&byte| byte == b'\n').map_or(0, |end| end + 1);
        for line in text[..whole].split(|&byte| byte == b'\n').filter(|line| !line.is_empty()) {
            match serde_json::from_slice(line) {
                Ok(Line::Header(header)) => contents.header = Some(header),
                Ok(Line::Record(pending)) => {
                    contents.pending.insert(pending.entry, pending);
                }
                Ok(Line::Done { entry }) => {
                    contents.pending.remove(&entry);
                }
                Ok(Line::Claim(claims)) => contents.claims.extend(claims),
                Ok(Line::Unclaim(claims)) => contents.claims.retain(|c| !claims.contains(c)),
                Err(error) => tracing::warn!(
                    "a line of a journal cannot be read ({error}): {}",
                    String::from_utf8_lossy(line)
                ),
            }
        }
        contents
    }

    /// Whose it is; `None` when that was never written.
    pub(super) fn instance(self) -> Option<Instance> {
        let Header { owner, command, .. } = self.header?;
        Some(Instance { owner, command, claims: self.claims })
    }
}

/// An open journal. The offset of the open file description is never used: the guardian
/// shares it.
#[derive(Debug)]
pub(super) struct JournalFile {
    file: File,
    path: PathBuf,
}

impl JournalFile {
    /// `file` must have been opened for reading and appending.
    pub(super) fn new(file: File, path: PathBuf) -> Self {
        Self { file, path }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Gives the file its name in the directory, unless it has one.
    pub(super) fn publish(&self) -> Result<()> {
        if self.links()? > 0 {
            return Ok(());
        }
        let unnamed = format!("/proc/self/fd/{}", self.file.as_raw_fd());
        linkat(CWD, unnamed, CWD, &self.path, AtFlags::SYMLINK_FOLLOW)
            .map_err(|errno| run_error("create", &self.path, errno.into()))
    }

    /// Takes room on the file system in advance.
    pub(super) fn reserve(&self) -> Result<()> {
        match fallocate(&self.file, FallocateFlags::KEEP_SIZE, 0, RESERVED) {
            // Not every file system can; then a full one shows when a line is written.
            Ok(()) | Err(Errno::OPNOTSUPP | Errno::NOSYS) => Ok(()),
            Err(errno) => Err(run_error("write", &self.path, errno.into())),
        }
    }

    /// Appends a line, whole or not at all. Callers take care that only one does at a time.
    pub(super) fn append(&self, line: &Line) -> Result<()> {
        let mut text = serde_json::to_vec(line)
            .map_err(|error| run_error("write", &self.path, error.into()))?;
        text.push(b'\n');
        let before = self.len()?;
        let result = match (&self.file).write(&text) {
            Ok(count) if count == text.len() => return Ok(()),
            Ok(_) => Err(run_error("write", &self.path, Errno::NOSPC.into())),
            Err(error) => Err(run_error("write", &self.path, error)),
        };
        // Half a line would spoil the next one.
        self.file
            .set_len(before)
            .map_err(|error| run_error("shorten", &self.path, error))
            .and(result)
    }

    pub(super) fn read(&self) -> Result<Contents> {
        let length = usize::try_from(self.len()?).unwrap_or(usize::MAX);
        let mut text = vec![0; length];
        self.file
            .read_exact_at(&mut text, 0)
            .map_err(|error| run_error("read", &self.path, error))?;
        Ok(Contents::parse(&text))
    }

    /// Removes the file; the lock lives on with the descriptor.
    pub(super) fn remove(&self) -> Result<()> {
        match fs::remove_file(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(run_error("remove", &self.path, error))
            }
            _ => Ok(()),
        }
    }

    /// The same open file description, for another process to keep.
    pub(super) fn share(&self) -> Result<File> {
        self.file.try_clone().map_err(|error| run_error("share", &self.path, error))
    }

    fn len(&self) -> Result<u64> {
        Ok(self.metadata()?.len())
    }

    fn links(&self) -> Result<u64> {
        Ok(self.metadata()?.nlink())
    }

    fn metadata(&self) -> Result<Metadata> {
        self.file.metadata().map_err(|error| run_error("read", &self.path, error))
    }
}

/// What failed in the run directory, and what that means.
pub(super) fn run_error(operation: &str, path: &Path, source: io::Error) -> Error {
    let errno = Errno::from_io_error(&source);
    let error = Error::io(operation, path.display(), source);
    match errno {
        Some(Errno::NOSPC | Errno::DQUOT) => error
            .meaning("Its file system is full, and no limit starts without its record there.")
            .advice("Free some space there (df -h; df -i)."),
        Some(Errno::ROFS) => error
            .meaning(
                "Its file system is read-only, and no limit starts without its record there.",
            )
            .advice("Mount it writable."),
        Some(Errno::ACCESS | Errno::PERM) => {
            let mut error = error.meaning("Only root keeps records there.");
            error.kind = ErrorKind::NotPermitted;
            error.advice("Run it with sudo.")
        }
        Some(Errno::EXIST | Errno::NOTDIR) => error
            .meaning(
                "Something else is where a directory must be, and no limit starts without its \
                 record there.",
            )
            .advice("See what it is (ls -ld) and move it out of the way."),
        _ => error
            .meaning("No limit starts without its record there.")
            .advice("Look at that path and its file system (ls -ld; df; the kernel log)."),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leaf(name: &str) -> Undo {
        Undo::Leaf { path: name.into(), id: 7 }
    }

    fn record(entry: u32) -> Line {
        Line::Record(Pending {
            entry,
            backend: Some(BackendId::Ebpf),
            undo: leaf(&entry.to_string()),
        })
    }

    fn text(lines: &[Line]) -> Vec<u8> {
        lines
            .iter()
            .flat_map(|line| [serde_json::to_vec(line).unwrap(), vec![b'\n']].concat())
            .collect()
    }

    fn entries(text: &[u8]) -> Vec<u32> {
        Contents::parse(text).pending.into_keys().collect()
    }

    #[test]
    fn every_undo_survives_the_file() {
        let key = ProcessKey { pid: 4, start_time: 5 };
        for (number, undo) in [
            leaf("/sys/fs/cgroup/a b"),
            Undo::Attachment { path: "/x".into(), id: 1, attach_type: 2, program: 3 },
            Undo::Sockets { processes: vec![key], cgroups: vec!["/x".into()] },
            Undo::Pace { cookie: u64::MAX, rate: 125_000 },
        ]
        .into_iter()
        .enumerate()
        {
            let pending =
                Pending { entry: u32::try_from(number).unwrap(), backend: None, undo };
            let parsed = Contents::parse(&text(&[Line::Record(pending.clone())]));
            assert_eq!(parsed.pending.into_values().collect::<Vec<_>>(), [pending]);
        }
    }

    #[test]
    fn what_is_done_is_not_pending() {
        let all = text(&[record(0), record(1), record(2), Line::Done { entry: 1 }]);
        assert_eq!(entries(&all), [0, 2]);
    }

    #[test]
    fn a_torn_last_line_is_ignored_wherever_it_is_torn() {
        let first = text(&[record(0)]);
        let both = text(&[record(0), record(1)]);
        for end in first.len()..both.len() {
            assert_eq!(entries(&both[..end]), [0], "torn at {end}");
        }
        assert_eq!(entries(&both), [0, 1]);
    }

    #[test]
    fn an_unreadable_line_does_not_hide_the_others() {
        let broken = [text(&[record(0)]), b"{\"reco\n".to_vec(), text(&[record(1)])].concat();
        assert_eq!(entries(&broken), [0, 1]);
    }

    #[test]
    fn a_full_file_system_leaves_no_half_line() {
        // /dev/full refuses every write with ENOSPC.
        let full = File::options().read(true).append(true).open("/dev/full").unwrap();
        let error = JournalFile::new(full, "/dev/full".into()).append(&record(0)).unwrap_err();
        assert!(
            error.to_string().contains("file system is full") || error.errno() == 22,
            "{error}"
        );
    }
}
