//! The handle on a running load generator.

use std::{net::SocketAddr, path::Path, process::Command, thread, time::Duration};

use super::{Birth, Report, Role, Totals};
use crate::process::{Place, Running, tool};

/// How long an end may take to do what it announces at once.
const PATIENCE: Duration = Duration::from_secs(5);

/// What a load generator shall do.
#[derive(Debug, Clone)]
pub struct Plan {
    words: Vec<String>,
}

impl Plan {
    fn new(end: &str, at: &impl ToString, role: Role) -> Self {
        let role = match role {
            Role::Send => "send",
            Role::Recv => "recv",
        };
        Self { words: vec![end.into(), at.to_string(), role.into()] }
    }

    /// Connect, then send or receive.
    pub fn connect(address: SocketAddr, role: Role) -> Self {
        Self::new("connect", &address, role)
    }

    /// Accept, then send or receive.
    pub fn accept(address: SocketAddr, role: Role) -> Self {
        Self::new("accept", &address, role)
    }

    /// Two processes accept from one listener.
    pub fn share(address: SocketAddr, role: Role) -> Self {
        Self::new("share", &address, role)
    }

    /// Take connections at this Unix socket.
    pub fn take(path: &Path, role: Role) -> Self {
        Self::new("take", &path.display(), role)
    }

    /// Serve HTTP.
    pub fn http(address: SocketAddr) -> Self {
        Self::new("http", &address, Role::Send)
    }

    fn with(mut self, option: impl Into<String>) -> Self {
        self.words.push(option.into());
        self
    }

    /// UDP instead of TCP.
    #[must_use]
    pub fn udp(self) -> Self {
        self.with("--udp")
    }

    /// QUIC instead of TCP.
    #[must_use]
    pub fn quic(self) -> Self {
        self.with("--quic")
    }

    /// MPTCP instead of TCP.
    #[must_use]
    pub fn mptcp(self) -> Self {
        self.with("--mptcp")
    }

    /// Asking and answering.
    #[must_use]
    pub fn echo(self) -> Self {
        self.with("--echo")
    }

    /// So many connections.
    #[must_use]
    pub fn flows(self, count: usize) -> Self {
        self.with(format!("--flows={count}"))
    }

    /// With this congestion control.
    #[must_use]
    pub fn congestion(self, name: &str) -> Self {
        self.with(format!("--congestion={name}"))
    }

    /// For so long; without it until [`Load::finish`].
    #[must_use]
    pub fn seconds(self, seconds: f64) -> Self {
        self.with(format!("--seconds={seconds}"))
    }

    /// With sockets made without `SOCK_CLOEXEC`.
    #[must_use]
    pub fn plain(self) -> Self {
        self.with("--plain")
    }

    /// Staying connected, but silent, after so long.
    #[must_use]
    pub fn idle_after(self, seconds: f64) -> Self {
        self.with(format!("--idle-after={seconds}"))
    }

    /// Offering so many Mbit/s.
    #[must_use]
    pub fn rate(self, mbit: f64) -> Self {
        self.with(format!("--rate={mbit}"))
    }

    /// With a pace that the application chose.
    #[must_use]
    pub fn pace(self, mbit: u64) -> Self {
        self.with(format!("--pace={mbit}"))
    }

    /// Beginning at [`Load::go`].
    #[must_use]
    pub fn wait(self) -> Self {
        self.with("--wait")
    }

    /// By a child process.
    #[must_use]
    pub fn child(self, birth: Birth) -> Self {
        self.with(match birth {
            Birth::Early => "--child=early",
            Birth::Late => "--child=late",
        })
    }

    /// Handing the connections over at this Unix socket.
    #[must_use]
    pub fn give(self, path: &Path) -> Self {
        self.with(format!("--give={}", path.display()))
    }

    /// The command line, for a COMMAND of chadthrottle.
    pub fn words(&self) -> Vec<String> {
        let program = tool("load").to_str().expect("a plain path").to_owned();
        [program].into_iter().chain(self.words.clone()).collect()
    }

    /// As a command in its place, not started.
    pub fn command(&self, place: &Place) -> Command {
        let mut command = place.command(tool("load"));
        command.args(&self.words);
        command
    }

    /// Starts it as an argument of another program, which must exec it.
    pub fn start_through(&self, place: &Place, program: &str, flags: &[&str]) -> Load {
        let mut command = place.command(program);
        command.args(flags).args(self.words());
        Load { running: Running::start(&mut command) }
    }

