//! Instances side by side, instances of an earlier boot, and run directories in bad shape.

use std::{fs, process::Command};

use chadthrottle_core::{ErrorKind, journal, journal::Journal, recover};

use crate::{Case, scratch::Scratch};

pub(crate) fn cases() -> Vec<Case> {
    vec![
        ("journal::a_target_has_one_instance", a_target_has_one_instance),
        ("journal::claims_end_with_the_instance", claims_end_with_the_instance),
        ("journal::the_living_are_left_alone", the_living_are_left_alone),
        ("journal::without_a_name", without_a_name),
        ("journal::another_boot", another_boot),
        ("journal::another_version", another_version),
        ("journal::full_run_directory", full_run_directory),
        ("journal::read_only_run_directory", read_only_run_directory),
        ("journal::not_closed_with_something_left", not_closed_with_something_left),
    ]
}

fn a_target_has_one_instance() {
    let scratch = Scratch::new();
    let parent = scratch.process("sleep 60 & wait");
    let child = chadthrottle_core::process::children(&scratch.host, &[parent.pid()])[0].pid;
    let stranger = scratch.process("exec sleep 60");
    let inner = scratch.cgroup.join("inner");
    fs::create_dir(&inner).unwrap();

    let of_parent = format!("claim:{}", parent.pid());
    let of_child = format!("claim:{child}");
    let of_stranger = format!("claim:{}", stranger.pid());
    let of_cgroup = format!("claim-cgroup:{}", scratch.cgroup.display());
    let of_inner = format!("claim-cgroup:{}", inner.display());
    for (first, second, refused) in [
        (&of_parent, &of_parent, true),
        (&of_parent, &of_child, true),
        (&of_child, &of_parent, true),
        (&of_parent, &of_stranger, false),
        (&of_parent, &of_cgroup, true),
        (&of_cgroup, &of_child, true),
        (&of_parent, &of_inner, false),
        (&of_cgroup, &of_inner, true),
        (&of_inner, &of_cgroup, true),
    ] {
        let one = scratch.run(&[first]);
        let meaning = format!("chadthrottle (pid {}) already limits", one.pid());
        let answer = scratch.run(&[second, "claim-cgroup:/elsewhere"]).line_if(refused);
        assert_eq!(answer.contains(&meaning), refused, "{first} {second}: {answer}");
    }
}

fn claims_end_with_the_instance() {
    let scratch = Scratch::new();
    let process = scratch.process("exec sleep 60");
    let claim = format!("claim:{}", process.pid());
    // A dead instance without a guardian, and one whose guardian is at work.
    scratch.run(&[&claim]).kill();
    scratch.run(&["guardian", "leaf:0", &claim]).kill();
    let journal = Journal::create(&scratch.host).unwrap();
    let key = chadthrottle_core::process::ProcessKey::of(&scratch.host, process.pid()).unwrap();
    let claims = [journal::Claim::Process(key)];
    journal.claim(&claims).unwrap();
    let error = scratch.run(&[&claim]).line_if(true);
    assert!(error.starts_with("cannot limit process"), "{error}");
    assert!(error.contains("(sleep)") || error.contains("(sh)"), "{error}");
    journal.unclaim(&claims).unwrap();
    scratch.run(&[&claim]).kill();
    journal.close().unwrap();
}

/// Until it is published nobody sees it: whoever is killed before then leaves nothing.
fn without_a_name() {
    let scratch = Scratch::new();
    let journal = Journal::unnamed(&scratch.host).unwrap();
    let names = || {
        let entries = fs::read_dir(&scratch.host.run).unwrap().flatten();
        entries.map(|entry| entry.file_name()).filter(|name| name != "lock").count()
    };
    assert_eq!(names(), 0);
    journal.publish().unwrap();
    assert_eq!(names(), 1);
    assert!(journal.path().exists());
    journal.close().unwrap();
    assert_eq!(names(), 0);
}

