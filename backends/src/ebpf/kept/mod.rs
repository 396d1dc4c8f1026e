//! Acknowledgements that are sent when what they show is earned.
//!
//! Without a round trip to wait for, the sender of a download has to be stopped between bursts. Left
//! to itself it asks again after 200 ms. So the program on the interfaces
//! (`ebpf/src/kernel/wire.rs`) hands us a copy of the acknowledgement that stops it, and when to send it,
//! with an open window. It leaves by a packet socket, the way it came: through the same interface,
//! past routes and filters that it has passed already. One that is lost costs the sender its 200 ms.

mod segment;
mod waiting;

use std::{
    collections::BTreeMap,
    io,
    os::fd::{AsFd, OwnedFd},
    sync::{
        Arc,
        mpsc::{self, Receiver},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use aya::maps::{Map, MapData, RingBuf};
use chadthrottle_core::{Error, Result};
use chadthrottle_ebpf::clock::SECOND;
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
    time::{ClockId, clock_gettime},
};
use segment::Segment;
use tracing::{debug, warn};
use waiting::Waiting;

use super::maps::typed;
use crate::{
    netns::Netns,
    packet_socket::{self, Headers},
    worker::{Wake, come_first},
};

/// What they are sent by, in the network namespace of the calling thread. Needs `CAP_NET_RAW`.
pub(super) fn packet_socket() -> io::Result<OwnedFd> {
    packet_socket::open(Headers::Raw)
}

/// The thread that sends them. It ends when this is dropped.
pub(super) struct Sender {
    orders: mpsc::Sender<Order>,
    wake: Arc<Wake>,
    thread: Option<JoinHandle<()>>,
}

enum Order {
    /// Sends for sockets in the network namespace of this id, by this packet socket.
    Enter(u64, OwnedFd),
    /// Not any more.
    Leave(u64),
    /// Sends what waits for the limit of this slot.
    Hurry(u32),
    End,
}

impl Sender {
    /// Begins to send what is in the map `KEPT`.
    pub(super) fn start(kept: Map) -> Result<Self> {
        let kept: RingBuf<MapData> = typed(kept, "KEPT")?;
        let wake = Arc::new(Wake::new()?);
        let (orders, received) = mpsc::channel();
        let woken = Arc::clone(&wake);
        let thread = thread::Builder::new().name("kept".into()).spawn(move || {
            come_first();
            if let Err(error) = serve(&woken, &received, kept) {
                warn!("downloads come in bursts from here on: {error}");
            }
        });
        let thread = thread.map_err(|error| Error::io("start", "a thread", error))?;
        Ok(Self { orders, wake, thread: Some(thread) })
    }

    /// Sends for sockets in this namespace as well, by a socket of [`packet_socket`] made there.
    pub(super) fn enter(&self, netns: &Netns, socket: OwnedFd) {
        self.order(Order::Enter(netns.id(), socket));
    }

    /// No more for sockets in this one.
    pub(super) fn leave(&self, netns: &Netns) {
        self.order(Order::Leave(netns.id()));
    }

    /// Who waits under the limit of this slot hears at once of what has become of it.
    pub(super) fn hurry(&self, slot: u32) {
        self.order(Order::Hurry(slot));
    }

    fn order(&self, order: Order) {
        // It has ended, and has said why.
        if self.orders.send(order).is_ok() {
            self.wake.wake();
        }
    }
}

impl Drop for Sender {
    fn drop(&mut self) {
        self.order(Order::End);
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            warn!("the thread that sends acknowledgements panicked");
        }
    }
}

/// Sends each segment when it is due, until told to end.
fn serve(wake: &Wake, orders: &Receiver<Order>, mut kept: RingBuf<MapData>) -> io::Result<()> {
    let mut sockets = BTreeMap::new();
    let mut waiting = Waiting::default();
    loop {
        while let Some(item) = kept.next() {
            if let Some(segment) = Segment::read(&item) {
                waiting.add(segment);
            }
        }
        for order in orders.try_iter() {
            match order {
                Order::Enter(netns, socket) => drop(sockets.insert(netns, socket)),
                Order::Leave(netns) => drop(sockets.remove(&netns)),
                Order::Hurry(slot) => {
                    waiting.take(slot).iter().for_each(|segment| send(&sockets, segment));
                }
                Order::End => return Ok(()),
            }
        }
        let now = now();
        while let Some(segment) = waiting.due(now) {
            send(&sockets, &segment);
        }
        wait_for(&kept, wake, waiting.next().map(|due| due.saturating_sub(now)))?;
    }
}

/// Returns when there is something new, or after so many ns.
fn wait_for(kept: &RingBuf<MapData>, wake: &Wake, wait: Option<u64>) -> io::Result<()> {
    let wait = wait.and_then(|wait| Timespec::try_from(Duration::from_nanos(wait)).ok());
    let mut fds = [
        PollFd::from_borrowed_fd(wake.as_fd(), PollFlags::IN),
        PollFd::from_borrowed_fd(kept.as_fd(), PollFlags::IN),
    ];
    match poll(&mut fds, wait.as_ref()) {
        Ok(_) | Err(Errno::INTR) => {}
        Err(errno) => return Err(errno.into()),
    }
    if !fds[0].revents().is_empty() {
        wake.clear();
    }
    Ok(())
}

/// What `bpf_ktime_get_ns` would say.
fn now() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    now.tv_sec.cast_unsigned() * SECOND + now.tv_nsec.cast_unsigned()
}

fn send(sockets: &BTreeMap<u64, OwnedFd>, segment: &Segment) {
    // Not there: of a namespace that no limit is in any more.
    if let Some(socket) = sockets.get(&segment.netns)
        && let Err(error) =
            packet_socket::send(socket, segment.interface, segment.protocol, &segment.bytes)
    {
        debug!("an acknowledgement is not sent again: {error}");
    }
}
