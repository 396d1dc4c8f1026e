//! Waiting for whatever ends a run, in one poll loop.

use std::{
    os::fd::{AsFd, BorrowedFd},
    time::{Duration, Instant},
};

use chadthrottle_core::{Error, LimitId, Result, Target, session::Session};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
};

use super::{command::Running, report::Report, signals::Signals};
use crate::exit::Exit;

/// How often counters are read and limits are kept true.
const TICK: Duration = Duration::from_secs(1);

/// What a run waits for.
pub(super) struct Hold<'a> {
    pub(super) signals: &'a mut Signals,
    /// Signals are forwarded to it; without one they end the run.
    pub(super) command: Option<&'a mut Running>,
    /// A process that ends is looked after at once, not at the next tick.
    pub(super) targets: &'a [Target],
    /// When the time is up, if ever.
    pub(super) until: Option<Instant>,
}

/// Why the waiting is over.
pub(super) enum End {
    /// The command ended.
    Command(Exit),
    /// The last target ended, the time is up, or a signal came.
    Done,
}

impl Hold<'_> {
    /// Waits, with limits in force (a session, which of its limits, and where to report) or without.
    pub(super) fn hold(
        mut self,
        mut limits: Option<(&mut Session, LimitId, &mut Report)>,
    ) -> Result<End> {
        let targets = self.targets;
        let mut alive: Vec<BorrowedFd<'_>> = targets.iter().filter_map(pidfd).collect();
        let mut next_tick = Instant::now() + TICK;
        loop {
            let now = Instant::now();
            if self.until.is_some_and(|until| until <= now) {
                return Ok(End::Done);
            }
            if now >= next_tick {
                next_tick = now + TICK;
                if let Some((session, id, report)) = &mut limits {
                    let is_over = report.tick(session, *id);
                    if is_over && self.command.is_none() {
                        return Ok(End::Done);
                    }
                }
            }
            let wake = self.until.map_or(next_tick, |until| until.min(next_tick));
            let ended = self.wait(&alive, wake.saturating_duration_since(now))?;

            for signal in self.signals.pending() {
                match &mut self.command {
                    Some(command) => command.forward(signal),
                    None => return Ok(End::Done),
                }
            }
            if let Some(command) = &mut self.command
                && let Some(exit) = command.ended()?
            {
                return Ok(End::Command(exit));
            }
            if ended.contains(&true) {
                let mut ended = ended.into_iter();
                alive.retain(|_| ended.next() == Some(false));
                next_tick = Instant::now();
            }
        }
    }

    /// Sleeps until something happens or the time is over; says of each target whether it has
    /// ended.
    fn wait(&self, alive: &[BorrowedFd<'_>], time: Duration) -> Result<Vec<bool>> {
        let mut fds = vec![PollFd::from_borrowed_fd(self.signals.fd(), PollFlags::IN)];
        fds.extend(self.command.iter().map(|command| PollFd::new(command, PollFlags::IN)));
        let first_target = fds.len();
        fds.extend(alive.iter().map(|fd| PollFd::from_borrowed_fd(*fd, PollFlags::IN)));

        let timeout = Timespec::try_from(time).ok();
        match poll(&mut fds, timeout.as_ref()) {
            Ok(_) => {}
            // A signal; it waits in its pipe.
            Err(Errno::INTR) => return Ok(Vec::new()),
            Err(error) => return Err(Error::io("wait for", "signals", error.into())),
        }
        Ok(fds[first_target..].iter().map(|fd| !fd.revents().is_empty()).collect())
    }
}

/// What is readable once the target has ended; cgroups are looked after at each tick.
fn pidfd(target: &Target) -> Option<BorrowedFd<'_>> {
    match target {
        Target::Process(process) => Some(process.pidfd().as_fd()),
        Target::Cgroup(_) => None,
    }
}
