//! Socket options that rustix does not have.
// getsockopt and setsockopt take pointers.
#![allow(unsafe_code)]

use std::{
    ffi::c_int,
    io,
    mem::size_of,
    os::fd::{AsRawFd, BorrowedFd},
};

/// include/uapi/asm-generic/socket.h; u64, kernel 5.14.
pub(super) const SO_NETNS_COOKIE: c_int = 71;
/// include/uapi/asm-generic/socket.h; bytes per second. Eight bytes wide since kernel 4.20.
pub(super) const SO_MAX_PACING_RATE: c_int = 47;

pub(super) fn get_u64(fd: BorrowedFd<'_>, level: c_int, name: c_int) -> io::Result<u64> {
    get(fd, level, name, 0_u64)
}

pub(super) fn set_u64(
    fd: BorrowedFd<'_>,
    level: c_int,
    name: c_int,
    value: u64,
) -> io::Result<()> {
    set(fd, level, name, value)
}

pub(super) fn get_int(fd: BorrowedFd<'_>, level: c_int, name: c_int) -> io::Result<c_int> {
    get(fd, level, name, 0)
}

pub(super) fn set_int(
    fd: BorrowedFd<'_>,
    level: c_int,
    name: c_int,
    value: c_int,
) -> io::Result<()> {
    set(fd, level, name, value)
}

/// `tcpi_bytes_acked` and `tcpi_bytes_received` of `TCP_INFO` (kernel 4.1), at their places in
/// struct `tcp_info` of linux/tcp.h; the libc crate's struct ends before them.
pub(super) fn tcp_bytes(fd: BorrowedFd<'_>) -> io::Result<(u64, u64)> {
    let info = get(fd, libc::IPPROTO_TCP, libc::TCP_INFO, [0_u64; 17])?;
    Ok((info[15], info[16]))
}

/// The first bytes of `struct tcp_info`, zeros where the kernel has less.
pub(super) fn tcp_info(fd: BorrowedFd<'_>) -> io::Result<[u8; 240]> {
    get(fd, libc::IPPROTO_TCP, libc::TCP_INFO, [0; 240])
}

/// `T` is an integer or an array of them (the only callers are above): any bytes are a valid
/// value.
fn get<T: Copy>(fd: BorrowedFd<'_>, level: c_int, name: c_int, mut value: T) -> io::Result<T> {
    let mut length = size_of::<T>() as libc::socklen_t;
    // SAFETY: value and length are valid for writes, and the kernel writes at most `length`
    // bytes into value.
    let result = unsafe {
        libc::getsockopt(fd.as_raw_fd(), level, name, (&raw mut value).cast(), &raw mut length)
    };
    if result == 0 { Ok(value) } else { Err(io::Error::last_os_error()) }
}

fn set<T: Copy>(fd: BorrowedFd<'_>, level: c_int, name: c_int, value: T) -> io::Result<()> {
    let length = size_of::<T>() as libc::socklen_t;
    // SAFETY: value is valid for reads of `length` bytes.
    let result = unsafe {
        libc::setsockopt(fd.as_raw_fd(), level, name, (&raw const value).cast(), length)
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
