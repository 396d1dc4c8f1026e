//! One process, closely.

use ratatui::{
    Frame,
    layout::{Constraint, Layout, Rect},
    style::Style,
    text::{Line, Span},
    widgets::Paragraph,
};

use chadthrottle_backends::sockets::Protocol;

use super::{
    Theme, graph, text,
    theme::{BOLD, DIM},
};
use crate::tui::{
    app::App,
    model::{Details, Flow, Row},
};

pub(super) fn draw(frame: &mut Frame<'_>, area: Rect, app: &mut App, theme: Theme) {
    let Some(row) = app.row().cloned() else {
        frame.render_widget(Line::styled(" The process has ended.", DIM), area);
        return;
    };
    let details = app.details.clone().filter(|details| details.pid == row.pid);
    let width = usize::from(area.width).saturating_sub(2);
    let facts = facts(&row, details.as_ref(), app, width, theme);
    let graph = if area.height >= 20 { 6 } else { 0 };
    let height = (facts.len() as u16).min(area.height / 2);
    let [top, middle, bottom] = Layout::vertical([
        Constraint::Length(height),
        Constraint::Length(graph),
        Constraint::Min(2),
    ])
    .areas(area);
    frame.render_widget(Paragraph::new(facts), top);
    if graph > 0 {
        let none = std::collections::VecDeque::new();
        let past = app.past().unwrap_or(&none);
        let limit = app.limit_of(&row).map(|limit| limit.limits);
        let graph = graph::Graph { title: "the last minutes", past, limit };
        graph::draw(frame, middle, &graph, theme);
    }
    let flows = details.as_ref().map_or(&[][..], |details| &details.connections);
    let fits = usize::from(bottom.height).saturating_sub(1);
    app.scroll = app.scroll.min(flows.len().saturating_sub(fits) as u16);
    draw_flows(frame, bottom, flows, app.scroll.into(), theme);
}

fn facts(
    row: &Row,
    details: Option<&Details>,
    app: &App,
    width: usize,
    theme: Theme,
) -> Vec<Line<'static>> {
    let fact = |name: &str, value: String, style: Style| {
        Line::from(vec![
            Span::styled(format!(" {name:<9}"), DIM),
            Span::styled(text::fit(&value, width.saturating_sub(10)), style),
        ])
    };
    let plain = Style::new();
    let mut lines = vec![Line::from(vec![
        Span::styled(format!(" {} ", row.name), BOLD),
        Span::styled(format!("pid {}  user {}", row.pid, row.user), DIM),
    ])];
    let Some(details) = details else {
        lines.push(fact("", "looking…".to_owned(), DIM));
        return lines;
    };
    if !details.command.is_empty() {
        lines.push(fact("command", details.command.clone(), plain));
    }
    if let Some(unit) = &details.unit {
        lines.push(fact("unit", unit.clone(), plain));
    }
    lines.push(fact("cgroup", details.cgroup.clone(), plain));
    let moved = format!(
        "{} received, {} sent since the view was opened",
        text::bytes(row.total.down),
        text::bytes(row.total.up)
    );
    lines.push(fact("moved", moved, plain));
    let limit = match app.limit_of(row) {
        Some(limit) => {
            let whose = limit.target.to_string();
            format!("{} on {whose}, by {}", text::limits(&limit.limits), limit.backend)
        }
        None => "none".to_owned(),
    };
    lines.push(fact("limit", limit, plain));
    if let Some(problem) = &details.problem {
        lines.push(fact("problem", problem.clone(), theme.warning()));
    }
    lines
}

fn draw_flows(frame: &mut Frame<'_>, area: Rect, flows: &[Flow], from: usize, theme: Theme) {
    let widths = [
        Constraint::Length(5),
        Constraint::Fill(1),
        Constraint::Fill(1),
        Constraint::Length(11),
        Constraint::Length(8),
        Constraint::Length(11),
        Constraint::Length(11),
    ];
    let cells = |line: u16| {
        let row = Rect { y: area.y + line, height: 1, ..area };
        Layout::horizontal(widths).spacing(1).horizontal_margin(1).split(row)
    };
    let titles = ["PROTO", "LOCAL", "REMOTE", "STATE", "RTT", "DOWNLOAD", "UPLOAD"];
    for (at, (title, cell)) in titles.iter().zip(cells(0).iter()).enumerate() {
        let line = Line::styled(*title, DIM);
        frame.render_widget(if at >= 4 { line.right_aligned() } else { line }, *cell);
    }
    let room = usize::from(area.height.saturating_sub(1));
    for (line, flow) in flows.iter().skip(from).take(room).enumerate() {
        let connection = &flow.connection;
        let round_trip = connection.round_trip.map(|microseconds| {
            format!("{}.{} ms", microseconds / 1000, microseconds % 1000 / 100)
        });
        let remote = match connection.remote.port() {
            0 => "*".to_owned(),
            _ => connection.remote.to_string(),
        };
        let is_tcp = connection.socket.protocol == Protocol::Tcp;
        let words = [
            (if is_tcp { "tcp" } else { "udp" }.to_owned(), DIM),
            (connection.local.to_string(), Style::new()),
            (remote, Style::new()),
            (state(is_tcp, connection.socket.state).to_owned(), DIM),
            (round_trip.unwrap_or_default(), Style::new()),
            (text::rate(flow.rate.down), theme.download()),
            (text::rate(flow.rate.up), theme.upload()),
        ];
        for (at, ((words, style), cell)) in
            words.into_iter().zip(cells(line as u16 + 1).iter()).enumerate()
        {
            let line = Line::styled(text::fit(&words, cell.width.into()), style);
            frame.render_widget(if at >= 4 { line.right_aligned() } else { line }, *cell);
        }
    }
}

/// `include/net/tcp_states.h`; UDP uses two of them.
fn state(is_tcp: bool, state: u8) -> &'static str {
    match state {
        1 if is_tcp => "established",
        1 => "connected",
        2 => "syn-sent",
        3 | 12 => "syn-recv",
        4 => "fin-wait-1",
        5 => "fin-wait-2",
        6 => "time-wait",
        7 if is_tcp => "closed",
        8 => "close-wait",
        9 => "last-ack",
        10 => "listening",
        11 => "closing",
        _ => "",
    }
}
