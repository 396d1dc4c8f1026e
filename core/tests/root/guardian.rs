//! kill -9 at every moment, and what the guardian makes of it.

use std::{fs, io::Write, process::Command, thread, time::Duration};

use chadthrottle_core::{cgroup, journal, recover};
use rustix::fs::{OFlags, fcntl_setfl};

use crate::{
    Case, instance,
    scratch::{Scratch, wait_for},
};

pub(crate) fn cases() -> Vec<Case> {
    vec![
        ("guardian::killed_before_anything_was_done", killed_before_anything_was_done),
        ("guardian::killed_with_a_process_in_a_leaf", killed_with_a_process_in_a_leaf),
        ("guardian::killed_while_a_leaf_is_made", killed_while_a_leaf_is_made),
        ("guardian::killed_at_random_moments", killed_at_random_moments),
        ("guardian::killed_while_it_starts", killed_while_it_starts),
        ("guardian::newest_first_without_what_is_done", newest_first_without_what_is_done),
        ("guardian::descriptors_outlive_the_run", descriptors_outlive_the_run),
        ("guardian::what_fails_stays_for_clean", what_fails_stays_for_clean),
        ("guardian::a_clean_end_takes_it_along", a_clean_end_takes_it_along),
        ("guardian::a_command_does_not_keep_it_waiting", a_command_does_not_keep_it_waiting),
        ("guardian::signals_do_not_end_it", signals_do_not_end_it),
        ("guardian::stderr_does_not_stop_it", stderr_does_not_stop_it),
        ("guardian::a_run_ends_well_without_it", a_run_ends_well_without_it),
        ("guardian::killed_as_well", killed_as_well),
        ("guardian::is_missed_when_it_is_dead", is_missed_when_it_is_dead),
    ]
}

fn killed_before_anything_was_done() {
    let scratch = Scratch::new();
    scratch.run(&["guardian"]).kill();
    scratch.wait_until_clean();
}

fn killed_with_a_process_in_a_leaf() {
    let scratch = Scratch::new();
    // It forks all the time, so that moving it back once is not enough.
    let process = scratch.process("while :; do sleep 0.001 & wait; done");
    let run = scratch.run(&["guardian", "leaf:0", &format!("move:{}", process.pid())]);
    let leaf = scratch.leaves().remove(0);
    assert!(cgroup::processes(&leaf).unwrap().contains(&process.pid()));
    run.kill();
    scratch.wait_until_clean();
    assert_eq!(scratch.host.cgroup_of(process.pid()).unwrap(), scratch.cgroup);
}

/// The record without an id is written, and the directory is there or not.
fn killed_while_a_leaf_is_made() {
    for steps in [&["guardian", "announce:x"][..], &["guardian", "announce:x", "mkdir:x"]] {
        let scratch = Scratch::new();
        scratch.run(steps).kill();
        scratch.wait_until_clean();
    }
}

fn killed_at_random_moments() {
    let scratch = Scratch::new();
    for step in 0..60 {
        let run = scratch.run(&["guardian", "churn"]);
        // 0 to 3 ms: some twenty rounds of making and removing.
        thread::sleep(Duration::from_micros(step * 50));
        run.kill();
        scratch.wait_until_clean();
    }
    assert_eq!(scratch.undone(), [""; 0]);
}

/// Before the guardian is there nobody can put back, but nothing has been done either: only
/// the journal stays, for the next start.
fn killed_while_it_starts() {
    let scratch = Scratch::new();
    for step in 0..60 {
        let run =
            scratch.start(Command::new("/proc/self/exe"), &["guardian", "leaf:0", "pace:1"]);
        thread::sleep(Duration::from_micros(step * 200));
        run.kill();
        wait_for("leaves and journals to be gone", || {
            for outcome in
                recover::sweep(&scratch.host, &mut |_, _, _, _| panic!("no guardian"))
            {
                outcome.result.unwrap();
            }
            scratch.leaves().is_empty() && scratch.journals().is_empty()
        });
    }
}

fn newest_first_without_what_is_done() {
    let scratch = Scratch::new();
    scratch.run(&["guardian", "pace:1", "pace:2", "done", "pace:3"]).kill();
    scratch.wait_until_clean();
    let undone = scratch.undone();
    assert_eq!(undone.len(), 2, "{undone:?}");
    assert!(undone[0].starts_with("ebpf: give the socket with cookie 3"), "{undone:?}");
    assert!(undone[1].starts_with("ebpf: give the socket with cookie 1"), "{undone:?}");
    assert!(undone.iter().all(|line| line.ends_with("2 pending")), "{undone:?}");
}

fn descriptors_outlive_the_run() {
    for (steps, expected) in
        [(&["hold", "pace:1"][..], "[\"kept\"]"), (&["hold", "let-go", "pace:1"], "[]")]
    {
        let scratch = Scratch::new();
        fs::write(scratch.file("held"), "kept").unwrap();
        let hold = format!("hold:{}", scratch.file("held").display());
        let steps: Vec<&str> = std::iter::once("guardian")
            .chain(steps.iter().map(|step| if *step == "hold" { hold.as_str() } else { step }))
            .collect();
        let run = scratch.run(&steps);
        fs::remove_file(scratch.file("held")).unwrap();
        run.kill();
        scratch.wait_until_clean();
        let undone = scratch.undone();
        assert!(undone[0].contains(&format!("held {expected}")), "{undone:?}");
    }
}

