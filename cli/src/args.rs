//! The command line.

use std::{ffi::OsString, net::SocketAddr, path::PathBuf, time::Duration};

use chadthrottle_core::{BackendId, Limit, Limits, Rate};
use clap::{
    Args, CommandFactory, Parser, Subcommand,
    builder::{PossibleValuesParser, TypedValueParser},
    error::ErrorKind,
};

const EXAMPLES: &str = "\
Examples:
  sudo chadthrottle run -d 10mbit --pid 1234
      limit a running process and its children, open connections included
  sudo chadthrottle run -d 1MB/s -u 500kbit --as $USER -- curl -O https://example.org/file
      start a command with limits
  sudo chadthrottle run -u 5mbit --unit nginx --duration 1h30m
      limit a systemd unit for a while
  sudo chadthrottle probe
      find out what this kernel can do

Rates are payload, as the application gets it: in bits (500kbit, 10mbit, 1.5gbit) or in bytes
(500kB/s, 1MB/s, 1MiB/s).

Exit status: 0 done, 1 failed, 2 usage, 3 no usable backend, 4 not permitted, 5 no such
target. With a COMMAND its own status, 128+n when signal n ended it, or 125 when chadthrottle
failed, 126 when the command cannot be executed, 127 when there is none.";

/// Limits the network bandwidth of processes while they run.
#[derive(Debug, Parser)]
#[command(name = "chadthrottle", version, after_help = EXAMPLES)]
pub(crate) struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Limit processes, units, cgroups or a command, and hold the limits until it ends
    ///
    /// Without a target or a rate, on a terminal, it opens the live view: who moves how much, and
    /// limits on it.
    ///
    /// All targets of one run share its limits, and their children are included. The limits hold
    /// until the command or the last target ends, Ctrl-C, SIGTERM or --duration. Loopback traffic
    /// is never limited.
    Run(RunArgs),
    /// Find out by real attempts which backends work on this machine
    Probe(ProbeArgs),
    /// Take back what instances left that were killed together with their guardian
    Clean(CleanArgs),
    /// Limit a built-in transfer between two network namespaces and show the rate it gets
    Demo,
    /// The receiving end of the demonstration.
    #[command(hide = true, name = "__receive")]
    Receive(ReceiveArgs),
    /// Enters a leaf cgroup and becomes COMMAND.
    #[command(hide = true, name = "__launch")]
    Launch(LaunchArgs),
    /// The process that puts things back when its run is killed.
    #[command(hide = true, name = "__guardian")]
    Guardian,
    /// The process in a scratch cgroup that a probe tries its backends on.
    #[command(hide = true, name = "__rehearse")]
    Rehearse {
        /// The cgroup to make; none where there is no cgroup v2.
        cgroup: Option<PathBuf>,
    },
}

/// Arguments of `run`.
#[derive(Debug, Default, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct RunArgs {
    /// Use this mechanism or fail; auto takes the first that works
    #[arg(long, value_name = "BACKEND", default_value = "auto")]
    #[arg(value_parser = backend(["auto", "ebpf", "tc", "nft"]))]
    pub(crate) backend: Choice,

    /// Highest rate to the targets: 10mbit, 500kbit, 1MB/s
    ///
    /// For UDP and QUIC only the receiver's rate can be promised, not what is sent to it.
    #[arg(short, long, value_name = "RATE")]
    pub(crate) download: Option<Rate>,

    /// Highest rate from the targets: 10mbit, 500kbit, 1MB/s
    #[arg(short, long, value_name = "RATE")]
    pub(crate) upload: Option<Rate>,

    /// Limit this process and its children; may be repeated
    #[arg(long, value_name = "PID", value_parser = clap::value_parser!(i32).range(1..))]
    pub(crate) pid: Vec<i32>,

    /// Limit everything in this cgroup (v2) and below; may be repeated
    ///
    /// A path in the file system, or as /proc/PID/cgroup spells it: /system.slice/x.service.
    #[arg(long, value_name = "PATH")]
    pub(crate) cgroup: Vec<PathBuf>,

    /// Limit this systemd unit, across restarts too; may be repeated
    #[arg(long, value_name = "NAME")]
    pub(crate) unit: Vec<String>,

    /// Lift the limits after this time: 30s, 5m, 1h30m
    ///
    /// A command then goes on without limits, and run waits for it.
    #[arg(long, value_name = "TIME", value_parser = time)]
    pub(crate) duration: Option<Duration>,

    /// Write events to stdout, one JSON object a line
    #[arg(long, conflicts_with_all = ["json_file", "command"])]
    pub(crate) json: bool,

    /// Write events to this file, one JSON object a line
    #[arg(long, value_name = "FILE")]
    pub(crate) json_file: Option<PathBuf>,

    /// Only show warnings and errors
    #[arg(short, long)]
    pub(crate) quiet: bool,

    /// Start the command as this user (under sudo: usually who typed it)
    #[arg(long = "as", value_name = "USER", requires = "command")]
    pub(crate) user: Option<String>,

    /// Start this command and limit it with all its children
    #[arg(last = true, value_name = "COMMAND")]
    pub(crate) command: Vec<OsString>,
}

