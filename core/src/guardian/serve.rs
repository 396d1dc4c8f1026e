//! The guardian's side: waiting, and putting things back.

use std::{
    fs::{self, File},
    io,
    os::{
        fd::{AsFd, OwnedFd},
        unix::fs::{DirEntryExt, MetadataExt},
    },
    path::PathBuf,
    sync::{Arc, atomic::AtomicBool},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
    stdio,
};
use signal_hook::consts::{
    SIGALRM, SIGHUP, SIGINT, SIGPIPE, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2,
};

use super::channel::{self, Message};
use crate::{
    error::{Error, Result},
    host::Host,
    journal::{Held, StaleJournal},
    recover::{self, Undoer},
};

/// What the guardian does not end from; SIGKILL remains.
const IGNORED: [i32; 8] =
    [SIGHUP, SIGINT, SIGQUIT, SIGPIPE, SIGALRM, SIGTERM, SIGUSR1, SIGUSR2];

/// The name in ps and top (at most 15 bytes).
const NAME: &std::ffi::CStr = c"chad-guardian";

/// What the hidden subcommand does: waits for the end of the run, and takes back what it
/// could not take back itself. `undo` does so for the changes of backends.
pub fn main(undo: &mut Undoer<'_>) -> Result<()> {
    let (socket, journal, path) = take_stdio().map_err(|error| {
        Error::io("take over", "the journal", error)
            .meaning("The guardian is started by chadthrottle itself, never by hand.")
    })?;
    stand_alone().map_err(|error| Error::io("set up", "the guardian", error))?;

    let mut held = Held::new();
    if wait_for_end(&socket, &mut held) == End::Released {
        return Ok(());
    }
    silence_broken_stderr();
    let host = Host::detect()?;
    let path =
        name_of(&journal, path).map_err(|error| Error::io("look for", "the journal", error))?;
    let journal = StaleJournal::inherited(journal, path, &host.boot_id()?)?;
    let outcomes = recover::take_back(journal, &held, undo);
    outcomes.iter().for_each(recover::Outcome::log);
    outcomes.into_iter().map(|outcome| outcome.result).find(Result::is_err).unwrap_or(Ok(()))
}

/// How a run can end.
#[derive(PartialEq, Eq)]
enum End {
    /// It said so.
    Released,
    /// It is gone without a word.
    Died,
}

fn wait_for_end(socket: &OwnedFd, held: &mut Held) -> End {
    // An answer that cannot be sent: the next receive says that the run has ended.
    let answer = || match channel::send_ready(socket) {
        Ok(()) | Err(Errno::PIPE) => {}
        Err(errno) => tracing::debug!("the guardian's answer was lost: {errno}"),
    };
    answer();
    loop {
        match channel::receive(socket) {
            Ok(Some(Message::Hold(label, fd))) => drop(held.insert(label, fd)),
            Ok(Some(Message::LetGo(label))) => drop(held.remove(&label)),
            Ok(Some(Message::Released)) => {
                answer();
                return End::Released;
            }
            Ok(Some(Message::Ready)) => {}
            // Not understood: without an answer the run sees that it cannot rely on us.
            Err(Errno::BADMSG) => continue,
            Ok(None) | Err(_) => return End::Died,
        }
        answer();
    }
}

/// Moves the socket and the journal to descriptors of their own, so that nothing that is
/// printed can end up in the journal.
fn take_stdio() -> io::Result<(OwnedFd, File, PathBuf)> {
    let socket = io::stdin().as_fd().try_clone_to_owned()?;
    let journal = io::stdout().as_fd().try_clone_to_owned()?;
    let path = fs::read_link("/proc/self/fd/1")?;
    let null = File::options().read(true).write(true).open("/dev/null")?;
    stdio::dup2_stdin(&null)?;
    stdio::dup2_stdout(&null)?;
    Ok((socket, File::from(journal), path))
}

/// The name of the journal, which was given to it after we got it; `known` when it has none.
fn name_of(journal: &File, known: PathBuf) -> io::Result<PathBuf> {
    let inode = journal.metadata()?.ino();
    let Some(directory) = known.parent() else { return Ok(known) };
    let mut entries = fs::read_dir(directory)?.flatten();
    Ok(entries.find(|entry| entry.ino() == inode).map_or(known, |entry| entry.path()))
}

/// Leaves the run's session, so that no terminal signals us, and ignores other signals.
fn stand_alone() -> io::Result<()> {
    rustix::process::setsid()?;
    rustix::thread::set_name(NAME)?;
    for signal in IGNORED {
        // A flag that nobody reads: the signal interrupts a call, and that is all.
        signal_hook::flag::register(signal, Arc::new(AtomicBool::new(false)))?;
    }
    Ok(())
}

/// Once the run is dead its terminal or pipe may be gone, or nobody may read from it any
/// more: then logging would end or block us.
fn silence_broken_stderr() {
    let stderr = io::stderr();
    let mut fds = [PollFd::new(&stderr, PollFlags::OUT)];
    let ready = poll(&mut fds, Some(&Timespec::default()));
    if ready.is_ok() && fds[0].revents() == PollFlags::OUT {
        return;
    }
    let null = File::options().write(true).open("/dev/null");
    if let Err(error) = null.and_then(|null| stdio::dup2_stderr(&null).map_err(io::Error::from))
    {
        tracing::debug!("{error}"); // Nothing better can be done; going on is what counts.
    }
}
