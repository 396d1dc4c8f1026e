//! What this kernel lets the backend do, by real calls ([`super::scratch`]). Nothing of the host is
//! touched.

use std::thread;

use chadthrottle_core::{
    Error, ErrorKind, Host, Result,
    check::{Check, ProbeReport, Remedy, Verdict},
    error::describe,
    host::missing_capabilities,
};
use rustix::thread::CapabilitySet;

use super::scratch::{self, QUESTIONS, Scratch};

/// How packets are known: forced for tests. `marks` or `flows`.
const ATTRIBUTION: &str = "CHADTHROTTLE_TC_ATTRIBUTION";

/// Asks in the order in which things are needed, and stops at the first no. Says too whether marks
/// can be used, where it came so far.
pub(super) fn probe(_: &Host) -> (ProbeReport, Option<bool>) {
    let mut marks = None;
    let mut report = ProbeReport::default();
    report.checks.push(capabilities());
    if report.works() {
        let checks = thread::scope(|scope| {
            let scratch = thread::Builder::new().name("tc-probe".into());
            match scratch.spawn_scoped(scope, in_scratch_namespace) {
                Ok(thread) => thread.join().unwrap_or_default(),
                Err(_) => Vec::new(),
            }
        });
        report.checks.extend(checks);
    }
    if report.works() {
        let (check, works) = attribution();
        report.checks.push(check);
        marks = Some(works);
    }
    (report, marks)
}

/// Either way works; marks are exact, flows need no more than what was asked before.
fn attribution() -> (Check, bool) {
    let marks = marks();
    let evidence = match &marks {
        Ok(()) => "marks: every packet is known by its socket's cgroup".to_owned(),
        Err(error) => {
            let new = match in_scratch(scratch::try_gate) {
                Ok(()) => "waits until it is found".to_owned(),
                Err(error) => format!(
                    "is free until it is found, for milliseconds (to hold it the kernel would have to {})",
                    needed(&error)
                ),
            };
            format!(
                "flows: a new connection {new}; for marks the kernel would have to {}",
                needed(error)
            )
        }
    };
    let check = Check {
        name: "attribution",
        asked: "know the packets of a socket by marks, or else by flows".to_owned(),
        verdict: Verdict::Works,
        evidence,
        remedy: marks.as_ref().err().map(|error| error.remedy.clone()).unwrap_or_default(),
    };
    (check, marks.is_ok())
}

/// What failed, and why.
fn needed(error: &Error) -> String {
    let reason = error.source.as_ref().map(describe).unwrap_or_default();
    let why = [reason.as_str(), &error.meaning].into_iter().filter(|text| !text.is_empty());
    format!("{} {}: {}", error.operation, error.object, why.collect::<Vec<_>>().join(": "))
}

/// Whether all that marks need can be made, in a namespace of its own.
pub(super) fn marks() -> Result<()> {
    match std::env::var(ATTRIBUTION).as_deref() {
        Ok("flows") => {
            return Err(Error::new(ErrorKind::NoBackend, "use", "marks")
                .meaning(format!("{ATTRIBUTION} says so.")));
        }
        Ok("marks") => return Ok(()),
        _ => {}
    }
    in_scratch(scratch::try_marks)
}

/// On a thread of its own, since it enters a namespace.
fn in_scratch(attempt: fn() -> Result<()>) -> Result<()> {
    let thread = thread::Builder::new().name("tc-probe".into());
    let failed = |error| Error::io("start a thread for", "the probe", error);
    let thread = thread.spawn(attempt).map_err(failed)?;
    thread.join().unwrap_or_else(|_| Err(scratch::lost("the probe")))
}

/// `CAP_NET_ADMIN` for devices, qdiscs and filters; `CAP_SYS_PTRACE` for the descriptor tables of
/// others, `CAP_SYS_ADMIN` for other network namespaces.
fn capabilities() -> Check {
    let needed =
        CapabilitySet::NET_ADMIN | CapabilitySet::SYS_PTRACE | CapabilitySet::SYS_ADMIN;
    let missing = missing_capabilities(needed).join(", ");
    let works = missing.is_empty();
    Check {
        name: "capabilities",
        asked: "use the capabilities for devices, filters and the sockets of others".to_owned(),
        verdict: if works { Verdict::Works } else { Verdict::Denied },
        evidence: if works {
            "all there".to_owned()
        } else {
            format!("the effective set lacks {missing}")
        },
        remedy: if works { Remedy::None } else { Remedy::GrantCapability(missing) },
    }
}

fn in_scratch_namespace() -> Vec<Check> {
    let mut scratch = match Scratch::enter() {
        Ok(scratch) => scratch,
        Err(error) => {
            // Nothing about the backend itself.
            let asked = "make a network namespace to try things in";
            return vec![check("scratch-namespace", asked, Err(error), Verdict::Inconclusive)];
        }
    };
    let mut checks = Vec::new();
    for (name, asked, ask) in QUESTIONS {
        let answer = ask(&mut scratch);
        let missing = answer.as_ref().err().map_or(Verdict::Works, verdict);
        checks.push(check(name, asked, answer, missing));
        if missing != Verdict::Works {
            break;
        }
    }
    checks
}

/// What a refusal says.
fn verdict(error: &Error) -> Verdict {
    match (error.kind, error.errno()) {
        (ErrorKind::NotPermitted, _) => Verdict::Denied,
        (ErrorKind::NoBackend, _)
        | (_, libc::ENOENT | libc::EOPNOTSUPP | libc::EAFNOSUPPORT) => Verdict::Missing,
        _ => Verdict::Inconclusive,
    }
}

fn check(name: &'static str, asked: &str, answer: Result<String>, verdict: Verdict) -> Check {
    let (evidence, remedy) = match answer {
        Ok(evidence) => (evidence, Remedy::None),
        Err(error) => {
            let said = error.source.as_ref().map(describe).unwrap_or_default();
            let evidence = [said, error.meaning].into_iter().filter(|text| !text.is_empty());
            (evidence.collect::<Vec<_>>().join(": "), error.remedy)
        }
    };
    Check { name, asked: asked.to_owned(), verdict, evidence, remedy }
}
