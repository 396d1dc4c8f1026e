//! Packet sockets, as packet(7) has them.
#![allow(unsafe_code)] // A filter and an address of packet sockets go by pointer.

use std::{
    io,
    mem::size_of,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
};

/// Whether headers of the link layer are part of its packets.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Headers {
    /// They are.
    Raw = libc::SOCK_RAW as isize,
    /// The kernel takes them off, and adds them.
    Cooked = libc::SOCK_DGRAM as isize,
}

/// One that receives nothing yet, in the network namespace of the calling thread. Needs
/// `CAP_NET_RAW`.
pub(crate) fn open(headers: Headers) -> io::Result<OwnedFd> {
    let kind = headers as libc::c_int | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    // SAFETY: no pointers.
    let fd = unsafe { libc::socket(libc::AF_PACKET, kind, 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just given us this descriptor, and nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Lets only those packets through for which this classic BPF program returns more than 0.
pub(crate) fn attach(socket: &OwnedFd, program: &[libc::sock_filter]) -> io::Result<()> {
    let program = libc::sock_fprog {
        len: u16::try_from(program.len()).map_err(io::Error::other)?,
        filter: program.as_ptr().cast_mut(),
    };
    let length = size_of::<libc::sock_fprog>() as libc::socklen_t;
    // SAFETY: `program` is valid for reads of `length` bytes and points to `len` instructions that
    // outlive the call; the kernel copies them and does not write.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_ATTACH_FILTER,
            (&raw const program).cast(),
            length,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Sees every packet of this interface from now on.
pub(crate) fn bind(socket: &OwnedFd, interface: u32) -> io::Result<()> {
    let address = address(interface, (libc::ETH_P_ALL as u16).to_be());
    // SAFETY: `address` is valid for reads of `ADDRESS` bytes.
    let result =
        unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), ADDRESS) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Sends a frame out of an interface; `protocol` is its `EtherType`, in network order.
pub(crate) fn send(
    socket: &OwnedFd,
    interface: u32,
    protocol: u16,
    frame: &[u8],
) -> io::Result<()> {
    let address = address(interface, protocol);
    let (bytes, length) = (frame.as_ptr().cast(), frame.len());
    // SAFETY: `frame` and `address` are valid for reads of the lengths given, during the call.
    let sent = unsafe {
        libc::sendto(socket.as_raw_fd(), bytes, length, 0, (&raw const address).cast(), ADDRESS)
    };
    if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

const ADDRESS: libc::socklen_t = size_of::<libc::sockaddr_ll>() as libc::socklen_t;

fn address(interface: u32, protocol: u16) -> libc::sockaddr_ll {
    libc::sockaddr_ll {
        sll_family: libc::AF_PACKET as u16,
        sll_protocol: protocol,
        sll_ifindex: interface.cast_signed(),
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 0,
        sll_addr: [0; 8],
    }
}
