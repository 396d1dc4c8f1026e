//! What a limit costs: nanoseconds a packet, processor time a gigabyte.

use std::{fs, path::Path, thread, time::Duration};

use serde_json::Value;

use super::at_most;
use crate::{
    bench::{cell::median, record::Figure},
    conformance::roles,
    lab::Family::V4,
    load::Plan,
    process::{Place, sh},
    stage::{Direction, Stage},
};

/// Packets in one measurement.
const PACKETS: u32 = 2_000_000;
/// Payload of the packet that is measured with.
const PAYLOAD: usize = 1448;
/// `__sk_buff.ifindex` of linux/bpf.h, bytes from its start, and how much of it is given.
const IFINDEX: usize = 40;
const CONTEXT: usize = 192;

/// A hook by bpftool's name, and a transport.
const HOOKS: [(&str, &str); 2] = [("ingress", "download"), ("egress", "upload")];

/// By `BPF_PROG_TEST_RUN`, through the programs as they are attached: the tool sends packets of a
/// socket that lives in the cgroup of whoever calls it.
pub(super) fn packets(backend: &str) -> Vec<Figure> {
    only_bpf(backend);
    let stage = Stage::new(backend);
    let apps = stage.apps.path().to_str().expect("a plain path").to_owned();
    // So fast that nothing is refused.
    let throttle = stage.run(&["-d", "1000gbit", "-u", "1000gbit", "--cgroup", &apps]);
    let mut figures = Vec::new();
    for (hook, direction) in HOOKS {
        for (protocol, number) in [("TCP", 6), ("UDP", 17)] {
            let what = format!("a packet of a limited {protocol} {direction}");
            let cost = packet_cost(&stage, &stage.near(), hook, number);
            figures.push(at_most(what, cost, 150.0, "ns", 0));
        }
        let other = stage.lab.near.place().in_cgroup(stage.scratch());
        let cost = packet_cost(&stage, &other, hook, 6);
        let what = format!("a packet of an unlimited {direction} beside it");
        figures.push(untargeted(what, cost));
    }
    let cost = cost_of(&stage, &stage.near(), named("chadthrottle_wire"), 6);
    figures
        .push(untargeted("a packet of anybody's that leaves by an interface beside it", cost));
    throttle.stop();
    stage.end();
    figures
}

/// Nanoseconds of which nobody asked how many they may be.
fn untargeted(what: impl Into<String>, cost: f64) -> Figure {
    let mut figure = at_most(what.into(), cost, 150.0, "ns", 0);
    figure.met = None;
    "-".clone_into(&mut figure.target);
    figure
}

/// # Panics
/// When the backend has no programs to measure.
pub(super) fn only_bpf(backend: &str) {
    assert!(backend == "ebpf", "only programs on cgroups can be run without a network");
}

/// Of the program at this hook of the cgroup.
pub(super) fn packet_cost(stage: &Stage, place: &Place, hook: &str, protocol: u8) -> f64 {
    cost_of(stage, place, program(stage.apps.path(), hook), protocol)
}

/// The median of five measurements, ns.
fn cost_of(stage: &Stage, place: &Place, program: u64, protocol: u8) -> f64 {
    let (packet, context) =
        (stage.directory().join("packet"), stage.directory().join("context"));
    fs::write(&packet, frame(protocol)).expect("write a packet");
    let shown = stage.lab.near.sh("ip -o link show eth0");
    let ifindex: u32 =
        shown.split(':').next().and_then(|word| word.trim().parse().ok()).expect("an index");
    let mut bytes = vec![0; CONTEXT];
    bytes[IFINDEX..IFINDEX + 4].copy_from_slice(&ifindex.to_ne_bytes());
    fs::write(&context, bytes).expect("write a context");
    let costs = (0..5).map(|_| {
        let mut tool = place.command("bpftool");
        tool.args(["-j", "prog", "run", "id", &program.to_string(), "data_in"]).arg(&packet);
        tool.arg("ctx_in").arg(&context).args(["repeat", &PACKETS.to_string()]);
        let output = tool.output().expect("run bpftool");
        let answer: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
        answer["duration"].as_f64().unwrap_or_else(|| {
            panic!("bpftool prog run: {}", String::from_utf8_lossy(&output.stderr))
        })
    });
    median(costs.collect())
}

