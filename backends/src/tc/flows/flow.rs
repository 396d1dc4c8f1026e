//! What identifies the packets of a socket.

use std::{collections::HashSet, net::IpAddr};

use chadthrottle_core::Direction;
use netlink_packet_route::tc::{TcU32Key, TcU32Selector};

use crate::tc::u32::{key, next_key, terminal};

/// TCP or UDP.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(in crate::tc) enum Transport {
    Tcp,
    Udp,
}

impl Transport {
    pub(in crate::tc) const BOTH: [Self; 2] = [Self::Tcp, Self::Udp];

    /// IP protocol number.
    pub(super) fn number(self) -> u32 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
        }
    }
}

/// A connection, or a local port with whatever arrives there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(in crate::tc) struct Flow {
    pub(in crate::tc) transport: Transport,
    /// Unspecified: any address of this family.
    pub(in crate::tc) local: IpAddr,
    pub(in crate::tc) port: u16,
    /// `None`: any peer.
    pub(in crate::tc) remote: Option<(IpAddr, u16)>,
}

impl Flow {
    /// Of each transport one connection between these addresses and themselves, and one port: for
    /// trying out what the kernel takes.
    pub(in crate::tc) fn examples(addresses: [IpAddr; 2]) -> HashSet<Self> {
        let each = addresses.into_iter().flat_map(|local| {
            Transport::BOTH.map(|transport| Self {
                transport,
                local,
                port: 4000,
                remote: Some((local, 443)),
            })
        });
        each.flat_map(|flow| [flow, Self { remote: None, ..flow }]).collect()
    }

    /// 0 for IPv4, 1 for IPv6: which of our two preferences it belongs to.
    pub(super) fn family(&self) -> usize {
        usize::from(self.local.is_ipv6())
    }

    /// What its packets look like in one direction.
    pub(super) fn selector(&self, direction: Direction) -> TcU32Selector {
        let upload = direction == Direction::Upload;
        // The first word of TCP and UDP: source and destination port.
        let place = |local: u16, remote: u16| {
            let (source, destination) = if upload { (local, remote) } else { (remote, local) };
            u32::from(source) << 16 | u32::from(destination)
        };
        let remote_port = self.remote.map_or(0, |(_, port)| port);
        let remote_mask = if self.remote.is_some() { u16::MAX } else { 0 };
        let ports = next_key(0, place(self.port, remote_port), place(u16::MAX, remote_mask));
        let mut keys = vec![ports];
        keys.extend(address(self.local, upload));
        keys.extend(self.remote.into_iter().flat_map(|(remote, _)| address(remote, !upload)));
        terminal(keys)
    }
}

/// Matches an address in the IP header; nothing when it is any.
fn address(address: IpAddr, source: bool) -> Vec<TcU32Key> {
    if address.is_unspecified() {
        return Vec::new();
    }
    match address {
        IpAddr::V4(address) => {
            vec![key(if source { 12 } else { 16 }, address.to_bits(), u32::MAX)]
        }
        IpAddr::V6(address) => {
            let start = if source { 8 } else { 24 };
            let bits = address.to_bits();
            (0..4)
                .map(|word| key(start + 4 * word, (bits >> (96 - 32 * word)) as u32, u32::MAX))
                .collect()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flow(local: &str, remote: Option<&str>) -> Flow {
        Flow {
            transport: Transport::Tcp,
            local: local.parse().unwrap(),
            port: 0x1234,
            remote: remote.map(|remote| (remote.parse().unwrap(), 443)),
        }
    }

    fn keys(flow: Flow, direction: Direction) -> Vec<(i32, u32, u32)> {
        let selector = flow.selector(direction);
        assert_eq!(usize::from(selector.nkeys), selector.keys.len());
        selector.keys.iter().map(|key| (key.off, key.val, key.mask)).collect()
    }

    #[test]
    fn a_connection_is_matched_both_ways() {
        let flow = flow("10.0.0.1", Some("10.0.0.2"));
        assert_eq!(
            keys(flow, Direction::Upload),
            [
                (0, 0x1234_01bb, u32::MAX),
                (12, 0x0a00_0001, u32::MAX),
                (16, 0x0a00_0002, u32::MAX)
            ]
        );
        assert_eq!(
            keys(flow, Direction::Download),
            [
                (0, 0x01bb_1234, u32::MAX),
                (16, 0x0a00_0001, u32::MAX),
                (12, 0x0a00_0002, u32::MAX)
            ]
        );
    }

    #[test]
    fn a_port_is_matched_whoever_the_peer_is() {
        assert_eq!(
            keys(flow("0.0.0.0", None), Direction::Upload),
            [(0, 0x1234_0000, 0xffff_0000)]
        );
        assert_eq!(keys(flow("::", None), Direction::Download), [(0, 0x1234, 0xffff)]);
    }

    #[test]
    fn ipv6_takes_four_words_an_address() {
        let found = keys(flow("fd00::1", Some("fd00::2")), Direction::Download);
        assert_eq!(found.len(), 9);
        assert_eq!(found[1], (24, 0xfd00_0000, u32::MAX));
        assert_eq!(found[4], (36, 1, u32::MAX));
        assert_eq!(found[8], (20, 2, u32::MAX));
    }
}
