//! Cgroups as targets, and cgroups that hold programs of others.

use std::time::Duration;

use super::{FULL, begun_limited, plans, running};
use crate::{
    cgroup::{self, Cgroup},
    conformance::Transfer,
    lab::Family::V4,
    process::sh,
    rates,
    stage::{
        Direction::{self, Download, Upload},
        Stage,
    },
    sys::{self, Hook, Mode},
    throttle::Throttle,
};

fn limit_cgroup(stage: &Stage, direction: Direction, cgroup: &Cgroup) -> Throttle {
    let path = cgroup.path().to_str().expect("a plain path");
    stage.run(&[direction.flag(), "10mbit", "--cgroup", path])
}

/// A transfer whose near end runs in `cgroup`, not begun yet.
fn prepared(stage: &Stage, direction: Direction, cgroup: &Cgroup) -> Transfer {
    let (near, far) = plans(direction, stage.lab.far_address(V4));
    let far = far.start(&stage.far());
    let near = near.wait().start(&stage.near().in_cgroup(cgroup));
    near.wait_ready();
    Transfer { near, far, direction }
}

/// Whatever lives in the cgroup is limited, open connections included; others are not.
pub fn cgroup_target(backend: &str) {
    let stage = Stage::new(backend);
    let cgroup = stage.apps.child("target");
    let mut inside = prepared(&stage, Download, &cgroup);
    inside.near.go();
    inside.near.wait_connected();
    inside.assert_fast("before the limit");
    let neighbour = running(&stage, Download, V4, |plan| plan);
    let throttle = limit_cgroup(&stage, Download, &cgroup);
    inside.assert_limited("inside");
    neighbour.assert_fast("outside");
    throttle.stop();
    inside.assert_recovers("inside after release");
    stage.end();
}

/// What lives in a cgroup below the target is limited as well.
pub fn nested_cgroup(backend: &str) {
    let stage = Stage::new(backend);
    let target = stage.apps.child("target");
    let nested = target.child("nested");
    let mut inside = prepared(&stage, Upload, &nested);
    let throttle = limit_cgroup(&stage, Upload, &target);
    inside.near.go();
    inside.far.wait_connected();
    inside.assert_limited("nested");
    throttle.stop();
    stage.end();
}

/// A process that is started in the cgroup, and a cgroup made in it, under the limit.
pub fn cgroup_newcomer(backend: &str) {
    let stage = Stage::new(backend);
    let target = stage.apps.child("target");
    let throttle = limit_cgroup(&stage, Download, &target);
    let nested = target.child("later");
    let mut inside = prepared(&stage, Download, &nested);
    inside.near.go();
    inside.near.wait_connected();
    inside.assert_limited("newcomer");
    throttle.stop();
    stage.end();
}

/// The process's own cgroup holds a program that tolerates no other (as systemd attaches its
/// IP accounting): an ancestor has to do.
pub fn exclusive_program(backend: &str) {
    let stage = Stage::new(backend);
    let closed = stage.apps.child("closed");
    for hook in [Hook::Ingress, Hook::Egress] {
        let program = sys::load_pass_program(hook).expect("load a program");
        sys::attach(program, closed.path(), hook, Mode::Exclusive).expect("attach it");
    }
    let neighbour = running(&stage, Download, V4, |plan| plan);
    let mut inside = prepared(&stage, Download, &closed);
    let throttle = stage.limit(Download, inside.near.pid());
    inside.near.go();
    inside.near.wait_connected();
    inside.assert_limited("beside an exclusive program");
    neighbour.assert_fast("neighbour");
    throttle.stop();
    assert_eq!(programs_on(&closed), 2, "the programs of others are untouched");
    stage.end();
}

/// Programs that others attached and that tolerate us stay where they are.
pub fn foreign_programs_stay(backend: &str) {
    let stage = Stage::new(backend);
    for hook in [Hook::Ingress, Hook::Egress] {
        let program = sys::load_pass_program(hook).expect("load a program");
        sys::attach(program, stage.apps.path(), hook, Mode::Multi).expect("attach it");
    }
    let (transfer, throttle) = begun_limited(&stage, Upload, V4, |plan| plan);
    transfer.assert_limited("beside others");
    throttle.stop();
    assert_eq!(programs_on(&stage.apps), 2, "the programs of others are untouched");
    stage.end();
}

/// The target has a cgroup namespace of its own, as in a container.
pub fn target_in_a_namespace(backend: &str) {
    let stage = Stage::new(backend);
    let (near, far) = plans(Upload, stage.lab.far_address(V4));
    let far = far.start(&stage.far());
    let near = near.start_through(&stage.near(), "unshare", &["--cgroup"]);
    let transfer = Transfer { near, far, direction: Upload };
    transfer.far.wait_connected();
    transfer.assert_fast("before the limit");
    let throttle = stage.limit(Upload, transfer.near.pid());
    transfer.assert_limited("in a cgroup namespace");
    throttle.stop();
    transfer.assert_recovers("in a cgroup namespace, after release");
    stage.end();
}

/// We have one, and see only what is below it: the target too.
pub fn within_a_namespace(backend: &str) {
    let stage = Stage::new(backend);
    let transfer = running(&stage, Download, V4, |plan| plan);
    let pid = transfer.near.pid().to_string();
    let (scratch, mount) = (stage.scratch().path(), cgroup::mount());
    let script = format!(
        "echo $$ > {}/cgroup.procs; exec unshare --mount --cgroup sh -euc \
         'umount -l {mount}; mount -t cgroup2 none {mount}; exec \"$@\"' sh \"$@\"",
        scratch.display(),
        mount = mount.display()
    );
    let mut throttle =
        stage.start_behind(&["sh", "-euc", &script, "sh"], &["-d", "10mbit", "--pid", &pid]);
    throttle.wait_enforced();
    transfer.assert_limited("within a cgroup namespace");
    throttle.stop();
    transfer.assert_recovers("within a cgroup namespace, after release");
    stage.end();
}

/// We have one, but see the hierarchy as it is outside.
pub fn seen_from_a_namespace(backend: &str) {
    let stage = Stage::new(backend);
    let transfer = running(&stage, Download, V4, |plan| plan);
    let apps = stage.apps.path().to_str().expect("a plain path");
    let mut throttle =
        stage.start_behind(&["unshare", "--cgroup"], &["-d", "10mbit", "--cgroup", apps]);
    throttle.wait_enforced();
    transfer.assert_limited("seen from a cgroup namespace");
    drop(transfer);
    newcomers_are_limited(&stage);
    throttle.stop();
    stage.end();
}

/// Whoever begins to download in the limited cgroup is held from the start: of three in a row none has
/// so much as half of what is offered, which is what one has that is found a second later.
fn newcomers_are_limited(stage: &Stage) {
    for _ in 0..3 {
        let mut newcomer = prepared(stage, Download, &stage.apps);
        newcomer.near.go();
        newcomer.near.wait_connected();
        let bins = newcomer.near.watch(Duration::from_millis(600));
        assert!(rates::mean(&bins) < FULL / 2.0, "free at first: {}", rates::show(&bins));
    }
}

fn programs_on(cgroup: &Cgroup) -> usize {
    let shown = sh(&format!("bpftool cgroup show {}", cgroup.path().display()));
    shown.matches("ct_pass").count()
}
