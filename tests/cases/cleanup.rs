//! SIGKILL at any moment: the guardian, or `clean`, puts everything back.

use std::{
    thread,
    time::{Duration, Instant},
};

use chadthrottle_tests::{
    lab::Family::V4,
    load::{Load, Plan, Role},
    process::{self, Place},
    rates,
    stage::Stage,
    throttle::processes_of,
};
use rustix::process::{Pid, Signal, kill_process};

/// Moments after the start: within the probe, the attachments, the enforced limit.
const MOMENTS_MS: [u64; 12] = [0, 2, 4, 8, 12, 18, 25, 35, 50, 75, 120, 250];

/// A transfer whose near end sends at full speed.
fn upload(stage: &Stage) -> (Load, Load) {
    let address = stage.lab.far_address(V4);
    let far = Plan::accept(address, Role::Recv).start(&stage.far());
    let near = Plan::connect(address, Role::Send).rate(100.0).start(&stage.near());
    far.wait_connected();
    (near, far)
}

/// Asserts full speed within a second.
fn assert_free(far: &Load, moment: u64) {
    thread::sleep(Duration::from_secs(1));
    let bins = far.watch(Duration::from_millis(600));
    let what = format!("killed after {moment} ms");
    rates::assert_fast(&what, rates::mean(&bins), 6e6, &bins);
}

#[test]
fn killed_at_any_moment() {
    let stage = Stage::new("ebpf");
    let (near, far) = upload(&stage);
    let pid = near.pid().to_string();
    for moment in MOMENTS_MS {
        let mut throttle = stage.start(&["-u", "10mbit", "-d", "10mbit", "--pid", &pid]);
        thread::sleep(Duration::from_millis(moment));
        throttle.kill();
        assert_free(&far, moment);
        stage.assert_clean();
    }
    stage.end();
}

#[test]
fn killed_at_any_moment_with_its_guardian() {
    let stage = Stage::new("ebpf");
    let (near, far) = upload(&stage);
    let pid = near.pid().to_string();
    for moment in MOMENTS_MS {
        let mut throttle = stage.start(&["-u", "10mbit", "-d", "10mbit", "--pid", &pid]);
        thread::sleep(Duration::from_millis(moment));
        kill_all(&stage);
        throttle.wait();
        let clean = stage.output(&["clean"]);
        assert!(clean.status.success(), "{}", String::from_utf8_lossy(&clean.stderr));
        assert_free(&far, moment);
        stage.assert_clean();
    }
    stage.end();
}

/// Kills all processes of chadthrottle on this stage, until there are none.
fn kill_all(stage: &Stage) {
    let none = process::eventually(Duration::from_secs(2), || {
        let pids = processes_of(&stage.run_dir());
        for &pid in &pids {
            let pid = Pid::from_raw(pid.cast_signed()).expect("a pid");
            // It may just have ended by itself.
            kill_process(pid, Signal::KILL).ok();
        }
        pids.is_empty()
    });
    assert!(none, "chadthrottle cannot be killed");
}

#[test]
fn guardian_killed_alone() {
    let stage = Stage::new("ebpf");
    let (near, far) = upload(&stage);
    let pid = near.pid().to_string();
    let mut throttle = stage.run(&["-u", "10mbit", "--pid", &pid]);
    let guardian = throttle.guardian();
    let guardian = Pid::from_raw(guardian.cast_signed()).expect("a pid");
    kill_process(guardian, Signal::KILL).expect("kill the guardian");
    // Whether the run goes on or ends: it says so, and what it did is taken back.
    thread::sleep(Duration::from_secs(1));
    if throttle.running().status().is_none() {
        throttle.signal(Signal::INT);
    }
    throttle.wait();
    assert_free(&far, 1000);
    stage.assert_clean();
    stage.end();
}

#[test]
fn signals_in_a_row() {
    let stage = Stage::new("ebpf");
    let (near, far) = upload(&stage);
    let pid = near.pid().to_string();
    for signals in
        [[Signal::INT, Signal::INT], [Signal::TERM, Signal::INT], [Signal::HUP, Signal::TERM]]
    {
        let mut throttle = stage.run(&["-u", "10mbit", "--pid", &pid]);
        for signal in signals {
            throttle.signal(signal);
        }
        let start = Instant::now();
        throttle.wait();
        assert!(start.elapsed() < Duration::from_secs(2), "took {:?}", start.elapsed());
        assert_free(&far, 0);
        stage.assert_clean();
    }
    stage.end();
}

/// The terminal goes away with the whole process group, as an SSH session that breaks.
#[test]
fn process_group_killed() {
    let stage = Stage::new("ebpf");
    let (near, far) = upload(&stage);
    let run_dir = format!("CHADTHROTTLE_RUN_DIR={}", stage.run_dir().display());
    let binary = chadthrottle_tests::throttle::binary();
    let script = format!(
        "setsid --wait env {run_dir} {} run -u 10mbit --pid {} & sleep 1; kill -9 -- -$(cat)",
        binary.display(),
        near.pid()
    );
    // The group's leader is the one that setsid became; its pid comes by stdin.
    let mut shell =
        process::Running::start(Place::default().command("sh").args(["-c", &script]));
    let leader = || processes_of(&stage.run_dir()).first().copied();
    assert!(process::eventually(Duration::from_secs(2), || leader().is_some()));
    let leader = leader().expect("a run");
    let group = process::sh(&format!("ps -o pgid= -p {leader}"));
    shell.tell(group.trim());
    shell.close_stdin();
    shell.wait(Duration::from_secs(5));
    assert_free(&far, 1000);
    stage.end();
}
