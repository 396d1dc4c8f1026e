//! How late a changed rate takes effect.

use std::{thread, time::Duration};

use super::at_most;
use crate::{
    bench::record::Figure,
    conformance::{
        roles,
        update::{Adjustable, lateness},
    },
    lab::Family::V4,
    load::{Plan, now_ms},
    rates,
    stage::{Direction, Stage},
};

/// The time over which a change is judged, in seconds.
const JUDGED: usize = 2;
/// How often.
const TIMES: usize = 3;

/// From 10 to 2 and from 2 to 20 Mbit/s while one connection runs.
pub(super) fn changes(backend: &str) -> Vec<Figure> {
    let mut figures = Vec::new();
    for rtt in [0, 20] {
        for direction in [Direction::Download, Direction::Upload] {
            let (mut slower, mut faster) = (Vec::new(), Vec::new());
            for _ in 0..TIMES {
                let (down, up) = once(backend, direction, rtt);
                slower.push(down);
                faster.push(up);
            }
            for (change, times) in [("10 to 2 Mbit/s", slower), ("2 to 20 Mbit/s", faster)] {
                let late = crate::bench::cell::median(times) * 1000.0;
                let name = format!("{direction:?}").to_lowercase();
                let what = format!("{name} changed from {change}, late by, RTT {rtt}");
                figures.push(at_most(what, late, 250.0, "ms", 0));
            }
        }
    }
    figures
}

fn once(backend: &str, direction: Direction, rtt: u64) -> (f64, f64) {
    let stage = Stage::with_rtt(backend, Duration::from_millis(rtt));
    let (near, far) = roles(direction);
    let address = stage.lab.far_address(V4);
    let far = Plan::accept(address, far).rate(100.0).start(&stage.far());
    let near = Plan::connect(address, near).rate(100.0).start(&stage.near());
    let pid = near.pid();
    let receiver = if direction == Direction::Download { &near } else { &far };
    receiver.wait_connected();
    let mut limit = Adjustable::start(&stage, backend, direction, &[pid]);
    limit.set(0, 10.0);
    thread::sleep(Duration::from_secs(2));
    let mut change = |old: f64, new: f64| {
        let changed = now_ms();
        limit.set(0, new);
        thread::sleep(Duration::from_millis(JUDGED as u64 * 1000 + 200));
        let bins = receiver.timed_bins().into_iter().filter(|(at, _)| *at > changed);
        let bins: Vec<u64> = bins.map(|bin| bin.1).collect();
        lateness(&bins[..JUDGED * rates::PER_SECOND], old, new).abs()
    };
    let late = (change(10.0, 2.0), change(2.0, 20.0));
    limit.end();
    stage.end();
    late
}
