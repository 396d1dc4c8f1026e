//! What the live view costs among many processes, and how soon it answers.

use std::{
    fs,
    net::UdpSocket,
    os::fd::OwnedFd,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use super::{at_most, flood::processor_time};
use crate::{bench::record::Figure, screen::Screen, stage::Stage, throttle};

const PROCESSES: usize = 3000;
const SOCKETS: usize = 7000;
/// The time over which processor time is measured.
const WATCHED: Duration = Duration::from_secs(20);
const KEYS: usize = 10;

/// Three figures; they are not of a backend, and go with the first one.
pub(super) fn costs(backend: &str) -> Vec<Figure> {
    if backend != "ebpf" {
        return Vec::new();
    }
    let stage = Stage::new(backend);
    let crowd = Crowd::gather();
    let opened = Instant::now();
    let screen = Screen::open(&stage, backend, (120, 40));
    shows(&screen, "sleep");
    let first = opened.elapsed();
    thread::sleep(Duration::from_secs(5));
    let pid = view(&stage);
    let before = processor_time(pid);
    let watched = Instant::now();
    thread::sleep(WATCHED);
    let share = (processor_time(pid) - before) / watched.elapsed().as_secs_f64() * 100.0;
    let slowest = (0..KEYS).map(|_| answer(&screen)).max().unwrap_or_default();
    screen.press(&["q"]);
    screen.expect("status 0");
    drop((screen, crowd));
    stage.end();
    let among = format!("the view among {PROCESSES} processes with {SOCKETS} sockets");
    vec![
        at_most(format!("{among}, of one core"), share, 5.0, "%", 1),
        at_most(
            format!("{among}, start to first rows, tmux's start included"),
            first.as_secs_f64() * 1000.0,
            300.0,
            "ms",
            0,
        ),
        at_most(
            format!("{among}, slowest of {KEYS} keys, tmux's own time taken off"),
            slowest.as_secs_f64() * 1000.0,
            50.0,
            "ms",
            0,
        ),
    ]
}

/// Time from a key to what it shows, without what tmux takes to press a key and to look once.
fn answer(screen: &Screen) -> Duration {
    let idle = Instant::now();
    screen.press(&["F5"]);
    screen.text();
    let of_tmux = idle.elapsed();
    // Somewhere between two samples.
    thread::sleep(Duration::from_millis(170));
    let pressed = Instant::now();
    screen.press(&["?"]);
    shows(screen, "╭ Help");
    let time = pressed.elapsed();
    screen.press(&["Escape"]);
    time.saturating_sub(of_tmux)
}

/// Waits without the patience of [`Screen::expect`], which looks more rarely.
fn shows(screen: &Screen, words: &str) {
    let end = Instant::now() + Duration::from_secs(20);
    while !screen.text().contains(words) {
        assert!(Instant::now() < end, "no `{words}` on\n{}", screen.text());
        thread::sleep(Duration::from_millis(2));
    }
}

fn view(stage: &Stage) -> u32 {
    let name = |pid| fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    let all = throttle::processes_of(&stage.run_dir());
    all.into_iter().find(|pid| name(*pid).trim() == "chadthrottle").expect("a view")
}

/// Many processes with two or three UDP sockets each; ended when dropped.
struct Crowd(Vec<Child>);

impl Crowd {
    fn gather() -> Self {
        let socket = || {
            let socket = UdpSocket::bind("127.0.0.1:0").expect("a socket");
            Stdio::from(OwnedFd::from(socket))
        };
        let mut crowd = Self(Vec::with_capacity(PROCESSES));
        for number in 0..PROCESSES {
            let mut command = Command::new("sleep");
            command.arg("600").stdin(socket()).stdout(socket()).stderr(Stdio::null());
            if number < SOCKETS - 2 * PROCESSES {
                command.stderr(socket());
            }
            crowd.0.push(command.spawn().expect("a process"));
        }
        crowd
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        for child in &mut self.0 {
            // It may have ended by itself.
            drop(child.kill());
        }
        for child in &mut self.0 {
            drop(child.wait());
        }
    }
}
