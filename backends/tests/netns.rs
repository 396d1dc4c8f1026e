//! Work is done in the namespace it was meant for, and only there.

mod common;

use std::os::fd::AsFd;

use chadthrottle_backends::{
    netns::{self, Netns},
    sockets::diag,
};
use common::{Child, ScratchNetns, host, process, skip_unless_root, stream};

#[test]
fn the_caller_never_moves() {
    if skip_unless_root("the_caller_never_moves") {
        return;
    }
    let ours = Netns::current().unwrap();
    let scratch = ScratchNetns::create("moves", 1500);
    let inside = scratch.run(|| Netns::current().unwrap());
    assert_eq!(inside, scratch.netns());
    assert_ne!(inside, ours);
    assert_eq!(Netns::current().unwrap(), ours);
    // In our own namespace it runs on the calling thread.
    let caller = std::thread::current().id();
    assert_eq!(netns::run_in(&ours, || std::thread::current().id()).unwrap(), caller);
}

#[test]
fn sock_diag_lists_the_namespace_it_is_run_in() {
    if skip_unless_root("sock_diag_lists_the_namespace_it_is_run_in") {
        return;
    }
    let scratch = ScratchNetns::create("diag", 1500);
    let (client, _server) = scratch.run(stream);
    let inode = rustix::fs::fstat(&client).unwrap().st_ino;
    let listed = |sockets: Vec<diag::DiagSocket>| sockets.iter().any(|s| s.inode == inode);
    assert!(listed(scratch.run(|| diag::dump().unwrap())));
    assert!(!listed(diag::dump().unwrap()));
}

#[test]
fn processes_tell_their_namespace() {
    if skip_unless_root("processes_tell_their_namespace") {
        return;
    }
    let scratch = ScratchNetns::create("process", 1500);
    let null = std::fs::File::open("/dev/null").unwrap();
    let outside = Child::inheriting(&[null.as_fd()]);
    let inside = scratch.run(|| Child::inheriting(&[null.as_fd()]));
    assert_eq!(Netns::of(&host(), &process(outside.pid())).unwrap(), Netns::current().unwrap());
    let process = process(inside.pid());
    assert_eq!(Netns::of(&host(), &process).unwrap(), scratch.netns());
    drop(inside);
    let error = Netns::of(&host(), &process).unwrap_err();
    assert_eq!(error.kind, chadthrottle_core::ErrorKind::NoSuchTarget);
}

#[test]
fn a_cgroup_has_the_namespaces_of_its_processes() {
    if skip_unless_root("a_cgroup_has_the_namespaces_of_its_processes") {
        return;
    }
    let scratch = ScratchNetns::create("cgroup", 1500);
    let cgroup = common::ScratchCgroup::create("netns");
    let null = std::fs::File::open("/dev/null").unwrap();
    let children = [
        Child::inheriting(&[null.as_fd()]),
        Child::inheriting(&[null.as_fd()]),
        scratch.run(|| Child::inheriting(&[null.as_fd()])),
    ];
    for child in &children {
        cgroup.add(child.pid());
    }
    let mut found = netns::of_cgroup(&host(), cgroup.path()).unwrap();
    found.sort_by_key(Netns::id);
    let mut expected = vec![Netns::current().unwrap(), scratch.netns()];
    expected.sort_by_key(Netns::id);
    assert_eq!(found, expected);
}
