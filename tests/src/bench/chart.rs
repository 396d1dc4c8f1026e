//! The chart of achieved against configured rate: ours and the others, one panel a direction.

use std::fmt::Write;

use super::record::{Row, Section};
use crate::stage::Direction::{self, Download, Upload};

/// The size of the picture.
const WIDTH: f64 = 920.0;
const HEIGHT: f64 = 500.0;
/// A panel within it.
const PANEL: f64 = 360.0;
const TOP: f64 = 60.0;
/// The axes: 100 kbit/s to 2 Gbit/s, as powers of ten in kbit/s.
const LOW: f64 = 2.0;
const HIGH: f64 = 6.3;
/// Colours that are told apart by most eyes, on light and dark ground (Okabe and Ito 2008).
const COLOURS: [&str; 6] = ["#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9"];

/// The chart of a section.
pub fn svg(backend: &str, section: &Section) -> String {
    let mut text = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" \
         font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"white\"/>\n\
         <text x=\"60\" y=\"24\" font-size=\"16\">Achieved against configured rate, {backend}</text>\n"
    );
    let limiters = limiters(backend, section);
    for (left, direction) in [(70.0, Download), (520.0, Upload)] {
        panel(&mut text, left, direction);
        for (number, limiter) in limiters.iter().enumerate() {
            let rows = section
                .rows
                .iter()
                .filter(|row| row.limiter == *limiter && row.cell.direction == direction);
            points(&mut text, left, number, rows);
        }
    }
    for (number, limiter) in limiters.iter().enumerate() {
        let x = 70.0 + 140.0 * number as f64;
        add(
            &mut text,
            &format!(
                "<circle cx=\"{x}\" cy=\"{y}\" r=\"5\" fill=\"{}\"/><text x=\"{}\" y=\"{}\">{limiter}</text>\n",
                colour(number),
                x + 10.0,
                HEIGHT - 16.0,
                y = HEIGHT - 20.0
            ),
        );
    }
    text + "</svg>\n"
}

fn limiters(backend: &str, section: &Section) -> Vec<String> {
    let mut names = vec![backend.to_owned()];
    for row in section.rows.iter().filter(|row| row.outcome.is_ok()) {
        if !names.contains(&row.limiter) {
            names.push(row.limiter.clone());
        }
    }
    names
}

/// The frame, the grid and the line on which a limit holds exactly.
fn panel(text: &mut String, left: f64, direction: Direction) {
    let (right, bottom) = (left + PANEL, TOP + PANEL);
    let name = format!("{direction:?}").to_lowercase();
    add(
        text,
        &format!("<text x=\"{left}\" y=\"{}\" font-size=\"14\">{name}</text>\n", TOP - 8.0),
    );
    for (power, label) in [(2.0, "100k"), (3.0, "1M"), (4.0, "10M"), (5.0, "100M"), (6.0, "1G")]
    {
        let (x, y) = (left + along(power), bottom - along(power));
        add(
            text,
            &format!(
                "<path d=\"M{x:.1} {TOP}V{bottom}M{left} {y:.1}H{right}\" stroke=\"#ddd\"/>\
             <text x=\"{x:.1}\" y=\"{}\" text-anchor=\"middle\">{label}</text>\
             <text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{label}</text>\n",
                bottom + 16.0,
                left - 6.0,
                y + 4.0
            ),
        );
    }
    add(
        text,
        &format!(
            "<path d=\"M{left} {bottom}L{right} {TOP}\" stroke=\"#888\" stroke-dasharray=\"4 3\"/>\
         <rect x=\"{left}\" y=\"{TOP}\" width=\"{PANEL}\" height=\"{PANEL}\" fill=\"none\" stroke=\"#444\"/>\
         <text x=\"{}\" y=\"{}\" text-anchor=\"middle\">configured</text>\n",
            left + PANEL / 2.0,
            bottom + 34.0
        ),
    );
}

fn points<'a>(
    text: &mut String,
    left: f64,
    number: usize,
    rows: impl Iterator<Item = &'a Row>,
) {
    for row in rows {
        let Ok(outcome) = &row.outcome else { continue };
        let configured = (row.cell.kbit as f64).log10();
        let achieved = (row.cell.kbit as f64 * outcome.steady).max(1.0).log10();
        // Beside one another, so that those on the line are all seen.
        let x = left + along(configured) + 4.0 * number as f64 - 4.0;
        let y = TOP + PANEL - along(achieved).clamp(0.0, PANEL);
        add(
            text,
            &format!(
                "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3\" fill=\"{}\" fill-opacity=\"0.6\">\
             <title>{row}</title></circle>\n",
                colour(number)
            ),
        );
    }
}

fn along(power: f64) -> f64 {
    (power - LOW) / (HIGH - LOW) * PANEL
}

fn colour(number: usize) -> &'static str {
    COLOURS[number % COLOURS.len()]
}

fn add(to: &mut String, text: &str) {
    to.write_str(text).expect("write to a string");
}
