//! Which rows are shown, and in which order.

use std::cmp::Ordering;

use crate::tui::model::Row;

/// What the table is sorted by, in the order of its columns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Column {
    Pid,
    Name,
    User,
    Download,
    Upload,
    Received,
    Sent,
    Limit,
    /// No column of its own: download and upload together.
    Traffic,
}

impl Column {
    pub(crate) const ALL: [Self; 9] = [
        Self::Traffic,
        Self::Pid,
        Self::Name,
        Self::User,
        Self::Download,
        Self::Upload,
        Self::Received,
        Self::Sent,
        Self::Limit,
    ];

    pub(crate) fn next(self, by: isize) -> Self {
        let at = Self::ALL.iter().position(|column| *column == self).unwrap_or(0);
        let count = Self::ALL.len();
        Self::ALL[(at + count).wrapping_add_signed(by) % count]
    }

    /// Numbers are most interesting when they are large.
    fn is_descending(self) -> bool {
        !matches!(self, Self::Pid | Self::Name | Self::User)
    }
}

/// The order, and whether it is turned round.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Sorting {
    pub(crate) column: Column,
    pub(crate) reversed: bool,
}

impl Sorting {
    /// Whether the largest is on top.
    pub(crate) fn is_descending(self) -> bool {
        self.column.is_descending() != self.reversed
    }

    /// Rows that are equal are kept in the order of what they moved, then of pids: a row does
    /// not jump about.
    pub(crate) fn compare(self, a: &Row, b: &Row, limited: impl Fn(&Row) -> bool) -> Ordering {
        let order = match self.column {
            Column::Pid => a.pid.cmp(&b.pid),
            Column::Name => a.name.to_lowercase().cmp(&b.name.to_lowercase()),
            Column::User => a.user.cmp(&b.user),
            Column::Download => a.rate.down.cmp(&b.rate.down),
            Column::Upload => a.rate.up.cmp(&b.rate.up),
            Column::Received => a.total.down.cmp(&b.total.down),
            Column::Sent => a.total.up.cmp(&b.total.up),
            Column::Limit => limited(a).cmp(&limited(b)),
            Column::Traffic => a.rate.sum().cmp(&b.rate.sum()),
        };
        let order = if self.is_descending() { order.reverse() } else { order };
        order
            .then_with(|| b.rate.sum().cmp(&a.rate.sum()))
            .then_with(|| b.total.sum().cmp(&a.total.sum()))
            .then_with(|| a.pid.cmp(&b.pid))
    }
}

/// Whether a row has every word of the filter in its pid, name, user or cgroup.
pub(crate) fn matches(row: &Row, filter: &str) -> bool {
    filter.split_whitespace().all(|word| {
        let word = word.to_lowercase();
        row.name.to_lowercase().contains(&word)
            || row.user.to_lowercase().contains(&word)
            || row.pid.to_string().contains(&word)
            || row
                .cgroup
                .as_ref()
                .is_some_and(|path| path.to_string_lossy().to_lowercase().contains(&word))
    })
}
