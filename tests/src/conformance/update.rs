//! Limits that change while transfers run, and several in one session.
//!
//! The command line's run is one limit that stays: the tool `session` does what the live view
//! does, through the same library.

use std::{thread, time::Duration};

use super::{MEASURE, SETTLE, TOLERANCE, running};
use crate::{
    lab::Family::V4,
    load::now_ms,
    process::{Running, tool},
    rates,
    stage::{
        Direction::{self, Download, Upload},
        Stage,
    },
    throttle,
};
use rustix::process::Signal;

/// One Mbit/s in bytes per second.
const MBIT: f64 = 125_000.0;
/// The time over which a change is judged.
const JUDGED: Duration = Duration::from_secs(2);
/// The same in bins.
const JUDGED_BINS: usize = 2 * rates::PER_SECOND;
/// How late a change may be, in seconds. The aim is 250 ms; that downloads without an RTT come in
/// bursts moves what is measured by 100 ms.
const LATE: f64 = 0.4;
/// What may pass in a second, as a multiple of the larger rate: without an RTT, bursts of half a
/// second's worth make it 1.5.
const BURST: f64 = 1.8;

/// A session with a limit for each of some processes.
#[derive(Debug)]
pub struct Adjustable {
    session: Running,
    direction: Direction,
    answers: usize,
}

impl Adjustable {
    /// Starts it, with nothing limited yet.
    pub fn start(stage: &Stage, backend: &str, direction: Direction, pids: &[u32]) -> Self {
        let mut command = stage.runner().command(tool("session"));
        command.arg(backend).args(pids.iter().map(u32::to_string));
        command.env(throttle::RUN_DIR, stage.run_dir());
        Self { session: Running::start(&mut command), direction, answers: 0 }
    }

    /// Says something of the process with this number; returns the answer.
    pub fn tell(&mut self, number: usize, what: &str) -> String {
        self.session.tell(&format!("{number} {what}"));
        self.answers += 1;
        let answered = || self.session.stdout().len() >= self.answers;
        // The first answer takes a backend's start, in an emulated guest more than a second.
        assert!(crate::process::eventually(MEASURE, answered), "{}", self.session.stderr());
        self.session.stdout().swap_remove(self.answers - 1)
    }

    /// Sets a rate; it is set when this returns.
    pub fn set(&mut self, number: usize, mbit: f64) {
        let direction = format!("{:?}", self.direction).to_lowercase();
        assert_eq!(self.tell(number, &format!("{direction} {mbit}mbit")), "set");
    }

    /// Kills it with -9.
    pub fn kill(mut self) {
        self.session.signal(Signal::KILL);
        self.session.wait(MEASURE);
    }

    /// Lifts what is left.
    pub fn end(mut self) {
        self.session.close_stdin();
        let status = self.session.wait(MEASURE);
        assert!(status.success(), "{}", self.session.stderr());
    }
}

/// How late a change took effect, judged by the bytes of the time after it: as if the old rate
/// had gone on for so many seconds and then the new one had held.
pub(crate) fn lateness(bins: &[u64], old: f64, new: f64) -> f64 {
    let time = bins.len() as f64 * rates::BIN.as_secs_f64();
    (rates::mean(bins) / MBIT - new) * time / (old - new)
}

/// 10, 2, 20 Mbit/s, with an RTT in milliseconds.
fn update(backend: &str, direction: Direction, rtt: u64) {
    let stage = Stage::with_rtt(backend, Duration::from_millis(rtt));
    let transfer = running(&stage, direction, V4, |plan| plan);
    let mut limit = Adjustable::start(&stage, backend, direction, &[transfer.near.pid()]);
    limit.set(0, 10.0);
    thread::sleep(2 * SETTLE);
    for (old, new) in [(10.0, 2.0), (2.0, 20.0_f64)] {
        let changed = now_ms();
        limit.set(0, new);
        thread::sleep(JUDGED + MEASURE);
        let bins = transfer.receiver().timed_bins().into_iter();
        let bins: Vec<u64> = bins.filter(|(at, _)| *at > changed).map(|bin| bin.1).collect();
        let (first, rest) = bins.split_at(JUDGED_BINS);
        let late = lateness(first, old, new);
        println!("{old} -> {new} Mbit/s: {late:.3} s late\n{}", rates::show(first));
        assert!(late.abs() <= LATE, "{old} -> {new} Mbit/s: {late:.3} s late");
        rates::assert_rate("changed rate", rest, new * MBIT, TOLERANCE);
        let most = rates::busiest_second(&bins) / MBIT;
        let bound = BURST * old.max(new);
        assert!(most <= bound, "a second of {most:.1} Mbit/s\n{}", rates::show(&bins));
    }
    limit.end();
    transfer.assert_recovers("after changes");
    stage.end();
}

/// Downloading.
pub fn download(backend: &str) {
    update(backend, Download, 0);
}

/// Uploading.
pub fn upload(backend: &str) {
    update(backend, Upload, 0);
}

/// Downloading with an RTT of 20 ms.
pub fn with_rtt_download(backend: &str) {
    update(backend, Download, 20);
}

/// Uploading with an RTT of 20 ms.
pub fn with_rtt_upload(backend: &str) {
    update(backend, Upload, 20);
}

/// Two limits of one session: each its own rate, changed and lifted without touching the other;
/// a target is limited once only, and free again when its limit is lifted.
pub fn two_limits_of_one_session(backend: &str) {
    let stage = Stage::new(backend);
    let [one, two] = [(); 2].map(|()| running(&stage, Upload, V4, |plan| plan));
    let pids = [one.near.pid(), two.near.pid(), one.near.pid()];
    let mut limits = Adjustable::start(&stage, backend, Upload, &pids);
    let judge = |what: &str, mbit: [f64; 2]| {
        thread::sleep(SETTLE);
        let before = two.far.bins().len();
        let first = one.far.watch(MEASURE);
        rates::assert_rate(what, &first, mbit[0] * MBIT, TOLERANCE);
        rates::assert_rate(what, &two.far.bins()[before..], mbit[1] * MBIT, TOLERANCE);
    };
    limits.set(0, 10.0);
    limits.set(1, 5.0);
    judge("side by side", [10.0, 5.0]);
    limits.set(0, 2.0);
    judge("one changed", [2.0, 5.0]);
    let again = limits.tell(2, "upload 1mbit");
    assert!(again.starts_with("refused: ") && again.contains("already"), "{again}");
    assert_eq!(limits.tell(0, "lift"), "set");
    one.assert_recovers("lifted");
    let before = two.far.bins().len();
    limits.set(2, 10.0);
    one.assert_limited("limited again");
    rates::assert_rate("left alone", &two.far.bins()[before..], 5.0 * MBIT, TOLERANCE);
    limits.end();
    two.assert_recovers("at the end");
    stage.end();
}