#[derive(Debug, Args)]
pub(crate) struct ProbeArgs {
    /// Only ask this backend
    #[arg(long, value_name = "BACKEND", value_parser = backend(["ebpf", "tc", "nft"]))]
    pub(crate) backend: Option<Choice>,

    /// Also try to attach to this cgroup
    ///
    /// A path in the file system, or as /proc/PID/cgroup spells it: /user.slice.
    #[arg(long, value_name = "PATH")]
    pub(crate) cgroup: Option<PathBuf>,

    /// Write one JSON object to stdout
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct CleanArgs {
    /// Only say what would be taken back
    #[arg(long)]
    pub(crate) dry_run: bool,
}

#[derive(Debug, Args)]
pub(crate) struct ReceiveArgs {
    /// Where the sender listens.
    pub(crate) sender: SocketAddr,
    /// How long to receive.
    #[arg(value_parser = time)]
    pub(crate) duration: Duration,
    /// The limit that was asked for.
    pub(crate) asked: Rate,
}

#[derive(Debug, Args)]
pub(crate) struct LaunchArgs {
    /// The cgroup to enter.
    pub(crate) leaf: PathBuf,
    /// The user to become.
    #[arg(long = "as")]
    pub(crate) user: Option<String>,
    /// What to become.
    #[arg(last = true, required = true)]
    pub(crate) command: Vec<OsString>,
}

/// A backend by name, or none in particular (`auto`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Choice(pub(crate) Option<BackendId>);

/// Reads the command line. Ends the process for --help, --version, and with status 2 for what
/// makes no sense.
pub(crate) fn parse() -> Command {
    let command = Cli::parse().command.unwrap_or_else(|| Command::Run(RunArgs::default()));
    if let Command::Run(args) = &command
        && let Err(problem) = args.check()
    {
        let mut cli = Cli::command();
        cli.build();
        let run = cli.find_subcommand_mut("run").expect("it is declared above");
        run.error(ErrorKind::MissingRequiredArgument, problem).exit();
    }
    command
}

impl Command {
    pub(crate) fn is_quiet(&self) -> bool {
        matches!(self, Self::Run(args) if args.quiet)
    }
}

impl RunArgs {
    /// What was asked for; at least one direction once [`Self::check`] has passed.
    pub(crate) fn limits(&self) -> Limits {
        let limit = |rate: Option<Rate>| rate.map(|rate| Limit { rate });
        Limits { download: limit(self.download), upload: limit(self.upload) }
    }

    /// Nothing was said but perhaps which backend: the live view.
    pub(crate) fn wants_view(&self) -> bool {
        let asks = self.duration.is_some() || self.json || self.json_file.is_some();
        self.targets() == 0 && self.limits().is_empty() && !asks
    }

    fn targets(&self) -> usize {
        self.pid.len() + self.cgroup.len() + self.unit.len() + self.command.len()
    }

    /// What clap cannot say in attributes: somebody to limit, and by how much.
    fn check(&self) -> Result<(), &'static str> {
        if self.wants_view() {
            return Ok(());
        }
        if self.targets() == 0 {
            return Err("nothing to limit: name a target with --pid PID, --unit NAME or \
                        --cgroup PATH, or give a command after --, \
                        and a rate with --download or --upload \
                        (without any of these, on a terminal, run opens the live view)");
        }
        if self.limits().is_empty() {
            return Err("no limit: give a rate with --download RATE, --upload RATE or both, \
                        for example --download 10mbit");
        }
        Ok(())
    }
}

