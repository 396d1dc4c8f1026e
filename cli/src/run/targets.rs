//! From what the user typed to targets that exist.

use std::path::Path;

use chadthrottle_core::{Host, Result, Target, process::Process, target::CgroupTarget};

use crate::args::RunArgs;

/// Finds everything that `--pid`, `--cgroup` and `--unit` name; one that does not exist fails
/// them all.
pub(super) fn resolve(host: &Host, args: &RunArgs) -> Result<Vec<Target>> {
    let mut targets = Vec::new();
    for pid in unique(&args.pid) {
        targets.push(Target::Process(Process::open(host, *pid)?));
    }
    for path in unique(&args.cgroup) {
        let name = path.display().to_string();
        let path = host.cgroups()?.resolve(path)?;
        targets.push(Target::Cgroup(CgroupTarget { path, name, follow: false }));
    }
    for name in unique(&args.unit) {
        let path = host.cgroups()?.unit(name)?;
        targets.push(Target::Cgroup(CgroupTarget { path, name: name.clone(), follow: true }));
    }
    Ok(targets)
}

/// The command in its leaf, called by the name that the user typed.
pub(super) fn command(leaf: &Path, args: &RunArgs) -> Target {
    let name = args.command.first().map(|name| name.to_string_lossy().into_owned());
    Target::Cgroup(CgroupTarget {
        path: leaf.to_owned(),
        name: name.unwrap_or_default(),
        follow: false,
    })
}

/// The items in their order, each once.
fn unique<T: PartialEq>(items: &[T]) -> impl Iterator<Item = &T> {
    items
        .iter()
        .enumerate()
        .filter(|(n, item)| !items[..*n].contains(item))
        .map(|(_, item)| item)
}
