//! One netlink socket to `nfnetlink_queue`, in one network namespace.

use std::{io, sync::Arc};

use chadthrottle_core::{Error, Result, check::Remedy, error::ErrorKind};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_NETFILTER};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    net::sockopt::set_socket_recv_buffer_size_force,
};

use super::{
    packet::{self, Packet},
    wire::{self, Message, Request, Verdict},
};
use crate::netns::{self, Netns};

/// Room for the messages of all packets that wait, bytes; the kernel drops what does not fit.
const RECEIVE_BUFFER: usize = 16 << 20;
/// Verdicts are written in pieces of this size, bytes: well below the socket's send buffer.
const PIECE: usize = 32 << 10;
/// How many messages are read before the clocks are looked at again.
const TURN: usize = 256;
/// How long the kernel may take to answer a request, seconds. It does so before send(2) ends.
const PATIENCE: Timespec = Timespec { tv_sec: 1, tv_nsec: 0 };

/// See the module.
pub(super) struct Port {
    netns: Netns,
    socket: Arc<Socket>,
    sequence: u32,
    verdicts: Vec<u8>,
    buffer: Vec<u8>,
}

impl Port {
    /// Needs `CAP_NET_ADMIN` in the namespace, and `CAP_NET_ADMIN` at home for the buffer.
    pub(super) fn open(netns: &Netns) -> Result<Self> {
        let connect = || -> io::Result<Socket> {
            let mut socket = Socket::new(NETLINK_NETFILTER)?;
            socket.bind_auto()?;
            socket.connect(&SocketAddr::new(0, 0))?;
            socket.set_non_blocking(true)?;
            // Overruns are dropped packets, which TCP knows how to take; an error is no help.
            socket.set_no_enobufs(true)?;
            set_socket_recv_buffer_size_force(&socket, RECEIVE_BUFFER)?;
            Ok(socket)
        };
        let socket = netns::run_in(netns, connect)?
            .map_err(|error| Error::io("open a netfilter socket in", netns, error))?;
        Ok(Self {
            netns: netns.clone(),
            socket: Arc::new(socket),
            sequence: 0,
            verdicts: Vec::new(),
            buffer: vec![0; 8192],
        })
    }

    pub(super) fn netns(&self) -> &Netns {
        &self.netns
    }

    /// For whoever waits until something comes.
    pub(super) fn socket(&self) -> Arc<Socket> {
        Arc::clone(&self.socket)
    }

    /// Asks, and waits for the answer; packets that come first are handed on.
    pub(super) fn request(
        &mut self,
        index: usize,
        queue: u16,
        request: Request,
        arrived: &mut impl FnMut(Packet),
    ) -> io::Result<()> {
        self.sequence = self.sequence.wrapping_add(1).max(1);
        self.socket.send(&wire::config(queue, self.sequence, request), 0)?;
        loop {
            if let Some(errno) = self.receive(index, arrived)?.answer {
                return if errno == 0 {
                    Ok(())
                } else {
                    Err(io::Error::from_raw_os_error(errno))
                };
            }
            let mut fds = [PollFd::new(self.socket.as_ref(), PollFlags::IN)];
            if poll(&mut fds, Some(&PATIENCE))? == 0 {
                return Err(io::ErrorKind::TimedOut.into());
            }
        }
    }

    /// Reads what is there, up to [`TURN`] messages.
    pub(super) fn receive(
        &mut self,
        index: usize,
        arrived: &mut impl FnMut(Packet),
    ) -> io::Result<Received> {
        let mut received = Received { answer: None, more: true };
        for _ in 0..TURN {
            let length = match self.socket.recv(&mut &mut self.buffer[..], 0) {
                Ok(length) => length,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    received.more = false;
                    break;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            let mut rest = &self.buffer[..length];
            while let Some(message) = wire::parse(&mut rest) {
                match message {
                    Message::Packet { queue, id, length, start } => {
                        arrived(packet::read(index, queue, id, length, start));
                    }
                    Message::Answer { sequence, errno } if sequence == self.sequence => {
                        received.answer = Some(errno);
                    }
                    // The errors of verdicts: the packet is gone, with its device or queue.
                    Message::Answer { .. } | Message::Other => {}
                }
            }
            if received.answer.is_some() {
                break;
            }
        }
        Ok(received)
    }

    /// Notes a verdict for the next [`Self::flush`].
    pub(super) fn judge(&mut self, queue: u16, id: u32, verdict: Verdict) {
        wire::verdict(&mut self.verdicts, queue, id, verdict);
        if self.verdicts.len() >= PIECE {
            self.flush();
        }
    }

    /// Gives the kernel all verdicts that were noted.
    pub(super) fn flush(&mut self) {
        if self.verdicts.is_empty() {
            return;
        }
        // The kernel works through them before send(2) ends. It fails for want of memory only;
        // the next flush tries again.
        match self.socket.send(&self.verdicts, 0) {
            Ok(_) => self.verdicts.clear(),
            Err(error) => tracing::debug!("cannot write verdicts: {error}"),
        }
    }
}

/// What a round of reading came to.
#[derive(Debug, Clone, Copy)]
pub(super) struct Received {
    /// The answer to the last request, when it came.
    pub(super) answer: Option<i32>,
    /// There may be more to read.
    pub(super) more: bool,
}

/// Why a queue could not be had.
pub(super) fn explain(netns: &Netns, queue: u16, source: io::Error) -> Error {
    let errno = source.raw_os_error();
    let error = Error::io(format!("take the packet queue {queue} of"), netns, source);
    match errno {
        // nfnetlink answers so when nobody serves the subsystem (net/netfilter/nfnetlink.c).
        Some(libc::EINVAL | libc::EOPNOTSUPP) => error
            .meaning("The kernel has no nfnetlink_queue.")
            .remedy(Remedy::LoadModule("nfnetlink_queue".into())),
        Some(libc::EPERM) => {
            let mut error = error.meaning("We may not use netfilter in this namespace.");
            error.kind = ErrorKind::NotPermitted;
            error.remedy(Remedy::GrantCapability("CAP_NET_ADMIN".into()))
        }
        Some(libc::EBUSY) => error
            .meaning("Other programs have all the queue numbers that were tried.")
            .advice("Stop one of them, or use another backend."),
        _ => error,
    }
}