/// Takes one of `names`.
fn backend<const N: usize>(names: [&'static str; N]) -> impl TypedValueParser<Value = Choice> {
    PossibleValuesParser::new(names)
        .map(|name| Choice(BackendId::ALL.into_iter().find(|id| id.to_string() == name)))
}

/// Reads a time; 0 would be over before it began.
fn time(text: &str) -> Result<Duration, String> {
    match humantime::parse_duration(text) {
        Ok(Duration::ZERO) => Err("no time at all".to_owned()),
        Ok(duration) => Ok(duration),
        Err(error) => Err(format!("{error}; write for example 30s, 5m or 1h30m")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(args: &[&str]) -> Result<RunArgs, String> {
        let words = ["chadthrottle", "run"].iter().chain(args);
        let cli = Cli::try_parse_from(words).map_err(|error| error.to_string())?;
        let Some(Command::Run(args)) = cli.command else { unreachable!() };
        args.check().map(|()| args).map_err(str::to_owned)
    }

    #[test]
    fn clap_finds_no_contradiction() {
        Cli::command().debug_assert();
    }

    #[test]
    fn all_flags_together() {
        let args = run(&[
            "--backend",
            "ebpf",
            "-d",
            "10mbit",
            "--upload",
            "1MB/s",
            "--pid",
            "7",
            "--pid",
            "8",
            "--cgroup",
            "/x",
            "--unit",
            "nginx",
            "--duration",
            "1h30m",
            "--json-file",
            "f",
            "-q",
            "--as",
            "nobody",
            "--",
            "curl",
            "-d",
            "x",
        ])
        .unwrap();
        assert_eq!(args.backend, Choice(Some(BackendId::Ebpf)));
        assert_eq!(args.limits().download.unwrap().rate.to_string(), "10 Mbit/s");
        assert_eq!(args.limits().upload.unwrap().rate.bytes_per_second(), 1_000_000);
        assert_eq!(args.pid, [7, 8]);
        assert_eq!(args.duration, Some(Duration::from_secs(5400)));
        assert_eq!(args.command, ["curl", "-d", "x"]);
        assert!(args.quiet && !args.json);
    }

    #[test]
    fn auto_is_no_backend_in_particular() {
        assert_eq!(run(&["-d", "1mbit", "--pid", "1"]).unwrap().backend, Choice(None));
        assert_eq!(RunArgs::default().backend, Choice(None));
    }

    #[test]
    fn refused() {
        for (args, why) in [
            (&["-d", "10mbit"][..], "nothing to limit"),
            (&["--duration", "5s"], "nothing to limit"),
            (&["--json"], "nothing to limit"),
            (&["--pid", "1"], "no limit"),
            (&["--", "true"], "no limit"),
            (&["-d", "10M", "--pid", "1"], "write 10mbit for bits or 10MB/s for bytes"),
            (&["-d", "0mbit", "--pid", "1"], "lowest rate is 8 kbit/s"),
            (&["-d", "1mbit", "--pid", "0"], "0 is not in"),
            (&["-d", "1mbit", "--pid", "x"], "invalid digit"),
            (&["-d", "1mbit", "--pid", "1", "--duration", "0s"], "no time at all"),
            (&["-d", "1mbit", "--pid", "1", "--duration", "5"], "1h30m"),
            (&["-d", "1mbit", "--pid", "1", "--backend", "cake"], "possible values"),
            (&["-d", "1mbit", "--pid", "1", "--as", "nobody"], "COMMAND"),
            (&["-d", "1mbit", "--json", "--", "true"], "cannot be used with"),
            (
                &["-d", "1mbit", "--pid", "1", "--json", "--json-file", "f"],
                "cannot be used with",
            ),
            (&["-d", "1mbit", "-d", "2mbit", "--pid", "1"], "multiple times"),
        ] {
            let message = run(args).expect_err(why);
            assert!(message.contains(why), "{args:?}: {message}");
        }
    }

    #[test]
    fn times() {
        for (text, seconds) in [("30s", 30), ("5m", 300), ("1h30m", 5400), ("1h 30m", 5400)] {
            assert_eq!(time(text), Ok(Duration::from_secs(seconds)));
        }
        for text in ["", "0s", "30", "-5s", "soon", "99999999999999999999s"] {
            assert!(time(text).is_err(), "{text}");
        }
    }
}