fn the_living_are_left_alone() {
    let scratch = Scratch::new();
    let run = scratch.run(&["leaf:0", "pace:1", "claim-cgroup:/elsewhere"]);
    let outcomes = recover::sweep(&scratch.host, &mut |_, _, _, _| panic!("a living one"));
    assert!(outcomes.is_empty(), "{outcomes:?}");
    let live = journal::live(&scratch.host).unwrap();
    assert_eq!(live.len(), 1);
    assert_eq!(live[0].owner.pid, run.pid().cast_signed());
    assert!(live[0].command.contains("leaf:0"), "{live:?}");
    assert_eq!(live[0].claims.len(), 1);
    run.kill();
    assert!(journal::live(&scratch.host).unwrap().is_empty());
    let outcomes = recover::sweep(&scratch.host, &mut |_, _, _, _| Ok(()));
    assert_eq!(outcomes.len(), 2, "{outcomes:?}");
    scratch.wait_until_clean();
}

/// What died with that boot is not looked for, above all not under ids that are others' now.
fn another_boot() {
    let scratch = Scratch::new();
    scratch.run(&["leaf:0", "pace:1"]).kill();
    let path = scratch.journals().remove(0);
    let text = fs::read_to_string(&path).unwrap();
    let boot_id = scratch.host.boot_id().unwrap();
    fs::write(&path, text.replace(&boot_id, "00000000-0000-4000-8000-000000000000")).unwrap();
    let outcomes = recover::sweep(&scratch.host, &mut |_, _, _, _| panic!("another boot's"));
    assert!(outcomes.is_empty(), "{outcomes:?}");
    assert!(scratch.journals().is_empty());
    assert_eq!(scratch.leaves().len(), 1, "its cgroup is not ours to touch");
}

fn another_version() {
    let scratch = Scratch::new();
    scratch.run(&["pace:1"]).kill();
    let path = scratch.journals().remove(0);
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, text.replace("\"version\":1", "\"version\":2")).unwrap();
    scratch.run(&["leaf:0"]).kill();
    let outcomes = recover::sweep(&scratch.host, &mut |_, _, _, _| panic!("another version's"));
    let errors: Vec<_> = outcomes.iter().filter(|outcome| outcome.result.is_err()).collect();
    assert_eq!((outcomes.len(), errors.len()), (2, 1), "{outcomes:?}");
    assert!(scratch.leaves().is_empty(), "it hid the other journal");
    assert_eq!(scratch.journals(), [path]);
}

fn full_run_directory() {
    let error = with_mount("size=4k,nr_inodes=8", "head -c 8192 /dev/zero > $RUN/fill; true");
    assert!(error.contains("(ENOSPC). Its file system is full"), "{error}");
}

fn read_only_run_directory() {
    let error = with_mount("size=64k", "mount -o remount,ro $RUN");
    assert!(error.contains("(EROFS). Its file system is read-only"), "{error}");
}

/// What a run says whose run directory is a tmpfs that `script` has spoiled.
fn with_mount(options: &str, script: &str) -> String {
    let scratch = Scratch::new();
    fs::create_dir(&scratch.host.run).unwrap();
    let run = scratch.host.run.display();
    let script = format!(
        "RUN={run}; mount -t tmpfs -o {options} tmpfs $RUN && {{ {script}; }} && exec \"$0\" \"$@\""
    );
    let mut command = Command::new("unshare");
    command.args(["-m", "sh", "-c", &script]).arg(std::env::current_exe().unwrap());
    scratch.run_by(command, &["leaf:0"]).line()
}

fn not_closed_with_something_left() {
    let scratch = Scratch::new();
    let journal = Journal::create(&scratch.host).unwrap();
    let undo = journal::Undo::Pace { cookie: 1, rate: 2 };
    let entry = journal.record(None, &undo).unwrap();
    assert_eq!(journal.clone().close().unwrap_err().kind, ErrorKind::Failed);
    assert!(journal.path().exists());
    journal.done(entry).unwrap();
    journal.close().unwrap();
    assert!(scratch.journals().is_empty());
}
