//! Networks: other namespaces, interfaces that change, loopback.

use super::{FULL, GLANCE, OFFERED, Transfer, plans, roles, running};
use crate::{
    lab::Family::V4,
    load::Plan,
    rates,
    stage::{
        Direction::{self, Download, Upload},
        Stage,
    },
};

/// chadthrottle in the host's namespace, the target in another, as in a container.
fn other_namespace(backend: &str, direction: Direction) {
    let stage = Stage::new(backend);
    let transfer = running(&stage, direction, V4, |plan| plan);
    let pid = transfer.near.pid().to_string();
    let throttle = stage.run_from_host(&[direction.flag(), "10mbit", "--pid", &pid]);
    transfer.assert_limited("in another namespace");
    throttle.stop();
    transfer.assert_recovers("in another namespace, after release");
    stage.end();
}

/// Downloading.
pub fn other_namespace_download(backend: &str) {
    other_namespace(backend, Download);
}

/// Uploading.
pub fn other_namespace_upload(backend: &str) {
    other_namespace(backend, Upload);
}

/// The interface vanishes and comes again under the limit: new connections are limited.
pub fn rewired(backend: &str) {
    let stage = Stage::new(backend);
    let (near, far) = plans(Download, stage.lab.far_address(V4));
    let mut near = near.wait().start(&stage.near());
    near.wait_ready();
    let throttle = stage.limit(Download, near.pid());
    stage.lab.rewire();
    let far = far.start(&stage.far());
    near.go();
    near.wait_connected();
    let transfer = Transfer { near, far, direction: Download };
    transfer.assert_limited("over the new interface");
    throttle.stop();
    stage.end();
}

/// An interface that comes under the limit is limited as well; what it leaves belongs to the
/// lab, so only the rest is checked.
pub fn second_interface(backend: &str) {
    let stage = Stage::new(backend);
    let first = running(&stage, Upload, V4, |plan| plan);
    let address = stage.lab.second_wire();
    let (near, far) = plans(Upload, address);
    let far = far.start(&stage.far());
    let mut near = near.wait().start(&stage.near());
    near.wait_ready();
    let (one, two) = (first.near.pid().to_string(), near.pid().to_string());
    let throttle = stage.run(&["-u", "10mbit", "--pid", &one, "--pid", &two]);
    drop(first);
    near.go();
    far.wait_connected();
    let transfer = Transfer { near, far, direction: Upload };
    transfer.assert_limited("over the second interface");
    throttle.stop();
    let left =
        stage.left().into_iter().filter(|what| !what.contains("eth1")).collect::<Vec<_>>();
    assert!(left.is_empty(), "left behind: {left:#?}");
}

/// Traffic within the machine stays at full speed.
fn loopback(backend: &str, direction: Direction) {
    let stage = Stage::new(backend);
    let (near, far) = roles(direction);
    let address = stage.lab.loopback();
    let server = Plan::accept(address, far).rate(OFFERED).start(&stage.near());
    let mut client = Plan::connect(address, near).rate(OFFERED).wait().start(&stage.near());
    client.wait_ready();
    let pid = client.pid().to_string();
    let throttle = stage.run(&["-d", "10mbit", "-u", "10mbit", "--pid", &pid]);
    client.go();
    let receiver = if direction == Download { &client } else { &server };
    receiver.wait_connected();
    let bins = receiver.watch(2 * GLANCE);
    rates::assert_fast("loopback", rates::mean(&bins), FULL, &bins);
    throttle.stop();
    stage.end();
}

/// Receiving.
pub fn loopback_download(backend: &str) {
    loopback(backend, Download);
}

/// Sending.
pub fn loopback_upload(backend: &str) {
    loopback(backend, Upload);
}
