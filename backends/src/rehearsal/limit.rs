//! The rehearsal of a whole limit, for any backend.

use chadthrottle_core::{
    Backend, Counters, Direction, Error, ErrorKind, Host, Limit, Limits, Rate, Result, Target,
    check::{Check, Remedy, Verdict},
    session::Session,
    target::CgroupTarget,
};

use super::{Passed, Rehearsal};

/// Fast enough that a few datagrams are never too many: 1 Gbit/s.
const BYTES_PER_SECOND: u64 = 125_000_000;
/// How many datagrams are sent each way.
const DATAGRAMS: u32 = 4;

/// Does with a backend what a run does, on a stage that nobody else uses: its real objects are made, real
/// packets pass and must be counted in both directions, everything is removed.
///
/// [`Verdict::Inconclusive`] when the stage itself could not be set up: that says nothing about
/// the backend.
#[must_use]
pub fn rehearse(
    backend: Box<dyn Backend>,
    host: &Host,
    stage: Result<&mut Rehearsal, &Error>,
) -> Check {
    let outcome = match stage {
        Ok(stage) => tried(backend, host, stage),
        Err(error) => Err((Verdict::Inconclusive, error.to_string(), error.remedy.clone())),
    };
    let (verdict, evidence, remedy) = match outcome {
        Ok(evidence) => (Verdict::Works, evidence, Remedy::None),
        Err(refusal) => refusal,
    };
    Check {
        name: "rehearsal",
        asked: "limit a scratch cgroup in a namespace of its own and count real packets".into(),
        verdict,
        evidence,
        remedy,
    }
}

/// Why it does not work, or cannot be told.
type Refusal = (Verdict, String, Remedy);

fn refusal(verdict: Verdict, mut error: Error) -> Refusal {
    let remedy = std::mem::take(&mut error.remedy);
    (verdict, error.to_string(), remedy)
}

fn tried(
    backend: Box<dyn Backend>,
    host: &Host,
    stage: &mut Rehearsal,
) -> Result<String, Refusal> {
    let unknown = |error| refusal(Verdict::Inconclusive, error);
    arrived(stage.exchange(DATAGRAMS).map_err(unknown)?).map_err(unknown)?;

    // The journal and guardian of this rehearsal are its own: it looks after nobody else.
    let host = Host { run: stage.directory().to_owned(), ..host.clone() };
    let mut session = Session::open(host.clone(), vec![backend]).map_err(unknown)?;
    let outcome = limited(&mut session, stage, &host);
    // What was found out first matters more.
    match (outcome, session.finish()) {
        (Ok(counters), Ok(())) => Ok(format!(
            "{} packets up and {} down were counted",
            counters.upload.packets, counters.download.packets
        )),
        (Ok(_), Err(error)) => Err(unknown(error)),
        (Err(error), _) => Err(refusal(verdict(&error), error)),
    }
}

fn limited(session: &mut Session, stage: &mut Rehearsal, host: &Host) -> Result<Counters> {
    let limit = Rate::from_bytes_per_second(BYTES_PER_SECOND).map(|rate| Limit { rate });
    let limits = Limits { download: limit, upload: limit };
    let target = match stage.cgroup() {
        Some(path) => Target::Cgroup(CgroupTarget {
            path: path.to_owned(),
            name: path.display().to_string(),
            follow: false,
        }),
        None => Target::Process(stage.actor(host)?),
    };
    let (id, _) = session.add(None, &[target], &limits)?;
    arrived(stage.exchange(DATAGRAMS)?)?;
    let counters = session.counters(id)?;
    for direction in Direction::BOTH {
        if counters.get(direction).packets == 0 {
            return Err(Error::new(ErrorKind::NoBackend, "count", format!("the {direction}"))
                .meaning("The packets passed, and the limit did not see them."));
        }
    }
    Ok(counters)
}

/// Without packets there is nothing to see.
fn arrived(passed: Passed) -> Result<()> {
    if passed.up > 0 && passed.down > 0 {
        return Ok(());
    }
    Err(Error::new(ErrorKind::Failed, "send", "packets through the scratch namespace").meaning(
        format!("Of {DATAGRAMS} {} arrived there and {} here.", passed.up, passed.down),
    ))
}

/// What a refusal says about the backend.
fn verdict(error: &Error) -> Verdict {
    match (&error.remedy, error.kind) {
        (Remedy::StopHolder(_), _) => Verdict::Conflict,
        (_, ErrorKind::NotPermitted) => Verdict::Denied,
        (_, ErrorKind::NoBackend) => Verdict::Missing,
        _ if error.errno() != 0 => Verdict::Missing,
        _ => Verdict::Inconclusive,
    }
}
