//! What a refused attachment means, and what to do about it.

use std::{
    fmt,
    fs::File,
    io,
    path::{Path, PathBuf},
};

use chadthrottle_core::{cgroup, check::Remedy};

use super::{
    AttachType, MAX_PROGRAMS, knows_cgroups, knows_link_create, knows_links, load_pass,
    prog_query, program_name,
};

/// Which call was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Call {
    /// `BPF_LINK_CREATE` with flags 0.
    LinkCreate,
    /// `BPF_PROG_ATTACH` with `BPF_F_ALLOW_MULTI`.
    ProgAttach,
}

/// Somebody's program that lets no other one be attached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    /// Program id.
    pub program: u32,
    /// Program name, often empty.
    pub name: String,
    /// The cgroup that it is attached to.
    pub cgroup: PathBuf,
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BPF program {}", self.program)?;
        if !self.name.is_empty() {
            write!(f, " ({})", self.name)?;
        }
        write!(f, " on {}", self.cgroup.display())
    }
}

/// Who keeps programs of this type off a cgroup: an exclusive program on it, or on the nearest
/// ancestor that has any program (`hierarchy_allows_attach`, kernel/bpf/cgroup.c). One that
/// was attached with `BPF_F_ALLOW_OVERRIDE` is exclusive on its own cgroup only.
///
/// Fails with EPERM without `CAP_NET_ADMIN`.
pub fn exclusive_holder(path: &Path, attach_type: AttachType) -> io::Result<Option<Holder>> {
    for ancestor in path.ancestors() {
        if ancestor != path && !cgroup::is_cgroup2(ancestor) {
            break; // above the mount point
        }
        let attached = prog_query(File::open(ancestor)?, attach_type)?;
        let Some(&program) = attached.programs.first() else { continue };
        let exclusive = if ancestor == path {
            attached.is_exclusive()
        } else {
            attached.is_exclusive_below()
        };
        return Ok(exclusive.then(|| Holder {
            program,
            // It may be gone by now, or its name be kept from us: the id says enough.
            name: program_name(program).unwrap_or_default(),
            cgroup: ancestor.to_owned(),
        }));
    }
    Ok(None)
}

/// Says in one sentence what it means that `call` failed with `errno` on the cgroup `path`,
/// and what to do. Looks at the cgroup to tell causes with the same errno apart.
#[must_use]
pub fn explain(
    call: Call,
    errno: i32,
    path: &Path,
    attach_type: AttachType,
) -> (String, Remedy) {
    match errno {
        libc::EPERM => not_permitted(path, attach_type),
        libc::EINVAL => invalid(call, path, attach_type),
        libc::EBADF => {
            ("It is no directory of the cgroup v2 hierarchy.".into(), Remedy::MountCgroup2)
        }
        libc::ENOENT => (
            "The cgroup was removed meanwhile.".into(),
            Remedy::Do("Start its processes again and try once more.".into()),
        ),
        libc::E2BIG => (
            format!(
                "{MAX_PROGRAMS} programs are attached to this cgroup already, which is all it takes."
            ),
            Remedy::Do("Limit a cgroup of its own below it, or use another backend.".into()),
        ),
        libc::ENOSYS => (
            "The kernel has no bpf(2), or a seccomp filter (a container) forbids it.".into(),
            Remedy::RebuildKernel("CONFIG_BPF_SYSCALL".into()),
        ),
        libc::EACCES => (
            "A security module does not allow it.".into(),
            Remedy::Do("Look for BPF denials of SELinux or AppArmor in the kernel log.".into()),
        ),
        _ => ("This refusal is not a known one.".into(), Remedy::None),
    }
}

