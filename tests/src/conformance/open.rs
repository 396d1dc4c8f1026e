//! A limit that comes later: connections that are already open slow down within a second.

use std::{thread, time::Duration};

use super::{GLANCE, MEASURE, SETTLE, TOLERANCE, running};
use crate::{
    lab::Family::{self, V4, V6},
    load::{Plan, Role},
    rates::{self, TEN_MBIT},
    stage::{
        Direction::{self, Download, Upload},
        Stage,
    },
};

fn open(backend: &str, direction: Direction, family: Family, shape: impl Fn(Plan) -> Plan) {
    let stage = Stage::new(backend);
    let transfer = running(&stage, direction, family, shape);
    let throttle = stage.limit(direction, transfer.near.pid());
    transfer.assert_limited("open connection");
    assert_eq!(transfer.far.connections(), 1, "it is the same connection");
    throttle.stop();
    transfer.assert_recovers("open connection after release");
    stage.end();
}

/// TCP over IPv4, downloading.
pub fn tcp_download(backend: &str) {
    open(backend, Download, V4, |plan| plan);
}

/// TCP over IPv4, uploading.
pub fn tcp_upload(backend: &str) {
    open(backend, Upload, V4, |plan| plan);
}

/// TCP over IPv6, downloading.
pub fn tcp6_download(backend: &str) {
    open(backend, Download, V6, |plan| plan);
}

/// TCP over IPv6, uploading.
pub fn tcp6_upload(backend: &str) {
    open(backend, Upload, V6, |plan| plan);
}

/// UDP, downloading.
pub fn udp_download(backend: &str) {
    open(backend, Download, V4, Plan::udp);
}

/// UDP, uploading.
pub fn udp_upload(backend: &str) {
    open(backend, Upload, V4, Plan::udp);
}

/// 16 connections, downloading. An open socket keeps its window scale: with `tcp_rmem` of 32 MB
/// the unit is 1024 bytes, a window cannot close to less than a segment, and with a share of
/// less than a segment per round trip the backstop polices. That is less exact.
pub fn many_flows_download(backend: &str) {
    const POLICED: f64 = 0.15;
    let stage = Stage::new(backend);
    let transfer = running(&stage, Download, V4, |plan| plan.flows(16));
    let throttle = stage.limit(Download, transfer.near.pid());
    thread::sleep(SETTLE);
    let bins = transfer.near.watch(MEASURE);
    rates::assert_rate("open connections", &bins, TEN_MBIT, POLICED);
    throttle.stop();
    transfer.assert_recovers("open connections after release");
    stage.end();
}

/// 16 connections, uploading.
pub fn many_flows_upload(backend: &str) {
    open(backend, Upload, V4, |plan| plan.flows(16));
}

/// A limit that comes again, once the window has grown to megabytes that its sender takes seconds
/// to use up: when that ends, the limit is held without a stall.
pub fn limited_again(backend: &str) {
    const AHEAD: Duration = Duration::from_secs(2);
    let stage = Stage::with_rtt(backend, Duration::from_millis(20));
    let transfer = running(&stage, Download, V4, |plan| plan);
    let throttle = stage.limit(Download, transfer.near.pid());
    transfer.assert_limited("limited");
    throttle.stop();
    thread::sleep(AHEAD);
    let throttle = stage.limit(Download, transfer.near.pid());
    thread::sleep(SETTLE);
    let bins = transfer.near.watch(MEASURE);
    rates::assert_rate("limited again", &bins, TEN_MBIT, TOLERANCE);
    let slowest = bins.chunks(5).map(rates::mean).fold(f64::INFINITY, f64::min);
    assert!(slowest > 0.4 * TEN_MBIT, "a stall\n{}", rates::show(&bins));
    throttle.stop();
    stage.end();
}

/// A connection that another process opened and handed to the limited one (`SCM_RIGHTS`).
pub fn passed_to_the_target(backend: &str) {
    let stage = Stage::new(backend);
    let hand = stage.directory().join("hand");
    let address = stage.lab.far_address(V4);
    let _far = Plan::accept(address, Role::Send).rate(super::OFFERED).start(&stage.far());
    let target = Plan::take(&hand, Role::Recv).start(&stage.near());
    let throttle = stage.limit(Download, target.pid());
    let giver = Plan::connect(address, Role::Recv).give(&hand).start(&stage.near());
    giver.wait_given();
    target.wait_connected();
    // The rescan comes once a second; then the connection has its second to come down.
    thread::sleep(GLANCE + SETTLE);
    let bins = target.watch(MEASURE);
    rates::assert_rate("passed connection", &bins, TEN_MBIT, TOLERANCE);
    throttle.stop();
    stage.end();
}
