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

/// An instance with so many limits, each on a cgroup of its own: the first is on the stage's apps.
pub(super) struct Many {
    session: Running,
    cgroups: Vec<Cgroup>,
}

impl Many {
    /// Starts it, with the first limit in force.
    pub(super) fn start(stage: &Stage, limits: usize) -> Self {
        let cgroups: Vec<Cgroup> =
            (1..limits).map(|number| stage.scratch().child(&format!("many{number}"))).collect();
        let mut command = stage.runner().command(tool("session"));
        command.arg(stage.backend()).arg(stage.apps.path());
        command.args(cgroups.iter().map(Cgroup::path)).env(RUN_DIR, stage.run_dir());
        let mut session = Running::start(&mut command);
        session.tell("0 download 1000gbit");
        let many = Self { session, cgroups };
        many.wait(1, Duration::from_secs(10));
        many
    }

    /// Starts it with all of them in force.
    pub(super) fn limit(stage: &Stage, limits: usize) -> Self {
        let mut many = Self::start(stage, limits);
        many.limit_rest();
        many
    }

    fn limit_rest(&mut self) {
        let limits = self.cgroups.len() + 1;
        for number in 1..limits {
            self.session.tell(&format!("{number} download 10mbit"));
        }
        self.wait(limits, Duration::from_secs(120));
        let answers = self.session.stdout();
        let refused = answers.iter().filter(|line| *line != "set").count();
        assert_eq!(refused, 0, "limits that were refused: {:?}", answers.last());
    }

    fn wait(&self, answers: usize, patience: Duration) {
        let all = || self.session.stdout().len() >= answers;
        assert!(eventually(patience, all), "{answers} answers: {}", self.session.stderr());
    }

    pub(super) fn end(mut self) {
        self.session.close_stdin();
        self.session.wait(Duration::from_secs(60));
    }
}

/// How long they take, and what a packet under one of them costs.
pub(super) fn many_limits(backend: &str) -> Vec<Figure> {
    let stage = Stage::new(backend);
    let mut many = Many::start(&stage, LIMITS);
    let bpf = backend == "ebpf";
    let alone = if bpf { cost::packet_cost(&stage, &stage.near(), "ingress", 6) } else { 0.0 };
    let started = Instant::now();
    many.limit_rest();
    let took = started.elapsed().as_secs_f64();
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
    many.end();
    stage.end();
    figures
}
