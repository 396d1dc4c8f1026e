//! What the TCP sockets of processes moved, as the sockets themselves count it: independent of
//! whoever limits them.

use std::{collections::HashMap, os::fd::AsFd};

use chadthrottle_core::{Host, Target, cgroup, process::Process};
use rustix::net::{SocketAddrAny, getpeername};

use super::{Protocol, describe, grab, inodes_of, sys};

/// So many sockets are looked at: enough to see whether anything moves.
const ENOUGH: usize = 128;

/// Payload of TCP since the first look, loopback left out.
#[derive(Debug, Default)]
pub struct Traffic {
    /// By cookie, what was read last.
    known: HashMap<u64, Moved>,
    total: Moved,
}

/// Bytes of payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Moved {
    /// `tcpi_bytes_received`: arrived in order.
    pub received: u64,
    /// `tcpi_bytes_acked`: sent, and the peer has it.
    pub sent: u64,
}

impl Traffic {
    /// Looks at the sockets of these targets, and returns what moved between the looks. A socket
    /// counts from the first look at it on. What cannot be read does not count.
    pub fn look(&mut self, host: &Host, targets: &[Target]) -> Moved {
        let mut left = ENOUGH;
        for process in processes(host, targets) {
            self.look_at(host, &process, &mut left);
            if left == 0 {
                break;
            }
        }
        self.total
    }

    fn look_at(&mut self, host: &Host, process: &Process, left: &mut usize) {
        for (number, inode) in inodes_of(host, process.key.pid).unwrap_or_default() {
            if *left == 0 {
                return;
            }
            let Ok(Some(socket)) = grab(process, number, inode) else { continue };
            let Some(info) = describe(&socket) else { continue };
            if info.protocol != Protocol::Tcp || info.listening || is_loopback(&socket) {
                continue;
            }
            let Ok((sent, received)) = sys::tcp_bytes(socket.as_fd()) else { continue };
            *left -= 1;
            let now = Moved { received, sent };
            let before = self.known.insert(info.cookie, now).unwrap_or(now);
            self.total.received += received.saturating_sub(before.received);
            self.total.sent += sent.saturating_sub(before.sent);
        }
    }
}

fn processes(host: &Host, targets: &[Target]) -> Vec<Process> {
    let mut processes = Vec::new();
    for target in targets {
        let pids = match target {
            Target::Process(process) => {
                let mut pids: Vec<i32> =
                    process.children(host).into_iter().map(|key| key.pid).collect();
                pids.push(process.key.pid);
                pids
            }
            Target::Cgroup(target) => cgroup::processes(&target.path).unwrap_or_default(),
        };
        processes.extend(pids.into_iter().filter_map(|pid| Process::open(host, pid).ok()));
    }
    processes
}

fn is_loopback(socket: impl AsFd) -> bool {
    let Ok(Some(peer)) = getpeername(socket).map(|peer: Option<SocketAddrAny>| peer) else {
        return true;
    };
    std::net::SocketAddr::try_from(peer)
        .is_ok_and(|peer| peer.ip().to_canonical().is_loopback())
}
