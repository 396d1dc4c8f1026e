//! The COMMAND of a run.
//!
//! It is started through ourselves (`__launch`, see [`crate::launch`]), which enters the leaf
//! before the command's first instruction: no packet of it escapes its limit.

use std::{
    env,
    ffi::OsStr,
    fs::File,
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
    process::{Child, Command},
};

use chadthrottle_core::{Error, ErrorKind, Result};
use nix::unistd::User;
use rustix::{
    fs::{Access, access},
    io::Errno,
    process::{Pid, PidfdFlags, Signal, getpgid, pidfd_open, pidfd_send_signal},
    termios::tcgetpgrp,
};
use signal_hook::consts::{SIGINT, SIGQUIT};
use tracing::warn;

use crate::{
    args::RunArgs,
    exit::{Exit, Failure},
};

/// A command that runs in its leaf.
pub(super) struct Running {
    child: Child,
    pidfd: OwnedFd,
}

impl Running {
    /// Starts it.
    pub(super) fn start(leaf: &Path, args: &RunArgs) -> Result<Self> {
        let mut launcher = Command::new("/proc/self/exe");
        launcher.arg("__launch").arg(leaf);
        if let Some(user) = &args.user {
            launcher.arg("--as").arg(user);
        }
        launcher.arg("--").args(&args.command);
        let child =
            launcher.spawn().map_err(|error| Error::io("start", "the launcher", error))?;
        let pid = Pid::from_child(&child);
        let pidfd = pidfd_open(pid, PidfdFlags::empty())
            .map_err(|error| Error::io("watch process", pid, error.into()))?;
        Ok(Self { child, pidfd })
    }

    /// Hands on a signal that we got, unless the command got it too.
    pub(super) fn forward(&self, signal: i32) {
        // Ctrl-C and Ctrl-\ go to every process in the terminal's foreground group.
        if [SIGINT, SIGQUIT].contains(&signal) && self.is_in_foreground() {
            return;
        }
        let Some(signal) = Signal::from_named_raw(signal) else { return };
        match pidfd_send_signal(&self.pidfd, signal) {
            Ok(()) | Err(Errno::SRCH) => {}
            Err(error) => warn!("cannot forward signal {signal:?} to the command: {error}"),
        }
    }

    /// How it ended, once it has.
    pub(super) fn ended(&mut self) -> Result<Option<Exit>> {
        let status = self.child.try_wait();
        let status = status.map_err(|error| Error::io("wait for", "the command", error))?;
        Ok(status.map(Exit::from))
    }

    /// Whether the command is in the foreground process group of our terminal.
    fn is_in_foreground(&self) -> bool {
        let foreground = File::open("/dev/tty").ok().and_then(|tty| tcgetpgrp(tty).ok());
        let own = getpgid(Some(Pid::from_child(&self.child))).ok();
        own.is_some() && own == foreground
    }
}

/// Readable once the command has ended.
impl AsFd for Running {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }
}

/// Finds the user of `--as`.
pub(crate) fn user(name: &str) -> Result<User> {
    let error = |meaning: &str| {
        Error::new(ErrorKind::Usage, "start the command as", name)
            .meaning(meaning)
            .advice("Give the name of a user of this machine to --as.")
    };
    match User::from_name(name) {
        Ok(Some(user)) => Ok(user),
        Ok(None) => Err(error("There is no such user.")),
        Err(errno) => Err(error("The user database could not be read.").because(errno)),
    }
}

/// Refuses a command that is known not to exist or not to be executable, as execvp(3) would.
/// What cannot be known (a folder that only the user of `--as` can search) is left to exec.
pub(super) fn check(program: &OsStr) -> Result<(), Failure> {
    let mut worst = Errno::NOENT;
    for path in candidates(program) {
        match access(&path, Access::EXEC_OK) {
            Ok(()) if !path.is_dir() => return Ok(()),
            Ok(()) => worst = Errno::ACCESS,
            Err(Errno::NOENT | Errno::NOTDIR) => {}
            Err(Errno::ACCESS) if path.exists() => worst = Errno::ACCESS,
            Err(_) => return Ok(()),
        }
    }
    Err(not_started(program, worst.into()))
}

/// The files that a name can mean: itself when it has a slash, else one in each folder of PATH.
fn candidates(program: &OsStr) -> Vec<PathBuf> {
    if program.is_empty() {
        return Vec::new();
    }
    if program.as_encoded_bytes().contains(&b'/') {
        return vec![program.into()];
    }
    // Without PATH the C library searches these (confstr(3), _CS_PATH).
    let path = env::var_os("PATH").unwrap_or_else(|| "/bin:/usr/bin".into());
    env::split_paths(&path).map(|folder| folder.join(program)).collect()
}

/// Why exec failed, with the exit status that `env` gives it.
pub(crate) fn not_started(program: &OsStr, source: io::Error) -> Failure {
    let (exit, meaning, advice) = match source.raw_os_error().map(Errno::from_raw_os_error) {
        Some(Errno::NOENT) => {
            (Exit::NotFound, "There is no such command.", "Check its name and PATH.")
        }
        Some(Errno::ACCESS) => (
            Exit::NotExecutable,
            "It is not a file that may be executed.",
            "Check its permissions, those of its folders, and --as.",
        ),
        _ => (
            Exit::NotExecutable,
            "The kernel refuses it.",
            "Check that it is a program for this machine.",
        ),
    };
    let error = Error::new(ErrorKind::Failed, "execute", program.display());
    let error = error.because(source).meaning(meaning).advice(advice);
    Failure { exit, error: error.into() }
}
