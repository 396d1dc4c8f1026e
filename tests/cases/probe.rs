//! `chadthrottle probe` as people and machines meet it.

use std::time::Instant;

use chadthrottle_tests::{
    cgroup,
    process::tool,
    run_once::{Outcome, Scene},
    skip,
    sys::{self, Hook, Mode},
};
use serde_json::Value;

fn report(outcome: &Outcome) -> Value {
    serde_json::from_str(&outcome.stdout)
        .unwrap_or_else(|error| panic!("{error}: {outcome:#?}"))
}

/// What `ls` shows of the top of the hierarchy, where scratch cgroups are made.
fn left_at_the_top() -> Vec<String> {
    let entries = std::fs::read_dir(cgroup::mount()).expect("read the cgroup tree").flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    names.filter(|name| name.starts_with("chadthrottle-probe-")).collect()
}

#[test]
fn everything_is_asked_and_nothing_is_left() {
    let scene = Scene::new();
    let started = Instant::now();
    let outcome = scene.run(&["probe", "--json"]);
    let took = started.elapsed();
    outcome.assert(0, &[]);
    let report = report(&outcome);
    for pointer in [
        "/version",
        "/system/release",
        "/system/cgroup2",
        "/configuration/0/name",
        "/neighbours/services",
        "/bpf/minimal/link",
        "/bpf/places/0/role",
        "/bpf/object/programs/0/section",
        "/kernel_log",
        "/backends/0/backend",
        "/backends/0/checks/0/verdict",
        "/diagnosis/scenario",
        "/diagnosis/meaning",
        "/diagnosis/backend",
        "/seconds",
    ] {
        assert!(report.pointer(pointer).is_some_and(|value| !value.is_null()), "{pointer}");
    }
    // Ours, and what every kernel answers to the flags of the founding report.
    assert_eq!(report["bpf"]["minimal"]["link"], "ok");
    assert_eq!(report["bpf"]["minimal"]["link_multi"], "EINVAL");
    assert_eq!(report["backends"][0]["works"], true, "{report:#}");
    // A second alone; others run beside this case.
    assert!(took.as_secs() < 5, "{took:?}");
    assert!(
        left_at_the_top()
            .iter()
            .all(|name| !name.contains(&format!("-{}-", std::process::id())))
    );
    scene.assert_clean();
}

#[test]
fn for_people() {
    let scene = Scene::new();
    let outcome = scene.run(&["probe"]);
    outcome.assert(0, &[]);
    for words in ["ebpf: works here", "Diagnosis: everything works", "BPF_LINK_CREATE"] {
        assert!(outcome.stdout.contains(words), "no `{words}`: {outcome:#?}");
    }
}

#[test]
fn without_root_it_says_what_it_could_not_try() {
    let scene = Scene::new();
    let script = "exec setpriv --reuid=65534 --regid=65534 --clear-groups \"$@\"";
    let outcome = scene.run_wrapped(script, &["probe"]);
    assert_eq!(outcome.status, 3, "{outcome:#?}");
    for words in ["Without root", "G: privileges", "CAP_NET_ADMIN", "sudo", "cgroup v2"] {
        assert!(outcome.stdout.contains(words), "no `{words}`: {outcome:#?}");
    }
    let json = report(&scene.run_wrapped(script, &["probe", "--json"]));
    assert_eq!(json["root"], false);
    assert_eq!(json["diagnosis"]["letter"], "G");
}

#[test]
fn in_a_user_namespace() {
    let scene = Scene::new();
    let script = "exec unshare --user --map-root-user \"$@\"";
    if !scene.run_wrapped(script, &["--version"]).stdout.contains("chadthrottle") {
        skip!("user namespaces are not allowed here");
    }
    let outcome = scene.run_wrapped(script, &["probe", "--json", "--backend", "ebpf"]);
    assert_eq!(outcome.status, 3, "{outcome:#?}");
    let diagnosis = &report(&outcome)["diagnosis"];
    assert_eq!(diagnosis["letter"], "G", "{diagnosis:#}");
    assert!(diagnosis["evidence"].to_string().contains("user namespace"), "{diagnosis:#}");
}

