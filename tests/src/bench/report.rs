//! docs/benchmarks.md: what was measured, where, by which command.

use std::{fmt::Write, path::Path};

use super::{
    cell::{Outcome, SKIP},
    grid::{Cell, Protocol},
    reasons,
    record::{Figure, Record, Row, Section},
};

/// The name of a backend's chart.
pub fn chart_name(output: &Path, backend: &str) -> String {
    let stem = output.file_stem().unwrap_or_default().to_string_lossy();
    format!("{stem}-{backend}.svg")
}

/// The report as Markdown.
pub fn markdown(record: &Record, output: &Path) -> String {
    let mut text = format!(
        "# Benchmarks\n\n\
         Written by `make bench`: what it says is what was measured, targets missed included. One\n\
         section a backend.\n\n\
         Payload at the receiver, through a veth pair between two network namespaces (RTT 0: about\n\
         0.05 ms), and a relay that adds the RTT. `whole`, `steady` (without the first {SKIP} s) and\n\
         `first s` are shares of the limit, `retr` the share of bytes sent again, `Jain` the\n\
         fairness among flows, `cv` the standard deviation of the steady 100 ms bins over their\n\
         mean. Runs of 10 s, 30 s where TCP has no RTT; medians of three except in the brief grid.\n\
         TCP senders offer as much as goes, UDP senders twice the limit; an `open` connection ran at\n\
         100 Mbit/s before its limit came and is judged from {SKIP} s after it.\n\n\
         Targets: `whole` 2 %, `steady` 1 % (from 50 kbit/s a flow on; below, `whole` 10 %; 1G: 2 %),\n\
         `first s` 1.1, `retr` 0.1 % up and 0.5 % down, `Jain` 0.95, `cv` from 10M up 0.15 at RTT 20\n\
         and 0.5 at RTT 0.\n"
    );
    for (backend, section) in &record.sections {
        write(&mut text, &format!("\n## {backend}\n\n"));
        for run in &section.runs {
            write(&mut text, &format!("`{}` on {}, {}.\n", run.command, run.date, run.host));
        }
        let chart = chart_name(output, backend);
        write(&mut text, &format!("\n![Achieved against configured rate]({chart})\n"));
        text += &section_text(backend, section);
    }
    text
}

fn section_text(backend: &str, section: &Section) -> String {
    let (ours, others): (Vec<&Row>, Vec<&Row>) =
        section.rows.iter().partition(|row| row.limiter == backend);
    let mut text = String::new();
    if !ours.is_empty() {
        text += "\n### Rates\n\n\
            | | rate | RTT | flows | whole | steady | first s | retr | Jain | cv | |\n\
            |---|--:|--:|--:|--:|--:|--:|--:|--:|--:|---|\n";
        let mut rows = ours.clone();
        rows.sort_by_key(|row| order(&row.cell));
        for row in rows {
            write(&mut text, &format!("| {} {}", row.cell.what(), cells(row)));
            let verdict = match &row.outcome {
                Ok(outcome) => verdict(&outcome.missed(&row.cell)),
                Err(why) => format!("**not measured**: {}", plain(why)),
            };
            write(&mut text, &format!(" {verdict} |\n"));
        }
        text += &why(backend, &ours);
    }
    if !section.figures.is_empty() {
        text += "\n### Other figures\n\n| | measured | target | |\n|---|---|---|---|\n";
        for figure in &section.figures {
            text += &figure_row(figure);
        }
        text += &why_figures(backend, &section.figures);
    }
    if !others.is_empty() {
        text += "\n### Beside others\n\n\
            The same cells, measured in the same run. Each was told the same number; what counts\n\
            headers as well comes out lower. HTB by hand has its rate raised by the headers.\n\n\
            | | | rate | RTT | flows | whole | steady | first s | retr | Jain | cv | |\n\
            |---|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|---|\n";
        let compared = |row: &&Row| others.iter().any(|other| other.cell == row.cell);
        let mut rows: Vec<&Row> = ours.into_iter().filter(compared).collect();
        rows.extend(&others);
        rows.sort_by_key(|row| order(&row.cell));
        for row in rows {
            write(
                &mut text,
                &format!("| {} | {} {}", row.limiter, row.cell.what(), cells(row)),
            );
            let why =
                row.outcome.as_ref().err().map(|why| format!("not measured: {}", plain(why)));
            write(&mut text, &format!(" {} |", why.unwrap_or_default()));
            text.push('\n');
        }
    }
    text
}

/// Cells that differ in one thing only stand beside one another.
fn order(cell: &Cell) -> (String, u64, usize, u64) {
    let what = cell.what().replace("tcp", "0");
    (what, cell.rtt, cell.flows, cell.kbit)
}

/// The figures of a row, from the rate on.
fn cells(row: &Row) -> String {
    let Cell { rtt, flows, .. } = row.cell;
    let start = format!("| {} | {rtt} | {flows} |", row.cell.rate_name());
    let Ok(outcome) = &row.outcome else { return format!("{start} - | - | - | - | - | - |") };
    let Outcome { whole, steady, first, retransmitted, jain, cv, .. } = outcome;
    let first = if row.cell.open { "-".to_owned() } else { format!("{first:.2}") };
    let again = match row.cell.protocol {
        Protocol::Tcp if !row.cell.open => format!("{:.2} %", retransmitted * 100.0),
        _ => "-".to_owned(),
    };
    format!("{start} {whole:.3} | {steady:.3} | {first} | {again} | {jain:.3} | {cv:.2} |")
}

fn verdict(missed: &[&str]) -> String {
    if missed.is_empty() {
        "met".to_owned()
    } else {
        format!("**missed**: {}", missed.join(", "))
    }
}

fn figure_row(figure: &Figure) -> String {
    let value = match &figure.value {
        Ok(value) => value.clone(),
        Err(why) => format!("**not measured**: {}", plain(why)),
    };
    let verdict = match figure.met {
        Some(true) => "met",
        Some(false) => "**missed**",
        None => "",
    };
    format!("| {} | {value} | {} | {verdict} |\n", figure.what, figure.target)
}

/// The reasons of what was missed, each once, with how often.
fn why(backend: &str, rows: &[&Row]) -> String {
    let mut reasons: Vec<(&str, usize)> = Vec::new();
    for row in rows {
        let Ok(outcome) = &row.outcome else { continue };
        for missed in outcome.missed(&row.cell) {
            count(&mut reasons, reasons::of_cell(backend, &row.cell, missed));
        }
    }
    list(&reasons)
}

fn why_figures(backend: &str, figures: &[Figure]) -> String {
    let mut reasons: Vec<(&str, usize)> = Vec::new();
    for figure in figures.iter().filter(|figure| figure.met == Some(false)) {
        count(&mut reasons, reasons::of_figure(backend, &figure.what));
    }
    list(&reasons)
}

fn count(reasons: &mut Vec<(&'static str, usize)>, reason: &'static str) {
    match reasons.iter_mut().find(|(known, _)| *known == reason) {
        Some((_, times)) => *times += 1,
        None => reasons.push((reason, 1)),
    }
}

fn list(reasons: &[(&str, usize)]) -> String {
    let mut text = String::new();
    for (number, (reason, times)) in reasons.iter().enumerate() {
        let heading = if number == 0 { "\nWhy, as far as known:\n\n" } else { "" };
        write(&mut text, &format!("{heading}- {reason} ({times})\n"));
    }
    text
}

/// Text that stays in one table cell.
fn plain(text: &str) -> String {
    text.replace('|', "/")
}

fn write(to: &mut String, text: &str) {
    to.write_str(text).expect("write to a string");
}
