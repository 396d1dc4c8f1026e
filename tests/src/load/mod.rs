//! The load generator: `load END AT ROLE` moves bytes and says every 100 ms how many.
//!
//! Both ends are told what to do, so that the limited process may connect or accept, send
//! or receive, in any combination. What it says on stdout is one [`Report`] a line.
//!
//! - `args`: its command line
//! - `sockets`: where the connections come from
//! - `stream`: TCP and MPTCP
//! - `datagram`: UDP
//! - `quic`: QUIC
//! - `echo`: questions and answers
//! - `http`: a server for real clients
//! - `meter`: counting and reporting
//! - `plan`: the handle that the cases use

use std::io;

use serde::{Deserialize, Serialize};

pub mod args;
mod datagram;
mod echo;
mod http;
mod meter;
pub mod plan;
mod quic;
mod sockets;
mod stream;

pub use args::{Args, Birth, End, Role};
pub use plan::{Load, Plan};

use meter::Meter;

/// One line of the generator's output.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", tag = "event")]
pub enum Report {
    /// `--wait`: ready, until a line comes on stdin.
    Waiting,
    /// The server's socket is open.
    Listening,
    /// These processes do the work.
    Started {
        /// Their pids.
        pids: Vec<u32>,
    },
    /// All connections are there (UDP: the first datagram); the transfer begins.
    Connected {
        /// Who transfers.
        pid: u32,
    },
    /// The connections were handed to another process.
    Given,
    /// `--echo`: a question was answered.
    Answer {
        /// How long after it was asked, in microseconds.
        micros: u64,
    },
    /// 100 ms are over.
    Bin {
        /// Who transfers.
        pid: u32,
        /// When, in milliseconds of `CLOCK_MONOTONIC`.
        at: u64,
        /// Payload bytes in this bin.
        bytes: u64,
    },
    /// The transfer is over.
    Done(Totals),
}

/// What a transfer came to.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Totals {
    /// Who transferred.
    pub pid: u32,
    /// How long, in seconds.
    pub seconds: f64,
    /// Payload bytes of each flow.
    pub flows: Vec<u64>,
    /// Payload bytes of each 100 ms.
    pub bins: Vec<u64>,
    /// Payload bytes that TCP sent, those sent again included.
    pub sent: u64,
    /// Payload bytes that TCP sent again.
    pub again: u64,
    /// Datagrams that the kernel refused to send.
    pub refused: u64,
}

impl Totals {
    /// Payload bytes in all.
    pub fn bytes(&self) -> u64 {
        self.flows.iter().sum()
    }

    /// The share of bytes that were sent again.
    pub fn retransmitted(&self) -> f64 {
        if self.sent == 0 { 0.0 } else { self.again as f64 / self.sent as f64 }
    }
}

/// `CLOCK_MONOTONIC` in milliseconds: comparable between processes.
pub fn now_ms() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    (now.tv_sec * 1000 + now.tv_nsec / 1_000_000).cast_unsigned()
}

/// Does what the command line says.
pub fn run(args: &Args) -> io::Result<()> {
    if args.die_with_parent {
        let signal = Some(rustix::process::Signal::KILL);
        rustix::process::set_parent_process_death_signal(signal)?;
    }
    if args.child == Some(Birth::Early) {
        return sockets::delegate(args);
    }
    if args.wait {
        meter::say(&Report::Waiting)?;
        io::stdin().read_line(&mut String::new())?;
    }
    if args.child == Some(Birth::Late) {
        return sockets::delegate(args);
    }
    match args.end {
        End::Http => http::serve(args),
        End::Share => sockets::share(args),
        _ if args.echo => echo::run(args),
        _ if args.udp => datagram::run(args),
        _ if args.quic => quic::run(args),
        _ => {
            let streams = sockets::open(args)?;
            match &args.give {
                Some(path) => sockets::give(path, &streams),
                None => stream::transfer(args, &streams),
            }
        }
    }
}
