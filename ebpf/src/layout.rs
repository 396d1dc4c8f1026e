//! What lies in the maps: written by user space, read by the kernel programs, and back.
//!
//! Every struct is `repr(C)`, without padding, and all zeroes mean "pass".

/// Limits that one engine can serve at a time. `RATES` and `GROUPS` have two entries each:
/// `slot * 2 + direction`.
pub const MAX_LIMITS: u32 = 1024;
/// Index offset of the download direction (ingress).
pub const DOWNLOAD: u32 = 0;
/// Index offset of the upload direction (egress).
pub const UPLOAD: u32 = 1;

/// Map `TAGS` (`SK_STORAGE`, `BPF_F_CLONE)`: which limit a socket is under. Also the value of
/// `TGIDS` (HASH, tgid -> the tag for its new sockets) and `CGROUPS` (HASH, cgroup id -> the
/// tag of sockets created in it or below; `owner` is 0 in both).
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Tag {
    /// Slot + 1; 0 = under no limit.
    pub limit: u32,
    /// The tag counts only while this equals the slot's [`Rate::generation`]; of a tag with
    /// `limit` 0: [`Global::generation`] at the time it was found to be under no limit.
    pub generation: u32,
    /// 0: accepted sockets keep the tag they inherit. Else `SO_COOKIE` of the only socket that
    /// the tag is meant for: a clone on another socket is void.
    pub owner: u64,
}

/// Map `RATES` (ARRAY): what is asked for. Written by user space only, at any time.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Rate {
    /// Payload bytes per second; 0 = no limit in this direction.
    pub bytes_per_second: u64,
    /// Incremented each time the slot is given to a new limit. Both directions are the same.
    pub generation: u32,
    /// 1 while the slot is in use.
    pub in_use: u32,
}

/// How many different depths the cgroups of one engine's limits can have. Each costs a packet
/// of an unknown socket a look-up, and the verifier a round of the loop.
pub const CGROUP_DEPTHS: usize = 8;

/// Map `GLOBAL` (ARRAY of 1).
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Global {
    /// At which depths there are cgroups in `CGROUPS`, deepest first: depth + 1 (the root is
    /// 1), then zeroes.
    pub cgroup_depths: [u8; CGROUP_DEPTHS],
    /// Incremented when `CGROUPS` changes, and when an MPTCP socket is tagged: what was found
    /// to be under no limit is looked up again.
    pub generation: u32,
    /// What the iterator over TCP sockets does: [`ADOPT`] or [`RESTORE`].
    pub iterator: u32,
    /// Which limit it does it for: slot + 1, or 0 for all.
    pub iterator_limit: u32,
    /// Whether our program is on the interfaces, as what a socket that comes under a limit may count
    /// on: 0, [`LINKING`] or [`LINKED`].
    pub wired: u32,
    /// 1 while user space sends what is in `KEPT`.
    pub clocked: u32,
    /// No meaning.
    pub padding: u32,
}

/// Map `GROUPS` (ARRAY): what goes on under one limit in one direction, two entries a slot as
/// in `RATES`. User space zeroes an entry before it gives the slot to a limit, and reads the
/// counters. `Word` is `u64` there and an atomic in the kernel.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Group<Word = u64> {
    /// Packets with payload that passed; one GSO packet is one.
    pub packets: Word,
    /// Payload bytes that passed.
    pub bytes: Word,
    /// Packets that the backstop refused.
    pub dropped: Word,
    /// When all that passed is paid for, ns of the monotonic clock; see [`crate::clock`].
    pub clock: Word,
    /// The rate that the clock runs at.
    pub clock_rate: Word,
    /// When the last packet passed, ns.
    pub last: Word,
    /// When the first packet after a pause passed, ns.
    pub begun: Word,
    /// When a download of this limit was last stopped by a closed window, ns.
    pub last_close: Word,
    /// The largest round trip lately, ns.
    pub round_trip: Word,
    /// [`crate::active::Active`], packed.
    pub active: Word,
}

/// Map `FLOWS` (`SK_STORAGE)`: what we changed on a TCP socket, and what to give back.
///
/// User space may read it through a socket's fd; only the kernel programs write it.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Flow {
    /// The permits granted so far.
    pub edge: Edge,
    /// The limit this state belongs to: slot + 1, and its generation.
    pub limit: u32,
    /// See `limit`.
    pub generation: u32,
    /// What is in force: [`PACED`], [`CLAMPED`], [`LOCAL`], [`NARROW`], [`JOINED`], [`PLAIN`].
    pub state: u32,
    /// Callback flags that we added; those of others are not among them.
    pub callbacks: u32,
    /// The application's own `SO_MAX_PACING_RATE`, `u32::MAX` for none.
    pub original_pace: u32,
    /// The one that we set last.
    pub pace: u32,
    /// Epochs in which the socket was last counted as active: download, upload.
    pub epochs: [u32; 2],
}

