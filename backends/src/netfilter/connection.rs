//! A socket to `nf_tables`: sending batches, reading counters.

use std::{
    ffi::{CStr, CString},
    io,
    time::Duration,
};

use chadthrottle_core::{Error, Result, check::Remedy};
use nftnl::ProtoFamily;
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::{Errno, FdFlags, fcntl_setfd},
    net::sockopt,
};

use super::{
    batch::{Batch, Finished},
    sys::{CounterMessage, Socket, parse_counter},
};

/// How long the kernel may take to answer: a commit waits for other users of `nf_tables`.
const PATIENCE: Duration = Duration::from_secs(10);
/// Room for a batch of a thousand limits.
const SEND_BUFFER: usize = 16 << 20;
/// linux/netlink.h.
const NLMSG_ERROR: u16 = 2;

/// A message of the kernel.
struct Message<'a> {
    kind: u16,
    seq: u32,
    bytes: &'a [u8],
}

/// A named counter's value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counted {
    /// Packets as the kernel hands them over: a GSO packet is one.
    pub packets: u64,
    /// Bytes as [`super::LimitOver`] counts them.
    pub bytes: u64,
}

/// A connection to the `nf_tables` of the network namespace in which it was opened. It owns the
/// tables that it made: they go when it is dropped.
pub struct Connection {
    socket: Socket,
}

impl Connection {
    /// Opens one in the namespace of the calling thread.
    pub fn open() -> Result<Self> {
        let failed = |error: io::Error| {
            let missing = error.raw_os_error() == Some(libc::EPROTONOSUPPORT);
            let failed = Error::io("open", "a netlink socket to netfilter", error);
            if missing {
                return failed
                    .meaning("The kernel has no nfnetlink.")
                    .remedy(Remedy::LoadModule("nf_tables".to_owned()));
            }
            failed
        };
        let socket = Socket(mnl::Socket::new(mnl::Bus::Netfilter).map_err(failed)?);
        // mnl leaves it open on exec: a command of ours would keep our tables alive.
        fcntl_setfd(socket.fd(), FdFlags::CLOEXEC)
            .map_err(|errno| Error::io("close on exec", "a netlink socket", errno.into()))?;
        // Without CAP_NET_ADMIN over the initial user namespace the usual size has to do.
        if let Err(errno) = sockopt::set_socket_send_buffer_size_force(socket.fd(), SEND_BUFFER)
        {
            tracing::debug!("the send buffer stays small: {errno}");
        }
        Ok(Self { socket })
    }

    /// Applies a batch, whole or not at all.
    pub fn commit(&self, batch: Batch) -> Result<()> {
        if batch.is_empty() {
            return Ok(());
        }
        let finished = batch.finish();
        match self.exchange(&finished) {
            Ok(()) => Ok(()),
            Err((step, error)) => Err(super::explain(step, error)),
        }
    }

    /// The same, with the errno as it came, for the probe: it knows better what it means.
    pub fn try_commit(&self, batch: Batch) -> Result<(), (&'static str, io::Error)> {
        self.exchange(&batch.finish())
    }

    fn exchange(&self, batch: &Finished) -> Result<(), (&'static str, io::Error)> {
        let at = |seq, error| (Batch::step(&batch.steps, batch.first, seq), error);
        self.drain();
        self.socket.0.send(&batch.bytes).map_err(|error| ("send the changes", error))?;
        let mut failure = None;
        loop {
            // After a failure the acknowledgement of the last message may never come.
            let wait = if failure.is_some() { Duration::ZERO } else { PATIENCE };
            let received = self.receive(wait, |message| {
                let Some(code) = error_code(&message) else { return false };
                if code != 0 && failure.is_none() {
                    failure = Some(at(message.seq, io::Error::from_raw_os_error(-code)));
                }
                code == 0 && message.seq == batch.last
            });
            match (received, failure.take()) {
                (Ok(Some(true)), None) => return Ok(()),
                (Ok(Some(_)), Some(failed)) => failure = Some(failed),
                (Ok(None), Some(failed)) => return Err(failed),
                (Ok(Some(false)), None) => {}
                (Ok(None), None) => {
                    return Err(("change nf_tables", Errno::TIMEDOUT.into()));
                }
                (Err(error), failed) => {
                    return Err(failed.unwrap_or(("read the answer to the changes", error)));
                }
            }
        }
    }

    /// The values of these counters, in their order; 0 of one that is not there.
    pub fn counters(
        &self,
        table: &CStr,
        family: ProtoFamily,
        names: &[CString],
    ) -> Result<Vec<Counted>> {
        let failed =
            |error| Error::io("read the counters of the table", table.to_string_lossy(), error);
        self.drain();
        let mut values = vec![Counted::default(); names.len()];
        for (name, value) in names.iter().zip(&mut values) {
            let question = CounterMessage { table, family, name }.question(1);
            self.socket.0.send(&question).map_err(failed)?;
            let mut answered = false;
            while !answered {
                let received = self.receive(PATIENCE, |message| {
                    if let Some((found, packets, bytes)) = (message.kind != NLMSG_ERROR)
                        .then(|| parse_counter(message.bytes))
                        .flatten()
                        && found == *name
                    {
                        *value = Counted { packets, bytes };
                    }
                    true
                });
                answered = received.map_err(failed)?.unwrap_or(true);
            }
        }
        Ok(values)
    }

    /// Forgets answers that nobody waited for.
    fn drain(&self) {
        while let Ok(Some(_)) = self.receive(Duration::ZERO, |_| false) {}
    }

    /// Reads one datagram and shows its messages to `see`; says whether it said yes to one.
    /// `None` when nothing came in time.
    fn receive(
        &self,
        wait: Duration,
        mut see: impl FnMut(Message<'_>) -> bool,
    ) -> io::Result<Option<bool>> {
        let fd = self.socket.fd();
        let mut fds = [PollFd::new(&fd, PollFlags::IN)];
        let wait = Timespec::try_from(wait).unwrap_or_default();
        if rustix::io::retry_on_intr(|| poll(&mut fds, Some(&wait)))? == 0 {
            return Ok(None);
        }
        let mut buffer = vec![0; 64 * 1024];
        let (length, _) =
            rustix::net::recv(fd, &mut buffer[..], rustix::net::RecvFlags::empty())?;
        let mut rest = &buffer[..length];
        let mut found = false;
        while rest.len() >= 16 {
            let field = |from: usize| {
                u32::from_ne_bytes([rest[from], rest[from + 1], rest[from + 2], rest[from + 3]])
            };
            let length = (field(0) as usize).clamp(16, rest.len());
            let kind = u16::from_ne_bytes([rest[4], rest[5]]);
            found |= see(Message { kind, seq: field(8), bytes: &rest[..length] });
            rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        }
        Ok(Some(found))
    }
}

/// The code of an error message: 0 is an acknowledgement, else a negative errno.
fn error_code(message: &Message<'_>) -> Option<i32> {
    let code = message.bytes.get(16..20).filter(|_| message.kind == NLMSG_ERROR)?;
    Some(i32::from_ne_bytes([code[0], code[1], code[2], code[3]]))
}
