//! The decision tree.

use super::{Attempt, BpfFindings, Diagnosis, Findings, Object, Place, Role, Scenario};
use crate::{
    backend::BackendId,
    check::{Check, ProbeReport, Remedy, Verdict},
};

const EPERM: i32 = 1;
const E2BIG: i32 = 7;
const EACCES: i32 = 13;
const EINVAL: i32 = 22;
const ENOSYS: i32 = 38;

/// Decides which scenario explains the findings. The first that fits is taken: each question
/// makes sense only after the ones before it were answered well.
#[must_use]
pub fn decide(findings: &Findings<'_>) -> Diagnosis {
    let report = |id| findings.backends.iter().find(|(other, _)| *other == id);
    let case = match (findings.bpf, report(BackendId::Ebpf)) {
        (Some(bpf), Some((_, report))) => about_bpf(findings, bpf, report),
        _ => about_another(findings),
    };
    let backend = BackendId::ALL
        .into_iter()
        .find(|id| report(*id).is_some_and(|(_, report)| report.works()));
    Diagnosis {
        scenario: case.scenario,
        letter: case.scenario.letter(),
        meaning: case.meaning,
        evidence: case.evidence,
        remedy: case.remedy,
        backend,
    }
}

/// A diagnosis in the making.
struct Case {
    scenario: Scenario,
    meaning: String,
    evidence: Vec<String>,
    remedy: Remedy,
}

impl Case {
    fn new(scenario: Scenario, meaning: impl Into<String>) -> Self {
        Self { scenario, meaning: meaning.into(), evidence: Vec::new(), remedy: Remedy::None }
    }

    fn seen(mut self, evidence: impl Into<String>) -> Self {
        self.evidence.push(evidence.into());
        self
    }

    fn remedy(mut self, remedy: Remedy) -> Self {
        self.remedy = remedy;
        self
    }

    fn advice(self, sentence: impl Into<String>) -> Self {
        self.remedy(Remedy::Do(sentence.into()))
    }
}

fn about_bpf(findings: &Findings<'_>, bpf: &BpfFindings, report: &ProbeReport) -> Case {
    system(findings)
        .or_else(|| bpf_at_all(findings, bpf))
        .or_else(|| attaching(findings, bpf))
        .or_else(|| our_programs(bpf, report))
        .or_else(|| links(findings, bpf))
        .or_else(|| places(bpf))
        .unwrap_or_else(|| rest(report))
}

/// Without these nothing else can be asked.
fn system(findings: &Findings<'_>) -> Option<Case> {
    let system = findings.system;
    if !system.has_cgroup2 {
        return Some(
            Case::new(Scenario::ConfigurationMissing, "No cgroup v2 hierarchy is mounted.")
                .seen("/proc/self/mountinfo has no file system of type cgroup2")
                .remedy(Remedy::MountCgroup2),
        );
    }
    if !system.missing_capabilities.is_empty() {
        let missing = system.missing_capabilities.join(", ");
        let meaning = "We lack the privileges for BPF; most attempts were not made.";
        return Some(
            Case::new(Scenario::Privileges, meaning)
                .seen(format!("the effective capabilities lack {missing}"))
                .remedy(Remedy::GrantCapability(missing)),
        );
    }
    None
}

/// Maps and programs of any kind.
fn bpf_at_all(findings: &Findings<'_>, bpf: &BpfFindings) -> Option<Case> {
    let (what, errno) = match (bpf.map, bpf.program) {
        (Attempt::Failed(errno), _) => ("creating a map", errno),
        (_, Attempt::Failed(errno)) => ("loading a program of two instructions", errno),
        _ => return None,
    };
    let seen = format!("{what} fails with {}", Attempt::Failed(errno));
    let built_in = findings.system.config.is_set("BPF_SYSCALL");
    let case = match errno {
        EPERM | EACCES => forbidden(findings, "BPF is forbidden here"),
        ENOSYS if built_in == Some(false) => {
            Case::new(Scenario::ConfigurationMissing, "The kernel was built without bpf(2).")
                .seen("CONFIG_BPF_SYSCALL is not set")
                .remedy(Remedy::RebuildKernel("CONFIG_BPF_SYSCALL".into()))
        }
        ENOSYS | EINVAL if findings.system.is_filtered() => {
            forbidden(findings, "A seccomp filter answers for the kernel")
        }
        ENOSYS if built_in == Some(true) => {
            Case::new(Scenario::KernelBug, "The kernel was built with bpf(2) and denies it.")
                .seen("CONFIG_BPF_SYSCALL=y")
                .advice("Try another kernel, or another backend.")
        }
        ENOSYS => Case::new(Scenario::ConfigurationMissing, "The kernel has no bpf(2).")
            .seen("no seccomp filter is installed, so the kernel itself answers")
            .remedy(Remedy::RebuildKernel("CONFIG_BPF_SYSCALL".into())),
        _ => Case::new(Scenario::Inconclusive, "The kernel refuses BPF with an unusual errno."),
    };
    Some(case.seen(seen))
}

