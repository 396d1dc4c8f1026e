//! Marks: which limit a socket belongs to that was created in another cgroup.

use std::{
    collections::HashMap,
    fmt,
    os::{
        fd::AsFd,
        linux::net::SocketAddrExt,
        unix::net::{SocketAddr, UnixDatagram},
    },
};

use chadthrottle_core::{Error, ErrorKind, Result};

use crate::{
    netns::{self, Netns},
    sockets,
};

/// The bits of a mark that are ours: 24-31 say which instance, 0-11 which of its limits.
///
/// Bits that widely used masked rules look at are left out: 0x4000 and 0x8000 (Kubernetes),
/// 0xff0000 (Tailscale, Calico's own); 0x3f00 (mwan3) is met from the 256th limit on.
pub const MARK_MASK: u32 = 0xff00_0fff;
/// The largest number of a limit.
const NUMBER_MAX: u32 = 0xfff;

/// A mark of ours. A socket that carries it belongs to one limit of one instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Mark(u32);

impl Mark {
    /// Its bits, all of them within [`MARK_MASK`].
    #[must_use]
    pub fn value(self) -> u32 {
        self.0
    }

    /// From the bits that a journal tells.
    #[must_use]
    pub fn from_value(value: u32) -> Self {
        Self(value & MARK_MASK)
    }

    /// Marks a socket, unless it carries somebody else's mark: that decides about its routes.
    ///
    /// Needs `CAP_NET_ADMIN` in the socket's namespace.
    pub fn put_on(self, socket: impl AsFd) -> Result<Marked> {
        let socket = socket.as_fd();
        match sockets::mark(socket)? {
            now if now == self.0 => Ok(Marked::Yes),
            0 => sockets::set_mark(socket, self.0).map(|()| Marked::Yes),
            foreign => Ok(Marked::Foreign(foreign)),
        }
    }

    /// Takes it off again; a socket that carries another mark keeps that.
    pub fn take_off(self, socket: impl AsFd) -> Result<()> {
        let socket = socket.as_fd();
        if sockets::mark(socket)? & MARK_MASK == self.0 {
            sockets::set_mark(socket, 0)?;
        }
        Ok(())
    }
}

impl fmt::Display for Mark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#010x}", self.0)
    }
}

/// What became of an attempt to mark a socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Marked {
    /// It carries the mark now, or did already.
    Yes,
    /// It carries somebody else's mark, which stays.
    Foreign(u32),
}

/// The instance's part of its marks, which no other instance has in the same namespaces.
///
/// It is held by abstract unix sockets, one in each network namespace, which the kernel closes
/// when we die.
#[derive(Debug)]
pub struct Slot {
    number: u32,
    held: HashMap<u64, UnixDatagram>,
}

impl Slot {
    /// Takes one that is free in the namespace of the calling thread.
    pub fn reserve() -> Result<Self> {
        let here = Netns::current()?.id();
        // Starting at the pid, instances of different namespaces rarely choose the same.
        let start = std::process::id();
        for number in (0..255).map(|n| 1 + (start + n) % 255) {
            if let Some(socket) = hold(number)? {
                return Ok(Self { number, held: HashMap::from([(here, socket)]) });
            }
        }
        Err(Error::new(ErrorKind::Failed, "reserve", "marks for sockets")
            .meaning("255 instances of chadthrottle run in this network namespace."))
    }

    /// Holds it in another namespace too.
    pub fn hold_in(&mut self, netns: &Netns) -> Result<()> {
        if self.held.contains_key(&netns.id()) {
            return Ok(());
        }
        let socket = netns::run_in(netns, || hold(self.number))??.ok_or_else(|| {
            Error::new(ErrorKind::Failed, "reserve marks in", netns)
                .meaning("Another instance of chadthrottle uses the same ones there.")
                .advice("Start again: the next process chooses others.")
        })?;
        self.held.insert(netns.id(), socket);
        Ok(())
    }

    /// The mark of the limit with this number (from 1); `None` beyond 4095.
    #[must_use]
    pub fn mark(&self, number: u32) -> Option<Mark> {
        (1..=NUMBER_MAX).contains(&number).then_some(Mark(self.number << 24 | number))
    }
}

/// `None` when somebody else holds it here.
fn hold(number: u32) -> Result<Option<UnixDatagram>> {
    let name = format!("chadthrottle-mark-{number}");
    let bound = SocketAddr::from_abstract_name(&name)
        .and_then(|address| UnixDatagram::bind_addr(&address));
    match bound {
        Ok(socket) => Ok(Some(socket)),
        Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => Ok(None),
        Err(error) => Err(Error::io("bind the abstract socket", name, error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_instances_have_different_marks() {
        let (one, two) = (Slot::reserve().unwrap(), Slot::reserve().unwrap());
        assert_ne!(one.mark(1), two.mark(1));
        assert_eq!(one.mark(0), None);
        assert_eq!(one.mark(4096), None);
        let mark = one.mark(4095).unwrap();
        assert_eq!(mark.value() & !MARK_MASK, 0);
        assert_eq!(Mark::from_value(mark.value()), mark);
    }
}
