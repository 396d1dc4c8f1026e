//! What `chadthrottle probe` asks about BPF beyond what a run needs to know: which attachments
//! the kernel takes, where, who is there already, and what our own object looks like.
//!
//! Modes of the legacy attachment are tried on a scratch cgroup only. On the root cgroup, the
//! user's own and the one asked for there is nothing but a link of a program that lets everything
//! pass, for a moment; it goes with its descriptor, so also when we are killed.

use std::{
    fs::File,
    io,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
};

use aya::maps::{Array, MapData};
use aya_obj::ProgramSection;
use chadthrottle_core::{
    Host,
    cgroup::{self, Cgroups},
    diagnosis::{Attempt, BpfFindings, Object as ObjectFinding, Place, Role},
};
use serde::Serialize;

use super::object::{OBJECT, Object};
use crate::{
    bpf::{self, AttachType, MAX_PROGRAMS, Mode},
    rehearsal::Rehearsal,
};

/// The library that loads our programs, as Cargo.lock pins it (held by a test).
pub const LIBRARY: &str = "aya 0.14.0";
/// What compiled them.
pub const RECORD: &str = include_str!("../../../ebpf/chadthrottle.bpf.o.record");

/// Everything that was asked.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Examination {
    /// What the diagnosis rests on.
    #[serde(skip)]
    pub findings: BpfFindings,
    /// The minimal program.
    pub minimal: Minimal,
    /// The root cgroup, our own, the one asked for.
    pub places: Vec<Place>,
    /// Programs that are on these cgroups and their ancestors.
    pub existing: Vec<Existing>,
    /// How many programs are loaded on this machine, of any kind.
    pub loaded_programs: Option<usize>,
    /// Our own programs.
    pub object: Description,
}

/// A program of two instructions ("let it pass"), on a scratch cgroup.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Minimal {
    /// Creating a map of one entry.
    pub map: Attempt,
    /// Loading it.
    pub load: Attempt,
    /// `BPF_LINK_CREATE` with flags 0: what we use.
    pub link: Attempt,
    /// With `BPF_F_ALLOW_OVERRIDE`: EINVAL on every kernel.
    pub link_override: Attempt,
    /// With `BPF_F_ALLOW_MULTI`: EINVAL on every kernel, and the mistake behind the founding
    /// report.
    pub link_multi: Attempt,
    /// `BPF_PROG_ATTACH` with flags 0.
    pub attach_exclusive: Attempt,
    /// With `BPF_F_ALLOW_OVERRIDE`.
    pub attach_override: Attempt,
    /// With `BPF_F_ALLOW_MULTI`: what we use where links are refused.
    pub attach_multi: Attempt,
    /// `BPF_PROG_QUERY`.
    pub query: Attempt,
    /// Whether the kernel knows `BPF_LINK_CREATE`; `null` when its answer does not tell.
    pub knows_link_create: Option<bool>,
    /// Whether it knows `BPF_LINK_UPDATE`, which came with it.
    pub knows_links: Option<bool>,
    /// Whether it attaches programs to cgroups (`CONFIG_CGROUP_BPF`).
    pub knows_cgroups: Option<bool>,
}

/// A program that is attached already.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Existing {
    /// Where.
    pub cgroup: PathBuf,
    /// As what: `ingress`, `egress`, `sock_create`, `sock_ops`.
    pub hook: &'static str,
    /// Its id.
    pub id: u32,
    /// Its name, often empty.
    pub name: String,
    /// `multi`, `override`, `exclusive`.
    pub mode: &'static str,
    /// Whether it keeps our programs off that cgroup.
    pub blocks: bool,
}

/// Our own object.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Description {
    /// What loads it.
    pub library: &'static str,
    /// Its programs.
    pub programs: Vec<ProgramDescription>,
    /// `not tried`, `ok`, or what the kernel or the library says.
    pub loads: String,
}

/// One of them.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct ProgramDescription {
    /// Its name.
    pub name: String,
    /// Its section, whose name tells the library what it is.
    pub section: &'static str,
    /// What it says that it will be attached as.
    pub expected_attach_type: Option<&'static str>,
}

const HOOKS: [(AttachType, &str); 4] = [
    (AttachType::InetIngress, "ingress"),
    (AttachType::InetEgress, "egress"),
    (AttachType::InetSockCreate, "sock_create"),
    (AttachType::SockOps, "sock_ops"),
];

