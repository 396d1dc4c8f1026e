//! Kernels that refuse: calls that really fail, the backend that is chosen then, the rate that it
//! holds, and the diagnosis.
//!
//! `refuse` puts a seccomp filter before the program. What `probe` finds without it says which
//! backend must be next; a machine on which none is must end with status 3.

use std::{thread, time::Duration};

use chadthrottle_tests::{
    conformance::{self, MEASURE, TOLERANCE},
    lab::Family::V4,
    load::{Load, Plan, Role},
    process::{eventually, sh, tool},
    rates::{self, TEN_MBIT},
    stage::{Direction, Stage},
    sys::{self, Hook, Mode},
    throttle::Throttle,
};
use serde_json::Value;

/// A download that is offered ten times its limit, its near end the target.
struct Transfer {
    near: Load,
    _far: Load,
}

fn transfer(stage: &Stage) -> Transfer {
    let address = stage.lab.far_address(V4);
    let far = Plan::accept(address, Role::Send).rate(100.0).start(&stage.far());
    let near = Plan::connect(address, Role::Recv).start(&stage.near());
    near.wait_connected();
    Transfer { near, _far: far }
}

/// `refuse` with these answers, as a wrapper.
fn refusing<'a>(refuse: &'a str, answers: &[&'a str]) -> Vec<&'a str> {
    let mut words = vec![refuse];
    words.extend(answers);
    words.push("--");
    words
}

fn letter(report: &Value) -> &str {
    report["diagnosis"]["letter"].as_str().unwrap_or("none")
}

/// The backends beside ebpf that work on this stage without any filter, best first.
fn others(report: &Value) -> Vec<String> {
    let backends = report["backends"].as_array().cloned().unwrap_or_default();
    let works = |answer: &&Value| answer["works"] == true && answer["backend"] != "ebpf";
    let names = backends.iter().filter(works).filter_map(|answer| answer["backend"].as_str());
    names.map(str::to_owned).collect()
}

/// The limit holds with whatever was chosen; nothing is left afterwards.
fn holds(mut throttle: Throttle, transfer: &Transfer, what: &str) -> Value {
    throttle.wait_enforced();
    let selected = throttle.expect_event("selected");
    thread::sleep(Duration::from_millis(1500));
    let bins = transfer.near.watch(MEASURE);
    rates::assert_rate(
        &format!("{what} ({})", selected["backend"]),
        &bins,
        TEN_MBIT,
        TOLERANCE,
    );
    throttle.stop();
    selected
}

/// No backend is left: a clear end, "not permitted" when that was the reason; programs are told
/// the same.
fn ends(mut throttle: Throttle, status: i32) {
    assert_eq!(throttle.wait(), status, "{}", throttle.stderr());
    assert!(throttle.stderr().contains("cannot "), "{}", throttle.stderr());
    let events = throttle.events();
    let last = events.last().expect("an event");
    assert_eq!((&last["event"], &last["status"]), (&"failed".into(), &status.into()), "{last}");
    assert!(last["message"].as_str().is_some_and(|text| text.contains("cannot ")), "{last}");
}

/// Behind these refusals ebpf is out: the diagnosis has this letter, and the next backend holds.
#[track_caller]
fn falls_back(answers: &[&str], expected_letter: &str, reason: &str) {
    let stage = Stage::new("auto");
    let refuse = tool("refuse");
    let wrapper = refusing(refuse.to_str().expect("a plain path"), answers);
    let others = others(&stage.probe_behind(&[], &[]).0);
    let (report, status) = stage.probe_behind(&wrapper, &[]);
    assert_eq!(letter(&report), expected_letter, "{:#}", report["diagnosis"]);
    assert_eq!(status, if others.is_empty() { 3 } else { 0 }, "{report:#}");

    let transfer = transfer(&stage);
    let pid = transfer.near.pid().to_string();
    let throttle = stage.start_behind(&wrapper, &["-d", "10mbit", "--pid", &pid]);
    match others.first() {
        None => ends(throttle, if reason == "EPERM" { 4 } else { 3 }),
        Some(next) => {
            let selected = holds(throttle, &transfer, answers[0]);
            assert_eq!(selected["backend"], next.as_str());
            let rejected = &selected["rejected"][0];
            assert_eq!(rejected["backend"], "ebpf");
            let said = rejected["reason"].as_str().unwrap_or_default();
            assert!(said.contains(reason), "{said}");
        }
    }
    stage.end();
}

/// The EINVAL of the founding report, on any kernel: the legacy attachment does.
#[test]
fn links_are_refused() {
    let stage = Stage::new("auto");
    let refuse = tool("refuse");
    let wrapper = refusing(refuse.to_str().expect("a plain path"), &["link-create=EINVAL"]);
    let (report, status) = stage.probe_behind(&wrapper, &[]);
    assert_eq!((letter(&report), status), ("F", 0), "{:#}", report["diagnosis"]);
    // A kernel too old for links would not know BPF_LINK_UPDATE either.
    let evidence = report["diagnosis"]["evidence"].to_string();
    assert!(evidence.contains("seccomp filter"), "{evidence}");

    let transfer = transfer(&stage);
    let pid = transfer.near.pid().to_string();
    let throttle = stage.start_behind(&wrapper, &["-d", "10mbit", "--pid", &pid]);
    let selected = holds(throttle, &transfer, "links refused");
    assert_eq!(selected["backend"], "ebpf");
    assert_eq!(selected["attach"], "legacy");
    stage.end();
}

#[test]
fn links_and_legacy_are_refused() {
    falls_back(&["link-create=EINVAL", "prog-attach=EINVAL"], "G", "EINVAL");
}

#[test]
fn attaching_is_not_permitted() {
    falls_back(&["link-create=EPERM", "prog-attach=EPERM"], "G", "EPERM");
}

#[test]
fn bpf_is_not_permitted() {
    falls_back(&["bpf=EPERM"], "G", "EPERM");
}

#[test]
fn bpf_does_not_exist() {
    falls_back(&["bpf=ENOSYS"], "G", "ENOSYS");
}

#[test]
fn bpf_is_invalid() {
    falls_back(&["bpf=EINVAL"], "G", "EINVAL");
}

/// Where sockets cannot be fetched tc tells senders nothing, says so, and holds the limit by its
/// queue alone.
#[test]
fn tc_cannot_tell_senders() {
    let refuse = tool("refuse");
    let refuse = refuse.to_str().expect("a plain path");
    for (direction, answer) in [
        (Direction::Download, "pidfd-getfd=EPERM"),
        // As on kernels before 5.6.
        (Direction::Upload, "pidfd-getfd=ENOSYS"),
    ] {
        let stage = Stage::new("tc");
        let (near, far) = conformance::plans(direction, stage.lab.far_address(V4));
        let far = far.start(&stage.far());
        let near = near.start(&stage.near());
        near.wait_connected();
        let pid = near.pid().to_string();
        let wrapper = refusing(refuse, &[answer]);
        let args = [direction.flag(), "10mbit", "--pid", &pid];
        let mut throttle = stage.start_behind(&wrapper, &args);
        throttle.wait_enforced();
        thread::sleep(Duration::from_secs(2));
        let receiver = if direction == Direction::Download { &near } else { &far };
        rates::assert_rate(answer, &receiver.watch(MEASURE), TEN_MBIT, 0.05);
        let said = throttle.stderr();
        assert_eq!(said.matches("senders are not told of the limit").count(), 1, "{said}");
        throttle.stop();
        stage.end();
    }
}

/// Where nothing can hold new connections tc says what that means, once, and limits all the same.
#[test]
fn tc_cannot_hold_new_connections() {
    let refuse = tool("refuse");
    let refuse = refuse.to_str().expect("a plain path");
    let wrapper = refusing(refuse, &["netfilter=EPROTONOSUPPORT"]);
    let stage = Stage::new("tc");
    let (near, far) = conformance::plans(Direction::Upload, stage.lab.far_address(V4));
    let far = far.start(&stage.far());
    let mut near = near.wait().start(&stage.near());
    near.wait_ready();
    let pid = near.pid().to_string();
    let mut throttle = stage.start_behind(&wrapper, &["-u", "10mbit", "--pid", &pid]);
    throttle.wait_enforced();
    near.go();
    near.wait_connected();
    thread::sleep(Duration::from_secs(2));
    rates::assert_rate("heard only", &far.watch(MEASURE), TEN_MBIT, 0.05);
    let said = throttle.stderr();
    assert_eq!(said.matches("cannot wait until they are found").count(), 1, "{said}");
    throttle.stop();
    stage.end();
}

/// `--backend ebpf` means ebpf or nothing.
#[test]
fn a_named_backend_never_falls_back() {
    let stage = Stage::new("ebpf");
    let refuse = tool("refuse");
    let wrapper = refusing(refuse.to_str().expect("a plain path"), &["bpf=EPERM"]);
    let transfer = transfer(&stage);
    let pid = transfer.near.pid().to_string();
    let throttle = stage.start_behind(&wrapper, &["-d", "10mbit", "--pid", &pid]);
    ends(throttle, 4);
    stage.end();
}

/// In a cgroup namespace whose root holds an exclusive program no ancestor takes us: ebpf is out
/// for this target, though it probed well elsewhere.
#[test]
fn an_exclusive_program_on_everything_we_see() {
    let stage = Stage::new("auto");
    let others = others(&stage.probe_behind(&[], &[]).0);
    for hook in [Hook::Ingress, Hook::Egress] {
        let program = sys::load_pass_program(hook).expect("load a program");
        sys::attach(program, stage.scratch().path(), hook, Mode::Exclusive).expect("attach it");
    }
    let transfer = transfer(&stage);
    let pid = transfer.near.pid().to_string();
    let script = format!(
        "mount --bind {0} {1}; exec \"$@\"",
        stage.scratch().path().display(),
        chadthrottle_tests::cgroup::mount().display()
    );
    let wrapper = ["unshare", "-m", "sh", "-euc", &script, "sh"];
    let (report, _) = stage.probe_behind(&wrapper, &[]);
    assert_eq!(letter(&report), "H", "{:#}", report["diagnosis"]);
    let throttle = stage.start_behind(&wrapper, &["-d", "10mbit", "--pid", &pid]);
    match others.first() {
        None => ends(throttle, 3),
        Some(next) => {
            let selected = holds(throttle, &transfer, "exclusive program");
            assert_eq!(selected["backend"], next.as_str(), "{selected:#}");
        }
    }
    assert_eq!(programs(&stage), 2, "the programs of others are untouched");
    stage.end();
}

fn programs(stage: &Stage) -> usize {
    let shown = sh(&format!("bpftool cgroup show {}", stage.scratch().path().display()));
    shown.matches(sys::OWN_PROGRAM).count()
}

/// A limit that sees no packets is said to be none: here our links are detached behind our back.
#[test]
fn a_limit_that_matches_nothing_is_told() {
    let stage = Stage::new("ebpf");
    let address = stage.lab.far_address(V4);
    let _far = Plan::accept(address, Role::Send).rate(20.0).start(&stage.far());
    let mut near = Plan::connect(address, Role::Recv).wait().start(&stage.near());
    let pid = near.pid().to_string();
    let throttle = stage.run(&["-d", "10mbit", "--pid", &pid]);
    let own = throttle.pid();
    for link in sh(&format!("grep -h ^link_id /proc/{own}/fdinfo/* || true")).lines() {
        let id = link.split_whitespace().last().expect("an id");
        // Those of tracepoints and iterators cannot be detached; they do not matter.
        sh(&format!("bpftool link detach id {id} 2>/dev/null || true"));
    }
    near.go();
    near.wait_connected();
    let warned = || {
        throttle.events().iter().any(|event| {
            event["event"] == "warning"
                && event["message"].as_str().is_some_and(|text| text.contains("matched"))
        })
    };
    assert!(eventually(Duration::from_secs(8), warned), "{}", throttle.stderr());
    throttle.stop();
    stage.end();
}
