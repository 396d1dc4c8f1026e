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

/// Does with a backend what a run does, on a stage of its own: its real objects are made, real
/// packets pass and must be counted in both directions, everything is removed.
///
/// [`Verdict::Inconclusive`] when the stage itself could not be set up: that says nothing about
/// the backend.
#[must_use]
pub fn rehearse(backend: Box<dyn Backend>, host: &Host) -> Check {
    let (verdict, evidence, remedy) = match tried(backend, host) {
        Ok(evidence) => (Verdict::Works, evidence, Remedy::None),
        Err((verdict, error)) => {
            let remedy = error.remedy.clone();
            (verdict, error.remedy(Remedy::None).to_string(), remedy)
        }
    };
    Check {
        name: "rehearsal",
        asked: "limit a scratch cgroup in a namespace of its own and count real packets".into(),
        verdict,
        evidence,
        remedy,
    }
}

fn tried(backend: Box<dyn Backend>, host: &Host) -> Result<String, (Verdict, Box<Error>)> {
    let unknown = |error| (Verdict::Inconclusive, Box::new(error));
    let mut stage = Rehearsal::open(host).map_err(unknown)?;
    arrived(stage.exchange(DATAGRAMS).map_err(unknown)?).map_err(unknown)?;

    // The journal and guardian of this rehearsal are its own: it looks after nobody else.
    let host = Host { run: stage.directory().to_owned(), ..host.clone() };
    let mut session = Session::open(host.clone(), vec![backend]).map_err(unknown)?;
    let outcome = limited(&mut session, &mut stage, &host);
    // What was found out first matters more.
    match (outcome, session.finish()) {
        (Ok(counters), Ok(())) => Ok(format!(
            "{} packets up and {} down were counted",
            counters.upload.packets, counters.download.packets
        )),
        (Ok(_), Err(error)) => Err(unknown(error)),
        (Err(error), _) => Err((verdict(&error), Box::new(error))),
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
