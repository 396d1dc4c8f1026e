//! The cells: protocol, direction, rate, RTT, flows, sender, family.

use std::fmt;

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use crate::stage::Direction::{self, Download, Upload};

/// How much is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Grid {
    /// About two minutes: the corners, each once
    Brief,
    /// About half an hour with the others and the figures: all that is promised, medians of three
    Standard,
    /// Hours: everything, medians of three
    Full,
}

impl Grid {
    /// How often each cell is measured; the median counts.
    pub fn repetitions(self) -> usize {
        if self == Self::Brief { 1 } else { 3 }
    }
}

/// A transport.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Protocol {
    /// Stream.
    Tcp,
    /// Datagrams.
    Udp,
}

/// The sender's congestion control.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Sender {
    /// What Linux does by itself.
    Cubic,
    /// What paces by itself.
    Bbr,
}

/// One thing to measure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cell {
    /// As the target sees it.
    pub direction: Direction,
    /// TCP or UDP.
    pub protocol: Protocol,
    /// The limit in kbit/s of payload.
    pub kbit: u64,
    /// Added round-trip time in milliseconds.
    pub rtt: u64,
    /// Connections at the same time.
    pub flows: usize,
    /// Who sends.
    pub sender: Sender,
    /// IPv6 instead of IPv4.
    pub v6: bool,
    /// The connections run at full speed before the limit comes.
    pub open: bool,
}

impl fmt::Display for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (what, rate, rtt, flows) = (self.what(), self.rate_name(), self.rtt, self.flows);
        write!(f, "{what} {rate} rtt{rtt} flows{flows}")
    }
}

impl Cell {
    /// What is transferred how: `tcp download`, and what is special about it.
    pub fn what(&self) -> String {
        let mut what = format!("{:?} {:?}", self.protocol, self.direction).to_lowercase();
        for (special, name) in
            [(self.sender == Sender::Bbr, "bbr"), (self.v6, "ipv6"), (self.open, "open")]
        {
            if special {
                what = format!("{what} {name}");
            }
        }
        what
    }

    /// The limit in bytes per second.
    pub fn limit(&self) -> f64 {
        self.kbit as f64 * 125.0
    }

    /// `256k`, `10M`, `1G`.
    pub fn rate_name(&self) -> String {
        match self.kbit {
            kbit if kbit >= 1_000_000 => format!("{}G", kbit / 1_000_000),
            kbit if kbit >= 1000 => format!("{}M", kbit / 1000),
            kbit => format!("{kbit}k"),
        }
    }

    /// A connection's share of the limit in kbit/s.
    pub fn share(&self) -> u64 {
        self.kbit / self.flows as u64
    }

    /// How many cells like this can run side by side without disturbing one another, on two
    /// processors.
    pub fn lanes(&self) -> usize {
        match self.kbit {
            0..=10_000 => 10,
            10_001..=100_000 => 2,
            _ => 1,
        }
    }
}

/// A cell for others to be made of: one new connection by CUBIC over IPv4.
const PLAIN: Cell = Cell {
    direction: Download,
    protocol: Protocol::Tcp,
    kbit: 0,
    rtt: 0,
    flows: 1,
    sender: Sender::Cubic,
    v6: false,
    open: false,
};

/// The cells of a grid whose name contains `filter`, those that run side by side together.
pub fn cells(grid: Grid, filter: &str) -> Vec<Cell> {
    let bbr = Cell { sender: Sender::Bbr, ..PLAIN };
    let udp = Cell { protocol: Protocol::Udp, ..PLAIN };
    let v6 = Cell { v6: true, ..PLAIN };
    let open = Cell { open: true, ..PLAIN };
    let mut cells = Vec::new();
    match grid {
        Grid::Brief => {
            cells.extend(product(PLAIN, &[1000, 10_000], &[0, 20], &[1]));
            cells.extend(product(PLAIN, &[10_000], &[20], &[16]));
            cells.extend(product(udp, &[10_000], &[0], &[1]));
            cells.extend(product(PLAIN, &[100_000], &[0, 20], &[1]));
            cells.extend(product(PLAIN, &[1_000_000], &[0], &[1]));
        }
        Grid::Standard => {
            cells.extend(product(PLAIN, &[256, 1000, 10_000], &[0, 20, 80], &[1, 4, 16]));
            cells.extend(product(bbr, &[1000, 10_000], &[0, 20], &[1, 16]));
            cells.extend(product(v6, &[10_000], &[0, 20], &[1]));
            cells.extend(product(open, &[10_000], &[0, 20], &[1, 4]));
            cells.extend(product(udp, &[1000, 10_000], &[0], &[1, 4]));
            cells.extend(product(PLAIN, &[100_000], &[0, 20], &[1, 16]));
            cells.extend(product(bbr, &[100_000], &[20], &[1]));
            cells.extend(product(udp, &[100_000], &[0], &[1]));
            cells.extend(product(PLAIN, &[1_000_000], &[0], &[1, 4]));
        }
        Grid::Full => {
            let low = [256, 1000, 10_000, 100_000];
            for base in [PLAIN, bbr, v6, Cell { v6: true, ..bbr }, open] {
                cells.extend(product(base, &low, &[0, 20, 80], &[1, 4, 16]));
                // The relay that adds delay does not carry 1 Gbit/s.
                cells.extend(product(base, &[1_000_000], &[0], &[1, 4, 16]));
            }
            for base in [udp, Cell { v6: true, ..udp }] {
                cells.extend(product(base, &low, &[0, 20], &[1, 4]));
            }
            cells.sort_by_key(|cell| std::cmp::Reverse(cell.lanes()));
        }
    }
    cells.retain(|cell| cell.to_string().contains(filter));
    cells
}

/// The cells that others are measured in as well.
pub fn compared(grid: Grid, filter: &str) -> Vec<Cell> {
    let rates: &[u64] = if grid == Grid::Brief { &[10_000] } else { &[1000, 10_000, 100_000] };
    let mut cells = product(PLAIN, rates, &[0, 20], &[1]);
    cells.retain(|cell| cell.to_string().contains(filter));
    cells
}

fn product(base: Cell, rates: &[u64], rtts: &[u64], flows: &[usize]) -> Vec<Cell> {
    let mut cells = Vec::new();
    for &rtt in rtts {
        for &kbit in rates {
            for &flows in flows {
                for direction in [Download, Upload] {
                    cells.push(Cell { direction, kbit, rtt, flows, ..base });
                }
            }
        }
    }
    cells
}
