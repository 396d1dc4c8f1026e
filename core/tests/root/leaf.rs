//! Leaves below all kinds of cgroups.

use std::{fs, path::Path, process::Command};

use chadthrottle_core::{
    ErrorKind,
    cgroup::{self, Leaf},
    journal::Journal,
    process,
};

use crate::{Case, scratch::Scratch};

pub(crate) fn cases() -> Vec<Case> {
    vec![
        ("leaf::goes_and_comes_back", goes_and_comes_back),
        ("leaf::below_a_threaded_domain", below_a_threaded_domain),
        ("leaf::below_a_threaded_cgroup", below_a_threaded_cgroup),
        ("leaf::another_cgroup_of_the_same_name_stays", another_cgroup_of_the_same_name_stays),
        ("leaf::cgroups_below_it", cgroups_below_it),
        ("leaf::parent_gained_controllers", parent_gained_controllers),
        ("leaf::parent_is_gone", parent_is_gone),
        ("leaf::read_only_tree", read_only_tree),
        ("leaf::names_and_ids_are_found", names_and_ids_are_found),
    ]
}

fn goes_and_comes_back() {
    let scratch = Scratch::new();
    let journal = Journal::create(&scratch.host).unwrap();
    let process = scratch.process("exec sleep 60");
    let leaf = Leaf::create(&scratch.cgroup, "0", &journal).unwrap();
    assert_eq!(cgroup::id(leaf.path()).unwrap(), leaf.id());
    leaf.add(process.pid()).unwrap();
    assert_eq!(scratch.host.cgroup_of(process.pid()).unwrap(), leaf.path());
    assert_eq!(cgroup::processes(leaf.path()).unwrap(), [process.pid()]);
    assert_eq!(leaf.add(i32::MAX).unwrap_err().kind, ErrorKind::NoSuchTarget);
    leaf.remove().unwrap();
    assert_eq!(scratch.host.cgroup_of(process.pid()).unwrap(), scratch.cgroup);
    // Dropped instead of removed.
    drop(Leaf::create(&scratch.cgroup, "1", &journal).unwrap());
    assert!(scratch.leaves().is_empty());
    journal.close().unwrap();
}

/// The parent has a threaded child: it is the root of a threaded subtree.
fn below_a_threaded_domain() {
    let scratch = Scratch::new();
    threaded_child(&scratch.cgroup, "threads");
    round_trip(&scratch, &scratch.cgroup);
}

fn below_a_threaded_cgroup() {
    let scratch = Scratch::new();
    let parent = threaded_child(&scratch.cgroup, "threads");
    round_trip(&scratch, &parent);
}

fn threaded_child(parent: &Path, name: &str) -> std::path::PathBuf {
    let child = parent.join(name);
    fs::create_dir(&child).unwrap();
    fs::write(child.join("cgroup.type"), "threaded").unwrap();
    child
}

fn round_trip(scratch: &Scratch, parent: &Path) {
    let journal = Journal::create(&scratch.host).unwrap();
    let process = scratch.process("exec sleep 60");
    let pid = process.pid();
    fs::write(parent.join("cgroup.procs"), pid.to_string()).unwrap();
    let leaf = Leaf::create(parent, "0", &journal).unwrap();
    leaf.add(pid).unwrap();
    assert_eq!(scratch.host.cgroup_of(pid).unwrap(), leaf.path());
    assert_eq!(cgroup::processes(leaf.path()).unwrap(), [pid]);
    let path = leaf.path().to_owned();
    leaf.remove().unwrap();
    assert!(!path.exists());
    assert_eq!(scratch.host.cgroup_of(pid).unwrap(), parent);
    journal.close().unwrap();
}

fn another_cgroup_of_the_same_name_stays() {
    let scratch = Scratch::new();
    let journal = Journal::create(&scratch.host).unwrap();
    let leaf = Leaf::create(&scratch.cgroup, "0", &journal).unwrap();
    let path = leaf.path().to_owned();
    fs::remove_dir(&path).unwrap();
    fs::create_dir(&path).unwrap();
    leaf.remove().unwrap();
    assert!(path.exists(), "a cgroup of somebody else was removed");
    // And one that was there before is not taken over.
    let error = Leaf::create(&scratch.cgroup, "0", &journal).unwrap_err();
    assert_eq!(error.errno(), 17, "{error}");
    assert!(path.exists());
    journal.close().unwrap();
}

