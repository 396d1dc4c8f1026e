//! The end of a limit, wanted or not: full speed within a second on the same connection.

use std::{thread, time::Duration};

use rustix::process::Signal;

use super::{GLANCE, SETTLE, TOLERANCE, roles, running};
use crate::{
    lab::{Family::V4, Namespace},
    load::Plan,
    process::{code, eventually},
    rates,
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

/// As fast as it goes over a path of 20 ms, limited for 4 s and released: no packet that the
/// sender was allowed to send is lost, so it keeps its congestion window and has at least
/// four fifths of the speed of before within a second.
///
/// A backend that queues between the ends (tc) tells them by loss only: they give their windows up
/// and have to win the rate back by themselves, as QUIC does.
fn at_full_speed(backend: &str, direction: Direction, congestion: &str) {
    let stage = Stage::with_rtt(backend, Duration::from_millis(20));
    let address = stage.lab.far_address(V4);
    let (near, far) = roles(direction);
    let far = Plan::accept(address, far).congestion(congestion).start(&stage.far());
    let near = Plan::connect(address, near).congestion(congestion).start(&stage.near());
    let receiver = if direction == Download { &near } else { &far };
    receiver.wait_connected();
    thread::sleep(2 * SETTLE);
    // The path itself stalls at times, when the machine is busy: peaks are compared.
    let before = peak(&receiver.watch(GLANCE));
    let sent_again = retransmitted(&stage);
    let tells_by_loss = backend == "tc";
    let throttle = stage.limit(direction, near.pid());
    // What came before the limit and stands behind a loss counts when that is mended.
    thread::sleep(if tells_by_loss { 4 * SETTLE } else { SETTLE });
    let limited = receiver.watch(3 * SETTLE);
    rates::assert_rate("limited", &limited, rates::TEN_MBIT, TOLERANCE);
    let sent_again = retransmitted(&stage) - sent_again;
    let floor = if tells_by_loss { 2.0 * rates::TEN_MBIT } else { before * 0.8 };
    assert!(tells_by_loss || sent_again < 20, "{sent_again} segments sent again");
    throttle.stop();
    let bins = receiver.watch(GLANCE);
    rates::assert_fast("after the release", peak(&bins), floor, &bins);
    stage.end();
}

/// The rate of the best 200 ms, bytes per second.
fn peak(bins: &[u64]) -> f64 {
    bins.windows(2).map(rates::mean).fold(0.0, f64::max)
}

/// Segments that were sent again so far, at both ends.
fn retransmitted(stage: &Stage) -> u64 {
    let of = |lab: &Namespace| -> u64 {
        let snmp = lab.sh("cat /proc/net/snmp");
        let mut tcp = snmp.lines().filter(|line| line.starts_with("Tcp:"));
        let (names, values) = (tcp.next().unwrap_or_default(), tcp.next().unwrap_or_default());
        let column = names.split(' ').position(|name| name == "RetransSegs");
        let value = column.and_then(|column| values.split(' ').nth(column)?.parse().ok());
        value.expect("RetransSegs in /proc/net/snmp")
    };
    of(&stage.lab.near) + of(&stage.lab.far)
}

/// Ctrl-C on a fast download.
pub fn fast_download(backend: &str) {
    at_full_speed(backend, Download, "cubic");
}

/// Ctrl-C on a fast upload.
pub fn fast_upload(backend: &str) {
    at_full_speed(backend, Upload, "cubic");
}

/// Ctrl-C on a fast upload by BBR, which models the path and must forget the limit.
pub fn fast_upload_by_bbr(backend: &str) {
    at_full_speed(backend, Upload, "bbr");
}

/// The application's own pace is in force again, and what was noted of it is forgotten: else the
/// run would end with an error.
pub fn own_pace(backend: &str) {
    const PACE: u64 = 70;
    let stage = Stage::new(backend);
    let transfer = running(&stage, Upload, V4, |plan| plan.pace(PACE));
    let mut throttle = stage.limit(Upload, transfer.near.pid());
    transfer.assert_limited("with a pace of its own");
    throttle.signal(Signal::INT);
    assert_eq!(throttle.wait(), 0, "{}", throttle.stderr());
    transfer.assert_recovers("its own pace");
    let bins = transfer.receiver().watch(2 * GLANCE);
    let mbit = rates::mean(&bins) / 125_000.0;
    assert!(mbit < PACE as f64 * 1.05, "{mbit} Mbit/s of {PACE}: {bins:?}");
    stage.end();
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
