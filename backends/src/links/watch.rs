//! Being told when interfaces or addresses change.

use chadthrottle_core::{Error, Result};

use crate::rtnetlink::Socket;

/// `RTNLGRP_LINK`, `RTNLGRP_IPV4_IFADDR`, `RTNLGRP_IPV6_IFADDR` of
/// `include/uapi/linux/rtnetlink.h`.
const GROUPS: [u32; 3] = [1, 5, 9];

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

    /// Whether anything changed since the last call; does not wait.
    pub fn changed(&self) -> Result<bool> {
        self.socket.drain().map_err(|error| Error::io("watch", "network interfaces", error))
    }
}
