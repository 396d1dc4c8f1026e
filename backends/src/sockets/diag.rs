//! The sockets of a network namespace, as `sock_diag` lists them.

use std::{io, net::IpAddr};

use chadthrottle_core::{Error, Result, check::Remedy};
use netlink_packet_core::{
    NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload, Nla as _,
};
use netlink_packet_sock_diag::{
    SockDiagMessage,
    constants::{AF_INET, AF_INET6, IPPROTO_TCP, IPPROTO_UDP, TCP_LISTEN, TCP_TIME_WAIT},
    inet::{ExtensionFlags, InetRequest, InetResponse, SocketId, StateFlags, nlas::Nla},
};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_SOCK_DIAG};

use super::{Family, Protocol};

/// `include/uapi/linux/inet_diag.h`; kernel 5.9, not named in netlink-packet-sock-diag 0.5.
const INET_DIAG_CGROUP_ID: u16 = 21;

/// A dump comes in pieces of at most 32 KiB (`netlink_dump`, `net/netlink/af_netlink.c`).
const BUFFER: usize = 64 * 1024;

/// One socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DiagSocket {
    /// See [`Family`].
    pub family: Family,
    /// TCP or UDP. Subflows of MPTCP come as TCP.
    pub protocol: Protocol,
    /// `SO_COOKIE`.
    pub cookie: u64,
    /// Its number in sockfs, as in /proc/PID/fd; 0 while no process holds it (not accepted
    /// yet, or closed and sending the rest).
    pub inode: u64,
    /// The id of the cgroup where it was created; `None` before kernel 5.9 and for a
    /// connection that is only half open.
    pub cgroup: Option<u64>,
    /// `include/net/tcp_states.h`: 1 established, 10 listening. UDP: 1 connected, 7 not.
    pub state: u8,
    /// Local port, 0 when none.
    pub port: u16,
    /// Local address, unspecified when it is any. An IPv4 address that an IPv6 socket uses is an
    /// IPv4 address here.
    pub local: IpAddr,
    /// Where it is connected to, in the same way; port 0 when it is not.
    pub remote: (IpAddr, u16),
}

impl DiagSocket {
    /// Whether it accepts connections.
    #[must_use]
    pub fn is_listening(&self) -> bool {
        self.protocol == Protocol::Tcp && self.state == TCP_LISTEN
    }
}

/// All TCP sockets (but those in `TIME_WAIT`, which carry no data) and UDP sockets, IPv4 and
/// IPv6, in the network namespace of the calling thread.
pub fn dump() -> Result<Vec<DiagSocket>> {
    Diag::open()?.dump()
}

/// The same, as the kernel says it, protocols by their number; `with_info` asks for `tcp_info` too.
pub(super) fn each(
    with_info: bool,
    found: impl FnMut(&InetResponse, Family, u8),
) -> Result<()> {
    Diag::open()?.each(with_info, found)
}

/// Lists the sockets of one namespace again and again.
#[derive(Debug)]
pub struct Diag(Socket);

impl Diag {
    /// For the network namespace of the calling thread.
    pub fn open() -> Result<Self> {
        connect().map(Self).map_err(|error| failed("open", error))
    }

    /// What [`dump`] lists, of this namespace.
    pub fn dump(&self) -> Result<Vec<DiagSocket>> {
        let mut sockets = Vec::new();
        self.each(false, |response, family, protocol| {
            sockets.push(parse(response, family, protocol));
        })?;
        Ok(sockets)
    }

    /// Whether one of them carries these `bits` of `mask` in its mark (kernel 4.10 and `CAP_NET_ADMIN`).
    pub fn has_marked(&self, bits: u32, mask: u32) -> Result<bool> {
        let mut found = false;
        self.each(false, |response, _, _| {
            found |= response
                .nlas
                .iter()
                .any(|attribute| matches!(attribute, Nla::Mark(has) if has & mask == bits));
        })?;
        Ok(found)
    }

    /// The namespace, see [`super::netns_cookie`].
    #[must_use]
    pub fn netns_cookie(&self) -> Option<u64> {
        super::netns_cookie(&self.0)
    }

