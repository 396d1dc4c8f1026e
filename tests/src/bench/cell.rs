//! Measuring one cell: a limited program, an unlimited peer, ten seconds.

use std::time::Duration;

use super::grid::{Cell, Protocol};
use crate::{
    lab::Family::V4,
    load::{Load, Plan, Role},
    rates,
    stage::{Direction, Stage},
};

/// How long a cell is measured.
pub const SECONDS: f64 = 10.0;
/// How many seconds from the start `steady` leaves out.
pub const SKIP: usize = 2;

/// What a cell came to. Rates are shares of the limit.
#[derive(Debug, Clone, Copy)]
pub struct Outcome {
    /// The whole run.
    pub whole: f64,
    /// Without the first two seconds.
    pub steady: f64,
    /// The first second.
    pub first: f64,
    /// Share of bytes that were sent again.
    pub retransmitted: f64,
    /// Jain's index over the flows.
    pub jain: f64,
    /// Coefficient of variation of the steady 100 ms bins.
    pub cv: f64,
    /// Datagrams refused to the sender with EPERM.
    pub refused: u64,
}

impl Outcome {
    /// Whether a promise was broken.
    pub fn missed(&self, cell: &Cell) -> bool {
        let off = (self.steady - 1.0).abs();
        cell.target().is_some_and(|target| off > target || self.refused > 0)
    }
}

/// Runs one cell on a lab of its own.
pub fn measure(backend: &str, cell: &Cell) -> Outcome {
    let stage = Stage::with_rtt(backend, Duration::from_millis(cell.rtt));
    let shape = |plan: Plan| {
        let plan = plan.flows(cell.flows);
        match cell.protocol {
            Protocol::Tcp => plan,
            // Twice the limit; as fast as it goes would measure the processor.
            Protocol::Udp => plan.udp().rate(cell.kbit as f64 / 1000.0 * 2.0),
        }
    };
    let (near, far) = match cell.direction {
        Direction::Download => (Role::Recv, Role::Send),
        Direction::Upload => (Role::Send, Role::Recv),
    };
    let address = stage.lab.far_address(V4);
    // The receiver ends by itself, the sender is told to.
    let ending =
        |plan: Plan, role| if role == Role::Recv { plan.seconds(SECONDS) } else { plan };
    let far = ending(shape(Plan::accept(address, far)), far).start(&stage.far());
    let mut near =
        ending(shape(Plan::connect(address, near)), near).wait().start(&stage.near());
    near.wait_ready();
    let rate = format!("{}kbit", cell.kbit);
    let pid = near.pid().to_string();
    let throttle = stage.run(&[cell.direction.flag(), &rate, "--pid", &pid]);
    near.go();
    let (receiver, sender) = match cell.direction {
        Direction::Download => (near, far),
        Direction::Upload => (far, near),
    };
    let outcome = judge(cell, receiver, sender);
    throttle.stop();
    stage.end();
    outcome
}

fn judge(cell: &Cell, target: Load, source: Load) -> Outcome {
    let patience = Duration::from_secs_f64(SECONDS + 10.0);
    let received = target.finish(patience);
    let offered = source.finish(patience);
    let limit = cell.limit();
    let settled = received.bins.get(SKIP * rates::PER_SECOND..).unwrap_or_default();
    Outcome {
        whole: rates::mean(&received.bins) / limit,
        steady: rates::steady(&received.bins, SKIP) / limit,
        first: rates::first_second(&received.bins) / limit,
        retransmitted: offered.retransmitted(),
        jain: rates::jain(&received.flows),
        cv: rates::cv(settled),
        refused: offered.refused,
    }
}
