//! `chadthrottle run`: limits, holds, and takes back.
//!
//! Everything that can be refused is refused before anything is touched: unknown users and
//! commands, targets that do not exist, an event file that cannot be written. Whatever
//! happens afterwards, the session is finished.

mod command;
mod hold;
mod report;
pub(crate) mod signals;
mod summary;
mod targets;
mod verify;

use std::{mem, time::Instant};

use chadthrottle_core::{Backend, Host, Target, session::Session};

use crate::{
    args::RunArgs,
    backends,
    events::Events,
    exit::{Exit, Failure},
    log,
};
pub(crate) use command::{not_started, user};

use command::Running;
use hold::{End, Hold};
use report::Report;
use signals::Signals;

/// Runs to the end of the limits, or of the command.
pub(crate) fn run(args: &RunArgs) -> Result<Exit, Failure> {
    // 1 to 5 could be the command's own statuses.
    let own = |failure: Failure| {
        if args.command.is_empty() { failure } else { failure.with_command() }
    };
    let mut checked = checked(args).map_err(own)?;
    let outcome = held(&mut checked, args).map_err(own);
    outcome.inspect_err(|failure| checked.report.failed(failure))
}

/// A request that makes sense, and what it takes to serve it.
struct Checked {
    host: Host,
    backends: Vec<Box<dyn Backend>>,
    targets: Vec<Target>,
    report: Report,
    signals: Signals,
}

/// Nothing is touched yet.
fn checked(args: &RunArgs) -> Result<Checked, Failure> {
    let backends = backends::built();
    // The one that will probably be used gets a head start.
    let likely = backends.iter().find(|b| args.backend.0.is_none_or(|id| id == b.id()));
    likely.inspect(|backend| backend.prepare());
    if let Some(program) = args.command.first() {
        command::check(program)?;
    }
    if let Some(user) = &args.user {
        command::user(user)?;
    }
    let host = Host::detect()?;
    let targets = targets::resolve(&host, args)?;
    let report = Report::new(Events::open(args)?);
    // From here on a signal is a request to put everything back.
    let signals = Signals::catch()?;
    Ok(Checked { host, backends, targets, report, signals })
}

/// Limits, and takes everything back whatever comes.
fn held(checked: &mut Checked, args: &RunArgs) -> Result<Exit, Failure> {
    let backends = mem::take(&mut checked.backends);
    let mut session = Session::open(checked.host.clone(), backends)?;
    let outcome = limited(&mut session, args, checked);
    match (outcome, session.finish()) {
        (Ok(exit), Ok(())) => Ok(exit),
        (Ok(_), Err(error)) => Err(error.into()),
        (Err(failure), Ok(())) => Err(failure),
        (Err(failure), Err(error)) => {
            tracing::error!("{error}");
            Err(failure)
        }
    }
}

/// From the choice of a backend until the limits are lifted and the command has ended.
fn limited(
    session: &mut Session,
    args: &RunArgs,
    Checked { targets, report, signals, .. }: &mut Checked,
) -> Result<Exit, Failure> {
    let limits = args.limits();
    let leaf = match args.command.first() {
        Some(_) => Some(session.leaf()?),
        None => None,
    };
    if let Some(leaf) = &leaf {
        targets.push(targets::command(leaf, args));
    }
    let (id, selection) = session.add(args.backend.0, targets, &limits)?;
    let enforced = Instant::now();
    report.enforced(session.host(), &selection, targets, &limits);

    let mut running = match &leaf {
        Some(leaf) => Some(Running::start(leaf, args)?),
        None => None,
    };
    let end = Hold {
        signals: &mut *signals,
        command: running.as_mut(),
        targets,
        until: args.duration.and_then(|duration| enforced.checked_add(duration)),
    }
    .hold(Some((&mut *session, id, &mut *report)))?;

    let (totals, lifted) = session.lift(id);
    report.released(totals);
    if !args.quiet {
        log::say(summary::Summary {
            totals,
            limits: &limits,
            time: enforced.elapsed(),
            backend: selection.chosen,
        });
    }
    let exit = match (end, running) {
        (End::Command(exit), _) => exit,
        (End::Done, None) => Exit::Done,
        // The time is up; the command goes on without limits.
        (End::Done, Some(mut running)) => {
            let rest = Hold {
                signals: &mut *signals,
                command: Some(&mut running),
                targets: &[],
                until: None,
            };
            match rest.hold(None)? {
                End::Command(exit) => exit,
                End::Done => Exit::Done,
            }
        }
    };
    lifted?;
    Ok(exit)
}
