//! The dialogue that sets or changes a limit: two rates as on the command line, judged while
//! they are typed.

use chadthrottle_core::{BackendId, Limit, LimitId, Limits, Rate};
use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

use crate::tui::model::{Order, What};

/// What the keys go to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Focus {
    Download,
    Upload,
    What,
    Backend,
}

/// The open dialogue.
#[derive(Debug, Clone)]
pub(crate) struct Form {
    pub(crate) focus: Focus,
    pub(crate) download: Field,
    pub(crate) upload: Field,
    pub(crate) subject: Subject,
    /// Why the last Enter did nothing.
    pub(crate) refusal: Option<String>,
}

/// What the rates are for.
#[derive(Debug, Clone)]
pub(crate) enum Subject {
    /// A new limit, on one of these, by one of the backends (0 is auto).
    New { choices: Vec<What>, chosen: usize, backend: usize },
    /// One that is in force.
    Old { id: LimitId, name: String, backend: BackendId },
}

/// What became of a key.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Open,
    Cancelled,
    Ordered(Order),
}

impl Form {
    pub(crate) fn new(choices: Vec<What>, chosen: usize, backend: Option<BackendId>) -> Self {
        let backend = BackendId::ALL.iter().position(|id| Some(*id) == backend);
        let backend = backend.map_or(0, |at| at + 1);
        Self::with(Subject::New { choices, chosen, backend }, &Limits::default())
    }

    pub(crate) fn change(
        id: LimitId,
        name: String,
        backend: BackendId,
        limits: &Limits,
    ) -> Self {
        Self::with(Subject::Old { id, name, backend }, limits)
    }

    fn with(subject: Subject, limits: &Limits) -> Self {
        let field = |limit: Option<Limit>| Field::new(limit.map(|limit| spelled(limit.rate)));
        Self {
            focus: Focus::Download,
            download: field(limits.download),
            upload: field(limits.upload),
            subject,
            refusal: None,
        }
    }

    pub(crate) fn key(&mut self, key: KeyEvent) -> Outcome {
        match key.code {
            KeyCode::Esc => return Outcome::Cancelled,
            KeyCode::Enter => match self.order() {
                Ok(order) => return Outcome::Ordered(order),
                Err(refusal) => self.refusal = Some(refusal),
            },
            KeyCode::Tab | KeyCode::Down => self.focus = self.turn(1),
            KeyCode::BackTab | KeyCode::Up => self.focus = self.turn(-1),
            _ => {
                self.refusal = None;
                match self.focus {
                    Focus::Download => self.download.key(key),
                    Focus::Upload => self.upload.key(key),
                    Focus::What | Focus::Backend => self.choose(key),
                }
            }
        }
        Outcome::Open
    }

    /// Text from the clipboard.
    pub(crate) fn paste(&mut self, text: &str) {
        for letter in text.chars().filter(|letter| !letter.is_control()) {
            self.key(KeyEvent::from(KeyCode::Char(letter)));
        }
    }

    fn turn(&self, by: isize) -> Focus {
        let all: &[Focus] = match self.subject {
            Subject::New { .. } => {
                &[Focus::Download, Focus::Upload, Focus::What, Focus::Backend]
            }
            Subject::Old { .. } => &[Focus::Download, Focus::Upload],
        };
        let at = all.iter().position(|focus| *focus == self.focus).unwrap_or(0);
        all[at.wrapping_add_signed(by).wrapping_add(all.len()) % all.len()]
    }

    fn choose(&mut self, key: KeyEvent) {
        let Subject::New { choices, chosen, backend } = &mut self.subject else { return };
        let (at, count) = match self.focus {
            Focus::What => (chosen, choices.len()),
            _ => (backend, BackendId::ALL.len() + 1),
        };
        match key.code {
            KeyCode::Right | KeyCode::Char(' ' | 'l') => *at = (*at + 1) % count,
            KeyCode::Left | KeyCode::Char('h') => *at = (*at + count - 1) % count,
            _ => {}
        }
    }

    /// What Enter would order, or why it would not.
    pub(crate) fn order(&self) -> Result<Order, String> {
        let limits = Limits { download: self.download.limit()?, upload: self.upload.limit()? };
        if limits.is_empty() {
            return Err(match self.subject {
                Subject::New { .. } => "give at least one rate, for example 10mbit".to_owned(),
                Subject::Old { .. } => {
                    "give at least one rate; to lift the limit press Esc, then x".to_owned()
                }
            });
        }
        Ok(match &self.subject {
            Subject::Old { id, .. } => Order::Change { id: *id, limits },
            Subject::New { choices, chosen, backend } => Order::Limit {
                what: choices[*chosen].clone(),
                limits,
                backend: backend.checked_sub(1).map(|at| BackendId::ALL[at]),
            },
        })
    }
}

/// A line of text with a cursor.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Field {
    pub(crate) text: String,
    /// In characters.
    pub(crate) cursor: usize,
}

impl Field {
    fn new(text: Option<String>) -> Self {
        let text = text.unwrap_or_default();
        let cursor = text.chars().count();
        Self { text, cursor }
    }

    pub(crate) fn key(&mut self, key: KeyEvent) {
        let length = self.text.chars().count();
        let control = key.modifiers.contains(KeyModifiers::CONTROL);
        match key.code {
            KeyCode::Char('u') if control => *self = Self::default(),
            KeyCode::Char('a') if control => self.cursor = 0,
            KeyCode::Char('e') if control => self.cursor = length,
            KeyCode::Char(letter) if !control => {
                let at = self.byte(self.cursor);
                self.text.insert(at, letter);
                self.cursor += 1;
            }
            KeyCode::Backspace if self.cursor > 0 => {
                self.cursor -= 1;
                let at = self.byte(self.cursor);
                self.text.remove(at);
            }
            KeyCode::Delete if self.cursor < length => {
                let at = self.byte(self.cursor);
                self.text.remove(at);
            }
            KeyCode::Left => self.cursor = self.cursor.saturating_sub(1),
            KeyCode::Right => self.cursor = length.min(self.cursor + 1),
            KeyCode::Home => self.cursor = 0,
            KeyCode::End => self.cursor = length,
            _ => {}
        }
    }

    /// What was typed; nothing means no limit.
    pub(crate) fn limit(&self) -> Result<Option<Limit>, String> {
        if self.text.trim().is_empty() {
            return Ok(None);
        }
        match self.text.parse::<Rate>() {
            Ok(rate) => Ok(Some(Limit { rate })),
            Err(error) => Err(error.to_string()),
        }
    }

    fn byte(&self, character: usize) -> usize {
        self.text.char_indices().nth(character).map_or(self.text.len(), |(at, _)| at)
    }
}

/// As one types it: "10mbit".
fn spelled(rate: Rate) -> String {
    rate.to_string().replace(' ', "").trim_end_matches("/s").to_lowercase()
}
