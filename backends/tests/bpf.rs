//! Legacy attachments on cgroups of our own, and what refusals are explained as.

mod common;

use std::path::Path;

use chadthrottle_backends::bpf::{self, AttachType, Call};
use chadthrottle_core::check::Remedy;
use common::{ScratchCgroup, skip_unless_root};

const INGRESS: AttachType = AttachType::InetIngress;
const EGRESS: AttachType = AttachType::InetEgress;
const SOCK_OPS: AttachType = AttachType::SockOps;
const ALL: [AttachType; 4] = [INGRESS, EGRESS, AttachType::InetSockCreate, SOCK_OPS];

#[test]
fn attaches_beside_others_and_detaches() {
    if skip_unless_root("attaches_beside_others_and_detaches") {
        return;
    }
    let cgroup = ScratchCgroup::create("attach");
    let directory = cgroup.open();
    for attach_type in ALL {
        let first = bpf::load_pass(attach_type).unwrap();
        let second = bpf::load_pass(attach_type).unwrap();
        bpf::prog_attach_multi(&first, &directory, attach_type).unwrap();
        bpf::prog_attach_multi(&second, &directory, attach_type).unwrap();
        let ids = [bpf::program_id(&first).unwrap(), bpf::program_id(&second).unwrap()];
        let attached = bpf::prog_query(&directory, attach_type).unwrap();
        assert_eq!(attached.programs, ids, "{attach_type:?}");
        assert!(!attached.is_exclusive());
        assert_eq!(bpf::program_name(ids[0]).unwrap(), "");

        bpf::prog_detach(&first, &directory, attach_type).unwrap();
        // The other one as somebody who only has the journal would.
        drop(second);
        bpf::detach_by_id(&directory, attach_type as u32, ids[1]).unwrap();
        assert!(bpf::prog_query(&directory, attach_type).unwrap().programs.is_empty());
        let gone = bpf::detach_by_id(&directory, attach_type as u32, ids[1]).unwrap_err();
        assert_eq!(gone.raw_os_error(), Some(libc::ENOENT));
        let twice = bpf::prog_detach(&first, &directory, attach_type).unwrap_err();
        assert_eq!(twice.raw_os_error(), Some(libc::ENOENT));
    }
}

/// A program that the shell's tool attached with flags 0, as systemd does.
struct Exclusive<'a> {
    cgroup: &'a ScratchCgroup,
    id: u32,
}

impl<'a> Exclusive<'a> {
    fn attach(cgroup: &'a ScratchCgroup) -> Self {
        let program = bpf::load_pass(AttachType::InetEgress).unwrap();
        let id = bpf::program_id(&program).unwrap();
        let exclusive = Self { cgroup, id };
        exclusive.bpftool("attach");
        exclusive
    }

    fn bpftool(&self, verb: &str) {
        let path = self.cgroup.path().to_str().unwrap();
        let id = self.id.to_string();
        let status = std::process::Command::new("bpftool")
            .args(["cgroup", verb, path, "cgroup_inet_egress", "id", &id])
            .status()
            .unwrap();
        assert!(status.success(), "bpftool cgroup {verb}");
    }
}

impl Drop for Exclusive<'_> {
    fn drop(&mut self) {
        self.bpftool("detach");
    }
}

#[test]
fn an_exclusive_holder_is_named() {
    if skip_unless_root("an_exclusive_holder_is_named") {
        return;
    }
    let parent = ScratchCgroup::create("holder");
    let child = ScratchCgroup::below(parent.path(), "child");
    let program = bpf::load_pass(EGRESS).unwrap();
    assert_eq!(bpf::exclusive_holder(child.path(), EGRESS).unwrap(), None);

    let exclusive = Exclusive::attach(&parent);
    for cgroup in [&parent, &child] {
        let refusal = bpf::prog_attach_multi(&program, cgroup.open(), EGRESS).unwrap_err();
        assert_eq!(refusal.raw_os_error(), Some(libc::EPERM));
        let holder = bpf::exclusive_holder(cgroup.path(), EGRESS).unwrap().unwrap();
        assert_eq!((holder.program, holder.cgroup.as_path()), (exclusive.id, parent.path()));
        let (meaning, remedy) =
            bpf::explain(Call::ProgAttach, libc::EPERM, cgroup.path(), EGRESS);
        assert!(meaning.contains(&exclusive.id.to_string()), "{meaning}");
        assert!(matches!(remedy, Remedy::StopHolder(_)));
        // The other direction is free.
        let other = AttachType::InetIngress;
        assert_eq!(bpf::exclusive_holder(cgroup.path(), other).unwrap(), None);
    }
    drop(exclusive);
    bpf::prog_attach_multi(&program, child.open(), EGRESS).unwrap();
    bpf::prog_detach(&program, child.open(), EGRESS).unwrap();
}

#[test]
fn sixty_four_programs_are_all() {
    if skip_unless_root("sixty_four_programs_are_all") {
        return;
    }
    let cgroup = ScratchCgroup::create("full");
    let directory = cgroup.open();
    let programs: Vec<_> =
        (0..=bpf::MAX_PROGRAMS).map(|_| bpf::load_pass(INGRESS).unwrap()).collect();
    let (last, rest) = programs.split_last().unwrap();
    for program in rest {
        bpf::prog_attach_multi(program, &directory, INGRESS).unwrap();
    }
    let refusal = bpf::prog_attach_multi(last, &directory, INGRESS).unwrap_err();
    assert_eq!(refusal.raw_os_error(), Some(libc::E2BIG));
    assert_eq!(bpf::prog_query(&directory, INGRESS).unwrap().programs.len(), bpf::MAX_PROGRAMS);
    let (meaning, _) = bpf::explain(Call::ProgAttach, libc::E2BIG, cgroup.path(), INGRESS);
    assert!(meaning.contains("64"), "{meaning}");
    for program in rest {
        bpf::prog_detach(program, &directory, INGRESS).unwrap();
    }
}

#[test]
fn other_refusals_are_told_apart() {
    if skip_unless_root("other_refusals_are_told_apart") {
        return;
    }
    let cgroup = ScratchCgroup::create("refusals");
    let directory = cgroup.open();
    let program = bpf::load_pass(SOCK_OPS).unwrap();
    let explain = |errno, path: &Path| bpf::explain(Call::ProgAttach, errno, path, SOCK_OPS);

    let elsewhere = std::fs::File::open("/tmp").unwrap();
    let refusal = bpf::prog_attach_multi(&program, &elsewhere, SOCK_OPS).unwrap_err();
    assert_eq!(refusal.raw_os_error(), Some(libc::EBADF));
    assert_eq!(explain(libc::EBADF, Path::new("/tmp")).1, Remedy::MountCgroup2);

    bpf::prog_attach_multi(&program, &directory, SOCK_OPS).unwrap();
    let refusal = bpf::prog_attach_multi(&program, &directory, SOCK_OPS).unwrap_err();
    assert_eq!(refusal.raw_os_error(), Some(libc::EINVAL));
    let (meaning, _) = explain(libc::EINVAL, cgroup.path());
    assert!(meaning.contains("attached there already"), "{meaning}");
    bpf::prog_detach(&program, &directory, SOCK_OPS).unwrap();

    drop(cgroup);
    let refusal = bpf::prog_attach_multi(&program, &directory, SOCK_OPS).unwrap_err();
    assert_eq!(refusal.raw_os_error(), Some(libc::ENOENT));
}
