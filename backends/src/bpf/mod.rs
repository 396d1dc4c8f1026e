//! The bpf(2) calls that aya keeps private, and what their refusals mean.
//!
//! Loading an object ([`Image`]); links, and for kernels without them the legacy attachment,
//! always with MULTI, which outlives its maker until [`prog_detach`] or [`detach_by_id`]; the query
//! that names who is attached; and running an iterator to its end.

mod attempt;
mod explain;
mod load;
mod sys;

use std::{
    fs::File,
    io::{self, Read},
    os::fd::{AsFd, OwnedFd},
};

pub use attempt::{
    Mode, attach_briefly, knows_cgroups, knows_interface_links, knows_link_create, knows_links,
    link_briefly,
};
pub use explain::{Call, Holder, exclusive_holder, explain, explain_load};
use load::sys::{Instruction, Kind, prog_load};
pub use load::{Image, Object, Program, attach_tracepoint};

/// What a program is attached as; the numbers are those of `enum bpf_attach_type`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum AttachType {
    /// `BPF_CGROUP_INET_INGRESS`: each packet to a socket.
    InetIngress = 0,
    /// `BPF_CGROUP_INET_EGRESS`: each packet from a socket.
    InetEgress = 1,
    /// `BPF_CGROUP_INET_SOCK_CREATE`: each new socket.
    InetSockCreate = 2,
    /// `BPF_CGROUP_SOCK_OPS`: what happens to TCP sockets.
    SockOps = 3,
    /// `BPF_TCX_EGRESS`: each packet that leaves by an interface; kernel 6.6.
    TcxEgress = 47,
}

impl AttachType {
    /// The type of a program that is attached like this (`enum bpf_prog_type`).
    const fn program_type(self) -> u32 {
        match self {
            Self::InetIngress | Self::InetEgress => 8, // BPF_PROG_TYPE_CGROUP_SKB
            Self::InetSockCreate => 9,                 // BPF_PROG_TYPE_CGROUP_SOCK
            Self::SockOps => 13,                       // BPF_PROG_TYPE_SOCK_OPS
            Self::TcxEgress => 3,                      // BPF_PROG_TYPE_SCHED_CLS
        }
    }

    fn kind(self) -> Kind {
        let (program_type, attach_type) = (self.program_type(), self as u32);
        Kind { program_type, attach_type, ..Kind::default() }
    }
}

/// A cgroup takes so many programs of a type (`BPF_CGROUP_MAX_PROGS`, kernel/bpf/cgroup.c).
pub const MAX_PROGRAMS: usize = 64;

/// `BPF_F_ALLOW_MULTI`: others may be attached beside and below.
const ALLOW_MULTI: u32 = 2;

/// What is attached to one cgroup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attached {
    /// Program ids, links and legacy attachments alike.
    pub programs: Vec<u32>,
    flags: u32,
}

impl Attached {
    /// Whether others may be attached to the same cgroup. (The kernel keeps the flags of
    /// what was attached last; they mean something only while a program is there.)
    #[must_use]
    pub fn is_exclusive(&self) -> bool {
        !self.programs.is_empty() && self.flags & ALLOW_MULTI == 0
    }

    /// Whether others may be attached below: one that may be overridden keeps nobody out.
    #[must_use]
    pub(crate) fn is_exclusive_below(&self) -> bool {
        const ALLOW_OVERRIDE: u32 = 1; // BPF_F_ALLOW_OVERRIDE
        self.is_exclusive() && self.flags & ALLOW_OVERRIDE == 0
    }
}

/// Attaches a program beside those of others (`BPF_F_ALLOW_MULTI`, never anything else: flags
/// 0 would silently replace somebody's program).
///
/// It stays when we end: record it in the journal first. Minimum kernel 4.15.
pub fn prog_attach_multi(
    program: impl AsFd,
    cgroup: impl AsFd,
    attach_type: AttachType,
) -> io::Result<()> {
    sys::prog_attach(program.as_fd(), cgroup.as_fd(), attach_type as u32, ALLOW_MULTI)
}

/// Detaches a program that was attached by [`prog_attach_multi`]; ENOENT when it is not.
pub fn prog_detach(
    program: impl AsFd,
    cgroup: impl AsFd,
    attach_type: AttachType,
) -> io::Result<()> {
    sys::prog_detach(program.as_fd(), cgroup.as_fd(), attach_type as u32)
}

/// Detaches a program of which only the id is known, as the journal has it (attach type by
/// its number); ENOENT when it is not attached or not loaded any more.
pub fn detach_by_id(cgroup: impl AsFd, attach_type: u32, program: u32) -> io::Result<()> {
    let program = sys::prog_get_fd_by_id(program)?;
    sys::prog_detach(program.as_fd(), cgroup.as_fd(), attach_type)
}

/// What is attached to this very cgroup; what it inherits is not among it.
pub fn prog_query(cgroup: impl AsFd, attach_type: AttachType) -> io::Result<Attached> {
    let mut ids = [0; MAX_PROGRAMS];
    let (count, flags) = sys::prog_query(cgroup.as_fd(), attach_type as u32, &mut ids)?;
    Ok(Attached { programs: ids[..count].to_vec(), flags })
}

