//! What keys and the mouse do.

use ratatui::{
    crossterm::event::{
        KeyCode, KeyEvent, KeyEventKind, KeyModifiers, MouseButton, MouseEvent, MouseEventKind,
    },
    layout::Position,
};

use super::{Access, App, Column, Effect, Field, Form, Outcome, Over, Page};
use crate::tui::model::{Ask, Order, What};

/// Rows that a page key goes when the height is not known yet.
const PAGE: usize = 10;

impl App {
    /// A key; what is to be done for it.
    pub(crate) fn key(&mut self, key: KeyEvent) -> Vec<Effect> {
        if key.kind == KeyEventKind::Release {
            return Vec::new();
        }
        let control = key.modifiers.contains(KeyModifiers::CONTROL);
        if control && matches!(key.code, KeyCode::Char('c')) {
            // A second one means it.
            return if matches!(self.over, Over::Quit) {
                vec![Effect::Quit]
            } else {
                self.quit()
            };
        }
        match &mut self.over {
            Over::Form(form) => match form.key(key) {
                Outcome::Open => Vec::new(),
                Outcome::Cancelled => self.close(),
                Outcome::Ordered(order) => {
                    self.over = Over::Nothing;
                    self.order(order)
                }
            },
            Over::Quit => match key.code {
                KeyCode::Enter | KeyCode::Char('y' | 'Y' | 'q') => vec![Effect::Quit],
                KeyCode::Esc | KeyCode::Char('n' | 'N') => self.close(),
                _ => Vec::new(),
            },
            Over::Help => match key.code {
                KeyCode::Esc | KeyCode::Char('?' | 'q') | KeyCode::F(1) | KeyCode::Enter => {
                    self.close()
                }
                _ => self.scroll(key.code),
            },
            Over::Details => match key.code {
                KeyCode::Esc | KeyCode::Enter | KeyCode::Char('q') => self.close(),
                KeyCode::Char('l') => self.limit(|_| true),
                KeyCode::Char('u') => self.limit(|what| matches!(what, What::Unit { .. })),
                KeyCode::Char('c') => self.limit(|what| matches!(what, What::Cgroup { .. })),
                KeyCode::Char('x') | KeyCode::Delete => self.lift(),
                KeyCode::Char('?') | KeyCode::F(1) => self.show(Over::Help),
                _ => self.scroll(key.code),
            },
            Over::Nothing if self.is_filtering => self.filter_key(key),
            Over::Nothing => self.page_key(key),
        }
    }

    fn filter_key(&mut self, key: KeyEvent) -> Vec<Effect> {
        match key.code {
            KeyCode::Enter => self.is_filtering = false,
            KeyCode::Esc => {
                self.is_filtering = false;
                self.filter = Field::default();
            }
            KeyCode::Up => self.select(-1),
            KeyCode::Down => self.select(1),
            _ => self.filter.key(key),
        }
        self.arrange();
        Vec::new()
    }

    fn page_key(&mut self, key: KeyEvent) -> Vec<Effect> {
        match key.code {
            KeyCode::Char('q') => return self.quit(),
            KeyCode::Char('?') | KeyCode::F(1) => return self.show(Over::Help),
            KeyCode::Tab => return self.turn(1),
            KeyCode::BackTab => return self.turn(2),
            KeyCode::Char(digit @ '1'..='3') => {
                return self.open(Page::ALL[digit as usize - '1' as usize]);
            }
            KeyCode::Char('x') | KeyCode::Delete => return self.lift(),
            KeyCode::Char('X') => {
                let ids = self.limits.iter().map(|limit| limit.id);
                return ids.map(|id| Effect::Order(Order::Lift(id))).collect();
            }
            _ => {}
        }
        match self.page {
            Page::Processes => self.process_key(key),
            Page::Limits => self.limits_key(key),
            Page::Backends => match key.code {
                KeyCode::Char('r') => {
                    self.probe = None;
                    vec![Effect::Probe]
                }
                KeyCode::Esc => self.open(Page::Processes),
                _ => self.scroll(key.code),
            },
        }
    }

