//! Servers: connections that a limited process accepts, and MPTCP.

use super::{MEASURE, OFFERED, SETTLE, TOLERANCE, Transfer, begun_limited, roles};
use crate::{
    lab::Family::V4,
    load::Plan,
    rates::{self, TEN_MBIT},
    stage::{
        Direction::{self, Download, Upload},
        Stage,
    },
};

/// The listener is older than the limit, the connection younger.
fn old_listener(backend: &str, direction: Direction, shape: impl Fn(Plan) -> Plan) {
    let stage = Stage::new(backend);
    let (near, far) = roles(direction);
    let address = stage.lab.near_address(V4);
    let near = shape(Plan::accept(address, near)).rate(OFFERED).start(&stage.near());
    let throttle = stage.limit(direction, near.pid());
    let far = shape(Plan::connect(address, far)).rate(OFFERED).start(&stage.far());
    let transfer = Transfer { near, far, direction };
    transfer.receiver().wait_connected();
    transfer.assert_limited("accepted connection");
    throttle.stop();
    transfer.assert_recovers("accepted connection after release");
    stage.end();
}

/// A server that receives.
pub fn old_listener_download(backend: &str) {
    old_listener(backend, Download, |plan| plan);
}

/// A server that sends.
pub fn old_listener_upload(backend: &str) {
    old_listener(backend, Upload, |plan| plan);
}

/// Two processes accept from one listener, one of them is limited: the other is not.
fn shared_listener(backend: &str, direction: Direction) {
    let stage = Stage::new(backend);
    let (near, far) = roles(direction);
    let address = stage.lab.near_address(V4);
    let near = Plan::share(address, near).rate(OFFERED).start(&stage.near());
    let workers = near.workers();
    let throttle = stage.limit(direction, workers[0]);
    let far = Plan::connect(address, far).flows(2).rate(2.0 * OFFERED).start(&stage.far());
    far.wait_connected();
    // The rescan finds the accepted connection within a second.
    std::thread::sleep(2 * SETTLE);
    let limited = near.watch_worker(workers[0], MEASURE);
    let free = near.watch_worker(workers[1], SETTLE);
    rates::assert_rate("limited", &limited, TEN_MBIT, TOLERANCE);
    rates::assert_fast("not meant", rates::mean(&free), super::FULL, &free);
    throttle.stop();
    stage.end();
}

/// Servers that receive.
pub fn shared_listener_download(backend: &str) {
    shared_listener(backend, Download);
}

/// Servers that send.
pub fn shared_listener_upload(backend: &str) {
    shared_listener(backend, Upload);
}

/// Whether this kernel lets us open MPTCP sockets.
fn has_mptcp() -> bool {
    std::fs::read_to_string("/proc/sys/net/mptcp/enabled").is_ok_and(|text| text.trim() == "1")
}

fn mptcp_client(backend: &str, direction: Direction) {
    let stage = Stage::new(backend);
    let (transfer, throttle) = begun_limited(&stage, direction, V4, Plan::mptcp);
    // A new subflow is slow for its first second: seen at .35 to .40 of the rate.
    std::thread::sleep(super::SETTLE);
    transfer.assert_limited("MPTCP connection");
    throttle.stop();
    transfer.assert_recovers("MPTCP connection after release");
    stage.end();
}

/// A client that opens MPTCP, as Go programs do.
pub fn mptcp_client_download(backend: &str) {
    if !has_mptcp() {
        skip!("this kernel has no MPTCP");
    }
    mptcp_client(backend, Download);
}

/// The same, uploading.
pub fn mptcp_client_upload(backend: &str) {
    if !has_mptcp() {
        skip!("this kernel has no MPTCP");
    }
    mptcp_client(backend, Upload);
}

/// A server that listens with MPTCP, as Go programs do by default.
pub fn mptcp_listener_download(backend: &str) {
    if !has_mptcp() {
        skip!("this kernel has no MPTCP");
    }
    old_listener(backend, Download, Plan::mptcp);
}

/// The same, uploading.
pub fn mptcp_listener_upload(backend: &str) {
    if !has_mptcp() {
        skip!("this kernel has no MPTCP");
    }
    old_listener(backend, Upload, Plan::mptcp);
}
