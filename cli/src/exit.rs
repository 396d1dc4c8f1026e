//! Exit statuses: one fact, in one place.
//!
//! Without a COMMAND 0 to 5 say what happened. With one, its own status is ours, so our own
//! failures take the numbers that `env` and `timeout` use.

use std::{
    os::unix::process::ExitStatusExt,
    process::{ExitCode, ExitStatus},
};

use chadthrottle_core::{Error, ErrorKind};

/// How a run of this program ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exit {
    /// 0: done, also after Ctrl-C.
    Done,
    /// 1: something that should have worked did not.
    Failed,
    /// 2: the request makes no sense, with a COMMAND too.
    Usage,
    /// 3: no backend can do it here.
    NoBackend,
    /// 4: privileges are missing.
    NotPermitted,
    /// 5: no such process, cgroup or unit.
    NoSuchTarget,
    /// 125: with a COMMAND, when it is we who failed.
    Ours,
    /// 126: the COMMAND is there and cannot be executed.
    NotExecutable,
    /// 127: there is no such COMMAND.
    NotFound,
    /// The COMMAND's own status; 128 + n when signal n ended it.
    Command(u8),
}

impl Exit {
    /// The number.
    pub(crate) fn code(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::Failed => 1,
            Self::Usage => 2,
            Self::NoBackend => 3,
            Self::NotPermitted => 4,
            Self::NoSuchTarget => 5,
            Self::Ours => 125,
            Self::NotExecutable => 126,
            Self::NotFound => 127,
            Self::Command(code) => code,
        }
    }
}

impl From<ErrorKind> for Exit {
    fn from(kind: ErrorKind) -> Self {
        match kind {
            ErrorKind::Failed => Self::Failed,
            ErrorKind::Usage => Self::Usage,
            ErrorKind::NoBackend => Self::NoBackend,
            ErrorKind::NotPermitted => Self::NotPermitted,
            ErrorKind::NoSuchTarget => Self::NoSuchTarget,
        }
    }
}

impl From<ExitStatus> for Exit {
    fn from(status: ExitStatus) -> Self {
        let code = match (status.code(), status.signal()) {
            (Some(code), _) => Some(code),
            (None, signal) => signal.map(|signal| 128 + signal),
        };
        // wait(2) hands over 8 bits of status, and signals up to 64.
        code.and_then(|code| u8::try_from(code).ok()).map_or(Self::Ours, Self::Command)
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        exit.code().into()
    }
}

/// Why a run did not do what was asked, and the status that says so.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) exit: Exit,
    pub(crate) error: Box<Error>,
}

impl Failure {
    /// The same failure of a run that had a COMMAND: 1 to 5 could be the command's own
    /// statuses, so all but usage become 125.
    pub(crate) fn with_command(self) -> Self {
        let exit = match self.exit {
            Exit::Failed | Exit::NoBackend | Exit::NotPermitted | Exit::NoSuchTarget => {
                Exit::Ours
            }
            exit => exit,
        };
        Self { exit, ..self }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self { exit: error.kind.into(), error: error.into() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KINDS: [(ErrorKind, u8, u8); 5] = [
        (ErrorKind::Failed, 1, 125),
        (ErrorKind::Usage, 2, 2),
        (ErrorKind::NoBackend, 3, 125),
        (ErrorKind::NotPermitted, 4, 125),
        (ErrorKind::NoSuchTarget, 5, 125),
    ];

    #[test]
    fn errors() {
        for (kind, alone, with_command) in KINDS {
            let failure = || Failure::from(Error::new(kind, "try", "it"));
            assert_eq!(failure().exit.code(), alone);
            assert_eq!(failure().with_command().exit.code(), with_command);
        }
    }

    #[test]
    fn a_command_that_cannot_start_keeps_its_status() {
        for exit in [Exit::NotFound, Exit::NotExecutable] {
            let error = Error::new(ErrorKind::Failed, "execute", "it").into();
            assert_eq!(Failure { exit, error }.with_command().exit, exit);
        }
    }

    #[test]
    fn commands() {
        for (wait_status, code) in [(0, 0), (1 << 8, 1), (255 << 8, 255), (9, 137), (15, 143)] {
            assert_eq!(Exit::from(ExitStatus::from_raw(wait_status)).code(), code);
        }
    }
}
