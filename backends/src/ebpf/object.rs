//! The kernel programs: embedded, loaded once per engine.

use std::{
    collections::BTreeMap,
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    panic::resume_unwind,
    sync::{Mutex, MutexGuard, PoisonError},
    thread::{self, JoinHandle},
};

use aya::maps::Map;
use chadthrottle_core::{Error, Result, error::ErrorKind};
use tracing::{debug, info};

use super::hook::Hook;
use crate::{
    bpf::{self, Image, Program},
    btf::Offsets,
};

/// Built by `make ebpf`; the record beside it names its compiler and linker.
pub(super) static OBJECT: &[u8] =
    aya::include_bytes_aligned!("../../../ebpf/chadthrottle.bpf.o");

/// Follows forks; attached to a tracepoint, not to a cgroup.
const FORK: &str = "chadthrottle_fork";
/// Runs over the sockets of a network namespace.
const ITERATOR: &str = "chadthrottle_iter";
/// Shows the granted window; linked to interfaces.
const WIRE: &str = "chadthrottle_wire";

/// What loads beside [`Hook::SockOps`], which takes the verifier as long as all of these.
const OTHERS: [&str; 6] = [
    "chadthrottle_ingress",
    "chadthrottle_egress",
    "chadthrottle_sock_create",
    ITERATOR,
    FORK,
    WIRE,
];

/// The programs as they are loaded ahead of time.
static PREPARATION: Mutex<Option<JoinHandle<Result<Loaded>>>> = Mutex::new(None);

/// Begins to load what [`Object::load`] will want. Nothing is attached.
pub(super) fn prepare() {
    preparation().get_or_insert_with(|| thread::spawn(load));
}

fn preparation() -> MutexGuard<'static, Option<JoinHandle<Result<Loaded>>>> {
    PREPARATION.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What was handed to the kernel.
struct Loaded {
    object: bpf::Object,
    /// By name, or why it was refused.
    programs: BTreeMap<&'static str, Result<OwnedFd>>,
    offsets: Offsets,
}

/// The loaded object.
pub(super) struct Object {
    maps: bpf::Object,
    programs: BTreeMap<&'static str, OwnedFd>,
    /// While it is held the kernel follows forks for us.
    forks: Option<OwnedFd>,
    /// Whether sockets that were open before call us back; else they need a visit now and then.
    pub(super) sets_callbacks: bool,
}

impl Object {
    /// Loads every program; the fork tracepoint, the iterator and what shows windows may be refused.
    pub(super) fn load() -> Result<Self> {
        let prepared = preparation().take();
        let Loaded { object, programs: loaded, offsets } = match prepared {
            Some(thread) => thread.join().unwrap_or_else(|panic| resume_unwind(panic))?,
            None => load()?,
        };
        let mut programs = BTreeMap::new();
        for (name, outcome) in loaded {
            match outcome {
                Ok(program) => drop(programs.insert(name, program)),
                Err(error) if Hook::ALL.iter().any(|hook| hook.program() == name) => {
                    return Err(error);
                }
                Err(error) => info!("{name} does not load on this kernel: {error}"),
            }
        }
        for (hook, expected) in [(Hook::Ingress, "Ingress"), (Hook::Egress, "Egress")] {
            let name = hook.program();
            debug!("Program '{name}' loaded with expected_attach_type: Some({expected})");
        }
        let forks = programs.get(FORK).and_then(|program| {
            let attached = bpf::attach_tracepoint(program, c"sched_process_fork");
            attached.inspect_err(|error| info!("forks are not followed: {error}")).ok()
        });
        Ok(Self { maps: object, programs, forks, sets_callbacks: offsets.sets_callbacks })
    }

    /// Whether the kernel follows forks for us.
    pub(super) fn follows_forks(&self) -> bool {
        self.forks.is_some()
    }