    /// Starts it; one that serves is ready when this returns.
    pub fn start(&self, place: &Place) -> Load {
        let load = Load { running: Running::start(&mut self.command(place)) };
        if ["accept", "share", "take", "http"].contains(&self.words[0].as_str())
            && !self.words.iter().any(|word| word == "--wait")
        {
            load.expect("listening socket", |report| matches!(report, Report::Listening));
        }
        load
    }
}

/// A running load generator. Dropping it kills it.
#[derive(Debug)]
pub struct Load {
    running: Running,
}

impl Load {
    /// Its pid.
    pub fn pid(&self) -> u32 {
        self.running.pid()
    }

    /// The process itself.
    pub fn running(&mut self) -> &mut Running {
        &mut self.running
    }

    fn expect(&self, what: &str, is_it: impl Fn(&Report) -> bool) -> Report {
        self.running.expect(what, PATIENCE, |line| parse(line).filter(&is_it))
    }

    /// Waits until all connections are there.
    pub fn wait_connected(&self) {
        self.expect("connection", |report| matches!(report, Report::Connected { .. }));
    }

    /// Waits until the connections are handed over.
    pub fn wait_given(&self) {
        self.expect("handing over", |report| matches!(report, Report::Given));
    }

    /// Waits until it is ready to [`Load::go`].
    pub fn wait_ready(&self) {
        self.expect("readiness", |report| matches!(report, Report::Waiting));
    }

    /// The processes that do the work for it: its child, or those that share a listener.
    pub fn workers(&self) -> Vec<u32> {
        match self.expect("children", |report| matches!(report, Report::Started { .. })) {
            Report::Started { pids } => pids,
            _ => unreachable!("asked for Started"),
        }
    }

    /// How many connections came in (HTTP), or transfers began.
    pub fn connections(&self) -> usize {
        let reports = self.reports();
        reports.iter().filter(|report| matches!(report, Report::Connected { .. })).count()
    }

    /// Tells one that waits to begin.
    pub fn go(&mut self) {
        self.running.tell("go");
    }

    fn reports(&self) -> Vec<Report> {
        self.running.stdout().iter().filter_map(|line| parse(line)).collect()
    }

    /// All bins so far, of all its processes in the order in which they came.
    pub fn bins(&self) -> Vec<u64> {
        self.bins_of(|_| true)
    }

    fn bins_of(&self, mine: impl Fn(u32) -> bool) -> Vec<u64> {
        let bytes = self.reports().into_iter().filter_map(|report| match report {
            Report::Bin { pid, bytes, .. } if mine(pid) => Some(bytes),
            _ => None,
        });
        bytes.collect()
    }

    /// How long each answer took so far, in milliseconds.
    pub fn answers(&self) -> Vec<f64> {
        let times = self.reports().into_iter().filter_map(|report| match report {
            Report::Answer { micros } => Some(micros as f64 / 1000.0),
            _ => None,
        });
        times.collect()
    }

    /// All bins so far with the time of their end, on the clock of [`super::now_ms`].
    pub fn timed_bins(&self) -> Vec<(u64, u64)> {
        let bins = self.reports().into_iter().filter_map(|report| match report {
            Report::Bin { at, bytes, .. } => Some((at, bytes)),
            _ => None,
        });
        bins.collect()
    }

    /// Lets it run for this time and returns the bins that began and ended within it.
    pub fn watch(&self, time: Duration) -> Vec<u64> {
        let before = self.bins().len();
        thread::sleep(time);
        // The first bin began before us.
        self.bins().split_off(before).into_iter().skip(1).collect()
    }

    /// The same for one of the processes that share a listener.
    pub fn watch_worker(&self, worker: u32, time: Duration) -> Vec<u64> {
        let before = self.bins_of(|pid| pid == worker).len();
        thread::sleep(time);
        self.bins_of(|pid| pid == worker).split_off(before).into_iter().skip(1).collect()
    }

    /// Ends it (or waits for its own end, when it has `seconds`) and returns what it did.
    pub fn finish(mut self, patience: Duration) -> Totals {
        self.running.close_stdin();
        let done = self.running.expect("end of the transfer", patience, |line| {
            parse(line).and_then(|report| match report {
                Report::Done(totals) => Some(totals),
                _ => None,
            })
        });
        self.running.wait(PATIENCE);
        done
    }
}

/// A line of other programs, mixed in, is no report.
fn parse(line: &str) -> Option<Report> {
    serde_json::from_str(line).ok()
}
