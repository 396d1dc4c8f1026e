//! Who limits: a backend of ours, plain HTB by hand, or a peer that can be installed.

use std::{fmt, path::Path, thread, time::Duration};

use rustix::process::Signal;
use serde::{Deserialize, Serialize};

use super::grid::{Cell, Protocol};
use crate::{
    load::{Load, Plan},
    process::Running,
    relay,
    stage::{Direction, Stage},
    throttle::Throttle,
};

/// Where `make bench` installs `TrafficToll`, seen from the workspace.
const TRAFFIC_TOLL: &str = "target/peers/bin/tt";
/// Payload of a full segment at an MTU of 1500 with timestamps.
const MSS: u64 = 1448;

/// Who limits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Limiter {
    /// `chadthrottle run --backend X`.
    Ours(String),
    /// HTB on the interface, and on an ifb device for downloads, set up well by hand.
    Htb,
    /// A library that slows the calls of a program (Debian: trickle).
    Trickle,
    /// A script for CBQ and a policer on a whole interface (Debian: wondershaper).
    Wondershaper,
    /// HTB per process (`PyPI`: traffictoll).
    TrafficToll,
}

impl Limiter {
    /// All but ours.
    pub const OTHERS: [Self; 4] =
        [Self::Htb, Self::Trickle, Self::Wondershaper, Self::TrafficToll];
}

impl fmt::Display for Limiter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ours(backend) => backend,
            Self::Htb => "HTB by hand",
            Self::Trickle => "trickle",
            Self::Wondershaper => "wondershaper",
            Self::TrafficToll => "TrafficToll",
        })
    }
}

/// A limit in force; it lasts as long as the stage, or until [`InForce::end`].
pub enum InForce {
    /// Part of the namespace's devices, or of the program.
    Inherent,
    /// Ours.
    Ours(Throttle),
    /// A process that must live.
    Process(Running),
}

impl InForce {
    /// Lifts it.
    pub fn end(self) {
        match self {
            Self::Inherent => {}
            Self::Ours(throttle) => throttle.stop(),
            Self::Process(mut running) => {
                running.signal(Signal::INT);
                running.wait(Duration::from_secs(10));
            }
        }
    }
}

impl Limiter {
    /// Starts the near end; one that is limited from its first instruction is so from here.
    pub fn start(&self, stage: &Stage, cell: &Cell, plan: &Plan) -> Load {
        if *self != Self::Trickle {
            return plan.start(&stage.near());
        }
        let kilobytes = (cell.limit() / 1024.0).round().to_string();
        // Without -s it asks for a daemon; -t 0.05 and -l 10 are its smoothest settings.
        let flags = ["-s", "-t", "0.05", "-l", "10", cell.direction.flag(), &kilobytes];
        plan.clone().plain().start_through(&stage.near(), "trickle", &flags)
    }

    /// Limits the near end from now on.
    pub fn limit(&self, stage: &Stage, cell: &Cell, near: &Load) -> InForce {
        match self {
            Self::Ours(_) => {
                let rate = format!("{}kbit", cell.kbit);
                let pid = near.pid().to_string();
                InForce::Ours(stage.run(&[cell.direction.flag(), &rate, "--pid", &pid]))
            }
            Self::Htb => {
                htb(stage, cell);
                InForce::Inherent
            }
            Self::Trickle => InForce::Inherent,
            Self::Wondershaper => {
                // The device as a whole; the script hides its own failures.
                let (device, kbit) = (device(cell), cell.kbit.to_string());
                let script =
                    format!("wondershaper {device} {kbit} {kbit} >/dev/null 2>&1 || true");
                stage.lab.near.sh(&format!("sh -c '{script}'"));
                let (what, wanted) = match cell.direction {
                    Direction::Download => ("filter", "police"),
                    Direction::Upload => ("qdisc", "cbq"),
                };
                let parent = if what == "filter" { "parent ffff:" } else { "" };
                let shown = stage.lab.near.sh(&format!("tc {what} show dev {device} {parent}"));
                assert!(
                    shown.contains(wanted),
                    "set nothing up: it needs CBQ, which Linux 6.8 removed, and act_police"
                );
                InForce::Inherent
            }
            Self::TrafficToll => traffic_toll(stage, cell, near),
        }
    }

