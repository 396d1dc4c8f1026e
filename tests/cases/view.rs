//! The live view on a real terminal, on a live transfer.

use std::{process::Stdio, thread, time::Duration};

use chadthrottle_tests::{
    conformance::{MEASURE, SETTLE, TOLERANCE, plans, running},
    lab::Family::V4,
    rates::{self, TEN_MBIT},
    screen::Screen,
    stage::{Direction::Download, Stage},
};

const SIZE: (u16, u16) = (110, 30);

#[test]
fn limits_a_live_transfer_with_ebpf() {
    limits_a_live_transfer("ebpf");
}

#[test]
fn limits_a_live_transfer_with_tc() {
    limits_a_live_transfer("tc");
}

#[test]
fn limits_a_live_transfer_with_nft() {
    limits_a_live_transfer("nft");
}

/// Limits a download, sees on the screen that it holds, changes it, lifts it, quits.
fn limits_a_live_transfer(backend: &str) {
    // Without an RTT ebpf comes in bursts. After tc's queue, which drops, TCP wins its rate back
    // within a second only without one.
    let rtt = if backend == "tc" { 0 } else { 20 };
    let stage = Stage::with_rtt(backend, Duration::from_millis(rtt));
    let transfer = running(&stage, Download, V4, |plan| plan);
    let pid = transfer.near.pid().to_string();
    let screen = Screen::open(&stage, backend, SIZE);
    screen.expect(&pid);
    screen.press(&["/", &pid, "Enter"]);
    screen.expect("1 of ");

    screen.press(&["l"]);
    screen.expect("no limit");
    screen.press(&["1", "0", "m"]);
    screen.expect("is ambiguous");
    screen.press(&["bit"]);
    screen.expect("10 Mbit/s");
    screen.press(&["Enter"]);
    screen.expect("↓10 Mbit/s");
    transfer.assert_limited("limited by keys");
    let shown = share(&screen.text(), &format!("{backend} "));
    assert!((90..=110).contains(&shown), "{shown} % on\n{}", screen.text());

    screen.press(&["l"]);
    screen.expect("Change");
    screen.press(&["C-u", "4mbit", "Enter"]);
    screen.expect("↓4 Mbit/s");
    thread::sleep(SETTLE);
    let bins = transfer.near.watch(MEASURE);
    rates::assert_rate("changed by keys", &bins, 0.4 * TEN_MBIT, TOLERANCE);

    screen.press(&["x"]);
    screen.expect("is free again");
    transfer.assert_recovers("lifted by a key");

    screen.press(&["l"]);
    screen.expect("Limit load");
    screen.press(&["10mbit", "Enter"]);
    screen.expect("↓10 Mbit/s");
    screen.press(&["q"]);
    screen.expect("One limit is in force");
    screen.press(&["Escape"]);
    transfer.assert_limited("stayed");
    screen.press(&["q", "Enter"]);
    screen.expect("status 0");
    transfer.assert_recovers("after quitting");
    drop(screen);
    stage.end();
}

/// The number behind a word and before " %".
fn share(text: &str, word: &str) -> u32 {
    let found = text.split(word).skip(1).find_map(|rest| rest.split(" %").next()?.parse().ok());
    found.unwrap_or_else(|| panic!("no share on\n{text}"))
}

/// From too small to wide and back, on every page.
#[test]
fn survives_any_size() {
    let stage = Stage::new("ebpf");
    let screen = Screen::open(&stage, "auto", (80, 24));
    screen.expect("Processes");
    for (width, height) in [(20, 3), (40, 8), (80, 24), (200, 60), (1, 1), (80, 24)] {
        screen.resize(width, height);
        for key in ["l", "Escape", "?", "Escape", "Enter", "Escape", "Tab", "Tab", "Tab"] {
            screen.press(&[key]);
            thread::sleep(Duration::from_millis(30));
        }
    }
    screen.expect("Processes");
    screen.press(&["q"]);
    screen.expect("status 0");
    drop(screen);
    stage.end();
}

/// SIGTERM lifts everything and gives the terminal back.
#[test]
fn sigterm_gives_the_terminal_back() {
    let stage = Stage::new("ebpf");
    let (near, far) = plans(Download, stage.lab.far_address(V4));
    let far = far.start(&stage.far());
    let near = near.start(&stage.near());
    near.wait_connected();
    let pid = near.pid().to_string();
    let screen = Screen::open(&stage, "ebpf", SIZE);
    screen.expect(&pid);
    screen.press(&["/", &pid, "Enter", "l"]);
    screen.expect("Limit load");
    screen.press(&["10mbit", "Enter"]);
    screen.expect("↓10 Mbit/s");
    let view = chadthrottle_tests::throttle::processes_of(&stage.run_dir());
    let view = view.into_iter().find(|pid| {
        let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        name.trim() == "chadthrottle"
    });
    let view = view.and_then(|pid| rustix::process::Pid::from_raw(pid.cast_signed()));
    let signal = rustix::process::Signal::TERM;
    rustix::process::kill_process(view.expect("a view"), signal).expect("a signal");
    let text = screen.expect("status 0");
    assert!(!text.contains("Processes"), "the screen is not given back:\n{text}");
    drop((screen, near, far));
    stage.end();
}

/// Without a terminal the flags are named that do without one.
#[test]
fn no_terminal() {
    let stage = Stage::new("ebpf");
    for arguments in [&["run"][..], &[]] {
        let output = stage.command(arguments).stdin(Stdio::null()).output().expect("a run");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(said.contains("is not a terminal") && said.contains("--pid PID"), "{said}");
    }
    stage.end();
}
