//! `session BACKEND TARGET...`: what the live view does, one limit a target (a pid, or the path of
//! a cgroup), with rates that change.
//!
//! Each line of standard input changes the limit of one of the targets, counted from 0: "1 download
//! 5mbit" starts it or changes it in place, "1 lift" lifts it. Each is answered by a line "set",
//! or "refused: REASON". The end of the input lifts what is left.

use std::{
    collections::BTreeMap,
    error::Error,
    io::{self, BufRead},
    sync::mpsc::{RecvTimeoutError, channel},
    thread,
    time::Duration,
};

use chadthrottle_backends::{ebpf::EbpfBackend, nft::NftBackend, tc::TcBackend};
use chadthrottle_core::{
    Backend, BackendId, Host, Limit, LimitId, Limits, Target, guardian,
    process::Process,
    session::{self, Session},
    target::CgroupTarget,
};

/// How often a run keeps its limits true.
const TICK: Duration = Duration::from_secs(1);

fn main() -> Result<(), Box<dyn Error>> {
    let mut words = std::env::args().skip(1);
    let word = words.next().ok_or("usage: session BACKEND TARGET...")?;
    if word == guardian::ARGUMENT {
        let undo = &mut |id, undo: &_, held: &_, all: &_| {
            session::undo_with(&backends(), &Host::detect()?, id, undo, held, all)
        };
        return Ok(guardian::main(undo)?);
    }
    let backend = BackendId::ALL.into_iter().find(|id| id.to_string() == word);
    let host = Host::detect()?;
    let mut targets = Vec::new();
    for word in words {
        targets.push(match word.parse() {
            Ok(pid) => Target::Process(Process::open(&host, pid)?),
            Err(_) => Target::Cgroup(CgroupTarget {
                path: word.clone().into(),
                name: word,
                follow: false,
            }),
        });
    }
    let session = Session::open(host, backends())?;
    let mut adjusted =
        Adjusted { session, backend, targets: &targets, limits: BTreeMap::new() };
    let held = adjusted.hold();
    adjusted.session.finish()?;
    held
}

fn backends() -> Vec<Box<dyn Backend>> {
    vec![Box::new(EbpfBackend), Box::new(TcBackend::default()), Box::new(NftBackend::default())]
}

/// A session whose limits come and go.
struct Adjusted<'a> {
    session: Session,
    backend: Option<BackendId>,
    targets: &'a [Target],
    /// By the number of the target.
    limits: BTreeMap<usize, (LimitId, Limits)>,
}

impl Adjusted<'_> {
    /// Does what the lines say until there are no more.
    fn hold(&mut self) -> Result<(), Box<dyn Error>> {
        let (sender, lines) = channel();
        thread::spawn(move || {
            // Whoever does not listen any more has failed and says so.
            io::stdin()
                .lock()
                .lines()
                .map_while(Result::ok)
                .try_for_each(|line| sender.send(line))
        });
        loop {
            match lines.recv_timeout(TICK) {
                Ok(line) => match self.change(&line)? {
                    Ok(()) => println!("set"),
                    Err(refusal) => println!("refused: {refusal}"),
                },
                Err(RecvTimeoutError::Timeout) => {
                    self.session.refresh().iter().for_each(|notice| eprintln!("{notice:?}"));
                }
                Err(RecvTimeoutError::Disconnected) => return Ok(()),
            }
        }
    }

    /// "1 download 5mbit", "1 lift"
    fn change(&mut self, line: &str) -> Result<chadthrottle_core::Result<()>, Box<dyn Error>> {
        let words: Vec<&str> = line.split(' ').collect();
        let number: usize = words[0].parse()?;
        let target = self.targets.get(number).ok_or("no such target")?;
        if let [_, "lift"] = words[..] {
            let (id, _) = self.limits.remove(&number).ok_or("not limited")?;
            return Ok(self.session.lift(id).1);
        }
        let [_, direction, rate] = words[..] else { return Err("N DIRECTION RATE".into()) };
        let (id, mut limits) = match self.limits.get(&number) {
            Some((id, limits)) => (Some(*id), *limits),
            None => (None, Limits::default()),
        };
        let limit = Some(Limit { rate: rate.parse()? });
        match direction {
            "download" => limits.download = limit,
            "upload" => limits.upload = limit,
            _ => return Err(format!("{direction} is no direction").into()),
        }
        let target = std::slice::from_ref(target);
        let outcome = match id {
            Some(id) => self.session.update(id, &limits).map(|()| id),
            None => self.session.add(self.backend, target, &limits).map(|(id, _)| id),
        };
        Ok(outcome.map(|id| {
            self.limits.insert(number, (id, limits));
        }))
    }
}
