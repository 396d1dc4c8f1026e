//! What only the tc backend promises: others' qdiscs and filters, new connections, what its devices say.

use std::{thread, time::Duration};

use chadthrottle_tests::{
    conformance::{GLANCE, MEASURE, SETTLE, TOLERANCE},
    lab::Family::V4,
    load::{Load, Plan, Role},
    process::{Running, eventually, tool},
    rates::{self, TEN_MBIT},
    stage::{
        Direction::{Download, Upload},
        Stage,
    },
    throttle::Throttle,
};
use rustix::process::Signal;

/// A transfer over IPv4 at up to 100 Mbit/s, as (near, far).
fn transfer(stage: &Stage, near: Role, far: Role) -> (Load, Load) {
    let address = stage.lab.far_address(V4);
    let far = Plan::accept(address, far).rate(100.0).start(&stage.far());
    let near = Plan::connect(address, near).rate(100.0).start(&stage.near());
    near.wait_connected();
    (near, far)
}

/// A bridge with the interface as its port: the packet passes both and is charged once.
#[test]
fn through_a_bridge_once() {
    let stage = Stage::new("tc");
    stage.lab.near.bridge("eth0", "br0", "10.8.0.1/24");
    for (direction, roles) in
        [(Upload, (Role::Send, Role::Recv)), (Download, (Role::Recv, Role::Send))]
    {
        let (target, peer) = transfer(&stage, roles.0, roles.1);
        let throttle = stage.limit(direction, target.pid());
        thread::sleep(2 * SETTLE);
        let receiver = if direction == Upload { &peer } else { &target };
        let bins = receiver.watch(MEASURE);
        rates::assert_rate("through a bridge", &bins, TEN_MBIT, TOLERANCE);
        throttle.stop();
    }
    let left: Vec<String> =
        stage.left().into_iter().filter(|line| !line.contains("br0")).collect();
    assert!(left.is_empty(), "left behind: {left:#?}");
}

/// A clsact with filters of somebody else: both stay, and their filter still sees what it saw.
#[test]
fn what_others_have_stays() {
    let stage = Stage::new("tc");
    let near = &stage.lab.near;
    near.sh("tc qdisc add dev eth0 clsact");
    near.sh("tc filter add dev eth0 egress pref 10 protocol ip u32 match ip protocol 1 0xff flowid :1");
    near.sh("tc qdisc add dev eth0 root handle 7: tbf rate 1gbit burst 1mb limit 1mb");
    let before = near.sh("tc filter show dev eth0 egress") + &near.sh("tc qdisc show dev eth0");
    let (target, peer) = transfer(&stage, Role::Send, Role::Recv);
    let throttle = stage.limit(Upload, target.pid());
    assert!(throttle.events().iter().any(|event| event["event"] == "enforced"));
    thread::sleep(2 * SETTLE);
    rates::assert_rate("beside others", &peer.watch(MEASURE), TEN_MBIT, TOLERANCE);
    throttle.stop();
    let after = near.sh("tc filter show dev eth0 egress") + &near.sh("tc qdisc show dev eth0");
    assert_eq!(before, after);
}

/// An ingress qdisc of somebody's leaves no hook for uploads: said, and nothing is touched.
#[test]
fn an_ingress_qdisc_is_in_the_way_of_uploads() {
    let stage = Stage::new("tc");
    stage.lab.near.sh("tc qdisc add dev eth0 ingress");
    let (target, _peer) = transfer(&stage, Role::Recv, Role::Send);
    let mut refused = stage.start(&["-u", "10mbit", "--pid", &target.pid().to_string()]);
    assert_ne!(refused.wait(), 0);
    assert!(refused.stderr().contains("ingress qdisc"), "{}", refused.stderr());
    // Downloads use the hook that is there.
    let throttle = stage.limit(Download, target.pid());
    thread::sleep(2 * SETTLE);
    rates::assert_rate("by its hook", &target.watch(MEASURE), TEN_MBIT, TOLERANCE);
    throttle.stop();
    assert!(stage.lab.near.sh("tc qdisc show dev eth0").contains("ingress"));
}