/// Asks all of it. `stage` gives the scratch cgroup; `asked` is the cgroup of `--cgroup`.
#[must_use]
pub fn examine(host: &Host, stage: Option<&Rehearsal>, asked: Option<&Path>) -> Examination {
    let mut report = Examination { object: describe(), ..Examination::default() };
    report.minimal.map = Attempt::of(&create_map());
    let program = bpf::load_pass(AttachType::InetIngress);
    report.minimal.load = Attempt::of(&program);
    report.loaded_programs = bpf::count_programs().ok();
    if let Ok(program) = &program {
        let scratch = stage.and_then(Rehearsal::cgroup).and_then(|path| File::open(path).ok());
        minimal(&mut report.minimal, program, scratch.as_ref());
        if let Some(cgroups) = &host.cgroups {
            look_around(&mut report, host, cgroups, asked);
        }
        report.findings.object = load();
    }
    report.object.loads = match &report.findings.object {
        ObjectFinding::NotTried => Attempt::NotTried.to_string(),
        ObjectFinding::Loads => Attempt::Done.to_string(),
        ObjectFinding::Refused { errno, log } => {
            format!("{}: {log}", Attempt::Failed(*errno))
        }
        ObjectFinding::Unreadable(problem) => problem.clone(),
    };
    let minimal = &report.minimal;
    report.findings = BpfFindings {
        map: minimal.map,
        program: minimal.load,
        link: minimal.link,
        legacy: minimal.attach_multi,
        query: minimal.query,
        knows_link_create: minimal.knows_link_create,
        knows_links: minimal.knows_links,
        knows_cgroups: minimal.knows_cgroups,
        places: report.places.clone(),
        object: report.findings.object,
    };
    report
}

fn create_map() -> io::Result<()> {
    Array::<MapData, u32>::create(1, 0).map(drop).map_err(super::maps::errno)
}

fn minimal(report: &mut Minimal, program: &OwnedFd, scratch: Option<&File>) {
    const INGRESS: AttachType = AttachType::InetIngress;
    report.knows_link_create = bpf::knows_link_create().ok();
    report.knows_links = bpf::knows_links().ok();
    report.knows_cgroups = bpf::knows_cgroups(program).ok();
    let Some(scratch) = scratch else { return };
    let link = |flags| Attempt::of(&bpf::link_briefly(program, scratch, INGRESS, flags));
    let attach = |mode| Attempt::of(&bpf::attach_briefly(program, scratch, INGRESS, mode));
    report.link = link(0);
    report.link_override = link(Mode::Override as u32);
    report.link_multi = link(Mode::Multi as u32);
    report.attach_exclusive = attach(Mode::Exclusive);
    report.attach_override = attach(Mode::Override);
    report.attach_multi = attach(Mode::Multi);
    report.query = Attempt::of(&bpf::prog_query(scratch, INGRESS));
}

/// The cgroups that are not ours to play with.
fn look_around(report: &mut Examination, host: &Host, cgroups: &Cgroups, asked: Option<&Path>) {
    let own = cgroup::own(host).ok();
    let mut looked_at: Vec<&Path> = Vec::new();
    let roles = [
        (Role::Root, Some(cgroups.mount.as_path())),
        (Role::Own, own.as_deref()),
        (Role::Asked, asked),
    ];
    for (role, path) in roles {
        let Some(path) = path else { continue };
        report.places.push(place(role, path));
        for ancestor in path.ancestors().filter(|path| path.starts_with(&cgroups.mount)) {
            if !looked_at.contains(&ancestor) {
                looked_at.push(ancestor);
                report.existing.extend(existing(ancestor, ancestor == path));
            }
        }
    }
}

