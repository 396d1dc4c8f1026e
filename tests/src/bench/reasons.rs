//! Why a target is missed, as far as known.

use super::grid::{Cell, Protocol, Sender};
use crate::stage::Direction::{Download, Upload};

const UNKNOWN: &str = "not known";

/// The reason for a miss in one column of a cell.
pub fn of_cell(backend: &str, cell: &Cell, missed: &str) -> &'static str {
    match backend {
        "ebpf" => of_ebpf(cell, missed),
        "tc" => of_tc(cell, missed),
        "nft" => of_nft(cell, missed),
        _ => UNKNOWN,
    }
}

fn of_nft(cell: &Cell, missed: &str) -> &'static str {
    match (cell.protocol, cell.direction, missed) {
        (Protocol::Tcp, Download, "retr") => {
            "senders learn of our queue by its overflow alone: as many packets are dropped as are sent \
             again"
        }
        (Protocol::Tcp, Upload, "retr") => {
            "packets wait in our queue for longer than their sender's timer: what is sent again had not \
             been lost (the receiver says so, by DSACK)"
        }
        (Protocol::Tcp, _, "steady" | "whole" | "Jain") if cell.share() < 100 => {
            "with a few packets a second for each connection, those behind a dropped one reach the \
             application seconds later"
        }
        _ => UNKNOWN,
    }
}

fn of_tc(cell: &Cell, missed: &str) -> &'static str {
    match (cell.protocol, cell.direction, missed) {
        (Protocol::Tcp, _, "first s" | "whole")
            if cell.kbit < 300 && (missed == "first s" || cell.flows < 16) =>
        {
            "HTB's burst of 10 kB, in which a large packet must fit, is a third of a second at 256k"
        }
        (Protocol::Tcp, _, "whole") if cell.rtt == 80 && cell.share() >= 10_000 => {
            "slow start takes most of the first second at RTT 80"
        }
        (Protocol::Tcp, Download, "retr") => {
            "each receiver offers 64 kB with its SYN, which cannot be taken back: so much more than the \
             queue holds its sender sends before the window tells it"
        }
        (Protocol::Tcp, Upload, "retr") => {
            "TCP does not pace the first ten segments of a connection: so much more than the queue holds; nor, \
             where there is no RTT, later ones: up to 64 kB at once"
        }
        (Protocol::Tcp, Upload, "steady" | "whole") if cell.share() < 100 && cell.rtt == 0 => {
            "without an RTT TCP sends its whole window at once, which lasts such a share for seconds: the \
             queue overflows and runs dry by turns"
        }
        (Protocol::Tcp, Upload, "steady" | "whole") if cell.share() < 100 => {
            "the first windows are lost in part: what waits for its sender's timer comes seconds later"
        }
        (Protocol::Udp, Download, "Jain") => {
            "this kernel has no fq_codel: of senders in step it is always the same that find room in a fifo (with it, in a guest: 1.000)"
        }
        (Protocol::Tcp, Download, "cv" | "steady" | "Jain") => {
            "what comes after a dropped segment reaches the application when that was sent again, a \
             round trip through the queue later"
        }
        _ => UNKNOWN,
    }
}

fn of_ebpf(cell: &Cell, missed: &str) -> &'static str {
    match (cell.protocol, cell.direction, missed) {
        (Protocol::Tcp, Download, "first s") if cell.share() < 50 => {
            "the first segment of each connection and the one it has earned until its sender asks again \
             come within the same second"
        }
        (Protocol::Tcp, _, "steady" | "whole") if cell.open => {
            "what went unused when the limit began, up to half a second of the rate, is made up for"
        }
        // Less than a segment a round trip.
        (Protocol::Tcp, Download, "whole" | "steady") if cell.share() * cell.rtt < 12_000 => {
            "bursts of 208 ms of the rate: one more or less in the time measured is 2 % of 10 s and \
             0.7 % of 30 s"
        }
        (Protocol::Tcp, _, "first s" | "whole" | "retr" | "steady")
            if cell.share() * cell.rtt.max(200) < 12_000 * 2 =>
        {
            "the first one or two segments of each connection go before anything is known, and the \
             connections are told to slow down with their next round trip only"
        }
        (Protocol::Tcp, Upload, "steady" | "whole") if cell.sender == Sender::Bbr => {
            "BBR sends a window of 16 segments (22 kB) at once where a share is that slow: one more or less \
             in the time measured is 1 % and more"
        }
        (Protocol::Tcp, Upload, "cv" | "steady" | "whole") if cell.share() < 300 => {
            "a share of a few packets a second is paced in whole packets, two at a time"
        }
        _ => UNKNOWN,
    }
}

/// The reason for a figure missed.
pub fn of_figure(backend: &str, what: &str) -> &'static str {
    if backend == "tc" && what.starts_with("1000 limits") {
        return "each limit has an ifb device of its own with HTB, its classes, queues and filters: some thirty \
                requests to the kernel, one after the other";
    }
    if backend == "tc" && what.starts_with("a request beside") && what.contains("flows 16") {
        return "16 windows of two segments, with less than which receivers acknowledge late, are 46 kB: they \
                fill the queue of 30 kB, the least that one holds, which at 1M takes 0.23 s";
    }
    if backend != "ebpf" {
        return UNKNOWN;
    }
    if what.starts_with("one active") {
        return "what the limit left unused before, up to half a second of the rate, is made up for";
    }
    if what.starts_with("start to enforced") || what.starts_with("a lone start") {
        return "the verifier takes 20 ms and more for sock_ops alone, and as long for the other programs on \
                the second processor; see rate-control.md, Cost";
    }
    if what.starts_with("processor time") {
        return "a limited sender is woken by its pacing timer, or by its window, for few packets at a \
                time; an unlimited one moves 64 KB a time";
    }
    if what.contains("late by, RTT 0") && what.contains("download") {
        return "without an RTT a download hears of its new rate with the sender's next persist probe, \
                up to 208 ms after";
    }
    UNKNOWN
}
