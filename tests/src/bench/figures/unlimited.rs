//! What a packet costs that no limit is meant for, beside none, one and many of them.

use std::{array::from_fn, net::SocketAddr, time::Duration};

use super::{at_most, many::Many};
use crate::{
    bench::{cell::median, record::Figure},
    lab::Family::V4,
    process::{Place, Running, tool},
    stage::Stage,
};

/// How many limits are in force on each of the stages that are measured in turn. Those of tc take long
/// to end: each has a device of its own.
fn limits(backend: &str) -> [usize; 3] {
    [0, 1, if backend == "tc" { 10 } else { 1000 }]
}
const TURNS: usize = 201;
/// Datagrams in one turn: about 5 ms, so that the stages are measured under the same conditions.
const COUNT: u32 = 5_000;
const PATIENCE: Duration = Duration::from_secs(20);

/// In both directions: the time that a sender takes for a datagram. It crosses a veth pair and is
/// put into, or refused by, a socket that nobody reads, all in the sender's own time.
pub(super) fn packets(backend: &str) -> Vec<Figure> {
    let limits = limits(backend);
    let stages: [Stage; 3] = from_fn(|_| Stage::new(backend));
    let sessions: [Option<Many>; 3] =
        from_fn(|at| (limits[at] > 0).then(|| Many::limit(&stages[at], limits[at])));
    let mut figures = Vec::new();
    for direction in ["download", "upload"] {
        let mut paths: [Path; 3] = from_fn(|at| Path::open(&stages[at], direction));
        let mut costs: [Vec<f64>; 3] = from_fn(|_| Vec::new());
        for turn in 0..=TURNS {
            for (path, costs) in paths.iter_mut().zip(&mut costs) {
                let cost = path.send();
                // The first fills the receiver's buffer, caches and neighbour tables.
                if turn > 0 {
                    costs.push(cost);
                }
            }
        }
        let ratios = costs[2].iter().zip(&costs[1]).map(|(many, one)| many / one);
        let ratio = median(ratios.collect());
        let [none, one, many] = costs.map(median);
        let what = format!(
            "a packet of an unlimited {direction} beside {} limits, from send to receive",
            limits[2]
        );
        let mut figure = at_most(what, ratio, 1.05, "times as beside one", 3);
        figure.value = figure.value.map(|value| {
            format!("{value} ({one:.0} and {many:.0} ns; {none:.0} ns beside none)")
        });
        figures.push(figure);
    }
    sessions.into_iter().flatten().for_each(Many::end);
    stages.into_iter().for_each(Stage::end);
    figures
}

/// A sender and who takes nothing, in the two namespaces of a stage and in cgroups without a limit.
struct Path {
    sender: Running,
    answers: usize,
    _sink: Running,
}

impl Path {
    fn open(stage: &Stage, direction: &str) -> Self {
        // As deep as what is limited: the rule for that level looks them up.
        let near = stage.bystander();
        let (from, to, address) = match direction {
            "download" => (stage.far(), near, stage.lab.near_address(V4)),
            _ => (near, stage.far(), stage.lab.far_address(V4)),
        };
        let sink = blast(&to, &["--sink", &address.to_string()]);
        let sender = blast(&from, &[&SocketAddr::to_string(&address)]);
        Self { sender, answers: 1, _sink: sink }
    }

    /// Nanoseconds a datagram.
    fn send(&mut self) -> f64 {
        self.sender.tell(&COUNT.to_string());
        self.answers += 1;
        let wanted = self.answers;
        let there =
            crate::process::eventually(PATIENCE, || self.sender.stdout().len() >= wanted);
        assert!(there, "no answer: {}", self.sender.stderr());
        self.sender.stdout()[wanted - 1].parse().expect("nanoseconds")
    }
}

fn blast(place: &Place, args: &[&str]) -> Running {
    let running = Running::start(place.command(tool("blast")).args(args));
    running.expect("blast", PATIENCE, |line| (line == "ready").then_some(()));
    running
}
