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

/// Map `TAGS` (SK_STORAGE, BPF_F_CLONE): which limit a socket is under. Also the value of
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
    /// 0: accepted sockets keep the tag they inherit. Else SO_COOKIE of the only socket that
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

/// Map `GLOBAL` (ARRAY of 1).
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Global {
    /// Bit n: some cgroup in `CGROUPS` is at depth n (the root is 0). 0: none, do not look.
    pub cgroup_levels: u64,
    /// Incremented when `CGROUPS` changes: what was found to be under no limit is looked up
    /// again.
    pub generation: u32,
    /// What the iterator over TCP sockets does: [`ADOPT`] or [`RESTORE`].
    pub iterator: u32,
    /// Which limit it does it for: slot + 1, or 0 for all.
    pub iterator_limit: u32,
    /// Keeps the size a multiple of 8.
    pub reserved: u32,
}

/// Tagged sockets that were open before get their callbacks and first pace.
pub const ADOPT: u32 = 1;
/// Sockets that we paced or clamped get back what they had.
pub const RESTORE: u32 = 2;
