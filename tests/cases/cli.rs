//! The command line: exit statuses, messages, events.

use std::time::Duration;

use chadthrottle_tests::{
    process::{Running, code, eventually, is_alive},
    run_once::{Outcome, Scene},
};
use rustix::process::Signal;
use serde_json::Value;

const SOON: Duration = Duration::from_secs(5);

fn run(args: &[&str]) -> Outcome {
    let scene = Scene::new();
    let outcome = scene.run(args);
    scene.assert_clean();
    outcome
}

/// `chadthrottle run -d 10mbit ARGS`
fn limited(args: &[&str]) -> Outcome {
    run(&[&["run", "-d", "10mbit"], args].concat())
}

/// A pid that no process has: the largest there can be is never given out.
fn nobody() -> String {
    let max = std::fs::read_to_string("/proc/sys/kernel/pid_max").expect("pid_max");
    max.trim().to_owned()
}

#[test]
fn rates_that_mean_two_things_are_refused_with_both_spellings() {
    for rate in ["10M", "10mbps", "10", "10k", "1.5G"] {
        let outcome = run(&["run", "-d", rate, "--pid", "1"]);
        outcome.assert(2, &["bit", "B/s", rate]);
    }
}

#[test]
fn rates_that_make_no_sense_are_refused() {
    for rate in ["0", "0mbit", "-1mbit", "99999999tbit", "fast", "", "1,5mbit"] {
        let outcome = run(&["run", &format!("--download={rate}"), "--pid", "1"]);
        outcome.assert(2, &["bit"]);
    }
}

#[test]
fn usage() {
    let pid = std::process::id().to_string();
    run(&["run", "--pid", &pid]).assert(2, &["--download", "--upload"]);
    run(&["run", "-d", "10mbit"]).assert(2, &["--pid", "--cgroup", "--unit"]);
    run(&[]).assert(2, &["--pid"]);
    limited(&["--json", "--", "true"]).assert(2, &["--json"]);
    limited(&["--pid", "0"]).assert(2, &[]);
    limited(&["--pid", "me"]).assert(2, &[]);
    limited(&["--pid", &pid, "--duration", "0"]).assert(2, &[]);
    limited(&["--pid", &pid, "--backend", "magic"]).assert(2, &["ebpf", "tc", "nft"]);
    limited(&["--as", "nobody", "--pid", &pid]).assert(2, &["COMMAND"]);
    run(&["walk"]).assert(2, &[]);
    assert_eq!(run(&["--help"]).status, 0);
    assert_eq!(run(&["--version"]).status, 0);
}

#[test]
fn targets_that_do_not_exist() {
    limited(&["--pid", &nobody()]).assert_refused(5, &[&nobody()]);
    limited(&["--cgroup", "/no/such/cgroup"]).assert_refused(5, &["/no/such/cgroup"]);
    limited(&["--unit", "ct-no-such-unit"]).assert_refused(5, &["ct-no-such-unit"]);
}

#[test]
fn targets_that_cannot_be_limited() {
    // A kernel thread (kthreadd), a directory that is no cgroup, one of cgroup v1.
    limited(&["--pid", "2"]).assert_refused(2, &["kernel"]);
    limited(&["--cgroup", "/tmp"]).assert(2, &["/tmp", "cgroup"]);
    let memory = "/sys/fs/cgroup/memory";
    if std::path::Path::new(memory).join("tasks").exists() {
        limited(&["--cgroup", memory]).assert(2, &[memory, "v1"]);
    }
}

#[test]
fn a_command_gives_its_own_status() {
    limited(&["--", "true"]).assert(0, &["ebpf"]);
    limited(&["--", "sh", "-c", "exit 7"]).assert(7, &[]);
    limited(&["--", "sh", "-c", "kill -9 $$"]).assert(128 + 9, &[]);
    limited(&["--", "sh", "-c", "kill -TERM $$"]).assert(128 + 15, &[]);
    limited(&["--", "/etc/passwd"]).assert(126, &["/etc/passwd"]);
    limited(&["--", "ct-no-such-program"]).assert(127, &["ct-no-such-program"]);
    limited(&["--pid", &nobody(), "--", "true"]).assert(125, &[&nobody()]);
}

#[test]
fn a_command_has_its_own_streams_and_environment() {
    let outcome = limited(&["--", "sh", "-c", "echo out; echo err >&2; echo $HOME"]);
    let home = std::env::var("HOME").unwrap_or_default();
    assert_eq!(outcome.stdout, format!("out\n{home}"));
    outcome.assert(0, &["err"]);
}

#[test]
fn quiet_says_nothing_that_is_no_problem() {
    let outcome = limited(&["-q", "--", "true"]);
    assert_eq!((outcome.status, outcome.stderr.as_str()), (0, ""));
}

