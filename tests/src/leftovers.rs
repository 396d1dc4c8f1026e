//! What a run must not leave behind: everything that was not there before and is not held
//! by somebody else.
//!
//! Other tests run at the same time, so an object counts only when it is in our cgroups, our
//! namespaces or our run directory, or when nobody else can be its owner.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use serde_json::Value;

use crate::{cgroup, lab::Lab, process::eventually, sys::OWN_PROGRAM, throttle::processes_of};

/// The kernel frees BPF objects some time after the last reference is gone.
const PATIENCE: Duration = Duration::from_secs(2);

/// What was there before a case.
#[derive(Debug)]
pub struct Snapshot {
    objects: BTreeSet<Object>,
    network: BTreeSet<String>,
}

/// A BPF object: `prog`, `map` or `link`, and its id. Ids are not used again.
type Object = (&'static str, u64);

impl Snapshot {
    /// Looks at the machine and the lab.
    pub fn take(lab: &Lab) -> Self {
        Self {
            objects: bpf_objects().into_iter().map(|(object, _)| object).collect(),
            network: network(lab),
        }
    }

    /// Asserts that nothing is there that was not there at the snapshot.
    ///
    /// # Panics
    /// When something is, two seconds later as well; says what.
    pub fn assert_clean(&self, lab: &Lab, scratch: &Path, run_dir: &Path) {
        let mut left = Vec::new();
        let clean = eventually(PATIENCE, || {
            left = self.left(lab, scratch, run_dir);
            left.is_empty()
        });
        assert!(clean, "left behind:\n  {}", left.join("\n  "));
    }

    /// What is left, in words.
    pub fn left(&self, lab: &Lab, scratch: &Path, run_dir: &Path) -> Vec<String> {
        let mut left = Vec::new();
        for pid in processes_of(run_dir) {
            left.push(format!("process {pid} of chadthrottle"));
        }
        left.extend(
            run_files(run_dir).iter().map(|path| format!("run file {}", path.display())),
        );
        for path in cgroup::below(scratch) {
            if path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"chad"))
            {
                left.push(format!("cgroup {}", path.display()));
            }
        }
        for (path, program) in attached(scratch) {
            if program["name"] != OWN_PROGRAM {
                left.push(format!("program {program} on {}", path.display()));
            }
        }
        left.extend(network(lab).difference(&self.network).cloned());
        // Others come and go: what counts was there before and after they were looked at.
        let present: BTreeSet<_> =
            bpf_objects().into_iter().map(|(object, _)| object).collect();
        let strangers = strangers(scratch, run_dir);
        for (object, details) in bpf_objects() {
            let known = self.objects.contains(&object) || strangers.contains(&object);
            if !known && present.contains(&object) && details["name"] != OWN_PROGRAM {
                left.push(format!("BPF {} {}: {details}", object.0, object.1));
            }
        }
        left
    }
}

/// The files of instances in a run directory. The directory's own empty `lock` stays: to
/// remove a lock file is to race with whoever waits for it.
pub fn run_files(run_dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(run_dir).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).filter(|path| !path.ends_with("lock")).collect()
}

/// Runs a tool that prints JSON; what it prints when there is nothing counts as nothing.
fn json(command: &[&str]) -> Vec<Value> {
    let output = Command::new(command[0]).args(&command[1..]).output().expect("run a tool");
    match serde_json::from_slice(&output.stdout) {
        Ok(Value::Array(list)) => list,
        _ => Vec::new(),
    }
}

/// All BPF objects of the machine.
fn bpf_objects() -> Vec<(Object, Value)> {
    let kinds = ["prog", "map", "link"];
    let lists = kinds.map(|kind| (kind, json(&["bpftool", "-j", kind, "show"])));
    let objects = lists.into_iter().flat_map(|(kind, list)| {
        list.into_iter().filter_map(move |entry| Some(((kind, entry["id"].as_u64()?), entry)))
    });
    objects.collect()
}

/// The programs attached to this cgroup and below.
fn attached(cgroup: &Path) -> Vec<(PathBuf, Value)> {
    let path = cgroup.to_str().expect("a plain path");
    let list = json(&["bpftool", "-j", "cgroup", "tree", path]);
    let pairs = list.into_iter().flat_map(|entry| {
        let path = PathBuf::from(entry["cgroup"].as_str().unwrap_or_default());
        let programs = entry["programs"].as_array().cloned().unwrap_or_default();
        programs.into_iter().map(move |program| (path.clone(), program))
    });
    pairs.collect()
}

