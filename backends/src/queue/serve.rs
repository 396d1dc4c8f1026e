//! The thread that reads packets, waits until they are due and lets them pass.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use chadthrottle_core::{Error, ErrorKind, Rate, Result, backend::Count};
use netlink_sys::Socket;
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
};
use tracing::{debug, warn};

use super::{
    lane::Lane,
    port::{self, Port},
    state::{LaneId, State},
    wire::Request,
};
use crate::{
    netns::Netns,
    worker::{self, Wake},
};

/// The first queue number that is tried: low ones are what people write into rules by hand.
const FIRST_QUEUE: u16 = 0x4000;
/// How many are tried, from there on.
const QUEUES: u16 = 0x8000;
/// With nothing due, how long the thread sleeps at most.
const IDLE: Duration = Duration::from_secs(60);

/// Paces packets of nfnetlink queues, on a thread of its own. Dropping it lets pass what waits
/// and gives up the queues: take the rules away that feed them before.
pub struct Shaper {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    state: Mutex<State>,
    /// Wakes the thread when something changed.
    wake: Wake,
}

impl Shaper {
    /// Starts the thread. Nothing is queued yet.
    pub fn start() -> Result<Self> {
        let shared = Arc::new(Shared { state: Mutex::default(), wake: Wake::new()? });
        let served = Arc::clone(&shared);
        let thread = thread::Builder::new()
            .name("queue".to_owned())
            .spawn(move || served.serve())
            .map_err(|error| Error::io("start", "the thread that paces packets", error))?;
        Ok(Self { shared, thread: Some(thread) })
    }

    /// A new lane; `None` counts only.
    #[must_use]
    pub fn add_lane(&self, rate: Option<Rate>) -> LaneId {
        let mut state = self.shared.lock();
        let id = LaneId(state.next_lane);
        state.next_lane += 1;
        state.lanes.insert(id, Lane::new(rate, Instant::now()));
        id
    }

    /// Takes a free queue number in a namespace; what rules put there feeds the lane.
    pub fn bind(&self, netns: &Netns, lane: LaneId) -> Result<u16> {
        let mut state = self.shared.lock();
        let large = state.lanes.get(&lane).ok_or_else(|| unknown(lane))?.wants_large();
        let port = state.port(netns)?;
        // The thread waits on the ports that there are.
        self.shared.wake.wake();
        loop {
            let queue = FIRST_QUEUE + state.next_queue % QUEUES;
            state.next_queue = state.next_queue.wrapping_add(1);
            match state.request(port, queue, Request::Bind { large }) {
                Ok(()) => {
                    state.queues.insert((port, queue), lane);
                    return Ok(queue);
                }
                // Somebody else's: EBUSY, or EPERM when bound by another socket
                // (nfqnl_recv_config). EPERM also is what is said without the capability.
                Err(error)
                    if matches!(error.raw_os_error(), Some(libc::EBUSY | libc::EPERM))
                        && !state.next_queue.is_multiple_of(64) =>
                {
                    debug!("queue {queue} of {netns} is not free: {error}");
                }
                Err(error) => {
                    state.close_if_unused(port);
                    return Err(port::explain(netns, queue, error));
                }
            }
        }
    }

    /// Gives a queue up. Take the rule away before: what comes later is not limited.
    pub fn unbind(&self, netns: &Netns, queue: u16) {
        let mut state = self.shared.lock();
        let Some(port) = state.port_of(netns) else { return };
        if state.queues.remove(&(port, queue)).is_some() {
            state.give_up(port, queue);
            state.close_if_unused(port);
        }
        self.shared.wake.wake();
    }

    /// Changes the rate in place.
    pub fn set_rate(&self, lane: LaneId, rate: Option<Rate>) -> Result<()> {
        let mut state = self.shared.lock();
        let changed = state.lanes.get_mut(&lane).ok_or_else(|| unknown(lane))?;
        let before = changed.wants_large();
        changed.set_rate(rate, Instant::now());
        let large = changed.wants_large();
        if large != before {
            for (port, queue) in state.queues_of(lane) {
                let asked = state.request(port, queue, Request::Segments { large });
                asked.map_err(|error| Error::io("change the packet queue", queue, error))?;
            }
        }
        self.shared.wake.wake();
        Ok(())
    }

    /// Has a lane keep so many bytes more than usual that come within `time`, so that nothing is
    /// lost of what senders were allowed to send before there was a limit.
    pub fn expect(&self, lane: LaneId, bytes: u64, time: Duration) -> Result<()> {
        let mut state = self.shared.lock();
        let lane = state.lanes.get_mut(&lane).ok_or_else(|| unknown(lane))?;
        lane.expect(bytes, Instant::now(), time);
        Ok(())
    }

    /// What passed since the lane was added.
    pub fn count(&self, lane: LaneId) -> Result<Count> {
        let state = self.shared.lock();
        state.lanes.get(&lane).map(Lane::count).ok_or_else(|| unknown(lane))
    }

    /// Lets pass what waits, gives up the lane's queues and forgets it.
    #[must_use = "it is what passed in all"]
    pub fn remove(&self, lane: LaneId) -> Count {
        let mut state = self.shared.lock();
        state.open(lane);
        for (port, queue) in state.queues_of(lane) {
            state.queues.remove(&(port, queue));
            state.give_up(port, queue);
            state.close_if_unused(port);
        }
        self.shared.wake.wake();
        state.lanes.remove(&lane).map(|lane| lane.count()).unwrap_or_default()
    }
}

impl Drop for Shaper {
    fn drop(&mut self) {
        {
            let mut state = self.shared.lock();
            let lanes: Vec<LaneId> = state.lanes.keys().copied().collect();
            for lane in lanes {
                state.open(lane);
            }
            state.stopping = true;
            // Closing the sockets gives up their queues.
            state.ports.clear();
        }
        self.shared.wake.wake();
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            warn!("the thread that paces packets had panicked");
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn serve(&self) {
        worker::come_first();
        let mut sockets = Vec::new();
        let mut seen = None;
        loop {
            let due = {
                let mut state = self.lock();
                if state.stopping {
                    return;
                }
                let due = state.turn();
                if seen != Some(state.generation) {
                    seen = Some(state.generation);
                    sockets = state.ports.values().map(Port::socket).collect();
                }
                due
            };
            let timeout = due.map_or(IDLE, |due| due.saturating_duration_since(Instant::now()));
            self.wait(&sockets, timeout);
        }
    }

    fn wait(&self, sockets: &[Arc<Socket>], timeout: Duration) {
        let mut fds = vec![PollFd::new(&self.wake, PollFlags::IN)];
        fds.extend(sockets.iter().map(|socket| PollFd::new(socket.as_ref(), PollFlags::IN)));
        let timeout = Timespec::try_from(timeout).ok();
        match poll(&mut fds, timeout.as_ref()) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => warn!("cannot wait for packets: {error}"),
        }
        if !fds[0].revents().is_empty() {
            self.wake.clear();
        }
    }
}

fn unknown(lane: LaneId) -> Error {
    Error::new(ErrorKind::Failed, "find the packet lane", lane.0)
        .meaning("It was removed before.")
}
