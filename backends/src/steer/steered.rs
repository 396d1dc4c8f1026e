//! One connection: what it had, what it was told, what it makes of it.

use std::{
    os::fd::OwnedFd,
    time::{Duration, Instant},
};

use chadthrottle_core::{
    BackendId, Direction, Limit, Limits, Result,
    journal::{Entry, Journal, Undo},
};
use tracing::debug;

use super::{
    LATELY_MS, NEW, index,
    share::{self, ALL, Demands},
};
use crate::sockets::{self, TcpState};

/// A rate is taken over the time of so many segments, within these bounds.
const SEGMENTS: u64 = 10;
const SPAN_MS: (u64, u64) = (300, 2000);
const SEGMENT: u64 = 1448;
/// What it wants is what it moved, and one part of so many: one that takes its share wants more.
const MORE: u64 = 8;
/// A connection that moved nothing for so long wants nothing, ms.
const SILENT_MS: u32 = 500;
/// One with more than so many bytes to send wants all it can get.
const PENDING: u32 = 4 * 1448;
/// Smaller changes are not worth two system calls: one part of so many.
const NOTABLE_PACE: u64 = 64;
const NOTABLE_WINDOW: u64 = 16;

/// What a connection is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Told {
    pace: Option<u64>,
    window: Option<u32>,
}

/// What it wants of the rate of one direction.
#[derive(Debug, Clone, Copy)]
struct Demand {
    /// Bytes per second.
    wants: u64,
    /// What it may have, bytes per second.
    share: u64,
    /// When, and at how many bytes, it was reckoned.
    mark: (Instant, u64),
}

impl Demand {
    /// What it moved in all, since when nothing, and whether more is known to wait.
    fn look(&mut self, now: Instant, moved: u64, silent_ms: u32, has_more: bool) {
        let span = (SEGMENTS * SEGMENT * 1000 / self.share.max(1)).clamp(SPAN_MS.0, SPAN_MS.1);
        let (since, before) = self.mark;
        let took = now.duration_since(since);
        let silent = silent_ms >= SILENT_MS && took >= Duration::from_millis(SPAN_MS.0);
        if took >= Duration::from_millis(span) || silent {
            let bytes = if silent { 0 } else { u128::from(moved.saturating_sub(before)) };
            let rate = (bytes * 1_000_000 / took.as_micros().max(1)) as u64;
            self.wants = rate + rate / MORE;
            self.mark = (now, moved);
        }
        if has_more {
            self.wants = ALL;
        }
    }
}

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct Steered {
    since: Instant,
    /// It was there before the limit.
    old: bool,
    /// The pace that the application chose, with its record.
    own: Option<(u64, Entry)>,
    told: Told,
    /// As [`index`] says.
    demands: [Demand; 2],
}

impl Steered {
    /// Seen for the first time; `old`: with the limit's first look. New ones are going to move
    /// something, of old ones those are that did lately.
    pub(super) fn new(now: Instant, state: &TcpState, old: bool) -> Self {
        let demand = |moved, active| Demand {
            wants: if active || !old { ALL } else { 0 },
            share: ALL,
            mark: (now, moved),
        };
        Self {
            since: now,
            old,
            own: None,
            told: Told::default(),
            demands: [
                demand(state.received, state.since_received_ms < LATELY_MS),
                demand(state.acknowledged, has_more(state)),
            ],
        }
    }

    pub(super) fn is_new(&self, now: Instant) -> bool {
        !self.old && now.duration_since(self.since) < NEW
    }

    /// What it wants of a direction's rate, bytes per second.
    pub(super) fn wants(&self, direction: Direction) -> u64 {
        self.demands[index(direction)].wants
    }

    /// Sees what it made of its share.
    pub(super) fn look(&mut self, now: Instant, state: &TcpState) {
        // With a larger buffer the kernel has set a clamp of its own (`tcp_rcv_space_adjust`).
        if self.told.window.is_some_and(|told| state.room > told) {
            self.told.window = Some(sockets::NO_CLAMP);
        }
        let [down, up] = &mut self.demands;
        down.look(now, state.received, state.since_received_ms, false);
        up.look(now, state.acknowledged, state.since_sent_ms, has_more(state));
    }

