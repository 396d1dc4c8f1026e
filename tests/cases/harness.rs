//! The harness tests itself, without chadthrottle: what it measures must be so.

use std::{thread, time::Duration};

use chadthrottle_tests::{
    cgroup::Cgroup,
    lab::{Family, Lab},
    load::{Birth, Plan, Role},
    process::{self, is_alive},
    rates,
    stage::Stage,
    sys::{self, Hook, Mode},
};

const END: Duration = Duration::from_secs(10);

/// A second of 40 Mbit/s from far to near, as measured at the receiver.
fn forty(lab: &Lab, family: Family, plan: impl Fn(Plan) -> Plan) -> f64 {
    let address = lab.far_address(family);
    let server = plan(Plan::accept(address, Role::Send)).rate(40.0).start(&lab.far.place());
    let client = plan(Plan::connect(address, Role::Recv)).seconds(1.5).start(&lab.near.place());
    client.wait_connected();
    let totals = client.finish(END);
    drop(server);
    // The first tenths carry the handshakes.
    rates::mean(&totals.bins[3..]) * 8e-6
}

#[test]
fn offered_rates_arrive() {
    let lab = Lab::new();
    for family in [Family::V4, Family::V6] {
        for (what, rate) in [
            ("tcp", forty(&lab, family, |plan| plan)),
            ("4 flows", forty(&lab, family, |plan| plan.flows(4))),
            ("mptcp", forty(&lab, family, Plan::mptcp)),
            ("udp", forty(&lab, family, Plan::udp)),
        ] {
            assert!((38.0..42.0).contains(&rate), "{what} {family:?}: {rate} of 40 Mbit/s");
        }
    }
}

#[test]
fn nothing_holds_an_unlimited_sender_back() {
    let lab = Lab::new();
    let address = lab.near_address(Family::V4);
    let server = Plan::accept(address, Role::Recv).start(&lab.near.place());
    let client = Plan::connect(address, Role::Send).start(&lab.far.place());
    server.wait_connected();
    let bins = server.watch(Duration::from_secs(1));
    let totals = client.finish(END);
    rates::assert_fast("unlimited", rates::mean(&bins), 100e6, &bins);
    assert!(totals.sent > 0 && totals.retransmitted() < 0.01, "{totals:?}");
}

#[test]
fn the_relay_adds_its_rtt() {
    let lab = Lab::with_rtt(Duration::from_millis(20));
    let address = lab.far_address(Family::V4);
    let server = Plan::http(address).start(&lab.far.place());
    let times = "%{time_connect} %{time_namelookup}";
    let took = lab.near.sh(&format!("curl -so /dev/null -w '{times}' http://{address}/1"));
    let took: Vec<f64> = took.split(' ').map(|word| word.parse().expect("seconds")).collect();
    let handshake = took[0] - took[1];
    assert!((0.020..0.024).contains(&handshake), "{handshake} s instead of 20 ms");
    drop(server);
    let rate = forty(&lab, Family::V6, |plan| plan);
    assert!((36.0..42.0).contains(&rate), "{rate} of 40 Mbit/s");
}

#[test]
fn two_labs_do_not_meet_and_leave_nothing() {
    let names = {
        let (one, two) = (Lab::new(), Lab::new());
        forty(&one, Family::V4, |plan| plan);
        forty(&two, Family::V4, |plan| plan);
        [&one, &two].map(|lab| lab.near.name().to_owned())
    };
    let left = process::sh("ip netns list");
    assert!(names.iter().all(|name| !left.contains(name)), "{left}");
}

#[test]
fn a_cgroup_holds_what_is_started_in_it_and_kills_it() {
    let lab = Lab::new();
    let cgroup = Cgroup::new();
    let nested = cgroup.child("nested");
    let place = lab.near.place().in_cgroup(&nested);
    let load = Plan::accept(lab.near_address(Family::V4), Role::Recv).start(&place);
    assert_eq!(nested.processes(), [load.pid().cast_signed()]);
    let path = cgroup.path().to_owned();
    drop((nested, cgroup));
    assert!(!path.exists() && !is_alive(load.pid()));
}

