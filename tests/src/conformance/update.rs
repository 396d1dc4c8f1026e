//! Rates that change while a transfer runs.
//!
//! chadthrottle has no command for it yet: the tool `session` does it with the eBPF backend, so
//! these cases are not among those of every backend.

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

/// A limit that can be changed.
struct Adjustable {
    session: Running,
    direction: Direction,
    sets: usize,
}

impl Adjustable {
    fn start(stage: &Stage, direction: Direction, pid: u32) -> Self {
        let mut command = stage.runner().command(tool("session"));
        command.arg(pid.to_string()).env(throttle::RUN_DIR, stage.run_dir());
        Self { session: Running::start(&mut command), direction, sets: 0 }
    }

    /// Sets the rate; it is set when this returns.
    fn set(&mut self, mbit: f64) {
        let direction = format!("{:?}", self.direction).to_lowercase();
        self.session.tell(&format!("{direction} {mbit}mbit"));
        self.sets += 1;
        let set = || self.session.stdout().len() >= self.sets;
        assert!(crate::process::eventually(SETTLE, set), "{}", self.session.stderr());
    }

    fn end(mut self) {
        self.session.close_stdin();
        let status = self.session.wait(MEASURE);
        assert!(status.success(), "{}", self.session.stderr());
    }
}

/// How late a change took effect, judged by the bytes of the time after it: as if the old rate
/// had gone on for so many seconds and then the new one had held.
fn lateness(bins: &[u64], old: f64, new: f64) -> f64 {
    let time = bins.len() as f64 * rates::BIN.as_secs_f64();
    (rates::mean(bins) / MBIT - new) * time / (old - new)
}

/// 10, 2, 20 Mbit/s, with an RTT in milliseconds.
fn update(direction: Direction, rtt: u64) {
    let stage = Stage::with_rtt("ebpf", Duration::from_millis(rtt));
    let transfer = running(&stage, direction, V4, |plan| plan);
    let mut limit = Adjustable::start(&stage, direction, transfer.near.pid());
    limit.set(10.0);
    thread::sleep(2 * SETTLE);
    for (old, new) in [(10.0, 2.0), (2.0, 20.0_f64)] {
        let changed = now_ms();
        limit.set(new);
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
pub fn download() {
    update(Download, 0);
}

/// Uploading.
pub fn upload() {
    update(Upload, 0);
}

/// Downloading with an RTT of 20 ms.
pub fn with_rtt_download() {
    update(Download, 20);
}

/// Uploading with an RTT of 20 ms.
pub fn with_rtt_upload() {
    update(Upload, 20);
}
