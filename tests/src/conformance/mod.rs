//! The cases that every backend must pass, each a function of the backend's name.
//!
//! `conformance!("ebpf");` in a test target makes a `#[test]` of each. A case stands on a
//! [`Stage`], moves real traffic, judges the rate where it is received, and ends with a check
//! that nothing is left.

use std::{net::SocketAddr, time::Duration};

use crate::{
    lab::Family,
    load::{Load, Plan, Role},
    rates::{self, TEN_MBIT},
    stage::{Direction, Stage},
};

pub mod accepted;
pub mod cgroups;
pub mod children;
pub mod clients;
pub mod commands;
pub mod networks;
pub mod open;
pub mod quic;
pub mod release;
pub mod senders;
pub mod sharing;
pub mod steady;
pub mod targets;
pub mod update;

/// What an unlimited end offers, in Mbit/s: ten times the limit of most cases, and little
/// enough that several cases run side by side on two processors.
pub const OFFERED: f64 = 100.0;
/// What counts as full speed, in bytes per second: half of what is offered.
pub const FULL: f64 = OFFERED * 125_000.0 / 2.0;
/// How far a rate of 6 s may be from the limit. The benchmark judges more sharply, over 10 s.
pub const TOLERANCE: f64 = 0.08;
/// The time within which a limit takes hold and is gone again.
pub const SETTLE: Duration = Duration::from_secs(1);
/// The time over which a rate is measured. Without an RTT a download comes in bursts, about
/// every 430 ms at 10 Mbit/s: one more or less must stay within the tolerance.
pub const MEASURE: Duration = Duration::from_secs(6);
/// The same for a rate that need not be exact.
pub const GLANCE: Duration = Duration::from_millis(1100);

/// A transfer between a limited process and a peer.
#[derive(Debug)]
pub struct Transfer {
    /// The near end: what is limited.
    pub near: Load,
    /// The far end.
    pub far: Load,
    direction: Direction,
}

impl Transfer {
    /// The end that receives, where rates are judged.
    pub fn receiver(&self) -> &Load {
        match self.direction {
            Direction::Download => &self.near,
            Direction::Upload => &self.far,
        }
    }

    /// Asserts that the limit of 10 Mbit/s holds from a second after now on.
    #[track_caller]
    pub fn assert_limited(&self, what: &str) {
        std::thread::sleep(SETTLE);
        let bins = self.receiver().watch(MEASURE);
        rates::assert_rate(what, &bins, TEN_MBIT, TOLERANCE);
    }

    /// Asserts that it runs at full speed from now on.
    #[track_caller]
    pub fn assert_fast(&self, what: &str) {
        let bins = self.receiver().watch(GLANCE);
        rates::assert_fast(what, rates::mean(&bins), FULL, &bins);
    }

    /// Asserts that full speed is back within a second from now, on the same connections.
    #[track_caller]
    pub fn assert_recovers(&self, what: &str) {
        std::thread::sleep(SETTLE);
        self.assert_fast(what);
        assert_eq!((self.near.connections(), self.far.connections()), (1, 1), "{what}");
    }
}

/// The roles of the near and the far end.
pub(crate) fn roles(direction: Direction) -> (Role, Role) {
    match direction {
        Direction::Download => (Role::Recv, Role::Send),
        Direction::Upload => (Role::Send, Role::Recv),
    }
}

/// The near end as a client of `address`, and the far end that serves it; not started.
pub fn plans(direction: Direction, address: SocketAddr) -> (Plan, Plan) {
    let (near, far) = roles(direction);
    let near = Plan::connect(address, near).rate(OFFERED);
    (near, Plan::accept(address, far).rate(OFFERED))
}

/// A transfer that already runs at full speed; `shape` makes it UDP, MPTCP, many flows.
pub fn running(
    stage: &Stage,
    direction: Direction,
    family: Family,
    shape: impl Fn(Plan) -> Plan,
) -> Transfer {
    let (near, far) = plans(direction, stage.lab.far_address(family));
    let far = shape(far).start(&stage.far());
    let near = shape(near).start(&stage.near());
    let transfer = Transfer { near, far, direction };
    transfer.receiver().wait_connected();
    transfer.assert_fast("before the limit");
    transfer
}

/// A transfer that begins when the limit of 10 Mbit/s on its near end is already in force.
pub(crate) fn begun_limited(
    stage: &Stage,
    direction: Direction,
    family: Family,
    shape: impl Fn(Plan) -> Plan,
) -> (Transfer, crate::throttle::Throttle) {
    let (near, far) = plans(direction, stage.lab.far_address(family));
    let far = shape(far).start(&stage.far());
    let mut near = shape(near).wait().start(&stage.near());
    near.wait_ready();
    let throttle = stage.limit(direction, near.pid());
    near.go();
    let transfer = Transfer { near, far, direction };
    transfer.receiver().wait_connected();
    (transfer, throttle)
}

/// Makes a `#[test]` of every case, for one backend.
#[macro_export]
macro_rules! conformance {
    ($backend:literal) => {
        $crate::conformance! { $backend:
            steady: tcp_download, tcp_upload, tcp6_download, tcp6_upload, udp_download,
                udp_upload, udp6_download, udp6_upload, with_rtt_download, with_rtt_upload,
                many_flows_download, many_flows_upload, both_directions_at_once;
            open: tcp_download, tcp_upload, tcp6_download, tcp6_upload, udp_download,
                udp_upload, many_flows_download, many_flows_upload, limited_again,
                passed_to_the_target;
            accepted: old_listener_download, old_listener_upload, shared_listener_download,
                shared_listener_upload, mptcp_client_download, mptcp_client_upload,
                mptcp_listener_download, mptcp_listener_upload;
            children: born_before_download, born_before_upload, born_after_download,
                born_after_upload;
            sharing: two_limits_side_by_side, neighbour_in_the_same_cgroup,
                targets_of_one_run_share_its_limit, second_instance_is_refused;
            cgroups: cgroup_target, nested_cgroup, cgroup_newcomer, exclusive_program,
                foreign_programs_stay, target_in_a_namespace, within_a_namespace,
                seen_from_a_namespace;
            commands: command_download, command_upload, command_with_children,
                duration_lets_the_command_go_on, killed_with_a_command;
            release: ctrl_c_download, ctrl_c_upload, sigterm, kill_download, kill_upload,
                kill_with_guardian_then_clean, next_start_cleans, duration, fast_download,
                fast_upload, fast_upload_by_bbr, own_pace;
            targets: process_exit_ends_the_run, one_of_two_targets_ends, reused_run;
            networks: other_namespace_download, other_namespace_upload, rewired,
                second_interface, loopback_download, loopback_upload;
            clients: curl_while_downloading, curl_killed_limit, curl_as_a_command,
                iperf3_upload, iperf3_download;
            quic: new_download, new_upload, open_download, open_upload, with_rtt_download,
                with_rtt_upload;
            senders: bbr_download, bbr_upload, open_bbr_download, open_bbr_upload;
        }
    };
    ($backend:literal: $($group:ident: $($case:ident),+;)+) => {
        $(mod $group {
            $(#[test]
            fn $case() {
                $crate::conformance::$group::$case($backend);
            })+
        })+
    };
}
