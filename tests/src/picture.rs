//! A terminal's screen as a picture: text with escape sequences (ECMA-48, "Select graphic
//! rendition") becomes SVG, in the colours of a dark terminal.

use std::fmt::Write;

/// Pixels of one character.
const CELL: (usize, usize) = (9, 19);
const BACKGROUND: &str = "#1e1e2e";
const FOREGROUND: &str = "#cdd6f4";
/// Black, red, green, yellow, blue, magenta, cyan, white.
const COLORS: [&str; 8] =
    ["#45475a", "#f38ba8", "#a6e3a1", "#f9e2af", "#89b4fa", "#f5a7de", "#7fd8e8", "#bac2de"];

#[derive(Clone, Copy, Default, PartialEq)]
#[allow(clippy::struct_excessive_bools, reason = "each is set and reset on its own")]
struct Style {
    color: Option<usize>,
    bold: bool,
    dim: bool,
    underlined: bool,
    reversed: bool,
}

impl Style {
    /// One "Select graphic rendition".
    fn select(&mut self, parameters: &str) {
        let mut numbers = parameters.split(';').map(|number| number.parse().unwrap_or(0));
        while let Some(number) = numbers.next() {
            match number {
                0 => *self = Self::default(),
                1 => self.bold = true,
                2 => self.dim = true,
                4 => self.underlined = true,
                7 => self.reversed = true,
                22 => (self.bold, self.dim) = (false, false),
                24 => self.underlined = false,
                27 => self.reversed = false,
                color @ (30..=37 | 90..=97) => self.color = Some(color % 10),
                // 38;5;N: of the 256, the first 16 are the terminal's own.
                38 => self.color = numbers.nth(1).map(|color: usize| color % 8),
                39 => self.color = None,
                _ => {}
            }
        }
    }

    fn ink(self) -> &'static str {
        self.color.map_or(FOREGROUND, |color| COLORS[color])
    }
}

/// The picture of what `tmux capture-pane -e` says.
pub fn svg(screen: &str) -> String {
    let mut lines = Vec::new();
    let mut style = Style::default();
    for line in screen.lines() {
        let mut cells = Vec::new();
        let mut letters = line.chars();
        while let Some(letter) = letters.next() {
            if letter != '\u{1b}' {
                cells.push((letter, style));
                continue;
            }
            let sequence: String =
                letters.by_ref().skip(1).take_while(|letter| *letter != 'm').collect();
            style.select(&sequence);
        }
        lines.push(cells);
    }
    let columns = lines.iter().map(Vec::len).max().unwrap_or(0);
    let (width, height) = (columns * CELL.0 + 2 * CELL.0, (lines.len() + 1) * CELL.1);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" \
         font-family=\"DejaVu Sans Mono, Menlo, Consolas, monospace\" font-size=\"15\" shape-rendering=\"crispEdges\">\n\
         <rect width=\"{width}\" height=\"{height}\" rx=\"8\" fill=\"{BACKGROUND}\"/>\n"
    );
    for (line, cells) in lines.iter().enumerate() {
        let mut at = 0;
        while at < cells.len() {
            let style = cells[at].1;
            let is_block = |letter: char| ('▁'..='█').contains(&letter);
            let block = is_block(cells[at].0);
            let run = cells[at..]
                .iter()
                .take_while(|cell| cell.1 == style && is_block(cell.0) == block);
            let text: String = run.map(|cell| cell.0).collect();
            draw(&mut svg, (at, line), &text, style);
            at += text.chars().count();
        }
    }
    svg.push_str("</svg>\n");
    svg
}

/// A run of letters, or of blocks, which are drawn: fonts leave gaps between them.
fn draw(svg: &mut String, (column, line): (usize, usize), text: &str, style: Style) {
    let (x, y) = ((column + 1) * CELL.0, line * CELL.1 + CELL.1 / 2);
    let width = text.chars().count() * CELL.0;
    let opacity = if style.dim { " opacity=\"0.6\"" } else { "" };
    let mut ink = style.ink();
    if style.reversed {
        let height = CELL.1;
        let _ = writeln!(
            svg,
            "<rect x=\"{x}\" y=\"{y}\" width=\"{width}\" height=\"{height}\" fill=\"{ink}\"/>"
        );
        ink = BACKGROUND;
    }
    if text.starts_with(|letter| ('▁'..='█').contains(&letter)) {
        for (at, letter) in text.chars().enumerate() {
            let eighths = letter as usize - '▁' as usize + 1;
            let height = CELL.1 * eighths / 8;
            let (x, y) = (x + at * CELL.0, y + CELL.1 - height);
            let _ = writeln!(
                svg,
                "<rect x=\"{x}\" y=\"{y}\" width=\"{}\" height=\"{height}\" fill=\"{ink}\"/>",
                CELL.0
            );
        }
        return;
    }
    if text.trim().is_empty() && !style.underlined {
        return;
    }
    let weight = if style.bold { " font-weight=\"bold\"" } else { "" };
    let line = if style.underlined { " text-decoration=\"underline\"" } else { "" };
    let text = text.replace('&', "&amp;").replace('<', "&lt;");
    let base = y + CELL.1 - 5;
    let _ = writeln!(
        svg,
        "<text x=\"{x}\" y=\"{base}\" textLength=\"{width}\" xml:space=\"preserve\" \
         fill=\"{ink}\"{weight}{line}{opacity}>{text}</text>"
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn styles_become_attributes() {
        let svg = svg("\u{1b}[1;38;5;6mab\u{1b}[0m<\u{1b}[7mx\u{1b}[27m█\n");
        assert!(svg.contains(">ab</text>") && svg.contains("font-weight=\"bold\""));
        assert!(svg.contains(COLORS[6]) && svg.contains(">&lt;</text>"));
        assert!(svg.matches("<rect").count() >= 3, "{svg}");
    }
}
