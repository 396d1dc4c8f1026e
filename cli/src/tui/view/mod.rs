//! Draws the state. Everything here is a function of [`App`] and the size of the screen.
//!
//! Downwards: the title with the pages and what the whole machine moves; the page; a line on what
//! is counted, or what was just done; the keys.

mod backends;
mod details;
mod form;
mod graph;
mod help;
mod limits;
mod table;
mod text;
mod theme;

use ratatui::{
    Frame,
    layout::{Constraint, Layout, Rect},
    style::Style,
    text::{Line, Span},
    widgets::{Block, BorderType, Clear, Padding, Paragraph},
};

use super::app::{Access, App, Over, Page};
pub(crate) use theme::Theme;
use theme::{BOLD, DIM, SELECTED};

/// Below this nothing useful can be shown.
const SMALLEST: (u16, u16) = (40, 8);

/// Draws one frame and notes where the mouse can hit.
pub(crate) fn draw(frame: &mut Frame<'_>, app: &mut App, theme: Theme) {
    let area = frame.area();
    if area.width < SMALLEST.0 || area.height < SMALLEST.1 {
        let text = format!("{}x{} is too small: make it larger, or q", area.width, area.height);
        frame.render_widget(
            Paragraph::new(text::wrap(&text, area.width.into()).join("\n")),
            area,
        );
        return;
    }
    let [title, page, note, keys] = Layout::vertical([
        Constraint::Length(2),
        Constraint::Min(3),
        Constraint::Length(1),
        Constraint::Length(1),
    ])
    .areas(area);
    draw_title(frame, title, app, theme);
    match (&app.over, app.page) {
        (Over::Details, _) => details::draw(frame, page, app, theme),
        (_, Page::Processes) => draw_processes(frame, page, app, theme),
        (_, Page::Limits) => limits::draw(frame, page, app, theme),
        (_, Page::Backends) => backends::draw(frame, page, app, theme),
    }
    draw_note(frame, note, app, theme);
    draw_keys(frame, keys, app);
    match &app.over {
        Over::Form(open) => form::draw(frame, page, open, theme),
        Over::Help => help::draw(frame, page, app, theme),
        Over::Quit => draw_quit(frame, page, app, theme),
        Over::Nothing | Over::Details => {}
    }
}

fn draw_title(frame: &mut Frame<'_>, area: Rect, app: &mut App, theme: Theme) {
    let [line, rule] = Layout::vertical([Constraint::Length(1); 2]).areas(area);
    let mut spans = vec![Span::raw(" ")];
    if area.width >= 80 {
        spans.push(Span::styled("chadthrottle", theme.accent()));
        spans.push(Span::raw("   "));
    }
    app.areas.tabs.clear();
    for page in Page::ALL {
        let name = match page {
            Page::Processes => "Processes".to_owned(),
            Page::Limits if app.limits.is_empty() => "Limits".to_owned(),
            Page::Limits => format!("Limits {}", app.limits.len()),
            Page::Backends => "Backends".to_owned(),
        };
        let style = if page == app.page { SELECTED } else { DIM };
        let name = Span::styled(format!(" {name} "), style);
        let left = spans.iter().map(Span::width).sum::<usize>() as u16;
        let tab = Rect::new(area.x + left, line.y, name.width() as u16, 1);
        app.areas.tabs.push((tab.intersection(area), page));
        spans.push(name);
        spans.push(Span::raw(" "));
    }
    frame.render_widget(Line::from(spans), line);
    let total = app.snapshot.total;
    let right = Line::from(vec![
        Span::styled(format!("↓ {:>11}", text::rate(total.down)), theme.download()),
        Span::raw("  "),
        Span::styled(format!("↑ {:>11} ", text::rate(total.up)), theme.upload()),
    ]);
    let right_area = right_of(line, right.width());
    if right_area.x > app.areas.tabs.last().map_or(0, |(tab, _)| tab.right()) {
        frame.render_widget(right, right_area);
    }
    let dashes = "─".repeat(rule.width.into());
    frame.render_widget(Span::styled(dashes, DIM), rule);
}

fn right_of(area: Rect, width: usize) -> Rect {
    let width = (width as u16).min(area.width);
    Rect::new(area.right() - width, area.y, width, area.height)
}

fn draw_processes(frame: &mut Frame<'_>, area: Rect, app: &mut App, theme: Theme) {
    // The graphs get a third, when there is room for a table as well.
    let height = if area.height >= 16 { (area.height / 3).clamp(6, 12) } else { 0 };
    let [list, graphs] =
        Layout::vertical([Constraint::Min(3), Constraint::Length(height)]).areas(area);
    table::draw(frame, list, app, theme);
    if height == 0 {
        return;
    }
    let [left, right] = Layout::horizontal([Constraint::Fill(1); 2]).spacing(1).areas(graphs);
    if let Some(row) = app.row() {
        let limit = app.limit_of(row).map(|limit| limit.limits);
        let title = format!("{} ({})", row.name, row.pid);
        let none = std::collections::VecDeque::new();
        let past = app.past().unwrap_or(&none);
        graph::draw(frame, left, &graph::Graph { title: &title, past, limit }, theme);
    }
    let graph = graph::Graph { title: "whole machine", past: &app.machine, limit: None };
    graph::draw(frame, right, &graph, theme);
}

