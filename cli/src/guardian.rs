//! `__guardian`: the process that puts things back when its run is killed.

use std::cell::LazyCell;

use chadthrottle_core::{Host, guardian, session};

use crate::{
    backends,
    exit::{Exit, Failure},
};

/// Waits for the end of the run that started it.
pub(crate) fn guardian() -> Result<Exit, Failure> {
    // Made only when there is something to put back: until then a guardian costs next to
    // nothing.
    let backends = LazyCell::new(backends::built);
    guardian::main(&mut |id, undo, held, all| {
        session::undo_with(&backends, &Host::detect()?, id, undo, held, all)
    })?;
    Ok(Exit::Done)
}
