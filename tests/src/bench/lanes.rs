//! Runs many cells side by side where they do not disturb one another, and says how far it is.

use std::{
    any::Any,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    thread,
    time::{Duration, Instant},
};

use super::{
    cell::{self, Outcome},
    grid::{Cell, Grid},
    limiter::Limiter,
    record::Row,
};

/// One cell of one limiter, measured several times.
#[derive(Debug, Clone)]
pub struct Job {
    /// Who limits.
    pub limiter: Limiter,
    /// What is measured.
    pub cell: Cell,
}

/// Measures all jobs, those that may run side by side at once; `done` gets each row as it is
/// finished. A cell that fails is a row that says why.
pub fn run(grid: Grid, jobs: &[Job], repetitions: usize, done: &(dyn Fn(Row) + Sync)) {
    let started = Instant::now();
    let finished = AtomicUsize::new(0);
    for batch in jobs.chunk_by(|a, b| lanes(a) == lanes(b)) {
        let next = AtomicUsize::new(0);
        thread::scope(|scope| {
            for lane in 0..lanes(&batch[0]).min(batch.len()) {
                let (next, finished) = (&next, &finished);
                scope.spawn(move || {
                    // Setting up takes the processor: not all at once.
                    thread::sleep(Duration::from_millis(150) * lane as u32);
                    while let Some(job) = batch.get(next.fetch_add(1, Relaxed)) {
                        let row = measure(grid, job, repetitions);
                        let number = finished.fetch_add(1, Relaxed) + 1;
                        let minutes = started.elapsed().as_secs_f64() / 60.0;
                        eprintln!("[{number}/{} {minutes:.1} min] {row}", jobs.len());
                        done(row);
                    }
                });
            }
        });
    }
}

fn lanes(job: &Job) -> usize {
    job.cell.lanes()
}

fn measure(grid: Grid, job: &Job, repetitions: usize) -> Row {
    let Job { limiter, cell } = job;
    let row = |outcome| Row { limiter: limiter.to_string(), cell: *cell, outcome };
    if let Some(reason) = limiter.cannot(cell) {
        return row(Err(reason.to_owned()));
    }
    let seconds = cell::seconds(grid, cell);
    let mut outcomes = Vec::new();
    let mut failure = None;
    // One failure may be bad luck; what fails again is not measured any more.
    while outcomes.len() < repetitions {
        match guarded(|| cell::measure(limiter, cell, seconds)) {
            Ok(outcome) => outcomes.push(outcome),
            Err(why) if failure.is_some() || outcomes.is_empty() && repetitions == 1 => {
                return row(Err(why));
            }
            Err(why) => failure = Some(why),
        }
    }
    row(Ok(Outcome::median(&outcomes)))
}

/// What `measure` returns, or the first line of its panic.
pub fn guarded<T>(measure: impl FnOnce() -> T) -> Result<T, String> {
    static QUIET: Mutex<()> = Mutex::new(());
    catch_unwind(AssertUnwindSafe(measure)).map_err(|panic| {
        let _one_at_a_time = QUIET.lock();
        let said = said(panic.as_ref());
        said.lines().next().unwrap_or("without a word").to_owned()
    })
}

fn said(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()))
        .unwrap_or_else(|| "it panicked".to_owned())
}
