//! Which flows belong to a target, given all sockets of a namespace.

use std::{
    collections::{HashMap, HashSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use super::flow::{Flow, Transport};
use crate::sockets::{DiagSocket, Protocol};

/// `TCP_ESTABLISHED` of `include/net/tcp_states.h`: for UDP it means connected.
const CONNECTED: u8 = 1;

/// What is known about the sockets of a target.
pub(in crate::tc) trait Owned {
    /// Whether the target has this socket.
    fn has(&self, socket: &DiagSocket) -> bool;
    /// Whether somebody who is not meant has it as well.
    fn is_shared(&self, socket: &DiagSocket) -> bool;
}

/// What is to be matched.
#[derive(Debug, Default, PartialEq, Eq)]
pub(in crate::tc) struct Selected {
    pub(in crate::tc) flows: HashSet<Flow>,
    /// UDP ports that others use too: their packets cannot be told apart.
    pub(in crate::tc) ambiguous: HashSet<u16>,
}

/// Picks the flows of a target.
///
/// A connection is matched by both its ends. A listener and a UDP socket that is not connected
/// are matched by their port alone, so that what arrives there is limited from its first packet
/// on, but only when nobody else uses that port.
pub(in crate::tc) fn select(sockets: &[DiagSocket], owned: &impl Owned) -> Selected {
    let mut selected = Selected::default();
    let mut others: HashMap<(Transport, u16), Vec<IpAddr>> = HashMap::new();
    let mut ours = Vec::new();
    for socket in sockets {
        let Some(transport) = transport(socket) else { continue };
        if socket.port == 0 {
            continue;
        }
        if owned.has(socket) {
            ours.push((transport, socket));
        }
        // One that nobody holds waits to be accepted, or has been closed: it claims nothing.
        else if socket.inode != 0 {
            others.entry((transport, socket.port)).or_default().push(socket.local);
        }
    }

    // Ports first: their connections need no filters of their own.
    let mut ports: HashSet<(Transport, u16, IpAddr)> = HashSet::new();
    for &(transport, socket) in &ours {
        if is_connection(transport, socket) || socket.local.is_loopback() {
            continue;
        }
        let claimed = others.get(&(transport, socket.port));
        let claimed = claimed.is_some_and(|all| all.iter().any(|&a| overlap(a, socket.local)));
        if claimed || owned.is_shared(socket) {
            if transport == Transport::Udp {
                selected.ambiguous.insert(socket.port);
            }
            continue;
        }
        for local in families(socket.local) {
            ports.insert((transport, socket.port, local));
            let port = socket.port;
            selected.flows.insert(Flow { transport, local, port, remote: None });
        }
    }
    for &(transport, socket) in &ours {
        let (remote, remote_port) = socket.remote;
        let loopback = socket.local.is_loopback() || remote.is_loopback();
        if !is_connection(transport, socket) || remote_port == 0 || loopback {
            continue;
        }
        let any = unspecified(socket.local);
        let covered = [socket.local, any]
            .iter()
            .any(|&local| ports.contains(&(transport, socket.port, local)));
        if !covered {
            selected.flows.insert(Flow {
                transport,
                local: socket.local,
                port: socket.port,
                remote: Some(socket.remote),
            });
        }
    }
    selected
}

fn transport(socket: &DiagSocket) -> Option<Transport> {
    match socket.protocol {
        // Subflows of MPTCP come as TCP.
        Protocol::Tcp | Protocol::Mptcp => Some(Transport::Tcp),
        Protocol::Udp => Some(Transport::Udp),
        Protocol::Other => None,
    }
}

fn is_connection(transport: Transport, socket: &DiagSocket) -> bool {
    match transport {
        Transport::Tcp => !socket.is_listening(),
        Transport::Udp => socket.state == CONNECTED,
    }
}

fn overlap(a: IpAddr, b: IpAddr) -> bool {
    a == b || a.is_unspecified() || b.is_unspecified()
}

fn unspecified(like: IpAddr) -> IpAddr {
    match like {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    }
}

/// An IPv6 socket that is bound to any address takes IPv4 as well.
fn families(local: IpAddr) -> Vec<IpAddr> {
    let v4 = IpAddr::from(Ipv4Addr::UNSPECIFIED);
    if local.is_unspecified() && local.is_ipv6() { vec![local, v4] } else { vec![local] }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sockets::Family;

    /// The target has even inodes; those from 100 on are shared.
    struct Even;

    impl Owned for Even {
        fn has(&self, socket: &DiagSocket) -> bool {
            socket.inode != 0 && socket.inode.is_multiple_of(2)
        }

        fn is_shared(&self, socket: &DiagSocket) -> bool {
            socket.inode >= 100
        }
    }

    const LISTEN: u8 = 10;
    const CLOSED: u8 = 7;

    fn socket(
        protocol: Protocol,
        inode: u64,
        state: u8,
        local: &str,
        remote: Option<&str>,
    ) -> DiagSocket {
        let local: std::net::SocketAddr = local.parse().unwrap();
        let remote = remote.map_or((unspecified(local.ip()), 0), |remote| {
            let remote: std::net::SocketAddr = remote.parse().unwrap();
            (remote.ip(), remote.port())
        });
        DiagSocket {
            family: Family::Inet,
            protocol,
            cookie: inode,
            inode,
            cgroup: None,
            state,
            port: local.port(),
            local: local.ip(),
            remote,
        }
    }

    fn tcp(inode: u64, state: u8, local: &str, remote: Option<&str>) -> DiagSocket {
        socket(Protocol::Tcp, inode, state, local, remote)
    }

    fn udp(inode: u64, state: u8, local: &str, remote: Option<&str>) -> DiagSocket {
        socket(Protocol::Udp, inode, state, local, remote)
    }

    /// "tcp LOCAL:PORT REMOTE:PORT" of each, sorted.
    fn flows(sockets: &[DiagSocket]) -> Vec<String> {
        let mut flows: Vec<String> = select(sockets, &Even)
            .flows
            .into_iter()
            .map(|flow| {
                let remote = flow.remote.map_or_else(
                    || "*".to_owned(),
                    |(address, port)| format!("{address}:{port}"),
                );
                format!("{:?} {}:{} {remote}", flow.transport, flow.local, flow.port)
            })
            .collect();
        flows.sort();
        flows
    }

    #[test]
    fn connections_of_the_target_and_of_nobody_else() {
        let found = flows(&[
            tcp(2, 1, "10.0.0.1:4000", Some("10.0.0.2:80")),
            tcp(3, 1, "10.0.0.1:4001", Some("10.0.0.2:80")),
            udp(4, CONNECTED, "10.0.0.1:4000", Some("10.0.0.3:53")),
            tcp(6, 1, "127.0.0.1:4002", Some("127.0.0.1:80")),
            tcp(8, 7, "10.0.0.1:4003", None),
        ]);
        assert_eq!(found, ["Tcp 10.0.0.1:4000 10.0.0.2:80", "Udp 10.0.0.1:4000 10.0.0.3:53"]);
    }

    #[test]
    fn a_listener_covers_what_it_accepts() {
        let found = flows(&[
            tcp(2, LISTEN, "[::]:80", None),
            tcp(4, 1, "10.0.0.1:80", Some("10.0.0.2:4000")),
            tcp(0, 1, "10.0.0.1:80", Some("10.0.0.2:4001")),
        ]);
        assert_eq!(found, ["Tcp 0.0.0.0:80 *", "Tcp :::80 *"]);
    }

    #[test]
    fn a_port_that_others_use_is_matched_by_connection() {
        for other in [
            tcp(3, LISTEN, "10.0.0.1:80", None),
            tcp(3, 1, "10.0.0.1:80", Some("10.0.0.2:4001")),
        ] {
            let found = flows(&[
                tcp(2, LISTEN, "0.0.0.0:80", None),
                tcp(4, 1, "10.0.0.1:80", Some("10.0.0.2:4000")),
                other,
            ]);
            assert_eq!(found, ["Tcp 10.0.0.1:80 10.0.0.2:4000"]);
        }
        // The same listener, inherited by a process that is not meant.
        let found = flows(&[
            tcp(100, LISTEN, "0.0.0.0:80", None),
            tcp(4, 1, "10.0.0.1:80", Some("10.0.0.2:4000")),
        ]);
        assert_eq!(found, ["Tcp 10.0.0.1:80 10.0.0.2:4000"]);
    }

    #[test]
    fn udp_is_matched_by_its_port() {
        let found = flows(&[udp(2, CLOSED, "0.0.0.0:5000", None)]);
        assert_eq!(found, ["Udp 0.0.0.0:5000 *"]);
        let shared =
            [udp(2, CLOSED, "0.0.0.0:5000", None), udp(3, CLOSED, "0.0.0.0:5000", None)];
        let selected = select(&shared, &Even);
        assert!(selected.flows.is_empty());
        assert_eq!(selected.ambiguous, HashSet::from([5000]));
    }
}
