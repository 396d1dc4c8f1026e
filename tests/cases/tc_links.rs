//! Interfaces on top of others, with traffic: a packet is charged once. And many sockets.
//!
//! What this machine's kernel has no devices for (VLAN, bond, VRF, `ipip`, `gre`) is in `vm/guest/links`.

use std::{fs, net::SocketAddr, thread, time::Duration};

use chadthrottle_tests::{
    conformance::{MEASURE, SETTLE, TOLERANCE},
    lab::Family::V4,
    load::{Plan, Role},
    rates::{self, TEN_MBIT},
    stage::{
        Direction::{Download, Upload},
        Stage,
    },
};
use rustix::process::{Resource, Rlimit, setrlimit};

/// Both directions to an address of the far side that is reached through `device`.
fn charged_once(stage: &Stage, device: &str, far: [u8; 4]) {
    for (direction, roles) in
        [(Upload, (Role::Send, Role::Recv)), (Download, (Role::Recv, Role::Send))]
    {
        let address = SocketAddr::from((far, stage.lab.far_address(V4).port()));
        let peer = Plan::accept(address, roles.1).rate(100.0).start(&stage.far());
        let target = Plan::connect(address, roles.0).rate(100.0).start(&stage.near());
        target.wait_connected();
        let throttle = stage.limit(direction, target.pid());
        thread::sleep(2 * SETTLE);
        let receiver = if direction == Upload { &peer } else { &target };
        rates::assert_rate(device, &receiver.watch(MEASURE), TEN_MBIT, TOLERANCE);
        throttle.stop();
    }
    let left: Vec<String> =
        stage.left().into_iter().filter(|line| !line.contains(device)).collect();
    assert!(left.is_empty(), "left behind: {left:#?}");
}

/// A tunnel in UDP: the packet in it is the target's, the one around it is the kernel's.
#[test]
fn through_a_vxlan() {
    let stage = Stage::new("tc");
    for (namespace, own, other) in [(&stage.lab.near, 1, 2), (&stage.lab.far, 2, 1)] {
        namespace.sh(&format!(
            "ip link add vx0 type vxlan id 7 local 10.8.0.{own} remote 10.8.0.{other} dstport 4789"
        ));
        namespace.sh(&format!("ip addr add 10.6.0.{own}/24 dev vx0"));
        namespace.sh("ip link set vx0 up");
    }
    charged_once(&stage, "vx0", [10, 6, 0, 2]);
}

/// A macvlan on the interface: the very same packet passes both.
#[test]
fn through_a_macvlan() {
    let stage = Stage::new("tc");
    let near = &stage.lab.near;
    near.sh("ip link add mv0 link eth0 type macvlan mode bridge");
    near.sh("ip addr add 10.6.0.1/24 dev mv0");
    near.sh("ip link set mv0 up");
    stage.lab.far.sh("ip addr add 10.6.0.2/24 dev eth0");
    charged_once(&stage, "mv0", [10, 6, 0, 2]);
}

/// Of each of two processes.
const SOCKETS: usize = 1000;

/// Thousands of connections: taken in soon, and then looked after with a small part of a processor.
#[test]
fn thousands_of_sockets() {
    let stage = Stage::new("tc");
    // Inherited by both ends.
    let files = Some(10_000);
    setrlimit(Resource::Nofile, Rlimit { current: files, maximum: files })
        .expect("set a limit");
    let plan = |plan: Plan| plan.flows(SOCKETS).rate(10.0);
    let pairs = [(); 2].map(|()| {
        let address = stage.lab.far_address(V4);
        let peer = plan(Plan::accept(address, Role::Recv)).start(&stage.far());
        let target = plan(Plan::connect(address, Role::Send)).start(&stage.near());
        target.wait_connected();
        (target, peer)
    });
    let pids = pairs.each_ref().map(|(target, _)| target.pid().to_string());
    let mut throttle = stage.start(&["-u", "10mbit", "--pid", &pids[0], "--pid", &pids[1]]);
    let taken_in = throttle.wait_enforced();
    let filters = stage.lab.near.sh("tc filter show dev eth0 egress");
    let flows = filters.matches("mirred (Egress Redirect").count();
    // News of the first seconds, then calm.
    thread::sleep(4 * SETTLE);
    let before = processor_time(throttle.pid());
    let time = Duration::from_secs(5);
    thread::sleep(time);
    let share = (processor_time(throttle.pid()) - before) / time.as_secs_f64();
    println!("{flows} flows in {taken_in:?}, then {:.1} % of a processor", share * 100.0);
    assert!(flows >= 2 * SOCKETS, "{flows} flows are matched");
    assert!(taken_in < Duration::from_secs(3), "{taken_in:?} until they were limited");
    assert!(share < 0.25, "{share:.2} of a processor");
    throttle.stop();
    stage.end();
}

/// Seconds, of all threads of a process.
fn processor_time(pid: u32) -> f64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("a process");
    let fields = stat.rsplit_once(')').expect("a name in brackets").1;
    // utime and stime are fields 14 and 15, in ticks of 10 ms; these begin with field 3.
    let ticks = fields.split_whitespace().skip(11).take(2).map(str::parse::<f64>);
    ticks.map(|ticks| ticks.expect("a number") / 100.0).sum()
}
