//! What the counting program and user space share. It limits nothing: it tells which process
//! moves how much payload, loopback left out.
//!
//! Every struct is `repr(C)`, without padding.

/// Processes that can be told apart at a time; those beyond are counted under tgid 0.
pub const MAX_PROCESSES: u32 = 32768;
/// Bytes of a process's name, the closing zero included (`TASK_COMM_LEN`).
pub const NAME: usize = 16;

/// Map `OWNERS` (`SK_STORAGE`, `BPF_F_CLONE`): whose a socket is, and what passed through it. An
/// accepted socket starts as a copy of its listener, which never carries payload itself.
/// `Word` is `u64` in user space and an atomic in the kernel, here and below.
#[repr(C)]
#[derive(Debug, Default)]
pub struct Owner<Word = u64> {
    /// The process; 0 = not known yet.
    pub tgid: u32,
    /// The visit in which the owner was seen to hold it; within one visit the first is kept.
    pub visit: u32,
    /// Payload bytes that arrived.
    pub received: Word,
    /// Payload bytes that left.
    pub sent: Word,
}

/// Map `PROCESSES` (HASH, tgid -> this). Entry 0 is what no process is known for.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Process<Word = u64> {
    /// Payload bytes that arrived.
    pub received: Word,
    /// Payload bytes that left.
    pub sent: Word,
    /// Its name when it first created a socket, or was first seen to hold one.
    pub name: [u8; NAME],
}

/// What the iterator over all open files writes for each IP socket of each process.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Held {
    /// `SO_COOKIE`.
    pub cookie: u64,
    /// As [`Owner::received`].
    pub received: u64,
    /// As [`Owner::sent`].
    pub sent: u64,
    /// When the process started, nanoseconds after boot.
    pub started: u64,
    /// Its name now.
    pub name: [u8; NAME],
    /// Who holds the socket.
    pub tgid: u32,
    /// Whose the socket's bytes are counted as: of several that hold it, the first.
    pub owner: u32,
}

/// Bytes of a [`Held`].
pub const HELD: usize = size_of::<Held>();

impl Held {
    /// Reads one as the iterator wrote it.
    #[must_use]
    pub fn parse(bytes: &[u8; HELD]) -> Self {
        let at = |at: usize| array(bytes, at);
        Self {
            cookie: u64::from_ne_bytes(at(0)),
            received: u64::from_ne_bytes(at(8)),
            sent: u64::from_ne_bytes(at(16)),
            started: u64::from_ne_bytes(at(24)),
            name: array(bytes, 32),
            tgid: u32::from_ne_bytes(array(bytes, 48)),
            owner: u32::from_ne_bytes(array(bytes, 52)),
        }
    }
}

/// `N` bytes at `start`, zeroes beyond the end.
fn array<const N: usize>(bytes: &[u8], start: usize) -> [u8; N] {
    core::array::from_fn(|n| bytes.get(start + n).copied().unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_read_as_it_lies_in_memory() {
        assert_eq!(HELD, 56);
        assert_eq!(core::mem::offset_of!(Held, name), 32);
        assert_eq!(core::mem::offset_of!(Held, owner), 52);
        let bytes: [u8; HELD] = core::array::from_fn(|n| n as u8);
        let held = Held::parse(&bytes);
        assert_eq!(held.cookie, u64::from_ne_bytes([0, 1, 2, 3, 4, 5, 6, 7]));
        assert_eq!((held.name[0], held.name[15]), (32, 47));
        assert_eq!(held.owner, u32::from_ne_bytes([52, 53, 54, 55]));
    }
}
