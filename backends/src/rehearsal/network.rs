//! The two namespaces of a rehearsal and the veth pair between them.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, UdpSocket},
    os::fd::{AsFd, AsRawFd, BorrowedFd},
};

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    address::{AddressAttribute, AddressMessage},
    link::{InfoData, InfoKind, InfoVeth, LinkAttribute, LinkFlags, LinkInfo, LinkMessage},
};

use crate::rtnetlink::{Refusal, Socket};

/// The addresses of the two ends, in a network reserved for documentation (RFC 5737).
pub const NEAR: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
/// The peer's.
pub const FAR: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);
/// The near end of the veth pair, as its namespace calls it.
pub const NEAR_DEVICE: &str = "near";

/// The number of either end in its namespace: what the kernel makes there by itself (lo, and
/// devices of tunnel modules) has low ones.
const INDEX: u32 = 1000;

/// Makes the pair, in the namespace of the calling thread, with its near end in `near`.
pub(super) fn wire(near: BorrowedFd<'_>) -> Result<(), Refusal> {
    let mut peer = device(NEAR_DEVICE);
    peer.attributes.push(LinkAttribute::NetNsFd(near.as_raw_fd()));
    let mut far = device("far");
    far.attributes.push(LinkAttribute::LinkInfo(vec![
        LinkInfo::Kind(InfoKind::Veth),
        LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(peer))),
    ]));
    Socket::open()?.execute(RouteNetlinkMessage::NewLink(far), NLM_F_CREATE | NLM_F_EXCL)
}

/// Gives this namespace's end its address and sets it up.
pub(super) fn configure(address: Ipv4Addr) -> Result<(), Refusal> {
    let mut socket = Socket::open()?;
    let mut message = AddressMessage::default();
    message.header.family = AddressFamily::Inet;
    message.header.prefix_len = 24;
    message.header.index = INDEX;
    message.attributes = vec![
        AddressAttribute::Local(IpAddr::V4(address)),
        AddressAttribute::Address(IpAddr::V4(address)),
    ];
    socket.execute(RouteNetlinkMessage::NewAddress(message), NLM_F_CREATE | NLM_F_EXCL)?;
    let mut up = LinkMessage::default();
    up.header.index = INDEX;
    up.header.flags = LinkFlags::Up;
    up.header.change_mask = LinkFlags::Up;
    socket.execute(RouteNetlinkMessage::SetLink(up), 0)
}

/// A datagram socket at this address.
pub(super) fn socket(address: Ipv4Addr) -> io::Result<UdpSocket> {
    let socket = UdpSocket::bind((address, 0))?;
    socket.set_read_timeout(Some(super::actor::PATIENCE))?;
    Ok(socket)
}

/// The network namespace of the calling thread.
pub(super) fn current() -> io::Result<impl AsFd> {
    std::fs::File::open("/proc/thread-self/ns/net")
}

fn device(name: &str) -> LinkMessage {
    let mut message = LinkMessage::default();
    message.header.index = INDEX;
    message.attributes.push(LinkAttribute::IfName(name.to_owned()));
    message
}
