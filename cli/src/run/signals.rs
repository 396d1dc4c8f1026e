//! Signals as something to poll.

use std::os::{
    fd::{AsFd, BorrowedFd},
    unix::net::UnixStream,
};

use chadthrottle_core::{Error, Result};
use signal_hook::{
    consts::{SIGCHLD, SIGHUP, SIGINT, SIGQUIT, SIGTERM},
    iterator::{backend::SignalDelivery, exfiltrator::SignalOnly},
};

/// The signals that end a run, caught until the process ends: a second Ctrl-C while the limits
/// are being lifted changes nothing.
pub(crate) struct Signals {
    delivery: SignalDelivery<UnixStream, SignalOnly>,
}

impl Signals {
    /// Catches them.
    pub(crate) fn catch() -> Result<Self> {
        // SIGCHLD is caught only because whoever started us may ignore it: then the kernel
        // would reap the command, and its status would be lost (wait(2)).
        let mut signals = vec![SIGINT, SIGQUIT, SIGTERM, SIGCHLD];
        // Under nohup a run outlives its terminal, and so does its command.
        if !is_ignored(SIGHUP) {
            signals.push(SIGHUP);
        }
        let delivery = UnixStream::pair()
            .and_then(|(read, write)| {
                SignalDelivery::with_pipe(read, write, SignalOnly, signals)
            })
            .map_err(|error| Error::io("catch", "signals", error))?;
        Ok(Self { delivery })
    }

    /// Those that came since the last call, and ask for an end.
    pub(crate) fn pending(&mut self) -> impl Iterator<Item = i32> {
        self.delivery.pending().filter(|signal| *signal != SIGCHLD)
    }

    /// Readable when one has come.
    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.delivery.get_read().as_fd()
    }
}

/// Whether whoever started us ignores this signal. (sigaction(2) would need unsafe code.)
fn is_ignored(signal: i32) -> bool {
    procfs::process::Process::myself()
        .and_then(|process| process.status())
        .is_ok_and(|status| status.sigign & (1 << (signal - 1)) != 0)
}
