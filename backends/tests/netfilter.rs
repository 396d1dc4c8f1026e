//! `nf_tables` through nftnl, on real tables in a network namespace of the test's own.

mod common;

use std::{ffi::CString, net::UdpSocket, process::Command};

use chadthrottle_backends::netfilter::{
    Batch, Connection, CountIn, Counted, GoByMap, Key, LimitOver, Map,
};
use common::{ScratchNetns, skip_unless_root};
use nftnl::{
    Chain, ChainType, Hook, MsgType, Policy, ProtoFamily, Rule, Table,
    expr::{Meta, Verdict},
};

const NAME: &std::ffi::CStr = c"chadthrottle-test";

/// `input` with a map from marks to `limited`, which counts and drops what is over a limit.
fn batch(elements: u32) -> Batch {
    let table = Table::new(NAME, ProtoFamily::Inet);
    let mut batch = Batch::new();
    batch.create_owned_table(NAME, ProtoFamily::Inet);
    let mut input = Chain::new(c"input", &table);
    input.set_hook(Hook::In, 0);
    input.set_type(ChainType::Filter);
    input.set_policy(Policy::Accept);
    let limited = Chain::new(c"limited", &table);
    batch.add("create the chain", &input, MsgType::Add);
    batch.add("create the chain", &limited, MsgType::Add);
    batch.counter(&table, c"seen", MsgType::Add);
    let map = Map::new(&table, c"marks", 1, Key::Mark);
    map.create(&mut batch);
    let elements: Vec<_> =
        (0..elements).map(|n| (n.to_ne_bytes().to_vec(), c"limited".to_owned())).collect();
    map.insert(&mut batch, &elements);
    let mut rule = Rule::new(&input);
    rule.add_expr(&Meta::Mark { set: false });
    rule.add_expr(&GoByMap(&map));
    batch.add("add the rule", &rule, MsgType::Add);
    let mut rule = Rule::new(&limited);
    rule.add_expr(&CountIn(c"seen"));
    rule.add_expr(&LimitOver { rate: 1000, burst: 0 });
    rule.add_expr(&Verdict::Drop);
    batch.add("add the rule", &rule, MsgType::Add);
    batch
}

/// How many of five datagrams of 428 bytes arrive.
fn arriving() -> usize {
    let receiver = UdpSocket::bind("127.0.0.1:0").unwrap();
    receiver.set_nonblocking(true).unwrap();
    let sender = UdpSocket::bind("127.0.0.1:0").unwrap();
    for _ in 0..5 {
        sender.send_to(&[0; 400], receiver.local_addr().unwrap()).unwrap();
    }
    (0..5).filter(|_| receiver.recv(&mut [0; 500]).is_ok()).count()
}

fn ruleset() -> String {
    let output = Command::new("nft").args(["list", "ruleset"]).output().unwrap();
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn a_table_limits_counts_and_goes_with_its_socket() {
    if skip_unless_root("a_table_limits_counts_and_goes_with_its_socket") {
        return;
    }
    let namespace = ScratchNetns::create("nf-limit", 65_536);
    namespace.run(|| {
        let connection = Connection::open().unwrap();
        connection.commit(batch(1000)).unwrap();
        assert!(ruleset().contains("limit rate over 1000 bytes/second"), "{}", ruleset());
        assert_eq!(arriving(), 2);
        let names = [CString::from(c"seen"), CString::from(c"none")];
        let counted = connection.counters(NAME, ProtoFamily::Inet, &names).unwrap();
        assert_eq!(counted[0], Counted { packets: 5, bytes: 5 * 428 });
        assert_eq!(counted[1], Counted::default());
        // A second instance cannot change it.
        let other = Connection::open().unwrap();
        let mut delete = Batch::new();
        delete.delete_table(NAME, ProtoFamily::Inet);
        assert_eq!(other.commit(delete).unwrap_err().errno(), 1);
        drop(connection);
        assert_eq!(ruleset(), "");
    });
}

#[test]
fn a_failing_batch_changes_nothing_and_names_the_step() {
    if skip_unless_root("a_failing_batch_changes_nothing_and_names_the_step") {
        return;
    }
    let namespace = ScratchNetns::create("nf-fail", 65_536);
    namespace.run(|| {
        let connection = Connection::open().unwrap();
        let mut batch = batch(1);
        let elsewhere = Table::new(c"nowhere", ProtoFamily::Inet);
        batch.counter(&elsewhere, c"lost", MsgType::Add);
        let error = connection.commit(batch).unwrap_err();
        assert_eq!(error.errno(), 2, "{error}");
        assert!(error.to_string().contains("change the counter"), "{error}");
        assert_eq!(ruleset(), "");
        // The connection is of use afterwards.
        connection.commit(self::batch(1)).unwrap();
    });
}
