//! A run in miniature: does the steps it is given, says "ready", and waits to be killed.

use std::{
    env,
    fs::{self, File, OpenOptions},
    io::Write,
    path::PathBuf,
    process::{Command, ExitCode},
    thread,
    time::Duration,
};

use chadthrottle_core::{
    BackendId, Error, ErrorKind, Host, Result,
    cgroup::Leaf,
    guardian::{self, Guardian},
    journal::{Claim, Entry, Held, Journal, Undo},
    process::ProcessKey,
};

pub(crate) const ARGUMENT: &str = "__run";
/// The cgroup below which leaves are made.
pub(crate) const CGROUP_VARIABLE: &str = "CORE_TEST_CGROUP";
/// Where [`undo`] writes what it was asked for.
pub(crate) const LOG_VARIABLE: &str = "CORE_TEST_LOG";
/// The cookie of a pace that the guardian fails to give back.
pub(crate) const STUBBORN: u64 = 13;
/// The cookie of a pace that it says something about.
pub(crate) const LOUD: u64 = 14;

pub(crate) fn guardian() -> ExitCode {
    let log = PathBuf::from(env::var_os(LOG_VARIABLE).unwrap());
    let mut undo = |backend, change: &Undo, held: &Held, all: &[Undo]| {
        write_down(&log, backend, change, held, all);
        match change {
            Undo::Pace { cookie: STUBBORN, .. } => {
                Err(Error::new(ErrorKind::Failed, "take back", change))
            }
            Undo::Pace { cookie: LOUD, .. } => {
                eprintln!("this panics when stderr is broken, and blocks when nobody reads");
                Ok(())
            }
            _ => Ok(()),
        }
    };
    match guardian::main(&mut undo) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

/// A line for each call: what, for which backend, what the held file says, how many are left.
pub(crate) fn write_down(
    log: &PathBuf,
    backend: Option<BackendId>,
    change: &Undo,
    held: &Held,
    all: &[Undo],
) {
    let held: Vec<String> = held
        .values()
        .map(|fd| std::io::read_to_string(File::from(fd.try_clone().unwrap())).unwrap())
        .collect();
    let backend = backend.map_or("core".to_owned(), |id| id.to_string());
    let mut log = OpenOptions::new().append(true).create(true).open(log).unwrap();
    writeln!(log, "{backend}: {change}; held {held:?}; {} pending", all.len()).unwrap();
}

struct State {
    host: Host,
    journal: Journal,
    guardian: Option<Guardian>,
    leaves: Vec<Leaf>,
    entries: Vec<Entry>,
}

pub(crate) fn run(steps: &[String]) -> ExitCode {
    let host = Host::detect().unwrap();
    let journal = match Journal::create(&host) {
        Ok(journal) => journal,
        Err(error) => return refused(&error),
    };
    let mut state =
        State { host, journal, guardian: None, leaves: Vec::new(), entries: Vec::new() };
    for step in steps {
        if let Err(error) = state.step(step) {
            return refused(&error);
        }
    }
    println!("ready");
    loop {
        thread::sleep(Duration::from_secs(60));
    }
}

fn refused(error: &Error) -> ExitCode {
    println!("ready\n{error}");
    ExitCode::FAILURE
}

impl State {
    fn step(&mut self, step: &str) -> Result<()> {
        let (verb, rest) = step.split_once(':').unwrap_or((step, ""));
        let parent = PathBuf::from(env::var_os(CGROUP_VARIABLE).unwrap());
        match verb {
            "guardian" => self.guardian = Some(Guardian::spawn(&self.journal)?),
            "kill-guardian" => self.kill_guardian(),
            "leaf" => self.leaves.push(Leaf::create(&parent, rest, &self.journal)?),
            "move" => self.leaves.last().unwrap().add(rest.parse().unwrap())?,
            // The moments within Leaf::create.
            "announce" => self.announce(&parent.join(rest))?,
            "mkdir" => fs::create_dir(parent.join(rest)).unwrap(),
            "pace" => {
                let undo = Undo::Pace { cookie: rest.parse().unwrap(), rate: 1000 };
                self.entries.push(self.journal.record(Some(BackendId::Ebpf), &undo)?);
            }
            "done" => self.journal.done(self.entries.pop().unwrap())?,
            "hold" => self.journal.hold("a file", File::open(rest).unwrap())?,
            "let-go" => self.journal.let_go("a file")?,
            "claim" => {
                let key = ProcessKey::of(&self.host, rest.parse().unwrap()).unwrap();
                self.journal.claim(&[Claim::Process(key)])?;
            }
            "claim-cgroup" => self.journal.claim(&[Claim::Cgroup { path: rest.into() }])?,
            "command" => drop(Command::new("sleep").arg("1").spawn().unwrap()),
            "churn" => self.churn(&parent),
            "end" => self.end()?,
            _ => panic!("no such step: {step}"),
        }
        Ok(())
    }

    fn announce(&mut self, path: &std::path::Path) -> Result<()> {
        self.journal.record(None, &Undo::Leaf { path: path.to_owned(), id: 0 })?;
        Ok(())
    }

    fn kill_guardian(&mut self) {
        let guardian = self.guardian.as_mut().unwrap();
        let pid = rustix::process::Pid::from_raw(guardian.pid().cast_signed()).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
        while guardian.is_alive() {
            thread::yield_now();
        }
    }

    /// Makes and removes leaves until it is killed.
    fn churn(&mut self, parent: &std::path::Path) -> ! {
        println!("ready");
        loop {
            let leaf = Leaf::create(parent, "churn", &self.journal).unwrap();
            leaf.add(std::process::id().cast_signed()).unwrap();
            leaf.remove().unwrap();
        }
    }

    /// As a session ends.
    fn end(&mut self) -> Result<()> {
        for leaf in self.leaves.drain(..) {
            leaf.remove()?;
        }
        for entry in self.entries.drain(..) {
            self.journal.done(entry)?;
        }
        let closed = self.journal.clone().close();
        if closed.is_ok() {
            self.guardian.take().unwrap().release()?;
        }
        closed
    }
}