/// Empty ones go with the leaf; one that is in use keeps it, and the journal remembers.
fn cgroups_below_it() {
    let scratch = Scratch::new();
    let journal = Journal::create(&scratch.host).unwrap();
    let leaf = Leaf::create(&scratch.cgroup, "0", &journal).unwrap();
    fs::create_dir_all(leaf.path().join("a/b")).unwrap();
    leaf.remove().unwrap();
    assert!(scratch.leaves().is_empty());

    let process = scratch.process("exec sleep 60");
    let leaf = Leaf::create(&scratch.cgroup, "1", &journal).unwrap();
    let used = leaf.path().join("used");
    fs::create_dir(&used).unwrap();
    fs::write(used.join("cgroup.procs"), process.pid().to_string()).unwrap();
    let error = leaf.remove().unwrap_err();
    assert!(error.to_string().contains("(EBUSY)"), "{error}");
    assert!(error.to_string().contains("made below it"), "{error}");
    assert_eq!(scratch.host.cgroup_of(process.pid()).unwrap(), used);
    assert!(journal.clone().close().is_err(), "the journal forgot the leaf");
    drop(process);
}

fn parent_gained_controllers() {
    let scratch = Scratch::new();
    let available = fs::read_to_string(scratch.cgroup.join("cgroup.controllers")).unwrap();
    // Threaded controllers would not do: with them the parent may keep its processes.
    let domain = ["memory", "io", "hugetlb", "rdma", "misc"];
    let Some(controller) = available.split_whitespace().find(|name| domain.contains(name))
    else {
        let reason = "no domain controller is enabled for children of the root";
        return crate::report_skip("leaf::parent_gained_controllers", reason);
    };
    let journal = Journal::create(&scratch.host).unwrap();
    let process = scratch.process("exec sleep 60");
    let leaf = Leaf::create(&scratch.cgroup, "0", &journal).unwrap();
    leaf.add(process.pid()).unwrap();
    let control = scratch.cgroup.join("cgroup.subtree_control");
    fs::write(&control, format!("+{controller}")).unwrap();
    let path = leaf.path().to_owned();
    let error = leaf.remove().unwrap_err();
    assert!(error.to_string().contains("Controllers were enabled"), "{error}");
    assert_eq!(scratch.host.cgroup_of(process.pid()).unwrap(), path, "it was left safe");
    drop(process);
}

fn parent_is_gone() {
    let scratch = Scratch::new();
    let journal = Journal::create(&scratch.host).unwrap();
    let error = Leaf::create(&scratch.cgroup.join("gone"), "0", &journal).unwrap_err();
    assert_eq!(error.kind, ErrorKind::NoSuchTarget, "{error}");
    journal.close().unwrap();
}

/// As in a container; the mount is made read-only in a mount namespace of its own.
fn read_only_tree() {
    let scratch = Scratch::new();
    let mount = scratch.host.cgroups().unwrap().mount.display().to_string();
    let script = format!("mount -o bind,remount,ro {mount} && exec \"$0\" \"$@\"");
    let mut command = Command::new("unshare");
    command.args(["-m", "sh", "-c", &script]).arg(std::env::current_exe().unwrap());
    let error = scratch.run_by(command, &["leaf:0"]).line();
    assert!(error.contains("(EROFS). The cgroup tree is mounted read-only"), "{error}");
}

fn names_and_ids_are_found() {
    let scratch = Scratch::new();
    let cgroups = scratch.host.cgroups().unwrap();
    let unit = scratch.cgroup.join("core-test-unit.service");
    fs::create_dir(&unit).unwrap();
    assert_eq!(cgroups.unit("core-test-unit").unwrap(), unit);
    assert_eq!(cgroups.find(cgroup::id(&unit).unwrap()), Some(unit.clone()));
    assert_eq!(cgroups.resolve(&unit).unwrap(), unit);
    let spelled = Path::new("/").join(unit.strip_prefix(&cgroups.mount).unwrap());
    assert_eq!(cgroups.resolve(&spelled).unwrap(), unit);
    assert_eq!(cgroups.resolve(Path::new("/")).unwrap(), cgroups.mount);
    let file = cgroups.resolve(&unit.join("cgroup.procs")).unwrap_err();
    assert!(file.to_string().contains("a cgroup is a directory"), "{file}");
    // A hybrid host has a cgroup v1 tree beside it.
    if Path::new("/sys/fs/cgroup/cpu/tasks").exists() {
        let old = cgroups.resolve(Path::new("/sys/fs/cgroup/cpu")).unwrap_err();
        assert!(old.to_string().contains("cgroup v1"), "{old}");
    }
    let own = process::ProcessKey::of(&scratch.host, std::process::id().cast_signed());
    assert!(own.is_some_and(|key| key.exists(&scratch.host)));
}
