use proptest::prelude::*;

use super::{handover::HANDOVER, *};
use crate::wire::PATIENCE;

fn n(value: u64) -> NonZeroU64 {
    NonZeroU64::new(value).unwrap()
}

fn shared(rate: u64, sockets: u64) -> Shared {
    Shared { rate: n(rate), sockets: n(sockets), balance: 0, begun: 0 }
}

fn seen(now: u64, next: u32, right: u32) -> Seen {
    let window = right.wrapping_sub(next);
    Seen {
        now,
        next,
        right,
        window,
        mss: 1448,
        round_trip: 20 * MILLISECOND,
        random: 512,
        scale: 7,
        firm: false,
        wired: false,
        clocked: false,
        bare: true,
    }
}

/// A sender that always sends all it may; an acknowledgement every `step` ns.
fn receive(rate: u64, step: u64, seconds: u64) -> u64 {
    let (mut now, start) = (SECOND, u32::MAX - 5000);
    let (mut next, mut right) = (start, start.wrapping_add(2 * 1448));
    let mut edge = begun(&seen(now, next, right), &shared(rate, 1), true, false);
    let mut received = 0;
    while now < SECOND * (seconds + 1) {
        now += step;
        let window = right.wrapping_sub(next);
        // The persist timer: a closed window takes 200 ms.
        if window < 1448 {
            now += 200 * MILLISECOND;
        }
        received += u64::from(window);
        next = right;
        let grant = grant(&mut edge, &shared(rate, 1), &seen(now, next, right));
        right = next.wrapping_add(grant.window);
    }
    received
}

fn begun(seen: &Seen, shared: &Shared, fresh: bool, running: bool) -> Edge {
    let mut edge = Edge::default();
    edge.begin(seen, shared, fresh, running);
    edge
}

#[test]
fn a_greedy_sender_gets_its_rate() {
    for (rate, step) in [(125_000, 20), (1_250_000, 20), (12_500_000, 20), (1_250_000, 1)] {
        let got = receive(rate, step * MILLISECOND, 20);
        assert!(got.abs_diff(rate * 20) < rate, "{got} of {} at {rate}", rate * 20);
    }
}

#[test]
fn a_socket_in_debt_is_closed_and_opens_again() {
    let mut edge = begun(&seen(SECOND, 0, 1448), &shared(125_000, 1), false, false);
    edge.tokens = -20_000;
    let stop = grant(&mut edge, &shared(125_000, 1), &seen(SECOND, 1448, 1448));
    assert!(stop.closed && stop.window == CLOSED);
    let later = grant(&mut edge, &shared(125_000, 1), &seen(SECOND * 5 / 4, 1448, 1448));
    assert!(!later.closed && later.window >= 1448);
}

#[test]
fn a_new_rate_forgets_the_debt() {
    let mut edge = begun(&seen(SECOND, 0, 1448), &shared(125_000_000, 1), false, false);
    edge.tokens = -5_000_000;
    let now = grant(&mut edge, &shared(125_000, 1), &seen(SECOND, 1448, 1448));
    assert!(!now.closed && edge.tokens == 0);
}

#[test]
fn permits_from_before_the_limit_are_honoured_once_and_for_a_while() {
    let (limit, mut edge) = (shared(1_250_000, 1), Edge::default());
    let open = seen(2 * SECOND, 10_000, 6_010_000);
    edge.begin(&open, &limit, false, false);
    let kept = grant(&mut edge, &limit, &open);
    assert!(kept.window.abs_diff(6_000_000) < 3000, "the edge stays: {kept:?}");
    assert!(edge.is_given(6_000_000, 2 * SECOND));
    assert!(edge.is_given(3_000_000, 2 * SECOND), "and what the edge creeps");
    assert!(!edge.is_given(1, 2 * SECOND), "once");
    let slower = seen(3 * SECOND, 6_000_000, 7_000_000);
    let _: Grant = grant(&mut edge, &shared(125_000, 1), &slower);
    assert!(edge.is_given(1_000_000, 3 * SECOND), "permits of the old rate");
    assert!(!edge.is_given(1, 3 * SECOND + HANDOVER), "for a while");
}

