//! Measuring one cell: a limited program, an unlimited peer.

use std::{thread, time::Duration};

use serde::{Deserialize, Serialize};

use super::{
    grid::{Cell, Grid, Protocol, Sender},
    limiter::Limiter,
};
use crate::{
    conformance::roles,
    lab::Family,
    load::{Load, Plan, Role},
    rates,
    stage::{Direction, Stage},
};

/// How many seconds from the start `steady` leaves out.
pub const SKIP: usize = 2;
/// How long an open connection runs before its limit comes.
const BEFORE: Duration = Duration::from_millis(1500);

/// What a cell came to. Rates are shares of the limit.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub struct Outcome {
    /// The whole run; of an open connection as `steady`.
    pub whole: f64,
    /// Without the first two seconds.
    pub steady: f64,
    /// The first second; 0 of an open connection, to which it does not apply.
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
    /// The median of each figure.
    pub fn median(outcomes: &[Self]) -> Self {
        let of = |figure: fn(&Self) -> f64| median(outcomes.iter().map(figure).collect());
        Self {
            whole: of(|outcome| outcome.whole),
            steady: of(|outcome| outcome.steady),
            first: of(|outcome| outcome.first),
            retransmitted: of(|outcome| outcome.retransmitted),
            jain: of(|outcome| outcome.jain),
            cv: of(|outcome| outcome.cv),
            refused: outcomes.iter().map(|outcome| outcome.refused).max().unwrap_or_default(),
        }
    }

    /// The promises that were broken, by the names of the columns.
    pub fn missed(&self, cell: &Cell) -> Vec<&'static str> {
        let off = |share: f64| (share - 1.0).abs();
        let (whole, steady) = if cell.share() >= 50 { (0.02, 0.01) } else { (0.1, f64::MAX) };
        let steady = if cell.kbit >= 1_000_000 { 0.02 } else { steady };
        let again = if cell.direction == Direction::Upload { 0.001 } else { 0.005 };
        let smooth = match cell.rtt {
            _ if cell.kbit < 10_000 => f64::MAX,
            0 => 0.5,
            20 => 0.15,
            _ => f64::MAX,
        };
        // A hair of room for the last digit that is shown.
        let broken = [
            ("whole", off(self.whole) > whole + 0.0005 && !cell.open),
            ("steady", off(self.steady) > steady + 0.0005),
            ("first s", self.first > 1.1 + 0.005 && !cell.open),
            ("retr", self.retransmitted > again + 0.000_05),
            ("Jain", self.jain < 0.95 - 0.0005),
            ("cv", self.cv > smooth + 0.005),
            ("refused", self.refused > 0),
        ];
        broken.into_iter().filter_map(|(name, broken)| broken.then_some(name)).collect()
    }
}

/// The middle one of some figures; of an even number the mean of two.
pub fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    let middle = figures.len() / 2;
    match figures.len() {
        0 => 0.0,
        count if count % 2 == 0 => f64::midpoint(figures[middle - 1], figures[middle]),
        _ => figures[middle],
    }
}

/// How long a cell is measured: without an RTT downloads come in bursts, and take longer to
/// average.
pub fn seconds(grid: Grid, cell: &Cell) -> f64 {
    let long = cell.rtt == 0 && cell.protocol == Protocol::Tcp && grid != Grid::Brief;
    // One that runs alone at full speed has its turn for as long as that is needed only.
    let long = long && (grid == Grid::Full || cell.kbit < 1_000_000);
    if long { 30.0 } else { 10.0 }
}

/// Runs one cell on a lab of its own.
///
/// # Panics
/// When it cannot be measured, with the reason.
pub fn measure(limiter: &Limiter, cell: &Cell, seconds: f64) -> Outcome {
    let backend = match limiter {
        Limiter::Ours(backend) => backend,
        _ => "none",
    };
    let stage = Stage::with_rtt(backend, Duration::from_millis(cell.rtt));
    if cell.v6 {
        stage.lab.meet_v6();
    }
    let shape = |plan: Plan| {
        let plan = plan.flows(cell.flows);
        let plan = if cell.sender == Sender::Bbr { plan.congestion("bbr") } else { plan };
        match cell.protocol {
            Protocol::Tcp if cell.open => plan.rate(OPEN_OFFER.max(cell.kbit as f64 / 500.0)),
            Protocol::Tcp => plan,
            // Twice the limit; as fast as it goes would measure the processor.
            Protocol::Udp => plan.udp().rate(cell.kbit as f64 / 1000.0 * 2.0),
        }
    };
    let (near, far) = roles(cell.direction);
    let address = stage.lab.far_address(if cell.v6 { Family::V6 } else { Family::V4 });
    // The receiver ends by itself, the sender is told to.
    let before = if cell.open { BEFORE.as_secs_f64() } else { 0.0 };
    let ending = |plan: Plan, role| match role {
        Role::Recv => plan.seconds(before + seconds),
        Role::Send => plan,
    };
    let far = ending(shape(Plan::accept(address, far)), far).start(&stage.far());
    let plan = ending(shape(Plan::connect(address, near)), near).wait();
    let mut near = limiter.start(&stage, cell, &plan);
    near.wait_ready();
    let in_force = if cell.open {
        near.go();
        near.wait_connected();
        thread::sleep(BEFORE);
        limiter.limit(&stage, cell, &near)
    } else {
        let in_force = limiter.limit(&stage, cell, &near);
        near.go();
        in_force
    };
    let (receiver, sender) = match cell.direction {
        Direction::Download => (near, far),
        Direction::Upload => (far, near),
    };
    let outcome = judge(cell, receiver, sender, seconds);
    in_force.end();
    // What others leave goes with the namespaces.
    if matches!(limiter, Limiter::Ours(_)) {
        stage.end();
    }
    outcome
}

/// What a sender offers before its limit, in Mbit/s.
const OPEN_OFFER: f64 = 100.0;

fn judge(cell: &Cell, target: Load, source: Load, seconds: f64) -> Outcome {
    let patience = Duration::from_secs_f64(seconds + 20.0);
    let received = target.finish(patience);
    let offered = source.finish(patience);
    let limit = cell.limit();
    // An open connection is judged from two seconds after its limit on.
    let before = if cell.open { BEFORE.as_millis() as usize / 100 + 1 } else { 0 };
    let begun = received.bins.get(before..).unwrap_or_default();
    let settled = begun.get(SKIP * rates::PER_SECOND..).unwrap_or_default();
    assert!(!settled.is_empty(), "the receiver ended early");
    let steady = rates::mean(settled) / limit;
    Outcome {
        whole: if cell.open { steady } else { rates::mean(begun) / limit },
        steady,
        first: if cell.open { 0.0 } else { rates::first_second(begun) / limit },
        retransmitted: if cell.open { 0.0 } else { offered.retransmitted() },
        jain: rates::jain(&received.flows),
        cv: rates::cv(settled),
        refused: offered.refused,
    }
}
