//! This machine as a probe sees it: the kernel, its configuration, our cgroup and privileges.

mod config;
mod log;

use std::{
    fs, io,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
};

use rustix::{
    fs::{Access, access},
    io::Errno,
    process::{Resource, getrlimit},
    thread::CapabilitySet,
};
use serde::Serialize;

use crate::{
    cgroup,
    host::{Host, missing_capabilities},
};

pub use config::{Config, NEEDS, Needs, Setting};
pub use log::{KernelLog, Line};

/// What can be read about this machine, root or not.
#[derive(Debug, Clone, Default, Serialize)]
pub struct System {
    /// uname -r
    pub release: String,
    /// Where cgroup v2 is mounted.
    pub cgroup2: Option<PathBuf>,
    /// Whether it is.
    #[serde(skip)]
    pub has_cgroup2: bool,
    /// Whether cgroup v1 is mounted as well (or instead).
    pub has_cgroup1: bool,
    /// Our own cgroup.
    pub own_cgroup: Option<OwnCgroup>,
    /// Of the capabilities that eBPF needs, those that we lack.
    pub missing_capabilities: Vec<String>,
    /// Whether our user ids are those of a user namespace of somebody's own.
    pub in_user_namespace: bool,
    /// `Seccomp:` of /proc/self/status: 0 none, 1 strict, 2 a filter.
    pub seccomp: u32,
    /// Kernel lockdown: `none`, `integrity`, `confidentiality`; `null` without it.
    pub lockdown: Option<String>,
    /// The security modules in use.
    pub security_modules: Option<String>,
    /// `RLIMIT_MEMLOCK` in bytes, `null` for unlimited; counts for BPF before kernel 5.11.
    pub memlock: Option<u64>,
    /// `kernel.unprivileged_bpf_disabled`
    pub unprivileged_bpf_disabled: Option<u32>,
    /// `net.core.bpf_jit_enable`
    pub bpf_jit_enable: Option<u32>,
    /// How the kernel was built.
    #[serde(skip)]
    pub config: Config,
}

/// Our own cgroup, and whether its owner may do with it what he likes.
#[derive(Debug, Clone, Serialize)]
pub struct OwnCgroup {
    /// Its directory.
    pub path: PathBuf,
    /// Who owns it: a user id.
    pub owner: u32,
    /// The permissions of its directory, as `ls` counts them.
    pub mode: String,
    /// Whether we may make cgroups in it.
    pub is_writable: bool,
    /// Whether systemd (or whoever) has delegated it: marked as such, or owned by a user.
    pub is_delegated: bool,
}

impl System {
    /// Looks. What cannot be read is left out, never an error: a probe tells what it can.
    #[must_use]
    pub fn look(host: &Host) -> Self {
        let status = procfs::process::Process::myself().and_then(|own| own.status());
        let security = Path::new("/sys/kernel/security");
        Self {
            release: host.release.clone(),
            cgroup2: host.cgroups.as_ref().map(|cgroups| cgroups.mount.clone()),
            has_cgroup2: host.cgroups.is_some(),
            has_cgroup1: text(&host.proc.join("self/mountinfo"))
                .is_some_and(|mounts| mounts.contains(" - cgroup ")),
            own_cgroup: cgroup::own(host).ok().and_then(|path| OwnCgroup::look(path).ok()),
            missing_capabilities: missing_capabilities(ebpf_capabilities()),
            in_user_namespace: in_user_namespace(&host.proc),
            seccomp: status.ok().and_then(|status| status.seccomp).unwrap_or(0),
            lockdown: text(&security.join("lockdown")).and_then(|modes| selected(&modes)),
            security_modules: text(&security.join("lsm")),
            memlock: getrlimit(Resource::Memlock).current,
            unprivileged_bpf_disabled: number(host, "kernel/unprivileged_bpf_disabled"),
            bpf_jit_enable: number(host, "net/core/bpf_jit_enable"),
            config: Config::read(),
        }
    }

    /// Whether a seccomp filter may answer for the kernel.
    #[must_use]
    pub fn is_filtered(&self) -> bool {
        self.seccomp == 2
    }
}

impl OwnCgroup {
    fn look(path: PathBuf) -> io::Result<Self> {
        let data = fs::metadata(&path)?;
        let mut value = [0; 8];
        // systemd marks delegated cgroups so (systemd.resource-control(5), Delegate=).
        let marked = ["user.delegate", "trusted.delegate"].iter().any(|name| {
            rustix::fs::getxattr(&path, *name, &mut value[..])
                .is_ok_and(|length| value[..length] == *b"1")
        });
        Ok(Self {
            owner: data.uid(),
            mode: format!("{:04o}", data.permissions().mode() & 0o7777),
            is_writable: access(&path, Access::WRITE_OK) == Ok::<(), Errno>(()),
            is_delegated: marked || data.uid() != 0,
            path,
        })
    }
}

/// `CAP_BPF` (5.8) loads, `CAP_NET_ADMIN` attaches, `CAP_PERFMON` lets the verifier take
/// pointers from the kernel's types, `CAP_SYS_PTRACE` reaches the sockets of others.
/// `CAP_SYS_ADMIN` stands for `CAP_BPF` and `CAP_PERFMON`.
#[must_use]
pub fn ebpf_capabilities() -> CapabilitySet {
    let needed = CapabilitySet::NET_ADMIN | CapabilitySet::SYS_PTRACE;
    if missing_capabilities(CapabilitySet::SYS_ADMIN).is_empty() {
        needed
    } else {
        needed | CapabilitySet::BPF | CapabilitySet::PERFMON
    }
}

/// The initial namespace maps all ids to themselves (`user_namespaces(7)`).
fn in_user_namespace(proc: &Path) -> bool {
    let Some(map) = text(&proc.join("self/uid_map")) else { return false };
    !map.split_whitespace().eq(["0", "0", "4294967295"])
}

fn number(host: &Host, name: &str) -> Option<u32> {
    text(&host.proc.join("sys").join(name))?.parse().ok()
}

/// "integrity" from "none [integrity] confidentiality".
fn selected(modes: &str) -> Option<String> {
    Some(modes.split_once('[')?.1.split_once(']')?.0.to_owned())
}

fn text(path: &Path) -> Option<String> {
    fs::read_to_string(path).ok().map(|text| text.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn looks_at_this_machine() {
        let system = System::look(&Host::detect().unwrap());
        assert!(!system.release.is_empty());
        assert_eq!(system.has_cgroup2, system.cgroup2.is_some());
    }

    #[test]
    fn modes_of_lockdown() {
        assert_eq!(selected("none [integrity] confidentiality"), Some("integrity".to_owned()));
        assert_eq!(selected(""), None);
    }

    #[test]
    fn user_namespaces_are_recognised() {
        let tree = tempfile::tempdir().unwrap();
        fs::create_dir(tree.path().join("self")).unwrap();
        let map = tree.path().join("self/uid_map");
        for (content, expected) in
            [("         0          0 4294967295\n", false), ("0 1000 1\n", true)]
        {
            fs::write(&map, content).unwrap();
            assert_eq!(in_user_namespace(tree.path()), expected, "{content}");
        }
    }
}
