//! Real programs: curl and iperf3.

use std::{
    net::SocketAddr,
    process::Stdio,
    time::{Duration, Instant},
};

use serde_json::Value;

use super::{OFFERED, SETTLE, TOLERANCE};
use crate::{
    lab::Family::V4,
    load::{Load, Plan},
    process::{Running, code},
    rates::{self, TEN_MBIT},
    stage::{
        Direction::{self, Download, Upload},
        Stage,
    },
};

/// A curl that downloads without end into a file, whose growth is its rate.
struct Curl {
    running: Running,
    file: std::path::PathBuf,
    server: Load,
}

impl Curl {
    fn start(stage: &Stage) -> Self {
        let address = stage.lab.far_address(V4);
        let server = Plan::http(address).rate(OFFERED).start(&stage.far());
        let file = stage.directory().join("download");
        let mut command = stage.near().command("curl");
        command.args(["-s", "-N", "-o"]).arg(&file).arg(format!("http://{address}/"));
        let running = Running::start(&mut command);
        server.wait_connected();
        Self { running, file, server }
    }

    /// How the file grows in each 100 ms of so much time.
    fn watch(&self, time: Duration) -> Vec<u64> {
        let size = || std::fs::metadata(&self.file).map_or(0, |meta| meta.len());
        let (start, mut before) = (Instant::now(), size());
        let count = (time.as_millis() / rates::BIN.as_millis()) as u32;
        let bins = (1..=count).map(|number| {
            let due = start + rates::BIN * number;
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
            let grown = size() - before;
            before += grown;
            grown
        });
        bins.collect()
    }

    /// A curl drops to its limit within a second and keeps its connection; `end` lifts it.
    fn case(backend: &str, end: impl Fn(crate::throttle::Throttle)) {
        let stage = Stage::new(backend);
        let curl = Self::start(&stage);
        let bins = curl.watch(SETTLE);
        rates::assert_fast("curl before", rates::mean(&bins), super::FULL, &bins);
        let throttle = stage.limit(Download, curl.running.pid());
        std::thread::sleep(SETTLE);
        let bins = curl.watch(super::MEASURE);
        rates::assert_rate("curl", &bins, TEN_MBIT, TOLERANCE);
        end(throttle);
        std::thread::sleep(SETTLE);
        let bins = curl.watch(SETTLE);
        rates::assert_fast("curl after", rates::mean(&bins), super::FULL, &bins);
        assert_eq!(curl.server.connections(), 1, "curl kept its connection");
        stage.end();
    }
}

/// A curl that is already downloading, released by Ctrl-C.
pub fn curl_while_downloading(backend: &str) {
    Curl::case(backend, crate::throttle::Throttle::stop);
}

/// The same, the limit killed.
pub fn curl_killed_limit(backend: &str) {
    Curl::case(backend, |mut throttle| throttle.kill());
}

/// `chadthrottle run -d 5mbit -u 1mbit -- curl ...` gets 5 Mbit/s, by curl's own account.
pub fn curl_as_a_command(backend: &str) {
    let stage = Stage::new(backend);
    let address = stage.lab.far_address(V4);
    let _server = Plan::http(address).rate(OFFERED).start(&stage.far());
    // 5 s at the limit.
    let url = format!("http://{address}/{}", 5 * 625_000);
    let report = ["curl", "-so", "/dev/null", "-w", "%{time_total}", &url];
    let mut args = vec!["-d", "5mbit", "-u", "1mbit", "--"];
    args.extend(report);
    let mut throttle = stage.start(&args);
    let status = code(throttle.running().wait(Duration::from_secs(15)));
    assert_eq!(status, 0, "{}", throttle.stderr());
    let seconds: f64 = throttle.running().stdout()[0].parse().expect("seconds");
    let rate = 5.0 * 625_000.0 / seconds;
    rates::assert_close("curl's mean rate", rate, 625_000.0, TOLERANCE);
    stage.end();
}

fn iperf3(backend: &str, direction: Direction) {
    if std::process::Command::new("iperf3").arg("-v").stdout(Stdio::null()).status().is_err() {
        skip!("iperf3 is not installed");
    }
    let stage = Stage::new(backend);
    let address: SocketAddr = stage.lab.far_address(V4);
    let (ip, port) = (address.ip().to_string(), address.port().to_string());
    let mut server = stage.far().command("iperf3");
    server.args(["-s", "-1", "-B", &ip, "-p", &port, "--forceflush"]);
    let server = Running::start(&mut server);
    server.expect("listening iperf3", Duration::from_secs(5), |line| {
        line.contains("listening").then_some(())
    });
    let mut args = vec![direction.flag(), "10mbit", "--", "iperf3", "-J", "-t7", "-O1", "-P4"];
    args.extend(["-C", "cubic", "-c", &ip, "-p", &port]);
    if direction == Download {
        args.push("-R");
    }
    let mut throttle = stage.start(&args);
    let status = code(throttle.running().wait(Duration::from_secs(20)));
    assert_eq!(status, 0, "{}", throttle.stderr());
    let text = throttle.running().stdout().join("\n");
    let report: Value = serde_json::from_str(&text).expect("iperf3's report");
    let bits = &report["end"]["sum_received"]["bits_per_second"];
    let rate = bits.as_f64().unwrap_or_else(|| panic!("no rate in {report:#}")) / 8.0;
    rates::assert_close("iperf3", rate, TEN_MBIT, TOLERANCE);
    stage.end();
}

/// iperf3 with four streams, sending.
pub fn iperf3_upload(backend: &str) {
    iperf3(backend, Upload);
}

/// iperf3 with four streams, receiving.
pub fn iperf3_download(backend: &str) {
    iperf3(backend, Download);
}