#[test]
fn as_another_user() {
    let outcome = limited(&["--as", "nobody", "--", "id", "-un"]);
    assert_eq!((outcome.status, outcome.stdout.as_str()), (0, "nobody"), "{outcome:#?}");
    let outcome = limited(&["--as", "ct-no-such-user", "--", "true"]);
    outcome.assert(2, &["ct-no-such-user"]);
}

/// Starts `run ARGS` on a sleeping process and waits until it is enforced.
fn enforced(scene: &Scene, sleeper: &Running, args: &[&str]) -> Running {
    let pid = sleeper.pid().to_string();
    let all = [&["run", "-d", "10mbit", "--json", "--pid", &pid], args].concat();
    let running = Running::start(&mut scene.command(&all));
    running.expect("enforced", SOON, |line| line.contains("\"enforced\"").then_some(()));
    running
}

#[test]
fn events_are_one_object_a_line() {
    let scene = Scene::new();
    let sleeper = scene.sleeper();
    let mut running = enforced(&scene, &sleeper, &[]);
    running.expect("stats", SOON, |line| line.contains("\"stats\"").then_some(()));
    running.signal(Signal::INT);
    assert_eq!(code(running.wait(SOON)), 0, "{}", running.stderr());
    let events: Vec<Value> = running
        .stdout()
        .iter()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{line}: {e}")))
        .collect();
    let names: Vec<_> = events.iter().map(|event| event["event"].as_str().unwrap()).collect();
    assert_eq!(names[..2], ["selected", "enforced"]);
    assert_eq!(names.last(), Some(&"released"));
    for event in &events {
        assert_eq!(event["backend"], "ebpf", "{event}");
        assert!(!event["time"].is_null(), "{event}");
    }
    assert!(events[0]["attach"].is_string() && events[0]["rejected"].is_array());
    assert!(!events[1]["targets"].is_null() && !events[1]["limits"].is_null());
    scene.assert_clean();
}

#[test]
fn the_summary_tells_what_was_done() {
    let scene = Scene::new();
    let sleeper = scene.sleeper();
    let mut running = enforced(&scene, &sleeper, &[]);
    running.signal(Signal::TERM);
    assert_eq!(code(running.wait(SOON)), 0);
    let summary = running.stderr();
    assert!(summary.contains("ebpf") && summary.contains("10 Mbit/s"), "{summary}");
}

#[test]
fn the_same_pid_twice_is_one_target() {
    let scene = Scene::new();
    let sleeper = scene.sleeper();
    let pid = sleeper.pid().to_string();
    let mut running = enforced(&scene, &sleeper, &["--pid", &pid]);
    running.signal(Signal::INT);
    assert_eq!(code(running.wait(SOON)), 0, "{}", running.stderr());
    scene.assert_clean();
}

#[test]
fn standard_input_may_be_closed() {
    let scene = Scene::new();
    let args = ["run", "-d", "10mbit", "--", "sh", "-c", "echo fine"];
    let outcome = scene.run_wrapped("exec \"$@\" <&-", &args);
    assert_eq!((outcome.status, outcome.stdout.as_str()), (0, "fine"), "{outcome:#?}");
    scene.run_wrapped("exec \"$@\" <&-", &["run", "-d", "10mbit"]).assert(2, &["--pid"]);
    scene.assert_clean();
}

#[test]
fn a_reader_of_events_that_goes_away_does_not_leave_the_limit_behind() {
    let scene = Scene::new();
    let sleeper = scene.sleeper();
    let pid = sleeper.pid().to_string();
    let script = "\"$@\" | head -n 1";
    let args = ["run", "-d", "10mbit", "--json", "--pid", &pid, "--duration", "3s"];
    let outcome = scene.run_wrapped(script, &args);
    assert!(outcome.stdout.contains("selected"), "{outcome:#?}");
    assert!(!outcome.stderr.contains("panicked"), "{outcome:#?}");
    scene.assert_clean();
}

#[test]
fn a_signal_to_run_reaches_the_command() {
    let scene = Scene::new();
    let file = scene.directory().join("pid");
    let script = format!("echo $$ > {}; exec sleep 60", file.display());
    let mut running =
        Running::start(&mut scene.command(&["run", "-d", "10mbit", "--", "sh", "-c", &script]));
    let pid = || std::fs::read_to_string(&file).ok()?.trim().parse::<u32>().ok();
    assert!(eventually(SOON, || pid().is_some()), "{}", running.stderr());
    running.signal(Signal::TERM);
    let status = code(running.wait(SOON));
    assert_eq!(status, 128 + 15, "{}", running.stderr());
    assert!(!is_alive(pid().expect("a pid")), "the command must end with run");
    scene.assert_clean();
}

#[test]
fn clean_with_nothing_to_do() {
    assert_eq!(run(&["clean"]).status, 0);
    assert_eq!(run(&["clean", "--dry-run"]).status, 0);
}