fn what_fails_stays_for_clean() {
    let scratch = Scratch::new();
    let stubborn = format!("pace:{}", instance::STUBBORN);
    scratch.run(&["guardian", "pace:1", &stubborn, "leaf:0"]).kill();
    wait_for("the guardian to give up", || !journal::stale(&scratch.host).unwrap().is_empty());
    assert!(scratch.leaves().is_empty(), "an error kept the guardian from the rest");
    assert_eq!(scratch.undone().len(), 2);

    let planned = recover::planned(&scratch.host).unwrap();
    assert_eq!(planned.len(), 1, "{planned:?}");
    assert!(planned[0].contains("cookie 13"), "{planned:?}");
    let outcomes = recover::sweep(&scratch.host, &mut |_, _, held, all| {
        assert!(held.is_empty());
        assert_eq!(all.len(), 1);
        Ok(())
    });
    assert!(outcomes.len() == 1 && outcomes[0].result.is_ok(), "{outcomes:?}");
    scratch.wait_until_clean();
}

fn a_clean_end_takes_it_along() {
    let scratch = Scratch::new();
    let run = scratch.run(&["guardian", "leaf:0", "pace:1", "end"]);
    assert!(scratch.leaves().is_empty() && scratch.journals().is_empty());
    assert_eq!(children(run.pid()), [0; 0], "release returned before the guardian's end");
    run.kill();
    assert_eq!(scratch.undone(), [""; 0]);
}

fn a_command_does_not_keep_it_waiting() {
    let scratch = Scratch::new();
    // The command sleeps for a second and would keep whatever it inherits open.
    let run = scratch.run(&["guardian", "leaf:0", "command"]);
    let [first, second] = children(run.pid())[..] else { panic!("not two children") };
    let start = std::time::Instant::now();
    run.kill();
    scratch.wait_until_clean();
    assert!(start.elapsed() < Duration::from_millis(700), "{:?}", start.elapsed());
    wait_for("both to end", || !exists(first) && !exists(second));
}

fn signals_do_not_end_it() {
    let scratch = Scratch::new();
    let run = scratch.run(&["guardian", "leaf:0"]);
    let guardian = children(run.pid())[0];
    for signal in ["INT", "TERM", "HUP", "QUIT", "PIPE", "USR1", "USR2", "ALRM"] {
        let status =
            Command::new("kill").args(["-s", signal, &guardian.to_string()]).status().unwrap();
        assert!(status.success());
    }
    let name = fs::read_to_string(format!("/proc/{guardian}/comm")).unwrap();
    assert_eq!(name, "chad-guardian\n");
    let session = rustix::process::getsid(rustix::process::Pid::from_raw(guardian)).unwrap();
    assert_eq!(session.as_raw_nonzero().get(), guardian, "not a session of its own");
    run.kill();
    scratch.wait_until_clean();
    wait_for("its end", || !exists(guardian));
}

fn a_run_ends_well_without_it() {
    let scratch = Scratch::new();
    let run = scratch.run(&["guardian", "leaf:0", "kill-guardian", "end"]);
    assert!(scratch.leaves().is_empty() && scratch.journals().is_empty());
    assert_eq!(children(run.pid()), [0; 0], "a zombie is left");
}

/// The reader of the pipe is gone, or it is there and does not read.
fn stderr_does_not_stop_it() {
    for reader_lives in [false, true] {
        let scratch = Scratch::new();
        let (reader, mut writer) = std::io::pipe().unwrap();
        let mut command = Command::new("/proc/self/exe");
        command.stderr(writer.try_clone().unwrap());
        let loud = format!("pace:{}", instance::LOUD);
        let run = scratch.run_by(command, &["guardian", "leaf:0", &loud]);
        let reader = reader_lives.then_some(reader);
        if reader_lives {
            fcntl_setfl(&writer, OFlags::NONBLOCK).unwrap();
            while writer.write(&[0; 4096]).is_ok() {}
            fcntl_setfl(&writer, OFlags::empty()).unwrap();
        }
        run.kill();
        scratch.wait_until_clean();
        drop(reader);
        assert_eq!(scratch.undone().len(), 1);
    }
}

/// Nobody is left: the next start or `clean` must do it.
fn killed_as_well() {
    let scratch = Scratch::new();
    let process = scratch.process("exec sleep 60");
    let step = format!("move:{}", process.pid());
    scratch.run(&["guardian", "leaf:0", &step, "pace:1", "kill-guardian"]).kill();
    assert_eq!(scratch.leaves().len(), 1);

    let planned = recover::planned(&scratch.host).unwrap();
    assert_eq!(planned.len(), 2, "{planned:?}");
    assert!(planned[1].starts_with("remove the cgroup"), "{planned:?}");
    let mut asked = 0;
    let outcomes = recover::sweep(&scratch.host, &mut |_, _, _, _| {
        asked += 1;
        Ok(())
    });
    assert_eq!((outcomes.len(), asked), (2, 1), "{outcomes:?}");
    scratch.wait_until_clean();
    assert_eq!(scratch.host.cgroup_of(process.pid()).unwrap(), scratch.cgroup);
}

fn is_missed_when_it_is_dead() {
    let scratch = Scratch::new();
    let hold = format!("hold:{}", scratch.cgroup.display());
    let error = scratch.run(&["guardian", "kill-guardian", &hold]).line();
    assert!(error.starts_with("cannot reach the guardian"), "{error}");
}

fn children(pid: u32) -> Vec<i32> {
    let text = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
    text.split_whitespace().map(|pid| pid.parse().unwrap()).collect()
}

fn exists(pid: i32) -> bool {
    fs::exists(format!("/proc/{pid}")).unwrap()
}
