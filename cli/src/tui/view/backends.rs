//! The probe's page: the diagnosis, what each backend can do here, and why not.

use chadthrottle_core::{
    check::{Check, Verdict},
    diagnosis::Diagnosis,
};
use ratatui::{
    Frame,
    layout::Rect,
    text::{Line, Span},
    widgets::Paragraph,
};

use super::{
    Theme, text,
    theme::{BOLD, DIM},
};
use crate::{
    probe::Shown,
    tui::{app::App, model::Probed},
};

pub(super) fn draw(frame: &mut Frame<'_>, area: Rect, app: &mut App, theme: Theme) {
    let width = usize::from(area.width).saturating_sub(2);
    let mut lines = Vec::new();
    match &app.probe {
        None => lines.push(Line::styled(" Asking each backend by real attempts…", DIM)),
        Some(Probed { backends, diagnosis }) => {
            lines.extend(of_diagnosis(diagnosis, backends.len(), width));
            for (backend, report) in backends {
                let (verdict, style) = if report.works() {
                    ("works", theme.good())
                } else {
                    ("does not work here", theme.bad())
                };
                lines.push(Line::from(vec![
                    Span::styled(format!(" {:<5}", backend.to_string()), BOLD),
                    Span::styled(verdict, style),
                ]));
                for check in &report.checks {
                    lines.extend(of_check(check, width, theme));
                }
                lines.push(Line::raw(""));
            }
            let words = "chadthrottle probe tells more, for people and as JSON.";
            lines.push(Line::styled(format!(" {words}"), DIM));
        }
    }
    app.scroll = app.scroll.min((lines.len() as u16).saturating_sub(area.height));
    frame.render_widget(Paragraph::new(lines).scroll((app.scroll, 0)), area);
}

fn of_diagnosis(
    diagnosis: &Diagnosis,
    backends: usize,
    width: usize,
) -> impl Iterator<Item = Line<'static>> {
    let said = Shown(diagnosis, backends).to_string();
    let lines: Vec<_> = said.lines().flat_map(|line| text::wrap(line.trim(), width)).collect();
    lines
        .into_iter()
        .enumerate()
        .map(|(i, line)| Line::styled(format!(" {line}"), if i == 0 { BOLD } else { DIM }))
        .chain([Line::raw("")])
}

fn of_check(check: &Check, width: usize, theme: Theme) -> Vec<Line<'static>> {
    let (mark, style) = match check.verdict {
        Verdict::Works => ("✓", theme.good()),
        Verdict::Missing | Verdict::Denied | Verdict::Conflict => ("✗", theme.bad()),
        Verdict::Inconclusive => ("?", theme.warning()),
    };
    let mut lines = vec![Line::from(vec![
        Span::styled(format!("   {mark} "), style),
        Span::raw(format!("{:<20} ", check.name)),
        Span::styled(text::fit(&check.evidence, width.saturating_sub(26)), DIM),
    ])];
    if check.verdict != Verdict::Works {
        let asked =
            format!("Asked: {}. Seen: {}. {}", check.asked, check.evidence, check.remedy);
        for line in text::wrap(&asked, width.saturating_sub(7)) {
            lines.push(Line::raw(format!("      {line}")));
        }
    }
    lines
}
