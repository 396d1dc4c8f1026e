//! Working inside another network namespace.
//!
//! `sock_diag`, nft and tc see only the namespace of the thread that asks. [`run_in`] asks on a
//! helper thread that enters the namespace and ends afterwards: the calling thread never
//! changes namespace, so nothing can be left in the wrong one.

use std::{
    fmt, fs,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::fs::MetadataExt,
    },
    panic::resume_unwind,
    path::{Path, PathBuf},
    sync::Arc,
    thread,
};

use chadthrottle_core::{
    Error, ErrorKind, Host, Result, cgroup, check::Remedy, process::Process,
};
use rustix::{
    fs::{Mode, OFlags, fstat, open},
    io::Errno,
    thread::{LinkNameSpaceType, move_into_link_name_space},
};

/// A network namespace. It exists at least as long as this does.
#[derive(Debug, Clone)]
pub struct Netns {
    id: u64,
    fd: Arc<OwnedFd>,
}

impl Netns {
    /// The one of the calling thread.
    pub fn current() -> Result<Self> {
        Self::at(Path::new("/proc/thread-self/ns/net"))
    }

    /// The one of a process (of its main thread).
    pub fn of(host: &Host, process: &Process) -> Result<Self> {
        let netns = Self::of_pid(host, process.key.pid)?;
        if process.is_alive() {
            return Ok(netns);
        }
        // The path goes by pid, and that may have been another process already.
        Err(gone(process))
    }

    /// The one behind a namespace file, such as those of `ip netns` in /run/netns.
    pub fn at(path: &Path) -> Result<Self> {
        Self::open(path).map_err(|errno| match errno {
            Errno::NOENT | Errno::SRCH => gone(path.display()).because(errno),
            Errno::ACCESS | Errno::PERM => failed(path.display(), errno)
                .remedy(Remedy::GrantCapability("CAP_SYS_PTRACE".into())),
            _ => failed(path.display(), errno),
        })
    }

    /// The inode of the namespace file: unique while the namespace exists.
    #[must_use]
    pub fn id(&self) -> u64 {
        self.id
    }

    /// The one with this id, if something still names it: a process in it, or a mounted namespace
    /// file as those of `ip netns`. One that is kept by nothing but open descriptors is not found.
    pub fn find(host: &Host, id: u64) -> Result<Option<Self>> {
        let current = Self::current()?;
        if current.id == id {
            return Ok(Some(current));
        }
        let mounts = fs::read_to_string(host.proc.join("self/mountinfo")).unwrap_or_default();
        let mounted = mounts.lines().filter_map(|line| mounted_namespace(line, id));
        let processes = fs::read_dir(&host.proc).into_iter().flatten().flatten();
        let processes = processes.map(|entry| entry.path().join("ns/net"));
        // What a path names may have changed since it was listed.
        Ok(mounted.chain(processes).find_map(|path| {
            let named = fs::metadata(&path).is_ok_and(|data| data.ino() == id);
            if named { Self::open(&path).ok().filter(|netns| netns.id == id) } else { None }
        }))
    }

    fn of_pid(host: &Host, pid: i32) -> Result<Self> {
        Self::at(&host.proc.join(pid.to_string()).join("ns/net"))
    }

    fn open(path: &Path) -> Result<Self, Errno> {
        let fd = open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
        Ok(Self { id: fstat(&fd)?.st_ino, fd: Arc::new(fd) })
    }
}

impl AsFd for Netns {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl TryFrom<OwnedFd> for Netns {
    type Error = Errno;

    /// A descriptor that names a namespace, such as one that a guardian held.
    fn try_from(fd: OwnedFd) -> Result<Self, Errno> {
        Ok(Self { id: fstat(&fd)?.st_ino, fd: Arc::new(fd) })
    }
}

/// As readlink /proc/PID/ns/net spells it.
impl fmt::Display for Netns {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "net:[{}]", self.id)
    }
}

impl PartialEq for Netns {
    fn eq(&self, other: &Self) -> bool {
        self.id == other.id
    }
}

impl Eq for Netns {}

/// Runs `work` inside a namespace: on a helper thread, or right here when it is ours.
///
/// Needs `CAP_SYS_ADMIN` over the namespace. A panic in `work` goes on in the caller.
pub fn run_in<T: Send>(netns: &Netns, work: impl FnOnce() -> T + Send) -> Result<T> {
    if Netns::current()? == *netns {
        return Ok(work());
    }
    let entered = move || {
        move_into_link_name_space(netns.fd.as_fd(), Some(LinkNameSpaceType::Network))?;
        Ok(work())
    };
    thread::scope(|scope| {
        let helper = thread::Builder::new().name("netns".into()).spawn_scoped(scope, entered);
        let helper = helper.map_err(|error| Error::io("start a thread for", "netns", error))?;
        helper.join().unwrap_or_else(|panic| resume_unwind(panic)).map_err(|errno: Errno| {
            Error::io("enter the network namespace", netns, errno.into())
                .remedy(Remedy::GrantCapability("CAP_SYS_ADMIN".into()))
        })
    })
}

/// The namespaces of the processes in a cgroup and below it, each once. What ends meanwhile
/// is skipped.
pub fn of_cgroup(host: &Host, path: &Path) -> Result<Vec<Netns>> {
    let mut found: Vec<Netns> = Vec::new();
    for pid in cgroup::processes(path)? {
        match Netns::of_pid(host, pid) {
            Ok(netns) if found.contains(&netns) => {}
            Ok(netns) => found.push(netns),
            Err(error) if error.kind == ErrorKind::NoSuchTarget => {}
            Err(error) => return Err(error),
        }
    }
    Ok(found)
}

/// Where a line of mountinfo says that this namespace is mounted: "... net:[ID] /run/netns/x ...".
fn mounted_namespace(line: &str, id: u64) -> Option<PathBuf> {
    let mut fields = line.split(' ').skip(3);
    (fields.next()? == format!("net:[{id}]")).then(|| fields.next().map(PathBuf::from))?
}

fn failed(object: impl fmt::Display, errno: Errno) -> Error {
    Error::io("open the network namespace of", object, errno.into())
}

fn gone(object: impl fmt::Display) -> Error {
    Error::new(ErrorKind::NoSuchTarget, "open the network namespace of", object)
        .meaning("The process has ended, or the namespace was deleted.")
}
