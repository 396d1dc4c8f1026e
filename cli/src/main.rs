//! chadthrottle limits the network bandwidth of processes on Linux while they run.

mod args;
mod backends;
mod clean;
mod demo;
mod events;
mod exit;
mod guardian;
mod launch;
mod log;
#[cfg(test)]
mod manual;
mod probe;
mod run;
mod tui;
mod units;

use std::process::ExitCode;

use args::Command;
use chadthrottle_backends::rehearsal;

fn main() -> ExitCode {
    let command = args::parse();
    log::init(command.is_quiet());
    let outcome = match command {
        Command::Run(args) if args.wants_view() => tui::open(&args),
        Command::Run(args) => run::run(&args),
        Command::Probe(args) => probe::probe(&args),
        Command::Clean(args) => clean::clean(&args),
        Command::Demo => demo::demo(),
        Command::Receive(args) => demo::receive(&args),
        Command::Launch(args) => launch::launch(&args),
        Command::Guardian => guardian::guardian(),
        Command::Rehearse { cgroup } => rehearsal::main(cgroup.as_deref())
            .map(|()| exit::Exit::Done)
            .map_err(exit::Failure::from),
    };
    let exit = outcome.unwrap_or_else(|failure| {
        log::say(format_args!("chadthrottle: {}", failure.error));
        failure.exit
    });
    exit.into()
}
