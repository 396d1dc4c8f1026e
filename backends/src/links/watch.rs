//! Being told when interfaces or addresses change.

use chadthrottle_core::{Error, Result};

use super::parse;
use crate::rtnetlink::{Reply, Socket};

/// `RTNLGRP_LINK`, `RTNLGRP_IPV4_IFADDR`, `RTNLGRP_IPV6_IFADDR` of
/// `include/uapi/linux/rtnetlink.h`.
const GROUPS: [u32; 3] = [1, 5, 9];
/// `RTM_NEWLINK`, `RTM_DELLINK`.
const LINKS: [u16; 2] = [16, 17];

/// Listens to one namespace.
#[derive(Debug)]
pub struct Watch {
    socket: Socket,
}

impl Watch {
    /// In the namespace of the calling thread. Interfaces that come between this and a
    /// [`super::list`] afterwards are told, and are in the list.
    pub fn start() -> Result<Self> {
        let failed = |error| Error::io("watch", "network interfaces", error);
        let socket = Socket::open().map_err(failed)?;
        for group in GROUPS {
            socket.subscribe(group).map_err(failed)?;
        }
        Ok(Self { socket })
    }

    /// Whether anything changed since the last call, but for ifb devices, which never count; does not
    /// wait.
    pub fn changed(&self) -> Result<bool> {
        let counts = |message: &Reply| {
            let link = LINKS.contains(&message.kind).then(|| parse(message)).flatten();
            link.is_none_or(|link| link.kind != "ifb")
        };
        let changed = self.socket.drain(counts);
        changed.map_err(|error| Error::io("watch", "network interfaces", error))
    }
}