/// Somebody deletes all filters of an interface: ours are there again within a second or two.
#[test]
fn deleted_filters_come_back() {
    let stage = Stage::new("tc");
    let (target, peer) = transfer(&stage, Role::Send, Role::Recv);
    let throttle = stage.limit(Upload, target.pid());
    stage.lab.near.sh("tc qdisc del dev eth0 clsact");
    thread::sleep(3 * SETTLE);
    rates::assert_rate("after the repair", &peer.watch(MEASURE), TEN_MBIT, TOLERANCE);
    throttle.stop();
    stage.end();
}

/// Killed with its guardian, and the interface is gone as well: `clean` has the rest.
#[test]
fn cleans_after_an_interface_vanished() {
    let stage = Stage::new("tc");
    let (target, _peer) = transfer(&stage, Role::Send, Role::Recv);
    let mut throttle = stage.limit(Upload, target.pid());
    throttle.kill_with_guardian();
    stage.lab.rewire();
    let clean = stage.output(&["clean"]);
    assert!(clean.status.success(), "{}", String::from_utf8_lossy(&clean.stderr));
    stage.end();
}

/// What opens a connection waits until that is known: none runs free, whoever else has such a gate.
#[test]
fn a_new_connection_is_held_until_it_is_known() {
    let stage = Stage::new("tc");
    let free = free(&stage, |pid| stage.limit(Upload, pid));
    assert!(free[2] < 2, "ms free: {free:?}");
    stage.end();
}

/// Without netfilter it runs free until it is heard: of three the median. Looking alone, every 40 ms,
/// would leave it 20 ms.
#[test]
fn a_new_connection_is_heard_at_once() {
    let stage = Stage::new("tc");
    let refuse = tool("refuse");
    let refuse = [refuse.to_str().expect("a plain path"), "netfilter=EPERM", "--"];
    let free = free(&stage, |pid| {
        let mut throttle =
            stage.start_behind(&refuse, &["-u", "10mbit", "--pid", &pid.to_string()]);
        throttle.wait_enforced();
        throttle
    });
    assert!(free[1] < 10, "ms free: {free:?}");
    stage.end();
}

/// How long connections run free that three limited processes open once all is calm, ms, ascending;
/// judged by what comes through.
fn free(stage: &Stage, limit: impl Fn(u32) -> Throttle) -> Vec<u64> {
    let loads: Vec<_> = (0..3)
        .map(|_| {
            let address = stage.lab.far_address(V4);
            let far = Plan::accept(address, Role::Recv).start(&stage.far());
            let near = Plan::connect(address, Role::Send).rate(100.0).wait();
            let near = near.start(&stage.near());
            near.wait_ready();
            let throttle = limit(near.pid());
            (near, far, throttle)
        })
        .collect();
    // Past the seconds in which looks are frequent.
    thread::sleep(Duration::from_secs(4));
    let mut free = Vec::new();
    for (mut near, far, throttle) in loads {
        near.go();
        far.wait_connected();
        thread::sleep(GLANCE);
        // All since the connection was made.
        let bins = far.bins();
        // What 100 Mbit/s bring comes on top of the limit.
        let limited = 125_000 * bins.len() as u64;
        free.push(bins.iter().sum::<u64>().saturating_sub(limited) / 12_500);
        println!("{} ms free\n{}", free[free.len() - 1], rates::show(&bins));
        throttle.stop();
    }
    free.sort_unstable();
    free
}

/// Without packet sockets new connections are found by looking: said, and the limit holds.
#[test]
fn without_the_capability_for_packet_sockets() {
    let stage = Stage::new("tc");
    let (target, peer) = transfer(&stage, Role::Send, Role::Recv);
    let script = "exec setpriv --inh-caps=-net_raw --bounding-set=-net_raw \"$@\"";
    let wrapper = ["sh", "-c", script, "sh"];
    let pid = target.pid().to_string();
    let mut throttle = stage.start_behind(&wrapper, &["-u", "10mbit", "--pid", &pid]);
    throttle.wait_enforced();
    thread::sleep(2 * SETTLE);
    rates::assert_rate("found by looking", &peer.watch(MEASURE), TEN_MBIT, TOLERANCE);
    let said = throttle.stderr();
    assert!(said.contains("CAP_NET_RAW"), "{said}");
    throttle.stop();
    stage.end();
}

