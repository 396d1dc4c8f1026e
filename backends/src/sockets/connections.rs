//! What `sock_diag` tells of the sockets of a network namespace, for people to read.

use std::net::{IpAddr, SocketAddr};

use chadthrottle_core::Result;
use netlink_packet_sock_diag::{
    constants::IPPROTO_TCP,
    inet::{InetResponse, nlas::Nla},
};

use super::diag::{self, DiagSocket};

/// One socket with its addresses and what its protocol counts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Connection {
    /// Which one.
    pub socket: DiagSocket,
    /// Its own address.
    pub local: SocketAddr,
    /// Its peer's; unspecified for listeners and unconnected UDP.
    pub remote: SocketAddr,
    /// Smoothed round trip time, microseconds; TCP only.
    pub round_trip: Option<u32>,
    /// Payload bytes received in order; TCP only, else 0.
    pub received: u64,
    /// Payload bytes sent and acknowledged; TCP only, else 0.
    pub sent: u64,
}

impl Connection {
    /// Whether what it carries never leaves this machine.
    #[must_use]
    pub fn is_loopback(&self) -> bool {
        let is_local = |ip: IpAddr| ip.to_canonical().is_loopback();
        is_local(self.local.ip())
            || is_local(self.remote.ip())
            || (self.local.ip() == self.remote.ip() && !self.local.ip().is_unspecified())
    }
}

/// All TCP sockets (but those in `TIME_WAIT`) and UDP sockets in the network namespace of the
/// calling thread.
pub fn connections() -> Result<Vec<Connection>> {
    let mut found = Vec::new();
    diag::each(true, |response, family, protocol| {
        found.push(parse(response, diag::parse(response, family, protocol), protocol));
    })?;
    Ok(found)
}

fn parse(response: &InetResponse, socket: DiagSocket, protocol: u8) -> Connection {
    let id = &response.header.socket_id;
    let info = response.nlas.iter().find_map(|attribute| match attribute {
        Nla::TcpInfo(info) if protocol == IPPROTO_TCP => Some(info.as_slice()),
        _ => None,
    });
    let info = info.unwrap_or_default();
    Connection {
        socket,
        local: SocketAddr::new(id.source_address, id.source_port),
        remote: SocketAddr::new(id.destination_address, id.destination_port),
        // Zero before the first measurement.
        round_trip: at(info, TCPI_RTT).map(u32::from_ne_bytes).filter(|&time| time > 0),
        received: at(info, TCPI_BYTES_RECEIVED).map_or(0, u64::from_ne_bytes),
        // The SYN counts as a byte.
        sent: at(info, TCPI_BYTES_ACKED).map_or(0, u64::from_ne_bytes).saturating_sub(1),
    }
}

/// Offsets in `struct tcp_info` (include/uapi/linux/tcp.h), whose beginning never changes.
const TCPI_RTT: usize = 68;
/// Since kernel 4.1.
const TCPI_BYTES_ACKED: usize = 120;
/// Since kernel 4.1.
const TCPI_BYTES_RECEIVED: usize = 128;

fn at<const N: usize>(info: &[u8], offset: usize) -> Option<[u8; N]> {
    info.get(offset..)?.first_chunk().copied()
}

#[cfg(test)]
mod tests {
    use std::{
        io::Write,
        net::{TcpListener, TcpStream},
    };

    use super::*;

    #[test]
    fn counts_what_was_sent() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut sender = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (_receiver, _) = listener.accept().unwrap();
        sender.write_all(&[7; 10_000]).unwrap();
        let own = sender.local_addr().unwrap();
        let end = std::time::Instant::now() + std::time::Duration::from_secs(5);
        loop {
            let all = connections().unwrap();
            let of = |local| {
                all.iter().find(|c: &&Connection| c.local == local && c.remote.port() != 0)
            };
            let near = of(own).unwrap();
            let far = of(sender.peer_addr().unwrap()).unwrap();
            assert!(near.is_loopback());
            if (near.sent, far.received) == (10_000, 10_000) {
                assert!(near.round_trip.is_some());
                break;
            }
            assert!(std::time::Instant::now() < end, "{near:?} {far:?}");
        }
    }
}
