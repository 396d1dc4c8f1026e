//! The benchmark; see `chadthrottle_tests::bench`.

use std::path::PathBuf;

use chadthrottle_tests::bench::{cell, grid, reaction, report};
use clap::Parser;

/// Measures how exact limits are and how fast they come and go, on real traffic between
/// network namespaces of its own.
#[derive(Parser)]
struct Args {
    /// How much to measure
    #[arg(long, value_enum, default_value = "standard")]
    grid: grid::Grid,
    /// The backend under test
    #[arg(long, default_value = "ebpf")]
    backend: String,
    /// Where the report goes; without it, to standard output
    #[arg(long)]
    output: Option<PathBuf>,
    /// Only cells whose name contains this, such as `tcp upload 10M` (or `reaction`)
    #[arg(default_value = "")]
    filter: String,
}

fn main() -> std::io::Result<()> {
    let args = Args::parse();
    let cells = grid::cells(args.grid, &args.filter);
    let count = cells.len();
    let mut outcomes = Vec::new();
    for (number, cell) in cells.into_iter().enumerate() {
        let outcome = cell::measure(&args.backend, &cell);
        eprintln!(
            "[{}/{count}] {cell}: steady {:.3}, first second {:.2}{}",
            number + 1,
            outcome.steady,
            outcome.first,
            if outcome.missed(&cell) { " MISSED" } else { "" }
        );
        outcomes.push((cell, outcome));
    }
    let mut reactions = Vec::new();
    if "reaction".contains(&args.filter) {
        reactions = reaction::measure(&args.backend);
        for reaction in &reactions {
            let verdict = if reaction.missed() { " MISSED" } else { "" };
            eprintln!("{}: at most {:?}{verdict}", reaction.what, reaction.worst());
        }
    }
    // How it was called, without paths of this machine.
    let grid = format!("{:?}", args.grid).to_lowercase();
    let command = format!("bench --grid {grid} --backend {} {}", args.backend, args.filter);
    let text = report::markdown(command.trim(), &args.backend, &outcomes, &reactions);
    if let Some(path) = args.output {
        return std::fs::write(path, text);
    }
    print!("{text}");
    Ok(())
}