    fn each(
        &self,
        with_info: bool,
        mut found: impl FnMut(&InetResponse, Family, u8),
    ) -> Result<()> {
        for (family, number) in [(Family::Inet, AF_INET), (Family::Inet6, AF_INET6)] {
            for (protocol, name) in [(IPPROTO_TCP, "TCP"), (IPPROTO_UDP, "UDP")] {
                request(&self.0, number, protocol, with_info)
                    .and_then(|()| {
                        receive(&self.0, |response| found(response, family, protocol))
                    })
                    .map_err(|error| failed(name, error))?;
            }
        }
        Ok(())
    }
}

fn failed(what: &str, error: io::Error) -> Error {
    let missing = error.raw_os_error() == Some(libc::ENOENT);
    let failed = Error::io("list sockets through sock_diag:", what, error);
    if missing {
        let module = if what == "UDP" { "udp_diag" } else { "tcp_diag" };
        return failed
            .meaning("The kernel cannot list sockets of this protocol.")
            .remedy(Remedy::LoadModule(module.into()));
    }
    failed
}

fn connect() -> io::Result<Socket> {
    let mut socket = Socket::new(NETLINK_SOCK_DIAG)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    Ok(socket)
}

fn request(socket: &Socket, family: u8, protocol: u8, with_info: bool) -> io::Result<()> {
    let socket_id = if family == AF_INET { SocketId::new_v4() } else { SocketId::new_v6() };
    let mut message = NetlinkMessage::new(
        NetlinkHeader::default(),
        SockDiagMessage::InetRequest(InetRequest {
            family,
            protocol,
            extensions: if with_info { ExtensionFlags::INFO } else { ExtensionFlags::empty() },
            // Every state there is now or will be (bound-only sockets came with 6.8).
            states: StateFlags::from_bits_retain(!(1 << TCP_TIME_WAIT)),
            socket_id,
        })
        .into(),
    );
    message.header.flags = NLM_F_REQUEST | NLM_F_DUMP;
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    socket.send(&bytes, 0).map(drop)
}

/// Reads one dump to its end.
fn receive(socket: &Socket, mut found: impl FnMut(&InetResponse)) -> io::Result<()> {
    let mut buffer = vec![0_u8; BUFFER];
    loop {
        let length = socket.recv(&mut &mut buffer[..], 0)?;
        let mut rest = &buffer[..length];
        while !rest.is_empty() {
            let message = NetlinkMessage::<SockDiagMessage>::deserialize(rest)
                .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
            // Messages are aligned to 4 bytes (NLMSG_ALIGN), the last one may not be padded.
            let size = (message.header.length as usize).next_multiple_of(4);
            rest = rest.get(size..).unwrap_or_default();
            match message.payload {
                NetlinkPayload::InnerMessage(SockDiagMessage::InetResponse(response)) => {
                    found(&response);
                }
                NetlinkPayload::Done(done) if done.code < 0 => {
                    return Err(io::Error::from_raw_os_error(-done.code));
                }
                NetlinkPayload::Done(_) => return Ok(()),
                NetlinkPayload::Error(error) => return Err(error.to_io()),
                _ => {}
            }
        }
    }
}

pub(super) fn parse(response: &InetResponse, family: Family, protocol: u8) -> DiagSocket {
    let header = &response.header;
    // Two u32 in host order, the lower half first (sock_diag_save_cookie).
    let half = |at: usize| {
        let bytes = &header.socket_id.cookie[at..at + 4];
        u64::from(u32::from_ne_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
    };
    let cgroup = response.nlas.iter().find_map(|attribute| match attribute {
        Nla::Other(other) if other.kind() == INET_DIAG_CGROUP_ID && other.value_len() == 8 => {
            let mut id = [0; 8];
            other.emit_value(&mut id);
            Some(u64::from_ne_bytes(id))
        }
        _ => None,
    });
    DiagSocket {
        family,
        protocol: if protocol == IPPROTO_TCP { Protocol::Tcp } else { Protocol::Udp },
        cookie: half(0) | half(4) << 32,
        inode: u64::from(header.inode),
        cgroup,
        state: header.state,
        port: header.socket_id.source_port,
        local: header.socket_id.source_address.to_canonical(),
        remote: (
            header.socket_id.destination_address.to_canonical(),
            header.socket_id.destination_port,
        ),
    }
}
