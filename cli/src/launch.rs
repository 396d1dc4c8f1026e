//! `__launch`: enters a leaf cgroup, becomes another user, becomes the command.
//!
//! A process of its own and not code between fork and exec, where almost nothing is safe to
//! call. It has one thread, so that the user changes for the whole process. Signals that the
//! run catches fall back to their defaults by exec itself; std resets SIGPIPE, which it
//! ignores, and empties the signal mask.

use std::{ffi::CString, fs, os::unix::process::CommandExt, path::Path, process::Command};

use chadthrottle_core::{Error, Result};
use nix::unistd::{User, initgroups, setgid, setuid};

use crate::{
    args::LaunchArgs,
    exit::{Exit, Failure},
    run,
};

/// Becomes the command; returns only when that failed.
pub(crate) fn launch(args: &LaunchArgs) -> Result<Exit, Failure> {
    prepared(args).map_err(|error| Failure::from(error).with_command()).and_then(
        |mut command| {
            let error = command.exec();
            Err(run::not_started(command.get_program(), error))
        },
    )
}

/// Does what must be done before exec.
fn prepared(args: &LaunchArgs) -> Result<Command> {
    let (program, arguments) = args.command.split_first().expect("clap requires a COMMAND");
    let mut command = Command::new(program);
    command.args(arguments);
    enter(&args.leaf)?;
    if let Some(name) = &args.user {
        let user = run::user(name)?;
        drop_privileges(&user)?;
        command
            .env("HOME", &user.dir)
            .env("SHELL", &user.shell)
            .env("USER", &user.name)
            .env("LOGNAME", &user.name);
    }
    Ok(command)
}

/// Moves this process; 0 means the writer (cgroups(7)), in any pid namespace.
fn enter(leaf: &Path) -> Result<()> {
    let procs = leaf.join("cgroup.procs");
    fs::write(&procs, "0").map_err(|error| Error::io("enter", leaf.display(), error))
}

/// The groups first: without root they could not be changed any more.
fn drop_privileges(user: &User) -> Result<()> {
    let name = CString::new(user.name.as_str()).expect("the C library had it as a C string");
    initgroups(&name, user.gid)
        .and_then(|()| setgid(user.gid))
        .and_then(|()| setuid(user.uid))
        .map_err(|errno| Error::io("become user", &user.name, errno.into()))
}
