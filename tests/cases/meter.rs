//! The meter of the live view against what really passed.

use std::{fs, path::Path, thread, time::Duration};

use chadthrottle_backends::meter::{Meter, Tally};
use chadthrottle_core::Host;
use chadthrottle_tests::{lab::Family, process::Running, stage::Stage};

/// How far the meter may be from iperf3.
const TOLERANCE: f64 = 0.02;
const PATIENCE: Duration = Duration::from_secs(20);

/// The tally of the client, and the bytes that iperf3 says were received.
fn iperf3(args: &[&str], is_counting: bool) -> (Tally, f64) {
    let stage = Stage::new("ebpf");
    let address = stage.lab.far_address(Family::V4).ip().to_string();
    // What is listed is that of our own namespace.
    let mut meter = Meter::start(&Host::detect().expect("a host"), is_counting);
    assert_eq!(meter.is_counting(), is_counting, "{:?}", meter.refusal());
    meter.sample().expect("a first sample");
    let mut server = Running::start(stage.far().command("iperf3").args(["-s", "-1"]));
    thread::sleep(Duration::from_millis(500));
    let report = stage.directory().join("report.json");
    let mut command = stage.near().command("iperf3");
    command.args(["-J", "-t", "3", "-c", &address, "--logfile"]).arg(&report).args(args);
    let mut client = Running::start(&mut command);
    let mut last = None;
    // Also after its end: what it moved last must not be lost.
    let mut ended = false;
    while !ended {
        thread::sleep(Duration::from_millis(300));
        ended = client.status().is_some();
        let sample = meter.sample().expect("a sample");
        last = sample.processes.get(&client.pid().cast_signed()).cloned().or(last);
    }
    server.wait(PATIENCE);
    let tally = last.expect("the client was seen");
    let received = bytes_received(&report);
    stage.end();
    (tally, received)
}

fn bytes_received(report: &Path) -> f64 {
    let text = fs::read_to_string(report).expect("a report");
    let report: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    let end = &report["end"];
    let sum = if end["sum_received"].is_object() { &end["sum_received"] } else { &end["sum"] };
    sum["bytes"].as_f64().expect("bytes")
}

#[track_caller]
fn assert_agrees(counted: u64, measured: f64) {
    #[allow(clippy::cast_precision_loss, reason = "a few megabytes")]
    let share = counted as f64 / measured;
    println!("counted {counted}, iperf3 {measured}: {share:.4}");
    assert!((share - 1.0).abs() <= TOLERANCE, "{counted} of {measured}: {share:.4}");
}

#[test]
fn tcp_upload() {
    let (tally, measured) = iperf3(&["-b", "20M"], true);
    assert_eq!(tally.name, "iperf3");
    assert_agrees(tally.sent, measured);
}

#[test]
fn tcp_download() {
    let (tally, measured) = iperf3(&["-b", "20M", "-R"], true);
    assert_agrees(tally.received, measured);
}

#[test]
fn udp_upload() {
    let (tally, measured) = iperf3(&["-b", "20M", "-u"], true);
    assert_agrees(tally.sent, measured);
}

#[test]
fn udp_download() {
    let (tally, measured) = iperf3(&["-b", "20M", "-u", "-R"], true);
    assert_agrees(tally.received, measured);
}
