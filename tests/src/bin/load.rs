//! The load generator; see `chadthrottle_tests::load`.

use chadthrottle_tests::load::{self, Args};
use clap::Parser;

fn main() -> std::io::Result<()> {
    load::run(&Args::parse())
}
