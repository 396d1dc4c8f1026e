//! rtnetlink(7) without a runtime: one request after the other, or many in one go.
//!
//! A [`Socket`] belongs to the network namespace in which it was opened, whichever thread uses it.
//! Replies come as raw attributes: what a newer kernel or a strange device adds to them must not
//! make the rest unreadable.

mod refusal;

use std::io;

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkBuffer, NetlinkHeader, NetlinkMessage,
    NlaBuffer, NlasIterator,
};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_sys::{SocketAddr, protocols::NETLINK_ROUTE};

pub use refusal::Refusal;

/// Message types of replies (`include/uapi/linux/netlink.h`).
const ERROR: u16 = 2;
const DONE: u16 = 3;

/// Large enough for any reply: a dump comes in pieces of at most 32 KiB (`netlink_dump`,
/// `net/netlink/af_netlink.c`).
const BUFFER: usize = 64 * 1024;

/// How many requests are sent before their answers are read: all answers of a batch must fit into
/// the socket's receive buffer (`net.core.rmem_default`, 208 KiB by default), of which each
/// occupies up to 2 KiB.
const BATCH: usize = 64;

/// One message of a dump.
#[derive(Debug, Clone)]
pub struct Reply {
    /// `RTM_NEWLINK` and so on.
    pub kind: u16,
    /// The header of its family and the attributes.
    pub payload: Vec<u8>,
}

/// A netlink socket for requests.
#[derive(Debug)]
pub struct Socket {
    socket: netlink_sys::Socket,
    sequence: u32,
}

impl Socket {
    /// Opens one in the network namespace of the calling thread. Asks for extended acks
    /// (kernel 4.12; older ones answer with the errno alone).
    pub fn open() -> io::Result<Self> {
        let mut socket = netlink_sys::Socket::new(NETLINK_ROUTE)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        for enabled in [socket.set_ext_ack(true), socket.set_cap_ack(true)] {
            if let Err(error) = enabled {
                tracing::debug!("no extended acks: {error}");
            }
        }
        Ok(Self { socket, sequence: 0 })
    }

    /// Sends one request and waits for its ack. `flags` are those beside `NLM_F_REQUEST` and
    /// `NLM_F_ACK`.
    pub fn execute(&mut self, message: RouteNetlinkMessage, flags: u16) -> Result<(), Refusal> {
        let (bytes, sequence) = self.encode(message, flags | NLM_F_ACK);
        self.socket.send(&bytes, 0)?;
        self.ack(sequence)
    }

    /// Sends many requests and waits for all acks; one answer for each, in order. An error of the
    /// socket itself is the outer one.
    pub fn execute_all(
        &mut self,
        messages: impl IntoIterator<Item = (RouteNetlinkMessage, u16)>,
    ) -> io::Result<Vec<Result<(), Refusal>>> {
        let mut answers = Vec::new();
        let (mut batch, mut pending) = (Vec::new(), Vec::new());
        for (message, flags) in messages {
            let (bytes, sequence) = self.encode(message, flags | NLM_F_ACK);
            batch.extend(bytes);
            pending.push(sequence);
            if pending.len() >= BATCH {
                self.exchange(&mut batch, &mut pending, &mut answers)?;
            }
        }
        self.exchange(&mut batch, &mut pending, &mut answers)?;
        Ok(answers)
    }

    fn exchange(
        &mut self,
        batch: &mut Vec<u8>,
        pending: &mut Vec<u32>,
        answers: &mut Vec<Result<(), Refusal>>,
    ) -> io::Result<()> {
        if batch.is_empty() {
            return Ok(());
        }
        self.socket.send(batch, 0)?;
        batch.clear();
        let first = pending[0];
        let mut found: Vec<Option<Result<(), Refusal>>> = Vec::new();
        found.resize_with(pending.len(), || None);
        while found.iter().any(Option::is_none) {
            for (sequence, answer) in self.acks()? {
                let slot = found.get_mut(sequence.wrapping_sub(first) as usize);
                if let Some(slot) = slot {
                    *slot = Some(answer);
                }
            }
        }
        pending.clear();
        answers.extend(found.into_iter().flatten());
        Ok(())
    }

    /// Asks for a list.
    pub fn dump(&mut self, message: RouteNetlinkMessage) -> Result<Vec<Reply>, Refusal> {
        let (bytes, sequence) = self.encode(message, NLM_F_DUMP);
        self.socket.send(&bytes, 0)?;
        let mut replies = Vec::new();
        let mut buffer = vec![0; BUFFER];
        loop {
            let length = self.socket.recv(&mut &mut buffer[..], 0)?;
            let mut done = false;
            each(&buffer[..length], |message| {
                if message.sequence_number() != sequence {
                    return Ok(());
                }
                match message.message_type() {
                    DONE => {
                        done = true;
                        refusal::check(&message)
                    }
                    ERROR => refusal::check(&message),
                    kind => {
                        replies.push(Reply { kind, payload: message.payload().to_vec() });
                        Ok(())
                    }
                }
            })?;
            if done {
                return Ok(replies);
            }
        }
    }