    fn process_key(&mut self, key: KeyEvent) -> Vec<Effect> {
        let rows = usize::from(self.areas.list.height).max(1);
        let page = isize::try_from(if self.areas.list.height > 0 { rows } else { PAGE });
        let page = page.unwrap_or(1);
        match key.code {
            KeyCode::Up | KeyCode::Char('k') => self.select(-1),
            KeyCode::Down | KeyCode::Char('j') => self.select(1),
            KeyCode::PageUp => self.select(-page),
            KeyCode::PageDown => self.select(page),
            KeyCode::Home | KeyCode::Char('g') => self.select(isize::MIN),
            KeyCode::End | KeyCode::Char('G') => self.select(isize::MAX),
            KeyCode::Enter => return self.show_details(),
            KeyCode::Char('l') => return self.limit(|_| true),
            KeyCode::Char('u') => return self.limit(|what| matches!(what, What::Unit { .. })),
            KeyCode::Char('c') => {
                return self.limit(|what| matches!(what, What::Cgroup { .. }));
            }
            KeyCode::Char('/') => self.is_filtering = true,
            KeyCode::Esc => self.filter = Field::default(),
            KeyCode::Char('s' | '>') => self.sorting.column = self.sorting.column.next(1),
            KeyCode::Char('<') => self.sorting.column = self.sorting.column.next(-1),
            KeyCode::Char('r') => self.sorting.reversed = !self.sorting.reversed,
            KeyCode::Char(' ') => self.is_paused = !self.is_paused,
            KeyCode::Char('b') => {
                self.wants_counting = !self.wants_counting;
                return vec![Effect::Ask(Ask::Counting(self.wants_counting))];
            }
            _ => return Vec::new(),
        }
        self.arrange();
        Vec::new()
    }

    fn limits_key(&mut self, key: KeyEvent) -> Vec<Effect> {
        let last = self.limits.len().saturating_sub(1);
        match key.code {
            KeyCode::Up | KeyCode::Char('k') => {
                self.selected_limit = self.selected_limit.saturating_sub(1);
            }
            KeyCode::Down | KeyCode::Char('j') => {
                self.selected_limit = last.min(self.selected_limit + 1);
            }
            KeyCode::Home | KeyCode::Char('g') => self.selected_limit = 0,
            KeyCode::End | KeyCode::Char('G') => self.selected_limit = last,
            KeyCode::Enter | KeyCode::Char('l') => {
                if let Some(limit) = self.limits.get(self.selected_limit) {
                    let name = limit.target.to_string();
                    let form = Form::change(limit.id, name, limit.backend, &limit.limits);
                    self.over = Over::Form(Box::new(form));
                }
            }
            KeyCode::Esc => return self.open(Page::Processes),
            _ => {}
        }
        Vec::new()
    }

    fn scroll(&mut self, code: KeyCode) -> Vec<Effect> {
        self.scroll = match code {
            KeyCode::Up | KeyCode::Char('k') => self.scroll.saturating_sub(1),
            KeyCode::Down | KeyCode::Char('j') => self.scroll.saturating_add(1),
            KeyCode::PageUp => self.scroll.saturating_sub(10),
            KeyCode::PageDown => self.scroll.saturating_add(10),
            KeyCode::Home | KeyCode::Char('g') => 0,
            _ => self.scroll,
        };
        Vec::new()
    }

    /// Selects the row that is `by` further down; stops at the ends.
    fn select(&mut self, by: isize) {
        let last = self.shown.len().saturating_sub(1);
        let at = self.position().unwrap_or(0).saturating_add_signed(by).min(last);
        self.selected = self.shown.get(at).map(|&at| self.snapshot.rows[at].pid);
    }

    /// Opens the dialogue: to change the limit that is there, or to set one.
    fn limit(&mut self, wanted: impl Fn(&What) -> bool) -> Vec<Effect> {
        if let Access::ViewOnly(why) = &self.access {
            let why = format!("view only: {why}");
            self.notice(&why, true);
            return Vec::new();
        }
        let Some(row) = self.row().filter(|row| !row.ended) else { return Vec::new() };
        let form = if let Some(limit) = self.limit_of(row) {
            Form::change(limit.id, limit.target.to_string(), limit.backend, &limit.limits)
        } else {
            let choices = Self::choices(row);
            let Some(chosen) = choices.iter().position(wanted) else {
                self.notice("this process belongs to no systemd unit", true);
                return Vec::new();
            };
            Form::new(choices, chosen, self.backend)
        };
        self.over = Over::Form(Box::new(form));
        vec![Effect::Ask(Ask::Details(None))]
    }

