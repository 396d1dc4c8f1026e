//! The window as it is on the wire.
//!
//! The kernel never takes back a window that it has offered, and its receiver counts on a wide one.
//! So the window that the sender sees is a number of our own: it is written into the header of
//! each segment on its way out, and may be smaller than the kernel's, also smaller than before.
//! A sender has to take that (RFC 9293, section 3.8.6: MUST-34); what it sent before is still
//! accepted, since the kernel's own window has not changed.
//!
//! With MPTCP the window is that of the whole connection: it counts from the data that are
//! acknowledged (`DATA_ACK`), on whichever subflow it is shown, and its sender takes none back
//! (RFC 8684, section 3.3.5).

use crate::{clock::SECOND, layout::Edge};

/// So many segments in a row may go past the program on the interfaces (refused on their way, or
/// out of an interface that is a second old) before it counts as absent.
pub const PATIENCE: u32 = 4;

/// A grant is made while its segment is being built; ns.
const STALE: u64 = SECOND;

/// The largest shift there is (RFC 7323).
const LARGEST_SCALE: u32 = 14;
/// Of a socket whose windows are left alone.
pub const UNKNOWN: u32 = 15;

/// The window field for a segment that acknowledges `ack` and offers `field`; `None` when that
/// shows no more than it may, and when nothing was granted a moment ago: a socket that is not
/// granted anything any more must not be left with a closed window. What the sender sees is noted.
#[inline]
#[must_use]
pub fn window(edge: &mut Edge, now: u64, ack: u32, field: u16) -> Option<u16> {
    let scale = edge.scale;
    let forgotten = now.wrapping_sub(edge.at) > STALE && now >= edge.due;
    if scale > LARGEST_SCALE || forgotten {
        return None;
    }
    let may = edge.wire.wrapping_sub(ack);
    let may = if may > 1 << 31 { 0 } else { may };
    let units = may >> scale;
    let narrowed = units < u32::from(field);
    let shown = if narrowed { units } else { u32::from(field) };
    let right = ack.wrapping_add(shown << scale);
    let less = edge.shown.wrapping_sub(right).cast_signed() > 0;
    edge.shown = if now < edge.due {
        edge.promised
    } else if edge.firm != 0 && less {
        edge.shown
    } else {
        right
    };
    edge.passed = PATIENCE;
    narrowed.then_some(units as u16)
}

/// A window that is shown later.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Promise {
    /// When, ns.
    pub due: u64,
    /// The window field.
    pub window: u16,
}

/// What is to be shown later, with an acknowledgement of `ack` that offers `field` now: no more than
/// that, since the kernel would not accept it. Each replaces the one before: its timestamp is newer,
/// and an older one would be refused (RFC 7323, PAWS).
#[inline]
#[must_use]
pub fn promise(edge: &mut Edge, now: u64, ack: u32, field: u16) -> Option<Promise> {
    if now >= edge.due || field == 0 {
        return None;
    }
    let scale = edge.scale & 15;
    let units = (edge.promised.wrapping_sub(ack) >> scale).min(u32::from(field));
    edge.promised = ack.wrapping_add(units << scale);
    edge.shown = edge.promised;
    Some(Promise { due: edge.due, window: units as u16 })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn edge(wire: u32, scale: u32) -> Edge {
        Edge { at: 5 * SECOND, wire, scale, ..Edge::default() }
    }

    #[test]
    fn no_more_is_shown_than_may_be() {
        let mut edge = edge(10_000, 7);
        assert_eq!(
            window(&mut edge, 5 * SECOND, 1000, 1000),
            Some(70),
            "9000 bytes, rounded down"
        );
        assert_eq!((edge.shown, edge.passed), (1000 + 70 * 128, PATIENCE));
        assert_eq!(
            window(&mut edge, 5 * SECOND, 1000, 70),
            None,
            "on the next device it stays"
        );
        assert_eq!(
            window(&mut edge, 5 * SECOND, 1000, 20),
            None,
            "the kernel's own may be smaller"
        );
        assert_eq!(edge.shown, 1000 + 20 * 128);
    }

    #[test]
    fn what_mptcp_was_shown_stays() {
        let mut edge = Edge { firm: 1, shown: 9000, ..edge(5000, 7) };
        assert_eq!(window(&mut edge, 5 * SECOND, 1000, 1000), Some(31));
        assert_eq!(edge.shown, 9000, "its sender takes nothing back");
        edge.wire = 12_000;
        assert_eq!(window(&mut edge, 5 * SECOND, 1000, 1000), Some(85));
        assert_eq!(edge.shown, 1000 + 85 * 128);
    }

    #[test]
    fn an_edge_that_was_passed_is_a_closed_window() {
        assert_eq!(window(&mut edge(10_000, 7), 5 * SECOND, 10_001, 500), Some(0));
        assert_eq!(window(&mut edge(10_000, 7), 5 * SECOND, 10_001, 0), None);
    }

    #[test]
    fn until_a_promise_is_due_it_is_kept_and_charged() {
        let due = 5 * SECOND + 1;
        let mut edge = Edge { due, promised: 3048, ..edge(1000, 7) };
        assert_eq!(window(&mut edge, 5 * SECOND, 1000, 500), Some(0), "stopped");
        assert_eq!(edge.shown, 3048);
        let later = promise(&mut edge, 5 * SECOND, 1000, 500);
        assert_eq!(later, Some(Promise { due, window: 16 }));
        let less = promise(&mut edge, 5 * SECOND, 1000, 10);
        assert_eq!(less, Some(Promise { due, window: 10 }), "what the kernel accepts");
        assert_eq!(edge.shown, 1000 + 10 * 128, "is what counts");
        assert_eq!(promise(&mut edge, due, 1000, 500), None, "it is time");
        edge.due = 8 * SECOND;
        assert_eq!(window(&mut edge, 7 * SECOND, 1000, 500), Some(0), "still stopped");
    }

    #[test]
    fn without_a_grant_the_window_is_the_kernels() {
        let mut edge = edge(10_000, 7);
        assert_eq!(window(&mut edge, 7 * SECOND, 1000, 1000), None);
        assert_eq!(edge.passed, 0);
    }

    #[test]
    fn sequence_numbers_wrap() {
        let mut edge = edge(5000, 0);
        assert_eq!(window(&mut edge, 5 * SECOND, u32::MAX - 999, 60_000), Some(6000));
        assert_eq!(edge.shown, 5000);
    }
}
