//! The segments that wait, one a connection.

use std::{
    collections::{BTreeMap, BTreeSet},
    mem,
};

use super::segment::{Connection, Segment};

/// So many wait at most; the senders of the others ask by themselves.
const MOST: usize = 4096;

/// Segments by when they are due.
#[derive(Default)]
pub(super) struct Waiting {
    by_connection: BTreeMap<Connection, Segment>,
    by_time: BTreeSet<(u64, Connection)>,
}

impl Waiting {
    /// One more, in place of the one that its connection has: that shows an older timestamp, which
    /// the sender would refuse.
    pub(super) fn add(&mut self, segment: Segment) {
        let (due, connection) = (segment.due, segment.connection.clone());
        if let Some(old) = self.by_connection.remove(&connection) {
            self.by_time.remove(&(old.due, old.connection));
        }
        if self.by_connection.len() < MOST {
            self.by_time.insert((due, connection.clone()));
            self.by_connection.insert(connection, segment);
        }
    }

    /// Takes all that are of this limit.
    pub(super) fn take(&mut self, slot: u32) -> Vec<Segment> {
        let all = mem::take(&mut self.by_connection).into_iter();
        let (taken, left): (BTreeMap<_, _>, _) =
            all.partition(|(_, segment)| segment.slot == slot);
        self.by_connection = left;
        self.by_time.retain(|(_, connection)| !taken.contains_key(connection));
        taken.into_values().collect()
    }

    /// Takes one that is due.
    pub(super) fn due(&mut self, now: u64) -> Option<Segment> {
        if self.next()? > now {
            return None;
        }
        let (_, connection) = self.by_time.pop_first()?;
        self.by_connection.remove(&connection)
    }

    /// When the next one is due.
    pub(super) fn next(&self) -> Option<u64> {
        self.by_time.first().map(|(due, _)| *due)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn segment(due: u64, connection: u8) -> Segment {
        Segment {
            due,
            netns: 1,
            slot: u32::from(connection),
            interface: 2,
            protocol: 8,
            bytes: vec![due as u8],
            connection: vec![connection],
        }
    }

    #[test]
    fn each_connection_has_its_latest_one_sent_in_time() {
        let mut waiting = Waiting::default();
        for (due, connection) in [(30, 1), (10, 2), (20, 3), (25, 2)] {
            waiting.add(segment(due, connection));
        }
        assert_eq!(waiting.next(), Some(20));
        assert!(waiting.due(19).is_none());
        let sent: Vec<u64> =
            std::iter::from_fn(|| waiting.due(30)).map(|segment| segment.due).collect();
        assert_eq!(sent, [20, 25, 30]);
        assert_eq!(waiting.next(), None);
    }

    #[test]
    fn those_of_a_limit_are_taken_together() {
        let mut waiting = Waiting::default();
        waiting.add(segment(30, 1));
        waiting.add(segment(40, 2));
        assert_eq!(waiting.take(2).iter().map(|segment| segment.due).collect::<Vec<_>>(), [40]);
        assert_eq!(waiting.next(), Some(30));
    }

    #[test]
    fn what_waits_is_bounded() {
        let mut waiting = Waiting::default();
        for number in 0..2 * MOST {
            let connection = number.to_ne_bytes().to_vec();
            waiting.add(Segment { connection, ..segment(1, 0) });
        }
        assert_eq!((waiting.by_time.len(), waiting.by_connection.len()), (MOST, MOST));
    }
}
