//! `relay NEAR FAR DELAY_US`: a path with delay between two network namespaces.

use std::{path::PathBuf, time::Duration};

use clap::Parser;

/// Connects two network namespaces by TUN devices with a fixed one-way delay.
#[derive(Parser)]
struct Args {
    /// The file of one namespace, such as /run/netns/a
    near: PathBuf,
    /// The file of the other
    far: PathBuf,
    /// One-way delay in microseconds: half of the added RTT
    delay: u64,
}

fn main() -> std::io::Result<()> {
    let args = Args::parse();
    chadthrottle_tests::relay::run(&args.near, &args.far, Duration::from_micros(args.delay))
}
