//! Which backend was chosen, and why the others were not.

use serde::Serialize;

use crate::{
    backend::{Backend, BackendId},
    check::Verdict,
    error::{Error, ErrorKind, Result},
    host::Host,
};

/// A backend that was asked for or tried, and the reason why it is not used.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Rejected {
    /// Which one.
    pub backend: BackendId,
    /// Why, in the words of the check or error that decided.
    pub reason: String,
}

/// The outcome of choosing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Selection {
    /// The backend in use.
    pub chosen: BackendId,
    /// Whether the user named it; else it is the first that works.
    pub asked: bool,
    /// How it is attached: `link`, `legacy`.
    pub attach: &'static str,
    /// The ones before it in the order, with their reasons.
    pub rejected: Vec<Rejected>,
}

/// The backends to try, in order: only `choice` when the user named one, else all that are
/// built, in the order of [`BackendId::ALL`].
///
/// A backend that was named and is not built yet is an error, never silently another one.
pub(crate) fn candidates(
    built: &[Box<dyn Backend>],
    choice: Option<BackendId>,
) -> Result<Vec<&dyn Backend>> {
    let find = |id: BackendId| built.iter().find(|b| b.id() == id).map(AsRef::as_ref);
    let Some(id) = choice else {
        return Ok(BackendId::ALL.into_iter().filter_map(find).collect());
    };
    match find(id) {
        Some(backend) => Ok(vec![backend]),
        None => Err(Error::new(ErrorKind::NoBackend, "use the backend", id)
            .meaning("It is not built yet in this version.")
            .advice("Use --backend ebpf, or leave --backend out.")),
    }
}

/// Why a backend does not work here, or `None` when it does or may.
pub(crate) fn rejection(backend: &dyn Backend, host: &Host) -> Option<Error> {
    let report = backend.probe(host);
    let check = report.first_no()?;
    let kind = match check.verdict {
        Verdict::Denied => ErrorKind::NotPermitted,
        _ => ErrorKind::NoBackend,
    };
    let error = Error::new(kind, &check.asked, format!("for the backend {}", backend.id()));
    Some(
        error
            .meaning(format!("What was seen: {}.", check.evidence))
            .remedy(check.remedy.clone()),
    )
}
