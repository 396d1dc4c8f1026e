//! Downloads: how far a socket moves the right edge of its receive window, so that the
//! sender may send at the rate of the limit and no faster ("edge grants").
//!
//! A TCP sender may only send up to acknowledgement + window: a permit counter. At every outgoing
//! segment the socket's tokens earn its share of the rate and are charged with what was really
//! advertised; the window offered is what is outstanding plus the tokens. No round-trip estimate
//! sets the rate.
//!
//! A socket without tokens closes its window with nothing in flight, so that nothing is lost and
//! nothing retransmitted. When the next one is earned user space opens it ([`clocked`]). Without
//! that clock the socket first gets one segment on credit, down to a small debt; closed, it still
//! takes less than a segment, and the sender's persist timer (about 200 ms) sends that and asks again.
//!
//! What is granted is shown on the wire ([`crate::wire`]); where that cannot be, it is offered by
//! the kernel, through the clamp of its window. A lowered clamp lowers the kernel's threshold
//! (`rcv_ssthresh`) as well, and a raised one raises it to no more than the window advertised last:
//! it grows only with data that arrive while the clamp is wide. So the clamp is lifted as soon as
//! the closed window is chosen, and the first probe opens it. Lifted together with the closing,
//! before the window is chosen, it would take the closing back.

mod backstop;
mod clocked;
mod handover;
mod terms;

use core::num::NonZeroU64;

pub use backstop::{Standing, Times, slack};
pub use terms::{Grant, Seen, Shared};

use crate::{
    branchless,
    clock::{MILLISECOND, SECOND, bytes_in, time_of},
    layout::Edge,
    packet::MSS,
};

/// The smallest clamp the kernel takes (half of its smallest receive buffer): less than a
/// segment, so a sender that waits for a full one stops.
pub const CLOSED: u32 = 1152;
/// A clamp that gives the window back to the kernel's own tuning.
pub const UNCLAMPED: u32 = 1 << 30;

/// An error of this much corrects the share by 100 %, besides two segments per socket.
const FULL_SCALE: u64 = 500 * MILLISECOND;
/// A closed socket still gets [`CLOSED`] bytes with each probe: so many bytes a second.
const LEAK: u64 = CLOSED as u64 * 1000 / 208;
/// What is granted at least, ns of the share ...
const LEAST_GRANT: u64 = MILLISECOND;
/// ... up to what a sender passes down its stack at once (`GSO_LEGACY_MAX_SIZE`), bytes.
const LARGEST_SEGMENT: i64 = 65_536;
/// Debt down to which a dry socket still gets one segment a round trip ...
const DEBT: u64 = 40 * MILLISECOND;
/// ... while the limit's backlog is below this (134 ms); at twice this there is no credit any more.
const LATE: i64 = 1 << LATE_SHIFT;
const LATE_SHIFT: u32 = 27;
/// Tokens and outstanding permits are capped at two round trips and this.
const HORIZON: u64 = 60 * MILLISECOND;
/// ... and this after a close: the tokens of a pause of two persist timers are not lost.
const HORIZON_CLOSED: u64 = 1200 * MILLISECOND;
/// How long after a close that holds.
const AFTER_CLOSE: u64 = 4 * SECOND;
/// Least segment size assumed: the kernel's own estimate starts low.
const MSS_LEAST: i64 = 1000;
/// What one event can earn at most: longer gaps were idle.
const EARN: i64 = 2 * SECOND.cast_signed();
/// A sender whose window is zero asks after 0.2, 0.6, 1.4, 3 s. For how long it may be, ns: a limit that
/// ends, ends for the sender with its next question.
const LONGEST_STOP: u64 = SECOND;
/// First window: at most this many segments (64 KB), at least 2. A sender that never saw a
/// window of two segments halves its segments, and [`CLOSED`] would not close it.
const FIRST_WINDOW: core::ops::RangeInclusive<u64> = 2..=44;

/// The largest window there is: 65535 << 14 (RFC 7323), rounded up.
const LARGEST_WINDOW: u32 = 1 << 30;

/// The clamp that leaves room for the rate but keeps the window scale small: with `tcp_rmem` of
/// 32 MB windows come in units of 1024 bytes, and [`CLOSED`] would be 2048, not closed.
#[inline]
#[must_use]
pub const fn widest(rate: NonZeroU64) -> u32 {
    if rate.get() > 20_000_000 { 8_388_607 } else { 4_194_303 }
}

