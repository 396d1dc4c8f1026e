//! What is known of a socket and its limit, and what is decided.

use core::num::NonZeroU64;

/// What a socket shows when it is about to send a segment.
#[derive(Debug, Clone, Copy)]
#[allow(clippy::struct_excessive_bools, reason = "each is one fact that was seen")]
pub struct Seen {
    /// The time, ns.
    pub now: u64,
    /// The next byte expected: `rcv_nxt`.
    pub next: u32,
    /// The right edge advertised so far: `rcv_wup + rcv_wnd`.
    pub right: u32,
    /// The window advertised last: `rcv_wnd`.
    pub window: u32,
    /// Segment size of the sender as estimated by the kernel, bytes; 0 = unknown.
    pub mss: u32,
    /// Smoothed round trip, ns.
    pub round_trip: u64,
    /// Any number: keeps sockets from closing and opening in step.
    pub random: u32,
    /// The numbers are those of an MPTCP connection, see [`crate::layout::Edge::firm`].
    pub firm: bool,
    /// By how many bits the window is shifted.
    pub scale: u32,
    /// Our program is on the interfaces: what the sender sees can be less than what is offered.
    pub wired: bool,
    /// User space opens a closed window when that is earned ([`crate::wire::Promise`]).
    pub clocked: bool,
    /// The segment carries no data: there is room for an option in its header, which is what
    /// calls us once more when the window is chosen.
    pub bare: bool,
}

/// What the limit tells its sockets.
#[derive(Debug, Clone, Copy)]
pub struct Shared {
    /// Bytes per second of the whole limit.
    pub rate: NonZeroU64,
    /// Sockets that use their permits.
    pub sockets: NonZeroU64,
    /// [`crate::clock::balance`] of what arrived.
    pub balance: i64,
    /// When the first packet after a pause of all its sockets arrived, ns; 0 = none yet.
    pub begun: u64,
}

/// What to do with the socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Grant {
    /// The clamp for the segment that is about to be sent, bytes.
    pub window: u32,
    /// Lift the clamp at once after it: the window may grow with the next segment. The
    /// kernel lowers its threshold with the clamp, but raises it only as data arrive.
    pub lift: bool,
    /// The sender was stopped.
    pub closed: bool,
    /// The socket uses its permits: count it as active.
    pub greedy: bool,
    /// The clamp once the window is chosen, bytes; 0 = it stays.
    pub then: u32,
}
