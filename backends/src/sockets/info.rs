//! What a socket is.

use std::{array, os::fd::AsFd};

use chadthrottle_core::Result;
use rustix::net::{
    AddressFamily, SocketType,
    sockopt::{socket_acceptconn, socket_cookie, socket_domain, socket_protocol, socket_type},
};

use super::sys;

/// Address family. A socket of family `Inet6` may carry IPv4 as well (mapped addresses).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Family {
    /// `AF_INET`.
    Inet,
    /// `AF_INET6`.
    Inet6,
}

/// Which protocol a socket speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// Plain TCP.
    Tcp,
    /// Multipath TCP (`IPPROTO_MPTCP`, 262): packets travel on subflows, which are other
    /// sockets than the one the process holds.
    Mptcp,
    /// UDP, QUIC among it.
    Udp,
    /// Anything else over IP: raw, ping, SCTP, UDP-Lite.
    Other,
}

/// What can be asked of an IP socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SocketInfo {
    /// See [`Family`].
    pub family: Family,
    /// See [`Protocol`].
    pub protocol: Protocol,
    /// `SO_COOKIE`: unique until reboot, the same in BPF and `sock_diag`.
    pub cookie: u64,
    /// Whether it accepts connections.
    pub listening: bool,
}

/// Describes a socket; `None` when it is no IP socket (or no socket at all).
///
/// Minimum kernel 4.12 (`SO_COOKIE`).
#[must_use]
pub fn describe(fd: impl AsFd) -> Option<SocketInfo> {
    let fd = fd.as_fd();
    let family = match socket_domain(fd).ok()? {
        AddressFamily::INET => Family::Inet,
        AddressFamily::INET6 => Family::Inet6,
        _ => return None,
    };
    let number = socket_protocol(fd).ok()?.map_or(0, |protocol| protocol.as_raw().get());
    let protocol = match (socket_type(fd).ok()?, number.cast_signed()) {
        (SocketType::STREAM, libc::IPPROTO_TCP) => Protocol::Tcp,
        (SocketType::STREAM, libc::IPPROTO_MPTCP) => Protocol::Mptcp,
        (SocketType::DGRAM, libc::IPPROTO_UDP) => Protocol::Udp,
        _ => Protocol::Other,
    };
    let cookie = socket_cookie(fd).ok()?;
    let listening = socket_acceptconn(fd).ok()?;
    Some(SocketInfo { family, protocol, cookie, listening })
}

/// What the kernel tells about a TCP connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TcpState {
    /// The shortest round trip seen lately, microseconds; 0 when none was.
    pub rtt_us: u32,
    /// Milliseconds since data came last.
    pub since_received_ms: u32,
    /// Milliseconds since data was sent last.
    pub since_sent_ms: u32,
    /// What the peer may send at most without another acknowledgement, bytes. Before kernel 6.2
    /// an upper bound of it.
    pub window: u32,
    /// How far the window may grow, bytes (`rcv_ssthresh`): never beyond the clamp.
    pub room: u32,
    /// Payload received in order, bytes.
    pub received: u64,
    /// Payload sent that the peer has acknowledged, bytes.
    pub acknowledged: u64,
    /// Written by the application and not sent yet, bytes.
    pub unsent: u32,
    /// It waits for its timer to send again what nobody acknowledged.
    pub stalled: bool,
}

/// Asks for [`TcpState`] (`TCP_INFO`).
pub fn tcp_state(fd: impl AsFd) -> Result<TcpState> {
    let info = sys::tcp_info(fd.as_fd())
        .map_err(|error| super::option_failed("read", "TCP_INFO", error))?;
    // Offsets within struct tcp_info of include/uapi/linux/tcp.h.
    let field = |at: usize| u32::from_ne_bytes(array::from_fn(|byte| info[at + byte]));
    let wide = |at: usize| u64::from_ne_bytes(array::from_fn(|byte| info[at + byte]));
    let (rtt, min_rtt) = (field(68), field(148));
    let (room, window) = (field(64), field(232));
    Ok(TcpState {
        rtt_us: if min_rtt == 0 || min_rtt == u32::MAX { rtt } else { min_rtt },
        since_received_ms: field(52),
        since_sent_ms: field(44),
        window: if window == 0 { room } else { window },
        room,
        received: wide(128),
        acknowledged: wide(120),
        unsent: field(144),
        stalled: info[2] > 0,
    })
}

/// The network namespace a socket belongs to (`SO_NETNS_COOKIE`); `None` before kernel 5.14.
#[must_use]
pub fn netns_cookie(fd: impl AsFd) -> Option<u64> {
    sys::get_u64(fd.as_fd(), libc::SOL_SOCKET, sys::SO_NETNS_COOKIE).ok()
}
