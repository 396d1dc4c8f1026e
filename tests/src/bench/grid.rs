//! The cells: direction, protocol, rate, RTT, flows.

use std::fmt;

use clap::ValueEnum;

use crate::stage::Direction::{self, Download, Upload};

/// How much is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Grid {
    /// About two minutes: the corners
    Brief,
    /// About six minutes: all that has a target, and many flows
    Standard,
    /// Half an hour and more: everything
    Full,
}

/// A transport.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// Stream.
    Tcp,
    /// Datagrams.
    Udp,
}

/// One thing to measure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
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
}

impl fmt::Display for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let protocol = match self.protocol {
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
        };
        let direction = match self.direction {
            Download => "download",
            Upload => "upload",
        };
        let (rate, rtt, flows) = (self.rate_name(), self.rtt, self.flows);
        write!(f, "{protocol} {direction} {rate} rtt{rtt} flows{flows}")
    }
}

impl Cell {
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

    /// How far the steady rate may be from the limit, where something is promised: 5 % for one
    /// TCP flow of 1M to 100M at an RTT of 0 or 20 ms, 3 % for UDP.
    pub fn target(&self) -> Option<f64> {
        let promised =
            (1000..=100_000).contains(&self.kbit) && self.rtt <= 20 && self.flows == 1;
        promised.then_some(match self.protocol {
            Protocol::Tcp => 0.05,
            Protocol::Udp => 0.03,
        })
    }
}

/// The cells of a grid whose name contains `filter`.
pub fn cells(grid: Grid, filter: &str) -> Vec<Cell> {
    let (tcp, udp) = (Protocol::Tcp, Protocol::Udp);
    let mut cells = Vec::new();
    match grid {
        Grid::Brief => {
            cells.extend(product(tcp, &[1000, 100_000], &[0, 20], &[1]));
            cells.extend(product(udp, &[10_000], &[0], &[1]));
        }
        Grid::Standard => {
            cells.extend(product(tcp, &[1000, 10_000, 100_000], &[0, 20], &[1]));
            cells.extend(product(tcp, &[10_000], &[0, 20], &[4, 16]));
            cells.extend(product(udp, &[1000, 10_000, 100_000], &[0], &[1]));
        }
        Grid::Full => {
            let rates = [256, 1000, 10_000, 100_000];
            cells.extend(product(tcp, &rates, &[0, 20, 80], &[1, 4, 16]));
            cells.extend(product(tcp, &[1_000_000], &[0], &[1, 4]));
            cells.extend(product(udp, &rates, &[0, 20], &[1, 4]));
        }
    }
    cells.retain(|cell| cell.to_string().contains(filter));
    cells
}

fn product(protocol: Protocol, rates: &[u64], rtts: &[u64], flows: &[usize]) -> Vec<Cell> {
    let mut cells = Vec::new();
    for &rtt in rtts {
        for &kbit in rates {
            for &flows in flows {
                for direction in [Download, Upload] {
                    cells.push(Cell { direction, protocol, kbit, rtt, flows });
                }
            }
        }
    }
    cells
}
