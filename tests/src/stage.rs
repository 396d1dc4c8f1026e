//! All that a case stands on, in one: a lab, scratch cgroups, a run directory, and what was
//! there before.
//!
//! ```text
//! ct-PID-N/apps    what is limited          in the near namespace
//! ct-PID-N/runner  chadthrottle             in the near namespace
//! ct-PID-N/world   the peers                in the far namespace
//! ```

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
    time::Duration,
};

use serde::{Deserialize, Serialize};
use serde_json::Value;
use tempfile::TempDir;

use crate::{
    cgroup::Cgroup,
    lab::Lab,
    leftovers::Snapshot,
    process::Place,
    run_once,
    throttle::{self, Throttle},
};

/// Which way the limited payload goes, as the target sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Direction {
    /// To the target.
    Download,
    /// From the target.
    Upload,
}

impl Direction {
    /// The flag of the command line.
    pub fn flag(self) -> &'static str {
        match self {
            Self::Download => "-d",
            Self::Upload => "-u",
        }
    }
}

/// See the module's documentation. [`Stage::end`] checks that nothing is left.
#[derive(Debug)]
pub struct Stage {
    /// The two namespaces.
    pub lab: Lab,
    /// Where the limited processes live.
    pub apps: Cgroup,
    runner: Cgroup,
    world: Cgroup,
    scratch: Cgroup,
    directory: TempDir,
    before: Snapshot,
    backend: String,
}

impl Stage {
    /// For one case on this backend, without added RTT.
    pub fn new(backend: &str) -> Self {
        Self::with_rtt(backend, Duration::ZERO)
    }

    /// The same with an RTT.
    pub fn with_rtt(backend: &str, rtt: Duration) -> Self {
        let lab = Lab::with_rtt(rtt);
        let scratch = Cgroup::new();
        let directory = tempfile::tempdir().expect("temporary directory");
        fs::create_dir(directory.path().join("run")).expect("run directory");
        Self {
            apps: scratch.child("apps"),
            runner: scratch.child("runner"),
            world: scratch.child("world"),
            before: Snapshot::take(&lab),
            backend: backend.to_owned(),
            lab,
            scratch,
            directory,
        }
    }

    /// The run directory of all instances of this case.
    pub fn run_dir(&self) -> PathBuf {
        self.directory.path().join("run")
    }

    /// A directory for files of the case.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// The cgroup that holds all others of this case.
    pub fn scratch(&self) -> &Cgroup {
        &self.scratch
    }

    /// The backend of this case.
    pub fn backend(&self) -> &str {
        &self.backend
    }

    /// For what is limited.
    pub fn near(&self) -> Place {
        self.lab.near.place().in_cgroup(&self.apps)
    }

    /// For its peers.
    pub fn far(&self) -> Place {
        self.lab.far.place().in_cgroup(&self.world)
    }

    /// For what nobody limits beside it, as deep in the hierarchy.
    pub fn bystander(&self) -> Place {
        self.lab.near.place().in_cgroup(&self.world)
    }

    /// For chadthrottle.
    pub fn runner(&self) -> Place {
        self.lab.near.place().in_cgroup(&self.runner)
    }

    /// For chadthrottle in the host's network namespace.
    pub fn host_runner(&self) -> Place {
        Place::default().in_cgroup(&self.runner)
    }

    /// `chadthrottle run` with these arguments, just started.
    pub fn start(&self, args: &[&str]) -> Throttle {
        Throttle::start(&self.runner(), &self.run_dir(), &self.backend, args)
    }

    /// The same behind a command that becomes what follows it.
    pub fn start_behind(&self, wrapper: &[&str], args: &[&str]) -> Throttle {
        let (runner, run_dir) = (self.runner(), self.run_dir());
        Throttle::start_behind(wrapper, &runner, &run_dir, &self.backend, args)
    }

    /// What `chadthrottle probe --json ARGS` says behind such a command, and its status.
    pub fn probe_behind(&self, wrapper: &[&str], args: &[&str]) -> (Value, i32) {
        let mut command = throttle::command_behind(wrapper, &self.runner(), &self.run_dir());
        let outcome = run_once::outcome(command.args(["probe", "--json"]).args(args));
        let report = serde_json::from_str(&outcome.stdout)
            .unwrap_or_else(|error| panic!("{error}: {outcome:#?}"));
        (report, outcome.status)
    }

    /// `chadthrottle run` with these arguments, enforced.
    pub fn run(&self, args: &[&str]) -> Throttle {
        let mut throttle = self.start(args);
        throttle.wait_enforced();
        throttle
    }

    /// The same from the host's network namespace.
    pub fn run_from_host(&self, args: &[&str]) -> Throttle {
        let mut throttle =
            Throttle::start(&self.host_runner(), &self.run_dir(), &self.backend, args);
        throttle.wait_enforced();
        throttle
    }

    /// A process limited to 10 Mbit/s in one direction.
    pub fn limit(&self, direction: Direction, pid: u32) -> Throttle {
        self.run(&[direction.flag(), "10mbit", "--pid", &pid.to_string()])
    }

    /// `chadthrottle` with these arguments, not started.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = throttle::command(&self.runner(), &self.run_dir());
        command.args(args);
        command
    }

    /// `chadthrottle` with these arguments, run to its end.
    pub fn output(&self, args: &[&str]) -> Output {
        self.command(args).output().expect("run chadthrottle")
    }

    /// Asserts that nothing is left, everything of the case still standing.
    pub fn assert_clean(&self) {
        self.before.assert_clean(&self.lab, self.scratch.path(), &self.run_dir());
    }

    /// What is left now, without patience.
    pub fn left(&self) -> Vec<String> {
        self.before.left(&self.lab, self.scratch.path(), &self.run_dir())
    }

    /// The end of a case: nothing may be left.
    pub fn end(self) {
        self.assert_clean();
    }
}
