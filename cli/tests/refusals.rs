//! What is refused before anything is touched, asked of the real binary. Nothing here needs
//! root: every case ends before a limit could start.

use std::{
    fs,
    process::{Command, Output, Stdio},
};

fn chadthrottle(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_chadthrottle"))
        .args(args)
        .env_remove("RUST_LOG")
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

/// Runs it and checks the exit status, an empty stdout, and that stderr says why.
fn refused(status: i32, why: &[&str], args: &[&str]) {
    let output = chadthrottle(args);
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(status), "{args:?}: {stderr}");
    assert!(output.stdout.is_empty(), "{args:?} wrote to stdout");
    for why in why {
        assert!(stderr.contains(why), "{args:?}: no {why:?} in {stderr}");
    }
}

#[test]
fn usage() {
    for (args, why) in [
        (&[][..], &["--pid", "--unit", "--cgroup", "--download", "--upload"][..]),
        (&["run"], &["--pid"]),
        (&["run", "--pid", "1"], &["--download RATE"]),
        (&["run", "-d", "10M", "--pid", "1"], &["ambiguous", "10mbit", "10MB/s"]),
        (&["run", "-d", "10mbps", "--pid", "1"], &["ambiguous", "10mbit", "10MB/s"]),
        (&["run", "-d", "0mbit", "--pid", "1"], &["lowest rate"]),
        (&["run", "-d", "9999999gbit", "--pid", "1"], &["highest rate"]),
        (&["run", "-d", "1mbit", "--pid", "-4"], &["-4"]),
        (&["run", "-d", "1mbit", "--json", "--", "true"], &["cannot be used with"]),
        (&["run", "-d", "1mbit", "--pid", "1", "true"], &["unexpected argument"]),
        (&["probe", "--backend", "auto"], &["ebpf, tc, nft"]),
        (&["throttle"], &["unrecognized"]),
    ] {
        refused(2, why, args);
    }
}

#[test]
fn an_unknown_user() {
    refused(2, &["no such user"], &["run", "-d", "1mbit", "--as", "no such", "--", "true"]);
}

#[test]
fn a_command_that_cannot_run() {
    let run = |command| ["run", "-d", "1mbit", "--", command];
    refused(127, &["no-such-command", "ENOENT"], &run("no-such-command"));
    refused(127, &["/no/such", "ENOENT"], &run("/no/such"));
    refused(127, &["ENOENT"], &run(""));
    refused(126, &["/etc/passwd", "EACCES"], &run("/etc/passwd"));
    refused(126, &["/etc", "EACCES"], &run("/etc"));
}

#[test]
fn a_target_that_does_not_exist() {
    refused(5, &["2147483647"], &["run", "-d", "1mbit", "--pid", "2147483647"]);
    // With a command the numbers below 125 are the command's own.
    refused(125, &["2147483647"], &["run", "-d", "1mbit", "--pid", "2147483647", "--", "true"]);
}

#[test]
fn an_event_file_that_cannot_be_written() {
    let own = std::process::id().to_string();
    let args = ["run", "-d", "1mbit", "--pid", &own, "--json-file", "/no/such/folder/events"];
    refused(1, &["/no/such/folder/events", "ENOENT"], &args);
}

#[test]
fn help_and_version_are_data() {
    for args in [&["--help"][..], &["run", "--help"], &["--version"]] {
        let output = chadthrottle(args);
        assert!(output.status.success() && output.stderr.is_empty());
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(text.contains("chadthrottle") && !text.contains("__"), "{text}");
    }
}

#[test]
fn the_launcher_enters_its_leaf_or_fails() {
    refused(125, &["/no/such/leaf", "ENOENT"], &["__launch", "/no/such/leaf", "--", "true"]);
}

#[test]
fn the_launcher_execs_like_env() {
    // A folder with a file where the kernel would have cgroup.procs: the rest is real.
    let leaf = tempfile::tempdir().unwrap();
    let procs = leaf.path().join("cgroup.procs");
    fs::write(&procs, "").unwrap();
    let leaf = leaf.path().to_str().unwrap();
    refused(127, &["no-such-command"], &["__launch", leaf, "--", "no-such-command"]);
    refused(126, &["/etc/passwd"], &["__launch", leaf, "--", "/etc/passwd"]);
    assert_eq!(fs::read_to_string(&procs).unwrap(), "0");

    let output =
        chadthrottle(&["__launch", leaf, "--", "sh", "-c", "echo $0 $1; exit 7", "-d"]);
    assert_eq!(output.status.code(), Some(7));
    assert_eq!(String::from_utf8(output.stdout).unwrap().trim(), "-d");
}