#[test]
fn without_capabilities() {
    let scene = Scene::new();
    let script = "exec setpriv --inh-caps=-all --bounding-set=-bpf,-perfmon,-sys_admin \"$@\"";
    let diagnosis =
        report(&scene.run_wrapped(script, &["probe", "--json"]))["diagnosis"].take();
    assert_eq!(diagnosis["letter"], "G", "{diagnosis:#}");
    assert!(diagnosis["remedy"].to_string().contains("CAP_BPF"), "{diagnosis:#}");
}

/// Neither a v2 mount nor anything else of cgroups: the way out is to mount it.
#[test]
fn without_cgroup2() {
    let scene = Scene::new();
    let mount = cgroup::mount();
    // On a hybrid host v1 stays: that is "v1 only".
    let script = format!(
        "exec unshare -m sh -euc 'umount -l {}; exec \"$@\"' sh \"$@\"",
        mount.display()
    );
    let outcome = scene.run_wrapped(&script, &["probe", "--json", "--backend", "ebpf"]);
    assert_eq!(outcome.status, 3, "{outcome:#?}");
    let report = report(&outcome);
    assert_eq!(report["diagnosis"]["letter"], "B");
    assert_eq!(report["diagnosis"]["remedy"]["do"], "mount-cgroup2");
    assert_eq!(report["system"]["cgroup2"], Value::Null);
}

/// Who is in the way on a cgroup is named, and what became of the rest.
#[test]
fn an_exclusive_program_is_named() {
    let scene = Scene::new();
    let held = scene.cgroup.child("held");
    for hook in [Hook::Ingress, Hook::Egress] {
        let program = sys::load_pass_program(hook).expect("load a program");
        sys::attach(program, held.path(), hook, Mode::Exclusive).expect("attach it");
    }
    let path = held.path().to_str().expect("a plain path");
    let report = report(&scene.run(&["probe", "--json", "--cgroup", path]));
    assert_eq!(report["diagnosis"]["letter"], "H", "{:#}", report["diagnosis"]);
    let place = &report["bpf"]["places"][2];
    assert_eq!((&place["role"], &place["link"]), (&"asked".into(), &"EPERM".into()));
    assert!(place["holder"].as_str().is_some_and(|holder| holder.contains(sys::OWN_PROGRAM)));
    let existing = report["bpf"]["existing"].to_string();
    assert!(
        existing.contains("exclusive") && existing.contains("\"blocks\":true"),
        "{existing}"
    );
}

#[test]
fn sixty_four_programs_are_counted() {
    let scene = Scene::new();
    let full = scene.cgroup.child("full");
    for _ in 0..64 {
        let program = sys::load_pass_program(Hook::Ingress).expect("load a program");
        sys::attach(program, full.path(), Hook::Ingress, Mode::Multi).expect("attach it");
    }
    let path = full.path().to_str().expect("a plain path");
    let report = report(&scene.run(&["probe", "--json", "--cgroup", path]));
    assert_eq!(report["diagnosis"]["letter"], "H", "{:#}", report["diagnosis"]);
    assert_eq!(report["bpf"]["places"][2]["link"], "E2BIG");
}

#[test]
fn a_cgroup_that_is_none_is_refused() {
    let scene = Scene::new();
    scene
        .run(&["probe", "--cgroup", "/no/such/cgroup"])
        .assert_refused(5, &["/no/such/cgroup"]);
}

#[track_caller]
fn nft_says(script: &str, name: &str, verdict: &str, errno: &str, remedy: &str) {
    says_no("nft", script, name, verdict, errno, remedy);
}