/// The id of the program at this hook of a cgroup.
fn program(cgroup: &Path, hook: &str) -> u64 {
    let listed = sh(&format!("bpftool -j cgroup show {}", cgroup.display()));
    let listed: Value = serde_json::from_str(&listed).expect("JSON");
    let found = listed.as_array().into_iter().flatten().find(|program| {
        program["attach_type"].as_str().is_some_and(|name| name.ends_with(&format!("_{hook}")))
    });
    found.and_then(|program| program["id"].as_u64()).expect("an attached program")
}

/// The id of the program with this name, the youngest one's.
fn named(name: &str) -> u64 {
    let listed: Value = serde_json::from_str(&sh("bpftool -j prog show")).expect("JSON");
    // The kernel keeps 15 bytes of a name.
    let found = listed.as_array().into_iter().flatten().filter(|program| {
        program["name"]
            .as_str()
            .is_some_and(|known| known.len() > 14 && name.starts_with(known))
    });
    found.filter_map(|program| program["id"].as_u64()).max().expect("a loaded program")
}

/// An Ethernet frame with a full segment, or a datagram as long.
fn frame(protocol: u8) -> Vec<u8> {
    let transport = if protocol == 6 { 32 } else { 8 };
    let mut frame = vec![0; 14 + 20 + transport + PAYLOAD];
    frame[12] = 8; // IPv4
    frame[14] = 0x45;
    let length = (frame.len() - 14) as u16;
    frame[16..18].copy_from_slice(&length.to_be_bytes());
    frame[22] = 64;
    frame[23] = protocol;
    frame[26..30].copy_from_slice(&[10, 8, 0, 1]);
    frame[30..34].copy_from_slice(&[10, 8, 0, 2]);
    if protocol == 6 {
        frame[34 + 12] = 8 << 4;
    }
    frame
}

/// How long the processor is watched.
const WATCHED: Duration = Duration::from_secs(8);

/// Processor seconds of the whole machine a gigabyte: unlimited as fast as goes, unlimited with 1
/// Gbit/s offered, and limited to 1 Gbit/s.
pub(super) fn processor(backend: &str) -> Vec<Figure> {
    let mut figures = Vec::new();
    for direction in [Direction::Download, Direction::Upload] {
        let name = format!("{direction:?}").to_lowercase();
        let fast = gigabyte(backend, direction, None, false);
        let offered = gigabyte(backend, direction, Some(1000.0), false);
        let limited = gigabyte(backend, direction, None, true);
        let mut figure = at_most(
            format!("processor time a gigabyte, {name} limited to 1G"),
            limited / fast,
            1.5,
            "times unlimited",
            2,
        );
        figure.value = figure.value.map(|value| {
            format!(
                "{value} ({limited:.2} s; unlimited {fast:.2} s, and {offered:.2} s when the \
                 sender offers 1G)"
            )
        });
        figures.push(figure);
    }
    figures
}

fn gigabyte(backend: &str, direction: Direction, rate: Option<f64>, limited: bool) -> f64 {
    let stage = Stage::new(backend);
    let (near, far) = roles(direction);
    let shape = |plan: Plan| match rate {
        Some(mbit) => plan.rate(mbit),
        None => plan,
    };
    let address = stage.lab.far_address(V4);
    let throttle = limited.then(|| {
        let apps = stage.apps.path().to_str().expect("a plain path");
        stage.run(&[direction.flag(), "1gbit", "--cgroup", apps])
    });
    let far = shape(Plan::accept(address, far)).start(&stage.far());
    let near = shape(Plan::connect(address, near)).start(&stage.near());
    let receiver = if direction == Direction::Download { &near } else { &far };
    receiver.wait_connected();
    thread::sleep(Duration::from_secs(2));
    let before = (receiver.bins().iter().sum::<u64>(), busy());
    thread::sleep(WATCHED);
    let after = (receiver.bins().iter().sum::<u64>(), busy());
    let bytes = (after.0 - before.0) as f64;
    let cost = (after.1 - before.1) / (bytes / 1e9);
    drop((near, far));
    throttle.into_iter().for_each(crate::throttle::Throttle::stop);
    stage.end();
    cost
}

/// Processor seconds since boot, of all processors, without what runs at low priority.
fn busy() -> f64 {
    let stat = fs::read_to_string("/proc/stat").expect("read /proc/stat");
    let line = stat.lines().next().expect("a first line");
    let ticks: Vec<f64> =
        line.split_whitespace().skip(1).map_while(|word| word.parse().ok()).collect();
    // user, nice, system, idle, iowait, irq, softirq
    (ticks[0] + ticks[2] + ticks[5] + ticks[6]) / rustix::param::clock_ticks_per_second() as f64
}
