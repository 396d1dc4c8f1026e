//! Attempts whose errno is the answer: what this kernel takes, and which of its commands it knows.

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
};

use super::{AttachType, sys};

/// How `BPF_PROG_ATTACH` shares a cgroup with others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Mode {
    /// Flags 0: nobody else here or below.
    Exclusive = 0,
    /// `BPF_F_ALLOW_OVERRIDE`: one below may replace it.
    Override = 1,
    /// `BPF_F_ALLOW_MULTI`: beside others.
    Multi = 2,
}

/// Attaches a program that lets everything pass by `BPF_LINK_CREATE`, and lets go of it at once.
pub fn link_briefly(
    program: impl AsFd,
    cgroup: impl AsFd,
    attach_type: AttachType,
    flags: u32,
) -> io::Result<()> {
    let link: io::Result<OwnedFd> =
        sys::link_create(program.as_fd(), cgroup.as_fd(), attach_type as u32, flags);
    link.map(drop)
}

/// Links a program that lets everything pass to the egress of loopback, and lets go of it at once:
/// whether the kernel has such links (6.6).
pub fn link_loopback_briefly() -> io::Result<()> {
    const LOOPBACK: u32 = 1;
    // What it returns, 1, is no verdict of tc's: the packet goes on to whoever is next.
    let program = super::load_pass(AttachType::TcxEgress)?;
    sys::link_interface(program.as_fd(), LOOPBACK, AttachType::TcxEgress as u32).map(drop)
}

/// Attaches by `BPF_PROG_ATTACH` and detaches at once.
///
/// For scratch cgroups only: on the cgroup of somebody else another mode than multi silently
/// replaces or stops their program, and a kill in between leaves ours.
pub fn attach_briefly(
    program: impl AsFd,
    cgroup: impl AsFd,
    attach_type: AttachType,
    mode: Mode,
) -> io::Result<()> {
    let (program, cgroup) = (program.as_fd(), cgroup.as_fd());
    sys::prog_attach(program, cgroup, attach_type as u32, mode as u32)?;
    sys::prog_detach(program, cgroup, attach_type as u32)
}

/// Whether the kernel knows `BPF_LINK_CREATE` (5.7): with a program that does not exist it says
/// EBADF when it does, EINVAL when not. The error is any other answer.
pub fn knows_link_create() -> io::Result<bool> {
    known(sys::link_create_nothing(AttachType::InetIngress as u32))
}

/// Whether the kernel knows links, asked through another command that came with them
/// (`BPF_LINK_UPDATE`, 5.7): a filter that refuses only `BPF_LINK_CREATE` is told from an old
/// kernel like this.
pub fn knows_links() -> io::Result<bool> {
    known(sys::link_update_nothing())
}

/// Whether the kernel was built with `CONFIG_CGROUP_BPF`: a valid program and a cgroup that does
/// not exist give EBADF with it, EINVAL without.
pub fn knows_cgroups(program: impl AsFd) -> io::Result<bool> {
    known(sys::prog_attach_nowhere(program.as_fd(), AttachType::InetIngress as u32))
}

fn known(answer: io::Error) -> io::Result<bool> {
    match answer.raw_os_error() {
        Some(libc::EBADF) => Ok(true),
        Some(libc::EINVAL) => Ok(false),
        _ => Err(answer),
    }
}
