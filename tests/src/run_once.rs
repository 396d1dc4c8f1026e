//! Runs of chadthrottle that end by themselves: their status and what they say.

use std::{
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use tempfile::TempDir;

use crate::{
    cgroup::Cgroup,
    process::{Place, Running, code},
    throttle,
};

/// How long a run that refuses, or runs a short command, may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// What a run came to.
#[derive(Debug)]
pub struct Outcome {
    /// Its exit status, 128 + n for a signal.
    pub status: i32,
    /// What it wrote to stdout.
    pub stdout: String,
    /// What it wrote to stderr.
    pub stderr: String,
}

impl Outcome {
    /// Asserts the status and that stderr holds all of these words.
    ///
    /// # Panics
    /// When it does not; shows all.
    #[track_caller]
    pub fn assert(&self, status: i32, words: &[&str]) {
        let missing = words.iter().find(|word| !self.stderr.contains(**word));
        assert!(self.status == status, "status {} instead of {status}\n{self:#?}", self.status);
        assert!(missing.is_none(), "does not say {missing:?}\n{self:#?}");
    }

    /// Asserts a refusal that explains itself: what failed, what it means, what to do.
    ///
    /// # Panics
    /// When it is something else.
    #[track_caller]
    pub fn assert_refused(&self, status: i32, words: &[&str]) {
        self.assert(status, words);
        let sentences = self.stderr.matches(". ").count() + 1;
        assert!(self.stderr.contains("cannot ") && sentences >= 3, "too terse\n{self:#?}");
        assert!(!self.stderr.contains("panicked"), "{self:#?}");
    }
}

/// A place without a network of its own to run chadthrottle in.
#[derive(Debug)]
pub struct Scene {
    /// Where chadthrottle and its targets live.
    pub cgroup: Cgroup,
    directory: TempDir,
}

impl Scene {
    /// Sets it up.
    pub fn new() -> Self {
        let directory = tempfile::tempdir().expect("temporary directory");
        Self { cgroup: Cgroup::new(), directory }
    }

    /// The run directory; it is made by whoever runs first.
    pub fn run_dir(&self) -> PathBuf {
        self.directory.path().join("run")
    }

    /// A directory for files.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// `chadthrottle ARGS`, not started.
    pub fn command(&self, args: &[&str]) -> Command {
        self.wrapped("exec \"$@\"", args)
    }

    /// `chadthrottle ARGS` within a shell script that ends with `exec "$@"`; `$RUN` is the
    /// run directory.
    pub fn wrapped(&self, script: &str, args: &[&str]) -> Command {
        let mut command = Place::default().in_cgroup(&self.cgroup).command("sh");
        command.args(["-euc", script, "sh"]).arg(throttle::binary()).args(args);
        command.env(throttle::RUN_DIR, self.run_dir()).env("RUN", self.run_dir());
        command
    }

    /// Runs `chadthrottle ARGS` to its end.
    pub fn run(&self, args: &[&str]) -> Outcome {
        outcome(&mut self.command(args))
    }

    /// Runs a wrapped `chadthrottle` to its end.
    pub fn run_wrapped(&self, script: &str, args: &[&str]) -> Outcome {
        outcome(&mut self.wrapped(script, args))
    }

    /// A process to point at.
    pub fn sleeper(&self) -> Running {
        let mut sleep = Place::default().in_cgroup(&self.cgroup).command("sleep");
        Running::start(sleep.arg("60"))
    }

    /// Asserts that no process, no run file and no cgroup is left.
    ///
    /// # Panics
    /// When there is one.
    #[track_caller]
    pub fn assert_clean(&self) {
        let mut left = Vec::new();
        let clean = crate::process::eventually(Duration::from_secs(2), || {
            left.clear();
            let files = crate::leftovers::run_files(&self.run_dir());
            left.extend(files.iter().map(|path| format!("{}", path.display())));
            let processes = throttle::processes_of(&self.run_dir());
            left.extend(processes.iter().map(|pid| format!("process {pid}")));
            let cgroups = crate::cgroup::below(self.cgroup.path());
            left.extend(cgroups.iter().map(|path| format!("{}", path.display())));
            left.is_empty()
        });
        assert!(clean, "left behind: {left:#?}");
    }
}

impl Default for Scene {
    fn default() -> Self {
        Self::new()
    }
}

/// Runs a command to its end.
pub fn outcome(command: &mut Command) -> Outcome {
    let mut running = Running::start(command);
    running.close_stdin();
    let status = code(running.wait(PATIENCE));
    Outcome { status, stdout: running.stdout().join("\n"), stderr: running.stderr() }
}
