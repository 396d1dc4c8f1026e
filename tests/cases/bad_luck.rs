//! Machines on which something is missing, full or forbidden: a clear error, nothing left.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    time::{Duration, Instant},
};

use chadthrottle_tests::{
    cgroup,
    conformance::MEASURE,
    lab::Family::V4,
    load::{Plan, Role},
    process::{Running, eventually},
    rates,
    run_once::Scene,
    skip,
    stage::{
        Direction::{Download, Upload},
        Stage,
    },
    sys::{self, Hook, Mode},
};

#[test]
fn not_root() {
    let scene = Scene::new();
    let sleeper = scene.sleeper();
    let pid = sleeper.pid().to_string();
    let script = "exec setpriv --reuid=65534 --regid=65534 --clear-groups \"$@\"";
    let run = ["run", "-d", "10mbit", "--pid", &pid];
    scene.run_wrapped(script, &run).assert_refused(4, &["sudo"]);
    let command = ["run", "-d", "10mbit", "--", "true"];
    scene.run_wrapped(script, &command).assert_refused(125, &["sudo"]);
    scene.assert_clean();
}

#[test]
fn clean_is_not_for_everybody() {
    let scene = Scene::new();
    let sleeper = scene.sleeper();
    let pid = sleeper.pid().to_string();
    // The way to the run directory is open, the directory is root's.
    fs::set_permissions(scene.directory(), fs::Permissions::from_mode(0o755)).expect("chmod");
    let run = ["run", "-d", "10mbit", "--json", "--pid", &pid];
    let running = Running::start(&mut scene.command(&run));
    running.expect("enforced", Duration::from_secs(5), |line| {
        line.contains("\"enforced\"").then_some(())
    });
    let script = "exec setpriv --reuid=65534 --regid=65534 --clear-groups \"$@\"";
    scene.run_wrapped(script, &["clean"]).assert_refused(4, &["sudo"]);
    drop(running);
    scene.assert_clean();
}

#[test]
fn root_without_capabilities() {
    let scene = Scene::new();
    let sleeper = scene.sleeper();
    let pid = sleeper.pid().to_string();
    for (bounding, word) in [("-all", "CAP_"), ("-net_admin,-sys_admin", "CAP_NET_ADMIN")] {
        let script = format!("exec setpriv --inh-caps=-all --bounding-set={bounding} \"$@\"");
        let outcome = scene.run_wrapped(&script, &["run", "-d", "10mbit", "--pid", &pid]);
        outcome.assert_refused(4, &[word]);
        scene.assert_clean();
    }
}

#[test]
fn in_a_user_namespace_of_ones_own() {
    let scene = Scene::new();
    let script = "exec unshare --user --map-root-user \"$@\"";
    if !scene.run_wrapped(script, &["--version"]).stdout.contains("chadthrottle") {
        skip!("user namespaces are not allowed here");
    }
    let outcome = scene.run_wrapped(script, &["run", "-d", "10mbit", "--", "true"]);
    outcome.assert_refused(125, &["EPERM"]);
    scene.assert_clean();
}

#[test]
fn run_directory_is_full() {
    let scene = Scene::new();
    let sleeper = scene.sleeper();
    let pid = sleeper.pid().to_string();
    fs::create_dir(scene.run_dir()).expect("run directory");
    let script = "exec unshare -m sh -euc '
        mount -t tmpfs -o size=4k none $RUN
        head -c 4096 /dev/zero > $RUN/filler
        exec \"$@\"' sh \"$@\"";
    let outcome = scene.run_wrapped(script, &["run", "-d", "10mbit", "--pid", &pid]);
    outcome.assert_refused(1, &["ENOSPC"]);
    scene.assert_clean();
}

#[test]
fn run_directory_cannot_be_made() {
    let scene = Scene::new();
    fs::write(scene.run_dir(), "a file").expect("write a file");
    let outcome = scene.run(&["run", "-d", "10mbit", "--", "true"]);
    outcome.assert_refused(125, &[scene.run_dir().to_str().expect("a plain path")]);
}

