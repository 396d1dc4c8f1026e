//! Scratch cgroups (v2), removed with all that is in them.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering},
    thread,
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};

/// A cgroup of one test's own: `ct-PID-N` at the top of the cgroup v2 tree.
///
/// Dropping it kills what lives in it, by pid, and removes it and all below.
#[derive(Debug)]
pub struct Cgroup {
    path: PathBuf,
}

impl Cgroup {
    /// Makes one at the top of the tree.
    pub fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        Self::at(mount().join(format!("ct-{}-{number}", std::process::id())))
    }

    /// Makes one below this one.
    #[must_use]
    pub fn child(&self, name: &str) -> Self {
        Self::at(self.path.join(name))
    }

    fn at(path: PathBuf) -> Self {
        fs::create_dir(&path).unwrap_or_else(|e| panic!("make cgroup {}: {e}", path.display()));
        Self { path }
    }

    /// Its directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The pids in it, not those below.
    pub fn processes(&self) -> Vec<i32> {
        processes(&self.path)
    }

    /// Moves a process into it.
    pub fn add(&self, pid: u32) {
        fs::write(self.path.join("cgroup.procs"), pid.to_string())
            .unwrap_or_else(|e| panic!("move {pid} to {}: {e}", self.path.display()));
    }
}

impl Default for Cgroup {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        // A killed process leaves its cgroup a moment later.
        for _ in 0..100 {
            match remove(&self.path) {
                Ok(()) => return,
                Err(error) if error.kind() == io::ErrorKind::NotFound => return,
                Err(_) => thread::sleep(Duration::from_millis(20)),
            }
        }
        eprintln!("cgroup {} could not be removed", self.path.display());
    }
}

/// Where cgroup v2 is mounted: /sys/fs/cgroup, or /sys/fs/cgroup/unified on a hybrid host.
pub fn mount() -> PathBuf {
    let table = fs::read_to_string("/proc/self/mountinfo").expect("read mountinfo");
    table
        .lines()
        .find_map(|line| {
            let (left, right) = line.split_once(" - ")?;
            right.starts_with("cgroup2 ").then(|| left.split(' ').nth(4).map(PathBuf::from))?
        })
        .expect("cgroup v2 must be mounted for the tests")
}

/// All directories below `path`, without `path` itself.
pub fn below(path: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(path).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            found.push(entry.path());
            found.extend(below(&entry.path()));
        }
    }
    found
}

fn processes(path: &Path) -> Vec<i32> {
    let text = fs::read_to_string(path.join("cgroup.procs")).unwrap_or_default();
    text.lines().filter_map(|line| line.parse().ok()).collect()
}

/// Kills what is in `path` and below and removes the directories, deepest first.
fn remove(path: &Path) -> io::Result<()> {
    for child in fs::read_dir(path)?.flatten() {
        if child.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove(&child.path())?;
        }
    }
    for pid in processes(path).into_iter().filter_map(Pid::from_raw) {
        // It may have ended meanwhile; rmdir below tells whether anything is left.
        kill_process(pid, Signal::KILL).ok();
    }
    fs::remove_dir(path)
}
