//! Cases on real cgroups with a real guardian. They need root and a cgroup v2 mount.
//!
//! The program has three faces: the cases; with `__run` a run in miniature that the cases
//! kill; with `__guardian` its guardian.

mod guardian;
mod instance;
mod journal;
mod leaf;
mod scratch;

use std::{env, fs::OpenOptions, io::Write, process::ExitCode};

use libtest_mimic::{Arguments, Trial};

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    match arguments.first().map(String::as_str) {
        Some(chadthrottle_core::guardian::ARGUMENT) => instance::guardian(),
        Some(instance::ARGUMENT) => instance::run(&arguments[1..]),
        _ => run_cases(),
    }
}

fn run_cases() -> ExitCode {
    let cases = [guardian::cases(), leaf::cases(), journal::cases()].concat();
    let missing = scratch::what_is_missing();
    let trials = cases
        .into_iter()
        .map(|(name, case)| {
            if let Some(reason) = &missing {
                report_skip(name, reason);
            }
            let run = move || {
                case();
                Ok(())
            };
            Trial::test(name, run).with_ignored_flag(missing.is_some())
        })
        .collect();
    libtest_mimic::run(&Arguments::from_args(), trials).exit_code()
}

/// A case by name.
type Case = (&'static str, fn());

/// Says what this machine lacks for a case, and writes it to the file that `make test` counts.
fn report_skip(name: &str, reason: &str) {
    eprintln!("SKIPPED {name}: {reason}");
    if let Some(file) = env::var_os("CHADTHROTTLE_SKIPS") {
        let mut file =
            OpenOptions::new().append(true).create(true).open(file).expect("open skips");
        writeln!(file, "SKIPPED {name}: {reason}").expect("write the skip");
    }
}
