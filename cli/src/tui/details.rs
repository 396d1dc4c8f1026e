//! A closer look at one process: its connections, and where it belongs.

use std::{
    collections::HashMap,
    fs,
    path::{Path, PathBuf},
    time::Instant,
};

use chadthrottle_backends::{
    meter::Sample,
    netns::{self, Netns},
    sockets::{self, Connection},
};
use chadthrottle_core::{Host, Result, process::Process};

use super::model::{Details, Flow, Pair};
use crate::units;

/// Bytes received and sent, by cookie.
type Moved = HashMap<u64, (u64, u64)>;

/// Watches one process.
pub(super) struct Watch {
    pid: i32,
    /// What each connection had moved at the last look, and when that was.
    before: Option<(Instant, Moved)>,
    flows: Vec<Flow>,
}

impl Watch {
    pub(super) fn new(pid: i32) -> Self {
        Self { pid, before: None, flows: Vec::new() }
    }

    pub(super) fn look(&mut self, host: &Host, sample: &Sample) -> Details {
        let read =
            |what| fs::read(host.proc.join(format!("{}/{what}", self.pid))).unwrap_or_default();
        let command = read("cmdline");
        let words: Vec<_> = command
            .split(|&byte| byte == 0)
            .filter(|word| !word.is_empty())
            .map(String::from_utf8_lossy)
            .collect();
        let command = words.join(" ");
        let cgroups = String::from_utf8_lossy(&read("cgroup")).into_owned();
        let cgroup = cgroups.lines().find_map(|line| line.strip_prefix("0::")).unwrap_or("");
        let (cgroup, unit) =
            (cgroup.to_owned(), unit_of(Path::new(cgroup)).map(|(name, _)| name));
        let problem = match connections(host, self.pid) {
            Ok(connections) => {
                self.compare(connections, sample);
                None
            }
            Err(error) => Some(error.to_string()),
        };
        let connections = self.flows.clone();
        Details { pid: self.pid, command, cgroup, unit, connections, problem }
    }

    /// What the meter counts of a socket; else what TCP says.
    fn compare(&mut self, connections: Vec<Connection>, sample: &Sample) {
        let tallies: Moved = sample
            .sockets(self.pid)
            .iter()
            .map(|tally| (tally.cookie, (tally.received, tally.sent)))
            .collect();
        let time = self.before.as_ref().map(|(at, _)| sample.at - *at);
        let rate = |cookie| {
            let now = tallies.get(&cookie)?;
            let (_, before) = self.before.as_ref()?;
            let before = before.get(&cookie).copied().unwrap_or_default();
            Some(Pair {
                down: units::per_second(now.0.saturating_sub(before.0), time?),
                up: units::per_second(now.1.saturating_sub(before.1), time?),
            })
        };
        let mut flows: Vec<Flow> = connections
            .into_iter()
            .filter(|connection| tallies.contains_key(&connection.socket.cookie))
            .map(|connection| {
                let rate = rate(connection.socket.cookie).unwrap_or_default();
                Flow { connection, rate }
            })
            .collect();
        flows.sort_by_key(|flow| {
            (std::cmp::Reverse(flow.rate.sum()), flow.connection.socket.cookie)
        });
        // Asked again between two samples, the last rates stand.
        if time.is_none_or(|time| !time.is_zero()) {
            self.flows = flows;
            self.before = Some((sample.at, tallies));
        }
    }
}

/// All sockets of the network namespace that the process is in.
fn connections(host: &Host, pid: i32) -> Result<Vec<Connection>> {
    let Ok(process) = Process::open(host, pid) else { return sockets::connections() };
    match Netns::of(host, &process) {
        Ok(netns) => netns::run_in(&netns, sockets::connections)?,
        // Without privileges: our own is the likely one.
        Err(_) => sockets::connections(),
    }
}

/// The systemd unit that a cgroup belongs to, and the unit's own cgroup: the deepest part of
/// the path that is called like one.
pub(super) fn unit_of(cgroup: &Path) -> Option<(String, PathBuf)> {
    cgroup.ancestors().find_map(|path| {
        let name = path.file_name()?.to_str()?;
        let is_unit = [".service", ".scope", ".socket", ".mount", ".swap"]
            .iter()
            .any(|suffix| name.ends_with(suffix));
        is_unit.then(|| (name.to_owned(), path.to_owned()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units() {
        for (cgroup, unit) in [
            ("/system.slice/nginx.service", Some("nginx.service")),
            ("/user.slice/user-1.slice/user@1.service/app.slice/a.scope/x", Some("a.scope")),
            ("/user.slice", None),
            ("/", None),
        ] {
            assert_eq!(unit_of(Path::new(cgroup)).map(|found| found.0).as_deref(), unit);
        }
    }
}