/// The first window in segments: 20 ms of the share.
#[inline]
#[must_use]
pub fn first_window(rate: NonZeroU64, sockets: NonZeroU64) -> u32 {
    (rate.get() / 50 / 1460 / sockets).clamp(*FIRST_WINDOW.start(), *FIRST_WINDOW.end()) as u32
}

/// Whether [`CLOSED`] bytes with each probe are more than a share.
#[inline]
const fn leaks(shared: &Shared) -> bool {
    shared.rate.get() < LEAK * shared.sockets.get()
}

impl Edge {
    /// Whether what was offered cannot be taken back.
    #[inline]
    const fn keeps(&self) -> bool {
        self.wired == 0 || self.firm != 0
    }

    /// Whether more is outstanding than a limit grants, from the time before it.
    #[inline]
    const fn drains(&self, outstanding: i64, cap: i64) -> bool {
        self.keeps() && self.given_until != 0 && outstanding > cap
    }

    /// Whether the window was closed lately.
    #[inline]
    const fn was_closed(&self, now: u64) -> bool {
        self.closed_at != 0 && now.wrapping_sub(self.closed_at) < AFTER_CLOSE
    }

    /// How far ahead a socket may be granted, ns.
    #[inline]
    const fn horizon(&self, now: u64, round_trip: u64) -> u64 {
        2 * round_trip + HORIZON + if self.was_closed(now) { HORIZON_CLOSED } else { 0 }
    }

    /// Stops the sender.
    #[inline]
    fn close(&mut self, shared: &Shared, seen: &Seen) -> Grant {
        // A probe of a window of zero brings nothing, but the next one takes twice as long.
        let stopped = seen.now.wrapping_sub(self.arrived) < LONGEST_STOP;
        let none = leaks(shared) && stopped || seen.now < self.due;
        let leak = if none { 0 } else { CLOSED };
        self.wire = seen.next.wrapping_add(leak);
        let then = if seen.bare { widest(shared.rate) } else { 0 };
        Grant { window: CLOSED, lift: false, closed: true, greedy: false, then }
    }

    /// What the sender knows of the window.
    #[inline]
    fn as_the_sender(&mut self, seen: &Seen) -> Seen {
        let wired = self.passed > 0;
        self.passed = self.passed.saturating_sub(1);
        let right = if wired { self.shown } else { seen.right };
        if u32::from(wired) != self.wired {
            self.wired = u32::from(wired);
            self.right = right;
        }
        // What was under way when less was shown was not granted, and what was granted was
        // overtaken by it.
        let beyond = seen.next.wrapping_sub(right).cast_signed();
        if wired && beyond > 0 {
            self.tokens = branchless::max(self.tokens, 0);
            self.right = seen.next;
            self.shown = seen.next;
        }
        Seen { right: if wired { self.shown } else { right }, ..*seen }
    }
}

/// The socket's share of the rate, bytes per second: corrected by up to -70 and +100 % by
/// what arrived in all.
#[inline]
#[must_use]
pub fn share(shared: &Shared) -> u64 {
    let scale = FULL_SCALE + time_of(2 * MSS * shared.sockets.get(), shared.rate);
    let slowest = (scale * 7 / 10).cast_signed();
    let error = branchless::clamp(shared.balance, -scale.cast_signed(), slowest);
    let corrected = (scale.cast_signed() - error).cast_unsigned();
    // In microseconds the product fits.
    shared.rate.get() / shared.sockets * (corrected / 1000) / (scale / 1000)
}

/// What a sender may still send, bytes.
#[inline]
fn outstanding(right: u32, next: u32) -> i64 {
    branchless::max(i64::from(right.wrapping_sub(next).cast_signed()), 0)
}

/// What a socket earns from `at` to `now`, bytes.
#[inline]
fn earned(now: u64, at: u64, share: u64) -> i64 {
    let elapsed = branchless::clamp(now.wrapping_sub(at).cast_signed(), 0, EARN);
    bytes_in(elapsed.cast_unsigned(), share).cast_signed()
}

