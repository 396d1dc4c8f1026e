//! The state of the view, and what keys and news do to it. Knows no terminal and no kernel.

mod form;
mod keys;
mod rows;

use std::collections::{HashMap, HashSet, VecDeque};

use chadthrottle_core::{BackendId, Target};
use ratatui::{crossterm::event::Event, layout::Rect};

pub(crate) use form::{Field, Focus, Form, Outcome, Subject};
pub(crate) use rows::{Column, Sorting};

use super::{
    details::unit_of,
    model::{Active, Ask, Details, Message, News, Order, Pair, Probed, Row, Snapshot, What},
};

/// Samples that a graph shows at most: five minutes.
const HISTORY: usize = 300;
/// Processes whose past is kept; those without traffic have none.
const REMEMBERED: usize = 512;
/// For how many seconds a notice is shown below; a problem twice as long.
const FRESH: u32 = 15;
/// Messages that are kept.
const MESSAGES: usize = 50;

/// What fills the screen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Page {
    Processes,
    Limits,
    Backends,
}

impl Page {
    pub(crate) const ALL: [Self; 3] = [Self::Processes, Self::Limits, Self::Backends];
}

/// What lies over the page.
#[derive(Debug, Clone)]
pub(crate) enum Over {
    Nothing,
    Help,
    /// One process, closely.
    Details,
    Form(Box<Form>),
    /// Quit although limits are in force?
    Quit,
}

/// What must be done outside.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Effect {
    Order(Order),
    Ask(Ask),
    /// Ask the backends.
    Probe,
    Quit,
}

/// Whether limits can be set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Access {
    Opening,
    Full,
    /// And why.
    ViewOnly(String),
}

/// A line for the user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Notice {
    pub(crate) text: String,
    pub(crate) is_problem: bool,
}

/// Where the mouse can hit something; written by the view.
#[derive(Debug, Clone, Default)]
pub(crate) struct Areas {
    /// The rows of the list, without its header.
    pub(crate) list: Rect,
    pub(crate) header: Rect,
    /// Where each column begins and ends.
    pub(crate) columns: Vec<(u16, u16, Column)>,
    pub(crate) tabs: Vec<(Rect, Page)>,
}

#[allow(clippy::struct_excessive_bools, reason = "each is a switch of its own")]
pub(crate) struct App {
    pub(crate) page: Page,
    pub(crate) over: Over,
    pub(crate) snapshot: Snapshot,
    pub(crate) has_sample: bool,
    /// Indices into the snapshot's rows, as shown.
    pub(crate) shown: Vec<usize>,
    pub(crate) sorting: Sorting,
    pub(crate) filter: Field,
    pub(crate) is_filtering: bool,
    pub(crate) is_paused: bool,
    /// The selected process; the selection stays with it, wherever its row goes.
    pub(crate) selected: Option<i32>,
    /// The first row on the screen.
    pub(crate) top: usize,
    pub(crate) limits: Vec<Active>,
    pub(crate) selected_limit: usize,
    pub(crate) access: Access,
    pub(crate) details: Option<Details>,
    pub(crate) scroll: u16,
    pub(crate) probe: Option<Probed>,
    pub(crate) notices: VecDeque<Notice>,
    /// For how many samples the last notice is still news.
    fresh: u32,
    pub(crate) wants_counting: bool,
    pub(crate) backend: Option<BackendId>,
    pub(crate) areas: Areas,
    /// An order is being carried out.
    pub(crate) is_busy: bool,
    pub(crate) machine: VecDeque<Pair>,
    pasts: HashMap<i32, VecDeque<Pair>>,
}

impl App {
    /// `backend`: what limits use unless the user chooses another.
    pub(crate) fn new(backend: Option<BackendId>) -> Self {
        Self {
            page: Page::Processes,
            over: Over::Nothing,
            snapshot: Snapshot::default(),
            has_sample: false,
            shown: Vec::new(),
            sorting: Sorting { column: Column::Traffic, reversed: false },
            filter: Field::default(),
            is_filtering: false,
            is_paused: false,
            selected: None,
            top: 0,
            limits: Vec::new(),
            selected_limit: 0,
            access: Access::Opening,
            details: None,
            scroll: 0,
            probe: None,
            notices: VecDeque::new(),
            fresh: 0,
            wants_counting: true,
            backend,
            areas: Areas::default(),
            is_busy: false,
            machine: VecDeque::new(),
            pasts: HashMap::new(),
        }
    }

    /// What happened, and what is to be done for it.
    pub(crate) fn take(&mut self, message: Message) -> Vec<Effect> {
        match message {
            Message::Input(Event::Key(key)) => return self.key(key),
            Message::Input(Event::Mouse(mouse)) => return self.mouse(mouse),
            Message::Input(Event::Paste(text)) => self.paste(&text),
            Message::Input(_) => {}
            Message::Signal => return vec![Effect::Quit],
            Message::Sample(snapshot) => self.sample(*snapshot),
            Message::Details(details) => self.details = Some(*details),
            Message::News(news) => self.news(news),
            Message::Probe(probed) => self.probe = Some(probed),
        }
        Vec::new()
    }

