//! Processes placed in a network namespace and a cgroup, and watched by their output.

use std::{
    ffi::OsStr,
    io::{BufRead, BufReader, Read, Write},
    os::unix::process::ExitStatusExt,
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, ExitStatus, Stdio},
    sync::{Arc, Condvar, Mutex},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};

/// Where a process runs. The default is where the test itself runs.
#[derive(Debug, Clone, Default)]
pub struct Place {
    namespace: Option<PathBuf>,
    cgroup: Option<PathBuf>,
}

impl Place {
    /// In the network namespace with this file.
    pub fn in_namespace(file: impl Into<PathBuf>) -> Self {
        Self { namespace: Some(file.into()), cgroup: None }
    }

    /// The same place, but in this cgroup.
    #[must_use]
    pub fn in_cgroup(&self, cgroup: &crate::cgroup::Cgroup) -> Self {
        Self { cgroup: Some(cgroup.path().to_owned()), ..self.clone() }
    }

    /// A command that runs `program` here. Every wrapper execs the next: the pid stays.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut words: Vec<&OsStr> = Vec::new();
        let enter;
        if let Some(cgroup) = &self.cgroup {
            let join = "echo $$ > \"$0/cgroup.procs\" && exec \"$@\"";
            words.extend([OsStr::new("sh"), OsStr::new("-c"), OsStr::new(join)]);
            words.push(cgroup.as_os_str());
        }
        if let Some(namespace) = &self.namespace {
            enter = format!("--net={}", namespace.display());
            words.extend([OsStr::new("nsenter"), OsStr::new(&enter)]);
        }
        words.push(program.as_ref());
        let mut command = Command::new(words[0]);
        command.args(&words[1..]);
        command
    }
}