    /// The iterator's program, for links of our own and for the guardian; where it loads, open
    /// sockets can be adopted and restored by it.
    pub(super) fn iterator(&self) -> Option<BorrowedFd<'_>> {
        self.programs.get(ITERATOR).map(AsFd::as_fd)
    }

    /// The program that shows windows, for links to interfaces; `None` where the kernel has no such
    /// links, or the program would not know what to show.
    pub(super) fn wire(&self) -> Option<BorrowedFd<'_>> {
        self.programs.get(WIRE).map(AsFd::as_fd)
    }

    /// A program for cgroups.
    pub(super) fn program(&self, hook: Hook) -> io::Result<BorrowedFd<'_>> {
        let program = self.programs.get(hook.program()).ok_or(io::ErrorKind::NotFound)?;
        Ok(program.as_fd())
    }

    /// One of the object's maps; see `ebpf/src/layout.rs`.
    pub(super) fn take_map(&mut self, name: &str) -> Result<Map> {
        self.maps.take_map(name)
    }
}

/// Reads the kernel's types and hands it all programs, on two threads: the verifier takes most of
/// the time.
fn load() -> Result<Loaded> {
    let (image, offsets) = thread::scope(|scope| {
        let image = scope.spawn(|| Image::read(OBJECT));
        let offsets = Offsets::from_kernel().unwrap_or_else(|error| {
            info!("downloads are only policed: {error}");
            Offsets::default()
        });
        (image.join().unwrap_or_else(|panic| resume_unwind(panic)), offsets)
    });
    let mut object = image?.make(&constants(&offsets))?;
    let largest = object.take_program(Hook::SockOps.program())?;
    let others: Vec<_> = OTHERS
        .into_iter()
        .filter(|name| *name != WIRE || offsets.has_tcx && offsets.rcv_wscale.width != 0)
        .map(|name| Ok((name, object.take_program(name)?)))
        .collect::<Result<_>>()?;
    let programs = thread::scope(|scope| {
        let largest = scope.spawn(|| largest.load());
        let mut loaded: BTreeMap<_, _> = others
            .into_iter()
            .map(|(name, program)| (name, load_one(name, program, &offsets)))
            .collect();
        let largest = largest.join().unwrap_or_else(|panic| resume_unwind(panic));
        loaded.insert(Hook::SockOps.program(), largest);
        loaded
    });
    Ok(Loaded { object, programs, offsets })
}

fn load_one(name: &str, program: Program, offsets: &Offsets) -> Result<OwnedFd> {
    if name != ITERATOR {
        return program.load();
    }
    let function = offsets.tcp_iterator.ok_or_else(|| {
        Error::new(ErrorKind::Failed, "load the BPF program", name)
            .meaning("This kernel has no iterator over TCP sockets.")
    })?;
    program.load_iterator(function)
}

/// What the programs are told about this kernel; 0 switches off what needs it
/// (`ebpf/src/kernel/constants.rs`).
fn constants(offsets: &Offsets) -> [(&'static str, u32); 17] {
    [
        ("OFF_RCV_WUP", offsets.rcv_wup),
        ("OFF_RCV_WND", offsets.rcv_wnd),
        ("OFF_RCV_NXT", offsets.rcv_nxt),
        ("OFF_COPIED_SEQ", offsets.copied_seq),
        ("OFF_ACK_SEQ", offsets.ack_seq),
        ("OFF_RCV_MSS", offsets.rcv_mss),
        ("OFF_RCV_WSCALE", offsets.rcv_wscale.byte),
        ("SHIFT_RCV_WSCALE", offsets.rcv_wscale.shift),
        ("OFF_NET", offsets.net),
        ("OFF_INODE", offsets.inode),
        ("OFF_STATE", offsets.state),
        ("OFF_NUM", offsets.num),
        ("OFF_COOKIE", offsets.cookie),
        ("OFF_PID", offsets.task_pid),
        ("OFF_TGID", offsets.task_tgid),
        ("HAS_MPTCP", u32::from(offsets.has_mptcp)),
        ("SETS_CALLBACKS", u32::from(offsets.sets_callbacks)),
    ]
}
