//! State and keys, without a terminal.

use std::{path::PathBuf, sync::Arc};

use chadthrottle_core::{Counters, Limit, LimitId, Limits, Rate, target::CgroupTarget};
use ratatui::crossterm::event::{
    KeyCode, KeyEvent, KeyModifiers, MouseButton, MouseEvent, MouseEventKind,
};

use super::*;

fn row(pid: i32, name: &str, down: u64, up: u64) -> Row {
    Row {
        pid,
        started: 1,
        name: name.to_owned(),
        user: "root".into(),
        rate: Pair { down, up },
        total: Pair { down, up },
        ended: false,
        ancestors: Arc::from([1]),
        cgroup: Some(Arc::new(PathBuf::from(format!("/sys/fs/cgroup/s/{name}.service")))),
    }
}

fn app() -> App {
    let mut app = App::new(None);
    let rows = vec![row(10, "curl", 500, 5), row(20, "nginx", 10, 900), row(30, "sshd", 0, 0)];
    show(&mut app, rows);
    app.take(Message::News(News::Ready));
    app
}

fn show(app: &mut App, rows: Vec<Row>) {
    let snapshot = Snapshot { rows, counting: true, ..Snapshot::default() };
    app.take(Message::Sample(Box::new(snapshot)));
}

fn press(app: &mut App, code: KeyCode) -> Vec<Effect> {
    app.key(KeyEvent::from(code))
}

fn text(app: &mut App, text: &str) -> Vec<Effect> {
    text.chars().flat_map(|letter| press(app, KeyCode::Char(letter))).collect()
}

fn shown(app: &App) -> Vec<i32> {
    app.shown.iter().map(|&at| app.snapshot.rows[at].pid).collect()
}

fn limits(mbit: u64) -> Limits {
    let rate = Rate::from_bytes_per_second(mbit * 125_000);
    Limits { download: rate.map(|rate| Limit { rate }), upload: None }
}

fn under_limit(app: &mut App, id: u32, path: &str) {
    let mut active = app.limits.clone();
    active.push(Active {
        id: LimitId(id),
        backend: BackendId::Ebpf,
        target: Target::Cgroup(CgroupTarget {
            path: path.into(),
            name: "nginx.service".to_owned(),
            follow: true,
        }),
        limits: limits(10),
        counters: Counters::default(),
        rate: Pair::default(),
    });
    app.take(Message::News(News::Active(active)));
}

#[test]
fn the_busiest_is_on_top_and_the_selection_stays_with_its_process() {
    let mut app = app();
    assert_eq!(shown(&app), [20, 10, 30]);
    assert_eq!(app.selected, Some(20));
    press(&mut app, KeyCode::Down);
    assert_eq!(app.selected, Some(10));
    show(&mut app, vec![row(10, "curl", 5, 5), row(20, "nginx", 0, 0), row(30, "sshd", 9, 9)]);
    assert_eq!(shown(&app), [30, 10, 20]);
    assert_eq!(app.selected, Some(10));
    // When it is gone, what took its place.
    show(&mut app, vec![row(20, "nginx", 0, 0)]);
    assert_eq!(app.selected, Some(20));
}

#[test]
fn keys_go_to_the_ends_and_no_further() {
    let mut app = app();
    for (code, selected) in [
        (KeyCode::Up, 20),
        (KeyCode::Char('G'), 30),
        (KeyCode::Char('j'), 30),
        (KeyCode::Char('k'), 10),
        (KeyCode::Home, 20),
        (KeyCode::PageDown, 30),
    ] {
        press(&mut app, code);
        assert_eq!(app.selected, Some(selected), "{code:?}");
    }
}

#[test]
fn sorts_by_any_column_both_ways() {
    let mut app = app();
    for (column, pids) in [
        (Column::Pid, [10, 20, 30]),
        (Column::Name, [10, 20, 30]),
        (Column::User, [20, 10, 30]),
        (Column::Download, [10, 20, 30]),
        (Column::Upload, [20, 10, 30]),
    ] {
        press(&mut app, KeyCode::Char('s'));
        assert_eq!(app.sorting.column, column);
        assert_eq!(shown(&app), pids, "{column:?}");
    }
    press(&mut app, KeyCode::Char('r'));
    assert_eq!(shown(&app), [30, 10, 20]);
    press(&mut app, KeyCode::Char('<'));
    assert_eq!(app.sorting.column, Column::Download);
}

#[test]
fn filters_while_typing() {
    let mut app = app();
    press(&mut app, KeyCode::Char('/'));
    text(&mut app, "NGIN");
    assert_eq!(shown(&app), [20]);
    press(&mut app, KeyCode::Enter);
    assert!(!app.is_filtering && shown(&app) == [20]);
    press(&mut app, KeyCode::Esc);
    assert_eq!(shown(&app).len(), 3);
    // q is a letter while typing.
    press(&mut app, KeyCode::Char('/'));
    assert_eq!(text(&mut app, "q"), []);
    assert!(shown(&app).is_empty());
}

#[test]
fn limits_a_process_by_the_command_lines_units() {
    let mut app = app();
    press(&mut app, KeyCode::Char('l'));
    text(&mut app, "10M");
    assert_eq!(press(&mut app, KeyCode::Enter), [], "10M is refused");
    let Over::Form(form) = &app.over else { panic!("closed") };
    assert!(form.refusal.as_ref().is_some_and(|why| why.contains("ambiguous")));
    let effects = {
        press(&mut app, KeyCode::Backspace);
        text(&mut app, "mbit");
        press(&mut app, KeyCode::Enter)
    };
    let what = What::Process { pid: 20, started: 1, name: "nginx".to_owned() };
    let order = Order::Limit { what, limits: limits(10), backend: None };
    assert_eq!(effects, [Effect::Order(order)]);
    assert!(matches!(app.over, Over::Nothing));
}

