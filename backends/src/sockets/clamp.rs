//! Pace and window clamp: the two things that limiting leaves on a socket.
//!
//! Both are state of the socket and outlive who set them. [`restore`] puts them back from
//! user space, for the guardian and `clean`, where no program of ours runs any more.
//!
//! **Why a large clamp is the way back.** The kernel has no "no clamp" for a connected
//! socket: 0 is refused except in `TCP_CLOSE` (`tcp_set_window_clamp`, net/ipv4/tcp.c). But the
//! clamp is only ever used as a minimum with what the receive buffer has room for
//! (__`tcp_select_window`: `min(tp->window_clamp, tcp_full_space(sk))`; `tcp_grow_window`:
//! `min(tp->window_clamp, tcp_space(sk))`), so one that is larger than any window leaves the
//! buffer alone in charge, and the next time the kernel enlarges that buffer it writes its
//! own value over ours (`tcp_rcv_space_adjust`: "make the window clamp follow along").
//! Leaving ours small would last: auto-tuning writes the clamp only when the buffer grows,
//! which needs a faster flow than the small clamp lets through. On a listener the value
//! passes to what it accepts, where [`NO_CLAMP`] is what the kernel itself uses for "none"
//! (`tcp_select_initial_window`).
//!
//! **How fast it is.** The new clamp is advertised with the next ACK; setting it sends none.
//! A sender that waits on a closed window asks again by its persist timer (about 200 ms), and
//! from there the window (`rcv_ssthresh`) grows by twice what arrives, as in a slow start. A
//! clamp that the application had set itself is not known to us and is lifted as well.
//!
//! **BBR** takes the pace for the bandwidth of the path and afterwards feels its way up by a
//! quarter every eight round trips. Three runs at 20 ms, paced to 1 Mbit/s before, took 1.2 to
//! 2.2 s to 80 % of the 180 to 730 Mbit/s they had had; with the algorithm chosen anew, so
//! that it starts from nothing, 0.4 to 0.6 s. CUBIC needs no help (0.2 s, one run).
//!
//! **MPTCP.** An MPTCP socket refuses both options (6.18: `EOPNOTSUPP` for the pace,
//! `ENOPROTOOPT` for the clamp) and its subflows, the plain TCP sockets below it, have no
//! descriptor: from user space neither can be changed. The iterator over TCP sockets sees
//! subflows and does it; [`super::diag::dump`] lists them under the inode of the MPTCP socket
//! with cookies of their own. [`pace`] of an MPTCP socket is always [`NO_PACE`].

use std::os::fd::{AsFd, BorrowedFd};

use chadthrottle_core::{Error, ErrorKind, Result};
use rustix::{io::Errno, net::sockopt};

use super::{option_failed, sys};

/// `SO_MAX_PACING_RATE` of a socket that nobody paced (`~0UL`, net/core/sock.c).
pub const NO_PACE: u64 = u64::MAX;

/// The largest window TCP can advertise: `U16_MAX` << `TCP_MAX_WSCALE` (RFC 7323, section 2.3).
pub const NO_CLAMP: u32 = 65_535 << 14;

/// How fast a socket may send at most, in bytes per second of wire data; [`NO_PACE`] when
/// nobody limited it. Minimum kernel 4.20 (before: at most `u32::MAX`).
pub fn pace(fd: impl AsFd) -> Result<u64> {
    sys::get_u64(fd.as_fd(), libc::SOL_SOCKET, sys::SO_MAX_PACING_RATE)
        .map_err(|error| option_failed("read", "SO_MAX_PACING_RATE", error))
}

/// Sets [`pace`].
pub fn set_pace(fd: impl AsFd, bytes_per_second: u64) -> Result<()> {
    sys::set_u64(fd.as_fd(), libc::SOL_SOCKET, sys::SO_MAX_PACING_RATE, bytes_per_second)
        .map_err(|error| option_failed("set", "SO_MAX_PACING_RATE", error))
}

/// The mark of a socket (`SO_MARK`); 0 when it has none.
pub fn mark(fd: impl AsFd) -> Result<u32> {
    sys::get_int(fd.as_fd(), libc::SOL_SOCKET, libc::SO_MARK)
        .map(i32::cast_unsigned)
        .map_err(|error| option_failed("read", "SO_MARK", error))
}

/// Sets [`mark`]. Needs `CAP_NET_ADMIN` over the socket's namespace.
pub fn set_mark(fd: impl AsFd, mark: u32) -> Result<()> {
    sys::set_int(fd.as_fd(), libc::SOL_SOCKET, libc::SO_MARK, mark.cast_signed())
        .map_err(|error| option_failed("set", "SO_MARK", error))
}

/// The largest window that a TCP socket advertises, in bytes.
pub fn window_clamp(fd: impl AsFd) -> Result<u32> {
    sys::get_int(fd.as_fd(), libc::IPPROTO_TCP, libc::TCP_WINDOW_CLAMP)
        .map(i32::cast_unsigned)
        .map_err(|error| option_failed("read", "TCP_WINDOW_CLAMP", error))
}

/// Sets [`window_clamp`]; the kernel raises it to at least 1152 bytes (`SOCK_MIN_RCVBUF` / 2).
pub fn set_window_clamp(fd: impl AsFd, bytes: u32) -> Result<()> {
    sys::set_int(fd.as_fd(), libc::IPPROTO_TCP, libc::TCP_WINDOW_CLAMP, bytes.cast_signed())
        .map_err(|error| option_failed("set", "TCP_WINDOW_CLAMP", error))
}

/// Lets a TCP socket run at full speed again: its own pace, or none, and no window clamp.
///
/// `original_pace` is what the application had set itself, if it did. Fails when the socket
/// does not take it (MPTCP), or when it says another pace afterwards: then somebody still
/// limits it. The clamp is not read again, since the kernel may have tuned it already.
pub fn restore(fd: impl AsFd, original_pace: Option<u64>) -> Result<()> {
    let fd = fd.as_fd();
    let wanted = original_pace.unwrap_or(NO_PACE);
    let paced = if pace(fd)? == wanted {
        Ok(())
    } else {
        set_pace(fd, wanted).and_then(|()| forget_bandwidth(fd))
    };
    // Both are done before either is judged: half a way back is better than none.
    let clamped = set_window_clamp(fd, NO_CLAMP);
    paced.and(clamped)?;

    let now = pace(fd)?;
    if now == wanted {
        return Ok(());
    }
    Err(Error::new(ErrorKind::Failed, "put back the pace of", "a socket")
        .meaning(format!("It is at {now} bytes/s again: somebody still limits it.")))
}

/// Makes a congestion control that models the path (BBR) forget what it learned while paced.
///
/// Choosing the algorithm in use is a no-op for the kernel, so it goes by way of Reno, which
/// every kernel has; the congestion window stays.
fn forget_bandwidth(fd: BorrowedFd<'_>) -> Result<()> {
    let failed = |errno: Errno| option_failed("set", "TCP_CONGESTION", errno.into());
    let name = match sockopt::tcp_congestion(fd) {
        Ok(name) if name.starts_with("bbr") => name,
        // No such option: not TCP. Nothing to forget.
        Ok(_) | Err(Errno::OPNOTSUPP | Errno::NOPROTOOPT) => return Ok(()),
        Err(errno) => return Err(failed(errno)),
    };
    sockopt::set_tcp_congestion(fd, "reno").map_err(failed)?;
    sockopt::set_tcp_congestion(fd, &name).map_err(failed)
}
