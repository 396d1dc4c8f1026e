//! Targets that are moved into leaves, and the marks of sockets opened before.

mod common;

use std::{
    net::TcpListener,
    os::fd::AsFd,
    path::{Path, PathBuf},
    process::Command,
};

use chadthrottle_backends::{
    moved::{self, Holdings, Mark, Members, Slot, State},
    sockets,
};
use chadthrottle_core::{
    Host, Target,
    journal::{Journal, Undo},
    process::Process,
};
use common::{Child, ScratchCgroup, skip_unless_root, stream};

struct Stage {
    host: Host,
    journal: Journal,
    _run: tempfile::TempDir,
}

fn stage() -> Stage {
    let run = tempfile::tempdir().unwrap();
    let mut host = common::host();
    run.path().clone_into(&mut host.run);
    let journal = Journal::create(&host).unwrap();
    Stage { host, journal, _run: run }
}

fn cgroup_of(stage: &Stage, pid: i32) -> PathBuf {
    stage.host.cgroup_of(pid).unwrap()
}

fn target(stage: &Stage, pid: i32) -> (Process, Target) {
    let process = Process::open(&stage.host, pid).unwrap();
    (process.clone(), Target::Process(process))
}

#[test]
fn a_process_and_its_children_go_into_a_leaf_and_back() {
    if skip_unless_root("a_process_and_its_children_go_into_a_leaf_and_back") {
        return;
    }
    let stage = stage();
    let cgroup = ScratchCgroup::create("moved");
    let mut parent = Command::new("sh").args(["-c", "sleep 60 & wait"]).spawn().unwrap();
    let pid = parent.id().cast_signed();
    cgroup.add(pid);
    let (process, target) = target(&stage, pid);
    let child = loop {
        match process.children(&stage.host).first() {
            Some(child) => break child.pid,
            None => std::thread::yield_now(),
        }
    };
    // The child may have been born before its parent came here.
    cgroup.add(child);
    let mut members = Members::enter(&stage.host, &stage.journal, &target).unwrap();
    let places = members.places(&stage.host).unwrap();
    assert_eq!(places.len(), 1, "{places:?}");
    assert_eq!(places[0].path.parent(), Some(cgroup.path()));
    assert_eq!(cgroup_of(&stage, pid), places[0].path);
    assert_eq!(cgroup_of(&stage, child), places[0].path);
    assert!(members.contains(pid) && members.contains(child));

    // Somebody else moves it: it is limited where it is now.
    let elsewhere = ScratchCgroup::create("moved-elsewhere");
    elsewhere.add(pid);
    assert_eq!(members.refresh(&stage.host, &stage.journal).unwrap(), State::Alive);
    assert!(cgroup_of(&stage, pid).starts_with(elsewhere.path()));
    assert_eq!(members.places(&stage.host).unwrap().len(), 2);

    members.leave().unwrap();
    assert_eq!(cgroup_of(&stage, pid), elsewhere.path());
    assert_eq!(cgroup_of(&stage, child), cgroup.path());
    let child = Process::open(&stage.host, child).unwrap();
    rustix::process::pidfd_send_signal(child.pidfd(), rustix::process::Signal::KILL).unwrap();
    parent.wait().unwrap();
    while child.is_alive() {
        std::thread::yield_now();
    }
    stage.journal.close().unwrap();
}

/// A member with these sockets, and what it holds.
fn held(stage: &Stage, fds: &[std::os::fd::BorrowedFd<'_>]) -> (Child, Members, Holdings) {
    let child = Child::inheriting(fds);
    let (_, target) = target(stage, child.pid());
    let members = Members::enter(&stage.host, &stage.journal, &target).unwrap();
    let mut holdings = Holdings::default();
    holdings.scan(&stage.host, members.processes()).unwrap();
    (child, members, holdings)
}

fn mark_all(
    stage: &Stage,
    members: &Members,
    holdings: &mut Holdings,
    mark: Mark,
) -> Vec<String> {
    let places = members.places(&stage.host).unwrap();
    let members = std::slice::from_ref(members);
    holdings.mark_strangers(&stage.host, members, &places, mark, true).unwrap()
}

#[test]
fn sockets_opened_before_are_marked_and_unmarked() {
    if skip_unless_root("sockets_opened_before_are_marked_and_unmarked") {
        return;
    }
    let stage = stage();
    let (one, other) = stream();
    let (routed, _peer) = stream();
    sockets::set_mark(&routed, 7).unwrap();
    // A listener that we hold too is shared with a process that is not meant.
    let shared = TcpListener::bind("127.0.0.1:0").unwrap();
    let (child, mut members, mut holdings) =
        held(&stage, &[one.as_fd(), routed.as_fd(), shared.as_fd()]);
    let slot = Slot::reserve().unwrap();
    let mark = slot.mark(1).unwrap();
    let refused = mark_all(&stage, &members, &mut holdings, mark);
    assert_eq!(refused.len(), 1, "{refused:?}");
    let marks = || {
        let of = |fd: std::os::fd::BorrowedFd<'_>| sockets::mark(fd).unwrap();
        (of(one.as_fd()), of(other.as_fd()), of(routed.as_fd()), of(shared.as_fd()))
    };
    assert_eq!(marks(), (mark.value(), 0, 7, 0));
    holdings.unmark(mark);
    assert_eq!(marks(), (0, 0, 7, 0));

    // The same by the record, as the guardian does it.
    mark_all(&stage, &members, &mut holdings, mark);
    assert_eq!(marks().0, mark.value());
    let record = moved::record(&[], std::slice::from_ref(&members), mark, true);
    assert!(matches!(&record, Undo::Marks { cgroups, .. } if cgroups.len() == 1));
    moved::undo(&stage.host, &record, &[]).unwrap();
    assert_eq!(marks(), (0, 0, 7, 0));
    drop(child);
    members.leave().unwrap();
    assert!(Path::new(&stage.host.run).exists());
}