/// The check at which a backend says no: its name, verdict, what its evidence holds and the way out.
#[track_caller]
fn says_no(backend: &str, script: &str, name: &str, verdict: &str, errno: &str, remedy: &str) {
    let scene = Scene::new();
    let outcome = scene.run_wrapped(script, &["probe", "--json", "--backend", backend]);
    assert_eq!(outcome.status, 3, "{outcome:#?}");
    let report = report(&outcome);
    let answer = &report["backends"][0];
    assert_eq!(answer["works"], false, "{answer:#}");
    let checks = answer["checks"].as_array().expect("checks");
    let no = checks.iter().find(|check| check["verdict"] != "works").expect("a no");
    assert_eq!((&no["name"], &no["verdict"]), (&name.into(), &verdict.into()), "{no:#}");
    let evidence = no["evidence"].as_str().unwrap_or_default();
    assert!(evidence.contains(errno), "no {errno}: {no:#}");
    assert!(no["remedy"].to_string().contains(remedy), "no {remedy}: {no:#}");
    scene.assert_clean();
}

/// `refuse` with this answer, as a script.
fn refusing(answer: &str) -> String {
    format!("exec {} {answer} -- \"$@\"", tool("refuse").display())
}

#[test]
fn nft_without_nfnetlink() {
    let script = refusing("netfilter=EPROTONOSUPPORT");
    nft_says(&script, "nf-tables", "missing", "EPROTONOSUPPORT", "nf_tables");
}

#[test]
fn nft_behind_a_filter() {
    nft_says(&refusing("netfilter=EPERM"), "nf-tables", "denied", "EPERM", "seccomp filter");
    nft_says(&refusing("netfilter=EACCES"), "nf-tables", "denied", "EACCES", "seccomp filter");
}

/// What the probe cannot know by itself it does not guess.
#[test]
fn nft_with_an_errno_that_tells_nothing() {
    nft_says(&refusing("netfilter=ENOSYS"), "nf-tables", "inconclusive", "ENOSYS", "none");
}

/// Descriptor tables of others, by which flows are known, are not read without it.
#[test]
fn tc_without_ptrace() {
    let script = "exec setpriv --inh-caps=-all --bounding-set=-sys_ptrace \"$@\"";
    says_no("tc", script, "capabilities", "denied", "CAP_SYS_PTRACE", "grant-capability");
}

#[test]
fn nft_without_capabilities() {
    let script = "exec setpriv --inh-caps=-all --bounding-set=-net_admin \"$@\"";
    nft_says(script, "capabilities", "denied", "CAP_NET_ADMIN", "grant-capability");
    let script = "exec setpriv --inh-caps=-all --bounding-set=-sys_ptrace \"$@\"";
    nft_says(script, "capabilities", "denied", "CAP_SYS_PTRACE", "grant-capability");
}

/// All capabilities, but none over the network that it lives in.
#[test]
fn nft_in_a_user_namespace() {
    let script = "exec unshare --user --map-root-user \"$@\"";
    if !Scene::new().run_wrapped(script, &["--version"]).stdout.contains("chadthrottle") {
        skip!("user namespaces are not allowed here");
    }
    nft_says(script, "nf-tables", "denied", "EPERM", "user namespace");
}

#[test]
fn nft_without_cgroup2() {
    let script = format!(
        "exec unshare -m sh -euc 'umount -l {}; exec \"$@\"' sh \"$@\"",
        cgroup::mount().display()
    );
    nft_says(&script, "cgroup2-mounted", "missing", "", "mount-cgroup2");
}

#[test]
fn nft_that_works_says_what_it_can() {
    let scene = Scene::new();
    let report = report(&scene.run(&["probe", "--json", "--backend", "nft"]));
    let answer = &report["backends"][0];
    if answer["works"] != true {
        skip!("nftables does not work here");
    }
    let checks = answer["checks"].as_array().expect("checks");
    let pacing = checks.iter().find(|check| check["name"] == "pacing").expect("a check");
    let paces = pacing["asked"].to_string().contains("hand packets to user space");
    assert_eq!(answer["capabilities"]["shapes"], paces, "{answer:#}");
    assert_eq!(answer["capabilities"]["moves_processes"], true);
}