/// The BPF objects that somebody else holds: by a descriptor, or by a cgroup that is not ours.
fn strangers(scratch: &Path, run_dir: &Path) -> BTreeSet<Object> {
    let mut held = BTreeSet::new();
    let ours = processes_of(run_dir);
    for process in fs::read_dir("/proc").expect("read /proc").flatten() {
        let pid = process.file_name().to_str().and_then(|name| name.parse::<u32>().ok());
        if pid.is_some_and(|pid| !ours.contains(&pid)) {
            for file in
                fs::read_dir(process.path().join("fdinfo")).into_iter().flatten().flatten()
            {
                let text = fs::read_to_string(file.path()).unwrap_or_default();
                held.extend(text.lines().filter_map(held_object));
            }
        }
    }
    for (path, program) in attached(&cgroup::mount()) {
        // One of ours may be on the root (the test mode): it is not excused.
        if !path.starts_with(scratch) && path != cgroup::mount() {
            held.extend(program["id"].as_u64().map(|id| ("prog", id)));
        }
    }
    // Maps and links belong to whoever has their program.
    for (object, details) in bpf_objects() {
        let program = ("prog", details["prog_id"].as_u64().unwrap_or_default());
        if object.0 == "link" && held.contains(&program) {
            held.insert(object);
        }
        if object.0 == "prog" && held.contains(&object) {
            let maps = details["map_ids"].as_array().cloned().unwrap_or_default();
            held.extend(maps.iter().filter_map(Value::as_u64).map(|id| ("map", id)));
        }
    }
    held
}

/// The object that a line of /proc/PID/fdinfo names.
fn held_object(line: &str) -> Option<Object> {
    let (key, value) = line.split_once(':')?;
    let kind = match key {
        "prog_id" => "prog",
        "map_id" => "map",
        "link_id" => "link",
        _ => return None,
    };
    Some((kind, value.trim().parse().ok()?))
}

/// Devices, qdiscs and tables: all of the lab's, and of the host's those with our name.
fn network(lab: &Lab) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for look in ["ip -o link show", "tc qdisc show", "nft list tables"] {
        for namespace in [&lab.near, &lab.far] {
            let lines = namespace.sh(look);
            found.extend(
                lines.lines().map(|line| format!("{}: {}", namespace.name(), stable(line))),
            );
        }
        let lines = crate::process::sh(look);
        // What an instance that lives has made is not left: that is judged by its process.
        let ours = lines.lines().filter(|line| line.contains("chad") && !of_the_living(line));
        found.extend(ours.map(|line| format!("host: {line}")));
    }
    found
}

/// Whether the pid in the name of one of our tables or devices is one of a living process.
fn of_the_living(line: &str) -> bool {
    maker(line).is_some_and(crate::process::is_alive)
}

/// The pid in a table's name, `chadthrottle-PID-N` with a word before the pid or none, or in a
/// device's, `chadPID-N` in hexadecimal.
fn maker(line: &str) -> Option<u32> {
    let (_, name) = line.split_once("chad")?;
    match name.strip_prefix("throttle-") {
        Some(table) => table.split('-').find_map(|part| part.parse().ok()),
        None => u32::from_str_radix(name.split('-').next()?, 16).ok(),
    }
}

/// A line without what changes by itself: a device's number and its flags.
fn stable(line: &str) -> String {
    match line.split_once(": ") {
        Some((number, rest)) if number.parse::<u32>().is_ok() => {
            let name = rest.split(['@', ':']).next().unwrap_or_default();
            format!("device {name}")
        }
        _ => line.trim().to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_tell_who_made_them() {
        for (line, pid) in [
            ("table inet chadthrottle-4711-99 # progname chadthrottle", Some(4711)),
            ("table inet chadthrottle-gate-4711-0 # progname chadthrottle", Some(4711)),
            ("7: chad1a2b-0d: <BROADCAST,NOARP> mtu 1500", Some(0x1a2b)),
            ("qdisc htb 1: dev chad1a2b-3u root refcnt 2", Some(0x1a2b)),
            ("7: chaddy: <BROADCAST> mtu 1500", None),
            ("1: lo: <LOOPBACK>", None),
        ] {
            assert_eq!(maker(line), pid, "{line}");
        }
    }
}
