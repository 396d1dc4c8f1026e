//! Delay between two network namespaces, for kernels without netem.
//!
//! A TUN device in each namespace; what is read from one is written to the other after a
//! fixed time. Nothing is lost below [`QUEUE`] packets.

use std::{
    collections::VecDeque,
    fs::File,
    io::{self, Read, Write},
    path::Path,
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    thread::{LinkNameSpaceType, move_into_link_name_space},
};

use crate::sys;

/// Packets under way in one direction: 30 ms at 25 Gbit/s, far above what a TUN carries.
const QUEUE: usize = 65_536;
/// A TUN packet is at most its device's MTU, 1500 here.
const PACKET: usize = 2048;
/// How many packets are taken from one side before the other has its turn.
const TURN: usize = 256;

/// The name of the TUN device in either namespace.
pub const DEVICE: &str = "delay";

/// One direction: packets and when each is due.
struct Way {
    from: File,
    to: File,
    queue: VecDeque<(Instant, Vec<u8>)>,
}

impl Way {
    fn new(from: &File, to: &File) -> io::Result<Self> {
        Ok(Self { from: from.try_clone()?, to: to.try_clone()?, queue: VecDeque::new() })
    }

    /// Takes in what has arrived.
    fn receive(&mut self, delay: Duration, buffer: &mut [u8]) {
        for _ in 0..TURN {
            if self.queue.len() >= QUEUE {
                return;
            }
            match self.from.read(buffer) {
                Ok(len) if len > 0 => {
                    self.queue.push_back((Instant::now() + delay, buffer[..len].to_vec()));
                }
                // Empty for now; a device that is down says EIO until it is up.
                _ => return,
            }
        }
    }

    /// Hands on what is due; a full device drops, as a link does. Returns when the next is due.
    fn deliver(&mut self, now: Instant) -> Option<Instant> {
        while let Some((due, packet)) = self.queue.front() {
            if *due > now {
                return Some(*due);
            }
            if let Err(error) = self.to.write(packet)
                && error.kind() != io::ErrorKind::WouldBlock
            {
                eprintln!("relay: packet of {} bytes dropped: {error}", packet.len());
            }
            self.queue.pop_front();
        }
        None
    }
}

/// Makes the TUN device within a namespace; this thread is in that namespace afterwards.
fn device(namespace: &Path) -> io::Result<File> {
    let namespace = File::open(namespace)?;
    move_into_link_name_space(
        std::os::fd::AsFd::as_fd(&namespace),
        Some(LinkNameSpaceType::Network),
    )?;
    sys::open_tun(DEVICE)
}

/// Connects two namespaces (their files, usually under /run/netns) and relays for ever.
///
/// Prints `up` once both devices exist. Whoever starts it gives them addresses.
pub fn run(near: &Path, far: &Path, one_way: Duration) -> io::Result<()> {
    let (near, far) = (device(near)?, device(far)?);
    println!("up");
    let mut ways = [Way::new(&near, &far)?, Way::new(&far, &near)?];
    let mut buffer = vec![0; PACKET];
    loop {
        let now = Instant::now();
        let next = ways.iter_mut().filter_map(|way| way.deliver(now)).min();
        let wait = next.map_or(Duration::from_millis(100), |due| due - now);
        let timeout = Timespec::try_from(wait).expect("a short time");
        let mut ready = [PollFd::new(&near, PollFlags::IN), PollFd::new(&far, PollFlags::IN)];
        poll(&mut ready, Some(&timeout))?;
        for way in &mut ways {
            way.receive(one_way, &mut buffer);
        }
    }
}