/// Says what it means that `BPF_PROG_LOAD` or `BPF_MAP_CREATE` failed with `errno`, and what
/// to do.
#[must_use]
pub fn explain_load(errno: i32) -> (&'static str, Remedy) {
    match errno {
        libc::EPERM => (
            "BPF is not allowed here: a capability is missing, a seccomp filter or a container \
             forbids it, or (before 5.11) RLIMIT_MEMLOCK is too small.",
            Remedy::GrantCapability("CAP_BPF and CAP_NET_ADMIN".into()),
        ),
        libc::EACCES => (
            "The verifier of this kernel refused the program, or an LSM policy did.",
            Remedy::Do("Run with RUST_LOG=debug to see the verifier's log.".into()),
        ),
        libc::EINVAL => (
            "This kernel does not know something the program uses.",
            Remedy::Do("Run with RUST_LOG=debug to see which, or use another backend.".into()),
        ),
        libc::ENOSYS => (
            "The bpf(2) system call does not exist here.",
            Remedy::RebuildKernel("CONFIG_BPF_SYSCALL".into()),
        ),
        _ => ("The kernel refused it.", Remedy::None),
    }
}

fn not_permitted(path: &Path, attach_type: AttachType) -> (String, Remedy) {
    match exclusive_holder(path, attach_type) {
        Ok(Some(holder)) => {
            // systemd names its programs so (src/core/bpf-firewall.c) and attaches them with
            // flags 0 to units without Delegate=.
            let systemd = holder.name.starts_with("sd_fw_");
            let whose =
                if systemd { " by systemd (IPAccounting=, IPAddressAllow=)" } else { "" };
            (
                format!("{holder} was attached exclusively{whose} and lets nobody beside it."),
                Remedy::StopHolder(holder.to_string()),
            )
        }
        Ok(None) => (
            "No program is in the way, so a seccomp filter, a security module or missing \
             capabilities forbid it."
                .into(),
            Remedy::GrantCapability("CAP_BPF and CAP_NET_ADMIN".into()),
        ),
        Err(_) => privileges(),
    }
}

fn invalid(call: Call, path: &Path, attach_type: AttachType) -> (String, Remedy) {
    let query = File::open(path).and_then(|cgroup| prog_query(cgroup, attach_type));
    match (query, call) {
        // PROG_ATTACH says EINVAL without CAP_NET_ADMIN; PROG_QUERY is honest.
        (Err(error), _) if error.raw_os_error() == Some(libc::EPERM) => privileges(),
        (Err(error), _) if error.raw_os_error() == Some(libc::EINVAL) => (
            "The kernel was built without programs on cgroups.".into(),
            Remedy::RebuildKernel("CONFIG_CGROUP_BPF".into()),
        ),
        (_, Call::LinkCreate) => match (knows_link_create(), knows_links()) {
            (Ok(true), _) => (
                "The kernel knows links and refuses this one: the program does not fit it.".into(),
                Remedy::Do("Use another backend, and report it.".into()),
            ),
            (Ok(false), Ok(true)) => filtered("links"),
            _ => (
                "The kernel is older than 5.7 and knows no links on cgroups.".into(),
                Remedy::Do("Use the legacy attachment, or another backend.".into()),
            ),
        },
        // The query has shown that the kernel has programs on cgroups.
        (_, Call::ProgAttach) => match load_pass(AttachType::InetIngress).and_then(knows_cgroups) {
            Ok(false) => filtered("programs on cgroups"),
            _ => (
                "This program is attached there already, or the kernel takes no program of this \
                 type there."
                    .into(),
                Remedy::Do("Remove what is left of an earlier run: chadthrottle clean.".into()),
            ),
        },
    }
}

fn filtered(what: &str) -> (String, Remedy) {
    (
        format!("The kernel knows {what}: a seccomp filter or the like answers in its stead."),
        Remedy::Do("Run it outside the container, or use another backend.".into()),
    )
}

fn privileges() -> (String, Remedy) {
    (
        "We lack the privileges to attach BPF programs.".into(),
        Remedy::GrantCapability("CAP_BPF and CAP_NET_ADMIN".into()),
    )
}
