//! `session PID`: what `chadthrottle run --pid PID` does, with rates that change meanwhile.
//!
//! Each line of standard input sets one rate ("download 5mbit"): the first starts the limit,
//! later ones change it in place. Each is answered by a line "set". The end of the input lifts
//! the limit. No command of chadthrottle changes a limit, so this reaches into its code.

use std::{
    error::Error,
    io::{self, BufRead},
    sync::mpsc::{RecvTimeoutError, channel},
    thread,
    time::Duration,
};

use chadthrottle_backends::ebpf::EbpfBackend;
use chadthrottle_core::{
    Backend, Host, Limit, Limits, Target, guardian, process::Process, session, session::Session,
};

/// How often a run keeps its limits true.
const TICK: Duration = Duration::from_secs(1);

fn main() -> Result<(), Box<dyn Error>> {
    let word = std::env::args().nth(1).ok_or("usage: session PID")?;
    if word == guardian::ARGUMENT {
        let undo = &mut |id, undo: &_, held: &_, all: &_| {
            session::undo_with(&backends(), &Host::detect()?, id, undo, held, all)
        };
        return Ok(guardian::main(undo)?);
    }
    let host = Host::detect()?;
    let targets = [Target::Process(Process::open(&host, word.parse()?)?)];
    let mut session = Session::open(host, backends())?;
    let held = hold(&mut session, &targets);
    session.finish().1?;
    held
}

fn backends() -> Vec<Box<dyn Backend>> {
    vec![Box::new(EbpfBackend)]
}

/// Does what the lines say until there are no more.
fn hold(session: &mut Session, targets: &[Target]) -> Result<(), Box<dyn Error>> {
    let (sender, lines) = channel();
    thread::spawn(move || {
        // Whoever does not listen any more has failed and says so.
        io::stdin().lock().lines().map_while(Result::ok).try_for_each(|line| sender.send(line))
    });
    let mut limits = Limits::default();
    loop {
        match lines.recv_timeout(TICK) {
            Ok(line) => {
                let started = !limits.is_empty();
                set(&mut limits, &line)?;
                if started {
                    session.update(&limits)?;
                } else {
                    session.start(None, targets, &limits)?;
                }
                println!("set");
            }
            Err(RecvTimeoutError::Timeout) => {
                session.refresh().iter().for_each(|notice| eprintln!("{notice:?}"));
            }
            Err(RecvTimeoutError::Disconnected) => return Ok(()),
        }
    }
}

/// "download 5mbit"
fn set(limits: &mut Limits, line: &str) -> Result<(), Box<dyn Error>> {
    let (direction, rate) = line.split_once(' ').ok_or("DIRECTION RATE")?;
    let limit = Some(Limit { rate: rate.parse()? });
    match direction {
        "download" => limits.download = limit,
        "upload" => limits.upload = limit,
        _ => return Err(format!("{direction} is no direction").into()),
    }
    Ok(())
}
