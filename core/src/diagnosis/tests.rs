//! The tree, on findings as real machines gave them. Whether machines give such findings is what
//! the cases in tests/ prove.

use super::*;
use crate::{
    check::{Check, Verdict},
    system::Config,
};

const EPERM: i32 = 1;
const E2BIG: i32 = 7;
const EINVAL: i32 = 22;
const ENOSYS: i32 = 38;

fn system() -> System {
    System { has_cgroup2: true, ..System::default() }
}

fn filtered() -> System {
    System { seccomp: 2, ..system() }
}

fn place(role: Role, link: Attempt) -> Place {
    Place { role, path: format!("/{role}").into(), link, holder: None, programs: 0 }
}

/// A kernel that does everything.
fn good() -> BpfFindings {
    BpfFindings {
        map: Attempt::Done,
        program: Attempt::Done,
        link: Attempt::Done,
        legacy: Attempt::Done,
        query: Attempt::Done,
        knows_link_create: Some(true),
        knows_links: Some(true),
        knows_cgroups: Some(true),
        places: vec![place(Role::Root, Attempt::Done), place(Role::Own, Attempt::Done)],
        object: Object::Loads,
    }
}

fn check(name: &'static str, verdict: Verdict) -> Check {
    let evidence = format!("{name} was {verdict}");
    Check { name, asked: "try it".into(), verdict, evidence, remedy: Remedy::None }
}

fn report(checks: Vec<Check>) -> ProbeReport {
    ProbeReport { checks }
}

fn diagnose(system: &System, bpf: &BpfFindings, report: &ProbeReport) -> Diagnosis {
    decide(&Findings { backends: vec![(BackendId::Ebpf, report)], bpf: Some(bpf), system })
}

/// What the tree says when the eBPF backend's own checks were fine.
fn about(system: &System, bpf: &BpfFindings) -> Diagnosis {
    diagnose(system, bpf, &report(vec![check("rehearsal", Verdict::Works)]))
}

#[test]
fn a_kernel_that_does_everything() {
    let diagnosis = about(&system(), &good());
    assert_eq!((diagnosis.scenario, diagnosis.letter), (Scenario::Works, None));
    assert_eq!(diagnosis.backend, Some(BackendId::Ebpf));
}

#[test]
fn a_the_user_cgroup() {
    let mut bpf = good();
    bpf.places[1].link = Attempt::Failed(EINVAL);
    assert_eq!(about(&system(), &bpf).scenario, Scenario::UserCgroup);
    // Where the root refuses as well it is something else.
    bpf.places[0].link = Attempt::Failed(EINVAL);
    assert_eq!(about(&system(), &bpf).scenario, Scenario::Inconclusive);
}

#[test]
fn b_what_the_kernel_lacks() {
    let no_mount = System::default();
    let diagnosis = about(&no_mount, &BpfFindings::default());
    assert_eq!(diagnosis.scenario, Scenario::ConfigurationMissing);
    assert_eq!(diagnosis.remedy, Remedy::MountCgroup2);

    let no_cgroup_bpf = BpfFindings {
        link: Attempt::Failed(EINVAL),
        legacy: Attempt::Failed(EINVAL),
        query: Attempt::Failed(EINVAL),
        knows_cgroups: Some(false),
        ..good()
    };
    let diagnosis = about(&system(), &no_cgroup_bpf);
    assert_eq!(diagnosis.remedy, Remedy::RebuildKernel("CONFIG_CGROUP_BPF".into()));

    let no_bpf = BpfFindings { map: Attempt::Failed(ENOSYS), ..BpfFindings::default() };
    let without = System { config: Config::with(&[("BPF_SYSCALL", false)]), ..system() };
    assert_eq!(about(&without, &no_bpf).scenario, Scenario::ConfigurationMissing);

    let old = report(vec![check("atomics", Verdict::Missing)]);
    let refused = BpfFindings {
        object: Object::Refused { errno: EINVAL, log: "BPF_STX uses reserved fields".into() },
        ..good()
    };
    let diagnosis = diagnose(&system(), &refused, &old);
    assert_eq!(diagnosis.scenario, Scenario::ConfigurationMissing);
}

#[test]
fn c_a_kernel_that_has_it_all_and_refuses() {
    let bpf = BpfFindings {
        link: Attempt::Failed(EINVAL),
        legacy: Attempt::Failed(EINVAL),
        ..good()
    };
    assert_eq!(about(&system(), &bpf).scenario, Scenario::KernelBug);
}

