//! The end of a limit, wanted or not: full speed within a second on the same connection.

use rustix::process::Signal;

use super::running;
use crate::{
    lab::Family::V4,
    process::{code, eventually},
    stage::{
        Direction::{self, Download, Upload},
        Stage,
    },
};

fn signalled(backend: &str, direction: Direction, signal: Signal) {
    let stage = Stage::new(backend);
    let transfer = running(&stage, direction, V4, |plan| plan);
    let mut throttle = stage.limit(direction, transfer.near.pid());
    transfer.assert_limited("before the signal");
    throttle.signal(signal);
    transfer.assert_recovers("after the signal");
    assert_eq!(throttle.wait(), 0, "{}", throttle.stderr());
    throttle.expect_event("released");
    stage.end();
}

/// Ctrl-C, downloading.
pub fn ctrl_c_download(backend: &str) {
    signalled(backend, Download, Signal::INT);
}

/// Ctrl-C, uploading.
pub fn ctrl_c_upload(backend: &str) {
    signalled(backend, Upload, Signal::INT);
}

/// SIGTERM, as service managers send it.
pub fn sigterm(backend: &str) {
    signalled(backend, Upload, Signal::TERM);
}

fn killed(backend: &str, direction: Direction) {
    let stage = Stage::new(backend);
    let transfer = running(&stage, direction, V4, |plan| plan);
    let mut throttle = stage.limit(direction, transfer.near.pid());
    transfer.assert_limited("before the kill");
    throttle.kill();
    transfer.assert_recovers("after the kill");
    stage.end();
}

/// kill -9, downloading.
pub fn kill_download(backend: &str) {
    killed(backend, Download);
}

/// kill -9, uploading.
pub fn kill_upload(backend: &str) {
    killed(backend, Upload);
}

/// Guardian and run are both killed: `clean` puts everything back.
pub fn kill_with_guardian_then_clean(backend: &str) {
    let stage = Stage::new(backend);
    let transfer = running(&stage, Upload, V4, |plan| plan);
    let mut throttle = stage.limit(Upload, transfer.near.pid());
    transfer.assert_limited("before the kill");
    throttle.kill_with_guardian();
    let dry = stage.output(&["clean", "--dry-run"]);
    assert!(dry.status.success(), "{}", String::from_utf8_lossy(&dry.stderr));
    let journals = crate::leftovers::run_files(&stage.run_dir());
    assert!(!journals.is_empty(), "--dry-run must change nothing");
    let clean = stage.output(&["clean"]);
    assert_eq!(code(clean.status), 0, "{}", String::from_utf8_lossy(&clean.stderr));
    transfer.assert_recovers("after clean");
    stage.end();
}

/// Guardian and run are both killed: the next start puts everything back too.
pub fn next_start_cleans(backend: &str) {
    let stage = Stage::new(backend);
    let transfer = running(&stage, Upload, V4, |plan| plan);
    let other = running(&stage, Upload, V4, |plan| plan);
    let mut throttle = stage.limit(Upload, transfer.near.pid());
    transfer.assert_limited("before the kill");
    throttle.kill_with_guardian();
    let next = stage.limit(Upload, other.near.pid());
    transfer.assert_recovers("after the next start");
    next.stop();
    stage.end();
}

/// `--duration` ends the run with status 0.
pub fn duration(backend: &str) {
    let stage = Stage::new(backend);
    let transfer = running(&stage, Download, V4, |plan| plan);
    let pid = transfer.near.pid().to_string();
    let mut throttle = stage.run(&["-d", "10mbit", "--pid", &pid, "--duration", "3s"]);
    let start = std::time::Instant::now();
    assert!(eventually(super::MEASURE, || throttle.running().status().is_some()));
    let took = start.elapsed().as_secs_f64();
    assert!((2.5..4.0).contains(&took), "3 s took {took}");
    assert_eq!(throttle.wait(), 0, "{}", throttle.stderr());
    transfer.assert_recovers("after the duration");
    stage.end();
}