/// The name a program was loaded with (at most 15 bytes), often empty.
pub fn program_name(id: u32) -> io::Result<String> {
    let info = sys::prog_info(sys::prog_get_fd_by_id(id)?.as_fd())?;
    let length = info.name.iter().position(|&byte| byte == 0).unwrap_or(info.name.len());
    Ok(String::from_utf8_lossy(&info.name[..length]).into_owned())
}

/// How many programs are loaded, whoever did it. Needs `CAP_SYS_ADMIN`.
pub fn count_programs() -> io::Result<usize> {
    let (mut id, mut count) = (0, 0);
    loop {
        match sys::prog_get_next_id(id) {
            Ok(next) => (id, count) = (next, count + 1),
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => return Ok(count),
            Err(error) => return Err(error),
        }
    }
}

/// The id of a loaded program.
pub fn program_id(program: impl AsFd) -> io::Result<u32> {
    sys::prog_info(program.as_fd()).map(|info| info.id)
}

/// Links a program to a cgroup, beside others. Always with flags 0: every other value is EINVAL on
/// every kernel (a link is "multi" by nature). Gone with the last descriptor. Minimum kernel 5.7.
pub fn link_cgroup(
    program: impl AsFd,
    cgroup: impl AsFd,
    attach_type: AttachType,
) -> io::Result<OwnedFd> {
    sys::link_create(program.as_fd(), cgroup.as_fd(), attach_type as u32, 0)
}

/// Links a tc program to the egress of an interface, by its number in the network namespace of the
/// calling thread, behind those of others. The kernel waits until all processors have seen it: some
/// tens of milliseconds. Gone with the last descriptor. Minimum kernel 6.6.
pub fn link_egress(program: impl AsFd, interface: u32) -> io::Result<OwnedFd> {
    sys::link_interface(program.as_fd(), interface, AttachType::TcxEgress as u32)
}

/// Loads the smallest program there is: it lets everything pass.
pub fn load_pass(attach_type: AttachType) -> io::Result<OwnedFd> {
    prog_load(attach_type.kind(), &RETURN_1, &mut [])
}

/// Whether the kernel loads programs with atomic operations that return a value: `Ok`, or the
/// errno (EINVAL before kernel 5.12).
pub fn load_atomic() -> io::Result<OwnedFd> {
    prog_load(AttachType::InetIngress.kind(), &COMPARE_AND_EXCHANGE, &mut [])
}

/// `*(u64 *)(r10 - 8) = 0; r0 = cmpxchg(*(u64 *)(r10 - 8), 0, 1); r0 = 1; exit`
const COMPARE_AND_EXCHANGE: [Instruction; 6] = [
    Instruction { code: 0x7a, registers: 0x0a, offset: -8, immediate: 0 },
    Instruction { code: 0xb7, registers: 0, offset: 0, immediate: 0 },
    Instruction { code: 0xb7, registers: 1, offset: 0, immediate: 1 },
    Instruction { code: 0xdb, registers: 0x1a, offset: -8, immediate: 0xf1 },
    Instruction { code: 0xb7, registers: 0, offset: 0, immediate: 1 },
    Instruction { code: 0x95, registers: 0, offset: 0, immediate: 0 },
];

/// `r0 = 1; exit`
const RETURN_1: [Instruction; 2] = [
    Instruction { code: 0xb7, registers: 0, offset: 0, immediate: 1 },
    Instruction { code: 0x95, registers: 0, offset: 0, immediate: 0 },
];

/// Runs an iterator program (`iter/tcp`) over all there is in the network namespace of the
/// calling thread; what the program prints is not kept.
///
/// Minimum kernel 5.9.
pub fn run_iterator(program: impl AsFd) -> io::Result<()> {
    read_iterator(program, &mut [0; 4096], |_| ())
}

/// The same for any iterator program; `found` gets what it prints, in pieces of at most the
/// buffer's size that may end anywhere.
pub fn read_iterator(
    program: impl AsFd,
    buffer: &mut [u8],
    mut found: impl FnMut(&[u8]),
) -> io::Result<()> {
    let link = sys::iterator_link(program.as_fd())?;
    let mut iterator = File::from(sys::iter_create(link.as_fd())?);
    loop {
        match iterator.read(buffer) {
            Ok(0) => return Ok(()),
            Ok(length) => found(&buffer[..length]),
            // After a million objects without output the kernel lets us breathe.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_iterator_runs_to_its_end() {
        // BPF_PROG_TYPE_TRACING, BPF_TRACE_ITER
        let kind = Kind { program_type: 26, attach_type: 28, ..Kind::default() };
        if !rustix::process::geteuid().is_root() {
            eprintln!("SKIPPED an_iterator_runs_to_its_end: it needs root");
            return;
        }
        // What iterators are attached to: a function named bpf_iter_ and the kind of object.
        let target = crate::btf::Offsets::from_kernel().unwrap().tcp_iterator.unwrap();
        // r0 = 0; exit: go on with the next socket.
        let next = [
            Instruction { code: 0xb7, registers: 0, offset: 0, immediate: 0 },
            Instruction { code: 0x95, registers: 0, offset: 0, immediate: 0 },
        ];
        let kind = Kind { attach_btf_id: target, ..kind };
        let program = prog_load(kind, &next, &mut []).unwrap();
        let _socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        run_iterator(&program).unwrap();
        // One of another type is refused.
        let other = load_pass(AttachType::SockOps).unwrap();
        assert_eq!(run_iterator(&other).unwrap_err().raw_os_error(), Some(libc::EINVAL));
    }
}
