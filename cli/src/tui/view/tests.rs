//! The screens, as text, from ratatui's test backend. `INSTA_UPDATE=always` writes them anew.

use std::{path::PathBuf, sync::Arc};

use chadthrottle_core::{
    BackendId, Counters, Limit, LimitId, Limits, Rate, Target,
    backend::Count,
    check::{Check, ProbeReport, Remedy, Verdict},
    diagnosis::{Diagnosis, Scenario},
    target::CgroupTarget,
};
use ratatui::{
    Terminal,
    backend::TestBackend,
    crossterm::event::{Event, KeyCode, KeyEvent},
    style::Color,
};

use super::*;
use crate::tui::model::{Active, Details, Message, News, Pair, Probed, Row, Snapshot};

fn row(pid: i32, name: &str, user: &str, down: u64, up: u64) -> Row {
    Row {
        pid,
        started: 1,
        name: name.to_owned(),
        user: user.into(),
        rate: Pair { down, up },
        total: Pair { down: down * 60, up: up * 60 },
        ended: false,
        ancestors: Arc::from([1]),
        cgroup: Some(Arc::new(PathBuf::from(format!("/sys/fs/cgroup/{name}.service")))),
    }
}

fn busy() -> App {
    let mut app = App::new(None);
    app.take(Message::News(News::Ready));
    for second in 0..40_u64 {
        let wave = 600_000 + 40_000 * (second % 12);
        let rows = vec![
            row(4711, "curl", "ada", wave, 12_000),
            row(815, "nginx", "www-data", 20_000, 1_240_000),
            row(99, "sshd", "root", 0, 0),
            Row { ended: true, ..row(5000, "dig", "ada", 0, 0) },
        ];
        let total = Pair { down: wave + 20_000, up: 1_252_000 };
        let snapshot =
            Snapshot { rows, total, counting: true, sockets: 9, ..Snapshot::default() };
        app.take(Message::Sample(Box::new(snapshot)));
    }
    let limit = |bytes| Rate::from_bytes_per_second(bytes).map(|rate| Limit { rate });
    let count = |bytes| Count { packets: 9, bytes, dropped: 0 };
    app.take(Message::News(News::Active(vec![Active {
        id: LimitId(0),
        backend: BackendId::Ebpf,
        target: Target::Cgroup(CgroupTarget {
            path: "/sys/fs/cgroup/nginx.service".into(),
            name: "nginx.service".to_owned(),
            follow: true,
        }),
        limits: Limits { download: None, upload: limit(1_250_000) },
        counters: Counters { download: count(0), upload: count(74_000_000) },
        rate: Pair { down: 20_000, up: 1_240_000 },
    }])));
    app
}

fn press(app: &mut App, codes: &[KeyCode]) {
    for code in codes {
        app.take(Message::Input(Event::Key(KeyEvent::from(*code))));
    }
}

fn screen(app: &mut App, width: u16, height: u16) -> Terminal<TestBackend> {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    terminal.draw(|frame| draw(frame, app, Theme::new(true))).unwrap();
    terminal
}

fn text(app: &mut App, width: u16, height: u16) -> String {
    screen(app, width, height).backend().to_string()
}

#[test]
fn processes() {
    insta::assert_snapshot!(text(&mut busy(), 120, 30));
}

#[test]
fn processes_on_80x24() {
    insta::assert_snapshot!(text(&mut busy(), 80, 24));
}

#[test]
fn processes_on_little_room() {
    insta::assert_snapshot!(text(&mut busy(), 44, 10));
}

#[test]
fn limits_page() {
    let mut app = busy();
    app.take(Message::News(News::Done("nginx.service: upload 10 Mbit/s (ebpf)".to_owned())));
    press(&mut app, &[KeyCode::Tab]);
    insta::assert_snapshot!(text(&mut app, 100, 20));
}

