//! How much each process moves, without limiting anything.
//!
//! Two ways. A program that only counts, attached to the root cgroup: every protocol, every
//! network namespace, and processes that come and go between two samples. Or, where that does
//! not load or is not wanted, the byte counters that `sock_diag` shows: TCP only, only our own
//! network namespace, and only connections that are open when they are looked at.
//!
//! Both count payload and leave loopback out.

mod counting;
mod listing;
mod sys;

use std::{collections::HashMap, time::Instant};

use chadthrottle_core::{Host, Result};

use counting::Counting;
use listing::Listing;

/// What one process moved since the meter started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tally {
    /// Its name, as in /proc/PID/comm.
    pub name: String,
    /// When it started, nanoseconds after boot; 0 when unknown. With the pid it names a process
    /// for ever.
    pub started: u64,
    /// How many IP sockets it holds; 0 also when it has ended.
    pub sockets: u32,
    /// Payload bytes to it.
    pub received: u64,
    /// Payload bytes from it.
    pub sent: u64,
}

/// What passed one socket since the meter started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SocketTally {
    /// A process that holds it.
    pid: i32,
    /// `SO_COOKIE`.
    pub cookie: u64,
    /// Payload bytes that arrived.
    pub received: u64,
    /// Payload bytes that left.
    pub sent: u64,
}

/// All processes with IP sockets at one moment.
#[derive(Debug, Clone)]
pub struct Sample {
    /// When it was taken.
    pub at: Instant,
    /// By pid. Processes that had sockets and have ended are in it once.
    pub processes: HashMap<i32, Tally>,
    /// Payload bytes to and from sockets whose process is not known.
    pub unknown: (u64, u64),
    /// Sorted by the process that holds them.
    sockets: Vec<SocketTally>,
}

impl Sample {
    /// The sockets that a process holds.
    #[must_use]
    pub fn sockets(&self, pid: i32) -> &[SocketTally] {
        let start = self.sockets.partition_point(|socket| socket.pid < pid);
        let rest = &self.sockets[start..];
        &rest[..rest.partition_point(|socket| socket.pid == pid)]
    }

    /// How many sockets there are, one that several processes hold counted each time.
    #[must_use]
    pub fn socket_count(&self) -> usize {
        self.sockets.len()
    }

    fn new(at: Instant) -> Self {
        Self { at, processes: HashMap::new(), unknown: (0, 0), sockets: Vec::new() }
    }
}

/// Measures. Nothing stays in the kernel when it is dropped, nor when we are killed.
pub struct Meter {
    way: Way,
    /// Why it does not count in the kernel, when that was wanted.
    refusal: Option<String>,
}

enum Way {
    Counting(Box<Counting>),
    Listing(Box<Listing>),
}

impl Meter {
    /// Counts in the kernel if that is wanted and works, else lists.
    ///
    /// Counting needs kernel 5.12 with BTF, `CAP_BPF`, `CAP_PERFMON` and `CAP_NET_ADMIN`.
    #[must_use]
    pub fn start(host: &Host, wants_counting: bool) -> Self {
        let listing = || Way::Listing(Box::new(Listing::new(host)));
        if !wants_counting {
            return Self { way: listing(), refusal: None };
        }
        match Counting::start(host) {
            Ok(counting) => Self { way: Way::Counting(Box::new(counting)), refusal: None },
            Err(error) => Self { way: listing(), refusal: Some(error.to_string()) },
        }
    }

    /// Whether a program in the kernel counts.
    #[must_use]
    pub fn is_counting(&self) -> bool {
        matches!(self.way, Way::Counting(_))
    }

    /// Why none does although it was wanted.
    #[must_use]
    pub fn refusal(&self) -> Option<&str> {
        self.refusal.as_deref()
    }

    /// What was moved so far.
    pub fn sample(&mut self) -> Result<Sample> {
        match &mut self.way {
            Way::Counting(counting) => counting.sample(),
            Way::Listing(listing) => listing.sample(),
        }
    }
}
