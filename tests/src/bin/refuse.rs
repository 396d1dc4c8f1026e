//! `refuse WHAT=ERRNO... -- COMMAND...`: installs seccomp filters that answer system calls with an
//! errno, then becomes the command. The calls really fail; nothing is mocked.
//!
//! WHAT is `bpf` (all of bpf(2)), one of its commands (`link-create`, `prog-attach`, ...),
//! `pidfd-getfd`, or a netlink protocol whose sockets are refused (`route`, `netfilter`, `sock-diag`). ERRNO is a name.

use std::{
    collections::BTreeMap, env, error::Error, os::unix::process::CommandExt, process::Command,
};

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, SeccompCondition,
    SeccompFilter, SeccompRule,
};

/// What is refused whatever its arguments are.
const CALLS: [(&str, i64); 2] =
    [("bpf", libc::SYS_bpf), ("pidfd-getfd", libc::SYS_pidfd_getfd)];
/// `enum bpf_cmd` of linux/bpf.h.
const BPF_COMMANDS: [(&str, u64); 8] = [
    ("map-create", 0),
    ("prog-load", 5),
    ("prog-attach", 8),
    ("prog-detach", 9),
    ("prog-query", 16),
    ("raw-tracepoint-open", 17),
    ("link-create", 28),
    ("link-update", 29),
];
/// `NETLINK_*` of linux/netlink.h.
const NETLINK: [(&str, u64); 3] = [("route", 0), ("sock-diag", 4), ("netfilter", 12)];
const ERRNOS: [(&str, i32); 5] = [
    ("EPERM", libc::EPERM),
    ("EACCES", libc::EACCES),
    ("EINVAL", libc::EINVAL),
    ("ENOSYS", libc::ENOSYS),
    ("EPROTONOSUPPORT", libc::EPROTONOSUPPORT),
];

fn main() -> Result<(), Box<dyn Error>> {
    let words: Vec<String> = env::args().skip(1).collect();
    let usage = "usage: refuse WHAT=ERRNO... -- COMMAND...";
    let end = words.iter().position(|word| word == "--").ok_or(usage)?;
    let command = words.get(end + 1..).filter(|command| !command.is_empty()).ok_or(usage)?;
    for word in &words[..end] {
        let (what, errno) = word.split_once('=').ok_or(usage)?;
        let errno = ERRNOS.iter().find(|(name, _)| *name == errno).ok_or(usage)?.1;
        let (call, rule) = rule(what)?;
        let rules = rule.into_iter().collect();
        let filter = SeccompFilter::new(
            BTreeMap::from([(call, rules)]),
            SeccompAction::Allow,
            SeccompAction::Errno(errno.cast_unsigned()),
            env::consts::ARCH.try_into()?,
        )?;
        seccompiler::apply_filter(&BpfProgram::try_from(filter)?)?;
    }
    Err(Command::new(&command[0]).args(&command[1..]).exec().into())
}

/// The system call, and which of its arguments make it one to refuse; none: all calls.
fn rule(what: &str) -> Result<(i64, Option<SeccompRule>), Box<dyn Error>> {
    let equals = |argument, value| SeccompCondition::new(argument, Dword, Eq, value);
    if let Some((_, call)) = CALLS.iter().find(|(name, _)| *name == what) {
        return Ok((*call, None));
    }
    if let Some((_, command)) = BPF_COMMANDS.iter().find(|(name, _)| *name == what) {
        return Ok((libc::SYS_bpf, Some(SeccompRule::new(vec![equals(0, *command)?])?)));
    }
    let found = NETLINK.iter().find(|(name, _)| *name == what);
    let (_, protocol) = found.ok_or_else(|| format!("nothing is called {what}"))?;
    let family = libc::AF_NETLINK.cast_unsigned().into();
    let conditions = vec![equals(0, family)?, equals(2, *protocol)?];
    Ok((libc::SYS_socket, Some(SeccompRule::new(conditions)?)))
}
