//! Which sockets a process has, how to reach them, and how to put them back.
//!
//! - [`inodes_of`] reads the socket inodes of a process from /proc/PID/fd; [`grab`] fetches
//!   such a socket as a descriptor of ours (`pidfd_getfd`, kernel 5.6) and makes sure that it
//!   still is the same one; [`of_process`] does both and describes what it got.
//! - [`SocketMap::scan`] tells all the processes that hold a socket.
//! - [`diag::dump`] lists the sockets of a network namespace with cookie and cgroup,
//!   [`connections()`] with addresses, round trip time and what TCP counts.
//! - [`restore`] undoes pacing and window clamp without any BPF.
//!
//! Descriptor tables are those of thread group leaders: a thread that left its group's table
//! by `unshare(CLONE_FILES)` is not looked into.

mod clamp;
mod connections;
pub mod diag;
mod info;
mod map;
mod sys;
mod traffic;

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
};

use chadthrottle_core::{Error, ErrorKind, Host, Result, check::Remedy, process::Process};
use rustix::{
    fs::{CWD, Mode, OFlags, RawDir, openat, readlinkat_raw},
    io::Errno,
    process::{PidfdGetfdFlags, pidfd_getfd},
};

pub use clamp::{
    NO_CLAMP, NO_PACE, mark, pace, restore, set_mark, set_pace, set_window_clamp, window_clamp,
};
pub use connections::{Connection, connections};
pub use diag::DiagSocket;
pub use info::{Family, Protocol, SocketInfo, TcpState, describe, netns_cookie, tcp_state};
pub use map::SocketMap;
pub use traffic::{Moved, Traffic};

/// A socket of another process, held by us as well.
///
/// While we hold it the connection does not close when its owner closes it: keep it for
/// moments only.
#[derive(Debug)]
pub struct Socket {
    /// Our descriptor for it.
    pub fd: OwnedFd,
    /// Its number in sockfs, as /proc/PID/fd and `sock_diag` say it.
    pub inode: u64,
    /// What it is.
    pub info: SocketInfo,
}

/// The IP sockets of a process, each of them once. What is closed meanwhile is left out.
pub fn of_process(host: &Host, process: &Process) -> Result<Vec<Socket>> {
    let mut inodes = inodes_of(host, process.key.pid)?;
    inodes.sort_unstable_by_key(|&(_, inode)| inode);
    inodes.dedup_by_key(|&mut (_, inode)| inode);

    let mut sockets = Vec::with_capacity(inodes.len());
    for (number, inode) in inodes {
        let Some(fd) = grab(process, number, inode)? else { continue };
        if let Some(info) = describe(&fd) {
            sockets.push(Socket { fd, inode, info });
        }
    }
    Ok(sockets)
}

/// The sockets in a process's descriptor table as (descriptor number there, inode), of any
/// family; one that was duplicated comes several times.
pub fn inodes_of(host: &Host, pid: i32) -> Result<Vec<(i32, u64)>> {
    let path = host.proc.join(pid.to_string()).join("fd");
    let failed = |errno: Errno| match errno {
        Errno::NOENT | Errno::SRCH => {
            Error::new(ErrorKind::NoSuchTarget, "read the sockets of process", pid)
                .because(errno)
                .meaning("It has ended.")
        }
        _ => Error::io("read the sockets of process", pid, errno.into())
            .remedy(Remedy::GrantCapability("CAP_SYS_PTRACE".into())),
    };
    let directory = openat(CWD, &path, DIRECTORY, Mode::empty()).map_err(failed)?;
    let mut sockets = Vec::new();
    each_socket(&directory, |fd, inode| sockets.push((fd, inode))).map_err(failed)?;
    Ok(sockets)
}

/// Fetches descriptor `number` of a process, which was seen to be the socket `inode`.
///
/// `None` when it is closed, another one by now, or the process has ended: between reading
/// the number and fetching it the process may have used it for something else.
///
/// Needs kernel 5.6 and `PTRACE_MODE_ATTACH` over the process (`CAP_SYS_PTRACE`).
pub fn grab(process: &Process, number: i32, inode: u64) -> Result<Option<OwnedFd>> {
    let fd = match pidfd_getfd(process.pidfd(), number, PidfdGetfdFlags::empty()) {
        Ok(fd) => fd,
        Err(Errno::BADF | Errno::SRCH) => return Ok(None),
        Err(errno) => return Err(grab_failed(process, errno)),
    };
    let stat = rustix::fs::fstat(&fd).map_err(|errno| grab_failed(process, errno))?;
    let is_socket = rustix::fs::FileType::from_raw_mode(stat.st_mode).is_socket();
    Ok((is_socket && stat.st_ino == inode).then_some(fd))
}

fn grab_failed(process: &Process, errno: Errno) -> Error {
    let error = Error::io("fetch a socket of", process, errno.into());
    match errno {
        Errno::PERM => error
            .meaning("We may not trace this process (pidfd_getfd asks for that).")
            .remedy(Remedy::GrantCapability("CAP_SYS_PTRACE".into())),
        Errno::NOSYS => error
            .meaning("The kernel is older than 5.6, or a seccomp filter forbids pidfd_getfd.")
            .advice("Run it outside of the container."),
        Errno::MFILE | Errno::NFILE => {
            error.meaning("Too many files are open.").advice("Raise the limit (ulimit -n).")
        }
        _ => error,
    }
}

const DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

/// Calls `found` with (descriptor number, inode) of each socket in an open /proc/PID/fd.
///
/// Links are read relative to the directory into a buffer on the stack: with thousands of
/// processes building paths costs more than the system calls.
fn each_socket(directory: impl AsFd, mut found: impl FnMut(i32, u64)) -> Result<(), Errno> {
    let mut buffer = Vec::with_capacity(8192);
    let mut entries = RawDir::new(&directory, buffer.spare_capacity_mut());
    let mut link = [0_u8; 64];
    while let Some(entry) = entries.next() {
        let entry = entry?;
        let name = entry.file_name();
        let Some(number) = name.to_str().ok().and_then(|name| name.parse().ok()) else {
            continue; // "." and ".."
        };
        // Closed since it was listed: not one of its sockets any more.
        let Ok(length) = readlinkat_raw(&directory, name, &mut link[..]) else { continue };
        if let Some(inode) = socket_inode(&link[..length]) {
            found(number, inode);
        }
    }
    Ok(())
}

/// 4711 from "socket:[4711]".
fn socket_inode(link: &[u8]) -> Option<u64> {
    let number = link.strip_prefix(b"socket:[")?.strip_suffix(b"]")?;
    std::str::from_utf8(number).ok()?.parse().ok()
}

/// An error about a socket of which only the option's name is known.
fn option_failed(verb: &str, option: &str, source: io::Error) -> Error {
    let missing = matches!(source.raw_os_error(), Some(libc::EOPNOTSUPP | libc::ENOPROTOOPT));
    let error = Error::io(format!("{verb} socket option"), option, source);
    if missing {
        return error.meaning("The socket is not plain TCP (MPTCP does not hand it on).");
    }
    error
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inode_from_link() {
        assert_eq!(socket_inode(b"socket:[4711]"), Some(4711));
        assert_eq!(socket_inode(b"pipe:[4711]"), None);
        assert_eq!(socket_inode(b"/tmp/socket:[1]"), None);
        assert_eq!(socket_inode(b"socket:[]"), None);
    }
}
