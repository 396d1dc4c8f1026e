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

/// Whether programs can be linked to interfaces (kernel 6.6): asked for one that does not exist, the
/// kernel says ENODEV when it knows such links, EINVAL when not. To link one really takes it some
/// tens of milliseconds. The error is any other answer.
pub fn knows_interface_links() -> io::Result<bool> {
    const NO_INTERFACE: u32 = i32::MAX.cast_unsigned();
    let program = super::load_pass(AttachType::TcxEgress)?;
    match super::link_egress(program, NO_INTERFACE) {
        Ok(_) => Ok(true),
        Err(error) => match error.raw_os_error() {
            Some(libc::ENODEV) => Ok(true),
            Some(libc::EINVAL) => Ok(false),
            _ => Err(error),
        },
    }
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