    /// Why this cell makes no sense with it.
    pub fn cannot(&self, cell: &Cell) -> Option<&'static str> {
        let udp = cell.protocol == Protocol::Udp;
        (*self == Self::Trickle && udp).then_some("limits TCP only")
    }
}

/// The near side's device of a cell.
fn device(cell: &Cell) -> &'static str {
    if cell.rtt == 0 { "eth0" } else { relay::DEVICE }
}

/// HTB, with the burst that it needs and a queue of 100 ms.
fn htb(stage: &Stage, cell: &Cell) {
    let near = &stage.lab.near;
    let device = device(cell);
    // HTB counts what the device carries; a TUN device has no Ethernet header.
    let frame = if cell.rtt == 0 { 1514 } else { 1500 };
    let rate = cell.kbit * 125 * frame / MSS;
    let burst = (rate / 125).clamp(10_240, 1_000_000);
    let queue = (rate / 10).max(30_000);
    let shaped = match cell.direction {
        Direction::Upload => {
            if cell.kbit < 20_000 {
                // It never splits a large packet.
                near.sh(&format!("ip link set {device} gso_max_size 4000"));
            }
            device
        }
        Direction::Download => {
            near.sh("ip link add bench-ifb type ifb");
            near.sh("ip link set bench-ifb up");
            near.sh(&format!("tc qdisc add dev {device} handle ffff: ingress"));
            near.sh(&format!(
                "tc filter add dev {device} parent ffff: protocol all u32 match u32 0 0 \
                 action mirred egress redirect dev bench-ifb"
            ));
            "bench-ifb"
        }
    };
    near.sh(&format!("tc qdisc add dev {shaped} root handle 1: htb default 1"));
    near.sh(&format!(
        "tc class add dev {shaped} parent 1: classid 1:1 htb rate {}bit burst {burst} \
         cburst {burst}",
        rate * 8
    ));
    near.sh(&format!("tc qdisc add dev {shaped} parent 1:1 handle 2: bfifo limit {queue}"));
}

/// `tt` on the near side's device, for the near end: its match by pid fails with today's psutil.
fn traffic_toll(stage: &Stage, cell: &Cell, near: &Load) -> InForce {
    let program = std::env::current_dir().expect("a directory").join(TRAFFIC_TOLL);
    assert!(Path::new(&program).exists(), "is not installed");
    // It takes the first ifb device that is up; without one it loads and unloads the module.
    stage.lab.near.sh("ip link add ifb9 type ifb");
    stage.lab.near.sh("ip link set ifb9 up");
    let config = stage.directory().join("tt.yaml");
    let words = std::fs::read(format!("/proc/{}/cmdline", near.pid())).expect("a command line");
    let words = String::from_utf8_lossy(&words).replace('\0', " ");
    let regex = format!(".*{}.*", words.trim().rsplit('/').next().unwrap_or_default());
    let direction = format!("{:?}", cell.direction).to_lowercase();
    let text = format!(
        "processes:\n  load:\n    {direction}: {}kbps\n    {direction}-priority: 0\n    \
         recursive: true\n    match:\n      - cmdline: '{}'\n",
        cell.kbit as f64 / 8.0,
        regex
    );
    std::fs::write(&config, text).expect("write a configuration");
    let mut command = stage.runner().command(&program);
    command.arg(device(cell)).arg(&config);
    let mut running = Running::start(&mut command);
    thread::sleep(Duration::from_secs(2));
    if running.status().is_some() {
        let said = running.stderr();
        let error = said.lines().rfind(|line| line.contains("Error"));
        panic!("ended: {}", error.unwrap_or("without a word"));
    }
    InForce::Process(running)
}