/// What our devices would say by themselves, such as router solicitations, is not the target's.
#[test]
fn a_silent_target_counts_nothing() {
    let stage = Stage::new("tc");
    let sleeper = Running::start(stage.near().command("sleep").arg("60"));
    let pid = sleeper.pid().to_string();
    let mut throttle = stage.run(&["-d", "10mbit", "-u", "10mbit", "--pid", &pid]);
    let devices = stage.lab.near.sh("ip -o link show type ifb");
    assert_eq!(devices.lines().count(), 2, "{devices}");
    for device in devices.lines().filter_map(|line| line.split([' ', ':']).nth(2)) {
        let addresses = stage.lab.near.sh(&format!("ip -o addr show dev {device}"));
        assert_eq!(addresses, "", "addresses of {device}");
    }
    // The first solicitation takes up to a second.
    thread::sleep(2 * SETTLE);
    throttle.signal(Signal::INT);
    assert_eq!(throttle.wait(), 0, "{}", throttle.stderr());
    let totals = throttle.expect_event("released")["totals"].clone();
    let packets = [&totals["download"]["packets"], &totals["upload"]["packets"]];
    assert_eq!(packets, [0, 0], "{totals:#}");
    stage.end();
}

/// Somebody deletes our device: said, another one limits, and what had passed counts.
#[test]
fn a_deleted_device_is_replaced() {
    let stage = Stage::new("tc");
    let (target, peer) = transfer(&stage, Role::Send, Role::Recv);
    let mut throttle = stage.limit(Upload, target.pid());
    thread::sleep(2 * SETTLE);
    let links = stage.lab.near.sh("ip -br link show type ifb");
    let device = links.split_whitespace().next().expect("our device");
    stage.lab.near.sh(&format!("ip link del {device}"));
    let told = || throttle.events().iter().any(|event| event["event"] == "warning");
    assert!(eventually(2 * SETTLE, told), "{}", throttle.stderr());
    assert!(throttle.stderr().contains(device), "{}", throttle.stderr());
    thread::sleep(2 * SETTLE);
    rates::assert_rate("by another device", &peer.watch(MEASURE), TEN_MBIT, TOLERANCE);
    throttle.signal(Signal::INT);
    assert_eq!(throttle.wait(), 0, "{}", throttle.stderr());
    let released = throttle.expect_event("released");
    let passed = released["totals"]["upload"]["bytes"].as_u64();
    assert!(passed.is_some_and(|bytes| bytes > 5_000_000), "{released:#}");
    stage.end();
}

/// A rate above 34 Gbit/s does not fit into 32 bits of bytes: the kernel must have it whole.
#[test]
fn forty_gigabit() {
    let stage = Stage::new("tc");
    let (target, _peer) = transfer(&stage, Role::Send, Role::Recv);
    let throttle = stage.run(&["-u", "40gbit", "--pid", &target.pid().to_string()]);
    let near = &stage.lab.near;
    let links = near.sh("ip -o link show");
    let device = links.split_whitespace().find(|word| word.starts_with("chad"));
    let device = device.expect("our device").trim_end_matches(':');
    let classes = near.sh(&format!("tc class show dev {device}"));
    let root = classes.lines().find(|line| line.contains("htb 1:1 ")).expect("a class");
    for word in ["rate", "ceil"] {
        let mut words = root.split_whitespace().skip_while(|other| *other != word).skip(1);
        let gbit = gigabits(words.next().expect("a rate"));
        // Frames: 1514 bytes for 1448 of payload, until other packets pass.
        assert!((40.0..60.0).contains(&gbit), "{word}: {root}");
    }
    throttle.stop();
    stage.end();
}

/// As tc(8) prints rates.
fn gigabits(text: &str) -> f64 {
    let number = text.trim_end_matches(|c: char| c.is_alphabetic());
    let scale = match &text[number.len()..] {
        "Gbit" => 1.0,
        "Mbit" => 1e-3,
        "Kbit" => 1e-6,
        "bit" => 1e-9,
        unit => panic!("{unit} is no unit"),
    };
    number.parse::<f64>().expect("a number") * scale
}
