//! `picture FILE`: the live view as it is on a real terminal, limiting a live transfer, as SVG.
//!
//! `make picture` writes the one in the README.

use std::{fs, thread, time::Duration};

use chadthrottle_tests::{
    conformance::running,
    lab::Family::V4,
    picture::svg,
    screen::Screen,
    stage::{
        Direction::{Download, Upload},
        Stage,
    },
};

fn main() {
    let file = std::env::args().nth(1).expect("usage: picture FILE");
    let stage = Stage::with_rtt("ebpf", Duration::from_millis(20));
    let download = running(&stage, Download, V4, |plan| plan);
    let _upload = running(&stage, Upload, V4, |plan| plan);
    let pid = download.near.pid().to_string();
    let screen = Screen::open(&stage, "ebpf", (112, 30));
    screen.expect(&pid);
    thread::sleep(Duration::from_secs(12));
    // Selected through the filter, which is cleared again.
    screen.press(&["/", &pid, "Enter"]);
    screen.expect("1 of ");
    screen.press(&["Escape"]);
    screen.expect("Payload");
    screen.press(&["l"]);
    screen.expect("Limit load");
    screen.press(&["10mbit", "Enter"]);
    screen.expect("↓10 Mbit/s");
    thread::sleep(Duration::from_secs(18));
    fs::write(&file, svg(&screen.styled())).expect("write the picture");
    screen.press(&["q", "Enter"]);
    screen.expect("status 0");
}
