//! How fast a limit takes hold and is gone.

use std::time::{Duration, Instant};

use crate::{
    bench::record::Figure,
    conformance::roles,
    lab::Family::V4,
    load::{Load, Plan, now_ms},
    process::Running,
    rates::TEN_MBIT,
    stage::{Direction, Stage},
};

/// What an unlimited end offers, in Mbit/s.
const OFFERED: f64 = 100.0;
/// How often each is measured.
const TIMES: usize = 5;
const LONE: usize = 15;
/// After this long a reaction counts as none.
const PATIENCE: Duration = Duration::from_secs(5);

/// Times of one thing, in its worst and its usual case.
fn figure(what: String, target_ms: u64, mut times: Vec<Duration>) -> Figure {
    times.sort_unstable();
    let (median, worst) = (times[times.len() / 2], times[times.len() - 1]);
    Figure {
        what,
        value: Ok(format!("{} ms, worst {} ms", median.as_millis(), worst.as_millis())),
        target: format!("at most {target_ms} ms"),
        met: Some(median.as_millis() <= u128::from(target_ms)),
    }
}

/// Starts, slows, releases and kills, several times on one connection in each direction, at 10
/// Mbit/s of the 100 Mbit/s that are offered.
pub(super) fn reactions(backend: &str) -> Vec<Figure> {
    let both = [Direction::Download, Direction::Upload];
    both.into_iter().flat_map(|direction| in_direction(backend, direction)).collect()
}

fn in_direction(backend: &str, direction: Direction) -> Vec<Figure> {
    let stage = Stage::new(backend);
    let (near, far) = roles(direction);
    let address = stage.lab.far_address(V4);
    let far = Plan::accept(address, far).rate(OFFERED).start(&stage.far());
    let near = Plan::connect(address, near).rate(OFFERED).start(&stage.near());
    let receiver = if direction == Direction::Download { &near } else { &far };
    receiver.wait_connected();
    let pid = near.pid().to_string();
    let (mut starts, mut slows, mut releases, mut kills) = (vec![], vec![], vec![], vec![]);
    for round in 0..2 * TIMES {
        std::thread::sleep(Duration::from_secs(1));
        let from = now_ms();
        let mut throttle = stage.start(&[direction.flag(), "10mbit", "--pid", &pid]);
        starts.push(throttle.wait_enforced());
        slows.push(slow(receiver, from));
        std::thread::sleep(Duration::from_secs(1));
        let from = now_ms();
        if round % 2 == 0 {
            throttle.stop();
            releases.push(fast(receiver, from));
        } else {
            throttle.kill();
            kills.push(fast(receiver, from));
        }
    }
    let name = format!("{direction:?}").to_lowercase();
    [
        ("start to enforced", 50, starts),
        ("start to an open connection at its limit", 1000, slows),
        ("Ctrl-C to full speed", 1000, releases),
        ("kill -9 to full speed", 1000, kills),
    ]
    .map(|(what, target_ms, times)| figure(format!("{what}, {name}"), target_ms, times))
    .to_vec()
}

/// The limit of a process that moves nothing.
pub(super) fn lone_starts(backend: &str) -> Vec<Figure> {
    let stage = Stage::new(backend);
    let sleeper = Running::start(stage.near().command("sleep").arg("60"));
    let pid = sleeper.pid().to_string();
    let starts = (0..LONE).map(|_| {
        let mut throttle = stage.start(&["-d", "10mbit", "--pid", &pid]);
        let start = throttle.wait_enforced();
        throttle.stop();
        start
    });
    let starts = starts.collect();
    stage.end();
    vec![figure("a lone start to enforced".to_owned(), 50, starts)]
}

/// From `from` to the begin of the first second with at most 1.2 times the limit. Not within
/// so much of it: without an RTT downloads come in bursts, about twice a second.
fn slow(receiver: &Load, from: u64) -> Duration {
    const WINDOW: usize = 10;
    until(receiver, from, WINDOW, |rate| rate <= 1.2 * TEN_MBIT)
}

/// From `from` to the end of the first bin with half of what is offered.
fn fast(receiver: &Load, from: u64) -> Duration {
    until(receiver, from, 1, |rate| rate >= OFFERED * 125_000.0 / 2.0)
}

/// From `from` to the end of the first bin of `window` bins that together are as wanted.
fn until(receiver: &Load, from: u64, window: usize, wanted: impl Fn(f64) -> bool) -> Duration {
    let end = Instant::now() + PATIENCE;
    while Instant::now() < end {
        let bins = receiver.timed_bins();
        let later: Vec<_> = bins.into_iter().filter(|(at, _)| *at > from).collect();
        for bins in later.windows(window) {
            let bytes: Vec<u64> = bins.iter().map(|(_, bytes)| *bytes).collect();
            if wanted(crate::rates::mean(&bytes)) {
                return Duration::from_millis(bins[0].0 - from);
            }
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    PATIENCE
}
