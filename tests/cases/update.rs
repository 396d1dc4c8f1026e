//! Changing limits in place; see `chadthrottle_tests::conformance::update`.

use chadthrottle_tests::conformance::update;

#[test]
fn download() {
    update::download("ebpf");
}

#[test]
fn upload() {
    update::upload("ebpf");
}

#[test]
fn with_rtt_download() {
    update::with_rtt_download("ebpf");
}

#[test]
fn with_rtt_upload() {
    update::with_rtt_upload("ebpf");
}

#[test]
fn two_limits_of_one_session() {
    update::two_limits_of_one_session("ebpf");
}
