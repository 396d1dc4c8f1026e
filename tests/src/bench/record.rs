//! What was measured so far, kept beside the report: each backend is a section of its own, and
//! measuring one does not forget the others.

use std::{
    collections::BTreeMap,
    fmt, fs, io,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use super::{cell::Outcome, chart, grid::Cell, report};

/// A measured cell.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Row {
    /// Who limited.
    pub limiter: String,
    /// What was measured.
    pub cell: Cell,
    /// What came of it, or why nothing did.
    pub outcome: Result<Outcome, String>,
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { limiter, cell, outcome } = self;
        match outcome {
            Ok(outcome) => {
                let Outcome { whole, steady, first, jain, cv, .. } = outcome;
                let missed = outcome.missed(cell);
                write!(
                    f,
                    "{limiter}, {cell}: whole {whole:.3}, steady {steady:.3}, first second \
                     {first:.2}, retr {:.2} %, Jain {jain:.3}, cv {cv:.2}",
                    outcome.retransmitted * 100.0
                )?;
                if missed.is_empty() {
                    Ok(())
                } else {
                    write!(f, " MISSED {}", missed.join(", "))
                }
            }
            Err(why) => write!(f, "{limiter}, {cell}: NOT MEASURED: {why}"),
        }
    }
}

/// Another measured figure.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Figure {
    /// What was measured.
    pub what: String,
    /// What came of it, in words with its unit; or why nothing did.
    pub value: Result<String, String>,
    /// What was asked for.
    pub target: String,
    /// Whether it was reached; `None` when nothing was asked.
    pub met: Option<bool>,
}

impl fmt::Display for Figure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { what, value, target, met } = self;
        match value {
            Ok(value) => write!(f, "{what}: {value} (target: {target})")?,
            Err(why) => write!(f, "{what}: NOT MEASURED: {why}")?,
        }
        f.write_str(if *met == Some(false) { " MISSED" } else { "" })
    }
}

/// What is known of one backend.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Section {
    /// The commands that measured it, each with its date and kernel.
    pub runs: Vec<Run>,
    /// Its cells and those of the others beside it.
    pub rows: Vec<Row>,
    /// The other figures.
    pub figures: Vec<Figure>,
}

/// One run of the benchmark.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Run {
    /// How it was called.
    pub command: String,
    /// When, by day.
    pub date: String,
    /// Where: kernel and processors.
    pub host: String,
}

/// Everything, by backend.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Record {
    /// By backend.
    pub sections: BTreeMap<String, Section>,
    #[serde(skip)]
    output: Option<PathBuf>,
}

impl Record {
    /// The record beside the report `output`; a new one where there is none.
    pub fn open(output: Option<PathBuf>) -> io::Result<Self> {
        let text = match output.as_deref().map(data_file) {
            Some(file) if file.exists() => fs::read_to_string(file)?,
            _ => "{\"sections\":{}}".to_owned(),
        };
        Ok(Self { output, ..serde_json::from_str(&text)? })
    }

    /// Begins a run of a backend. A whole run forgets what was; one of a choice of cells keeps
    /// what it does not measure anew.
    pub fn begin(&mut self, backend: &str, run: Run, whole: bool) {
        let section = self.sections.entry(backend.to_owned()).or_default();
        if whole {
            *section = Section::default();
        }
        section.runs.retain(|other| other.command != run.command);
        section.runs.push(run);
    }

    /// Takes in a cell.
    pub fn row(&mut self, backend: &str, row: Row) -> io::Result<()> {
        let rows = &mut self.sections.entry(backend.to_owned()).or_default().rows;
        match rows.iter_mut().find(|old| old.limiter == row.limiter && old.cell == row.cell) {
            Some(old) => *old = row,
            None => rows.push(row),
        }
        self.save()
    }

    /// Takes in a figure.
    pub fn figure(&mut self, backend: &str, figure: Figure) -> io::Result<()> {
        let figures = &mut self.sections.entry(backend.to_owned()).or_default().figures;
        match figures.iter_mut().find(|old| old.what == figure.what) {
            Some(old) => *old = figure,
            None => figures.push(figure),
        }
        self.save()
    }

    /// Writes the report, its charts and the record itself.
    fn save(&self) -> io::Result<()> {
        let Some(output) = &self.output else { return Ok(()) };
        fs::write(data_file(output), serde_json::to_string_pretty(self)? + "\n")?;
        for (backend, section) in &self.sections {
            let name = report::chart_name(output, backend);
            fs::write(output.with_file_name(name), chart::svg(backend, section))?;
        }
        fs::write(output, report::markdown(self, output))
    }
}

/// Where the record lies.
fn data_file(output: &Path) -> PathBuf {
    output.with_extension("json")
}
