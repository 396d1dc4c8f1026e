//! Counting bytes from many threads, and reporting them from one.

use std::{
    io::{self, Write},
    process,
    sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed},
    thread,
    time::{Duration, Instant},
};

use super::{Args, End, Report, Totals, now_ms};
use crate::rates::BIN;

/// Writes one report, at once.
pub(super) fn say(report: &Report) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    writeln!(stdout, "{}", serde_json::to_string(report)?)?;
    stdout.flush()
}

/// What all threads of a transfer share.
#[derive(Debug)]
pub(super) struct Meter {
    flows: Vec<AtomicU64>,
    running: AtomicUsize,
    stopped: AtomicBool,
    pub(super) sent: AtomicU64,
    pub(super) again: AtomicU64,
    pub(super) refused: AtomicU64,
}

impl Meter {
    /// For so many flows, each of which calls [`Meter::end`] once.
    pub(super) fn new(flows: usize) -> Self {
        Self {
            flows: (0..flows).map(|_| AtomicU64::new(0)).collect(),
            running: AtomicUsize::new(flows),
            stopped: AtomicBool::new(false),
            sent: AtomicU64::new(0),
            again: AtomicU64::new(0),
            refused: AtomicU64::new(0),
        }
    }

    /// Counts payload of a flow.
    pub(super) fn add(&self, flow: usize, bytes: usize) {
        self.flows[flow].fetch_add(bytes as u64, Relaxed);
    }

    /// A flow is over.
    pub(super) fn end(&self) {
        self.running.fetch_sub(1, Relaxed);
    }

    /// Whether the flows shall end.
    pub(super) fn stopped(&self) -> bool {
        self.stopped.load(Relaxed)
    }

    fn totals(&self) -> Vec<u64> {
        self.flows.iter().map(|flow| flow.load(Relaxed)).collect()
    }

    /// Reports until the time is over, standard input is closed or all flows have ended; tells
    /// the flows to stop and returns the bins. Runs beside the flows.
    pub(super) fn watch(&self, args: &Args) -> io::Result<Vec<u64>> {
        let pid = process::id();
        say(&Report::Connected { pid })?;
        let (start, mut bins, mut before) = (Instant::now(), Vec::new(), 0);
        let stdin = Stdin::watch(args);
        while self.running.load(Relaxed) > 0 && !stdin.closed() {
            let due = start + BIN * (bins.len() as u32 + 1);
            thread::sleep(due.saturating_duration_since(Instant::now()));
            let total = self.totals().iter().sum();
            bins.push(total - before);
            say(&Report::Bin { pid, at: now_ms(), bytes: total - before })?;
            before = total;
            if args.seconds.is_some_and(|limit| start.elapsed().as_secs_f64() >= limit) {
                break;
            }
        }
        self.stopped.store(true, Relaxed);
        Ok(bins)
    }

    /// Reports the end.
    pub(super) fn finish(&self, bins: Vec<u64>) -> io::Result<()> {
        say(&Report::Done(Totals {
            pid: process::id(),
            seconds: bins.len() as f64 * BIN.as_secs_f64(),
            flows: self.totals(),
            bins,
            sent: self.sent.load(Relaxed),
            again: self.again.load(Relaxed),
            refused: self.refused.load(Relaxed),
        }))
    }
}

/// Notices when standard input is closed, unless it means nothing here.
struct Stdin(std::sync::Arc<AtomicBool>);

impl Stdin {
    fn watch(args: &Args) -> Self {
        let closed = std::sync::Arc::new(AtomicBool::new(false));
        if args.seconds.is_none() && args.end != End::Inherit {
            let flag = closed.clone();
            thread::spawn(move || {
                // An error is an end as well.
                io::copy(&mut io::stdin().lock(), &mut io::sink()).ok();
                flag.store(true, Relaxed);
            });
        }
        Self(closed)
    }

    fn closed(&self) -> bool {
        self.0.load(Relaxed)
    }
}

/// Holds a flow at the rate that it shall offer.
pub(super) struct Pacer {
    rate: Option<f64>,
    due: Instant,
}

impl Pacer {
    /// Time that a blocked flow may catch up; beyond it nothing is saved for later.
    const CREDIT: Duration = Duration::from_millis(20);

    /// `rate` in bytes per second; `None` never waits.
    pub(super) fn new(rate: Option<f64>) -> Self {
        Self { rate, due: Instant::now() }
    }

    /// Waits until these bytes may go.
    pub(super) fn pace(&mut self, bytes: usize) {
        let Some(rate) = self.rate else { return };
        let now = Instant::now();
        thread::sleep(self.due.saturating_duration_since(now));
        self.due = self.due.max(now.checked_sub(Self::CREDIT).unwrap_or(now));
        self.due += Duration::from_secs_f64(bytes as f64 / rate);
    }
}
