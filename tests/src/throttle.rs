//! chadthrottle itself, started and watched from outside, as a user meets it.

use std::{
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::process::{self, Place, Running, code, tool};

/// Names the directory that a run of chadthrottle keeps its journals in.
pub const RUN_DIR: &str = "CHADTHROTTLE_RUN_DIR";

/// How long a start or an end may take before a case fails. How long it does take is measured
/// by the benchmark.
const PATIENCE: Duration = Duration::from_secs(15);

/// The binary under test: `CHADTHROTTLE_BIN`, or the one built beside this test.
pub fn binary() -> PathBuf {
    std::env::var_os("CHADTHROTTLE_BIN").map_or_else(|| tool("chadthrottle"), PathBuf::from)
}

/// `chadthrottle` in its place, with a run directory of the test's own.
pub fn command(place: &Place, run_dir: &Path) -> Command {
    command_behind(&[], place, run_dir)
}

/// The same behind a command that becomes what follows it.
pub fn command_behind(wrapper: &[&str], place: &Place, run_dir: &Path) -> Command {
    let mut words = wrapper.iter().map(OsString::from).chain([binary().into_os_string()]);
    let mut command = place.command(words.next().expect("the binary at least"));
    command.args(words).env(RUN_DIR, run_dir);
    command
}

/// A running `chadthrottle run`. Dropping it ends it, gently first.
#[derive(Debug)]
pub struct Throttle {
    running: Running,
    run_dir: PathBuf,
    json: PathBuf,
    started: Instant,
}

impl Throttle {
    /// Starts `chadthrottle run --backend BACKEND --json-file FILE ARGS`.
    pub fn start(place: &Place, run_dir: &Path, backend: &str, args: &[&str]) -> Self {
        Self::start_behind(&[], place, run_dir, backend, args)
    }

    /// The same behind a command that becomes what follows it, such as `refuse ... --`.
    pub fn start_behind(
        wrapper: &[&str],
        place: &Place,
        run_dir: &Path,
        backend: &str,
        args: &[&str],
    ) -> Self {
        // Beside the run directory, which must be empty in the end.
        let name = format!("events-{}.json", crate::load::now_ms());
        let json = run_dir.parent().expect("a parent").join(name);
        let mut command = command_behind(wrapper, place, run_dir);
        command.args(["run", "--backend", backend, "--json-file"]).arg(&json).args(args);
        let started = Instant::now();
        let running = Running::start(&mut command);
        Self { running, run_dir: run_dir.to_owned(), json, started }
    }

    /// The process itself.
    pub fn running(&mut self) -> &mut Running {
        &mut self.running
    }

    /// Its pid.
    pub fn pid(&self) -> u32 {
        self.running.pid()
    }

    /// The events it has written so far.
    pub fn events(&self) -> Vec<Value> {
        let text = fs::read_to_string(&self.json).unwrap_or_default();
        // The last line may still be on its way.
        text.lines().map_while(|line| serde_json::from_str(line).ok()).collect()
    }

    /// Waits for an event by name and returns it.
    ///
    /// # Panics
    /// When it does not come, or the run ends before.
    pub fn expect_event(&mut self, name: &str) -> Value {
        let end = Instant::now() + PATIENCE;
        loop {
            // Asked for first: an event written just before the end counts.
            let ended = self.running.status();
            let events = self.events();
            if let Some(event) = events.into_iter().find(|event| event["event"] == name) {
                return event;
            }
            assert!(
                ended.is_none() && Instant::now() < end,
                "no event `{name}` from chadthrottle (ended: {ended:?})\nevents: {:#?}\n{}",
                self.events(),
                self.running.stderr()
            );
            thread::sleep(Duration::from_millis(1));
        }
    }

    /// Waits until the limits are in force; returns how long that took from the start.
    pub fn wait_enforced(&mut self) -> Duration {
        self.expect_event("enforced");
        self.started.elapsed()
    }

    /// What it said on stderr.
    pub fn stderr(&self) -> String {
        self.running.stderr()
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        self.running.signal(signal);
    }

    /// Waits for its end and returns its exit status, 128 + n for a signal.
    pub fn wait(&mut self) -> i32 {
        code(self.running.wait(PATIENCE))
    }

    /// Ends it by Ctrl-C, which must succeed.
    ///
    /// # Panics
    /// When it ends with another status than 0.
    pub fn stop(mut self) {
        self.signal(Signal::INT);
        let status = self.wait();
        assert_eq!(status, 0, "status after Ctrl-C\n{}", self.stderr());
    }

    /// Kills it with SIGKILL and waits for its end; its guardian lives on.
    pub fn kill(&mut self) {
        self.signal(Signal::KILL);
        self.wait();
    }

    /// Its guardian's pid.
    pub fn guardian(&self) -> u32 {
        let own = self.pid();
        let others = || processes_of(&self.run_dir).into_iter().find(|&pid| pid != own);
        others().expect("chadthrottle has a guardian")
    }

    /// Kills it and its guardian, in the order that saves nothing.
    pub fn kill_with_guardian(&mut self) {
        let guardian = self.guardian();
        kill_process(Pid::from_raw(guardian.cast_signed()).expect("a pid"), Signal::KILL)
            .expect("kill the guardian");
        self.kill();
        assert!(process::eventually(PATIENCE, || !process::is_alive(guardian)));
    }
}

impl Drop for Throttle {
    fn drop(&mut self) {
        if self.running.status().is_none() {
            self.signal(Signal::INT);
            process::eventually(Duration::from_secs(3), || self.running.status().is_some());
        }
    }
}

/// The pids of all chadthrottle processes that use this run directory.
pub fn processes_of(run_dir: &Path) -> Vec<u32> {
    let mark = format!("{RUN_DIR}={}", run_dir.display());
    let entries = fs::read_dir("/proc").expect("read /proc").flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let ours = pids.filter(|pid| {
        let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        let marked = environment.split(|&byte| byte == 0).any(|word| word == mark.as_bytes());
        let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        // A run is `chadthrottle`, its guardian calls itself `chad-guardian`.
        marked && name.starts_with("chad")
    });
    ours.collect()
}
