//! Why a target is missed, as far as known.

use super::grid::{Cell, Protocol};
use crate::stage::Direction::{Download, Upload};

const UNKNOWN: &str = "not known";

/// The reason for a miss in one column of a cell.
pub fn of_cell(backend: &str, cell: &Cell, missed: &str) -> &'static str {
    if backend != "ebpf" {
        return UNKNOWN;
    }
    match (cell.protocol, cell.direction, missed) {
        (Protocol::Tcp, Download, _) if cell.share() < 50 => {
            "below 46 kbit/s a connection's window cannot be closed for long enough (1152 bytes a \
             persist timer of 240 ms pass it): the rest is dropped and sent again"
        }
        (Protocol::Tcp, Upload, _) if cell.share() < 50 => {
            "a connection that gets less than four packets a second is paced in whole packets, and \
             its first two go before anything is known"
        }
        _ => UNKNOWN,
    }
}

/// The reason for a figure missed.
pub fn of_figure(_backend: &str, _what: &str) -> &'static str {
    UNKNOWN
}
