//! Taking our marks off conntrack entries: what is left would be limited by whoever gets the same
//! mark next.

use std::io;

use netlink_packet_core::{DefaultNla, Emitable, NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_NETFILTER};

use crate::{
    moved::{MARK_MASK, Mark},
    rtnetlink::attributes,
};

/// `NFNL_SUBSYS_CTNETLINK` << 8 with `IPCTNL_MSG_CT_NEW` and `IPCTNL_MSG_CT_GET`
/// (`include/uapi/linux/netfilter/nfnetlink*.h`).
const NEW: u16 = 0x100;
const GET: u16 = 0x101;
/// `CTA_*` of `nfnetlink_conntrack.h`.
const ORIGINAL: u16 = 1;
const MARK: u16 = 8;
const ZONE: u16 = 18;
const MASK: u16 = 21;
/// `NLA_F_NESTED`.
const NESTED: u16 = 0x8000;
/// `struct nlmsghdr`, and with `struct nfgenmsg` behind it.
const HEADER: usize = 16;
const FAMILY_HEADER: usize = 20;
const ERROR: u16 = 2;
const DONE: u16 = 3;
const BUFFER: usize = 64 * 1024;

/// Takes this mark off all entries of the calling thread's namespace; returns how many had it.
///
/// Needs `nf_conntrack_netlink`; without it entries keep the mark until they time out.
pub(in crate::tc) fn clear(mark: Mark) -> io::Result<usize> {
    let mut socket = Socket::new(NETLINK_NETFILTER)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    let value = mark.value();
    let filter =
        [attribute(MARK, &value.to_be_bytes()), attribute(MASK, &MARK_MASK.to_be_bytes())];
    socket.send(&message(GET, NLM_F_DUMP, 0, &filter), 0)?;
    let mut entries = Vec::new();
    receive(&socket, |bytes| entries.extend(Entry::parse(bytes, value)))?;
    for entry in &entries {
        let mut attributes = vec![attribute(ORIGINAL | NESTED, &entry.tuple)];
        attributes.extend(entry.zone.as_ref().map(|zone| attribute(ZONE, zone)));
        attributes.push(attribute(MARK, &[0; 4]));
        attributes.push(attribute(MASK, &MARK_MASK.to_be_bytes()));
        socket.send(&message(NEW, NLM_F_ACK, entry.family, &attributes), 0)?;
        match receive(&socket, |_| {}) {
            // It has just ended.
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => {}
            result => result?,
        }
    }
    Ok(entries.len())
}

struct Entry {
    family: u8,
    tuple: Vec<u8>,
    zone: Option<Vec<u8>>,
}

impl Entry {
    /// Kernels that do not filter the dump list all entries.
    fn parse(bytes: &[u8], mark: u32) -> Option<Self> {
        let family = *bytes.get(HEADER)?;
        let (mut tuple, mut zone, mut ours) = (None, None, false);
        for (kind, value) in attributes(bytes, FAMILY_HEADER) {
            match kind & !NESTED {
                ORIGINAL => tuple = Some(value.to_vec()),
                ZONE => zone = Some(value.to_vec()),
                MARK => {
                    let found = u32::from_be_bytes(value.try_into().ok()?);
                    ours = found & MARK_MASK == mark;
                }
                _ => {}
            }
        }
        ours.then_some(())?;
        Some(Self { family, tuple: tuple?, zone })
    }
}

fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let attributes = [DefaultNla::new(kind, value.to_vec())];
    let mut bytes = vec![0; attributes.as_slice().buffer_len()];
    attributes.as_slice().emit(&mut bytes);
    bytes
}

fn message(kind: u16, flags: u16, family: u8, attributes: &[Vec<u8>]) -> Vec<u8> {
    let body: Vec<u8> = attributes.concat();
    let mut bytes = Vec::with_capacity(FAMILY_HEADER + body.len());
    bytes.extend(((FAMILY_HEADER + body.len()) as u32).to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend((NLM_F_REQUEST | flags).to_ne_bytes());
    bytes.extend([0; 8]); // sequence and port
    bytes.extend([family, 0, 0, 0]); // version 0, no resource
    bytes.extend(body);
    bytes
}

/// Reads the answer to one request, whole messages with their headers.
fn receive(socket: &Socket, mut found: impl FnMut(&[u8])) -> io::Result<()> {
    let mut buffer = vec![0; BUFFER];
    loop {
        let length = socket.recv(&mut &mut buffer[..], 0)?;
        let mut rest = &buffer[..length];
        while let Some(header) = rest.get(..HEADER) {
            let size =
                u32::from_ne_bytes([header[0], header[1], header[2], header[3]]) as usize;
            let kind = u16::from_ne_bytes([header[4], header[5]]);
            let message = rest.get(..size.max(HEADER)).unwrap_or(rest);
            rest = rest.get(size.max(HEADER).next_multiple_of(4)..).unwrap_or_default();
            match kind {
                ERROR | DONE => {
                    let code = message.get(HEADER..HEADER + 4).unwrap_or(&[0; 4]);
                    let code = i32::from_ne_bytes([code[0], code[1], code[2], code[3]]);
                    return if code < 0 {
                        Err(io::Error::from_raw_os_error(-code))
                    } else {
                        Ok(())
                    };
                }
                _ => found(message),
            }
        }
    }
}
