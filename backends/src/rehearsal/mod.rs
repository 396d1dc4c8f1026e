//! A stage for trying things out: a scratch cgroup and two network namespaces with a veth pair
//! between them, in which real packets pass. Nothing of the host is touched.
//!
//! ```text
//! near namespace, scratch cgroup        far namespace, no cgroup of ours
//!   a UDP socket, 192.0.2.1   ── veth ──   a UDP socket, 192.0.2.2
//! ```
//!
//! A process of its own, the actor, is the program itself started again with [`ARGUMENT`]. It
//! alone lives in the scratch cgroup and holds both namespaces, which have no names: they are
//! gone when it ends. It ends when we do, also by kill -9, and takes the cgroup away with it;
//! should it be killed as well, an empty cgroup is left, which [`sweep`] removes at the next
//! rehearsal and in `clean`.

mod actor;
mod limit;
mod network;

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    net::Shutdown,
    os::{
        fd::OwnedFd,
        unix::{net::UnixStream, process::CommandExt},
    },
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    thread,
    time::{Duration, Instant},
};

use chadthrottle_core::{Error, ErrorKind, Host, Result, check::Remedy, process::Process};
use serde::{Deserialize, Serialize};

use crate::netns::Netns;

pub use actor::main;
pub use limit::rehearse;
pub use network::{FAR, NEAR, NEAR_DEVICE};

/// The hidden subcommand that must call [`main`] with the argument that follows.
pub const ARGUMENT: &str = "__rehearse";

/// What scratch cgroups are called; the pid of their owner and a number follow.
const PREFIX: &str = "chadthrottle-probe-";
/// How long any answer of the actor may take. It sets up in a few milliseconds.
const PATIENCE: Duration = Duration::from_secs(2);

/// Datagrams that arrived, of those that were sent in each direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Passed {
    /// From the scratch cgroup to the far side.
    pub up: u32,
    /// From the far side to the scratch cgroup.
    pub down: u32,
}

/// What we say to the actor. It answers each with a [`Reply`].
#[derive(Debug, Serialize, Deserialize)]
enum Request {
    /// Send so many datagrams each way.
    Exchange(u32),
    /// End at once; who says so removes the cgroup. No answer.
    End,
}

/// What the actor says.
#[derive(Debug, Serialize, Deserialize)]
enum Reply {
    /// All is set up; the directory for files is this one.
    Ready(PathBuf),
    /// What arrived.
    Passed(Passed),
    /// It could not.
    Failed { operation: String, object: String, errno: i32 },
}

/// A stage that is set up. Dropping it takes everything away.
#[derive(Debug)]
pub struct Rehearsal {
    actor: Child,
    channel: BufReader<UnixStream>,
    cgroup: Option<PathBuf>,
    directory: PathBuf,
    near: Netns,
}

impl Rehearsal {
    /// Sets it up; without a cgroup when the host has no cgroup v2.
    ///
    /// Needs `CAP_SYS_ADMIN` (namespaces), `CAP_NET_ADMIN` and the right to make a cgroup at
    /// the top of the hierarchy; of modules veth. Takes about 15 ms.
    pub fn open(host: &Host) -> Result<Self> {
        for path in sweep(host) {
            tracing::info!("removed the cgroup {} of a probe that was killed", path.display());
        }
        let cgroup = host.cgroups.as_ref().map(|cgroups| cgroups.mount.join(name()));
        let failed = |error| Error::io("start", "the rehearsal (/proc/self/exe)", error);
        let (ours, theirs) = UnixStream::pair().map_err(failed)?;
        ours.set_read_timeout(Some(PATIENCE)).map_err(failed)?;
        let actor = Command::new("/proc/self/exe")
            .arg0("chadthrottle: rehearsal")
            .arg(ARGUMENT)
            .args(cgroup.as_deref())
            .current_dir("/")
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .stdout(Stdio::null())
            .spawn()
            .map_err(failed)?;
        let (near, directory) = (Netns::current()?, PathBuf::new());
        let channel = BufReader::new(ours);
        let mut stage = Self { actor, channel, cgroup, directory, near };
        stage.directory = match stage.answer()? {
            Reply::Ready(directory) => directory,
            other => return Err(unexpected(&other)),
        };
        stage.near = Netns::at(&host.proc.join(stage.actor.id().to_string()).join("ns/net"))?;
        Ok(stage)
    }

    /// The scratch cgroup, at the top of the hierarchy; only the actor and its near socket live
    /// in it.
    #[must_use]
    pub fn cgroup(&self) -> Option<&Path> {
        self.cgroup.as_deref()
    }

