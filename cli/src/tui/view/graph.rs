//! What was moved lately: a column a second, the newest at the right; downloads above, uploads
//! below. A dotted line is the limit.

use std::collections::VecDeque;

use chadthrottle_core::Limits;
use ratatui::{
    Frame,
    layout::{Constraint, Layout, Rect},
    style::Style,
    text::{Line, Span},
};

use super::{
    Theme, text,
    theme::{BOLD, DIM},
};
use crate::{tui::model::Pair, units};

pub(super) struct Graph<'a> {
    pub(super) title: &'a str,
    pub(super) past: &'a VecDeque<Pair>,
    pub(super) limit: Option<Limits>,
}

pub(super) fn draw(frame: &mut Frame<'_>, area: Rect, graph: &Graph<'_>, theme: Theme) {
    let [title, body] =
        Layout::vertical([Constraint::Length(1), Constraint::Min(2)]).areas(area);
    let words = format!("─ {} ", text::fit(graph.title, usize::from(title.width) / 2));
    let rest = usize::from(title.width).saturating_sub(words.chars().count());
    let line = Line::from(vec![Span::styled(words, BOLD), Span::styled("─".repeat(rest), DIM)]);
    frame.render_widget(line, title);
    let half = body.height.div_ceil(2);
    let [down, up] =
        Layout::vertical([Constraint::Length(half), Constraint::Min(1)]).areas(body);
    let limit = |limit: Option<chadthrottle_core::Limit>| {
        limit.map(|limit| limit.rate.bytes_per_second())
    };
    let limits = graph.limit.unwrap_or_default();
    let past = |of: fn(&Pair) -> u64| graph.past.iter().rev().map(of).collect::<Vec<_>>();
    let download = Bars {
        arrow: "↓",
        values: past(|pair| pair.down),
        limit: limit(limits.download),
        style: theme.download(),
    };
    let upload = Bars {
        arrow: "↑",
        values: past(|pair| pair.up),
        limit: limit(limits.upload),
        style: theme.upload(),
    };
    download.draw(frame, down);
    upload.draw(frame, up);
}

/// One direction.
struct Bars {
    arrow: &'static str,
    /// Newest first.
    values: Vec<u64>,
    limit: Option<u64>,
    style: Style,
}

impl Bars {
    /// Columns of the legend at the left.
    const LEGEND: u16 = 14;

    fn draw(&self, frame: &mut Frame<'_>, area: Rect) {
        let [legend, bars] =
            Layout::horizontal([Constraint::Length(Self::LEGEND), Constraint::Min(1)])
                .areas(area);
        let shown = &self.values[..self.values.len().min(bars.width.into())];
        let highest = shown.iter().copied().max().unwrap_or(0);
        // The limit's line is not at the very top.
        let top = highest.max(self.limit.map_or(0, |limit| limit + limit / 4)).max(1);
        let now = self.values.first().copied().unwrap_or(0);
        let words = format!("{} {}", self.arrow, text::rate(now));
        frame.render_widget(Line::styled(words, self.style), row(legend, 0));
        if legend.height > 1 && highest > 0 {
            let words = format!("  max {}", units::rate(highest).replace("bit/s", ""));
            frame.render_widget(Line::styled(words, DIM), row(legend, 1));
        }
        let steps = u64::from(bars.height) * 8;
        if let Some(limit) = self.limit {
            let from_below = (limit * steps / top / 8).min(u64::from(bars.height) - 1) as u16;
            let line = row(bars, bars.height - 1 - from_below);
            let dots = "┄".repeat(line.width.into());
            frame.render_widget(Span::styled(dots, DIM), line);
        }
        for (at, value) in shown.iter().enumerate() {
            let filled = u128::from(*value) * u128::from(steps) / u128::from(top);
            // What moves at all is seen.
            let mut filled = (filled as u64).max(u64::from(*value > 0)).min(steps);
            let x = bars.right() - 1 - at as u16;
            for line in (0..bars.height).rev() {
                if filled == 0 {
                    break;
                }
                let eighths = filled.min(8);
                filled -= eighths;
                let symbol = ["▁", "▂", "▃", "▄", "▅", "▆", "▇", "█"][eighths as usize - 1];
                frame.buffer_mut()[(x, bars.y + line)].set_symbol(symbol).set_style(self.style);
            }
        }
    }
}

fn row(area: Rect, line: u16) -> Rect {
    Rect { y: area.y + line, height: 1, ..area }
}
