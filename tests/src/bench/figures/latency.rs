//! Pings beside a limited transfer: of a neighbour, and from inside the limit.

use std::{process::Command, thread, time::Duration};

use super::at_most;
use crate::{
    bench::record::Figure,
    conformance::roles,
    lab::Family::V4,
    load::Plan,
    stage::{Direction, Stage},
};

/// Pings 20 times a second; the median in milliseconds.
fn ping(mut command: Command, address: &str) -> f64 {
    command.args(["-n", "-i", "0.05", "-c", "60", "-W", "2", address]);
    let output = command.output().expect("run ping (Debian: iputils-ping)");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let times = text
        .lines()
        .filter_map(|line| line.split("time=").nth(1)?.split(' ').next()?.parse::<f64>().ok());
    let times: Vec<f64> = times.collect();
    assert!(times.len() > 30, "{} of 60 pings came back", times.len());
    crate::bench::cell::median(times)
}

/// At 10 Mbit/s with four connections and an RTT of 20 ms.
pub(super) fn pings(backend: &str) -> Vec<Figure> {
    const RTT: u64 = 20;
    let mut figures = Vec::new();
    for direction in [Direction::Download, Direction::Upload] {
        let stage = Stage::with_rtt(backend, Duration::from_millis(RTT));
        let address = stage.lab.far_address(V4);
        let host = address.ip().to_string();
        // A neighbour: the same namespace, another cgroup.
        let neighbour = || ping(stage.runner().command("ping"), &host);
        let alone = neighbour();
        let apps = stage.apps.path().to_str().expect("a plain path").to_owned();
        let throttle = stage.run(&[direction.flag(), "10mbit", "--cgroup", &apps]);
        let (near, far) = roles(direction);
        let _far = Plan::accept(address, far).flows(4).start(&stage.far());
        let _near = Plan::connect(address, near).flows(4).start(&stage.near());
        thread::sleep(Duration::from_secs(2));
        let beside = neighbour();
        // tc does not limit ICMP: a ping would say nothing of its queue.
        let inside = (backend != "tc").then(|| ping(stage.near().command("ping"), &host));
        let name = format!("{direction:?}").to_lowercase();
        let of = format!("beside 4 limited {name}s at 10M, RTT {RTT}");
        let mut slower =
            at_most(format!("ping of a neighbour {of}"), beside / alone, 1.1, "times alone", 3);
        slower.value = slower.value.map(|value| format!("{value} ({beside:.2} ms)"));
        figures.push(slower);
        let most = (RTT + 50) as f64;
        let inside = inside.map(|inside| {
            at_most(format!("ping inside the limit {of}"), inside, most, "ms", 1)
        });
        figures.extend(inside);
        throttle.stop();
        stage.end();
    }
    figures
}
