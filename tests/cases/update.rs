//! Changing rates in place; see `chadthrottle_tests::conformance::update`.

use chadthrottle_tests::conformance::update;

#[test]
fn download() {
    update::download();
}

#[test]
fn upload() {
    update::upload();
}

#[test]
fn with_rtt_download() {
    update::with_rtt_download();
}

#[test]
fn with_rtt_upload() {
    update::with_rtt_upload();
}
