//! The generator's command line.

use std::{net::SocketAddr, path::PathBuf};

use clap::{Parser, ValueEnum};

/// Moves bytes over TCP, MPTCP, UDP or QUIC and reports every 100 ms how many.
///
/// Without --seconds it goes on until its standard input is closed.
#[derive(Debug, Parser)]
#[allow(clippy::struct_excessive_bools)] // Flags of a command line are bools.
#[command(name = "load")]
pub struct Args {
    /// Where connections come from
    pub end: End,
    /// An address (ADDR:PORT); a path for `take`; anything for `inherit`
    pub at: String,
    /// What to do with them
    pub role: Role,
    /// UDP instead of TCP
    #[arg(long)]
    pub udp: bool,
    /// QUIC instead of TCP; one stream of one connection
    #[arg(long)]
    pub quic: bool,
    /// MPTCP instead of TCP
    #[arg(long)]
    pub mptcp: bool,
    /// Ask and answer instead of transferring: the sender asks (TCP)
    #[arg(long)]
    pub echo: bool,
    /// How many connections
    #[arg(long, default_value_t = 1)]
    pub flows: usize,
    /// The congestion control of these sockets, not whatever this host prefers
    #[arg(long, default_value = "cubic")]
    pub congestion: String,
    /// End after this time
    #[arg(long)]
    pub seconds: Option<f64>,
    /// Offer this many Mbit/s in all instead of as much as goes
    #[arg(long)]
    pub rate: Option<f64>,
    /// Give the sockets a pace of so many Mbit/s of their own (`SO_MAX_PACING_RATE`; TCP)
    #[arg(long)]
    pub pace: Option<u64>,
    /// Make sockets without `SOCK_CLOEXEC` (trickle overlooks those that have it)
    #[arg(long)]
    pub plain: bool,
    /// Stay connected but send nothing after this time (TCP)
    #[arg(long)]
    pub idle_after: Option<f64>,
    /// Begin when a line comes on standard input
    #[arg(long)]
    pub wait: bool,
    /// Let a child process do it, born at once or after --wait
    #[arg(long, require_equals = true)]
    pub child: Option<Birth>,
    /// Hand the connections to the process that takes them at this Unix socket
    #[arg(long)]
    pub give: Option<PathBuf>,
    /// End when the parent does
    #[arg(long, hide = true)]
    pub die_with_parent: bool,
}

/// Where connections come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum End {
    /// Connect to the address.
    Connect,
    /// Listen at the address and accept.
    Accept,
    /// Listen and let two child processes accept from the one listener.
    Share,
    /// Accept from the listener that is the standard input.
    Inherit,
    /// Take sockets over a Unix socket at the path.
    Take,
    /// Answer HTTP requests: `GET /N` gets N bytes.
    Http,
}

/// Which way the payload goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Role {
    /// Write.
    Send,
    /// Read.
    Recv,
}

/// When the child that transfers is born.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Birth {
    /// At once: before a limit comes.
    Early,
    /// After --wait: while a limit is in force.
    Late,
}

impl Args {
    /// [`Args::at`] as an address.
    pub(super) fn address(&self) -> std::io::Result<SocketAddr> {
        self.at.parse().map_err(std::io::Error::other)
    }

    /// The bytes per second that each of `flows` flows offers.
    pub(super) fn rate_of_flow(&self, flows: usize) -> Option<f64> {
        self.rate.map(|mbit| mbit * 125_000.0 / flows.max(1) as f64)
    }
}
