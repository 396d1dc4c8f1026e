//! The interfaces of a network namespace, and where a packet of a local socket is charged once.
//!
//! A packet often passes several devices: a bridge and its port, a VLAN and what carries it, a
//! tunnel and the interface below. [`charged`] picks the devices on which the local stack itself
//! speaks IP:
//!
//! - ports of a bridge, bond or team are left out: the master sees the same packet. A VRF is the
//!   other way round, its ports speak IP and it is left out itself;
//! - a macvlan or ipvlan device is left out when the device below is in this namespace: the same
//!   packet passes there;
//! - a VLAN and a tunnel device both count, and so does the device that carries them: there the
//!   packet is not the same any more. It has the protocol 802.1Q for tc (where the tag is in the
//!   packet's metadata nft still sees IP), or is wrapped in a packet of its own. A filter for
//!   plain IP charges it once;
//! - loopback and ifb devices, whoever made them, never count.

mod watch;

use std::collections::HashMap;

use chadthrottle_core::{Error, Result, check::Remedy};
use netlink_packet_route::{
    RouteNetlinkMessage,
    link::{LinkAttribute, LinkMessage},
};

pub use watch::Watch;

use crate::rtnetlink::{Reply, Socket, attributes, text_of, u32_of};

/// `struct ifinfomsg`, and of its fields type, index and flags.
const HEADER: usize = 16;
/// `IFLA_*` of `include/uapi/linux/if_link.h`.
const NAME: u16 = 3;
const MTU: u16 = 4;
const LINK: u16 = 5;
const MASTER: u16 = 10;
const LINK_INFO: u16 = 18;
const STATS64: u16 = 23;
const LINK_NETNS: u16 = 37;
const INFO_KIND: u16 = 1;
const INFO_PORT_KIND: u16 = 4;
/// `ARPHRD_ETHER`, `ARPHRD_LOOPBACK` (`include/uapi/linux/if_arp.h`).
const ETHERNET: u16 = 1;
const LOOPBACK: u16 = 772;
/// `ARPHRD_CAN`, `ARPHRD_NETLINK`: no IP ever passes there.
const NO_IP: [u16; 2] = [280, 824];

/// An interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// Its number; another namespace may use the same one.
    pub index: u32,
    /// Its name, which may change while it lives.
    pub name: String,
    /// What made it: `bridge`, `vlan`, `tun`. Empty for hardware.
    pub kind: String,
    /// Largest IP packet, in bytes.
    pub mtu: u32,
    /// The bridge, bond, team or VRF that it is a port of.
    pub master: Option<u32>,
    /// What it is a port of, as its kind: `bridge`, `vrf`.
    pub port_of: String,
    /// The device that it is stacked on, when that is in the same namespace (`IFLA_LINK`); for a
    /// veth its peer.
    pub lower: Option<u32>,
    /// Whether frames have an Ethernet header of 14 bytes.
    pub ethernet: bool,
    /// `ARPHRD_*`.
    layer: u16,
}

impl Link {
    /// Whether packets of this device stay inside the machine and the namespace.
    #[must_use]
    pub fn is_loopback(&self) -> bool {
        self.layer == LOOPBACK
    }

    /// The device below that sees the very same packets.
    #[must_use]
    pub fn same_packets_on(&self) -> Option<u32> {
        let stacked = ["macvlan", "macvtap", "ipvlan", "ipvtap"].contains(&self.kind.as_str());
        self.lower.filter(|_| stacked)
    }
}

/// The interfaces of the namespace that the socket belongs to, by index.
pub fn list(socket: &mut Socket) -> Result<Vec<Link>> {
    let mut links: Vec<Link> = dump(socket)?.iter().filter_map(parse).collect();
    links.sort_by_key(|link| link.index);
    Ok(links)
}

/// The interface of this name, if there is one.
pub fn named(socket: &mut Socket, name: &str) -> Result<Option<Link>> {
    let mut message = LinkMessage::default();
    message.attributes = vec![LinkAttribute::IfName(name.to_owned())];
    match socket.get(RouteNetlinkMessage::GetLink(message)) {
        Ok(reply) => Ok(parse(&reply)),
        Err(refusal) if refusal.code() == libc::ENODEV => Ok(None),
        Err(refusal) => Err(refusal.explain("find the interface", name)),
    }
}

fn dump(socket: &mut Socket) -> Result<Vec<Reply>> {
    let request = RouteNetlinkMessage::GetLink(LinkMessage::default());
    socket.dump(request).map_err(|refusal| {
        refusal
            .explain("list", "network interfaces")
            .remedy(Remedy::GrantCapability("CAP_NET_ADMIN".into()))
    })
}