/// The minimal program on a scratch cgroup: neither a link nor the legacy attachment.
fn attaching(findings: &Findings<'_>, bpf: &BpfFindings) -> Option<Case> {
    let (Attempt::Failed(link), Attempt::Failed(legacy)) = (bpf.link, bpf.legacy) else {
        return None;
    };
    let root = bpf.places.iter().find(|place| place.role == Role::Root);
    let case = if let Some(case) = root.and_then(occupied) {
        case
    } else if bpf.knows_cgroups == Some(false) && bpf.query.failed_with(&[EINVAL]) {
        let option = match findings.system.config.is_set("CGROUP_BPF") {
            Some(false) => "CONFIG_CGROUP_BPF is not set",
            _ => "BPF_PROG_QUERY and BPF_PROG_ATTACH know no cgroups",
        };
        Case::new(
            Scenario::ConfigurationMissing,
            "The kernel was built without programs on cgroups.",
        )
        .seen(option)
        .remedy(Remedy::RebuildKernel("CONFIG_CGROUP_BPF".into()))
    } else if findings.system.is_filtered() {
        let case = forbidden(findings, "A seccomp filter answers for the kernel");
        if bpf.query == Attempt::Done && bpf.knows_cgroups == Some(false) {
            case.seen("BPF_PROG_QUERY knows cgroups, so the kernel has CONFIG_CGROUP_BPF")
        } else {
            case
        }
    } else if link == EPERM || legacy == EPERM {
        forbidden(findings, "Attaching programs is forbidden here")
    } else {
        Case::new(
            Scenario::KernelBug,
            "The kernel has programs on cgroups, we have the privileges, nobody is in the way, \
             and it still refuses the smallest program there is.",
        )
        .seen("no seccomp filter is installed")
        .advice("Try another kernel version and report it, or use another backend.")
    };
    let seen = |call, errno| format!("{call} fails with {}", Attempt::Failed(errno));
    Some(
        case.seen(seen("BPF_LINK_CREATE with flags 0 on a scratch cgroup", link))
            .seen(seen("BPF_PROG_ATTACH with BPF_F_ALLOW_MULTI there", legacy)),
    )
}

/// The minimal program is taken; ours?
fn our_programs(bpf: &BpfFindings, report: &ProbeReport) -> Option<Case> {
    // A feature that is missing explains a refused program better than its log.
    let missing = report.checks.iter().find(|check| check.verdict == Verdict::Missing);
    match (&bpf.object, missing) {
        (_, Some(check)) if check.name != "rehearsal" => {
            Some(from_check(Scenario::ConfigurationMissing, check))
        }
        (Object::Unreadable(problem), _) => Some(
            Case::new(
                Scenario::LibraryCompatibility,
                "The kernel takes a minimal program; the library cannot load ours.",
            )
            .seen(problem.clone())
            .advice(
                "Build chadthrottle with the versions in Cargo.lock (cargo build --locked).",
            ),
        ),
        (Object::Refused { errno, log }, _) => {
            let case = Case::new(
                Scenario::ProgramStructure,
                "The kernel takes a minimal program and refuses ours.",
            )
            .seen(format!("loading it fails with {}", Attempt::Failed(*errno)))
            .advice("Report it with RUST_LOG=debug, and use another backend until then.");
            Some(if log.is_empty() {
                case.seen("the verifier left no log")
            } else {
                case.seen(format!("the verifier's log ends with: {log}"))
            })
        }
        _ => None,
    }
}

/// Links are refused, the legacy attachment is taken: the EINVAL of the founding report.
fn links(findings: &Findings<'_>, bpf: &BpfFindings) -> Option<Case> {
    let Attempt::Failed(errno) = bpf.link else { return None };
    if bpf.legacy != Attempt::Done {
        return None;
    }
    let cause = match (bpf.knows_link_create, bpf.knows_links) {
        (Some(true), _) => "the kernel knows BPF_LINK_CREATE and refuses this one",
        (Some(false), Some(true)) if findings.system.is_filtered() => {
            "the kernel knows links (BPF_LINK_UPDATE), so the seccomp filter of this process \
             answers for BPF_LINK_CREATE"
        }
        (Some(false), Some(true)) => {
            "the kernel knows BPF_LINK_UPDATE, but not BPF_LINK_CREATE, which came with it"
        }
        (Some(false), Some(false)) if findings.system.is_filtered() => {
            "the kernel is older than 5.7 and knows no links, or the seccomp filter of this \
             process answers for it: inconclusive"
        }
        (Some(false), Some(false)) => "the kernel is older than 5.7 and knows no links",
        _ => "why it does so cannot be told",
    };
    Some(
        Case::new(
            Scenario::LinkFlags,
            "Links are refused; programs are attached with BPF_PROG_ATTACH instead.",
        )
        .seen(format!("BPF_LINK_CREATE with flags 0 fails with {}", Attempt::Failed(errno)))
        .seen("BPF_PROG_ATTACH with BPF_F_ALLOW_MULTI works")
        .seen(cause)
        .advice("Nothing needs to be done: run does this by itself."),
    )
}