    /// What it should be told, when so much of a download may wait, and so much of uploads always does.
    pub(super) fn wanted(
        &mut self,
        wait: Duration,
        limits: &Limits,
        demands: &[Demands; 2],
        standing: Option<Duration>,
        state: &TcpState,
    ) -> Told {
        let mut share = |direction: Direction, limit: Limit| {
            let at = index(direction);
            let own = &mut self.demands[at];
            own.share = demands[at].share(limit.rate.bytes_per_second(), own.wants);
            own.share
        };
        let window = limits
            .download
            .map(|limit| share::window(share(Direction::Download, limit), state.rtt_us, wait));
        let pace = limits.upload.map(|limit| match standing {
            Some(standing) => share::pace(share(Direction::Upload, limit), standing),
            None => limit.rate.bytes_per_second(),
        });
        let own = self.own_pace().unwrap_or(sockets::NO_PACE);
        Told { pace: pace.map(|pace| pace.max(1).min(own)), window }
    }

    /// Whether it was told about as much.
    pub(super) fn has(&self, wanted: Told) -> bool {
        same_pace(self.told, wanted) && same_window(self.told, wanted)
    }

    /// Tells it. A pace that the application chose is recorded before.
    pub(super) fn tell(
        &mut self,
        journal: &Journal,
        backend: BackendId,
        cookie: u64,
        fd: &OwnedFd,
        wanted: Told,
    ) -> Result<()> {
        if let Some(pace) = wanted.pace
            && !same_pace(self.told, wanted)
        {
            let now = sockets::pace(fd)?;
            if now != self.told.pace.unwrap_or(sockets::NO_PACE) {
                // The application has chosen it, meanwhile or before.
                let undo = Undo::Pace { cookie, rate: now };
                let before = self.own.replace((now, journal.record(Some(backend), &undo)?));
                before.map_or(Ok(()), |(_, entry)| journal.done(entry))?;
            }
            let pace = pace.min(self.own_pace().unwrap_or(sockets::NO_PACE));
            let set = if pace == now { Ok(()) } else { sockets::set_pace(fd, pace) };
            if is_done(&set) {
                self.told.pace = Some(pace);
            }
        }
        if let Some(window) = wanted.window
            && !same_window(self.told, wanted)
            && is_done(&sockets::set_window_clamp(fd, window))
        {
            self.told.window = Some(window);
        }
        Ok(())
    }

    /// Whether anything was changed.
    pub(super) fn is_changed(&self) -> bool {
        self.told != Told::default()
    }

    /// The pace that the application chose.
    pub(super) fn own_pace(&self) -> Option<u64> {
        self.own.map(|(own, _)| own)
    }

    /// The record of that.
    pub(super) fn into_entry(self) -> Option<Entry> {
        self.own.map(|(_, entry)| entry)
    }
}

/// Whether it would send more if it might.
fn has_more(state: &TcpState) -> bool {
    state.unsent > PENDING && !state.stalled
}

/// One that was closed a moment ago takes nothing, nor does one of MPTCP.
fn is_done(set: &Result<()>) -> bool {
    if let Err(error) = set {
        debug!("{error}");
    }
    set.is_ok()
}

/// Whether it was told so much, or within one part of so many of it.
fn same<T: Into<u64>>(told: Option<T>, wanted: Option<T>, parts: u64) -> bool {
    match (told.map(Into::into), wanted.map(Into::into)) {
        (Some(told), Some(wanted)) => told.abs_diff(wanted) <= told / parts,
        (None, Some(_)) => false,
        (_, None) => true,
    }
}

fn same_pace(told: Told, wanted: Told) -> bool {
    same(told.pace, wanted.pace, NOTABLE_PACE)
}

fn same_window(told: Told, wanted: Told) -> bool {
    same(told.window, wanted.window, NOTABLE_WINDOW)
}
