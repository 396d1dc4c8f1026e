//! A command under a limit.

use super::plans;
use crate::{
    lab::Family::V4,
    load::{Birth, Load, Plan},
    process::{eventually, is_alive},
    rates,
    stage::{
        Direction::{self, Download, Upload},
        Stage,
    },
    throttle::Throttle,
};

/// Starts `plan` as a command of chadthrottle, with a limit of 10 Mbit/s.
fn start(stage: &Stage, direction: Direction, more: &[&str], plan: &Plan) -> Throttle {
    let words = plan.words();
    let mut args = vec![direction.flag(), "10mbit"];
    args.extend(more);
    args.push("--");
    args.extend(words.iter().map(String::as_str));
    stage.start(&args)
}

/// A command that transfers for 8 s: its rate, and that run ends with it.
fn command(backend: &str, direction: Direction, shape: impl Fn(Plan) -> Plan) {
    let stage = Stage::new(backend);
    let (near, far) = plans(direction, stage.lab.far_address(V4));
    let far = far.start(&stage.far());
    let mut throttle = start(&stage, direction, &[], &shape(near.seconds(8.0)));
    throttle.wait_enforced();
    far.wait_connected();
    let status = throttle.wait();
    assert_eq!(status, 0, "{}", throttle.stderr());
    let bins = match direction {
        Direction::Download => received_by(&mut throttle),
        Direction::Upload => far.bins(),
    };
    // From the first byte on: nothing escapes between the start and the limit.
    let first = rates::first_second(&bins);
    assert!(first < 2.0 * rates::TEN_MBIT, "first second {}", rates::show(&bins));
    let bins = &bins[rates::PER_SECOND..bins.len().min(8 * rates::PER_SECOND)];
    rates::assert_rate("command", bins, rates::TEN_MBIT, super::TOLERANCE);
    stage.end();
}

/// The bins that the command itself reported: its stdout is chadthrottle's.
fn received_by(throttle: &mut Throttle) -> Vec<u64> {
    let lines = throttle.running().stdout();
    let bins = lines.iter().filter_map(|line| {
        let report: serde_json::Value = serde_json::from_str(line).ok()?;
        (report["event"] == "bin").then(|| report["bytes"].as_u64())?
    });
    bins.collect()
}

/// A command that downloads.
pub fn command_download(backend: &str) {
    command(backend, Download, |plan| plan);
}

/// A command that uploads.
pub fn command_upload(backend: &str) {
    command(backend, Upload, |plan| plan);
}

/// A command whose child does the work.
pub fn command_with_children(backend: &str) {
    command(backend, Download, |plan| plan.child(Birth::Early));
}

/// After `--duration` the command goes on without a limit and run waits for it.
pub fn duration_lets_the_command_go_on(backend: &str) {
    let stage = Stage::new(backend);
    let (near, far) = plans(Upload, stage.lab.far_address(V4));
    let far = far.start(&stage.far());
    let mut throttle = start(&stage, Upload, &["--duration", "2s"], &near.seconds(5.0));
    throttle.wait_enforced();
    throttle.expect_event("released");
    std::thread::sleep(super::SETTLE);
    let bins = far.watch(super::GLANCE);
    rates::assert_fast("after the duration", rates::mean(&bins), super::FULL, &bins);
    assert_eq!(throttle.wait(), 0, "{}", throttle.stderr());
    stage.end();
}

/// Killed with a command: the command goes on unlimited, and the leaf goes when it can.
pub fn killed_with_a_command(backend: &str) {
    let stage = Stage::new(backend);
    let (near, far) = plans(Upload, stage.lab.far_address(V4));
    let far = far.start(&stage.far());
    let mut throttle = start(&stage, Upload, &[], &near.seconds(60.0));
    throttle.wait_enforced();
    far.wait_connected();
    let pid = command_pid(&stage);
    throttle.kill();
    std::thread::sleep(super::SETTLE);
    recovered(&far);
    assert!(is_alive(pid), "the command must survive");
    stage.assert_clean();
    let pid = rustix::process::Pid::from_raw(pid.cast_signed()).expect("a pid");
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).expect("end the command");
    stage.end();
}

fn recovered(far: &Load) {
    let bins = far.watch(super::GLANCE);
    rates::assert_fast("after the kill", rates::mean(&bins), super::FULL, &bins);
}

/// The pid of the load generator that chadthrottle started.
fn command_pid(stage: &Stage) -> u32 {
    let load = crate::process::tool("load");
    let mut found = None;
    eventually(super::SETTLE, || {
        let below = crate::cgroup::below(stage.scratch().path());
        let mut pids = below.iter().flat_map(|path| {
            let text = std::fs::read_to_string(path.join("cgroup.procs")).unwrap_or_default();
            text.lines().filter_map(|line| line.parse::<u32>().ok()).collect::<Vec<_>>()
        });
        found = pids.find(|pid| {
            let run_dir = format!("CHADTHROTTLE_RUN_DIR={}", stage.run_dir().display());
            let environment = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
            std::fs::read_link(format!("/proc/{pid}/exe")).is_ok_and(|exe| exe == load)
                && environment.split(|&byte| byte == 0).any(|word| word == run_dir.as_bytes())
        });
        found.is_some()
    });
    found.expect("the command runs")
}
