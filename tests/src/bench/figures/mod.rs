//! What is no rate of one transfer: times, latency, sharing between unequals, cost.

use std::thread;

use super::{grid::Grid, lanes::guarded, record::Figure};

mod change;
mod cost;
mod delay;
mod flood;
mod latency;
mod many;
mod reaction;
mod sharing;
mod unlimited;
mod view;

/// One or more figures that are measured together.
type Measure = fn(&str) -> Vec<Figure>;

/// Those that run side by side, by the names that a filter chooses from.
const LIGHT: [(&str, Measure); 7] = [
    ("short", sharing::short_beside_bulk),
    ("idle", sharing::one_of_a_hundred),
    ("both", sharing::both_directions),
    ("mix", sharing::tcp_and_udp),
    ("ping", latency::pings),
    ("delay", delay::requests),
    ("change", change::changes),
];

/// Those that are measured one after the other.
const ALONE: [(&str, Measure); 8] = [
    ("start", reaction::lone_starts),
    ("reaction", reaction::reactions),
    ("packet", cost::packets),
    ("many", many::many_limits),
    ("unlimited", unlimited::packets),
    ("flood", flood::floods),
    ("cpu", cost::processor),
    ("view", view::costs),
];

/// What fits into the two minutes of the brief grid.
const BRIEF: [&str; 2] = ["packet", "many"];

/// Measures those whose name contains `filter` on a backend.
pub fn measure(grid: Grid, backend: &str, filter: &str, take: &(dyn Fn(Figure) + Sync)) {
    let brief = grid == Grid::Brief && filter.is_empty();
    let wanted =
        |(name, _): &(&str, Measure)| name.contains(filter) && (!brief || BRIEF.contains(name));
    let one = |(name, measure): (&str, Measure)| match guarded(|| measure(backend)) {
        Ok(figures) => figures.into_iter().for_each(take),
        Err(why) => take(Figure {
            what: name.to_owned(),
            value: Err(why),
            target: String::new(),
            met: None,
        }),
    };
    thread::scope(|scope| {
        for light in LIGHT.into_iter().filter(wanted) {
            scope.spawn(move || one(light));
        }
    });
    ALONE.into_iter().filter(wanted).for_each(one);
}

/// A figure with a bound.
fn at_most(
    what: impl Into<String>,
    value: f64,
    most: f64,
    unit: &str,
    digits: usize,
) -> Figure {
    Figure {
        what: what.into(),
        value: Ok(format!("{value:.digits$} {unit}").trim_end().to_owned()),
        target: format!("at most {most} {unit}").trim_end().to_owned(),
        met: Some(value <= most),
    }
}

/// A share of a limit, and how far off it may be.
fn share(what: impl Into<String>, value: f64, tolerance: f64) -> Figure {
    Figure {
        what: what.into(),
        value: Ok(format!("{value:.3} of the limit")),
        target: format!("within {:.0} %", tolerance * 100.0),
        met: Some((value - 1.0).abs() <= tolerance + 0.0005),
    }
}
