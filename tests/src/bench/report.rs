//! docs/benchmarks.md: what was measured, where, by which command.

use std::fmt::Write;

use super::{
    cell::{Outcome, SECONDS, SKIP},
    grid::{Cell, Protocol},
    reaction::Reaction,
};
use crate::process::sh;

/// The report as Markdown.
pub fn markdown(
    command: &str,
    backend: &str,
    cells: &[(Cell, Outcome)],
    reactions: &[Reaction],
) -> String {
    let mut text = format!(
        "# Benchmarks\n\n\
         Made by `{command}` on {},\nbackend {backend}, kernel {}, {} processors. Written by a program:\n\
          what it says is what was measured, targets missed included.\n\n\
         Payload at the receiver; `whole`, `steady` (without the first {SKIP} of {SECONDS} s) and\n\
         `first s` are shares of the limit, `retr` the share of bytes sent again, `Jain` the\n\
         fairness among flows, `cv` the standard deviation of the steady 100 ms bins over their\n\
         mean. TCP senders offer as much as goes, UDP senders twice the limit.\n\n",
        sh("date -u +%F").trim(),
        sh("uname -r").trim(),
        std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
    );
    if !cells.is_empty() {
        text += "## Rates\n\n\
            | | rate | RTT ms | flows | whole | steady | first s | retr | Jain | cv | target |\n\
            |---|--:|--:|--:|--:|--:|--:|--:|--:|--:|---|\n";
    }
    for (cell, outcome) in cells {
        text += &row(cell, outcome);
    }
    if !reactions.is_empty() {
        text += "\n## Reactions\n\n\
            At 10 Mbit/s on one connection that is open all the time and offered 100 Mbit/s; times\n\
            of rates are as fine as the bins, 100 ms.\n\n\
            | | median ms | worst ms | target ms | |\n|---|--:|--:|--:|---|\n";
    }
    for reaction in reactions {
        let verdict = if reaction.missed() { "**missed**" } else { "met" };
        writeln!(
            text,
            "| {} | {} | {} | {} | {verdict} |",
            reaction.what,
            reaction.median().as_millis(),
            reaction.worst().as_millis(),
            reaction.target.as_millis()
        )
        .expect("write to a string");
    }
    text
}

fn row(cell: &Cell, outcome: &Outcome) -> String {
    let protocol = match cell.protocol {
        Protocol::Tcp => "TCP",
        Protocol::Udp => "UDP",
    };
    let direction = format!("{:?}", cell.direction).to_lowercase();
    let retransmitted = match cell.protocol {
        Protocol::Tcp => format!("{:.2} %", outcome.retransmitted * 100.0),
        Protocol::Udp => "-".to_owned(),
    };
    let target = match cell.target() {
        None => "-".to_owned(),
        Some(_) if outcome.refused > 0 => {
            format!("**missed**: {} sends refused", outcome.refused)
        }
        Some(target) if outcome.missed(cell) => {
            format!("**missed**: more than {:.0} % off", target * 100.0)
        }
        Some(target) => format!("met ({:.0} %)", target * 100.0),
    };
    format!(
        "| {protocol} {direction} | {} | {} | {} | {:.3} | {:.3} | {:.2} | {retransmitted} | \
         {:.3} | {:.2} | {target} |\n",
        cell.rate_name(),
        cell.rtt,
        cell.flows,
        outcome.whole,
        outcome.steady,
        outcome.first,
        outcome.jain,
        outcome.cv
    )
}
