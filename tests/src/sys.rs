//! The kernel calls that no library wraps safely: TUN devices, `TCP_INFO`, bpf(2).
#![allow(unsafe_code)] // ioctl, getsockopt and bpf take pointers; each block says why it holds.

use std::{
    fs::{File, OpenOptions},
    io,
    os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd},
    os::unix::fs::OpenOptionsExt,
    path::Path,
};

/// Makes a TUN device without packet headers in the current network namespace.
///
/// The device lives as long as the file. Reads and writes are whole IP packets and do not
/// block.
pub fn open_tun(name: &str) -> io::Result<File> {
    let tun = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NONBLOCK)
        .open("/dev/net/tun")?;
    // SAFETY: ifreq is plain data, for which all bits zero is a valid value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes().take(libc::IFNAMSIZ - 1)) {
        *to = from.cast_signed();
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_TUN | libc::IFF_NO_PI) as libc::c_short;
    // SAFETY: TUNSETIFF reads and writes one ifreq, which outlives the call.
    let answer = unsafe { libc::ioctl(tun.as_raw_fd(), libc::TUNSETIFF, &raw mut request) };
    if answer < 0 { Err(io::Error::last_os_error()) } else { Ok(tun) }
}

/// What TCP sent on one socket, retransmissions counted apart.
#[derive(Debug, Clone, Copy, Default)]
pub struct Sent {
    /// All payload bytes, those sent again included (`tcpi_bytes_sent`, 4.19).
    pub bytes: u64,
    /// The payload bytes sent again (`tcpi_bytes_retrans`, 4.19).
    pub again: u64,
}

/// Offsets within struct `tcp_info` of linux/tcp.h; the libc crate's struct ends before them.
const TCPI_BYTES_SENT: usize = 200;
const TCPI_BYTES_RETRANS: usize = 208;

/// Reads the sent and retransmitted bytes of a TCP socket from `TCP_INFO`.
pub fn tcp_sent(socket: impl AsFd) -> io::Result<Sent> {
    let mut info = [0_u8; 256];
    let mut len = info.len() as libc::socklen_t;
    // SAFETY: the kernel writes at most `len` bytes into `info`, both outlive the call.
    let answer = unsafe {
        libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            info.as_mut_ptr().cast(),
            &raw mut len,
        )
    };
    if answer < 0 {
        return Err(io::Error::last_os_error());
    }
    let word = |at: usize| {
        let bytes = info[at..at + 8].try_into().expect("eight bytes");
        u64::from_ne_bytes(bytes)
    };
    Ok(Sent { bytes: word(TCPI_BYTES_SENT), again: word(TCPI_BYTES_RETRANS) })
}

const BPF_PROG_LOAD: libc::c_int = 5;
const BPF_PROG_ATTACH: libc::c_int = 8;
const BPF_PROG_TYPE_CGROUP_SKB: u32 = 8;

/// The hooks of `BPF_PROG_TYPE_CGROUP_SKB` (enum `bpf_attach_type`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Hook {
    /// Packets to the cgroup's sockets.
    Ingress = 0,
    /// Packets from the cgroup's sockets.
    Egress = 1,
}

/// How a program shares its cgroup with others (flags of `BPF_PROG_ATTACH`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Mode {
    /// Nobody else on this cgroup, nor below it.
    Exclusive = 0,
    /// With others.
    Multi = 2,
}

/// The name of the programs that the tests attach to play somebody else.
pub const OWN_PROGRAM: &str = "ct_pass";

/// Loads `return 1` ("pass") as a `cgroup_skb` program named [`OWN_PROGRAM`].
pub fn load_pass_program(hook: Hook) -> io::Result<OwnedFd> {
    load_named(OWN_PROGRAM, hook)
}

/// Loads the same under a name of at most 15 bytes.
pub fn load_named(name: &str, hook: Hook) -> io::Result<OwnedFd> {
    #[repr(C)]
    struct Load {
        prog_type: u32,
        insn_cnt: u32,
        insns: u64,
        license: u64,
        log_level: u32,
        log_size: u32,
        log_buf: u64,
        kern_version: u32,
        prog_flags: u32,
        prog_name: [u8; 16],
        prog_ifindex: u32,
        expected_attach_type: u32,
    }
    // r0 = 1; exit
    let program: [u64; 2] = [0x0000_0001_0000_00b7, 0x95];
    let mut prog_name = [0; 16];
    prog_name[..name.len()].copy_from_slice(name.as_bytes());
    let load = Load {
        prog_type: BPF_PROG_TYPE_CGROUP_SKB,
        insn_cnt: program.len() as u32,
        insns: program.as_ptr().addr() as u64,
        license: c"GPL".as_ptr().addr() as u64,
        log_level: 0,
        log_size: 0,
        log_buf: 0,
        kern_version: 0,
        prog_flags: 0,
        prog_name,
        prog_ifindex: 0,
        expected_attach_type: hook as u32,
    };
    let mut loaded = bpf(BPF_PROG_LOAD, &load);
    // On a busy machine it now and then answers EAGAIN.
    for _ in 0..4 {
        if loaded.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock) {
            loaded = bpf(BPF_PROG_LOAD, &load);
        }
    }
    let fd = loaded?;
    // SAFETY: BPF_PROG_LOAD returned a new descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Attaches a program to a cgroup directory. It stays until the cgroup is removed.
pub fn attach(program: impl AsFd, cgroup: &Path, hook: Hook, mode: Mode) -> io::Result<()> {
    #[repr(C)]
    struct Attach {
        target: i32,
        program: i32,
        hook: u32,
        flags: u32,
    }
    let directory = File::open(cgroup)?;
    let attach = Attach {
        target: directory.as_raw_fd(),
        program: program.as_fd().as_raw_fd(),
        hook: hook as u32,
        flags: mode as u32,
    };
    bpf(BPF_PROG_ATTACH, &attach).map(drop)
}

/// bpf(2); `attr` is the leading part of union `bpf_attr` that `command` reads.
fn bpf<T>(command: libc::c_int, attr: &T) -> io::Result<libc::c_int> {
    // SAFETY: the kernel reads size_of::<T>() bytes at `attr`; the two commands used here
    // follow only pointers to arrays that live in the caller, and write nothing.
    let answer = unsafe {
        libc::syscall(libc::SYS_bpf, command, std::ptr::from_ref(attr), size_of::<T>())
    };
    if answer < 0 { Err(io::Error::last_os_error()) } else { Ok(answer as libc::c_int) }
}