    /// A line of the log, while the screen is ours.
    pub(crate) fn logged(&mut self, line: &str) {
        self.notice(line.trim(), true);
    }

    fn sample(&mut self, snapshot: Snapshot) {
        self.fresh = self.fresh.saturating_sub(1);
        remember(&mut self.machine, snapshot.total);
        for row in &snapshot.rows {
            if let Some(past) = self.pasts.get_mut(&row.pid) {
                remember(past, row.rate);
            } else if row.rate.sum() > 0 && self.pasts.len() < REMEMBERED {
                self.pasts.insert(row.pid, VecDeque::from([row.rate]));
            }
        }
        if self.pasts.len() >= REMEMBERED {
            let rows = &snapshot.rows;
            self.pasts.retain(|pid, _| rows.iter().any(|row| row.pid == *pid));
        }
        self.has_sample = true;
        if !self.is_paused {
            self.snapshot = snapshot;
            self.arrange();
        }
    }

    fn news(&mut self, news: News) {
        match news {
            News::Ready => self.access = Access::Full,
            News::ViewOnly(why) => self.access = Access::ViewOnly(why),
            News::Active(limits) => {
                self.limits = limits;
                self.selected_limit =
                    self.selected_limit.min(self.limits.len().saturating_sub(1));
            }
            News::Done(text) => {
                self.is_busy = false;
                self.notice(&text, false);
            }
            News::Problem(text) => {
                self.is_busy = false;
                self.notice(&text, true);
            }
        }
    }

    /// The last notice, while it is news.
    pub(crate) fn news_line(&self) -> Option<&Notice> {
        self.notices.back().filter(|_| self.fresh > 0)
    }

    fn notice(&mut self, text: &str, is_problem: bool) {
        self.fresh = if is_problem { 2 * FRESH } else { FRESH };
        let notice = Notice { text: text.to_owned(), is_problem };
        if self.notices.back() != Some(&notice) {
            self.notices.push_back(notice);
        }
        while self.notices.len() > MESSAGES {
            self.notices.pop_front();
        }
    }

    /// Sorts and filters anew; the selection stays with its process.
    pub(crate) fn arrange(&mut self) {
        let rows = &self.snapshot.rows;
        let mut shown: Vec<usize> =
            (0..rows.len()).filter(|&at| rows::matches(&rows[at], &self.filter.text)).collect();
        let limited: HashSet<i32> = if self.sorting.column == Column::Limit {
            rows.iter().filter(|row| self.limit_of(row).is_some()).map(|row| row.pid).collect()
        } else {
            HashSet::new()
        };
        let is_limited = |row: &Row| limited.contains(&row.pid);
        shown.sort_by(|&a, &b| self.sorting.compare(&rows[a], &rows[b], is_limited));
        self.shown = shown;
        if self.position().is_none() {
            let at = self.top.min(self.shown.len().saturating_sub(1));
            self.selected = self.shown.get(at).map(|&at| self.snapshot.rows[at].pid);
        }
    }

    /// Where the selected process is among the shown ones.
    pub(crate) fn position(&self) -> Option<usize> {
        let pid = self.selected?;
        self.shown.iter().position(|&at| self.snapshot.rows[at].pid == pid)
    }

    /// The selected process.
    pub(crate) fn row(&self) -> Option<&Row> {
        Some(&self.snapshot.rows[self.shown[self.position()?]])
    }

    /// What the selected process moved lately, oldest first.
    pub(crate) fn past(&self) -> Option<&VecDeque<Pair>> {
        self.pasts.get(&self.selected?)
    }

    /// The limit that a process is under.
    pub(crate) fn limit_of(&self, row: &Row) -> Option<&Active> {
        self.limits.iter().find(|limit| match &limit.target {
            Target::Process(process) => {
                process.key.pid == row.pid || row.ancestors.contains(&process.key.pid)
            }
            Target::Cgroup(target) => {
                row.cgroup.as_ref().is_some_and(|cgroup| cgroup.starts_with(&target.path))
            }
        })
    }

    /// What could be limited for a process: itself, its unit, its cgroup.
    fn choices(row: &Row) -> Vec<What> {
        let mut choices =
            vec![What::Process { pid: row.pid, started: row.started, name: row.name.clone() }];
        if let Some(cgroup) = &row.cgroup {
            if let Some((name, path)) = unit_of(cgroup) {
                choices.push(What::Unit { name, path });
            }
            choices.push(What::Cgroup { path: cgroup.to_path_buf() });
        }
        choices
    }
}

fn remember(past: &mut VecDeque<Pair>, now: Pair) {
    past.push_back(now);
    while past.len() > HISTORY {
        past.pop_front();
    }
}

#[cfg(test)]
mod tests;
