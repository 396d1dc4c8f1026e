//! Senders with BBR. It asks for a pace by itself and remembers the bandwidth it saw for ten
//! round trips: a limit must use its pace without keeping it.

use std::time::Duration;

use super::{begun_limited, running};
use crate::{
    lab::Family::V4,
    load::Plan,
    stage::{
        Direction::{self, Download, Upload},
        Stage,
    },
};

/// As of a server on the same continent.
const RTT: Duration = Duration::from_millis(20);

fn has_bbr() -> bool {
    let known = std::fs::read_to_string("/proc/sys/net/ipv4/tcp_available_congestion_control");
    known.is_ok_and(|names| names.split_whitespace().any(|name| name == "bbr"))
}

fn bbr(plan: Plan) -> Plan {
    plan.congestion("bbr")
}

fn new(backend: &str, direction: Direction) {
    if !has_bbr() {
        skip!("this kernel has no BBR");
    }
    let stage = Stage::with_rtt(backend, RTT);
    let (transfer, throttle) = begun_limited(&stage, direction, V4, bbr);
    transfer.assert_limited("BBR");
    throttle.stop();
    transfer.assert_recovers("BBR after release");
    stage.end();
}

fn open(backend: &str, direction: Direction) {
    if !has_bbr() {
        skip!("this kernel has no BBR");
    }
    let stage = Stage::with_rtt(backend, RTT);
    let transfer = running(&stage, direction, V4, bbr);
    let throttle = stage.limit(direction, transfer.near.pid());
    transfer.assert_limited("open BBR connection");
    throttle.stop();
    transfer.assert_recovers("open BBR connection after release");
    stage.end();
}

/// Downloading over a connection made under the limit.
pub fn bbr_download(backend: &str) {
    new(backend, Download);
}

/// The same, uploading.
pub fn bbr_upload(backend: &str) {
    new(backend, Upload);
}

/// Downloading over a connection that was open before.
pub fn open_bbr_download(backend: &str) {
    open(backend, Download);
}

/// The same, uploading.
pub fn open_bbr_upload(backend: &str) {
    open(backend, Upload);
}
