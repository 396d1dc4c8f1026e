//! The page of limits in force: what was asked for against what passes.

use ratatui::{
    Frame,
    layout::{Constraint, Layout, Rect},
    style::Style,
    text::{Line, Span},
    widgets::{Paragraph, Wrap},
};

use super::{
    Theme, table, text,
    theme::{BOLD, DIM, SELECTED},
};
use crate::{
    tui::{app::App, model::Active},
    units,
};

const WIDTHS: [Constraint; 6] = [
    Constraint::Fill(1),
    Constraint::Length(7),
    Constraint::Length(23),
    Constraint::Length(23),
    Constraint::Length(6),
    Constraint::Length(9),
];
const TITLES: [&str; 6] = ["TARGET", "BACKEND", "DOWNLOAD", "UPLOAD", "HOLDS", "PASSED"];

pub(super) fn draw(frame: &mut Frame<'_>, area: Rect, app: &mut App, theme: Theme) {
    let notices = if area.height >= 14 { area.height / 3 } else { 0 };
    let [header, list, log] = Layout::vertical([
        Constraint::Length(1),
        Constraint::Min(1),
        Constraint::Length(notices),
    ])
    .areas(area);
    app.areas.header = header;
    app.areas.list = list;
    // Passed and holds are left out where they do not fit.
    let shown = if area.width >= 90 { 6 } else { 4 };
    let cells = |row: Rect| {
        Layout::horizontal(&WIDTHS[..shown]).spacing(1).horizontal_margin(1).split(row)
    };
    for (title, cell) in TITLES.iter().zip(cells(header).iter()) {
        frame.render_widget(Line::styled(*title, DIM), *cell);
    }
    if app.limits.is_empty() {
        let words = "  No limit is in force. Select a process and press l.";
        frame.render_widget(Line::styled(words, DIM), list);
    }
    let height = usize::from(list.height);
    let top = (app.selected_limit + 1).saturating_sub(height);
    for (line, (at, limit)) in app.limits.iter().enumerate().skip(top).take(height).enumerate()
    {
        let area = Rect { y: list.y + line as u16, height: 1, ..list };
        for (cell, words) in cells(area).iter().zip(words(limit, theme)) {
            let fitted = text::fit(&words.content, cell.width.into());
            frame.render_widget(Line::styled(fitted, words.style), *cell);
        }
        if at == app.selected_limit {
            frame.buffer_mut().set_style(area, SELECTED);
        }
    }
    draw_notices(frame, log, app, theme);
}

fn words(limit: &Active, theme: Theme) -> [Span<'static>; 6] {
    let against =
        |passes: u64, limit: Option<chadthrottle_core::Limit>, style: Style| match limit {
            None => Span::styled("no limit", DIM),
            Some(limit) => {
                let passes = units::rate(passes);
                let words = format!("{} of {}", passes.trim_end_matches("bit/s"), limit.rate);
                Span::styled(words, style)
            }
        };
    let share = table::share(limit);
    let passed = limit.counters.download.bytes + limit.counters.upload.bytes;
    [
        Span::raw(limit.target.to_string()),
        Span::styled(limit.backend.to_string(), DIM),
        against(limit.rate.down, limit.limits.download, theme.download()),
        against(limit.rate.up, limit.limits.upload, theme.upload()),
        Span::styled(format!("{share} %"), table::share_style(share, theme)),
        Span::styled(units::bytes(passed), DIM),
    ]
}

/// What was done and what went wrong, the newest first.
fn draw_notices(frame: &mut Frame<'_>, area: Rect, app: &App, theme: Theme) {
    if area.height < 2 || app.notices.is_empty() {
        return;
    }
    let dashes = "─".repeat(usize::from(area.width).saturating_sub(11));
    let mut lines =
        vec![Line::from(vec![Span::styled("─ messages ", BOLD), Span::styled(dashes, DIM)])];
    for notice in app.notices.iter().rev() {
        let style = if notice.is_problem { theme.warning() } else { theme.good() };
        lines.push(Line::styled(format!(" {}", notice.text), style));
    }
    frame.render_widget(Paragraph::new(lines).wrap(Wrap { trim: false }), area);
}