/// Attaches and detaches, both directions.
fn place(role: Role, path: &Path) -> Place {
    let link = [AttachType::InetIngress, AttachType::InetEgress].map(|attach_type| {
        let program = bpf::load_pass(attach_type)?;
        bpf::link_briefly(&program, &File::open(path)?, attach_type, 0)
    });
    let holder = [AttachType::InetIngress, AttachType::InetEgress]
        .into_iter()
        .find_map(|attach_type| bpf::exclusive_holder(path, attach_type).ok().flatten());
    let programs = HOOKS
        .iter()
        .filter_map(|(hook, _)| bpf::prog_query(File::open(path).ok()?, *hook).ok())
        .map(|attached| attached.programs.len());
    Place {
        role,
        path: path.to_owned(),
        link: link
            .iter()
            .map(Attempt::of)
            .find(|link| *link != Attempt::Done)
            .unwrap_or(Attempt::Done),
        holder: holder.map(|holder| holder.to_string()),
        programs: programs.max().unwrap_or(0),
    }
}

/// What is on one cgroup.
fn existing(path: &Path, is_target: bool) -> Vec<Existing> {
    let mut found = Vec::new();
    for (attach_type, hook) in HOOKS {
        let attached =
            File::open(path).and_then(|directory| bpf::prog_query(directory, attach_type));
        let Ok(attached) = attached else { continue };
        let (mode, exclusive) = match (attached.is_exclusive(), attached.is_exclusive_below()) {
            (false, _) => ("multi", false),
            (true, false) => ("override", is_target),
            (true, true) => ("exclusive", true),
        };
        let blocks = exclusive || attached.programs.len() >= MAX_PROGRAMS;
        found.extend(attached.programs.iter().map(|&id| Existing {
            cgroup: path.to_owned(),
            hook,
            id,
            name: bpf::program_name(id).unwrap_or_default(),
            mode,
            blocks,
        }));
    }
    found
}

/// Hands all of our programs to the kernel, and closes them again.
fn load() -> ObjectFinding {
    match Object::load() {
        Ok(_) => ObjectFinding::Loads,
        Err(error) if error.errno() == 0 => ObjectFinding::Unreadable(error.to_string()),
        Err(error) => ObjectFinding::Refused { errno: error.errno(), log: error.meaning },
    }
}

/// What the object says about itself; no kernel is asked.
fn describe() -> Description {
    let mut description = Description { library: LIBRARY, ..Description::default() };
    if let Ok(object) = aya_obj::Object::parse(OBJECT) {
        let programs = object.programs.iter().map(|(name, program)| {
            let (section, expected_attach_type) = section(&program.section);
            ProgramDescription { name: name.clone(), section, expected_attach_type }
        });
        description.programs = programs.collect();
        description.programs.sort();
    }
    description
}

/// The section that the library read it from, and the attach type that this says.
fn section(section: &ProgramSection) -> (&'static str, Option<&'static str>) {
    use aya_obj::programs::{CgroupSkbAttachType, CgroupSockAttachType};
    match section {
        ProgramSection::CgroupSkb { attach_type: Some(CgroupSkbAttachType::Ingress) } => {
            ("cgroup_skb/ingress", Some("ingress"))
        }
        ProgramSection::CgroupSkb { attach_type: Some(CgroupSkbAttachType::Egress) } => {
            ("cgroup_skb/egress", Some("egress"))
        }
        ProgramSection::CgroupSock { attach_type: CgroupSockAttachType::SockCreate } => {
            ("cgroup/sock_create", Some("sock_create"))
        }
        ProgramSection::SockOps => ("sockops", None),
        ProgramSection::SchedClassifier => ("classifier", None),
        ProgramSection::RawTracePoint => ("raw_tracepoint", None),
        ProgramSection::Iter { .. } => ("iter", None),
        _ => ("another", None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_library_is_the_one_that_is_built_in() {
        let (name, version) = LIBRARY.split_once(' ').unwrap();
        let lock = include_str!("../../../Cargo.lock");
        assert!(lock.contains(&format!("name = \"{name}\"\nversion = \"{version}\"\n")));
    }

    #[test]
    fn our_object_says_what_it_is() {
        let programs = describe().programs;
        let skb = |name: &str, way| ProgramDescription {
            name: format!("chadthrottle_{name}"),
            section: if way == "ingress" { "cgroup_skb/ingress" } else { "cgroup_skb/egress" },
            expected_attach_type: Some(way),
        };
        assert!(programs.contains(&skb("ingress", "ingress")), "{programs:#?}");
        assert!(programs.contains(&skb("egress", "egress")), "{programs:#?}");
        assert!(programs.iter().all(|program| program.section != "another"), "{programs:#?}");
    }
}
