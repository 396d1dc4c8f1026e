//! A real QUIC client. The limit knows UDP only: it drops what is too much, and QUIC slows down
//! at each loss, so that only the receiver's rate can be promised.

use std::time::Duration;

use super::{GLANCE, MEASURE, SETTLE, Transfer, begun_limited, running};
use crate::{
    lab::Family::V4,
    load::Plan,
    rates::{self, TEN_MBIT},
    stage::{
        Direction::{self, Download, Upload},
        Stage,
    },
};

/// What is limited are the bytes of datagrams. Of 1452 QUIC keeps about 33 for itself (RFC 9000,
/// 17.3 and 19.8; RFC 9001, 5.3), so the application gets .977 of the rate, run after run.
const TOLERANCE: f64 = 0.05;

fn assert_limited(transfer: &Transfer, what: &str) {
    std::thread::sleep(SETTLE);
    let bins = transfer.receiver().watch(MEASURE);
    rates::assert_rate(what, &bins, TEN_MBIT, TOLERANCE);
}

fn new(backend: &str, direction: Direction) {
    let stage = Stage::new(backend);
    let (transfer, throttle) = begun_limited(&stage, direction, V4, Plan::quic);
    assert_limited(&transfer, "new QUIC connection");
    throttle.stop();
    transfer.assert_recovers("QUIC connection after release");
    stage.end();
}

/// As of a server on the same continent. Released, it has to win its rate back by itself (CUBIC
/// in the library, about 30 Mbit/s after a second): more than the limit is what counts.
fn with_rtt(backend: &str, direction: Direction) {
    let stage = Stage::with_rtt(backend, Duration::from_millis(20));
    let (transfer, throttle) = begun_limited(&stage, direction, V4, Plan::quic);
    assert_limited(&transfer, "QUIC connection with an RTT");
    throttle.stop();
    std::thread::sleep(SETTLE);
    let bins = transfer.receiver().watch(GLANCE);
    rates::assert_fast("after release", rates::mean(&bins), 1.5 * TEN_MBIT, &bins);
    stage.end();
}

fn open(backend: &str, direction: Direction) {
    let stage = Stage::new(backend);
    let transfer = running(&stage, direction, V4, Plan::quic);
    let throttle = stage.limit(direction, transfer.near.pid());
    assert_limited(&transfer, "open QUIC connection");
    throttle.stop();
    transfer.assert_recovers("QUIC connection after release");
    stage.end();
}

/// Downloading over a connection made under the limit.
pub fn new_download(backend: &str) {
    new(backend, Download);
}

/// The same, uploading.
pub fn new_upload(backend: &str) {
    new(backend, Upload);
}

/// Downloading over a connection that was open before.
pub fn open_download(backend: &str) {
    open(backend, Download);
}

/// The same, uploading.
pub fn open_upload(backend: &str) {
    open(backend, Upload);
}

/// Downloading with an RTT of 20 ms.
pub fn with_rtt_download(backend: &str) {
    with_rtt(backend, Download);
}

/// The same, uploading.
pub fn with_rtt_upload(backend: &str) {
    with_rtt(backend, Upload);
}
