//! Reading the cgroup tree: ids, kinds of directories, processes.

use std::{
    collections::BTreeSet,
    fs::{self, DirEntry},
    io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use procfs::{FromRead, process::Status};
use rustix::io::Errno;

use crate::{
    error::{Error, ErrorKind, Result},
    host::Host,
};

/// `CGROUP2_SUPER_MAGIC` of linux/magic.h.
const CGROUP2_MAGIC: i64 = 0x6367_7270;
/// `CGROUP_SUPER_MAGIC` of linux/magic.h: cgroup v1.
const CGROUP1_MAGIC: i64 = 0x0027_e0eb;

/// Whether a path lies on a cgroup v2 file system.
#[must_use]
pub fn is_cgroup2(path: &Path) -> bool {
    has_magic(path, CGROUP2_MAGIC)
}

pub(super) fn is_cgroup1(path: &Path) -> bool {
    has_magic(path, CGROUP1_MAGIC)
}

fn has_magic(path: &Path, magic: i64) -> bool {
    #[allow(clippy::useless_conversion)] // f_type is narrower on 32-bit machines.
    rustix::fs::statfs(path).is_ok_and(|stat| i64::from(stat.f_type) == magic)
}

/// Our own cgroup.
pub fn own(host: &Host) -> Result<PathBuf> {
    let pid = i32::try_from(std::process::id()).unwrap_or(0);
    host.cgroup_of(pid)
}

/// The cgroup's id: the inode of its directory, what `bpf_skb_cgroup_id` and `sock_diag` say.
pub fn id(path: &Path) -> Result<u64> {
    match fs::metadata(path) {
        Ok(data) => Ok(data.ino()),
        Err(error) => {
            let gone = error.kind() == io::ErrorKind::NotFound;
            let mut error = Error::io("read the id of cgroup", path.display(), error);
            if gone {
                error.kind = ErrorKind::NoSuchTarget;
                error = error.meaning("The cgroup does not exist any more.");
            }
            Err(error)
        }
    }
}

/// The ids of a cgroup and of all below it; none when it does not exist.
#[must_use]
pub fn ids(path: &Path) -> BTreeSet<u64> {
    let mut found: BTreeSet<u64> = id(path).into_iter().collect();
    walk(path, &mut |entry| found.extend(entry.metadata().map(|data| data.ino())));
    found
}

/// The pids in a cgroup and all below it. What vanishes meanwhile is left out.
pub fn processes(path: &Path) -> Result<Vec<i32>> {
    let mut pids = BTreeSet::new();
    collect(path, &mut pids)?;
    let mut failure = None;
    walk(path, &mut |entry| {
        if let Err(error) = collect(&entry.path(), &mut pids) {
            failure = Some(error);
        }
    });
    failure.map_or_else(|| Ok(pids.into_iter().collect()), Err)
}

fn collect(path: &Path, pids: &mut BTreeSet<i32>) -> Result<()> {
    match read_ids(&path.join("cgroup.procs")) {
        Ok(found) => pids.extend(found),
        // In a threaded cgroup only the threads can be read.
        Err(error) if error.raw_os_error() == Some(Errno::OPNOTSUPP.raw_os_error()) => {
            let threads = read_ids(&path.join("cgroup.threads"))
                .or_else(|error| if is_gone(&error) { Ok(Vec::new()) } else { Err(error) });
            let threads = threads
                .map_err(|error| Error::io("read the threads of", path.display(), error))?;
            pids.extend(threads.into_iter().filter_map(|thread| {
                let status = Status::from_file(format!("/proc/{thread}/status")).ok()?;
                Some(status.tgid)
            }));
        }
        Err(error) if is_gone(&error) => {}
        Err(error) => return Err(Error::io("read the processes of", path.display(), error)),
    }
    Ok(())
}

/// The numbers in cgroup.procs or cgroup.threads; 0 is a process that our pid namespace does
/// not show.
pub(super) fn read_ids(file: &Path) -> io::Result<Vec<i32>> {
    let text = fs::read_to_string(file)?;
    Ok(text.lines().filter_map(|line| line.parse().ok()).filter(|&id| id > 0).collect())
}

/// ENODEV is what an open file of a removed cgroup says.
pub(super) fn is_gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound
        || error.raw_os_error() == Some(Errno::NODEV.raw_os_error())
}

/// Visits all directories below `path`, parents first. What cannot be read is passed over:
/// cgroups come and go while the tree is walked.
pub(super) fn walk(path: &Path, visit: &mut dyn FnMut(&DirEntry)) {
    for entry in fs::read_dir(path).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            visit(&entry);
            walk(&entry.path(), visit);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_processes_of_a_subtree() {
        let tree = tempfile::tempdir().unwrap();
        fs::create_dir_all(tree.path().join("a/b")).unwrap();
        fs::create_dir_all(tree.path().join("vanishing")).unwrap();
        fs::write(tree.path().join("cgroup.procs"), "7\n0\n").unwrap();
        fs::write(tree.path().join("a/b/cgroup.procs"), "9\n8\n7\n").unwrap();
        assert_eq!(processes(tree.path()).unwrap(), [7, 8, 9]);
        assert_eq!(processes(&tree.path().join("none")).unwrap(), [0; 0]);
    }

    #[test]
    fn ids_of_what_is_gone() {
        let error = id(Path::new("/no/such/cgroup")).unwrap_err();
        assert_eq!(error.kind, ErrorKind::NoSuchTarget);
    }
}
