//! Who shares a limit and who must not notice it.

use super::{MEASURE, SETTLE, TOLERANCE, running};
use crate::{
    lab::Family::V4,
    rates::{self, TEN_MBIT},
    stage::{
        Direction::{Download, Upload},
        Stage,
    },
};

/// Two instances, two targets in one cgroup, two limits: each gets its own.
pub fn two_limits_side_by_side(backend: &str) {
    let stage = Stage::new(backend);
    let ten = running(&stage, Download, V4, |plan| plan);
    let twenty = running(&stage, Download, V4, |plan| plan);
    let first = stage.limit(Download, ten.near.pid());
    let second = stage.run(&["-d", "20mbit", "--pid", &twenty.near.pid().to_string()]);
    std::thread::sleep(SETTLE);
    let before = twenty.near.bins().len();
    let tens = ten.near.watch(MEASURE);
    let twenties = twenty.near.bins().split_off(before);
    rates::assert_rate("first", &tens, TEN_MBIT, TOLERANCE);
    rates::assert_rate("second", &twenties, 2.0 * TEN_MBIT, TOLERANCE);
    // The end of one must not touch the other.
    first.stop();
    ten.assert_recovers("first after release");
    let twenties = twenty.near.watch(MEASURE);
    rates::assert_rate("second alone", &twenties, 2.0 * TEN_MBIT, TOLERANCE);
    second.stop();
    stage.end();
}

/// Another process in the target's own cgroup runs at full speed, in both directions.
pub fn neighbour_in_the_same_cgroup(backend: &str) {
    let stage = Stage::new(backend);
    let target = running(&stage, Download, V4, |plan| plan);
    let down = running(&stage, Download, V4, |plan| plan);
    let up = running(&stage, Upload, V4, |plan| plan);
    let pid = target.near.pid().to_string();
    let throttle = stage.run(&["-d", "10mbit", "-u", "10mbit", "--pid", &pid]);
    target.assert_limited("target");
    down.assert_fast("neighbour's download");
    up.assert_fast("neighbour's upload");
    throttle.stop();
    stage.end();
}

/// Two processes named in one run get the limit together, not each.
pub fn targets_of_one_run_share_its_limit(backend: &str) {
    let stage = Stage::new(backend);
    let one = running(&stage, Upload, V4, |plan| plan);
    let two = running(&stage, Upload, V4, |plan| plan);
    let (first, second) = (one.near.pid().to_string(), two.near.pid().to_string());
    let throttle = stage.run(&["-u", "10mbit", "--pid", &first, "--pid", &second]);
    std::thread::sleep(SETTLE);
    let before = two.far.bins().len();
    let mut bins = one.far.watch(MEASURE);
    for (sum, bin) in bins.iter_mut().zip(two.far.bins().split_off(before)) {
        *sum += bin;
    }
    rates::assert_rate("both together", &bins, TEN_MBIT, TOLERANCE);
    throttle.stop();
    stage.end();
}

/// A target that another instance limits is refused; the refusal names the other's pid.
pub fn second_instance_is_refused(backend: &str) {
    let stage = Stage::new(backend);
    let transfer = running(&stage, Download, V4, |plan| plan);
    let first = stage.limit(Download, transfer.near.pid());
    let pid = transfer.near.pid().to_string();
    let apps = stage.apps.path().to_str().expect("a plain path");
    // The same process, and a cgroup that holds it: neither is free.
    for target in [["--pid", &pid], ["--cgroup", apps]] {
        let mut second = stage.start(&["-d", "20mbit", target[0], target[1]]);
        assert_eq!(second.wait(), 1, "{target:?}: {}", second.stderr());
        let holder = first.pid().to_string();
        assert!(
            second.stderr().contains(&holder),
            "does not name {holder}: {}",
            second.stderr()
        );
    }
    transfer.assert_limited("first limit, undisturbed");
    first.stop();
    stage.end();
}