#[test]
fn permits_that_take_long_to_use_up_are_no_debt() {
    let (limit, mut edge) = (shared(1_250_000, 1), Edge::default());
    edge.begin(&seen(SECOND, 0, 6_000_000), &limit, false, false);
    // A sender in recovery: what was acknowledged moves, and the window with it.
    for (ms, next) in [(600, 0), (700, 1_000_000), (800, 2_000_000)] {
        let at = seen(SECOND + ms * MILLISECOND, next, next + 6_000_000);
        let kept = grant(&mut edge, &limit, &at);
        assert_eq!((kept.window, edge.tokens), (6_000_000, 0));
        let standing = edge.standing(&limit, at.now, at.round_trip);
        assert_eq!(standing, Standing::Draining);
    }
    let last = seen(SECOND + 850 * MILLISECOND, 7_990_000, 8_000_000);
    assert!(!grant(&mut edge, &limit, &last).closed);
    assert_ne!(edge.standing(&limit, last.now, last.round_trip), Standing::Draining);
}

#[test]
fn what_was_given_at_the_first_packet_is_kept() {
    let mut edge = Edge::default();
    edge.give(1000, SECOND);
    assert!(!edge.is_new() && edge.is_given(1500, SECOND));
    let open = seen(SECOND, 10_000, 6_010_000);
    edge.begin(&open, &shared(1_250_000, 1), false, false);
    assert!(!edge.is_given(1, SECOND), "not given twice");
}

#[test]
fn a_connection_made_under_the_limit_was_given_nothing() {
    let mut edge = begun(&seen(SECOND, 0, 5000), &shared(1_250_000, 1), true, false);
    assert!(!edge.is_given(100, SECOND));
}

#[test]
fn an_edge_remembered_from_before_the_handshake_is_no_debt() {
    let mut edge = begun(&seen(SECOND, 0, 24_820), &shared(1_250_000, 1), true, false);
    let isn = 1 << 31;
    let now = grant(&mut edge, &shared(1_250_000, 1), &seen(SECOND, isn - 5000, isn - 1000));
    assert!(!now.closed && edge.tokens > -30_000, "{edge:?}");
}

#[test]
fn waiting_with_all_others_earns_nothing() {
    let pause = Shared { begun: 3 * SECOND, ..shared(1_250_000, 16) };
    for (limit, earned) in [(shared(1_250_000, 16), true), (pause, false)] {
        let mut edge = begun(&seen(SECOND, 0, 2896), &limit, true, false);
        let before = edge.tokens;
        let _: Grant = grant(&mut edge, &limit, &seen(3 * SECOND, 1448, 2896));
        assert_eq!(edge.tokens > before, earned, "{edge:?}");
    }
}

#[test]
fn a_socket_that_receives_nothing_has_no_share() {
    let mut edge = begun(&seen(SECOND, 0, 20_000), &shared(1_250_000, 1), true, false);
    assert!(!grant(&mut edge, &shared(1_250_000, 1), &seen(SECOND, 0, 20_000)).greedy);
    assert!(grant(&mut edge, &shared(1_250_000, 1), &seen(SECOND, 1448, 20_000)).greedy);
}

#[test]
fn the_first_window_holds_two_segments_at_least() {
    assert_eq!(first_window(n(1_000), n(100)), 2);
    assert_eq!(first_window(n(1 << 40), n(1)), 44);
}