/// Decides the window of the segment that is about to be sent.
#[inline]
#[must_use]
pub fn grant(edge: &mut Edge, shared: &Shared, seen: &Seen) -> Grant {
    let seen = &edge.as_the_sender(seen);
    let mss = branchless::max(i64::from(seen.mss), MSS_LEAST);
    let share = share(shared);
    if edge.rate != shared.rate.get() {
        // Tokens of another rate: a debt would stall a slower limit for long.
        edge.rate = shared.rate.get();
        edge.tokens = 0;
        edge.right = seen.right;
        edge.at = seen.now;
        edge.due = 0;
        edge.give(seen.right.wrapping_sub(seen.next), seen.now);
    }
    let clocked = seen.clocked && edge.wired != 0;
    if clocked && edge.waits(seen, mss) {
        return edge.close(shared, seen);
    }

    let full = bytes_in(edge.horizon(seen.now, seen.round_trip), share).cast_signed();
    let cap = branchless::min(full + 3 * mss, i64::from(widest(shared.rate)));

    let received = seen.next != edge.next;
    let moved = seen.right.wrapping_sub(edge.right).cast_signed();
    let outstanding = outstanding(seen.right, seen.next);
    // What is shown can be taken back, what is offered cannot.
    let outstanding =
        if edge.keeps() { outstanding } else { branchless::min(outstanding, cap) };
    // No window is larger: what we remember is of another state of the socket.
    let advertised = if moved.unsigned_abs() > LARGEST_WINDOW { 0 } else { moved };
    // Many sockets that waited together would each have a horizon of tokens at once.
    let waited = edge.at < shared.begun && !edge.was_closed(seen.now) && edge.due <= edge.at;
    let (kept, since) = if waited {
        (branchless::min(edge.tokens, 0), shared.begun)
    } else {
        (edge.tokens, edge.at)
    };
    let tokens = kept - i64::from(advertised) + earned(seen.now, since, share);
    let tokens = branchless::min(tokens, full + 2 * mss);
    // Permits of the time before take seconds to be used up where the sender is slow or what it
    // sends is dropped. What is left of them is all that this socket owes.
    let tokens = if edge.drains(outstanding, cap) { 0 } else { tokens };
    edge.tokens = tokens;
    edge.right = seen.right;
    edge.next = seen.next;
    edge.at = seen.now;
    if received {
        edge.arrived = seen.now;
    }

    let room = branchless::max(cap - outstanding, 0);
    let window = outstanding + branchless::clamp(tokens, 0, room);
    let jitter = mss * i64::from(seen.random & 1023) / 1024;
    let debt = mss / 2 + jitter + bytes_in(DEBT, share).cast_signed();
    let late = branchless::clamp(shared.balance - LATE, 0, LATE);
    // In milliseconds the product fits.
    let debt = (debt * ((LATE - late) >> 20)) >> (LATE_SHIFT - 20);
    // Where probes of a window of zero are the clock, a segment is earned before it is granted.
    let debt = if edge.wired != 0 && leaks(shared) { -jitter } else { debt };
    let debt = if clocked { clocked::debt(shared, seen, share, mss) } else { debt };
    // Segment by segment a fast limit would cost more processor time than it moves data.
    let least = if edge.wired == 0 {
        mss
    } else {
        branchless::clamp(bytes_in(LEAST_GRANT, share).cast_signed(), mss, LARGEST_SEGMENT)
    };
    let closed = window < mss && tokens <= -debt;
    // A socket that only sends needs no share.
    let greedy = received && outstanding < cap;
    if closed {
        if clocked {
            edge.promise(shared, seen, share, mss, outstanding);
        } else {
            edge.closed_at = seen.now;
        }
        return Grant { greedy, ..edge.close(shared, seen) };
    }
    let window = branchless::max(window, least).cast_unsigned() as u32;
    // Rounded down to the window's unit less than a segment could be left of one.
    let creeps = edge.firm == 0 || i64::from(window) > outstanding;
    let unit = if creeps { (1 << (edge.scale & 15)) - 1 } else { 0 };
    edge.wire = seen.next.wrapping_add(window).wrapping_add(unit);
    Grant { window, lift: window >= seen.window, closed, greedy, then: 0 }
}

#[cfg(test)]
mod tests;
