//! tc egress, on the interfaces of the targets' network namespaces: shows the sender of a download
//! the window that `edge` granted, whatever the kernel offers. Everything else passes as it is.

use core::ffi::c_void;

use aya_ebpf::{
    bindings::__sk_buff,
    helpers::{
        bpf_ktime_get_ns,
        generated::{
            bpf_l4_csum_replace, bpf_sk_fullsock, bpf_skb_load_bytes_relative,
            bpf_skb_store_bytes,
        },
    },
};
use chadthrottle_ebpf::{
    layout::{DOWNLOAD, Flow, JOINED, LOCAL, PLAIN},
    packet::{
        Bytes, TCP, TCP_CHECKSUM, TCP_DATA_OFFSET, TCP_WINDOW, data_acknowledged, transport,
    },
    program::Packet,
    wire::{self, PATIENCE, UNKNOWN},
};

use super::{
    attribution, constants, joined,
    kept::{self, Later, Place, namespace},
    maps::FLOWS,
};

/// Go on to whoever comes next (`TCX_NEXT`).
pub(crate) const NEXT: i32 = -1;
/// BPF_HDR_START_NET.
const NETWORK: u32 = 1;
/// Of a TCP header: where it has the acknowledgement and the flags.
const ACKNOWLEDGEMENT: u32 = 8;
const FLAGS: u32 = 13;
/// Bytes of the window, as `bpf_l4_csum_replace` wants them in its flags.
const WINDOW_SIZE: u64 = 2;
const FIN: u8 = 1;
const SYN: u8 = 2;
const RST: u8 = 4;
/// How far from its start a packet can have its IP header: Ethernet, none, Ethernet with a VLAN
/// tag.
const LINK_HEADERS: [u32; 3] = [14, 0, 18];

/// A packet from its IP header on.
struct Network(*mut __sk_buff);

impl Bytes for Network {
    #[inline]
    fn read<const N: usize>(&self, offset: u32) -> Option<[u8; N]> {
        let mut bytes = [0; N];
        let to = bytes.as_mut_ptr().cast();
        // SAFETY: `bytes` has room for N bytes.
        let failed = unsafe {
            bpf_skb_load_bytes_relative(self.0.cast(), offset, to, N as u32, NETWORK)
        };
        (failed == 0).then_some(bytes)
    }
}

/// Writes the window that the sender may see into what is a segment of a limited download.
#[inline]
pub(crate) fn show(skb: *mut __sk_buff) {
    if let Some(change) = decide(skb) {
        write(skb, &change);
        kept::keep(skb, &change.place, &change.later);
    }
}

/// A window to be written.
struct Change {
    place: Place,
    /// The field as it is, and as it shall be.
    old: [u8; 2],
    new: [u8; 2],
    later: Later,
}

/// `None`: nothing to do, or nothing known.
#[inline]
fn decide(skb: *mut __sk_buff) -> Option<Change> {
    // SAFETY: the program's own context; `sk` is read once, so that the null check holds.
    let sk = unsafe { (*skb).__bindgen_anon_2.sk };
    if sk.is_null() {
        return None;
    }
    // SAFETY: checked not to be null; null again for a socket that is not a full one.
    let sk = unsafe { bpf_sk_fullsock(sk) }.cast::<c_void>();
    if sk.is_null() {
        return None;
    }
    let flow = FLOWS.get(sk).filter(|flow| is_limited(flow))?;
    let packet = Network(skb);
    let (protocol, header) = transport(&packet)?;
    let [flags] = packet.read(header + FLAGS)?;
    if protocol != TCP || flags & (SYN | RST) != 0 || flow.edge.at == 0 {
        // What follows the SYN passes here as well.
        flow.edge.passed = PATIENCE;
        return None;
    }
    if flow.edge.scale == UNKNOWN {
        // A subflow of MPTCP: now it can be joined.
        let joins = constants::ack_seq() != 0 && constants::rcv_wscale() != 0;
        flow.edge.passed = if joins { PATIENCE } else { 0 };
        return None;
    }
    let acknowledged = if flow.state & (JOINED | PLAIN) == 0 {
        u32::from_be_bytes(packet.read(header + ACKNOWLEDGEMENT)?)
    } else {
        joined_acknowledged(&packet, header, flow)?
    };
    let old: [u8; 2] = packet.read(header + TCP_WINDOW)?;
    // SAFETY: a helper call without pointers.
    let now = unsafe { bpf_ktime_get_ns() };
    let offered = u16::from_be_bytes(old);
    let (limit, scale) = (flow.limit, flow.edge.scale);
    let edge = joined::permits(sk, flow).filter(|edge| edge.at != 0)?;
    edge.scale = scale;
    let new = wire::window(edge, now, acknowledged, offered)?;
    let network = link_header(skb)?;
    // SAFETY: the program's own context.
    let length = unsafe { (*skb).len };
    let place = Place { network, transport: network + header, length };
    let [words] = packet.read(header + TCP_DATA_OFFSET)?;
    let bare = place.transport + u32::from(words >> 4) * 4 == length && flags & FIN == 0;
    let promise = match bare {
        true => wire::promise(edge, now, acknowledged, offered),
        false => None,
    };
    let later = match promise {
        Some(promise) => Later { promise, slot: limit - 1, netns: namespace(sk) },
        None => Later::NEVER,
    };
    Some(Change { place, old, new: new.to_be_bytes(), later })
}

/// What a subflow of MPTCP acknowledges: data, or what plain TCP does with a peer that does not speak
/// MPTCP. `None`: neither, as in the packets that open it.
#[inline]
fn joined_acknowledged(packet: &Network, header: u32, flow: &mut Flow) -> Option<u32> {
    let data = data_acknowledged(packet, header);
    if flow.state & JOINED != 0 {
        return data;
    }
    if data.is_some() {
        flow.state &= !PLAIN;
        return None;
    }
    Some(u32::from_be_bytes(packet.read(header + ACKNOWLEDGEMENT)?))
}

/// Whether the limit that this state belongs to is in force.
#[inline]
fn is_limited(flow: &Flow) -> bool {
    flow.state & LOCAL == 0
        && attribution::of_flow(flow).is_some_and(|limit| limit.rate(DOWNLOAD).is_some())
}

/// Where the IP header is: where the packet reads the same from there.
#[inline]
fn link_header(skb: *mut __sk_buff) -> Option<u32> {
    let start = words(&Network(skb), 0)?;
    LINK_HEADERS.into_iter().find(|&at| words(&Packet(skb), at) == Some(start))
}

/// 16 bytes, which have the addresses of IPv4 or the source address of IPv6 in them.
#[inline]
fn words(packet: &impl Bytes, at: u32) -> Option<[u64; 2]> {
    let [first, second] = [packet.read(at)?, packet.read(at + 8)?];
    Some([u64::from_ne_bytes(first), u64::from_ne_bytes(second)])
}

/// Replaces the window, and the checksum with it.
#[inline]
fn write(skb: *mut __sk_buff, Change { place, old, new, .. }: &Change) {
    let header = place.transport;
    let word = |bytes| u64::from(u16::from_ne_bytes(bytes));
    let from = new.as_ptr().cast();
    // SAFETY: the program's own context, and two bytes. What the kernel refuses stays as it is.
    unsafe {
        bpf_l4_csum_replace(skb, header + TCP_CHECKSUM, word(*old), word(*new), WINDOW_SIZE);
        bpf_skb_store_bytes(skb, header + TCP_WINDOW, from, WINDOW_SIZE as u32, 0);
    }
}
