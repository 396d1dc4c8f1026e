//! How long a small request of a limited target waits behind its own bulk transfer.

use std::{thread, time::Duration};

use super::at_most;
use crate::{
    bench::{cell::median, record::Figure},
    conformance::roles,
    lab::Family::V4,
    load::{Plan, Role},
    stage::{Direction, Stage},
};

const RTT: u64 = 20;
/// How long until the bulk flow is steady, and how long is asked.
const SETTLE: Duration = Duration::from_secs(3);
const ASKED: Duration = Duration::from_secs(10);
/// What is asked of tc, whose queues hold 100 ms, and more below 2.4 Mbit/s.
const MOST_MS: f64 = 150.0;

/// 100 bytes there and back on an open TCP connection, 20 times a second, beside bulk transfers
/// over the same address family under the same limit: all wait in the same queue where there is one.
pub(super) fn requests(backend: &str) -> Vec<Figure> {
    let mut figures = Vec::new();
    for (rate, name, flows) in [("10mbit", "10M", 1), ("1mbit", "1M", 1), ("1mbit", "1M", 16)] {
        for direction in [Direction::Download, Direction::Upload] {
            let mut delays = beside_bulk(backend, direction, rate, flows);
            delays.sort_by(f64::total_cmp);
            let late = delays[delays.len() * 95 / 100];
            let bulk = format!("{direction:?}").to_lowercase();
            let what = format!(
                "a request beside a bulk {bulk} at {name}, RTT {RTT}, flows {flows}: delay of 95 in 100"
            );
            let mut figure = at_most(what, late, MOST_MS, "ms", 0);
            figure.value =
                figure.value.map(|value| format!("{value} (median {:.0} ms)", median(delays)));
            if backend != "tc" {
                (figure.met, figure.target) = (None, "-".to_owned());
            }
            figures.push(figure);
        }
    }
    figures
}

/// Milliseconds beyond the RTT, one for each request.
fn beside_bulk(backend: &str, direction: Direction, rate: &str, flows: usize) -> Vec<f64> {
    let stage = Stage::with_rtt(backend, Duration::from_millis(RTT));
    let apps = stage.apps.path().to_str().expect("a plain path").to_owned();
    let throttle = stage.run(&[direction.flag(), rate, "--cgroup", &apps]);
    let (near, far) = roles(direction);
    let address = stage.lab.far_address(V4);
    let _far = Plan::accept(address, far).flows(flows).start(&stage.far());
    let _near = Plan::connect(address, near).flows(flows).start(&stage.near());
    let address = stage.lab.far_address(V4);
    let _server = Plan::accept(address, Role::Recv).echo().start(&stage.far());
    thread::sleep(SETTLE);
    let plan = Plan::connect(address, Role::Send).echo().seconds(ASKED.as_secs_f64());
    let client = plan.start(&stage.near());
    client.wait_connected();
    thread::sleep(ASKED);
    let answers = client.answers();
    assert!(answers.len() > 20, "{} answers in {ASKED:?}", answers.len());
    drop(client);
    throttle.stop();
    stage.end();
    answers.into_iter().map(|took| took - RTT as f64).collect()
}
