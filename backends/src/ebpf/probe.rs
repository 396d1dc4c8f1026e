//! What this kernel lets the backend do, by cheap real calls.

use aya::maps::{Array, MapData};
use chadthrottle_core::{
    Host,
    check::{Check, ProbeReport, Remedy, Verdict},
    error::describe,
    host::missing_capabilities,
    system::ebpf_capabilities,
};

use super::kept;
use crate::bpf;

/// Asks in the order in which things are needed, and stops at the first no: what comes after
/// would only say the same again.
pub(super) fn probe(host: &Host) -> ProbeReport {
    let mut report = ProbeReport::default();
    for ask in [cgroup2, capabilities, bpf_syscall, atomics, windows] {
        let check = ask(host);
        let works = check.verdict == Verdict::Works;
        report.checks.push(check);
        if !works {
            break;
        }
    }
    report
}

fn cgroup2(host: &Host) -> Check {
    let asked = "find the cgroup v2 hierarchy in mountinfo".to_owned();
    match &host.cgroups {
        Some(cgroups) => works("cgroup2-mounted", asked, cgroups.mount.display().to_string()),
        None => Check {
            name: "cgroup2-mounted",
            asked,
            verdict: Verdict::Missing,
            evidence: "no file system of type cgroup2 is mounted".to_owned(),
            remedy: Remedy::MountCgroup2,
        },
    }
}

/// See [`ebpf_capabilities`].
fn capabilities(_: &Host) -> Check {
    let asked = "use the capabilities for BPF and for the sockets of others".to_owned();
    let missing = missing_capabilities(ebpf_capabilities()).join(", ");
    if missing.is_empty() {
        return works("capabilities", asked, "all there".to_owned());
    }
    Check {
        name: "capabilities",
        asked,
        verdict: Verdict::Denied,
        evidence: format!("the effective set lacks {missing}"),
        remedy: Remedy::GrantCapability(missing),
    }
}

fn bpf_syscall(_: &Host) -> Check {
    let asked = "create a BPF map".to_owned();
    let Err(error) = Array::<MapData, u32>::create(1, 0) else {
        return works("map-create", asked, "one entry".to_owned());
    };
    let errno = super::maps::errno(error);
    let (verdict, remedy) = match errno.raw_os_error() {
        Some(1 | 13) => (
            Verdict::Denied,
            Remedy::Do(
                "A user namespace, a container, a seccomp filter or kernel lockdown forbids BPF: \
                 run it outside."
                    .to_owned(),
            ),
        ),
        Some(38) => (Verdict::Missing, Remedy::RebuildKernel("CONFIG_BPF_SYSCALL".to_owned())),
        _ => (Verdict::Inconclusive, Remedy::None),
    };
    Check { name: "map-create", asked, verdict, evidence: describe(&errno), remedy }
}

/// Rates are kept without locks: the programs need `BPF_CMPXCHG`.
fn atomics(_: &Host) -> Check {
    let asked = "load a program that compares and exchanges".to_owned();
    let Err(error) = bpf::load_atomic() else {
        return works("atomics", asked, "the verifier takes it".to_owned());
    };
    let errno = error.raw_os_error();
    let (verdict, remedy) = match errno {
        Some(libc::EINVAL) => (
            Verdict::Missing,
            Remedy::Do("Use a kernel from 5.15 on, or another backend.".to_owned()),
        ),
        Some(libc::EPERM | libc::EACCES) => (Verdict::Denied, bpf::explain_load(libc::EPERM).1),
        _ => (Verdict::Inconclusive, Remedy::None),
    };
    Check { name: "atomics", asked, verdict, evidence: describe(&error), remedy }
}

/// Downloads do without it, less exactly: never a reason not to run.
fn windows(_: &Host) -> Check {
    let asked =
        "link a program to an interface, to show senders their windows, and open a packet socket"
            .to_owned();
    let (evidence, without) = match (bpf::knows_interface_links(), kept::packet_socket()) {
        (Ok(true), Ok(_)) => return works("windows", asked, "on the wire, in time".to_owned()),
        (Ok(true), Err(error)) => (
            format!("on the wire, when senders ask: a packet socket: {}", describe(&error)),
            "Downloads come in bursts, five a second, where there is no round trip to wait for; \
             CAP_NET_RAW allows such sockets.",
        ),
        (Ok(false), _) => {
            ("only what the kernel offers: it has no such links".to_owned(), SLOW)
        }
        (Err(error), _) => (format!("only what the kernel offers: {}", describe(&error)), SLOW),
    };
    Check { remedy: Remedy::Do(without.to_owned()), ..works("windows", asked, evidence) }
}

/// What a kernel without links on interfaces means.
const SLOW: &str = "Downloads that run already come down in seconds instead of at once, and come in \
                    bursts without a round trip; kernel 6.6 has such links.";

fn works(name: &'static str, asked: String, evidence: String) -> Check {
    Check { name, asked, verdict: Verdict::Works, evidence, remedy: Remedy::None }
}