#[test]
fn cgroup_tree_is_read_only() {
    let scene = Scene::new();
    let mount = cgroup::mount();
    let script = format!(
        "exec unshare -m sh -euc '
            mount --bind {0} {0}
            mount -o remount,bind,ro {0}
            exec \"$@\"' sh \"$@\"",
        mount.display()
    );
    // A command needs a leaf of its own, which cannot be made.
    let outcome = scene.run_wrapped(&script, &["run", "-d", "10mbit", "--", "true"]);
    outcome.assert_refused(125, &["EROFS"]);
    scene.assert_clean();
}

#[test]
fn cgroup2_is_not_mounted() {
    let scene = Scene::new();
    let sleeper = scene.sleeper();
    let pid = sleeper.pid().to_string();
    let script = format!(
        "exec unshare -m sh -euc 'umount -l {}; exec \"$@\"' sh \"$@\"",
        cgroup::mount().display()
    );
    // By name: tc knows a process by its flows, without cgroups.
    let run = ["run", "--backend", "ebpf", "-d", "10mbit", "--pid", &pid];
    let outcome = scene.run_wrapped(&script, &run);
    assert!([1, 3].contains(&outcome.status), "{outcome:#?}");
    outcome.assert_refused(outcome.status, &["cgroup2", "mount"]);
    scene.assert_clean();
}

/// 64 programs are all that a cgroup takes: either an ancestor does, or it is said.
#[test]
fn a_cgroup_full_of_programs() {
    let stage = Stage::new("ebpf");
    for hook in [Hook::Ingress, Hook::Egress] {
        for _ in 0..64 {
            let program = sys::load_pass_program(hook).expect("load a program");
            sys::attach(program, stage.apps.path(), hook, Mode::Multi).expect("attach it");
        }
    }
    let address = stage.lab.far_address(V4);
    let server = Plan::accept(address, Role::Recv).rate(100.0).start(&stage.far());
    let client = Plan::connect(address, Role::Send).rate(100.0).start(&stage.near());
    server.wait_connected();
    let pid = client.pid().to_string();
    let mut throttle = stage.start(&["-u", "10mbit", "--pid", &pid]);
    let enforced = || throttle.events().iter().any(|event| event["event"] == "enforced");
    if eventually(Duration::from_secs(2), enforced) {
        std::thread::sleep(Duration::from_secs(1));
        let bins = server.watch(MEASURE);
        rates::assert_rate("through an ancestor", &bins, 1.25e6, 0.08);
        throttle.stop();
    } else {
        let status = throttle.wait();
        let said = throttle.stderr();
        assert!([1, 3].contains(&status) && said.contains("E2BIG"), "{status}: {said}");
    }
    stage.end();
}

#[test]
fn a_cgroup_that_vanishes_ends_the_run() {
    let stage = Stage::new("ebpf");
    let target = stage.apps.child("target");
    let path = target.path().to_str().expect("a plain path").to_owned();
    let mut throttle = stage.run(&["-d", "10mbit", "--cgroup", &path]);
    drop(target);
    assert_eq!(throttle.wait(), 0, "{}", throttle.stderr());
    stage.end();
}

/// A unit is its cgroup's name, and is followed when it restarts.
#[test]
fn a_unit_that_restarts() {
    let stage = Stage::new("ebpf");
    let name = format!("ct-{}.service", std::process::id());
    let unit = stage.apps.child(&name);
    let throttle = stage.run(&["-d", "10mbit", "--unit", &name]);
    drop(unit);
    std::thread::sleep(Duration::from_millis(1500));
    let unit = stage.apps.child(&name);
    let address = stage.lab.far_address(V4);
    let _server = Plan::accept(address, Role::Send).rate(100.0).start(&stage.far());
    let place = stage.near().in_cgroup(&unit);
    let client = Plan::connect(address, Role::Recv).start(&place);
    client.wait_connected();
    // It is found again within a second, and has one to come down.
    std::thread::sleep(Duration::from_millis(2500));
    let bins = client.watch(MEASURE);
    rates::assert_rate("restarted unit", &bins, 1.25e6, 0.08);
    throttle.stop();
    stage.end();
}

