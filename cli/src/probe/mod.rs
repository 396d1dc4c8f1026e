//! `chadthrottle probe`: finds out by real attempts what works here, and why the rest does not.

mod text;

use std::{
    io::{self, Write},
    path::Path,
    time::Instant,
};

use chadthrottle_backends::{
    ebpf::examine::{self, Examination},
    neighbours::Neighbours,
    rehearsal::{Rehearsal, rehearse},
};
use chadthrottle_core::{
    Backend, BackendId, Capabilities, Error, ErrorKind, Host, Result,
    check::{Check, ProbeReport, Verdict},
    diagnosis::{self, Diagnosis, Findings},
    system::{self, KernelLog, NEEDS, System},
};
use serde::Serialize;

pub(crate) use text::Shown;

use crate::{
    args::ProbeArgs,
    backends,
    exit::{Exit, Failure},
};

/// All that was found out. The names are stable (docs/probing.md): fields are added, never
/// changed.
#[derive(Serialize)]
struct Report {
    version: &'static str,
    /// Whether the probe had root's user id; without it most attempts are not made.
    root: bool,
    /// Step 1 of the verification guide.
    system: System,
    /// Step 7.
    configuration: Vec<Check>,
    /// Step 1 too: others that shape or filter.
    neighbours: Neighbours,
    /// Steps 2, 4, 5 and 6; `null` when another backend was asked for.
    bpf: Option<Examination>,
    /// Step 3; `null` when it cannot be read.
    kernel_log: Option<Vec<system::Line>>,
    backends: Vec<Answer>,
    diagnosis: Diagnosis,
    seconds: f64,
}

/// What one backend answered.
#[derive(Serialize)]
struct Answer {
    backend: BackendId,
    works: bool,
    verdict: Verdict,
    capabilities: Capabilities,
    #[serde(flatten)]
    report: ProbeReport,
}

/// All backends and the diagnosis, for the live view.
pub(crate) fn look_at_all(host: &Host) -> (Vec<(BackendId, ProbeReport)>, Diagnosis) {
    let report = look(host, backends::built(), None);
    let answers = report.backends.into_iter().map(|answer| (answer.backend, answer.report));
    (answers.collect(), report.diagnosis)
}

/// Status 0 when at least one of the backends that were asked works, else 3.
pub(crate) fn probe(args: &ProbeArgs) -> Result<Exit, Failure> {
    let started = Instant::now();
    let host = Host::detect()?;
    let cgroup = match &args.cgroup {
        Some(path) => Some(host.cgroups()?.resolve(path)?),
        None => None,
    };
    let asked = asked(args)?;
    let mut report = look(&host, asked, cgroup.as_deref());
    report.seconds = started.elapsed().as_secs_f64();
    print(args, &report).map_err(|error| Error::io("write", "the report", error))?;
    let works = report.backends.iter().any(|answer| answer.works);
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

fn look(host: &Host, asked: Vec<Box<dyn Backend>>, cgroup: Option<&Path>) -> Report {
    let log = KernelLog::open().ok();
    let system = System::look(host);
    let ids: Vec<BackendId> = asked.iter().map(|backend| backend.id()).collect();
    let configuration = NEEDS
        .iter()
        .filter(|needs| ids.contains(&needs.backend))
        .map(|needs| system.config.check(needs))
        .collect();
    let mut stage = Rehearsal::open(host);
    let bpf = ids
        .contains(&BackendId::Ebpf)
        .then(|| examine::examine(host, stage.as_ref().ok(), cgroup));
    let answers: Vec<Answer> =
        asked.into_iter().map(|backend| ask(backend, host, &mut stage)).collect();
    drop(stage);
    let diagnosis = diagnosis::decide(&Findings {
        backends: answers.iter().map(|answer| (answer.backend, &answer.report)).collect(),
        bpf: bpf.as_ref().map(|examination| &examination.findings),
        system: &system,
    });
    Report {
        version: env!("CARGO_PKG_VERSION"),
        root: rustix::process::geteuid().is_root(),
        neighbours: Neighbours::look(host),
        kernel_log: log.and_then(|log| log.finish().ok()),
        backends: answers,
        system,
        configuration,
        bpf,
        diagnosis,
        seconds: 0.0,
    }
}

/// The backend's own questions, and where they were answered well a whole limit.
fn ask(backend: Box<dyn Backend>, host: &Host, stage: &mut Result<Rehearsal>) -> Answer {
    let (id, mut report) = (backend.id(), backend.probe(host));
    let capabilities = backend.capabilities();
    if report.first_no().is_none() {
        let check = rehearse(backend, host, stage.as_mut().map_err(|error| &*error));
        // What went wrong may have left its marks on the stage.
        if check.verdict != Verdict::Works && stage.is_ok() {
            *stage = Rehearsal::open(host);
        }
        report.checks.push(check);
    }
    let (works, verdict) = (report.works(), report.verdict());
    Answer { backend: id, works, verdict, capabilities, report }
}

fn print(args: &ProbeArgs, report: &Report) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    if args.json {
        serde_json::to_writer(&mut stdout, report)?;
        return writeln!(stdout);
    }
    write!(stdout, "{report}")
}
