//! A process that cannot be mistaken for another one with the same pid.

use std::{
    collections::{HashMap, HashSet},
    fmt,
    fs::{self, File},
    io::Read,
    os::fd::OwnedFd,
    sync::Arc,
};

use procfs::{
    FromRead,
    process::{Stat, StatFlags, Status},
};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::{Errno, retry_on_intr},
    process::{Pid, PidfdFlags, pidfd_open},
};
use serde::{Deserialize, Serialize};

use crate::{
    error::{Error, ErrorKind, Result},
    host::Host,
};

/// A pid and the time it started: names a process for ever.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ProcessKey {
    /// Process id (tgid) in our pid namespace.
    pub pid: i32,
    /// Field 22 of /proc/PID/stat: clock ticks after boot.
    pub start_time: u64,
}

/// An open process: pidfd and key.
#[derive(Debug, Clone)]
pub struct Process {
    /// Who it is.
    pub key: ProcessKey,
    /// /proc/PID/comm when it was opened.
    pub name: String,
    pidfd: Arc<OwnedFd>,
}

impl Process {
    /// Opens a running process. No such pid, a thread, a zombie and a kernel thread are refused.
    pub fn open(host: &Host, pid: i32) -> Result<Self> {
        let error = |kind, meaning: String| {
            Error::new(kind, "limit", format!("process {pid}")).meaning(meaning)
        };
        let ended = || error(ErrorKind::NoSuchTarget, "The process has ended.".to_owned());

        let Some(id) = Some(pid).filter(|&pid| pid > 0).and_then(Pid::from_raw) else {
            return Err(error(ErrorKind::Usage, "A pid is a positive number.".to_owned()));
        };
        let pidfd = match pidfd_open(id, PidfdFlags::empty()) {
            Ok(pidfd) => pidfd,
            Err(Errno::SRCH) => {
                return Err(error(
                    ErrorKind::NoSuchTarget,
                    "There is no such process.".to_owned(),
                )
                .because(Errno::SRCH)
                .advice("List the processes with: ps -e."));
            }
            // Which errno a thread gives depends on the kernel; Tgid tells it for sure.
            Err(errno) => {
                return Err(match tgid(host, pid) {
                    Some(owner) if owner != pid => error(
                        ErrorKind::Usage,
                        format!("{pid} is a thread of process {owner}."),
                    )
                    .advice(format!("Use --pid {owner}.")),
                    _ => Error::io("open", format!("process {pid}"), errno.into()),
                });
            }
        };
        // From here on the pid cannot be given to another process unless this one ends, and
        // that is looked at last.
        let stat = stat(host, pid);
        if has_ended(&pidfd) {
            return Err(ended());
        }
        let stat = stat.ok_or_else(|| {
            error(ErrorKind::NotPermitted, "Its entry in /proc is hidden from us.".to_owned())
                .advice("Run it with sudo, or without hidepid on /proc.")
        })?;
        if StatFlags::from_bits_truncate(stat.flags).contains(StatFlags::PF_KTHREAD) {
            return Err(error(
                ErrorKind::Usage,
                format!(
                    "{} is a thread of the kernel; it has no sockets of its own.",
                    stat.comm
                ),
            )
            .advice("Choose a process of a program."));
        }
        let key = ProcessKey { pid, start_time: stat.starttime };
        Ok(Self { key, name: stat.comm, pidfd: Arc::new(pidfd) })
    }

    /// Opens it again by key, `None` when it has ended (also when the pid is reused).
    #[must_use]
    pub fn reopen(host: &Host, key: ProcessKey) -> Option<Self> {
        Self::open(host, key.pid).ok().filter(|process| process.key == key)
    }

    /// The pidfd: readable once the process has ended (poll).
    #[must_use]
    pub fn pidfd(&self) -> &OwnedFd {
        &self.pidfd
    }

    /// Whether it still runs.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        !has_ended(&self.pidfd)
    }

    /// Its children and theirs, as they are now; not the process itself.
    #[must_use]
    pub fn children(&self, host: &Host) -> Vec<ProcessKey> {
        children(host, &[self.key.pid])
    }
}

impl fmt::Display for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.key.pid, self.name)
    }
}

impl ProcessKey {
    /// The key of whoever has this pid now.
    #[must_use]
    pub fn of(host: &Host, pid: i32) -> Option<Self> {
        stat(host, pid).map(|stat| Self { pid, start_time: stat.starttime })
    }

    /// Whether this very process still exists (a zombie does).
    #[must_use]
    pub fn exists(self, host: &Host) -> bool {
        Self::of(host, self.pid) == Some(self)
    }
}

/// The children of these processes, their children and so on, by one pass over /proc. A child
/// whose parent has ended belongs to init and is not found.
#[must_use]
pub fn children(host: &Host, roots: &[i32]) -> Vec<ProcessKey> {
    let mut by_parent: HashMap<i32, Vec<ProcessKey>> = HashMap::new();
    for stat in all_stats(host) {
        let key = ProcessKey { pid: stat.pid, start_time: stat.starttime };
        by_parent.entry(stat.ppid).or_default().push(key);
    }
    // Pids may be reused while /proc is read: `seen` keeps a cycle from running for ever.
    let mut seen: HashSet<i32> = roots.iter().copied().collect();
    let mut open: Vec<i32> = roots.to_vec();
    let mut found = Vec::new();
    while let Some(parent) = open.pop() {
        for &child in by_parent.get(&parent).into_iter().flatten() {
            if seen.insert(child.pid) {
                open.push(child.pid);
                found.push(child);
            }
        }
    }
    found
}