/// The user's cgroup, and the one that was asked for.
fn places(bpf: &BpfFindings) -> Option<Case> {
    let refused = |place: &&Place| matches!(place.link, Attempt::Failed(_));
    let place = bpf.places.iter().filter(|place| place.role != Role::Root).find(refused)?;
    if let Some(case) = occupied(place) {
        return Some(case);
    }
    let root = bpf.places.iter().find(|place| place.role == Role::Root)?;
    let seen =
        |place: &Place| format!("{} ({}): {}", place.role, place.path.display(), place.link);
    let case = if root.link == Attempt::Done {
        Case::new(
            Scenario::UserCgroup,
            format!("The root cgroup takes programs, {} does not.", place.role),
        )
        .advice(
            "Nothing needs to be done where an ancestor takes them: run attaches there and still \
             limits only the target.",
        )
    } else {
        Case::new(Scenario::Inconclusive, "A scratch cgroup takes programs, others do not.")
    };
    Some(case.seen(seen(root)).seen(seen(place)))
}

/// Somebody else's program, or 64 of them.
fn occupied(place: &Place) -> Option<Case> {
    if place.link.failed_with(&[E2BIG]) {
        return Some(
            Case::new(
                Scenario::ConflictingProgram,
                format!("{} takes no more programs.", sentence(place)),
            )
            .seen(format!(
                "{} programs are attached to it, which is all it takes",
                place.programs
            ))
            .advice(
                "Nothing needs to be done where an ancestor takes them: run attaches there.",
            ),
        );
    }
    let holder = place.holder.as_ref().filter(|_| place.link.failed_with(&[EPERM]))?;
    Some(
        Case::new(
            Scenario::ConflictingProgram,
            format!("{holder} lets no other program on {}.", place.role),
        )
        .seen(format!("a link on {} fails with {}", place.path.display(), place.link))
        .seen(format!("{holder} was attached without BPF_F_ALLOW_MULTI"))
        .remedy(Remedy::StopHolder(holder.clone())),
    )
}

fn sentence(place: &Place) -> String {
    let role = place.role.to_string();
    let mut letters = role.chars();
    letters
        .next()
        .map_or(String::new(), |first| first.to_uppercase().chain(letters).collect::<String>())
        + &format!(" ({})", place.path.display())
}

/// Everything that has a scenario of its own was fine.
fn rest(report: &ProbeReport) -> Case {
    match report.first_failure() {
        None => Case::new(Scenario::Works, "Programs are loaded, attached, and see packets."),
        Some(check) if check.verdict == Verdict::Inconclusive => {
            from_check(Scenario::Inconclusive, check)
        }
        // The minimal program works and ours loads, and yet a whole limit does not.
        Some(check) => {
            from_check(by_verdict(check.verdict, Scenario::LibraryCompatibility), check)
        }
    }
}

/// Another backend was asked for: its own first no decides.
fn about_another(findings: &Findings<'_>) -> Case {
    let failure = findings.backends.iter().find_map(|(_, report)| report.first_failure());
    match failure {
        None => Case::new(Scenario::Works, "Packets are limited and counted."),
        Some(check) => {
            from_check(by_verdict(check.verdict, Scenario::ConfigurationMissing), check)
        }
    }
}

fn by_verdict(verdict: Verdict, missing: Scenario) -> Scenario {
    match verdict {
        Verdict::Works => Scenario::Works,
        Verdict::Missing => missing,
        Verdict::Denied => Scenario::Privileges,
        Verdict::Conflict => Scenario::ConflictingProgram,
        Verdict::Inconclusive => Scenario::Inconclusive,
    }
}

fn from_check(scenario: Scenario, check: &Check) -> Case {
    let meaning = format!("Not possible here: {}.", check.asked);
    Case::new(scenario, meaning).seen(check.evidence.clone()).remedy(check.remedy.clone())
}

/// Who forbids it, as far as can be seen from here.
fn forbidden(findings: &Findings<'_>, meaning: &str) -> Case {
    let system = findings.system;
    let case = Case::new(Scenario::Privileges, format!("{meaning}."));
    if system.in_user_namespace {
        return case
            .seen("this is a user namespace: its capabilities do not count for BPF")
            .advice("Run it outside, as root of the host.");
    }
    if system.is_filtered() {
        return case.seen("a seccomp filter is installed in this process (Seccomp: 2)").advice(
            "Run it outside the container or service, or allow bpf(2) there \
                 (docker --privileged, SystemCallFilter=@system-service bpf).",
        );
    }
    if let Some(lockdown) = system.lockdown.as_deref().filter(|mode| *mode != "none") {
        return case
            .seen(format!("kernel lockdown is in mode {lockdown}"))
            .advice("Use another backend, or boot without lockdown.");
    }
    case.seen(format!(
        "no capability is missing and no seccomp filter installed; security modules: {}",
        system.security_modules.as_deref().unwrap_or("unknown")
    ))
    .advice("Look for denials in the kernel log below, or raise RLIMIT_MEMLOCK (before 5.11).")
}
