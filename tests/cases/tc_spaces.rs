//! The tc backend where a target is in several network namespaces, enters some and leaves others.

use std::{
    fs,
    os::{fd::OwnedFd, unix::fs::MetadataExt},
    path::PathBuf,
    process::Stdio,
    thread,
    time::Duration,
};

use chadthrottle_backends::netns::{self, Netns};
use chadthrottle_tests::{
    conformance::{MEASURE, SETTLE, TOLERANCE},
    lab::{Family::V4, Namespace},
    leftovers::run_files,
    load::{Load, Plan, Role},
    process::{Place, Running, eventually, sh},
    rates::{self, PER_SECOND, TEN_MBIT},
    stage::Stage,
};
use socket2::{Domain, Socket, Type};

/// Within so long nothing of ours is in a namespace that was left: five looks, which come less often than
/// once a second on a busy machine.
const LEAVING: Duration = Duration::from_secs(20);
/// After so long it would be gone.
const LEFT: Duration = Duration::from_secs(9);

/// Uploads at up to 100 Mbit/s out of the near namespace, and out of the far one, as (sender, receiver).
/// They begin at [`Load::go`].
fn uploads(stage: &Stage) -> [(Load, Load); 2] {
    let from_far = stage.lab.far.place().in_cgroup(&stage.apps);
    let to_near = stage.bystander();
    [
        (stage.near(), stage.far(), stage.lab.far_address(V4)),
        (from_far, to_near, stage.lab.near_address(V4)),
    ]
    .map(|(from, to, address)| {
        let receiver = Plan::accept(address, Role::Recv).start(&to);
        let sender = Plan::connect(address, Role::Send).rate(100.0).wait().start(&from);
        sender.wait_ready();
        (sender, receiver)
    })
}

fn begin((sender, receiver): &mut (Load, Load)) {
    sender.go();
    receiver.wait_connected();
}

/// What two receivers got together while `time` passes.
fn together(one: &Load, two: &Load, time: Duration) -> Vec<u64> {
    let before = two.bins().len();
    let mut bins = one.watch(time);
    for (sum, bin) in bins.iter_mut().zip(two.bins().split_off(before)) {
        *sum += bin;
    }
    bins
}

/// What is ours in a namespace.
fn ours_in(stage: &Stage, namespace: &Namespace) -> Vec<String> {
    stage.left().into_iter().filter(|line| line.starts_with(namespace.name())).collect()
}

/// Which processes keep a namespace by a descriptor.
fn kept_by(pids: &[u32], namespace: &Namespace) -> Vec<u32> {
    let id = fs::metadata(namespace.file()).expect("its file").ino();
    let keeps = |pid: &u32| {
        let fds = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
        let mut links = fds.filter_map(|fd| fs::read_link(fd.path()).ok());
        links.any(|link| link.to_str() == Some(&format!("net:[{id}]")))
    };
    pids.iter().copied().filter(keeps).collect()
}

/// A limit follows its target into another namespace and holds over both.
#[test]
fn two_namespaces_share_the_rate() {
    let stage = Stage::new("tc");
    let [mut one, mut two] = uploads(&stage);
    let (first, second) = (one.0.pid().to_string(), two.0.pid().to_string());
    begin(&mut one);
    begin(&mut two);
    let throttle = stage.run_from_host(&["-u", "10mbit", "--pid", &first, "--pid", &second]);
    thread::sleep(2 * SETTLE);
    let bins = together(&one.1, &two.1, MEASURE);
    rates::assert_rate("both together", &bins, TEN_MBIT, TOLERANCE);
    throttle.stop();
    stage.end();
}

/// What is not used in one namespace is used in the other, until both begin.
#[test]
fn an_idle_namespace_keeps_nothing_and_begins_at_once() {
    let stage = Stage::new("tc");
    let [mut one, mut two] = uploads(&stage);
    let (first, second) = (one.0.pid().to_string(), two.0.pid().to_string());
    let throttle = stage.run_from_host(&["-u", "10mbit", "--pid", &first, "--pid", &second]);
    begin(&mut one);
    thread::sleep(2 * SETTLE);
    rates::assert_rate("beside an idle one", &one.1.watch(MEASURE), TEN_MBIT, 0.03);
    begin(&mut two);
    let bins = together(&one.1, &two.1, 2 * SETTLE);
    let began = two.1.bins();
    println!("both\n{}\nwho began\n{}", rates::show(&bins), rates::show(&began));
    let busiest = rates::busiest_second(&bins) / TEN_MBIT;
    assert!(busiest < 1.1, "{busiest:.2} of the limit in a second");
    let share = rates::mean(&began[PER_SECOND / 2..]) / TEN_MBIT;
    assert!((0.35..0.65).contains(&share), "{share:.2} of the limit for who began");
    throttle.stop();
    stage.end();
}

