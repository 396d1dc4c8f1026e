//! Hearing at once that somebody opens a connection.
//!
//! A u32 filter behind those of the flows mirrors packets with SYN that belong to no flow that is
//! known to our own device, where HTB lets them pass unlimited and ifb throws them away, since
//! they were not redirected (`ifb_xmit`, `drivers/net/ifb.c`). On the way a packet socket bound to
//! that device sees them. So nobody else's packets are cloned, which a packet socket on the
//! interface itself would do to all that leave.
//!
//! A connection is heard with its SYN (uploads) or with the answer (downloads): where packets need
//! time to travel it is known before it carries data.

use std::{
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::Arc,
};

use chadthrottle_core::{Error, Result, check::Remedy};
use netlink_packet_route::tc::TcU32Selector;
use rustix::{io::Errno, net::RecvFlags};

use super::u32::{key, terminal};
use crate::packet_socket::{self, Headers};

/// Packets with SYN, of IPv4 (family 0, without IP options) or IPv6.
pub(super) fn selector(family: usize) -> TcU32Selector {
    const SYN: u32 = 0x0002_0000;
    terminal(match family {
        0 => vec![
            key(0, 0x4500_0000, 0xff00_0000),
            key(4, 0, 0x0000_1fff),
            key(8, 6 << 16, 0x00ff_0000),
            key(32, SYN, SYN),
        ],
        _ => vec![key(4, 6 << 8, 0x0000_ff00), key(52, SYN, SYN)],
    })
}

/// Lets through what [`selector`] matches, one byte of it. Offsets count from the IP header.
#[rustfmt::skip]
const PROGRAM: [libc::sock_filter; 14] = [
    op(LOAD, 0, 0, 0),
    op(IS, 0x45, 0, 4),  // IPv4 without options, or on to IPv6
    op(LOAD, 9, 0, 0),
    op(IS, 6, 0, 9),     // TCP, or drop
    op(LOAD, 33, 0, 0),
    op(GO, 5, 0, 0),     // to the flags
    op(AND, 0xf0, 0, 0),
    op(IS, 0x60, 0, 5),
    op(LOAD, 6, 0, 0),
    op(IS, 6, 0, 3),
    op(LOAD, 53, 0, 0),
    op(HAS, 2, 0, 1),    // SYN
    op(RETURN, 1, 0, 0),
    op(RETURN, 0, 0, 0),
];

const LOAD: u32 = libc::BPF_LD | libc::BPF_B | libc::BPF_ABS;
const AND: u32 = libc::BPF_ALU | libc::BPF_AND | libc::BPF_K;
const GO: u32 = libc::BPF_JMP | libc::BPF_JA;
const IS: u32 = libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K;
const HAS: u32 = libc::BPF_JMP | libc::BPF_JSET | libc::BPF_K;
const RETURN: u32 = libc::BPF_RET | libc::BPF_K;

const fn op(code: u32, k: u32, jt: u8, jf: u8) -> libc::sock_filter {
    libc::sock_filter { code: code as u16, jt, jf, k }
}

/// Hears what is mirrored to one device of ours.
#[derive(Debug, Clone)]
pub(super) struct Ear(Arc<OwnedFd>);

impl Ear {
    /// In the network namespace of the calling thread. Needs `CAP_NET_RAW`.
    pub(super) fn open(device: u32) -> Result<Self> {
        let socket = packet_socket::open(Headers::Cooked).and_then(|socket| {
            packet_socket::attach(&socket, &PROGRAM)?;
            packet_socket::bind(&socket, device)?;
            Ok(socket)
        });
        socket.map(|socket| Self(Arc::new(socket))).map_err(|error| {
            let code = error.raw_os_error();
            let failed = Error::io("open a packet socket on", "our ifb device", error);
            match code {
                Some(libc::EPERM) => {
                    failed.remedy(Remedy::GrantCapability("CAP_NET_RAW".to_owned()))
                }
                Some(libc::EAFNOSUPPORT) => failed
                    .meaning("The kernel has no packet sockets.")
                    .remedy(Remedy::LoadModule("af_packet".to_owned())),
                _ => failed,
            }
        })
    }

    /// Forgets what was heard, so that only what comes later is news.
    pub(super) fn clear(&self) {
        let mut byte = [0; 1];
        // An error (the device is gone: ENETDOWN, once) is read and forgotten too.
        while !matches!(
            rustix::net::recv(&self.0, &mut byte[..], RecvFlags::DONTWAIT),
            Err(Errno::AGAIN | Errno::BADF)
        ) {}
    }
}

impl AsFd for Ear {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
