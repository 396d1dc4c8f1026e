//! The help: all keys, and what the numbers are.

use ratatui::{
    Frame,
    layout::Rect,
    text::{Line, Span},
    widgets::Paragraph,
};

use super::{Theme, popup, text, theme::BOLD};
use crate::tui::app::{Access, App};

const KEYS: [(&str, &str); 17] = [
    ("↑ ↓ j k", "select; PageUp, PageDown, g, G go further"),
    ("Enter", "details: connections, cgroup, unit, command line"),
    ("l", "limit the process and its children, or change its limit"),
    ("u", "limit its systemd unit, across restarts too"),
    ("c", "limit its cgroup"),
    ("x Delete", "lift the limit"),
    ("X", "lift all limits"),
    ("/", "filter by name, user, pid or cgroup; Esc clears"),
    ("s < >", "sort by another column"),
    ("r", "turn the order round"),
    ("Space", "pause the display; limits go on"),
    ("b", "count with the BPF program, or without it"),
    ("Tab 1 2 3", "processes, limits, backends"),
    ("mouse", "select, open, sort by a header, open a page, scroll"),
    ("?", "this help"),
    ("q", "quit; asks first when limits are in force"),
    ("Ctrl-C", "the same"),
];

pub(super) fn draw(frame: &mut Frame<'_>, area: Rect, app: &mut App, theme: Theme) {
    let width = 72.min(area.width);
    let room = usize::from(width).saturating_sub(6);
    let mut lines: Vec<Line<'static>> = KEYS
        .iter()
        .map(|(key, what)| {
            Line::from(vec![Span::styled(format!("{key:<10} "), BOLD), Span::raw(*what)])
        })
        .collect();
    for paragraph in notes(app) {
        lines.push(Line::raw(""));
        lines.extend(text::wrap(&paragraph, room).into_iter().map(Line::raw));
    }
    let height = (lines.len() as u16 + 2).min(area.height);
    let inner = popup(frame, area, " Help ", (width, height), theme);
    app.scroll = app.scroll.min((lines.len() as u16).saturating_sub(inner.height));
    frame.render_widget(Paragraph::new(lines).scroll((app.scroll, 0)), inner);
}

fn notes(app: &App) -> Vec<String> {
    let mut notes = Vec::new();
    let snapshot = &app.snapshot;
    notes.push(if snapshot.counting {
        "Rates are payload, counted by a BPF program on the root cgroup while this view is \
         open: every protocol, every network namespace, short-lived processes too. Loopback is \
         not counted; neither is what no socket of a process carries (forwarded packets, raw \
         frames). A download that a limit refuses is counted as it arrives; the share in STATE \
         is what passes."
            .to_owned()
    } else {
        "Rates are payload of TCP, from sock_diag. Not counted: UDP and QUIC, other network \
         namespaces, loopback, connections that come and go between two looks."
            .to_owned()
    });
    if let Some(refusal) = &snapshot.refusal {
        notes.push(format!("The counting program is not in use. {refusal}"));
    }
    if let Access::ViewOnly(why) = &app.access {
        notes.push(format!("View only. {why}"));
    }
    notes.push(
        "STATE: the backend, and what passes as a share of the limit. An idle process has a \
         share of 0 %."
            .to_owned(),
    );
    notes
}
