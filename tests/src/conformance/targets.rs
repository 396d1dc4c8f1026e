//! Targets that end.

use super::running;
use crate::{
    lab::Family::V4,
    rates,
    stage::{
        Direction::{Download, Upload},
        Stage,
    },
};

/// The last target ends: so does the run, with status 0.
pub fn process_exit_ends_the_run(backend: &str) {
    let stage = Stage::new(backend);
    let transfer = running(&stage, Download, V4, |plan| plan);
    let mut throttle = stage.limit(Download, transfer.near.pid());
    drop(transfer);
    assert_eq!(throttle.wait(), 0, "{}", throttle.stderr());
    throttle.expect_event("released");
    stage.end();
}

/// One of two targets ends: the other stays limited. What the one that ended left unused, up to
/// half a second of the rate, is first made up for at no more than 110 %.
pub fn one_of_two_targets_ends(backend: &str) {
    const MAKES_UP: f64 = 0.12;
    let stage = Stage::new(backend);
    let stays = running(&stage, Upload, V4, |plan| plan);
    let ends = running(&stage, Upload, V4, |plan| plan);
    let (first, second) = (stays.near.pid().to_string(), ends.near.pid().to_string());
    let throttle = stage.run(&["-u", "10mbit", "--pid", &first, "--pid", &second]);
    drop(ends);
    std::thread::sleep(super::SETTLE);
    let bins = stays.far.watch(super::MEASURE);
    rates::assert_rate("the one that stays", &bins, rates::TEN_MBIT, MAKES_UP);
    stays.assert_limited("the one that stays, later");
    throttle.stop();
    stage.end();
}

/// A target limited, released and limited again, on the same connection.
pub fn reused_run(backend: &str) {
    let stage = Stage::new(backend);
    let transfer = running(&stage, Upload, V4, |plan| plan);
    for _ in 0..2 {
        let throttle = stage.limit(Upload, transfer.near.pid());
        transfer.assert_limited("limited");
        throttle.stop();
        transfer.assert_recovers("released");
    }
    stage.end();
}
