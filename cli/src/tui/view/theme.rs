//! Colours. Only the terminal's own sixteen and its own foreground and background, so that light
//! and dark terminals both stay readable; none at all with `NO_COLOR`.

use ratatui::style::{Color, Modifier, Style};

#[derive(Debug, Clone, Copy)]
pub(crate) struct Theme {
    has_color: bool,
}

impl Theme {
    pub(crate) fn new(has_color: bool) -> Self {
        Self { has_color }
    }

    fn color(self, color: Color) -> Style {
        if self.has_color { Style::new().fg(color) } else { Style::new() }
    }

    pub(super) fn download(self) -> Style {
        self.color(Color::Cyan)
    }

    pub(super) fn upload(self) -> Style {
        self.color(Color::Magenta)
    }

    pub(super) fn good(self) -> Style {
        self.color(Color::Green)
    }

    pub(super) fn warning(self) -> Style {
        self.color(Color::Yellow)
    }

    pub(super) fn bad(self) -> Style {
        self.color(Color::Red).add_modifier(Modifier::BOLD)
    }

    pub(super) fn accent(self) -> Style {
        self.color(Color::Blue).add_modifier(Modifier::BOLD)
    }
}

/// What is important.
pub(super) const BOLD: Style = Style::new().add_modifier(Modifier::BOLD);
/// What is only for reference.
pub(super) const DIM: Style = Style::new().add_modifier(Modifier::DIM);
/// Where the keys go.
pub(super) const SELECTED: Style = Style::new().add_modifier(Modifier::REVERSED);