    fn lift(&mut self) -> Vec<Effect> {
        let limit = match self.page {
            Page::Limits => self.limits.get(self.selected_limit),
            _ => self.row().and_then(|row| self.limit_of(row)),
        };
        if let Some(id) = limit.map(|limit| limit.id) {
            return self.order(Order::Lift(id));
        }
        self.notice("there is no limit to lift here", true);
        Vec::new()
    }

    fn order(&mut self, order: Order) -> Vec<Effect> {
        self.is_busy = true;
        vec![Effect::Order(order)]
    }

    /// Asked first when limits are in force.
    fn quit(&mut self) -> Vec<Effect> {
        if self.limits.is_empty() && !self.is_busy {
            return vec![Effect::Quit];
        }
        self.over = Over::Quit;
        Vec::new()
    }

    fn show(&mut self, over: Over) -> Vec<Effect> {
        self.scroll = 0;
        self.over = over;
        Vec::new()
    }

    fn show_details(&mut self) -> Vec<Effect> {
        let Some(pid) = self.row().map(|row| row.pid) else { return Vec::new() };
        self.details = None;
        self.show(Over::Details);
        vec![Effect::Ask(Ask::Details(Some(pid)))]
    }

    fn close(&mut self) -> Vec<Effect> {
        let was_details = matches!(self.over, Over::Details);
        self.over = Over::Nothing;
        self.scroll = 0;
        if was_details { vec![Effect::Ask(Ask::Details(None))] } else { Vec::new() }
    }

    fn turn(&mut self, by: usize) -> Vec<Effect> {
        let at = Page::ALL.iter().position(|page| *page == self.page).unwrap_or(0);
        self.open(Page::ALL[(at + by) % Page::ALL.len()])
    }

    fn open(&mut self, page: Page) -> Vec<Effect> {
        self.page = page;
        self.scroll = 0;
        let asks = page == Page::Backends && self.probe.is_none();
        if asks { vec![Effect::Probe] } else { Vec::new() }
    }

    /// The mouse: a click selects, a second one opens; a header sorts, a tab opens its page.
    pub(crate) fn mouse(&mut self, mouse: MouseEvent) -> Vec<Effect> {
        let at = Position::new(mouse.column, mouse.row);
        let wheel = match mouse.kind {
            MouseEventKind::ScrollUp => Some(KeyCode::Up),
            MouseEventKind::ScrollDown => Some(KeyCode::Down),
            MouseEventKind::Down(MouseButton::Left) => None,
            _ => return Vec::new(),
        };
        if let Some(code) = wheel {
            let is_typing = matches!(self.over, Over::Form(_) | Over::Quit);
            return if is_typing { Vec::new() } else { self.key(KeyEvent::from(code)) };
        }
        if !matches!(self.over, Over::Nothing) {
            return Vec::new();
        }
        if let Some((_, page)) = self.areas.tabs.iter().find(|(area, _)| area.contains(at)) {
            return self.open(*page);
        }
        if self.areas.header.contains(at) && self.page == Page::Processes {
            let hit = |(start, end, _): &&(u16, u16, Column)| (*start..*end).contains(&at.x);
            if let Some((_, _, column)) = self.areas.columns.iter().find(hit) {
                let (column, same) = (*column, self.sorting.column == *column);
                self.sorting.reversed = same && !self.sorting.reversed;
                self.sorting.column = column;
                self.arrange();
            }
        } else if self.areas.list.contains(at) {
            let line = usize::from(at.y - self.areas.list.y);
            match self.page {
                Page::Processes => {
                    let hit = self.shown.get(self.top + line);
                    let hit = hit.map(|&at| self.snapshot.rows[at].pid);
                    if hit.is_some() && hit == self.selected {
                        return self.show_details();
                    }
                    self.selected = hit.or(self.selected);
                }
                Page::Limits if line < self.limits.len() => self.selected_limit = line,
                _ => {}
            }
        }
        Vec::new()
    }

    pub(super) fn paste(&mut self, text: &str) {
        match &mut self.over {
            Over::Form(form) => form.paste(text),
            Over::Nothing if self.is_filtering => {
                for letter in text.chars().filter(|letter| !letter.is_control()) {
                    self.filter.key(KeyEvent::from(KeyCode::Char(letter)));
                }
                self.arrange();
            }
            _ => {}
        }
    }
}
