//! Who shares a limit: short beside long, one among idle ones, both directions, TCP and UDP.

use std::{thread, time::Duration};

use super::{at_most, share};
use crate::{
    bench::{cell::median, record::Figure},
    lab::Family::V4,
    load::{Load, Plan, Role},
    rates::{self, PER_SECOND, TEN_MBIT},
    stage::{
        Direction::{self, Download, Upload},
        Stage,
    },
};

/// The size of a short transfer, bytes.
const SHORT: usize = 100_000;
/// How many of them.
const TIMES: usize = 9;
/// How long until a bulk flow is steady.
const SETTLE: Duration = Duration::from_secs(3);

/// The roles of the near and the far end.
fn roles(direction: Direction) -> (Role, Role) {
    match direction {
        Download => (Role::Recv, Role::Send),
        Upload => (Role::Send, Role::Recv),
    }
}

fn name(direction: Direction) -> String {
    format!("{direction:?}").to_lowercase()
}

/// `plan` on both ends, begun under a limit on the cgroup that the near end lives in.
fn transfer(stage: &Stage, direction: Direction, shape: impl Fn(Plan) -> Plan) -> [Load; 2] {
    let (near, far) = roles(direction);
    let address = stage.lab.far_address(V4);
    let far = shape(Plan::accept(address, far)).start(&stage.far());
    let near = shape(Plan::connect(address, near)).start(&stage.near());
    match direction {
        Download => [near, far],
        Upload => [far, near],
    }
}

fn limited(backend: &str, rtt: u64, flags: &[&str]) -> (Stage, crate::throttle::Throttle) {
    let stage = Stage::with_rtt(backend, Duration::from_millis(rtt));
    let apps = stage.apps.path().to_str().expect("a plain path").to_owned();
    let throttle = stage.run(&[flags, &["--cgroup", &apps]].concat());
    (stage, throttle)
}

/// 100 KB beside a bulk flow at 10 Mbit/s: its fair time is that at half of the rate.
pub(super) fn short_beside_bulk(backend: &str) -> Vec<Figure> {
    let fair = SHORT as f64 / (TEN_MBIT / 2.0);
    let mut figures = Vec::new();
    for rtt in [0, 20] {
        for direction in [Download, Upload] {
            let (stage, throttle) = limited(backend, rtt, &[direction.flag(), "10mbit"]);
            let bulk = transfer(&stage, direction, |plan| plan);
            let server = stage.lab.far_address(V4);
            let _server = Plan::http(server).start(&stage.far());
            thread::sleep(SETTLE);
            let body = stage.directory().join("body");
            std::fs::write(&body, vec![b'x'; SHORT]).expect("write a file");
            let times = (0..TIMES).map(|_| {
                thread::sleep(Duration::from_millis(300));
                let mut curl = stage.near().command("curl");
                curl.args(["-s", "-o", "/dev/null", "-w", "%{time_total}", "--max-time", "20"]);
                match direction {
                    Download => curl.arg(format!("http://{server}/{SHORT}")),
                    Upload => curl.arg("-T").arg(&body).arg(format!("http://{server}/")),
                };
                let output = curl.output().expect("run curl");
                let text = String::from_utf8_lossy(&output.stdout).into_owned();
                assert!(output.status.success(), "curl: {}", output.status);
                text.parse::<f64>().expect("a time")
            });
            let times = median(times.collect()) / fair;
            let what = format!("100 KB beside a bulk {} at 10M, RTT {rtt}", name(direction));
            figures.push(at_most(what, times, 2.0, "times its fair time", 2));
            drop(bulk);
            throttle.stop();
            stage.end();
        }
    }
    figures
}

/// 99 connections fall silent; the second that begins a second later belongs to the last one.
pub(super) fn one_of_a_hundred(backend: &str) -> Vec<Figure> {
    const BUSY: f64 = 3.0;
    let mut figures = Vec::new();
    for direction in [Download, Upload] {
        let (stage, throttle) = limited(backend, 20, &[direction.flag(), "10mbit"]);
        let many = transfer(&stage, direction, |plan| {
            // Little enough that nothing waits in their buffers when they fall silent.
            plan.flows(99).rate(8.0).idle_after(BUSY)
        });
        many[0].wait_connected();
        let [receiver, sender] = transfer(&stage, direction, |plan| plan);
        receiver.wait_connected();
        thread::sleep(Duration::from_secs_f64(BUSY + 1.0));
        let bins = receiver.watch(Duration::from_millis(2100));
        let what = format!("one active {} of 100, from 1 s after", name(direction));
        figures.push(share(what, rates::mean(&bins) / TEN_MBIT, 0.1));
        drop((receiver, sender, many));
        throttle.stop();
        stage.end();
    }
    figures
}

/// A limit of 10 Mbit/s down and 5 Mbit/s up, both in use.
pub(super) fn both_directions(backend: &str) -> Vec<Figure> {
    let mut figures = Vec::new();
    for rtt in [0, 20] {
        let (stage, throttle) = limited(backend, rtt, &["-d", "10mbit", "-u", "5mbit"]);
        let down = transfer(&stage, Download, |plan| plan);
        let up = transfer(&stage, Upload, |plan| plan);
        for (ends, direction, limit) in
            [(down, Download, TEN_MBIT), (up, Upload, TEN_MBIT / 2.0)]
        {
            if direction == Download {
                thread::sleep(Duration::from_secs(17));
            }
            let bins = ends[0].bins();
            let steady = rates::steady(&bins, 2) / limit;
            let what = format!("both directions at once, {}, RTT {rtt}", name(direction));
            figures.push(share(what, steady, 0.02));
        }
        throttle.stop();
        stage.end();
    }
    figures
}

/// TCP as much as goes and UDP of twice the limit: their sum.
pub(super) fn tcp_and_udp(backend: &str) -> Vec<Figure> {
    let mut figures = Vec::new();
    for direction in [Download, Upload] {
        let (stage, throttle) = limited(backend, 0, &[direction.flag(), "10mbit"]);
        let [tcp, _tcp] = transfer(&stage, direction, |plan| plan);
        tcp.wait_connected();
        let [udp, _udp] = transfer(&stage, direction, |plan| plan.udp().rate(20.0));
        udp.wait_connected();
        thread::sleep(SETTLE);
        let before = udp.bins().len();
        let tcp = rates::mean(&tcp.watch(Duration::from_secs(10)));
        let bins = udp.bins().split_off(before);
        let udp = rates::mean(&bins[..bins.len().min(10 * PER_SECOND)]);
        let what = format!("TCP and UDP {} under one limit, their sum", name(direction));
        let mut figure = share(what, (tcp + udp) / TEN_MBIT, 0.02);
        figure.value = figure.value.map(|value| {
            format!("{value} (TCP {:.2}, UDP {:.2})", tcp / TEN_MBIT, udp / TEN_MBIT)
        });
        figures.push(figure);
        throttle.stop();
        stage.end();
    }
    figures
}
