//! A limit that was there first: the rate of connections made under it.

use std::time::Duration;

use super::{MEASURE, SETTLE, TOLERANCE, begun_limited, plans};
use crate::{
    lab::Family::{self, V4, V6},
    load::Plan,
    rates::{self, TEN_MBIT},
    stage::{
        Direction::{self, Download, Upload},
        Stage,
    },
};

fn steady(stage: Stage, direction: Direction, family: Family, shape: impl Fn(Plan) -> Plan) {
    let (transfer, throttle) = begun_limited(&stage, direction, family, shape);
    transfer.assert_limited("steady rate");
    throttle.stop();
    stage.end();
}

/// TCP over IPv4, downloading.
pub fn tcp_download(backend: &str) {
    steady(Stage::new(backend), Download, V4, |plan| plan);
}

/// TCP over IPv4, uploading.
pub fn tcp_upload(backend: &str) {
    steady(Stage::new(backend), Upload, V4, |plan| plan);
}

/// TCP over IPv6, downloading.
pub fn tcp6_download(backend: &str) {
    steady(Stage::new(backend), Download, V6, |plan| plan);
}

/// TCP over IPv6, uploading.
pub fn tcp6_upload(backend: &str) {
    steady(Stage::new(backend), Upload, V6, |plan| plan);
}

/// UDP over IPv4, downloading: the receiver's rate.
pub fn udp_download(backend: &str) {
    steady(Stage::new(backend), Download, V4, Plan::udp);
}

/// UDP over IPv4, uploading.
pub fn udp_upload(backend: &str) {
    udp_upload_over(backend, V4);
}

/// UDP over IPv6, downloading: the receiver's rate.
pub fn udp6_download(backend: &str) {
    steady(Stage::new(backend), Download, V6, Plan::udp);
}

/// UDP over IPv6, uploading.
pub fn udp6_upload(backend: &str) {
    udp_upload_over(backend, V6);
}

/// The sender must not learn of it: an EPERM ends many programs.
fn udp_upload_over(backend: &str, family: Family) {
    let stage = Stage::new(backend);
    let (transfer, throttle) = begun_limited(&stage, Upload, family, Plan::udp);
    transfer.assert_limited("steady rate");
    throttle.stop();
    let totals = transfer.near.finish(MEASURE);
    assert_eq!(totals.refused, 0, "sends that were refused with EPERM");
    stage.end();
}

/// An RTT of 20 ms, as of a server on the same continent.
pub fn with_rtt_download(backend: &str) {
    let stage = Stage::with_rtt(backend, Duration::from_millis(20));
    steady(stage, Download, V4, |plan| plan);
}

/// The same, uploading.
pub fn with_rtt_upload(backend: &str) {
    let stage = Stage::with_rtt(backend, Duration::from_millis(20));
    steady(stage, Upload, V4, |plan| plan);
}

/// 16 connections share one limit.
pub fn many_flows_download(backend: &str) {
    steady(Stage::new(backend), Download, V4, |plan| plan.flows(16));
}

/// The same, uploading.
pub fn many_flows_upload(backend: &str) {
    steady(Stage::new(backend), Upload, V4, |plan| plan.flows(16));
}

/// One process down- and uploads through one run with two different limits.
pub fn both_directions_at_once(backend: &str) {
    let stage = Stage::new(backend);
    let start = |direction| {
        let (near, far) = plans(direction, stage.lab.far_address(V4));
        let far = far.start(&stage.far());
        let near = near.wait().start(&stage.near());
        near.wait_ready();
        (near, far)
    };
    let ((mut down, sender), (mut up, receiver)) = (start(Download), start(Upload));
    let (first, second) = (down.pid().to_string(), up.pid().to_string());
    let both = ["-d", "10mbit", "-u", "5mbit", "--pid", &first, "--pid", &second];
    let throttle = stage.run(&both);
    down.go();
    up.go();
    receiver.wait_connected();
    sender.wait_connected();
    std::thread::sleep(SETTLE);
    let before = receiver.bins().len();
    let download = down.watch(MEASURE);
    let upload = receiver.bins().split_off(before);
    rates::assert_rate("download", &download, TEN_MBIT, TOLERANCE);
    rates::assert_rate("upload", &upload, TEN_MBIT / 2.0, TOLERANCE);
    throttle.stop();
    stage.end();
}