    /// Asks for one object.
    pub fn get(&mut self, message: RouteNetlinkMessage) -> Result<Reply, Refusal> {
        let (bytes, sequence) = self.encode(message, 0);
        self.socket.send(&bytes, 0)?;
        let mut buffer = vec![0; BUFFER];
        loop {
            let length = self.socket.recv(&mut &mut buffer[..], 0)?;
            let mut reply = None;
            each(&buffer[..length], |message| {
                if message.sequence_number() == sequence {
                    if message.message_type() == ERROR {
                        refusal::check(&message)?;
                    }
                    let (kind, payload) = (message.message_type(), message.payload().to_vec());
                    reply = Some(Reply { kind, payload });
                }
                Ok(())
            })?;
            if let Some(reply) = reply {
                return Ok(reply);
            }
        }
    }

    fn encode(&mut self, message: RouteNetlinkMessage, flags: u16) -> (Vec<u8>, u32) {
        self.sequence = self.sequence.wrapping_add(1);
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | flags;
        header.sequence_number = self.sequence;
        let mut message = NetlinkMessage::new(header, message.into());
        message.finalize();
        let mut bytes = vec![0; message.buffer_len().next_multiple_of(4)];
        message.serialize(&mut bytes);
        (bytes, self.sequence)
    }

    fn ack(&mut self, sequence: u32) -> Result<(), Refusal> {
        loop {
            for (found, answer) in self.acks()? {
                if found == sequence {
                    return answer;
                }
            }
        }
    }

    /// The next acks, with the sequence numbers of what they answer.
    fn acks(&mut self) -> io::Result<Vec<(u32, Result<(), Refusal>)>> {
        let mut buffer = vec![0; BUFFER];
        let length = self.socket.recv(&mut &mut buffer[..], 0)?;
        let mut acks = Vec::new();
        each(&buffer[..length], |message| {
            if message.message_type() == ERROR {
                acks.push((message.sequence_number(), refusal::check(&message)));
            }
            Ok(())
        })
        .map_err(|refusal| refusal.errno)?;
        Ok(acks)
    }

    /// Joins a multicast group (`RTNLGRP_LINK` is 1): from then on it is for watching only.
    pub(crate) fn subscribe(&self, group: u32) -> io::Result<()> {
        self.socket.add_membership(group)
    }

    /// Throws away what was received; says whether there was anything that `counts`. A full buffer
    /// (`ENOBUFS`) means that something was lost, which counts.
    pub(crate) fn drain(&self, counts: impl Fn(&Reply) -> bool) -> io::Result<bool> {
        let mut buffer = vec![0; BUFFER];
        let mut any = false;
        loop {
            match self.socket.recv(&mut &mut buffer[..], libc::MSG_DONTWAIT) {
                Ok(length) => {
                    let read = each(&buffer[..length], |message| {
                        let (kind, payload) =
                            (message.message_type(), message.payload().to_vec());
                        any |= counts(&Reply { kind, payload });
                        Ok(())
                    });
                    any |= read.is_err();
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(any),
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => any = true,
                Err(error) => return Err(error),
            }
        }
    }
}

/// Calls `found` with each message of a datagram.
fn each(
    datagram: &[u8],
    mut found: impl FnMut(NetlinkBuffer<&[u8]>) -> Result<(), Refusal>,
) -> Result<(), Refusal> {
    let mut rest = datagram;
    while !rest.is_empty() {
        let message = NetlinkBuffer::new_checked(rest)
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        // Aligned to 4 bytes (NLMSG_ALIGN); the last one may not be padded.
        let size = (message.length() as usize).next_multiple_of(4);
        found(message)?;
        rest = rest.get(size..).unwrap_or_default();
    }
    Ok(())
}

/// The attributes that follow a header of `header` bytes, as (kind, value). Ends at the first one
/// that is not whole.
pub fn attributes(bytes: &[u8], header: usize) -> impl Iterator<Item = (u16, &[u8])> {
    let attributes = bytes.get(header..).unwrap_or_default();
    NlasIterator::new(attributes).map_while(Result::ok).map(|nla: NlaBuffer<&[u8]>| {
        let kind = nla.kind();
        let length = nla.value_length();
        let value = nla.into_inner();
        (kind, &value[HEADER..HEADER + length])
    })
}

/// `NLA_HDRLEN`.
const HEADER: usize = 4;

/// A number in host order at the start of an attribute.
#[must_use]
pub fn u32_of(value: &[u8]) -> Option<u32> {
    Some(u32::from_ne_bytes(value.get(..4)?.try_into().ok()?))
}

/// A string without its final zero.
#[must_use]
pub fn text_of(value: &[u8]) -> String {
    let end = value.iter().position(|&byte| byte == 0).unwrap_or(value.len());
    String::from_utf8_lossy(&value[..end]).into_owned()
}
