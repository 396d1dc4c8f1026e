//! A sender that listens to nobody: what it costs us, and whether its neighbour suffers.

use std::{fs, thread, time::Duration};

use super::{at_most, share};
use crate::{
    bench::record::Figure,
    conformance::roles,
    lab::Family::V4,
    load::{Load, Plan},
    process::{Running, eventually, tool},
    rates::{self, TEN_MBIT},
    stage::{
        Direction::{self, Download, Upload},
        Stage,
    },
    throttle::RUN_DIR,
};

/// One socket's buffer fills before what waits for it is dropped; many do flood.
const FLOWS: usize = 16;
/// Offered by all of them, Mbit/s.
const OFFERED: f64 = 1000.0;
const WATCHED: Duration = Duration::from_secs(8);

/// UDP as fast as goes under a limit of 10M, and TCP under another of the same instance.
pub(super) fn floods(backend: &str) -> Vec<Figure> {
    [Download, Upload].into_iter().flat_map(|direction| flood(backend, direction)).collect()
}

fn flood(backend: &str, direction: Direction) -> [Figure; 2] {
    let stage = Stage::new(backend);
    let name = format!("{direction:?}").to_lowercase();
    let transfer = |shape: &dyn Fn(Plan) -> Plan| -> (Load, Load) {
        let address = stage.lab.far_address(V4);
        let (near, far) = roles(direction);
        let far = shape(Plan::accept(address, far)).start(&stage.far());
        let near = shape(Plan::connect(address, near)).wait().start(&stage.near());
        near.wait_ready();
        (near, far)
    };
    let mut flood = transfer(&|plan| plan.udp().flows(FLOWS).rate(OFFERED));
    let mut neighbour = transfer(&|plan| plan);
    let mut command = stage.runner().command(tool("session"));
    command.arg(backend).args([flood.0.pid(), neighbour.0.pid()].map(|pid| pid.to_string()));
    let mut session = Running::start(command.env(RUN_DIR, stage.run_dir()));
    for number in 0..2 {
        session.tell(&format!("{number} {name} 10mbit"));
    }
    let both = || session.stdout() == ["set", "set"];
    assert!(eventually(Duration::from_secs(10), both), "{}", session.stderr());
    flood.0.go();
    neighbour.0.go();
    let received = if direction == Download { &neighbour.0 } else { &neighbour.1 };
    received.wait_connected();
    thread::sleep(Duration::from_secs(2));
    let before = processor_time(session.pid());
    let bins = received.watch(WATCHED);
    let ours = (processor_time(session.pid()) - before) / WATCHED.as_secs_f64() * 100.0;
    session.close_stdin();
    session.wait(Duration::from_secs(20));
    drop((flood, neighbour));
    stage.end();
    let what = format!("UDP {name} of {FLOWS} sockets, 1G offered to a limit of 10M");
    [
        at_most(format!("{what}: processor time of ours, of one core"), ours, 50.0, "%", 1),
        share(format!("{what}: TCP beside it"), rates::mean(&bins) / TEN_MBIT, 0.02),
    ]
}

/// Seconds of user and system time.
pub(super) fn processor_time(pid: u32) -> f64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("a process");
    let (_, fields) = stat.rsplit_once(") ").expect("a name");
    let ticks: f64 =
        fields.split(' ').skip(11).take(2).filter_map(|n| n.parse::<f64>().ok()).sum();
    ticks / rustix::param::clock_ticks_per_second() as f64
}
