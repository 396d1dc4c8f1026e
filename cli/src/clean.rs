//! `chadthrottle clean`: takes back what instances left that were killed together with their
//! guardian. Living instances are not touched.

use std::{
    io::{self, Write},
    path::Path,
};

use chadthrottle_backends::rehearsal;
use chadthrottle_core::{Error, Host, recover, session};

use crate::{
    args::CleanArgs,
    backends,
    exit::{Exit, Failure},
    log,
};

/// Status 1 (or 4, not permitted) when something could not be taken back; it stays on record
/// for the next time.
pub(crate) fn clean(args: &CleanArgs) -> Result<Exit, Failure> {
    let host = Host::detect()?;
    let (lines, exit) = if args.dry_run {
        let mut plan = recover::planned(&host)?;
        plan.extend(rehearsal::abandoned(&host).iter().map(|path| scratch(path)));
        (plan.iter().map(|change| format!("would {change}")).collect(), Exit::Done)
    } else {
        sweep(&host)
    };
    let mut stdout = io::stdout().lock();
    if lines.is_empty() && exit == Exit::Done {
        writeln!(stdout, "nothing to clean")
    } else {
        lines.iter().try_for_each(|line| writeln!(stdout, "{line}"))
    }
    .map_err(|error| Error::io("write to", "stdout", error))?;
    Ok(exit)
}

/// In words, as the changes in a journal.
fn scratch(path: &Path) -> String {
    format!("remove the cgroup {} of a probe", path.display())
}

/// Takes back everything that can be, and says what.
fn sweep(host: &Host) -> (Vec<String>, Exit) {
    let backends = backends::built();
    let outcomes = recover::sweep(host, &mut |id, undo, held, all| {
        session::undo_with(&backends, host, id, undo, held, all)
    });
    let mut exit = Exit::Done;
    let removed = rehearsal::sweep(host);
    let mut done: Vec<String> =
        removed.iter().map(|path| format!("done: {}", scratch(path))).collect();
    for recover::Outcome { what, result } in outcomes {
        match result {
            Ok(()) => done.push(format!("done: {what}")),
            Err(error) => {
                log::say(format_args!("chadthrottle: {error}"));
                exit = error.kind.into();
            }
        }
    }
    (done, exit)
}