/// Packets that passed so far on those [`charged`] interfaces whose packets have no Ethernet
/// header, as (received, sent).
pub fn bare_packets(socket: &mut Socket) -> Result<(u64, u64)> {
    let (mut links, mut passed) = (Vec::new(), HashMap::new());
    for reply in dump(socket)? {
        let Some(link) = parse(&reply) else { continue };
        // `struct rtnl_link_stats64`: rx_packets, tx_packets.
        let stats = attributes(&reply.payload, HEADER).find(|(kind, _)| *kind == STATS64);
        let at = |place: usize| {
            let bytes = stats?.1.get(place..place + 8)?;
            Some(u64::from_ne_bytes(bytes.try_into().ok()?))
        };
        passed.insert(link.index, (at(0).unwrap_or_default(), at(8).unwrap_or_default()));
        links.push(link);
    }
    let bare = charged(&links).filter(|link| !link.ethernet).map(|link| passed[&link.index]);
    Ok(bare.fold((0, 0), |sum, (received, sent)| (sum.0 + received, sum.1 + sent)))
}

/// Whether there is still an interface with this number.
pub fn exists(socket: &mut Socket, index: u32) -> Result<bool> {
    Ok(list(socket)?.iter().any(|link| link.index == index))
}

/// Opens a socket in the namespace of the calling thread, for [`list`].
pub fn socket() -> Result<Socket> {
    Socket::open().map_err(|error| Error::io("open", "a netlink socket", error))
}

/// Those on which a packet of a local socket is charged, each packet on exactly one of them. See
/// the module's documentation.
pub fn charged(links: &[Link]) -> impl Iterator<Item = &Link> {
    links.iter().filter(move |link| {
        let is_port = link.master.is_some() && link.port_of != "vrf";
        let doubled =
            link.same_packets_on().is_some_and(|lower| links.iter().any(|l| l.index == lower));
        let speaks_ip = !link.is_loopback() && !NO_IP.contains(&link.layer);
        speaks_ip && !is_port && !doubled && !["ifb", "vrf"].contains(&link.kind.as_str())
    })
}

/// Read attribute by attribute: a device with attributes that nobody knows is still an interface.
fn parse(reply: &Reply) -> Option<Link> {
    let header = reply.payload.get(..HEADER)?;
    let layer = u16::from_ne_bytes([header[2], header[3]]);
    let mut link = Link {
        index: u32_of(&header[4..])?,
        name: String::new(),
        kind: String::new(),
        mtu: 0,
        master: None,
        port_of: String::new(),
        lower: None,
        ethernet: layer == ETHERNET,
        layer,
    };
    let mut elsewhere = false;
    for (kind, value) in attributes(&reply.payload, HEADER) {
        match kind {
            NAME => link.name = text_of(value),
            MTU => link.mtu = u32_of(value)?,
            // A device without one names itself, or 0.
            LINK => {
                link.lower = u32_of(value).filter(|&index| index != 0 && index != link.index);
            }
            LINK_NETNS => elsewhere = true,
            MASTER => link.master = u32_of(value),
            LINK_INFO => {
                for (kind, value) in attributes(value, 0) {
                    match kind {
                        INFO_KIND => link.kind = text_of(value),
                        INFO_PORT_KIND => link.port_of = text_of(value),
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
    if elsewhere {
        link.lower = None;
    }
    Some(link)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(index: u32, name: &str, kind: &str) -> Link {
        Link {
            index,
            name: name.into(),
            kind: kind.into(),
            mtu: 1500,
            master: None,
            port_of: String::new(),
            lower: None,
            ethernet: true,
            layer: ETHERNET,
        }
    }

    fn names(links: &[Link]) -> Vec<&str> {
        charged(links).map(|link| link.name.as_str()).collect()
    }

    #[test]
    fn a_packet_through_a_stack_is_charged_once() {
        let port = |master, of: &str| Link {
            master: Some(master),
            port_of: of.into(),
            ..link(2, "eth0", "")
        };
        let on = |kind: &str| Link { lower: Some(2), ..link(5, "top", kind) };
        for (links, expected) in [
            (vec![link(2, "eth0", ""), on("vlan")], vec!["eth0", "top"]),
            (vec![port(5, "bridge"), link(5, "br0", "bridge")], vec!["br0"]),
            (vec![port(5, "bond"), link(5, "bond0", "bond")], vec!["bond0"]),
            (vec![port(5, "vrf"), link(5, "red", "vrf")], vec!["eth0"]),
            (vec![link(2, "eth0", ""), on("macvlan")], vec!["eth0"]),
            // Its lower device is in another namespace: a container.
            (vec![on("ipvlan")], vec!["top"]),
            (vec![link(2, "veth0", "veth"), on("veth")], vec!["veth0", "top"]),
            (vec![link(2, "eth0", ""), on("gre")], vec!["eth0", "top"]),
            (vec![link(3, "ifb0", "ifb")], vec![]),
            (vec![Link { layer: LOOPBACK, ..link(1, "lo", "") }], vec![]),
        ] {
            assert_eq!(names(&links), expected, "{links:#?}");
        }
    }
}
