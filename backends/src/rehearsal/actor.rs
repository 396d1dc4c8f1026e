//! The process that lives in the scratch cgroup and moves the packets.

use std::{
    fmt, fs,
    io::{self, BufRead, BufReader, Write},
    net::UdpSocket,
    os::{fd::AsFd, unix::net::UnixStream},
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use chadthrottle_core::{Error, Host, Result, cgroup};
use nix::sched::{CloneFlags, unshare};
use tempfile::TempDir;

use super::{FAR, NEAR, Passed, Reply, Request, network};
use crate::rtnetlink::Refusal;

/// How long one datagram may take.
pub(super) const PATIENCE: Duration = Duration::from_millis(100);
/// How long a veth pair may take until it carries packets: the link watcher runs at least once a
/// second (`net/core/link_watch.c`).
const PRIMED: Duration = Duration::from_millis(1500);
/// How long a guardian may take to take back what was done on the stage.
const LAST_PATIENCE: Duration = Duration::from_secs(3);
/// The size of a datagram.
const PAYLOAD: [u8; 64] = [0x5a; 64];

/// What the hidden subcommand does: sets the stage up, in `cgroup` if there is one, serves
/// requests on stdin until the other side is gone, takes everything away.
pub fn main(cgroup: Option<&Path>) -> Result<()> {
    let channel = io::stdin().as_fd().try_clone_to_owned().map(UnixStream::from);
    let channel = channel.map_err(|error| Error::io("take over", "the rehearsal", error))?;
    // No terminal signals us: whoever started us ends us.
    if let Err(errno) = rustix::process::setsid() {
        tracing::debug!("setsid: {errno}");
    }
    let home = home();
    let staged = stage(cgroup);
    let reply = match &staged {
        Ok(stage) => Reply::Ready(stage.directory.path().to_owned()),
        Err(failure) => failure.reply(),
    };
    if say(&channel, &reply).is_ok()
        && let Ok(stage) = &staged
    {
        if serve(&channel, stage) == End::Asked {
            return Ok(());
        }
        // A guardian takes back first what the other side did with our stage.
        eventually(|| is_unused(stage.directory.path()));
    }
    if let Some(cgroup) = cgroup {
        leave(cgroup, home.as_deref());
    }
    Ok(())
}

/// The two sockets, and a directory for files.
struct Stage {
    near: UdpSocket,
    far: UdpSocket,
    directory: TempDir,
}

/// What could not be set up.
struct Failure {
    operation: &'static str,
    object: String,
    errno: i32,
}

impl Failure {
    fn new(operation: &'static str, object: impl fmt::Display, error: &io::Error) -> Self {
        let errno = error.raw_os_error().unwrap_or(0);
        Self { operation, object: object.to_string(), errno }
    }

    fn reply(&self) -> Reply {
        let Self { operation, object, errno } = self;
        Reply::Failed {
            operation: (*operation).to_owned(),
            object: object.clone(),
            errno: *errno,
        }
    }
}

fn stage(cgroup: Option<&Path>) -> Result<Stage, Failure> {
    let directory = tempfile::Builder::new().prefix("chadthrottle-probe-").tempdir();
    let directory =
        directory.map_err(|e| Failure::new("create", "a temporary directory", &e))?;
    unshare_network()?;
    let near =
        network::current().map_err(|e| Failure::new("open", "a network namespace", &e))?;
    // A socket stays where it was made: this one in the far namespace, outside the cgroup.
    let far = thread::scope(|scope| scope.spawn(|| far_end(near.as_fd())).join())
        .unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
    network::configure(NEAR).map_err(|refusal| wiring(&refusal))?;
    if let Some(cgroup) = cgroup {
        fs::create_dir(cgroup)
            .map_err(|error| Failure::new("create cgroup", cgroup.display(), &error))?;
        enter(cgroup)
            .map_err(|error| Failure::new("enter cgroup", cgroup.display(), &error))?;
    }
    let near = network::socket(NEAR).map_err(|e| Failure::new("open a socket at", NEAR, &e))?;
    let address = |socket: &UdpSocket| socket.local_addr();
    let connected = address(&far)
        .and_then(|far| near.connect(far))
        .and_then(|()| address(&near))
        .and_then(|near| far.connect(near));
    connected.map_err(|error| Failure::new("connect", "the sockets", &error))?;
    prime(&far, &near)
        .and_then(|()| prime(&near, &far))
        .map_err(|error| Failure::new("send through", "the veth pair", &error))?;
    Ok(Stage { near, far, directory })
}

fn far_end(near: std::os::fd::BorrowedFd<'_>) -> Result<UdpSocket, Failure> {
    unshare_network()?;
    network::wire(near)
        .and_then(|()| network::configure(FAR))
        .map_err(|refusal| wiring(&refusal))?;
    network::socket(FAR).map_err(|error| Failure::new("open a socket at", FAR, &error))
}

fn wiring(refusal: &Refusal) -> Failure {
    Failure { operation: "make", object: "a veth pair".to_owned(), errno: refusal.code() }
}

fn unshare_network() -> Result<(), Failure> {
    unshare(CloneFlags::CLONE_NEWNET)
        .map_err(|errno| Failure::new("make", "a network namespace", &errno.into()))?;
    // An address that is asked for in vain is asked for again after a second otherwise.
    let retry = "/proc/sys/net/ipv4/neigh/default/retrans_time_ms";
    if let Err(error) = fs::write(retry, "5") {
        tracing::debug!("{retry}: {error}");
    }
    Ok(())
}

/// Sends until something arrives. A device that has just got its carrier drops packets until the
/// kernel's link watcher has set it going; nothing says when that is.
fn prime(from: &UdpSocket, to: &UdpSocket) -> io::Result<()> {
    let mut buffer = [0; PAYLOAD.len()];
    to.set_read_timeout(Some(Duration::from_millis(2)))?;
    let deadline = Instant::now() + PRIMED;
    loop {
        from.send(&PAYLOAD)?;
        match to.recv(&mut buffer) {
            Ok(_) => break,
            Err(error) if Instant::now() >= deadline => return Err(error),
            Err(_) => {}
        }
    }
    // What was held back meanwhile is not to be counted later.
    while to.recv(&mut buffer).is_ok() {}
    to.set_read_timeout(Some(PATIENCE))
}

/// Moves this process; 0 means the writer (cgroups(7)).
fn enter(cgroup: &Path) -> io::Result<()> {
    fs::write(cgroup.join("cgroup.procs"), "0")
}

/// Why nobody asks any more.
#[derive(PartialEq, Eq)]
enum End {
    /// It was said.
    Asked,
    /// The other side is gone.
    Died,
}

/// Answers until nobody asks any more.
fn serve(channel: &UnixStream, stage: &Stage) -> End {
    let mut lines = BufReader::new(channel).lines();
    while let Some(Ok(line)) = lines.next() {
        let datagrams = match serde_json::from_str(&line) {
            Ok(Request::Exchange(datagrams)) => datagrams,
            Ok(Request::End) => return End::Asked,
            Err(_) => return End::Died,
        };
        let passed = Passed {
            up: send(&stage.near, &stage.far, datagrams),
            down: send(&stage.far, &stage.near, datagrams),
        };
        if say(channel, &Reply::Passed(passed)).is_err() {
            break;
        }
    }
    End::Died
}

/// How many of so many datagrams arrive.
fn send(from: &UdpSocket, to: &UdpSocket, datagrams: u32) -> u32 {
    let mut buffer = [0; PAYLOAD.len()];
    let mut arrived = 0;
    for _ in 0..datagrams {
        // One that is refused (EPERM) does not arrive: that is what is counted.
        let received = from.send(&PAYLOAD).and_then(|_| to.recv(&mut buffer));
        arrived += u32::from(received.is_ok());
    }
    arrived
}

fn say(mut channel: &UnixStream, reply: &Reply) -> io::Result<()> {
    let mut line = serde_json::to_string(reply)?;
    line.push('\n');
    channel.write_all(line.as_bytes())
}

/// Our own cgroup before the rehearsal.
fn home() -> Option<PathBuf> {
    Host::detect().and_then(|host| cgroup::own(&host)).ok()
}

/// Leaves the cgroup and removes it with all below.
fn leave(cgroup: &Path, home: Option<&Path>) {
    // Home may take no processes any more; the top of the hierarchy always does.
    let places = home.into_iter().chain(cgroup.parent());
    if !cgroup.exists() || !places.map(enter).any(|entered| entered.is_ok()) {
        return;
    }
    remove_soon(cgroup);
}

/// Removes it as soon as nothing is left in it.
pub(super) fn remove_soon(cgroup: &Path) {
    eventually(|| remove(cgroup).is_ok() || !cgroup.exists());
}

/// Waits until it holds, for as long as that makes sense.
fn eventually(mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + LAST_PATIENCE;
    while !holds() && Instant::now() < deadline {
        thread::sleep(Duration::from_millis(2));
    }
}

/// Whether no journal lies in the directory; its lock file stays.
fn is_unused(directory: &Path) -> bool {
    fs::read_dir(directory)
        .into_iter()
        .flatten()
        .flatten()
        .all(|entry| entry.path().extension().is_none_or(|extension| extension != "journal"))
}

/// Removes an unused cgroup and those below it.
pub(super) fn remove(cgroup: &Path) -> io::Result<()> {
    for entry in fs::read_dir(cgroup)?.flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove(&entry.path())?;
        }
    }
    fs::remove_dir(cgroup)
}