#[test]
fn backends_page() {
    let mut app = busy();
    let check = |name, verdict| Check {
        name,
        asked: "attach a link".to_owned(),
        verdict,
        evidence: "Operation not permitted (EPERM)".to_owned(),
        remedy: Remedy::GrantCapability("CAP_NET_ADMIN".to_owned()),
    };
    let good = ProbeReport { checks: vec![check("cgroup2-mounted", Verdict::Works)] };
    let bad = ProbeReport { checks: vec![check("link-create", Verdict::Denied)] };
    let backends = vec![(BackendId::Tc, good), (BackendId::Ebpf, bad)];
    let diagnosis = Diagnosis {
        scenario: Scenario::Privileges,
        letter: Scenario::Privileges.letter(),
        meaning: "A security module keeps us off the cgroup.".to_owned(),
        evidence: vec!["a link of a minimal program fails with EPERM".to_owned()],
        remedy: Remedy::GrantCapability("CAP_NET_ADMIN".to_owned()),
        backend: Some(BackendId::Tc),
    };
    app.take(Message::Probe(Probed { backends, diagnosis }));
    press(&mut app, &[KeyCode::BackTab]);
    insta::assert_snapshot!(text(&mut app, 80, 22));
}

#[test]
fn details() {
    let mut app = busy();
    press(&mut app, &[KeyCode::Enter]);
    app.take(Message::Details(Box::new(Details {
        pid: 815,
        command: "nginx: master process /usr/sbin/nginx".to_owned(),
        cgroup: "/system.slice/nginx.service".to_owned(),
        unit: Some("nginx.service".to_owned()),
        connections: Vec::new(),
        problem: None,
    })));
    insta::assert_snapshot!(text(&mut app, 100, 26));
}

#[test]
fn form() {
    let mut app = busy();
    press(
        &mut app,
        &[KeyCode::Down, KeyCode::Char('l'), KeyCode::Char('1'), KeyCode::Char('M')],
    );
    insta::assert_snapshot!(text(&mut app, 90, 24));
}

#[test]
fn change_form() {
    let mut app = busy();
    press(&mut app, &[KeyCode::Char('l')]);
    insta::assert_snapshot!(text(&mut app, 90, 24));
}

#[test]
fn help_over_all() {
    let mut app = busy();
    press(&mut app, &[KeyCode::Char('?')]);
    insta::assert_snapshot!(text(&mut app, 90, 36));
}

#[test]
fn quit() {
    let mut app = busy();
    press(&mut app, &[KeyCode::Char('q')]);
    insta::assert_snapshot!(text(&mut app, 80, 24));
}

#[test]
fn view_only_without_a_program() {
    let mut app = App::new(None);
    app.take(Message::News(News::ViewOnly("Only root keeps records there.".to_owned())));
    let snapshot =
        Snapshot { rows: vec![row(7, "curl", "ada", 100, 0)], ..Snapshot::default() };
    app.take(Message::Sample(Box::new(snapshot)));
    insta::assert_snapshot!(text(&mut app, 80, 12));
}

#[test]
fn every_size_and_page_is_drawn() {
    let mut app = busy();
    for keys in [
        &[][..],
        &[KeyCode::Char('?')],
        &[KeyCode::Char('l')],
        &[KeyCode::Char('q')],
        &[KeyCode::Enter],
        &[KeyCode::Tab],
        &[KeyCode::Tab],
    ] {
        press(&mut app, keys);
        for width in (1..140).step_by(9) {
            for height in (1..40).step_by(3) {
                screen(&mut app, width, height);
            }
        }
        press(&mut app, &[KeyCode::Esc]);
    }
}

/// A light and a dark terminal have other backgrounds: only their own colours may be used.
#[test]
fn colours_are_the_terminals_own_or_none() {
    let named = [
        Color::Reset,
        Color::Cyan,
        Color::Magenta,
        Color::Green,
        Color::Yellow,
        Color::Red,
        Color::Blue,
    ];
    let mut app = busy();
    let terminal = screen(&mut app, 120, 30);
    let cells = terminal.backend().buffer().content();
    assert!(cells.iter().all(|cell| named.contains(&cell.fg) && cell.bg == Color::Reset));
    let mut terminal = Terminal::new(TestBackend::new(120, 30)).unwrap();
    terminal.draw(|frame| draw(frame, &mut app, Theme::new(false))).unwrap();
    let cells = terminal.backend().buffer().content();
    assert!(cells.iter().all(|cell| (cell.fg, cell.bg) == (Color::Reset, Color::Reset)));
}
