//! The table of processes. Only the rows on the screen are made.

use ratatui::{
    Frame,
    layout::{Constraint, Layout, Rect},
    style::Style,
    text::{Line, Span},
};

use super::{
    Theme, text,
    theme::{BOLD, DIM, SELECTED},
};
use crate::tui::{
    app::{Access, App, Column},
    model::{Active, Row},
};

/// A column on the screen.
struct Place {
    column: Column,
    title: &'static str,
    width: u16,
    right: bool,
}

const fn place(column: Column, title: &'static str, width: u16, right: bool) -> Place {
    Place { column, title, width, right }
}

/// Which columns fit; the name takes what is left.
fn places(width: u16) -> Vec<Place> {
    let mut places = vec![
        place(Column::Pid, "PID", 7, true),
        place(Column::Name, "NAME", 0, false),
        place(Column::User, "USER", 8, false),
        place(Column::Download, "DOWNLOAD", 11, true),
        place(Column::Upload, "UPLOAD", 11, true),
        place(Column::Received, "RECEIVED", 9, true),
        place(Column::Sent, "SENT", 9, true),
        place(Column::Limit, "LIMIT", 24, false),
        place(Column::Limit, "STATE", 11, false),
    ];
    if width < 116 {
        places.retain(|place| !matches!(place.column, Column::Received | Column::Sent));
    }
    if width < 94 {
        places[5].width = 13;
    }
    if width < 76 {
        places.retain(|place| place.column != Column::User);
    }
    if width < 66 {
        places.retain(|place| place.title != "LIMIT");
    }
    if width < 52 {
        places.retain(|place| place.title != "STATE");
    }
    places
}

pub(super) fn draw(frame: &mut Frame<'_>, area: Rect, app: &mut App, theme: Theme) {
    let [header, list] =
        Layout::vertical([Constraint::Length(1), Constraint::Min(1)]).areas(area);
    let places = places(area.width);
    let columns = Layout::horizontal(places.iter().map(|place| match place.width {
        0 => Constraint::Fill(1),
        width => Constraint::Length(width),
    }))
    .spacing(1)
    .horizontal_margin(1)
    .split(header);
    app.areas.header = header;
    app.areas.list = list;
    app.areas.columns.clear();
    for (place, cell) in places.iter().zip(columns.iter()) {
        app.areas.columns.push((cell.x, cell.right() + 1, place.column));
        draw_title(frame, *cell, place, app);
    }

    // The selected row stays on the screen.
    let height = usize::from(list.height);
    let selected = app.position();
    if let Some(at) = selected {
        app.top = app.top.clamp((at + 1).saturating_sub(height), at);
    }
    app.top = app.top.min(app.shown.len().saturating_sub(height));
    if app.shown.is_empty() {
        draw_empty(frame, list, app);
    }
    for (line, at) in (app.top..app.shown.len()).take(height).enumerate() {
        let row = &app.snapshot.rows[app.shown[at]];
        let area = Rect { y: list.y + line as u16, height: 1, ..list };
        let is_selected = selected == Some(at);
        let limit = app.limit_of(row);
        for (place, cell) in places.iter().zip(columns.iter()) {
            let cell = Rect { y: area.y, ..*cell };
            draw_cell(frame, cell, place, row, limit, theme);
        }
        if is_selected {
            frame.buffer_mut().set_style(area, SELECTED);
        }
    }
}

fn draw_title(frame: &mut Frame<'_>, area: Rect, place: &Place, app: &App) {
    let sorts = app.sorting.column == place.column && place.title != "STATE"
        || app.sorting.column == Column::Traffic && place.column == Column::Download;
    let arrow = if app.sorting.is_descending() { "▾" } else { "▴" };
    let title = match sorts {
        true if app.sorting.column == Column::Traffic => format!("{}+▾", place.title),
        true => format!("{}{arrow}", place.title),
        false => place.title.to_owned(),
    };
    let style = if sorts { BOLD } else { DIM };
    let line = Line::styled(text::fit(&title, area.width.into()), style);
    frame.render_widget(if place.right { line.right_aligned() } else { line }, area);
}

fn draw_empty(frame: &mut Frame<'_>, area: Rect, app: &App) {
    let words = if !app.has_sample {
        "Looking…"
    } else if !app.filter.text.is_empty() {
        "No process matches the filter; Esc clears it."
    } else if matches!(app.access, Access::ViewOnly(_)) {
        "No process that you may look into has an IP socket."
    } else {
        "No process has an IP socket."
    };
    let area = Rect { x: area.x + 2, width: area.width.saturating_sub(2), ..area };
    frame.render_widget(Line::styled(words, DIM), area);
}

fn draw_cell(
    frame: &mut Frame<'_>,
    area: Rect,
    place: &Place,
    row: &Row,
    limit: Option<&Active>,
    theme: Theme,
) {
    let plain = if row.ended { DIM } else { Style::new() };
    let moving = |bytes: u64, style: Style| if bytes > 0 { style } else { DIM };
    let (words, style) = match (place.column, place.title) {
        (_, "STATE") => state(row, limit, theme),
        (Column::Pid, _) => (row.pid.to_string(), DIM),
        (Column::Name, _) => (row.name.clone(), plain),
        (Column::User, _) => (row.user.to_string(), DIM),
        (Column::Download, _) => {
            (text::rate(row.rate.down), moving(row.rate.down, theme.download()))
        }
        (Column::Upload, _) => (text::rate(row.rate.up), moving(row.rate.up, theme.upload())),
        (Column::Received, _) => (text::bytes(row.total.down), moving(row.total.down, plain)),
        (Column::Sent, _) => (text::bytes(row.total.up), moving(row.total.up, plain)),
        _ => (limit.map_or_else(String::new, |limit| text::limits(&limit.limits)), plain),
    };
    let words = text::fit(&words, area.width.into());
    let line = Line::from(Span::styled(words, style));
    frame.render_widget(if place.right { line.right_aligned() } else { line }, area);
}

/// Whether the limit holds: what passes, as a share of it.
fn state(row: &Row, limit: Option<&Active>, theme: Theme) -> (String, Style) {
    if row.ended {
        return ("ended".to_owned(), DIM);
    }
    let Some(limit) = limit else {
        let idle = row.rate.sum() == 0;
        return (if idle { "" } else { "free" }.to_owned(), DIM);
    };
    let share = share(limit);
    (format!("{} {share} %", limit.backend), share_style(share, theme))
}

/// The larger share of the two directions, in percent.
pub(super) fn share(limit: &Active) -> u64 {
    let of = |passes: u64, limit: Option<chadthrottle_core::Limit>| {
        limit.map_or(0, |limit| passes.saturating_mul(100) / limit.rate.bytes_per_second())
    };
    of(limit.rate.down, limit.limits.download).max(of(limit.rate.up, limit.limits.upload))
}

pub(super) fn share_style(share: u64, theme: Theme) -> Style {
    match share {
        0..80 => Style::new(),
        80..=105 => theme.good(),
        _ => theme.warning(),
    }
}
