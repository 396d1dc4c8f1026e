//! Who else shapes or filters traffic on this machine: looked at, never touched.

use std::{fs, io, path::Path};

use chadthrottle_core::Host;
use netlink_packet_core::NetlinkBuffer;
use netlink_packet_route::{
    RouteNetlinkMessage,
    tc::{TcHeader, TcMessage},
};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_NETFILTER};
use serde::Serialize;

use crate::{
    links,
    rtnetlink::{self, attributes, text_of},
};

/// What was seen.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Neighbours {
    /// Programs that are known to manage traffic or firewalls, by name.
    pub services: Vec<String>,
    /// nftables tables as FAMILY NAME; `null` when they cannot be listed.
    pub nft_tables: Option<Vec<String>>,
    /// Qdiscs that somebody has set up, as DEVICE KIND; `null` when they cannot be listed.
    pub qdiscs: Option<Vec<String>>,
}

/// Names in /proc/PID/comm (at most 15 bytes) and what they are.
const SERVICES: [(&str, &str); 9] = [
    ("dockerd", "Docker"),
    ("containerd", "containerd"),
    ("podman", "Podman"),
    ("firewalld", "firewalld"),
    ("kubelet", "Kubernetes"),
    ("cilium-agent", "Cilium"),
    ("NetworkManager", "NetworkManager"),
    ("tailscaled", "Tailscale"),
    ("chadthrottle", "chadthrottle"),
];

/// What the kernel sets up by itself.
const DEFAULT_QDISCS: [&str; 6] = ["noqueue", "mq", "pfifo_fast", "fq_codel", "pfifo", "fq"];

impl Neighbours {
    /// Looks. What cannot be read is left out.
    #[must_use]
    pub fn look(host: &Host) -> Self {
        Self { services: services(host), nft_tables: nft_tables().ok(), qdiscs: qdiscs() }
    }
}

fn services(host: &Host) -> Vec<String> {
    let own = std::process::id().to_string();
    let entries = fs::read_dir(&host.proc).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries
        .filter(|entry| entry.file_name().to_str().is_some_and(|name| name != own))
        .filter_map(|entry| fs::read_to_string(entry.path().join("comm")).ok())
        .filter_map(|comm| {
            let known = SERVICES.iter().find(|(name, _)| comm.trim() == *name);
            known.map(|(_, service)| (*service).to_owned())
        })
        .collect();
    // ufw leaves no process, only rules.
    let ufw = fs::read_to_string(Path::new("/etc/ufw/ufw.conf"));
    if ufw.is_ok_and(|text| text.lines().any(|line| line.trim() == "ENABLED=yes")) {
        names.push("ufw".to_owned());
    }
    names.sort();
    names.dedup();
    names
}

/// All tables of the calling thread's network namespace.
fn nft_tables() -> io::Result<Vec<String>> {
    /// `NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_GETTABLE` and `.. NFT_MSG_NEWTABLE`
    const GET_TABLE: u16 = 0x0a01;
    const NEW_TABLE: u16 = 0x0a00;
    const REQUEST_DUMP: u16 = 0x0001 | 0x0300;
    /// `struct nfgenmsg`: family (0: all), version, resource.
    const HEADER: usize = 4;
    const NAME: u16 = 1;
    const ERROR: u16 = 2;
    const DONE: u16 = 3;

    let mut socket = Socket::new(NETLINK_NETFILTER)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    let mut request = Vec::with_capacity(20);
    request.extend(20_u32.to_ne_bytes());
    request.extend(GET_TABLE.to_ne_bytes());
    request.extend(REQUEST_DUMP.to_ne_bytes());
    request.extend([0; 8]); // sequence, port
    request.extend([0; HEADER]);
    socket.send(&request, 0)?;
    let mut tables = Vec::new();
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let length = socket.recv(&mut &mut buffer[..], 0)?;
        let mut rest = &buffer[..length];
        while !rest.is_empty() {
            let message = NetlinkBuffer::new_checked(rest)
                .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
            let payload = message.payload();
            match message.message_type() {
                DONE => return Ok(tables),
                ERROR => {
                    let code = rtnetlink::u32_of(payload).unwrap_or(0).cast_signed();
                    return Err(io::Error::from_raw_os_error(-code));
                }
                NEW_TABLE => {
                    let name = attributes(payload, HEADER).find(|(kind, _)| *kind == NAME);
                    let name = name.map(|(_, name)| text_of(name)).unwrap_or_default();
                    tables.push(format!("{} {name}", family(payload.first())));
                }
                _ => {}
            }
            let size = (message.length() as usize).next_multiple_of(4);
            rest = rest.get(size..).unwrap_or_default();
        }
    }
}

/// `NFPROTO_*` of `include/uapi/linux/netfilter.h`, as nft(8) spells them.
fn family(number: Option<&u8>) -> &'static str {
    match number {
        Some(1) => "inet",
        Some(2) => "ip",
        Some(3) => "arp",
        Some(5) => "netdev",
        Some(7) => "bridge",
        Some(10) => "ip6",
        _ => "?",
    }
}

/// Those of the calling thread's network namespace.
fn qdiscs() -> Option<Vec<String>> {
    /// `struct tcmsg`, and in it the interface.
    const HEADER: usize = 20;
    const INTERFACE: usize = 4;
    const KIND: u16 = 1;

    let mut socket = links::socket().ok()?;
    let names = links::list(&mut socket).ok()?;
    let mut message = TcMessage::default();
    message.header = TcHeader::default();
    let replies = socket.dump(RouteNetlinkMessage::GetQueueDiscipline(message)).ok()?;
    let mut found: Vec<String> = replies
        .iter()
        .filter_map(|reply| {
            let kind = attributes(&reply.payload, HEADER).find(|(kind, _)| *kind == KIND)?.1;
            let index = rtnetlink::u32_of(reply.payload.get(INTERFACE..)?)?;
            let device = names.iter().find(|link| link.index == index)?;
            Some((device.name.clone(), text_of(kind)))
        })
        .filter(|(_, kind)| !DEFAULT_QDISCS.contains(&kind.as_str()))
        .map(|(device, kind)| format!("{device} {kind}"))
        .collect();
    found.sort();
    found.dedup();
    Some(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn looks_at_this_machine() {
        let neighbours = Neighbours::look(&Host::detect().unwrap());
        assert!(neighbours.qdiscs.is_some());
    }
}