proptest! {
    #[test]
    fn any_input_gives_a_window_the_kernel_takes(
        at: u64, closed_at: u64, old_rate in 0u64..1 << 40, tokens in -(1i64 << 40)..1i64 << 40,
        rate in 1u64..=1 << 40, sockets in 1u64..=65_535, balance in -(1i64 << 62)..1 << 62,
        now in 0u64..1 << 62, begun in 0u64..1 << 62, next: u32, right: u32, window: u32, mss in 0u32..65_536,
        round_trip in 0u64..16 * SECOND, random: u32, wired: bool, bare: bool, clocked: bool,
    ) {
        let mut edge = Edge { at, closed_at, rate: old_rate, tokens, right, next, ..Edge::default() };
        let shared = Shared { rate: n(rate), sockets: n(sockets), balance, begun };
        let seen = Seen {
            now, next, right, window, mss, round_trip, random, scale: 7, firm: false, wired, clocked, bare,
        };
        let grant = grant(&mut edge, &shared, &seen);
        prop_assert!(grant.window >= 1000);
        prop_assert!(grant.closed == (grant.window == CLOSED) || !grant.closed);
    }

    #[test]
    fn the_share_leans_against_the_balance(
        rate in 1_000u64..1 << 40, sockets in 1u64..1000,
        low in -(1i64 << 62)..1 << 62, high in -(1i64 << 62)..1 << 62,
    ) {
        let at = |balance| share(&Shared { rate: n(rate), sockets: n(sockets), balance, begun: 0 });
        prop_assert!(at(low.min(high)) >= at(low.max(high)));
    }
}

/// A sender that was offered megabytes before the limit, and sees only what is on the wire.
fn receive_on_the_wire(rate: u64, offered: u32, round_trip: u64, seconds: u64) -> u64 {
    let limit = shared(rate, 1);
    let at = |now, next: u32| Seen {
        now,
        next,
        right: next.wrapping_add(offered),
        window: offered,
        round_trip,
        wired: true,
        ..seen(now, next, next)
    };
    let (mut now, mut next) = (SECOND, u32::MAX - 5000);
    let mut edge = begun(&at(now, next), &limit, false, false);
    let mut received = 0;
    while now < SECOND * (seconds + 1) {
        let _: Grant = grant(&mut edge, &limit, &at(now, next));
        let _ = crate::wire::window(&mut edge, now, next, (offered >> 7) as u16);
        let sent = edge.shown.wrapping_sub(next);
        now += round_trip + if sent < 1448 { 200 * MILLISECOND } else { 0 };
        next = edge.shown;
        received += u64::from(sent);
    }
    received
}

#[test]
fn on_the_wire_the_limit_holds_whatever_was_offered_before() {
    for (rate, ms) in [(125_000, 20), (1_250_000, 20), (1_250_000, 1), (12_500_000, 80)] {
        let got = receive_on_the_wire(rate, 6_000_000, ms * MILLISECOND, 20);
        assert!(got.abs_diff(rate * 20) < rate, "{got} of {} at {rate}", rate * 20);
    }
}

#[test]
fn what_was_under_way_is_no_debt() {
    let limit = shared(1_250_000, 1);
    let open = Seen { wired: true, ..seen(SECOND, 0, 6_000_000) };
    let mut edge = begun(&open, &limit, false, false);
    for step in 1..100 {
        let now = SECOND + step * MILLISECOND / 10;
        let next = step as u32 * 2896;
        let at = Seen { now, next, right: next + 6_000_000, ..open };
        assert!(!grant(&mut edge, &limit, &at).closed, "{edge:?}");
        let _ = crate::wire::window(&mut edge, now, next, u16::MAX);
        assert!(edge.shown - next < 5000, "{edge:?}");
    }
}

#[test]
fn segments_that_bypass_the_interfaces_end_it() {
    let limit = shared(1_250_000, 1);
    let open = Seen { wired: true, ..seen(SECOND, 0, 6_000_000) };
    let mut edge = begun(&open, &limit, false, false);
    for _ in 0..PATIENCE {
        let _: Grant = grant(&mut edge, &limit, &open);
        assert_eq!(edge.wired, 1);
    }
    let kept = grant(&mut edge, &limit, &open);
    assert_eq!((edge.wired, edge.tokens, kept.window), (0, 0, 6_000_000));
}