/// Runs a short command line to its end and returns its output; panics when it fails.
pub fn sh(line: &str) -> String {
    let output = Command::new("sh").args(["-c", line]).output().expect("run sh");
    assert!(
        output.status.success(),
        "`{line}` failed: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// The path of a binary of this workspace, found beside the running one.
pub fn tool(name: &str) -> PathBuf {
    let own = std::env::current_exe().expect("own path");
    // Tests run in target/PROFILE/deps, the tools lie in target/PROFILE.
    let found = own.ancestors().skip(1).take(2).map(|dir| dir.join(name)).find(|p| p.exists());
    found.unwrap_or_else(|| panic!("{name} is not built: run `cargo build --workspace`"))
}

/// How long the last lines of a process that has ended may take.
const LAST_LINES: Duration = Duration::from_millis(300);

/// The lines that a process wrote, in order.
type Lines = Arc<(Mutex<Vec<String>>, Condvar)>;

/// A running process. Dropping it kills it.
#[derive(Debug)]
pub struct Running {
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: Lines,
    stderr: Lines,
    stdout_reader: JoinHandle<()>,
    stderr_reader: JoinHandle<()>,
    name: String,
}

impl Running {
    /// Starts a command with its standard streams in our hands.
    pub fn start(command: &mut Command) -> Self {
        Self::start_with_stdin(command, Stdio::piped())
    }

    /// Starts a command with a standard input of the caller's choice.
    pub fn start_with_stdin(command: &mut Command, stdin: Stdio) -> Self {
        let name = format!("{command:?}");
        let mut child = command
            .stdin(stdin)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|e| panic!("start {name}: {e}"));
        let stdin = child.stdin.take();
        let (stdout, stdout_reader) = collect(child.stdout.take().expect("stdout is piped"));
        let (stderr, stderr_reader) = collect(child.stderr.take().expect("stderr is piped"));
        Self { child, stdin, stdout, stderr, stdout_reader, stderr_reader, name }
    }

    /// Its pid.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it wrote to stdout so far, line by line.
    pub fn stdout(&self) -> Vec<String> {
        self.stdout.0.lock().expect("lines").clone()
    }

    /// What it wrote to stderr so far.
    pub fn stderr(&self) -> String {
        self.stderr.0.lock().expect("lines").join("\n")
    }

    /// Waits for a line of stdout that `take` makes something of; the earliest one counts.
    ///
    /// # Panics
    /// When `patience` is over, or the process ended without such a line; tells what it said.
    pub fn expect<T>(
        &self,
        what: &str,
        patience: Duration,
        take: impl Fn(&str) -> Option<T>,
    ) -> T {
        let end = Instant::now() + patience;
        let (lines, arrived) = &*self.stdout;
        let mut lines = lines.lock().expect("lines");
        loop {
            if let Some(found) = lines.iter().find_map(|line| take(line)) {
                return found;
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                let said = lines.iter().rev().take(5).cloned().collect::<Vec<_>>();
                drop(lines);
                panic!(
                    "no {what} within {patience:?} from {}\nlast of stdout: {said:#?}\nstderr: {}",
                    self.name,
                    self.stderr()
                );
            }
            lines = arrived.wait_timeout(lines, left).expect("lines").0;
        }
    }

    /// Writes a line to its standard input.
    pub fn tell(&mut self, line: &str) {
        let stdin = self.stdin.as_mut().expect("stdin is open");
        writeln!(stdin, "{line}").unwrap_or_else(|e| panic!("tell {}: {e}", self.name));
    }

    /// Closes its standard input.
    pub fn close_stdin(&mut self) {
        self.stdin = None;
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        // Until it is waited for, the pid cannot be anybody else's.
        let pid = Pid::from_raw(self.child.id().cast_signed()).expect("a pid is not 0");
        kill_process(pid, signal).unwrap_or_else(|e| panic!("signal {}: {e}", self.name));
    }

    /// The exit status, if it has ended.
    pub fn status(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("wait for a child")
    }

    /// Waits for its end.
    ///
    /// # Panics
    /// When it still runs after `patience`.
    pub fn wait(&mut self, patience: Duration) -> ExitStatus {
        let end = Instant::now() + patience;
        loop {
            if let Some(status) = self.status() {
                // The last lines are on their way from the pipes to the readers; a process that
                // lives on, such as a guardian, may keep a pipe open.
                let readers = [&self.stdout_reader, &self.stderr_reader];
                eventually(LAST_LINES, || readers.iter().all(|reader| reader.is_finished()));
                return status;
            }
            assert!(
                Instant::now() < end,
                "{} still runs after {patience:?}\nstderr: {}",
                self.name,
                self.stderr()
            );
            thread::sleep(Duration::from_millis(2));
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if self.status().is_none() {
            self.child.kill().expect("kill a child");
            self.child.wait().expect("wait for a killed child");
        }
    }
}

/// An exit status as a shell tells it: the code, or 128 + the signal.
pub fn code(status: ExitStatus) -> i32 {
    status.code().or_else(|| status.signal().map(|n| 128 + n)).expect("it ended somehow")
}

/// Whether a process with this pid exists and is no zombie.
pub fn is_alive(pid: u32) -> bool {
    let stat = std::fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("stat"));
    stat.is_ok_and(|text| !text.rsplit(") ").next().unwrap_or("Z").starts_with('Z'))
}

/// Waits until `holds` is true; false when it is not within `patience`.
pub fn eventually(patience: Duration, mut holds: impl FnMut() -> bool) -> bool {
    let end = Instant::now() + patience;
    loop {
        if holds() {
            return true;
        }
        if Instant::now() >= end {
            return false;
        }
        thread::sleep(Duration::from_millis(10));
    }
}

/// Reads lines in a thread of its own, so that no pipe fills up.
fn collect(stream: impl Read + Send + 'static) -> (Lines, JoinHandle<()>) {
    let lines = Lines::default();
    let shared = lines.clone();
    let reader = thread::spawn(move || {
        for line in BufReader::new(stream).split(b'\n').map_while(Result::ok) {
            let line = String::from_utf8_lossy(&line).into_owned();
            shared.0.lock().expect("lines").push(line);
            shared.1.notify_all();
        }
    });
    (lines, reader)
}
