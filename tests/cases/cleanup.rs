//! SIGKILL at any moment: the guardian, or `clean`, puts everything back.

use std::{
    os::unix::process::CommandExt,
    thread,
    time::{Duration, Instant},
};

use chadthrottle_tests::{
    lab::Family::V4,
    load::{Load, Plan, Role},
    process::{self, Running},
    rates,
    stage::Stage,
    throttle::processes_of,
};
use rustix::process::{Pid, Signal, kill_process, kill_process_group};

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

fn killed_at_any_moment(backend: &str) {
    let stage = Stage::new(backend);
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

fn killed_at_any_moment_with_its_guardian(backend: &str) {
    let stage = Stage::new(backend);
    let (near, far) = upload(&stage);
    let pid = near.pid().to_string();
    for moment in MOMENTS_MS {
        let mut throttle = stage.start(&["-u", "10mbit", "-d", "10mbit", "--pid", &pid]);
        thread::sleep(Duration::from_millis(moment));
        kill_all(&stage);
        // It may not have been chadthrottle yet, but a wrapper on the way to it.
        throttle.kill();
        kill_all(&stage);
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

fn guardian_killed_alone(backend: &str) {
    let stage = Stage::new(backend);
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

fn signals_in_a_row(backend: &str) {
    let stage = Stage::new(backend);
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

/// The whole process group is killed, as when a session is torn down: the guardian is not in it.
fn process_group_killed(backend: &str) {
    let stage = Stage::new(backend);
    let (near, far) = upload(&stage);
    let mut command = stage.command(&["run", "-u", "10mbit", "--pid", &near.pid().to_string()]);
    let mut run = Running::start(command.process_group(0));
    let guarded = || processes_of(&stage.run_dir()).len() == 2;
    assert!(process::eventually(Duration::from_secs(2), guarded), "{}", run.stderr());
    thread::sleep(Duration::from_secs(1));
    let group = Pid::from_raw(run.pid().cast_signed()).expect("a pid");
    kill_process_group(group, Signal::KILL).expect("kill the group");
    run.wait(Duration::from_secs(2));
    assert_free(&far, 1000);
    stage.end();
}

/// Somebody moves the process on while it is limited, or it ends: nothing is left all the same.
fn moved_or_gone_meanwhile(backend: &str) {
    let stage = Stage::new(backend);
    let elsewhere = stage.scratch().child("elsewhere");
    let (near, far) = upload(&stage);
    let pid = near.pid().to_string();
    for end in [Signal::INT, Signal::KILL] {
        let mut throttle = stage.run(&["-u", "10mbit", "--pid", &pid]);
        elsewhere.add(near.pid());
        // It is limited where it is now, within a second.
        thread::sleep(Duration::from_secs(2));
        let bins = far.watch(Duration::from_secs(2));
        rates::assert_rate("moved by somebody else", &bins, rates::TEN_MBIT, 0.1);
        throttle.signal(end);
        throttle.wait();
        assert_free(&far, 0);
        stage.assert_clean();
        assert_eq!(elsewhere.processes(), [near.pid().cast_signed()]);
    }
    // The process ends in its leaf, and the run is killed at once.
    let mut throttle = stage.run(&["-u", "10mbit", "--pid", &pid]);
    drop(near);
    throttle.kill();
    stage.assert_clean();
    stage.end();
}

/// Makes a `#[test]` of each, for one backend.
macro_rules! on {
    ($backend:ident: $($case:ident),+) => {
        mod $backend {
            $(#[test]
            fn $case() {
                super::$case(stringify!($backend));
            })+
        }
    };
}

on!(ebpf: killed_at_any_moment, killed_at_any_moment_with_its_guardian, guardian_killed_alone,
    signals_in_a_row, process_group_killed);
on!(nft: killed_at_any_moment, killed_at_any_moment_with_its_guardian, guardian_killed_alone,
    signals_in_a_row, process_group_killed, moved_or_gone_meanwhile);