/// The part of [`Flow`] that [`crate::edge`] works on.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Edge {
    /// When the tokens were last counted, ns; 0 = not begun.
    pub at: u64,
    /// When the window was last closed, ns; 0 = never.
    pub closed_at: u64,
    /// The limit's rate that the tokens are of, bytes per second.
    pub rate: u64,
    /// Bytes that may still be granted; negative: granted on credit.
    pub tokens: i64,
    /// Right edge of the window (sequence number) when the tokens were last counted.
    pub right: u32,
    /// The next byte expected then (sequence number).
    pub next: u32,
    /// Until when `given` counts, ns; 0 = not begun.
    pub given_until: u64,
    /// Bytes that may still arrive free of charge: the sender was allowed to send them before
    /// this limit or its present rate came.
    pub given: u32,
    /// The clamp to set once the segment that is about to be sent has its window, bytes; 0 = none.
    pub then: u32,
    /// When data arrived last, ns.
    pub arrived: u64,
    /// The right edge that the sender may see (sequence number); see [`crate::wire`].
    pub wire: u32,
    /// The right edge that it was shown last.
    pub shown: u32,
    /// By how many bits the socket's windows are shifted.
    pub scale: u32,
    /// How many more segments may go past the program on the interfaces before it counts as
    /// absent; 0 = absent.
    pub passed: u32,
    /// 1 while `right` is what the sender was shown, 0 while it is what the kernel offered.
    pub wired: u32,
    /// 1 when the numbers are those of the data of an MPTCP connection, whose sender takes no
    /// window back.
    pub firm: u32,
    /// Until when the window stays closed, ns: then [`crate::wire::Promise`] is shown.
    pub due: u64,
    /// The right edge (sequence number) that is shown then.
    pub promised: u32,
    /// No meaning.
    pub padding: u32,
}

/// The longest segment without data that is kept: Ethernet with a VLAN tag, IPv6, 60 bytes of TCP.
pub const KEPT_BYTES: usize = 128;

/// Map `KEPT` (RINGBUF): an acknowledgement that user space sends again when its window is earned.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kept {
    /// When, ns of the monotonic clock.
    pub due: u64,
    /// The inode of the network namespace.
    pub netns: u32,
    /// The interface it left by.
    pub interface: u32,
    /// Its `EtherType`, in network order.
    pub protocol: u32,
    /// Its bytes in `frame`, from the link header on.
    pub length: u32,
    /// Where its IP header starts ...
    pub network: u32,
    /// ... and its TCP header.
    pub transport: u32,
    /// The window field that it shall have.
    pub window: u32,
    /// The slot of its limit.
    pub slot: u32,
    /// The segment.
    pub frame: [u8; KEPT_BYTES],
}

/// [`Global::wired`]: in a moment it is, soon enough for connections that are open.
pub const LINKING: u32 = 1;
/// [`Global::wired`]: it is. A new connection is shown its first windows.
pub const LINKED: u32 = 2;

/// [`Flow::state`]: `SO_MAX_PACING_RATE` is ours.
pub const PACED: u32 = 1;
/// [`Flow::state`]: `TCP_WINDOW_CLAMP` is ours.
pub const CLAMPED: u32 = 2;
/// [`Flow::state`]: a packet went over loopback; the socket is left alone from then on.
pub const LOCAL: u32 = 4;
/// [`Flow::state`]: the clamp holds the window down.
pub const NARROW: u32 = 8;
/// [`Flow::state`]: a subflow of MPTCP. Its connection has the permits, in the [`Flow`] of the MPTCP
/// socket, and all its subflows use them.
pub const JOINED: u32 = 16;
/// [`Flow::state`]: its segments have shown to be plain TCP, though it is a subflow of MPTCP: the
/// peer does not speak it.
pub const PLAIN: u32 = 32;

/// Map `LISTENERS` (HASH, local port in host order -> slot + 1): gives the first window of
/// accepted sockets, where the kernel shows no socket yet. Filled in when a tagged socket
/// listens, and by user space for listeners that were open before; user space removes it.
pub type Listener = u32;

/// [`Global::iterator`]: tagged sockets that were open before get their callbacks and first
/// pace; those that have them get the present rate at once. The iterator over TCP sockets
/// sees one network namespace, that of whoever reads it.
pub const ADOPT: u32 = 1;
/// [`Global::iterator`]: sockets that we paced or clamped get back what they had. With any
/// other value too, sockets that no valid tag holds any more do.
pub const RESTORE: u32 = 2;
