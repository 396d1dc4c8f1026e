//! The interfaces of a namespace, on devices that the kernel really made.

mod common;

use std::{process::Command, thread, time::Duration};

use chadthrottle_backends::{
    links::{self, Watch},
    rtnetlink::Socket,
};
use common::{ScratchNetns, skip_unless_root};
use netlink_packet_route::{RouteNetlinkMessage, link::LinkMessage};

fn sh(line: &str) {
    let status = Command::new("sh").args(["-ec", line]).status().unwrap();
    assert!(status.success(), "{line}");
}

#[test]
fn stacked_devices_are_recognised() {
    if skip_unless_root("stacked_devices_are_recognised") {
        return;
    }
    let scratch = ScratchNetns::create("links", 1500);
    let found = scratch.run(|| {
        sh("ip link add veth0 type veth peer name veth1
            ip link add br0 type bridge
            ip link set veth0 master br0
            ip link add top link veth1 type macvlan mode bridge
            ip link add tunnel mtu 1400 type vxlan id 7 dev veth1 dstport 4789
            ip link add queue type ifb");
        links::list(&mut links::socket().unwrap()).unwrap()
    });
    let charged: Vec<&str> = links::charged(&found).map(|link| link.name.as_str()).collect();
    assert_eq!(charged, ["veth1", "br0", "tunnel"], "{found:#?}");
    let named = |name: &str| found.iter().find(|link| link.name == name).unwrap();
    assert_eq!(named("veth0").port_of, "bridge");
    assert_eq!(named("veth0").master, Some(named("br0").index));
    assert_eq!(named("top").same_packets_on(), Some(named("veth1").index));
    assert_eq!((named("tunnel").mtu, named("tunnel").kind.as_str()), (1400, "vxlan"));
    assert!(named("lo").is_loopback() && named("br0").ethernet);
}

#[test]
fn changes_are_told() {
    if skip_unless_root("changes_are_told") {
        return;
    }
    let scratch = ScratchNetns::create("watch", 1500);
    scratch.run(|| {
        let watch = Watch::start().unwrap();
        assert!(!watch.changed().unwrap());
        for change in [
            "ip link add br0 type bridge",
            "ip addr add 10.1.1.1/24 dev br0",
            "ip link del br0",
        ] {
            sh(change);
            thread::sleep(Duration::from_millis(20));
            assert!(watch.changed().unwrap(), "{change}");
            assert!(!watch.changed().unwrap(), "{change}, again");
        }
    });
}

#[test]
fn refusals_come_in_the_words_of_the_kernel_and_in_order() {
    if skip_unless_root("refusals_come_in_the_words_of_the_kernel_and_in_order") {
        return;
    }
    let scratch = ScratchNetns::create("refusal", 1500);
    scratch.run(|| {
        let mut socket = Socket::open().unwrap();
        let delete = |index| {
            let mut link = LinkMessage::default();
            link.header.index = index;
            RouteNetlinkMessage::DelLink(link)
        };
        // Loopback cannot be deleted, what does not exist neither.
        let many = (0..400).map(|number| (delete(1 + number % 2 * 4000), 0));
        let answers = socket.execute_all(many).unwrap();
        assert_eq!(answers.len(), 400);
        for (number, answer) in answers.into_iter().enumerate() {
            let expected = if number % 2 == 0 { libc::EOPNOTSUPP } else { libc::ENODEV };
            assert_eq!(answer.unwrap_err().code(), expected, "answer {number}");
        }
        let mut link = LinkMessage::default();
        link.attributes.push(netlink_packet_route::link::LinkAttribute::IfName("a/b".into()));
        let refusal = socket.execute(RouteNetlinkMessage::NewLink(link), 0x600).unwrap_err();
        assert!(!refusal.to_string().is_empty());
    });
}