/// What was just done or went wrong; else what is counted, and what is not.
fn draw_note(frame: &mut Frame<'_>, area: Rect, app: &App, theme: Theme) {
    let (words, style) = note(app, theme);
    let words = text::fit(&words, usize::from(area.width).saturating_sub(2));
    frame.render_widget(Line::from(vec![Span::raw(" "), Span::styled(words, style)]), area);
}

fn note(app: &App, theme: Theme) -> (String, Style) {
    if app.is_filtering || !app.filter.text.is_empty() {
        let cursor = if app.is_filtering { "▏" } else { "" };
        let (shown, all) = (app.shown.len(), app.snapshot.rows.len());
        let news = app.news_line().map_or("", |notice| &notice.text);
        let words = format!("/{}{cursor}   {shown} of {all}   {news}", app.filter.text);
        return (words, BOLD);
    }
    if app.is_busy {
        return ("working…".to_owned(), BOLD);
    }
    if let Some(notice) = app.news_line() {
        let style = if notice.is_problem { theme.warning() } else { theme.good() };
        return (notice.text.clone(), style);
    }
    if let Access::ViewOnly(why) = &app.access {
        return (format!("View only: {why}"), theme.warning());
    }
    (counted(app), DIM)
}

/// What the numbers are, in one line.
fn counted(app: &App) -> String {
    if !app.has_sample {
        return "looking for processes with sockets…".to_owned();
    }
    let snapshot = &app.snapshot;
    let mut words = if snapshot.counting {
        "Payload, counted by a BPF program on the root cgroup. Not counted: loopback."
            .to_owned()
    } else {
        "TCP only, of this network namespace, from sock_diag. Not counted: UDP, loopback, \
         connections shorter than a second."
            .to_owned()
    };
    if snapshot.unknown.sum() > 0 {
        words.push_str(" Of no known process: ");
        words.push_str(&text::rate(snapshot.unknown.sum()));
    }
    if app.is_paused {
        words.insert_str(0, "PAUSED. ");
    }
    words
}

fn draw_keys(frame: &mut Frame<'_>, area: Rect, app: &App) {
    let keys: &[(&str, &str)] = match (&app.over, app.page) {
        (Over::Form(_), _) => &[("Enter", "apply"), ("Tab", "next field"), ("Esc", "cancel")],
        (Over::Quit, _) => &[("Enter", "lift all and quit"), ("Esc", "stay")],
        (Over::Help, _) => &[("↑↓", "scroll"), ("Esc", "close")],
        (Over::Details, _) => {
            &[("l", "limit"), ("x", "lift"), ("↑↓", "scroll"), ("Esc", "back"), ("?", "help")]
        }
        (Over::Nothing, Page::Processes) if app.is_filtering => {
            &[("Enter", "keep the filter"), ("Esc", "clear it"), ("↑↓", "select")]
        }
        (Over::Nothing, Page::Processes) => &[
            ("l", "limit"),
            ("x", "lift"),
            ("Enter", "details"),
            ("/", "filter"),
            ("s", "sort"),
            ("Tab", "pages"),
            ("?", "help"),
            ("q", "quit"),
        ],
        (Over::Nothing, Page::Limits) => &[
            ("Enter", "change"),
            ("x", "lift"),
            ("X", "lift all"),
            ("Tab", "pages"),
            ("q", "quit"),
        ],
        (Over::Nothing, Page::Backends) => {
            &[("r", "ask again"), ("↑↓", "scroll"), ("Tab", "pages"), ("q", "quit")]
        }
    };
    let mut spans = vec![Span::raw(" ")];
    for (key, what) in keys {
        spans.push(Span::styled(*key, BOLD));
        spans.push(Span::styled(format!(" {what}  "), DIM));
    }
    frame.render_widget(Line::from(spans), area);
}

fn draw_quit(frame: &mut Frame<'_>, area: Rect, app: &App, theme: Theme) {
    let count = app.limits.len();
    let question = match count {
        1 => "One limit is in force. Quitting lifts it.".to_owned(),
        _ => format!("{count} limits are in force. Quitting lifts them all."),
    };
    let inner = popup(frame, area, " Quit? ", (52, 5), theme);
    let keys = Line::from(vec![
        Span::styled("Enter", BOLD),
        Span::raw(" lift and quit    "),
        Span::styled("Esc", BOLD),
        Span::raw(" stay"),
    ]);
    frame.render_widget(Paragraph::new(vec![Line::raw(question), Line::raw(""), keys]), inner);
}

/// An empty box in the middle; the room inside.
fn popup(
    frame: &mut Frame<'_>,
    area: Rect,
    title: &str,
    (width, height): (u16, u16),
    theme: Theme,
) -> Rect {
    let (width, height) = (width.min(area.width), height.min(area.height));
    let left = area.x + (area.width - width) / 2;
    let area = Rect::new(left, area.y + (area.height - height) / 2, width, height);
    let block = Block::bordered()
        .border_type(BorderType::Rounded)
        .border_style(theme.accent())
        .title(Span::styled(title.to_owned(), BOLD))
        .padding(Padding::horizontal(2));
    let inner = block.inner(area);
    frame.render_widget(Clear, area);
    frame.render_widget(block, area);
    inner
}

#[cfg(test)]
mod tests;