    /// A directory of our own for files, such as a journal; removed with the stage.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// The network namespace of the near socket, in which [`NEAR_DEVICE`] is.
    #[must_use]
    pub fn netns(&self) -> &Netns {
        &self.near
    }

    /// The actor, which holds the near socket (and the far one, which is in another namespace
    /// and another cgroup).
    pub fn actor(&self, host: &Host) -> Result<Process> {
        Process::open(host, self.actor.id().cast_signed())
    }

    /// Sends so many datagrams of 64 bytes in each direction and counts what arrives, waiting
    /// for each at most 100 ms.
    pub fn exchange(&mut self, datagrams: u32) -> Result<Passed> {
        self.say(&Request::Exchange(datagrams))
            .map_err(|error| Error::io("speak to", "the rehearsal", error))?;
        match self.answer()? {
            Reply::Passed(passed) => Ok(passed),
            other => Err(unexpected(&other)),
        }
    }

    fn say(&mut self, request: &Request) -> std::io::Result<()> {
        let mut line = serde_json::to_string(request)?;
        line.push('\n');
        self.channel.get_mut().write_all(line.as_bytes())
    }

    fn answer(&mut self) -> Result<Reply> {
        let mut line = String::new();
        self.channel
            .read_line(&mut line)
            .map_err(|error| Error::io("hear from", "the rehearsal", error))?;
        let reply = serde_json::from_str(&line).map_err(|_| {
            Error::new(ErrorKind::Failed, "hear from", "the rehearsal")
                .meaning("Its process has ended.")
        })?;
        match reply {
            Reply::Failed { operation, object, errno } => {
                Err(refused(operation, object, errno))
            }
            reply => Ok(reply),
        }
    }
}

impl Drop for Rehearsal {
    fn drop(&mut self) {
        // A process leaves its cgroup by ending much sooner than by moving. One that does not
        // listen is told by the closed channel, and cleans up itself.
        let said = self.say(&Request::End);
        if let Err(error) = said.and_then(|()| self.channel.get_ref().shutdown(Shutdown::Write))
        {
            tracing::debug!("{error}");
        }
        let deadline = Instant::now() + PATIENCE;
        while let Ok(None) = self.actor.try_wait() {
            if Instant::now() >= deadline {
                tracing::warn!("the rehearsal ({}) does not end", self.actor.id());
                return;
            }
            thread::sleep(Duration::from_millis(1));
        }
        if let Some(cgroup) = &self.cgroup {
            actor::remove_soon(cgroup);
        }
    }
}

/// The scratch cgroups whose owner was killed. Most are gone in a moment: their actor is at it.
#[must_use]
pub fn abandoned(host: &Host) -> Vec<PathBuf> {
    let is_abandoned = |path: &PathBuf| {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let owner = name.strip_prefix(PREFIX).and_then(|rest| rest.split('-').next());
        owner.is_some_and(|pid| !host.proc.join(pid).exists())
    };
    host.cgroups
        .iter()
        .filter_map(|cgroups| fs::read_dir(&cgroups.mount).ok())
        .flat_map(|entries| entries.flatten().map(|entry| entry.path()))
        .filter(is_abandoned)
        .collect()
}

/// Removes the scratch cgroups whose owner and actor were both killed. Returns what it removed.
#[must_use]
pub fn sweep(host: &Host) -> Vec<PathBuf> {
    // One that an actor still cleans up is busy.
    abandoned(host).into_iter().filter(|path| actor::remove(path).is_ok()).collect()
}

/// `chadthrottle-probe-PID-N`
fn name() -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let number = COUNT.fetch_add(1, Ordering::Relaxed);
    format!("{PREFIX}{}-{number}", std::process::id())
}

fn refused(operation: String, object: String, errno: i32) -> Error {
    let error = Error::io(operation, object, std::io::Error::from_raw_os_error(errno));
    match errno {
        libc::EPERM | libc::EACCES => {
            error.remedy(Remedy::GrantCapability("CAP_SYS_ADMIN and CAP_NET_ADMIN".into()))
        }
        libc::EROFS => error
            .meaning("The cgroup tree is mounted read-only, as in most containers.")
            .advice("Run it outside the container."),
        libc::EOPNOTSUPP => error
            .meaning("The kernel has no veth devices.")
            .remedy(Remedy::LoadModule("veth".into())),
        _ => error,
    }
}

fn unexpected(reply: &Reply) -> Error {
    Error::new(ErrorKind::Failed, "understand", "the rehearsal")
        .meaning(format!("It said {reply:?}."))
}
