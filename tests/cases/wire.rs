//! What only the eBPF backend promises, with links on interfaces (kernel 6.6): the sender of a
//! download sees the window that it was granted, and no other.

use std::{path::Path, thread, time::Duration};

use chadthrottle_tests::{
    conformance::{FULL, GLANCE, OFFERED, SETTLE, TOLERANCE, Transfer, running},
    lab::{
        Family::{self, V4, V6},
        Lab,
    },
    load::{Plan, Role},
    rates::{self, TEN_MBIT},
    skip,
    stage::{Direction::Download, Stage},
};

/// What a limit may let through in its first second, as a share: what was under way, and no window
/// of megabytes from before.
const FIRST_SECOND: f64 = 1.5;
/// So soon full speed is back.
const AT_ONCE: Duration = Duration::from_millis(300);

/// Limits a transfer that runs, and lifts the limit: both at once, again and again.
fn at_once(stage: &Stage, transfer: &Transfer) {
    for _ in 0..2 {
        let throttle = stage.limit(Download, transfer.near.pid());
        let first = rates::mean(&transfer.near.watch(GLANCE));
        assert!(first < FIRST_SECOND * TEN_MBIT, "first second: {}", rates::mbit(first));
        transfer.assert_limited("limited");
        throttle.stop();
        thread::sleep(AT_ONCE);
        let bins = transfer.near.watch(GLANCE);
        rates::assert_fast("lifted", rates::mean(&bins), FULL, &bins);
    }
}

fn has_links() -> bool {
    chadthrottle_backends::bpf::knows_interface_links().unwrap_or(false)
}

/// A connection of 100 Mbit/s whose window is larger than what a second of the limit brings.
fn at_once_with_rtt(milliseconds: u64, family: Family) {
    if !has_links() {
        skip!("this kernel has no links on interfaces");
    }
    let stage = Stage::with_rtt("ebpf", Duration::from_millis(milliseconds));
    let transfer = running(&stage, Download, family, |plan| plan);
    at_once(&stage, &transfer);
    stage.end();
}

#[test]
fn at_once_without_rtt() {
    at_once_with_rtt(0, V4);
}

#[test]
fn at_once_at_20_ms() {
    at_once_with_rtt(20, V4);
}

#[test]
fn at_once_at_20_ms_over_ipv6() {
    at_once_with_rtt(20, V6);
}

/// How even a download is: 100 ms bins over so long.
const LONG: Duration = Duration::from_secs(5);
/// The most that their coefficient of variation may be; 1.0 is bursts of 200 ms, .05 was measured.
const EVEN: f64 = 0.3;

/// Where there is no round trip to wait for, a window opens when it is earned, and not when the sender
/// asks, 200 ms later: so also in another network namespace, for connections that were open before.
fn even(stage: &Stage, family: Family, flows: usize) {
    let transfer = running(stage, Download, family, |plan| plan.flows(flows));
    let throttle = stage.limit(Download, transfer.near.pid());
    thread::sleep(SETTLE);
    let bins = transfer.near.watch(LONG);
    rates::assert_rate("limited", &bins, TEN_MBIT, TOLERANCE);
    let cv = rates::cv(&bins);
    assert!(cv < EVEN, "100 ms bins vary by {cv:.2}: {bins:?}");
    throttle.stop();
}

#[test]
fn even_without_rtt() {
    if !has_links() {
        skip!("this kernel has no links on interfaces");
    }
    for (family, flows) in [(V4, 1), (V6, 4)] {
        let stage = Stage::new("ebpf");
        even(&stage, family, flows);
        stage.end();
    }
}

/// The same with MPTCP, of connections that begin under the limit: with its own checksums as well, over
/// a second path, and with a peer that does not speak it.
#[test]
fn even_with_mptcp() {
    if !has_links() || !Path::new("/proc/sys/net/mptcp/enabled").exists() {
        skip!("this kernel has no links on interfaces, or no MPTCP");
    }
    for (what, checksums, paths, peer_speaks) in [
        ("alone", 0, 1, true),
        ("with checksums", 1, 1, true),
        ("over two paths", 0, 2, true),
        ("with a peer of plain TCP", 0, 1, false),
    ] {
        let stage = Stage::new("ebpf");
        let Lab { near, far, .. } = &stage.lab;
        near.sh(&format!("sysctl -qw net.mptcp.checksum_enabled={checksums}"));
        far.sh(&format!("sysctl -qw net.mptcp.checksum_enabled={checksums}"));
        if paths == 2 {
            let second = stage.lab.second_wire().ip();
            near.sh("ip mptcp limits set subflow 1 add_addr_accepted 1");
            far.sh("ip mptcp limits set subflow 1 add_addr_accepted 1");
            far.sh(&format!("ip mptcp endpoint add {second} dev eth1 signal"));
        }
        let address = stage.lab.far_address(V4);
        let peer = Plan::accept(address, Role::Send).rate(OFFERED);
        let peer = if peer_speaks { peer.mptcp() } else { peer }.start(&stage.far());
        let mut near = Plan::connect(address, Role::Recv).mptcp().wait().start(&stage.near());
        near.wait_ready();
        let throttle = stage.limit(Download, near.pid());
        near.go();
        near.wait_connected();
        thread::sleep(2 * SETTLE);
        let bins = near.watch(LONG);
        rates::assert_rate(what, &bins, TEN_MBIT, TOLERANCE);
        let cv = rates::cv(&bins);
        assert!(cv < EVEN, "{what}: 100 ms bins vary by {cv:.2}: {bins:?}");
        throttle.stop();
        thread::sleep(AT_ONCE);
        let bins = near.watch(GLANCE);
        rates::assert_fast(what, rates::mean(&bins), FULL, &bins);
        if paths == 2 {
            stage.lab.near.sh("ip link del eth1");
        }
        stage.end();
        drop(peer);
    }
}

/// Through a bridge, whose port sees the segment as well; what somebody else has on the interface
/// sees every packet, and stays.
#[test]
fn beside_others_on_a_bridge() {
    if !has_links() {
        skip!("this kernel has no links on interfaces");
    }
    let stage = Stage::new("ebpf");
    let near = &stage.lab.near;
    near.bridge("eth0", "br0", "10.8.0.1/24");
    near.sh("tc qdisc add dev br0 clsact");
    near.sh("ip link add br0-copy type ifb");
    near.sh("ip link set br0-copy up");
    near.sh("tc filter add dev br0 egress pref 10 protocol ip u32 match u32 0 0 flowid :1 \
         action mirred egress mirror dev br0-copy");
    let transfer = running(&stage, Download, V4, |plan| plan);
    let before = seen(&stage);
    at_once(&stage, &transfer);
    assert!(seen(&stage) > before + 1000, "their filter saw {} packets", seen(&stage) - before);
    let left: Vec<String> =
        stage.left().into_iter().filter(|line| !line.contains("br0")).collect();
    assert!(left.is_empty(), "left behind: {left:#?}");
}

/// Packets that the filter on the bridge saw.
fn seen(stage: &Stage) -> u64 {
    let shown = stage.lab.near.sh("tc -s filter show dev br0 egress");
    let count = shown.split_once(" bytes ").and_then(|(_, rest)| rest.split(' ').next());
    count.and_then(|count| count.parse().ok()).unwrap_or_else(|| panic!("no count in\n{shown}"))
}