#[test]
fn unit_cgroup_and_backend_are_chosen_with_the_arrows() {
    let mut app = app();
    press(&mut app, KeyCode::Char('u'));
    text(&mut app, "1MB/s");
    for code in [KeyCode::Tab, KeyCode::Tab, KeyCode::Right, KeyCode::Tab, KeyCode::Left] {
        press(&mut app, code);
    }
    let [Effect::Order(Order::Limit { what, backend, .. })] =
        &press(&mut app, KeyCode::Enter)[..]
    else {
        panic!("no order")
    };
    let path = PathBuf::from("/sys/fs/cgroup/s/nginx.service");
    assert_eq!(*what, What::Cgroup { path });
    assert_eq!(*backend, Some(BackendId::Nft));
}

#[test]
fn no_rate_is_no_limit() {
    let mut app = app();
    press(&mut app, KeyCode::Char('l'));
    assert_eq!(press(&mut app, KeyCode::Enter), []);
    assert!(matches!(app.over, Over::Form(_)));
    press(&mut app, KeyCode::Esc);
    assert!(matches!(app.over, Over::Nothing));
}

#[test]
fn changes_and_lifts_the_limit_that_a_process_is_under() {
    let mut app = app();
    under_limit(&mut app, 7, "/sys/fs/cgroup/s/nginx.service");
    press(&mut app, KeyCode::Char('l'));
    let Over::Form(form) = &app.over else { panic!("no dialogue") };
    assert_eq!(form.download.text, "10mbit");
    app.key(KeyEvent::new(KeyCode::Char('u'), KeyModifiers::CONTROL));
    text(&mut app, "20mbit");
    let order = Order::Change { id: LimitId(7), limits: limits(20) };
    assert_eq!(press(&mut app, KeyCode::Enter), [Effect::Order(order)]);
    assert_eq!(press(&mut app, KeyCode::Char('x')), [Effect::Order(Order::Lift(LimitId(7)))]);
    press(&mut app, KeyCode::Down);
    assert_eq!(press(&mut app, KeyCode::Char('x')), [], "curl is under none");
}

#[test]
fn quitting_asks_first_when_limits_are_in_force() {
    let mut app = app();
    assert_eq!(press(&mut app, KeyCode::Char('q')), [Effect::Quit]);
    under_limit(&mut app, 1, "/sys/fs/cgroup/s/nginx.service");
    assert_eq!(press(&mut app, KeyCode::Char('q')), []);
    assert_eq!(press(&mut app, KeyCode::Esc), []);
    let control_c = KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL);
    assert_eq!(app.key(control_c), []);
    assert_eq!(app.key(control_c), [Effect::Quit]);
    assert_eq!(app.take(Message::Signal), [Effect::Quit], "a signal does not ask");
}

#[test]
fn without_root_it_says_why() {
    let mut app = app();
    app.take(Message::News(News::ViewOnly("Run it with sudo.".to_owned())));
    press(&mut app, KeyCode::Char('l'));
    assert!(matches!(app.over, Over::Nothing));
    assert!(app.notices.back().is_some_and(|notice| notice.text.contains("sudo")));
}

#[test]
fn pages_details_and_pause() {
    let mut app = app();
    assert_eq!(press(&mut app, KeyCode::Enter), [Effect::Ask(Ask::Details(Some(20)))]);
    assert_eq!(press(&mut app, KeyCode::Esc), [Effect::Ask(Ask::Details(None))]);
    press(&mut app, KeyCode::Tab);
    assert_eq!(app.page, Page::Limits);
    assert_eq!(press(&mut app, KeyCode::Tab), [Effect::Probe]);
    assert_eq!(press(&mut app, KeyCode::Char('1')), []);
    press(&mut app, KeyCode::Char(' '));
    show(&mut app, Vec::new());
    assert_eq!(shown(&app).len(), 3, "paused");
    let ask = Effect::Ask(Ask::Counting(false));
    assert_eq!(press(&mut app, KeyCode::Char('b')), [ask]);
}

#[test]
fn the_mouse_selects_opens_and_sorts() {
    let mut app = app();
    app.areas = Areas {
        list: Rect::new(0, 3, 80, 10),
        header: Rect::new(0, 2, 80, 1),
        columns: vec![(0, 8, Column::Pid)],
        tabs: vec![(Rect::new(10, 0, 6, 1), Page::Limits)],
    };
    let click = |app: &mut App, column, row| {
        let kind = MouseEventKind::Down(MouseButton::Left);
        app.mouse(MouseEvent { kind, column, row, modifiers: KeyModifiers::NONE })
    };
    assert_eq!(click(&mut app, 5, 4), []);
    assert_eq!(app.selected, Some(10));
    assert_eq!(click(&mut app, 5, 4), [Effect::Ask(Ask::Details(Some(10)))]);
    press(&mut app, KeyCode::Esc);
    click(&mut app, 3, 2);
    assert_eq!(shown(&app), [10, 20, 30]);
    click(&mut app, 3, 2);
    assert_eq!(shown(&app), [30, 20, 10]);
    click(&mut app, 11, 0);
    assert_eq!(app.page, Page::Limits);
}