/// What /proc/PID/comm says.
#[must_use]
pub fn name(host: &Host, pid: i32) -> Option<String> {
    stat(host, pid).map(|stat| stat.comm)
}

/// The process that a process or thread id belongs to.
#[must_use]
pub fn tgid(host: &Host, pid: i32) -> Option<i32> {
    let path = host.proc.join(pid.to_string()).join("status");
    Status::from_file(path).ok().map(|status| status.tgid)
}

fn stat(host: &Host, pid: i32) -> Option<Stat> {
    /// More than 52 numbers and a name take.
    const LINE: usize = 2048;
    let mut line = [0; LINE];
    // One read: all of /proc is looked through like this, and to ask for sizes first takes longer.
    let mut file = File::open(host.proc.join(pid.to_string()).join("stat")).ok()?;
    let length = file.read(&mut line).ok()?;
    Stat::from_read(&line[..length]).ok()
}

/// What ends meanwhile is left out.
fn all_stats(host: &Host) -> impl Iterator<Item = Stat> {
    fs::read_dir(&host.proc)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok())
        .filter_map(|pid| stat(host, pid))
}

/// A pidfd is readable once the process, all its threads included, has ended.
fn has_ended(pidfd: &OwnedFd) -> bool {
    let mut fds = [PollFd::new(pidfd, PollFlags::IN)];
    let now = Timespec::default();
    retry_on_intr(|| poll(&mut fds, Some(&now))).is_ok_and(|count| count > 0)
}

#[cfg(test)]
mod tests {
    use std::process::{Child, Command};

    use super::*;

    fn host() -> Host {
        Host::detect().unwrap()
    }

    fn sleeper() -> Child {
        Command::new("sleep").arg("60").spawn().unwrap()
    }

    fn pid(child: &Child) -> i32 {
        i32::try_from(child.id()).unwrap()
    }

    #[test]
    fn opens_and_sees_the_end() {
        let host = host();
        let mut child = sleeper();
        let process = Process::open(&host, pid(&child)).unwrap();
        assert!(process.is_alive());
        assert!(Process::reopen(&host, process.key).is_some());
        let other = ProcessKey { start_time: process.key.start_time + 1, ..process.key };
        assert!(
            Process::reopen(&host, other).is_none(),
            "a reused pid was taken for the old one"
        );
        child.kill().unwrap();
        while process.is_alive() {
            std::thread::yield_now();
        }
        // Not yet waited for: a zombie.
        let error = Process::open(&host, process.key.pid).unwrap_err();
        assert_eq!(error.kind, ErrorKind::NoSuchTarget, "{error}");
        child.wait().unwrap();
        let error = Process::open(&host, process.key.pid).unwrap_err();
        assert_eq!(error.kind, ErrorKind::NoSuchTarget, "{error}");
        assert_eq!(error.errno(), 3);
    }

    #[test]
    fn refuses_what_is_no_pid() {
        for pid in [0, -1, i32::MIN] {
            assert_eq!(Process::open(&host(), pid).unwrap_err().kind, ErrorKind::Usage);
        }
        let error = Process::open(&host(), i32::MAX).unwrap_err();
        assert_eq!(error.kind, ErrorKind::NoSuchTarget);
    }

    #[test]
    fn refuses_a_thread_and_names_its_process() {
        let own = i32::try_from(std::process::id()).unwrap();
        let thread = std::thread::spawn(move || {
            let id = rustix::thread::gettid().as_raw_nonzero().get();
            Process::open(&host(), id).unwrap_err()
        });
        let error = thread.join().unwrap();
        assert_eq!(error.kind, ErrorKind::Usage);
        assert!(error.to_string().contains(&format!("--pid {own}")), "{error}");
    }

    #[test]
    fn finds_children_of_children() {
        let host = host();
        let own = i32::try_from(std::process::id()).unwrap();
        let mut child = Command::new("sh").args(["-c", "sleep 60 & wait"]).spawn().unwrap();
        let grandchild = loop {
            match children(&host, &[pid(&child)]).first() {
                Some(key) => break *key,
                None => std::thread::yield_now(),
            }
        };
        assert!(children(&host, &[own]).contains(&grandchild));
        let grandchild = Process::reopen(&host, grandchild).unwrap();
        rustix::process::pidfd_send_signal(grandchild.pidfd(), rustix::process::Signal::KILL)
            .unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }

    #[test]
    fn refuses_a_kernel_thread() {
        // kthreadd is 2 in the initial pid namespace; elsewhere no kernel thread is visible.
        if !host().in_initial_pid_namespace() || ProcessKey::of(&host(), 2).is_none() {
            eprintln!("SKIPPED: no kernel thread to be seen in this pid namespace");
            return;
        }
        let error = Process::open(&host(), 2).unwrap_err();
        assert!(error.to_string().contains("thread of the kernel"), "{error}");
    }
}
