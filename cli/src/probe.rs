//! `chadthrottle probe`: asks every backend, by real attempts, what works here.

use std::{
    fmt,
    io::{self, Write},
};

use chadthrottle_backends::rehearsal::rehearse;
use chadthrottle_core::{
    Backend, BackendId, Error, ErrorKind, Host, Result,
    check::{ProbeReport, Remedy, Verdict},
};
use serde::Serialize;

use crate::{
    args::ProbeArgs,
    backends,
    exit::{Exit, Failure},
};

/// What one backend answered.
#[derive(Serialize)]
struct Answer {
    backend: BackendId,
    works: bool,
    #[serde(flatten)]
    report: ProbeReport,
}

/// Status 0 when at least one of the backends that were asked works, else 3.
pub(crate) fn probe(args: &ProbeArgs) -> Result<Exit, Failure> {
    let host = Host::detect()?;
    let answers: Vec<Answer> =
        asked(args)?.into_iter().map(|backend| ask(backend, &host)).collect();
    print(args, &answers).map_err(|error| Error::io("write", "the report", error))?;
    let works = answers.iter().any(|answer| answer.works);
    Ok(if works { Exit::Done } else { Exit::NoBackend })
}

/// The backend that was named, or all that are built.
fn asked(args: &ProbeArgs) -> Result<Vec<Box<dyn Backend>>> {
    let mut built = backends::built();
    if let Some(id) = args.backend.and_then(|choice| choice.0) {
        built.retain(|backend| backend.id() == id);
        if built.is_empty() {
            return Err(Error::new(ErrorKind::NoBackend, "probe the backend", id)
                .meaning("It is not built yet in this version."));
        }
    }
    Ok(built)
}

fn ask(backend: Box<dyn Backend>, host: &Host) -> Answer {
    let (id, mut report) = (backend.id(), backend.probe(host));
    if report.works() {
        report.checks.push(rehearse(backend, host));
    }
    Answer { backend: id, works: report.works(), report }
}

fn print(args: &ProbeArgs, answers: &[Answer]) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    if args.json {
        serde_json::to_writer(&mut stdout, &serde_json::json!({ "backends": answers }))?;
        return writeln!(stdout);
    }
    answers.iter().try_for_each(|answer| write!(stdout, "{answer}"))
}

/// A table: a line a check, and what to do about those that failed.
impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verdict = if self.works { "works" } else { "does not work" };
        writeln!(f, "{}: {verdict} here", self.backend)?;
        let width = self.report.checks.iter().map(|check| check.name.len()).max().unwrap_or(0);
        for check in &self.report.checks {
            let verdict = word(check.verdict);
            writeln!(f, "  {:width$}  {verdict:12}  {}", check.name, check.asked)?;
            let indent = width + 18;
            if check.verdict != Verdict::Works && !check.evidence.is_empty() {
                writeln!(f, "{:indent$}{}", "", check.evidence)?;
            }
            if check.remedy != Remedy::None {
                writeln!(f, "{:indent$}{}", "", check.remedy)?;
            }
        }
        Ok(())
    }
}

fn word(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Works => "works",
        Verdict::Missing => "missing",
        Verdict::Denied => "denied",
        Verdict::Conflict => "conflict",
        Verdict::Inconclusive => "inconclusive",
    }
}

#[cfg(test)]
mod tests {
    use chadthrottle_core::check::Check;

    use super::*;

    #[test]
    fn a_line_a_check_and_the_way_out() {
        let check = |name, verdict, remedy| Check {
            name,
            asked: format!("ask {name}"),
            verdict,
            evidence: "EPERM".to_owned(),
            remedy,
        };
        let report = ProbeReport {
            checks: vec![
                check("map", Verdict::Works, Remedy::None),
                check("attach", Verdict::Denied, Remedy::GrantCapability("CAP_BPF".to_owned())),
            ],
        };
        let answer = Answer { backend: BackendId::Ebpf, works: report.works(), report };
        let text = answer.to_string();
        let lines: Vec<_> = text.lines().map(str::trim).collect();
        assert_eq!(
            lines,
            [
                "ebpf: does not work here",
                "map     works         ask map",
                "attach  denied        ask attach",
                "EPERM",
                "Run it with sudo, or grant CAP_BPF.",
            ]
        );
    }
}
