//! A thousand limits in one instance.

use std::time::{Duration, Instant};

use super::{at_most, cost};
use crate::{
    bench::record::Figure,
    cgroup::Cgroup,
    process::{Running, eventually, tool},
    stage::Stage,
    throttle::RUN_DIR,
};

const LIMITS: usize = 1000;

/// On so many cgroups: how long they take, and what a packet costs then.
pub(super) fn many_limits(backend: &str) -> Vec<Figure> {
    let stage = Stage::new(backend);
    let cgroups: Vec<Cgroup> =
        (1..LIMITS).map(|number| stage.scratch().child(&format!("many{number}"))).collect();
    let mut command = stage.runner().command(tool("session"));
    command.arg(backend).arg(stage.apps.path()).args(cgroups.iter().map(Cgroup::path));
    command.env(RUN_DIR, stage.run_dir());
    let mut session = Running::start(&mut command);
    let mut set = |number: usize| {
        session.tell(&format!("{number} download 1000gbit"));
    };
    set(0);
    let answers = |session: &Running| session.stdout().len();
    assert!(eventually(Duration::from_secs(10), || answers(&session) == 1), "no first limit");
    let bpf = backend == "ebpf";
    let alone = if bpf { cost::packet_cost(&stage, &stage.near(), "ingress", 6) } else { 0.0 };
    let started = Instant::now();
    for number in 1..LIMITS {
        session.tell(&format!("{number} download 10mbit"));
    }
    let all = || answers(&session) == LIMITS;
    assert!(eventually(Duration::from_secs(120), all), "{}", session.stderr());
    let took = started.elapsed().as_secs_f64();
    let refused = session.stdout().iter().filter(|line| *line != "set").count();
    assert_eq!(refused, 0, "limits that were refused: {:?}", session.stdout().last());
    let mut figures =
        vec![at_most(format!("{LIMITS} limits are in force after"), took, 1.0, "s", 2)];
    if bpf {
        let among = cost::packet_cost(&stage, &stage.near(), "ingress", 6);
        let mut figure = at_most(
            format!("a packet under one limit of {LIMITS}"),
            among / alone,
            1.1,
            "times as under the only one",
            2,
        );
        figure.value =
            figure.value.map(|value| format!("{value} ({alone:.0} and {among:.0} ns)"));
        figures.push(figure);
    }
    session.close_stdin();
    session.wait(Duration::from_secs(60));
    drop(cgroups);
    stage.end();
    figures
}