/// Who leaves a namespace has the whole rate elsewhere, and nothing of ours stays where he was. When he
/// comes back he is limited there again.
#[test]
fn a_namespace_that_was_left_is_let_go() {
    let stage = Stage::new("tc");
    let [mut one, mut two] = uploads(&stage);
    begin(&mut one);
    begin(&mut two);
    let apps = stage.apps.path().to_str().expect("a plain path").to_owned();
    let mut throttle = stage.run_from_host(&["-u", "10mbit", "--cgroup", &apps]);
    assert!(!ours_in(&stage, &stage.lab.far).is_empty(), "it is limited in both");
    let both = [throttle.pid(), throttle.guardian()];
    assert_eq!(kept_by(&both, &stage.lab.far), both);
    drop(two);
    thread::sleep(2 * SETTLE);
    rates::assert_rate("in the other", &one.1.watch(MEASURE), TEN_MBIT, TOLERANCE);
    let far = &stage.lab.far;
    let gone = || ours_in(&stage, far).is_empty() && kept_by(&both, far).is_empty();
    assert!(
        eventually(LEAVING, gone),
        "left behind by {:?}: {:#?}",
        kept_by(&both, far),
        ours_in(&stage, far)
    );
    rates::assert_rate("afterwards", &one.1.watch(MEASURE), TEN_MBIT, TOLERANCE);

    let [_, mut again] = uploads(&stage);
    begin(&mut again);
    thread::sleep(2 * SETTLE);
    let bins = together(&one.1, &again.1, MEASURE);
    rates::assert_rate("both again", &bins, TEN_MBIT, TOLERANCE);
    drop(again);
    assert!(eventually(LEAVING, gone), "left behind once more");
    // What is gone is not to be cleaned either.
    throttle.kill_with_guardian();
    let clean = stage.output(&["clean"]);
    assert!(clean.status.success(), "{}", String::from_utf8_lossy(&clean.stderr));
    stage.end();
}

/// A process has a connection of a namespace in which none of the target is any more.
#[test]
fn a_connection_stays_limited_in_a_namespace_that_was_left() {
    let stage = Stage::new("tc");
    let hand = stage.directory().join("hand");
    let address = stage.lab.far_address(V4);
    let peer = Plan::accept(address, Role::Recv).start(&stage.far());
    let from_far = stage.lab.far.place().in_cgroup(&stage.apps);
    let target = Plan::take(&hand, Role::Send).rate(100.0).start(&from_far);
    let plan = Plan::connect(address, Role::Send).give(&hand).wait();
    let mut giver = plan.start(&stage.near());
    giver.wait_ready();
    let (first, second) = (target.pid().to_string(), giver.pid().to_string());
    let throttle = stage.run_from_host(&["-u", "10mbit", "--pid", &first, "--pid", &second]);
    giver.go();
    giver.wait_given();
    drop(giver);
    peer.wait_connected();
    thread::sleep(LEFT);
    rates::assert_rate("where it was", &peer.watch(MEASURE), TEN_MBIT, TOLERANCE);
    throttle.stop();
    stage.end();
}

/// A socket that is not connected yet is in no list, and may be connected later.
#[test]
fn a_socket_without_a_connection_keeps_its_namespace() {
    let stage = Stage::new("tc");
    let near = Netns::at(&stage.lab.near.file()).expect("the near namespace");
    let socket = netns::run_in(&near, || Socket::new(Domain::IPV4, Type::STREAM, None));
    let socket = OwnedFd::from(socket.expect("enter it").expect("a socket"));
    let sleep = |place: Place, stdin| {
        let mut command = place.command("sleep");
        Running::start_with_stdin(command.arg("60"), stdin)
    };
    let from_far = || stage.lab.far.place().in_cgroup(&stage.apps);
    let inside = sleep(stage.near(), Stdio::null());
    let holder = sleep(from_far(), Stdio::from(socket));
    let other = sleep(from_far(), Stdio::null());
    let pids = [&inside, &holder, &other].map(|process| process.pid().to_string());
    let targets = ["--pid", &pids[0], "--pid", &pids[1], "--pid", &pids[2]];
    let throttle = stage.run_from_host(&[&["-u", "10mbit"], &targets[..]].concat());
    drop(inside);
    thread::sleep(LEFT);
    assert!(!ours_in(&stage, &stage.lab.near).is_empty(), "it may still be used");
    drop(holder);
    let gone = eventually(LEAVING, || ours_in(&stage, &stage.lab.near).is_empty());
    assert!(gone, "left behind: {:#?}", ours_in(&stage, &stage.lab.near));
    throttle.stop();
    stage.end();
}

/// A namespace that is gone took everything with it: nothing is left to be cleaned.
#[test]
fn cleans_after_a_namespace_vanished() {
    let stage = Stage::new("tc");
    let name = format!("ct-{}-gone", std::process::id());
    sh(&format!("ip netns add {name}"));
    let place = Place::in_namespace(PathBuf::from("/run/netns").join(&name));
    let sleeper = Running::start(place.command("sleep").arg("60"));
    let pid = sleeper.pid().to_string();
    let mut throttle = stage.run_from_host(&["-u", "10mbit", "--pid", &pid]);
    throttle.kill_with_guardian();
    drop(sleeper);
    sh(&format!("ip netns del {name}"));
    assert!(!run_files(&stage.run_dir()).is_empty(), "there is something to be cleaned");
    let clean = stage.output(&["clean"]);
    assert!(clean.status.success(), "{}", String::from_utf8_lossy(&clean.stderr));
    stage.end();
}