#[test]
fn children_are_born_early_or_late() {
    let lab = Lab::new();
    for birth in [Birth::Early, Birth::Late] {
        let address = lab.far_address(Family::V4);
        let _server = Plan::accept(address, Role::Send).rate(40.0).start(&lab.far.place());
        let plan = Plan::connect(address, Role::Recv).wait().child(birth);
        let mut client = plan.start(&lab.near.place());
        client.wait_ready();
        client.go();
        client.wait_connected();
        let child = client.workers()[0];
        assert!(child != client.pid() && is_alive(child));
        let bins = client.watch(Duration::from_millis(600));
        rates::assert_fast("child", rates::mean(&bins), 4e6, &bins);
        drop(client);
        assert!(process::eventually(END, || !is_alive(child)), "{birth:?} child lives on");
    }
}

#[test]
fn a_shared_listener_serves_one_connection_each() {
    let lab = Lab::new();
    let address = lab.near_address(Family::V4);
    let server = Plan::share(address, Role::Recv).start(&lab.near.place());
    let sender = Plan::connect(address, Role::Send).flows(2).rate(80.0);
    let _client = sender.start(&lab.far.place());
    thread::sleep(Duration::from_millis(500));
    for worker in server.workers() {
        let bins = server.watch_worker(worker, Duration::from_millis(600));
        rates::assert_rate("worker", &bins, 5e6, 0.1);
    }
}

#[test]
fn a_connection_changes_hands() {
    let lab = Lab::new();
    let directory = tempfile::tempdir().expect("temporary directory");
    let path = directory.path().join("hand");
    let address = lab.far_address(Family::V4);
    let _server = Plan::accept(address, Role::Send).rate(40.0).start(&lab.far.place());
    let taker = Plan::take(&path, Role::Recv).start(&lab.near.place());
    let giver = Plan::connect(address, Role::Recv).give(&path).start(&lab.near.place());
    giver.wait_given();
    taker.wait_connected();
    let bins = taker.watch(Duration::from_millis(600));
    rates::assert_rate("taker", &bins, 5e6, 0.1);
}

#[test]
fn curl_downloads_and_uploads() {
    let lab = Lab::new();
    let address = lab.far_address(Family::V4);
    let server = Plan::http(address).start(&lab.far.place());
    let got = lab.near.sh(&format!("curl -s http://{address}/100000 | wc -c"));
    assert_eq!(got.trim(), "100000");
    let file = tempfile::NamedTempFile::new().expect("temporary file");
    file.as_file().set_len(300_000).expect("fill it");
    let sent = "curl -s -o /dev/null -w %{size_upload}";
    let sent = lab.near.sh(&format!("{sent} -T {} http://{address}/", file.path().display()));
    assert_eq!(sent, "300000");
    assert_eq!(server.connections(), 2);
}

#[test]
fn leftovers_are_found() {
    let stage = Stage::new("none");
    stage.assert_clean();
    let leaf = stage.apps.child("chadthrottle-leaf");
    let program = sys::load_named("ct_forgotten", Hook::Egress).expect("load a program");
    sys::attach(program, stage.apps.path(), Hook::Egress, Mode::Multi).expect("attach it");
    stage
        .lab
        .near
        .sh("tc qdisc add dev eth0 root handle 7: tbf rate 1gbit burst 1mb limit 1mb");
    stage.lab.near.sh("ip link add ct-left type ifb");
    stage.lab.near.sh("nft add table inet forgotten");
    std::fs::write(stage.run_dir().join("journal"), "{}").expect("write a file");
    let left = stage.left().join("\n");
    for what in ["chadthrottle-leaf", "ct_forgotten", "tbf", "ct-left", "forgotten", "journal"]
    {
        assert!(left.contains(what), "{what} is not among\n{left}");
    }
    drop(leaf);
}
