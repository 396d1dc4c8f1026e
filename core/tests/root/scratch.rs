//! A cgroup, a run directory and processes of a case's own, gone when it ends.

use std::{
    fs,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, ChildStdout, Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    thread,
    time::{Duration, Instant},
};

use chadthrottle_core::{Host, cgroup, host::RUN_DIR_VARIABLE};
use rustix::{
    io::Errno,
    process::{Pid, Signal, kill_process},
};
use tempfile::TempDir;

use crate::instance;

/// Why the cases cannot run here at all.
pub(crate) fn what_is_missing() -> Option<String> {
    if !rustix::process::geteuid().is_root() {
        return Some("not root".to_owned());
    }
    Host::detect().expect("look at this machine").cgroups().err().map(|error| error.to_string())
}

pub(crate) struct Scratch {
    /// With a run directory of its own.
    pub(crate) host: Host,
    /// A cgroup of its own.
    pub(crate) cgroup: PathBuf,
    /// For files.
    pub(crate) directory: TempDir,
}

impl Scratch {
    pub(crate) fn new() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let directory = tempfile::tempdir().unwrap();
        let mut host = Host::detect().unwrap();
        host.run = directory.path().join("run");
        let name = format!("core-test-{}-{number}", std::process::id());
        let cgroup = host.cgroups().unwrap().mount.join(name);
        fs::create_dir(&cgroup).unwrap();
        Self { host, cgroup, directory }
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Starts a run in miniature and waits until it has done its steps.
    pub(crate) fn run(&self, steps: &[&str]) -> Run {
        self.run_by(Command::new("/proc/self/exe"), steps)
    }

    /// The same with a command in front, such as unshare.
    pub(crate) fn run_by(&self, command: Command, steps: &[&str]) -> Run {
        let mut run = self.start(command, steps);
        assert_eq!(run.line(), "ready");
        run
    }

    /// The same without waiting.
    pub(crate) fn start(&self, mut command: Command, steps: &[&str]) -> Run {
        let mut child = command
            .arg(instance::ARGUMENT)
            .args(steps)
            .env(RUN_DIR_VARIABLE, &self.host.run)
            .env(instance::CGROUP_VARIABLE, &self.cgroup)
            .env(instance::LOG_VARIABLE, self.file("undone"))
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        Run { child, output }
    }

    /// A process in the scratch cgroup.
    pub(crate) fn process(&self, script: &str) -> Process {
        let procs = self.cgroup.join("cgroup.procs");
        let script = format!("echo $$ > {}; {script}", procs.display());
        let child = Command::new("sh").args(["-c", &script]).spawn().unwrap();
        let process = Process(child);
        wait_for("the process to be in its cgroup", || {
            cgroup::processes(&self.cgroup).unwrap().contains(&process.pid())
        });
        process
    }

    pub(crate) fn undone(&self) -> Vec<String> {
        let log = fs::read_to_string(self.file("undone")).unwrap_or_default();
        log.lines().map(str::to_owned).collect()
    }

    pub(crate) fn journals(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(&self.host.run).into_iter().flatten().flatten();
        let paths = entries.map(|entry| entry.path());
        paths.filter(|path| path.extension().is_some_and(|end| end == "journal")).collect()
    }

    pub(crate) fn leaves(&self) -> Vec<PathBuf> {
        directories(&self.cgroup)
    }

    /// Waits for the guardian to have put everything back.
    pub(crate) fn wait_until_clean(&self) {
        wait_for("leaves and journals to be gone", || {
            self.leaves().is_empty() && self.journals().is_empty()
        });
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // What a killed shell has left in our cgroup.
        for pid in cgroup::processes(&self.cgroup).unwrap() {
            let pid = Pid::from_raw(pid).unwrap();
            kill_process(pid, Signal::KILL).or_else(ignore_ended).unwrap();
        }
        let removed = remove(&self.cgroup);
        assert!(removed || thread::panicking(), "left behind: {}", self.cgroup.display());
    }
}

fn ignore_ended(errno: Errno) -> Result<(), Errno> {
    if errno == Errno::SRCH { Ok(()) } else { Err(errno) }
}

fn remove(cgroup: &Path) -> bool {
    for child in directories(cgroup) {
        remove(&child);
    }
    let deadline = Instant::now() + Duration::from_secs(2);
    while fs::remove_dir(cgroup).is_err() {
        if Instant::now() > deadline {
            return false;
        }
        thread::sleep(Duration::from_millis(10));
    }
    true
}

fn directories(path: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(path).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).filter(|path| path.is_dir()).collect()
}

pub(crate) fn wait_for(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(5);
    while !condition() {
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        thread::sleep(Duration::from_millis(5));
    }
}

/// A process that is killed when the case ends.
pub(crate) struct Process(pub(crate) Child);

impl Process {
    pub(crate) fn pid(&self) -> i32 {
        i32::try_from(self.0.id()).unwrap()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

/// A run in miniature.
pub(crate) struct Run {
    child: Child,
    output: BufReader<ChildStdout>,
}

impl Run {
    /// What it says next.
    pub(crate) fn line(&mut self) -> String {
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    /// The same when it was refused and says why; else it says no more.
    pub(crate) fn line_if(&mut self, refused: bool) -> String {
        if refused { self.line() } else { String::new() }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// kill -9.
    pub(crate) fn kill(mut self) {
        self.end();
    }

    fn end(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        self.end();
    }
}
