//! Children of a limited process share its limit, whenever they were born.

use super::plans;
use crate::{
    conformance::Transfer,
    lab::Family::V4,
    load::Birth::{self, Early, Late},
    stage::{
        Direction::{self, Download, Upload},
        Stage,
    },
};

fn child(backend: &str, direction: Direction, birth: Birth) {
    let stage = Stage::new(backend);
    let (near, far) = plans(direction, stage.lab.far_address(V4));
    let far = far.start(&stage.far());
    let mut near = near.wait().child(birth).start(&stage.near());
    near.wait_ready();
    let throttle = stage.limit(direction, near.pid());
    near.go();
    let transfer = Transfer { near, far, direction };
    transfer.receiver().wait_connected();
    transfer.assert_limited("child");
    throttle.stop();
    transfer.assert_recovers("child after release");
    stage.end();
}

/// The child is older than the limit.
pub fn born_before_download(backend: &str) {
    child(backend, Download, Early);
}

/// The same, uploading.
pub fn born_before_upload(backend: &str) {
    child(backend, Upload, Early);
}

/// The child is born under the limit.
pub fn born_after_download(backend: &str) {
    child(backend, Download, Late);
}

/// The same, uploading.
pub fn born_after_upload(backend: &str) {
    child(backend, Upload, Late);
}
