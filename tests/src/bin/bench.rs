//! The benchmark; see `chadthrottle_tests::bench`.

use std::{
    io,
    path::PathBuf,
    sync::{Mutex, PoisonError},
};

use chadthrottle_tests::{
    bench::{
        figures,
        grid::{self, Grid},
        lanes::{self, Job},
        limiter::Limiter,
        record::{Figure, Record, Row, Run},
    },
    process::sh,
};
use clap::Parser;

/// Measures how exact limits are and what they cost, on real traffic between network namespaces of
/// its own, and sets others beside them.
#[derive(Parser)]
struct Args {
    /// How much to measure
    #[arg(long, value_enum, default_value = "standard")]
    grid: Grid,
    /// The backend under test
    #[arg(long, default_value = "ebpf")]
    backend: String,
    /// How often each cell is measured, instead of what the grid says; the median counts
    #[arg(long)]
    times: Option<usize>,
    /// Where the report goes; without it only progress is shown
    #[arg(long)]
    output: Option<PathBuf>,
    /// Only `ours`, the `others` beside it, one of these (`HTB by hand`), or the other `figures`
    #[arg(long)]
    only: Option<String>,
    /// Only cells and figures whose name contains this, such as `tcp upload 10M`, `short`, `packet`
    #[arg(default_value = "")]
    filter: String,
}

fn main() -> io::Result<()> {
    let args = Args::parse();
    let record = Mutex::new(Record::open(args.output.clone())?);
    let lock = || record.lock().unwrap_or_else(PoisonError::into_inner);
    let whole = args.filter.is_empty() && args.only.is_none();
    lock().begin(&args.backend, this_run(&args), whole);
    let wanted = |part: &str| args.only.as_deref().is_none_or(|only| only == part);

    let mut jobs = Vec::new();
    if wanted("ours") {
        let ours = Limiter::Ours(args.backend.clone());
        let cells = grid::cells(args.grid, &args.filter).into_iter();
        jobs.extend(cells.map(|cell| Job { limiter: ours.clone(), cell }));
    }
    let others = Limiter::OTHERS
        .into_iter()
        .filter(|other| wanted("others") || wanted(&other.to_string()));
    for limiter in others {
        let cells = grid::compared(args.grid, &args.filter).into_iter();
        jobs.extend(cells.map(|cell| Job { limiter: limiter.clone(), cell }));
    }
    jobs.sort_by_key(|job| std::cmp::Reverse(job.cell.lanes()));
    let times = args.times.unwrap_or(args.grid.repetitions());
    // Keeps going when the disk is full: what was measured is on the screen.
    let row = |row: Row| report(lock().row(&args.backend, row));
    lanes::run(args.grid, &jobs, times, &row);
    if wanted("figures") {
        let take = |figure: Figure| {
            eprintln!("{figure}");
            report(lock().figure(&args.backend, figure));
        };
        figures::measure(args.grid, &args.backend, &args.filter, &take);
    }
    Ok(())
}

fn report(written: io::Result<()>) {
    if let Err(error) = written {
        eprintln!("cannot write the report: {error}");
    }
}

/// How it was called, without paths of this machine.
fn this_run(args: &Args) -> Run {
    let grid = format!("{:?}", args.grid).to_lowercase();
    let options = [
        Some(format!("bench --grid {grid} --backend {}", args.backend)),
        args.only.as_ref().map(|only| {
            let quote = if only.contains(' ') { "\"" } else { "" };
            format!("--only {quote}{only}{quote}")
        }),
        args.times.map(|times| format!("--times {times}")),
        (!args.filter.is_empty()).then(|| format!("\"{}\"", args.filter)),
    ];
    let command = options.into_iter().flatten().collect::<Vec<_>>().join(" ");
    let processors = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    Run {
        command,
        date: sh("date -u +%F").trim().to_owned(),
        host: format!("kernel {}, {processors} processors", sh("uname -r").trim()),
    }
}
