//! What the tc backend tells the connections of its targets, and when they are free again.

use std::thread;

use chadthrottle_backends::sockets::{self, Protocol};
use chadthrottle_core::{Host, process::Process};
use chadthrottle_tests::{
    conformance::SETTLE,
    lab::Family::V4,
    load::{Plan, Role},
    process::eventually,
    stage::Stage,
    throttle::Throttle,
};
use rustix::process::Signal;

/// What the connections of a process were told: the pace and the window of each, in bytes (a second).
fn told(pid: u32) -> Vec<(u64, u32)> {
    let host = Host::detect().expect("a host");
    let process = Process::open(&host, pid.cast_signed()).expect("it runs");
    let sockets = sockets::of_process(&host, &process).expect("its sockets");
    let tcp = sockets.iter().filter(|socket| socket.info.protocol == Protocol::Tcp);
    tcp.map(|socket| {
        let pace = sockets::pace(&socket.fd).expect("SO_MAX_PACING_RATE");
        (pace, sockets::window_clamp(&socket.fd).expect("TCP_WINDOW_CLAMP"))
    })
    .collect()
}

/// Four connections are told their shares, and have their own pace and window back after `end`.
fn told_until(end: impl FnOnce(&Stage, &mut Throttle)) {
    /// 10 Mbit/s in bytes a second, with a little more for an empty queue.
    const MOST: u64 = 1_250_000 * 105 / 100;
    let stage = Stage::new("tc");
    let address = stage.lab.far_address(V4);
    let _far = Plan::accept(address, Role::Recv).flows(4).rate(100.0).start(&stage.far());
    let near = Plan::connect(address, Role::Send).flows(4).rate(100.0).start(&stage.near());
    near.wait_connected();
    let pid = near.pid().to_string();
    let mut throttle = stage.run(&["-u", "10mbit", "-d", "10mbit", "--pid", &pid]);
    thread::sleep(2 * SETTLE);
    let during = told(near.pid());
    assert_eq!(during.len(), 4);
    let paces: u64 = during.iter().map(|(pace, _)| pace).sum();
    assert!(paces <= MOST, "paced to {paces} bytes a second together: {during:?}");
    // Nothing is received: each may have what a fifth one would get at RTT 0 in 50 ms.
    assert!(during.iter().all(|(_, window)| *window < 100_000), "{during:?}");
    end(&stage, &mut throttle);
    let free = |(pace, window): &(u64, u32)| *pace == u64::MAX && *window > 1_000_000;
    let freed = eventually(SETTLE, || told(near.pid()).iter().all(free));
    assert!(freed, "still told: {:?}", told(near.pid()));
    drop(near);
    stage.end();
}

/// Ctrl-C.
#[test]
fn senders_are_told_until_release() {
    told_until(|_, throttle| throttle.signal(Signal::INT));
}

/// kill -9: the guardian frees them.
#[test]
fn senders_are_told_until_the_run_is_killed() {
    told_until(|_, throttle| throttle.kill());
}

/// kill -9 of both: `clean` frees them.
#[test]
fn senders_are_told_until_clean() {
    told_until(|stage, throttle| {
        throttle.kill_with_guardian();
        let clean = stage.output(&["clean"]);
        assert!(clean.status.success(), "{}", String::from_utf8_lossy(&clean.stderr));
    });
}
