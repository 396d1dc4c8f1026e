//! The dialogue for a limit.

use ratatui::{
    Frame,
    layout::Rect,
    style::Style,
    text::{Line, Span},
    widgets::Paragraph,
};

use super::{
    Theme, popup, text,
    theme::{BOLD, DIM, SELECTED},
};
use crate::tui::{
    app::{Field, Focus, Form, Subject},
    model::What,
};

const WIDTH: u16 = 66;

pub(super) fn draw(frame: &mut Frame<'_>, area: Rect, form: &Form, theme: Theme) {
    let (title, mut lines) = match &form.subject {
        Subject::New { choices, chosen, .. } => (
            format!(" Limit {} ", text::fit(&choices[0].name(), 40)),
            choice(form, Focus::What, "what", &of_what(&choices[*chosen])),
        ),
        Subject::Old { name, backend, .. } => {
            (format!(" Change {} ({backend}) ", text::fit(name, 40)), Vec::new())
        }
    };
    if !lines.is_empty() {
        lines.push(Line::raw(""));
    }
    lines.extend(field(form, Focus::Download, "download", &form.download, theme));
    lines.extend(field(form, Focus::Upload, "upload", &form.upload, theme));
    if let Subject::New { backend, .. } = form.subject {
        let name = match backend.checked_sub(1) {
            None => "auto: the first that works".to_owned(),
            Some(at) => chadthrottle_core::BackendId::ALL[at].to_string(),
        };
        lines.push(Line::raw(""));
        lines.extend(choice(form, Focus::Backend, "backend", &name));
    }
    lines.push(Line::raw(""));
    let room = usize::from(WIDTH.min(area.width)).saturating_sub(6);
    let (hint, style) = hint(form, theme);
    let hint = text::wrap(&hint, room);
    lines.extend(
        (0..2).map(|at| Line::styled(hint.get(at).cloned().unwrap_or_default(), style)),
    );
    let inner = popup(frame, area, &title, (WIDTH, lines.len() as u16 + 2), theme);
    frame.render_widget(Paragraph::new(lines), inner);
}

/// The refusal of the last Enter, else what is wrong with the field, else how to write rates.
fn hint(form: &Form, theme: Theme) -> (String, Style) {
    let field = match form.focus {
        Focus::Upload => &form.upload,
        _ => &form.download,
    };
    if let Some(refusal) = &form.refusal {
        return (refusal.clone(), theme.warning());
    }
    match (form.focus, field.limit()) {
        (Focus::Download | Focus::Upload, Err(error)) => (error, theme.warning()),
        (Focus::What | Focus::Backend, _) => ("← → to choose".to_owned(), DIM),
        _ => (
            "500kbit and 10mbit are bits, 500kB/s and 1MB/s are bytes, per second. An empty \
             field means no limit."
                .to_owned(),
            DIM,
        ),
    }
}

fn of_what(what: &What) -> String {
    match what {
        What::Process { pid, .. } => format!("process {pid} and its children"),
        What::Unit { name, .. } => format!("unit {name}"),
        What::Cgroup { path } => format!("cgroup {}", path.display()),
    }
}

fn label(form: &Form, focus: Focus, name: &str) -> Span<'static> {
    let is_here = form.focus == focus;
    let marker = if is_here { "›" } else { " " };
    let style = if is_here { BOLD } else { DIM };
    Span::styled(format!("{marker} {name:<10}"), style)
}

fn choice(form: &Form, focus: Focus, name: &str, value: &str) -> Vec<Line<'static>> {
    let is_here = form.focus == focus;
    let value = text::fit(value, 44);
    let value = if is_here { format!("‹ {value} ›") } else { format!("  {value}") };
    vec![Line::from(vec![label(form, focus, name), Span::raw(value)])]
}

/// The text with its cursor, and what it means.
fn field(
    form: &Form,
    focus: Focus,
    name: &str,
    field: &Field,
    theme: Theme,
) -> Vec<Line<'static>> {
    const ROOM: usize = 20;
    let mut spans = vec![label(form, focus, name), Span::raw("  ")];
    let letters: Vec<char> = field.text.chars().chain([' ']).collect();
    let start = (field.cursor + 1).saturating_sub(ROOM);
    for at in start..start + ROOM {
        let letter = letters.get(at).copied().unwrap_or(' ').to_string();
        let mut style = Style::new().add_modifier(ratatui::style::Modifier::UNDERLINED);
        if form.focus == focus && at == field.cursor {
            style = SELECTED;
        }
        spans.push(Span::styled(letter, style));
    }
    spans.push(match field.limit() {
        Ok(Some(limit)) => Span::styled(format!("  {}", limit.rate), theme.good()),
        Ok(None) => Span::styled("  no limit", DIM),
        Err(_) => Span::styled("  not a rate yet", theme.warning()),
    });
    vec![Line::from(spans)]
}
