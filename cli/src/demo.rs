//! `chadthrottle demo`: limits a short transfer of our own, to see with one's own eyes.
//!
//! The transfer must not be loopback, which is never limited, and must not need a network. So
//! it runs over a veth pair between two network namespaces: this process moves into one and
//! there does exactly what `chadthrottle run -d 10mbit -- RECEIVER` does; the sender's socket
//! was made in the other, and stays in it. The namespaces have no names: when their last
//! socket and process end, also by kill -9, the kernel removes them and the veth pair.

use std::{
    env,
    io::{self, Read, Write},
    net::{Ipv4Addr, TcpListener, TcpStream},
    process::Command,
    thread,
    time::{Duration, Instant},
};

use chadthrottle_core::{Error, ErrorKind, Rate, Result};
use nix::sched::{CloneFlags, unshare};
use rustix::thread::{Pid, gettid};

use crate::{
    args::{ReceiveArgs, RunArgs},
    exit::{Exit, Failure},
    log, run, units,
};

/// How long the transfer takes.
const DURATION: Duration = Duration::from_secs(5);
/// The limit: 10 Mbit/s.
const BYTES_PER_SECOND: u64 = 1_250_000;
/// The two ends, in a network that is reserved for documentation (RFC 5737).
const SENDER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const RECEIVER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);

/// Sends, limits, shows.
pub(crate) fn demo() -> Result<Exit, Failure> {
    let rate = Rate::from_bytes_per_second(BYTES_PER_SECOND).expect("within the bounds");
    log::say(format_args!(
        "A transfer between two network namespaces, its download limited to {rate}, for {} s:",
        DURATION.as_secs()
    ));
    unshare_network()?;
    let ours = gettid();
    let listener = thread::spawn(move || listen(ours)).join().expect("it does not panic")?;
    configure("receiver", RECEIVER)?;
    let address = listener.local_addr().map_err(|e| Error::io("find", "the sender", e))?;
    thread::spawn(move || send(&listener));

    let ourselves = env::current_exe().map_err(|e| Error::io("find", "this program", e))?;
    let command = vec![
        ourselves.into_os_string(),
        "__receive".into(),
        address.to_string().into(),
        format!("{}s", DURATION.as_secs()).into(),
        rate.to_string().into(),
    ];
    run::run(&RunArgs { download: Some(rate), command, ..RunArgs::default() })
}

/// Makes a network namespace, a veth pair between it and the one of the thread `peer`, and a
/// socket that listens in it. The thread that runs this must end: it stays in the namespace.
fn listen(peer: Pid) -> Result<TcpListener> {
    unshare_network()?;
    let peer = peer.to_string();
    ip(&["link", "add", "sender", "type", "veth", "peer", "name", "receiver", "netns", &peer])?;
    configure("sender", SENDER)?;
    TcpListener::bind((SENDER, 0)).map_err(|error| Error::io("listen on", SENDER, error))
}

/// Sends until the receiver has had enough.
fn send(listener: &TcpListener) {
    if let Ok((mut receiver, _)) = listener.accept() {
        // The expected end is an error: the receiver closes the connection.
        io::copy(&mut io::repeat(0), &mut receiver).unwrap_or_default();
    }
}

/// Moves this thread into a network namespace of its own.
fn unshare_network() -> Result<()> {
    unshare(CloneFlags::CLONE_NEWNET).map_err(|errno| {
        Error::io("make", "a network namespace", errno.into())
            .meaning("The demonstration runs between two of them.")
            .advice("Run it with sudo.")
    })
}

fn configure(device: &str, address: Ipv4Addr) -> Result<()> {
    ip(&["address", "add", &format!("{address}/24"), "dev", device])?;
    ip(&["link", "set", device, "up"])
}

/// Runs ip(8) in this thread's namespace.
fn ip(args: &[&str]) -> Result<()> {
    let command = format!("ip {}", args.join(" "));
    let status = Command::new("ip").args(args).status().map_err(|error| {
        Error::io("run", &command, error).advice("Install it: sudo apt install iproute2.")
    })?;
    if status.success() {
        return Ok(());
    }
    Err(Error::new(ErrorKind::Failed, "prepare the demonstration with", command)
        .meaning("Its own message is above."))
}

/// The receiving end: shows each second's rate, and at the end what was asked and what came.
pub(crate) fn receive(args: &ReceiveArgs) -> Result<Exit, Failure> {
    receive_from(args).map_err(|error| Error::io("receive from", args.sender, error))?;
    Ok(Exit::Done)
}

fn receive_from(args: &ReceiveArgs) -> io::Result<()> {
    /// A transfer that stands still this long has failed.
    const STALL: Duration = Duration::from_secs(5);
    let mut stdout = io::stdout();
    let mut sender = TcpStream::connect_timeout(&args.sender, STALL)?;
    sender.set_read_timeout(Some(STALL))?;

    let mut buffer = vec![0; 1 << 16];
    let started = Instant::now();
    let (mut total, mut second, mut shown) = (0, 0, started);
    while started.elapsed() < args.duration {
        let count = sender.read(&mut buffer)? as u64;
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        total += count;
        second += count;
        let elapsed = shown.elapsed();
        if elapsed >= Duration::from_secs(1) {
            writeln!(stdout, "  {}", units::rate(units::per_second(second, elapsed)))?;
            (second, shown) = (0, Instant::now());
        }
    }
    let got = units::rate(units::per_second(total, started.elapsed()));
    writeln!(stdout, "asked {}, got {got}", args.asked)
}