#[test]
fn d_and_e_our_own_programs() {
    let log = "R1 invalid mem access".to_owned();
    let refused = Object::Refused { errno: 13, log };
    let diagnosis = about(&system(), &BpfFindings { object: refused, ..good() });
    assert_eq!(diagnosis.scenario, Scenario::ProgramStructure);
    assert!(diagnosis.evidence.iter().any(|seen| seen.contains("R1 invalid")), "{diagnosis:?}");

    let unreadable = Object::Unreadable("relocation failed".into());
    let diagnosis = about(&system(), &BpfFindings { object: unreadable, ..good() });
    assert_eq!(diagnosis.scenario, Scenario::LibraryCompatibility);

    let rehearsal = report(vec![check("rehearsal", Verdict::Missing)]);
    let diagnosis = diagnose(&system(), &good(), &rehearsal);
    assert_eq!(diagnosis.scenario, Scenario::LibraryCompatibility);
}

#[test]
fn f_links_are_refused() {
    let bpf = |knows_links| BpfFindings {
        link: Attempt::Failed(EINVAL),
        knows_link_create: Some(false),
        knows_links: Some(knows_links),
        places: vec![place(Role::Root, Attempt::Failed(EINVAL))],
        ..good()
    };
    for (system, knows, cause) in [
        (system(), false, "older than 5.7"),
        (filtered(), true, "the seccomp filter of this process answers"),
        (filtered(), false, "inconclusive"),
    ] {
        let diagnosis = about(&system, &bpf(knows));
        assert_eq!(diagnosis.letter, Some('F'));
        let said = diagnosis.evidence.join("; ");
        assert!(said.contains(cause), "{said}");
    }
}

#[test]
fn g_privileges() {
    let none = BpfFindings::default();
    let weak = System { missing_capabilities: vec!["CAP_BPF".into()], ..system() };
    assert_eq!(about(&weak, &none).remedy, Remedy::GrantCapability("CAP_BPF".into()));
    let refused = |errno| BpfFindings { map: Attempt::Failed(errno), ..BpfFindings::default() };
    for errno in [EPERM, ENOSYS, EINVAL] {
        assert_eq!(about(&filtered(), &refused(errno)).letter, Some('G'), "{errno}");
    }
    let both = BpfFindings {
        link: Attempt::Failed(EINVAL),
        legacy: Attempt::Failed(EINVAL),
        knows_cgroups: Some(false),
        ..good()
    };
    let diagnosis = about(&filtered(), &both);
    assert_eq!(diagnosis.letter, Some('G'));
    assert!(diagnosis.evidence.join(";").contains("CONFIG_CGROUP_BPF"), "{diagnosis:?}");
    let namespace = System { in_user_namespace: true, ..system() };
    assert!(about(&namespace, &refused(EPERM)).evidence[0].contains("user namespace"));
}

#[test]
fn h_somebody_is_in_the_way() {
    let mut bpf = good();
    bpf.places[1].link = Attempt::Failed(EPERM);
    bpf.places[1].holder = Some("BPF program 7 on /x".into());
    let diagnosis = about(&system(), &bpf);
    assert_eq!(diagnosis.letter, Some('H'));
    assert_eq!(diagnosis.remedy, Remedy::StopHolder("BPF program 7 on /x".into()));

    bpf.places[1] = Place { programs: 64, ..place(Role::Own, Attempt::Failed(E2BIG)) };
    assert_eq!(about(&system(), &bpf).letter, Some('H'));

    // On the root it keeps everybody out, the scratch cgroup too.
    let root = Place {
        holder: Some("BPF program 7 on /".into()),
        ..place(Role::Root, Attempt::Failed(EPERM))
    };
    let bpf = BpfFindings {
        link: Attempt::Failed(EPERM),
        legacy: Attempt::Failed(EPERM),
        places: vec![root],
        ..good()
    };
    assert_eq!(about(&system(), &bpf).letter, Some('H'));
}

#[test]
fn another_backend_is_judged_by_its_checks() {
    for (verdict, scenario) in [
        (Verdict::Works, Scenario::Works),
        (Verdict::Missing, Scenario::ConfigurationMissing),
        (Verdict::Denied, Scenario::Privileges),
        (Verdict::Inconclusive, Scenario::Inconclusive),
    ] {
        let report = report(vec![check("ifb", verdict)]);
        let diagnosis = decide(&Findings {
            backends: vec![(BackendId::Tc, &report)],
            bpf: None,
            system: &system(),
        });
        assert_eq!(diagnosis.scenario, scenario);
    }
}
