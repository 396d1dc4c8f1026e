//! Many limits of one instance with the tc backend: what they share, and that none disturbs another.

use std::thread;

use chadthrottle_tests::{
    conformance::{MEASURE, SETTLE, TOLERANCE, update::Adjustable},
    lab::Family::V4,
    load::{Load, Plan, Role},
    process::Running,
    rates,
    stage::{
        Direction::{self, Upload},
        Stage,
    },
};

const LIMITS: usize = 10;
/// Of each, Mbit/s, and the same in bytes per second.
const RATE: f64 = 2.0;
const RATE_BYTES: f64 = RATE * 125_000.0;

/// Uploads that run, as (near, far), and a session that limits each of them.
fn limited(stage: &Stage) -> (Vec<(Load, Load)>, Adjustable) {
    let transfers: Vec<(Load, Load)> = (0..LIMITS)
        .map(|_| {
            let address = stage.lab.far_address(V4);
            // All together must fit on the processors of a test machine.
            let far = Plan::accept(address, Role::Recv).start(&stage.far());
            let near = Plan::connect(address, Role::Send).rate(20.0).start(&stage.near());
            (near, far)
        })
        .collect();
    for (_, far) in &transfers {
        far.wait_connected();
    }
    let pids: Vec<u32> = transfers.iter().map(|(near, _)| near.pid()).collect();
    let mut limits = Adjustable::start(stage, "tc", Upload, &pids);
    for number in 0..LIMITS {
        limits.set(number, RATE);
    }
    (transfers, limits)
}

/// The lines of tc(8) about the filters of a direction's hook.
fn filters(stage: &Stage, direction: Direction) -> Vec<String> {
    let hook = if direction == Upload { "egress" } else { "ingress" };
    let shown = stage.lab.near.sh(&format!("tc filter show dev eth0 {hook}"));
    shown.lines().map(str::to_owned).collect()
}

fn tables(stage: &Stage) -> usize {
    let tables = filters(stage, Upload);
    tables.iter().filter(|line| line.contains("ht divisor 256")).count()
}

/// Ten limits have the tables of one. One is lifted, and it is the one that heard new connections for
/// all: the others stay exact meanwhile, and somebody else hears.
#[test]
fn ten_limits_share_their_filters() {
    let stage = Stage::new("tc");
    let (transfers, mut limits) = limited(&stage);
    // IPv4 and IPv6, TCP and UDP.
    assert_eq!(tables(&stage), 4, "{:#?}", filters(&stage, Upload));
    thread::sleep(2 * SETTLE);
    let before: Vec<usize> = transfers.iter().map(|(_, far)| far.bins().len()).collect();
    assert_eq!(limits.tell(0, "lift"), "set");
    let free = transfers[0].1.watch(MEASURE);
    assert!(rates::mean(&free) > 4.0 * RATE_BYTES, "still limited: {}", rates::show(&free));
    for ((_, far), before) in transfers.iter().zip(before).skip(1) {
        let bins = far.bins().split_off(before);
        rates::assert_rate("while another is lifted", &bins, RATE_BYTES, TOLERANCE);
        // 10 ms at full speed would be a tenth too much.
        let around = &far.bins()[before - 5..before + 5];
        rates::assert_rate("the second around it", around, RATE_BYTES, TOLERANCE);
    }
    let shown = filters(&stage, Upload);
    let mirrors: Vec<&String> = shown.iter().filter(|line| line.contains("Mirror")).collect();
    let links = stage.lab.near.sh("ip -o link show type ifb");
    assert_eq!(mirrors.len(), 2, "{shown:#?}");
    for mirror in mirrors {
        let device = mirror.split("device ").nth(1).and_then(|rest| rest.split(')').next());
        let device = device.expect("a device");
        assert!(links.contains(&format!(" {device}:")), "{mirror}: of these: {links}");
    }
    limits.end();
    assert!(filters(&stage, Upload).is_empty());
    stage.end();
}

/// Killed with -9: the guardian takes back what ten limits shared.
#[test]
fn ten_limits_are_killed() {
    let stage = Stage::new("tc");
    let (transfers, limits) = limited(&stage);
    thread::sleep(SETTLE);
    limits.kill();
    for (_, far) in &transfers {
        let bins = far.watch(SETTLE);
        assert!(rates::mean(&bins) > 0.0, "stopped: {}", rates::show(&bins));
    }
    let free = transfers[0].1.watch(MEASURE);
    assert!(rates::mean(&free) > 4.0 * RATE_BYTES, "still limited: {}", rates::show(&free));
    stage.end();
}

/// When many end, all are free at once; what the kernel takes time to delete goes afterwards.
#[test]
fn a_hundred_limits_end_together() {
    let stage = Stage::new("tc");
    let address = stage.lab.far_address(V4);
    let far = Plan::accept(address, Role::Recv).start(&stage.far());
    let near = Plan::connect(address, Role::Send).rate(20.0).start(&stage.near());
    far.wait_connected();
    let idle: Vec<Running> =
        (1..100).map(|_| Running::start(stage.near().command("sleep").arg("60"))).collect();
    // The one that sends is the last.
    let pids: Vec<u32> = idle.iter().map(Running::pid).chain([near.pid()]).collect();
    let mut limits = Adjustable::start(&stage, "tc", Upload, &pids);
    for number in 0..pids.len() {
        limits.set(number, RATE);
    }
    thread::sleep(SETTLE);
    let bins = far.watch(MEASURE);
    rates::assert_rate("among a hundred", &bins, RATE_BYTES, TOLERANCE);
    let before = far.bins().len();
    limits.end();
    let bins = far.bins().split_off(before);
    let free = bins.chunks(1).position(|bin| rates::mean(bin) > 4.0 * RATE_BYTES);
    assert!(free.is_some_and(|bin| bin < 10), "limited after a second: {}", rates::show(&bins));
    stage.end();
}

/// Filters that somebody deletes come back for all of them.
#[test]
fn deleted_filters_of_ten_come_back() {
    let stage = Stage::new("tc");
    let (transfers, limits) = limited(&stage);
    stage.lab.near.sh("tc qdisc del dev eth0 clsact");
    thread::sleep(3 * SETTLE);
    let before: Vec<usize> = transfers.iter().map(|(_, far)| far.bins().len()).collect();
    thread::sleep(MEASURE);
    for ((_, far), before) in transfers.iter().zip(before) {
        let bins = far.bins().split_off(before);
        rates::assert_rate("after the repair", &bins, RATE_BYTES, TOLERANCE);
    }
    assert_eq!(tables(&stage), 4);
    limits.end();
    stage.end();
}