/// A pid that is given to another process is another process.
#[test]
fn a_reused_pid_is_not_limited() {
    let stage = Stage::new("ebpf");
    let address = stage.lab.far_address(V4);
    let ends = Plan::connect(address, Role::Recv).wait().start(&stage.near());
    let stays = Plan::connect(address, Role::Recv).wait().start(&stage.near());
    let pid = ends.pid();
    let (first, second) = (pid.to_string(), stays.pid().to_string());
    let throttle = stage.run(&["-d", "10mbit", "--pid", &first, "--pid", &second]);
    drop(ends);
    let server = Plan::accept(address, Role::Send).rate(100.0).start(&stage.far());
    let mut again = None;
    let end = Instant::now() + Duration::from_secs(3);
    while again.is_none() && Instant::now() < end {
        // Others take pids as well: this works most of the time, and then it counts.
        fs::write("/proc/sys/kernel/ns_last_pid", (pid - 1).to_string()).expect("last pid");
        let client = Plan::connect(address, Role::Recv).wait().start(&stage.near());
        again = (client.pid() == pid).then_some(client);
    }
    let Some(mut client) = again else {
        skip!("pid {pid} could not be had again: others were faster");
    };
    client.go();
    server.wait_connected();
    let bins = client.watch(Duration::from_millis(2500));
    rates::assert_fast("reused pid", rates::mean(&bins), 6e6, &bins);
    throttle.stop();
    stage.end();
}

/// The target ends in the very moment in which it is limited.
#[test]
fn a_target_that_ends_meanwhile() {
    for delay in [0, 2, 5, 10, 20, 40, 80] {
        let scene = Scene::new();
        let sleeper = scene.sleeper();
        let pid = sleeper.pid().to_string();
        let killer = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(delay));
            drop(sleeper);
        });
        let outcome = scene.run(&["run", "-d", "10mbit", "--pid", &pid]);
        killer.join().expect("the killer");
        assert!([0, 5].contains(&outcome.status), "after {delay} ms: {outcome:#?}");
        assert!(!outcome.stderr.contains("panicked"), "{outcome:#?}");
        scene.assert_clean();
    }
}

/// The words that readers of the founding report grep for, with the programs on the root.
#[test]
fn test_mode_with_the_root_cgroup() {
    let stage = Stage::new("ebpf");
    let address = stage.lab.far_address(V4);
    let server = Plan::accept(address, Role::Recv).rate(100.0).start(&stage.far());
    let client = Plan::connect(address, Role::Send).rate(100.0).start(&stage.near());
    let neighbour = stage.lab.far_address(V4);
    let other = Plan::accept(neighbour, Role::Recv).rate(100.0).start(&stage.far());
    let _other = Plan::connect(neighbour, Role::Send).rate(100.0).start(&stage.near());
    server.wait_connected();
    let pid = client.pid().to_string();
    let mut command = stage.command(&["run", "-u", "10mbit", "-d", "10mbit", "--pid", &pid]);
    command.env("CHADTHROTTLE_TEST_ROOT_CGROUP", "1").env("RUST_LOG", "debug");
    let mut running = Running::start(&mut command);
    let root = cgroup::mount();
    let attached = format!("Successfully attached eBPF ingress program to {root:?}");
    let said = || running.stderr().contains(&attached);
    assert!(eventually(Duration::from_secs(3), said), "{}", running.stderr());
    for words in [
        format!("TEST MODE: Using root cgroup {root:?}"),
        "loaded with expected_attach_type: Some(Ingress)".to_owned(),
    ] {
        assert!(running.stderr().contains(&words), "no `{words}` in {}", running.stderr());
    }
    std::thread::sleep(Duration::from_secs(1));
    let bins = server.watch(MEASURE);
    rates::assert_rate("target", &bins, 1.25e6, 0.08);
    let bins = other.watch(Duration::from_secs(1));
    rates::assert_fast("neighbour", rates::mean(&bins), 6e6, &bins);
    running.signal(rustix::process::Signal::INT);
    running.wait(Duration::from_secs(3));
    stage.end();
}

/// The only interface is replaced while nothing is connected.
#[test]
fn an_interface_that_comes_and_goes() {
    let stage = Stage::new("ebpf");
    let address = stage.lab.far_address(V4);
    for direction in [Download, Upload] {
        let client = Plan::connect(address, Role::Recv).wait().start(&stage.near());
        let throttle = stage.limit(direction, client.pid());
        stage.lab.rewire();
        throttle.stop();
    }
    stage.end();
}
