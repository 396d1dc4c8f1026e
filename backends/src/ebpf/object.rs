//! The kernel programs: embedded, loaded once per engine, linked to cgroups.

use std::{
    collections::BTreeMap,
    fs::File,
    io,
    panic::resume_unwind,
    sync::{Mutex, MutexGuard, PoisonError},
    thread::{self, JoinHandle},
};

use aya::{
    Btf, Ebpf, EbpfLoader, Endianness,
    maps::Map,
    programs::{
        CgroupAttachMode, CgroupSkbAttachType, Program, ProgramError, ProgramFd,
        links::{FdLink, LinkError},
    },
    sys::SyscallError,
};
use chadthrottle_core::{Error, Result, error::ErrorKind};
use tracing::{debug, info};

use crate::{
    bpf::{self, AttachType},
    btf::{self, Offsets},
};

/// Built by `make ebpf`; the record beside it names its compiler and linker.
pub(super) static OBJECT: &[u8] =
    aya::include_bytes_aligned!("../../../ebpf/chadthrottle.bpf.o");

/// The programs that are attached to cgroups, in the order in which they are attached: the
/// sockets must be known before their packets are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Hook {
    SockCreate,
    SockOps,
    Ingress,
    Egress,
}

impl Hook {
    pub(super) const ALL: [Self; 4] =
        [Self::SockCreate, Self::SockOps, Self::Ingress, Self::Egress];

    /// Its name in the object.
    pub(super) fn program(self) -> &'static str {
        match self {
            Self::SockCreate => "chadthrottle_sock_create",
            Self::SockOps => "chadthrottle_sockops",
            Self::Ingress => "chadthrottle_ingress",
            Self::Egress => "chadthrottle_egress",
        }
    }

    /// What the log calls it.
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::SockCreate => "sock_create",
            Self::SockOps => "sock_ops",
            Self::Ingress => "ingress",
            Self::Egress => "egress",
        }
    }

    pub(super) fn attach_type(self) -> AttachType {
        match self {
            Self::SockCreate => AttachType::InetSockCreate,
            Self::SockOps => AttachType::SockOps,
            Self::Ingress => AttachType::InetIngress,
            Self::Egress => AttachType::InetEgress,
        }
    }
}

/// Follows forks; attached to a tracepoint, not to a cgroup.
const FORK: &str = "chadthrottle_fork";
/// Runs over the sockets of a network namespace.
const ITERATOR: &str = "chadthrottle_iter";
/// Shows the granted window; linked to interfaces.
const WIRE: &str = "chadthrottle_wire";

/// What is read of the kernel's types before the programs can be loaded, on threads that start
/// as early as may be: it takes longer than everything else.
struct Preparation {
    /// aya parses all of the kernel's BTF for its loader: 25 to 30 ms.
    loader: JoinHandle<EbpfLoader<'static>>,
    types: JoinHandle<Types>,
}

/// What we read ourselves.
struct Types {
    offsets: Offsets,
    /// What the iterator attaches to, where the kernel has it.
    iterator: Option<Btf>,
}

static PREPARATION: Mutex<Option<Preparation>> = Mutex::new(None);

/// Begins to read what [`Object::load`] will want.
pub(super) fn prepare() {
    preparation().get_or_insert_with(Preparation::begin);
}

fn preparation() -> MutexGuard<'static, Option<Preparation>> {
    PREPARATION.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Preparation {
    fn begin() -> Self {
        Self { loader: thread::spawn(EbpfLoader::new), types: thread::spawn(Types::read) }
    }

    fn finish(self) -> (EbpfLoader<'static>, Types) {
        let types = self.types.join().unwrap_or_else(|panic| resume_unwind(panic));
        (self.loader.join().unwrap_or_else(|panic| resume_unwind(panic)), types)
    }
}

impl Types {
    fn read() -> Self {
        let offsets = Offsets::from_kernel().unwrap_or_else(|error| {
            info!("downloads are only policed: {error}");
            Offsets::default()
        });
        let only = offsets.tcp_iterator.map(|id| btf::only_function("bpf_iter_tcp", id));
        let iterator = only.and_then(|only| Btf::parse(&only, Endianness::default()).ok());
        Self { offsets, iterator }
    }
}

/// The loaded object.
pub(super) struct Object {
    ebpf: Ebpf,
    /// Whether the kernel follows forks for us.
    pub(super) follows_forks: bool,
    /// Whether sockets that were open before call us back; else they need a visit now and then.
    pub(super) sets_callbacks: bool,
}

impl Object {
    /// Loads every program; the fork tracepoint and the iterator may be refused.
    ///
    /// The verifier takes most of the time, so each program has a thread of its own.
    pub(super) fn load() -> Result<Self> {
        let prepared = preparation().take().unwrap_or_else(Preparation::begin);
        let (loader, Types { offsets, iterator }) = prepared.finish();
        let constants = constants(&offsets);
        let mut loader: EbpfLoader<'_> = loader;
        for (name, value) in &constants {
            loader.override_global(name, value, true);
        }
        let mut ebpf = loader.load(OBJECT).map_err(|error| load_error("the object", &error))?;
        let shows_windows = offsets.has_tcx && offsets.rcv_wscale.width != 0;
        let wanted = |name: &str| name != WIRE || shows_windows;
        let mut refused = load_programs(&mut ebpf, wanted, iterator.as_ref());
        for hook in Hook::ALL {
            if let Some(error) = refused.remove(hook.program()) {
                return Err(load_error(hook.program(), &error));
            }
        }
        for (name, error) in &refused {
            info!("{name} does not load on this kernel: {error}");
        }
        Ok(Self {
            ebpf,
            follows_forks: !refused.contains_key(FORK),
            sets_callbacks: offsets.sets_callbacks,
        })
    }

    fn program(&mut self, name: &str) -> Result<&mut Program, ProgramError> {
        // The names are those of our own object.
        self.ebpf.program_mut(name).ok_or(ProgramError::NotLoaded)
    }

    /// The iterator's program, for links of our own and for the guardian; where it loads, open
    /// sockets can be adopted and restored by it.
    pub(super) fn iterator(&self) -> Option<&ProgramFd> {
        match self.ebpf.program(ITERATOR)? {
            Program::Iter(program) => program.fd().ok(),
            _ => None,
        }
    }

    /// Links one program to a cgroup, always with flags 0: every other value is EINVAL on
    /// every kernel (a link is "multi" by nature).
    pub(super) fn link(&mut self, hook: Hook, cgroup: &File) -> io::Result<FdLink> {
        self.try_link(hook, cgroup).map_err(errno_of)
    }

    fn try_link(&mut self, hook: Hook, cgroup: &File) -> Result<FdLink, ProgramError> {
        const FLAGS_0: CgroupAttachMode = CgroupAttachMode::Single;
        match self.program(hook.program())? {
            Program::CgroupSkb(program) => {
                let direction = match hook {
                    Hook::Ingress => CgroupSkbAttachType::Ingress,
                    _ => CgroupSkbAttachType::Egress,
                };
                let id = program.attach(cgroup, direction, FLAGS_0)?;
                program.take_link(id)?.try_into().map_err(not_a_link)
            }
            Program::CgroupSock(program) => {
                let id = program.attach(cgroup, FLAGS_0)?;
                program.take_link(id)?.try_into().map_err(not_a_link)
            }
            Program::SockOps(program) => {
                let id = program.attach(cgroup, FLAGS_0)?;
                program.take_link(id)?.try_into().map_err(not_a_link)
            }
            _ => Err(ProgramError::UnexpectedProgramType),
        }
    }

    /// The program that shows windows, for links to interfaces; `None` where the kernel has no such
    /// links, or the program would not know what to show.
    pub(super) fn wire(&self) -> Option<&ProgramFd> {
        match self.ebpf.program(WIRE)? {
            Program::SchedClassifier(program) => program.fd().ok(),
            _ => None,
        }
    }

    /// The descriptor and the id of a cgroup program, for the legacy attach.
    pub(super) fn legacy(&self, hook: Hook) -> io::Result<(&ProgramFd, u32)> {
        let program = self.ebpf.program(hook.program()).ok_or(io::ErrorKind::NotFound)?;
        let id = program.info().map_err(errno_of)?.id();
        Ok((program.fd().map_err(errno_of)?, id))
    }

    /// One of the object's maps; see `ebpf/src/layout.rs`.
    pub(super) fn take_map(&mut self, name: &str) -> Result<Map> {
        self.ebpf.take_map(name).ok_or_else(|| {
            Error::new(ErrorKind::Failed, "find the map", name)
                .meaning("The embedded object does not fit this program: it was built wrongly.")
        })
    }
}

/// What the programs are told about this kernel; 0 switches off what needs it
/// (`ebpf/src/kernel/constants.rs`).
fn constants(offsets: &Offsets) -> [(&'static str, u32); 12] {
    [
        ("OFF_RCV_WUP", offsets.rcv_wup),
        ("OFF_RCV_WND", offsets.rcv_wnd),
        ("OFF_RCV_MSS", offsets.rcv_mss),
        ("OFF_RCV_WSCALE", offsets.rcv_wscale.byte),
        ("SHIFT_RCV_WSCALE", offsets.rcv_wscale.shift),
        ("OFF_STATE", offsets.state),
        ("OFF_NUM", offsets.num),
        ("OFF_COOKIE", offsets.cookie),
        ("OFF_PID", offsets.task_pid),
        ("OFF_TGID", offsets.task_tgid),
        ("HAS_MPTCP", u32::from(offsets.has_mptcp)),
        ("SETS_CALLBACKS", u32::from(offsets.sets_callbacks)),
    ]
}

/// aya attaches without a link on kernels before 5.7, which have never loaded our programs.
fn not_a_link(_: LinkError) -> ProgramError {
    ProgramError::SyscallError(SyscallError {
        call: "bpf_link_create",
        io_error: io::ErrorKind::Unsupported.into(),
    })
}

/// The errno inside aya's error.
pub(super) fn errno_of(error: ProgramError) -> io::Error {
    match error {
        ProgramError::SyscallError(error) => error.io_error,
        ProgramError::LoadError { io_error, .. } => io_error,
        other => io::Error::other(other.to_string()),
    }
}

/// Loads the programs that are wanted side by side; returns those that the kernel refused.
fn load_programs(
    ebpf: &mut Ebpf,
    wanted: impl Fn(&str) -> bool,
    iterator: Option<&Btf>,
) -> BTreeMap<String, ProgramError> {
    thread::scope(|scope| {
        let loading: Vec<_> = ebpf
            .programs_mut()
            .filter(|(name, _)| wanted(name))
            .map(|(name, program)| {
                let load = move || load_program(program, iterator);
                (name.to_owned(), scope.spawn(load))
            })
            .collect();
        loading
            .into_iter()
            .filter_map(|(name, thread)| match thread.join() {
                Ok(outcome) => Some((name, outcome.err()?)),
                Err(panic) => resume_unwind(panic),
            })
            .collect()
    })
}

fn load_program(program: &mut Program, iterator: Option<&Btf>) -> Result<(), ProgramError> {
    match program {
        Program::CgroupSkb(program) => {
            program.load()?;
            if let Some(direction) = program.expected_attach_type() {
                debug!(
                    "Program 'chadthrottle_{}' loaded with expected_attach_type: Some({direction:?})",
                    format!("{direction:?}").to_lowercase(),
                );
            }
        }
        Program::CgroupSock(program) => program.load()?,
        Program::SchedClassifier(program) => program.load()?,
        Program::SockOps(program) => program.load()?,
        Program::RawTracePoint(program) => {
            program.load()?;
            program.attach("sched_process_fork")?;
        }
        Program::Iter(program) => {
            let btf = iterator.ok_or(ProgramError::UnexpectedProgramType)?;
            program.load("tcp", btf)?;
        }
        _ => return Err(ProgramError::UnexpectedProgramType),
    }
    let verified = program.info().ok().and_then(|info| info.verified_instruction_count());
    debug!("{:?}: {} instructions verified", program.prog_type(), verified.unwrap_or(0));
    Ok(())
}

fn load_error(what: &str, error: &(dyn std::error::Error + 'static)) -> Error {
    let mut source = Some(error);
    let (mut errno, mut log) = (None, None);
    while let Some(inner) = source {
        errno = errno.or_else(|| inner.downcast_ref::<io::Error>()?.raw_os_error());
        if let Some(ProgramError::LoadError { verifier_log, .. }) = inner.downcast_ref() {
            log = last_words(&verifier_log.to_string());
        }
        source = inner.source();
    }
    debug!("loading {what}: {error:?}");
    let base = Error::new(ErrorKind::Failed, "load the BPF program", what);
    match errno {
        Some(errno) => {
            let (meaning, remedy) = bpf::explain_load(errno);
            let log = log.map(|log| format!(" The verifier says: {log}.")).unwrap_or_default();
            base.because(io::Error::from_raw_os_error(errno))
                .meaning(format!("{meaning}{log}"))
                .remedy(remedy)
        }
        None => base.meaning(format!("{error}.")),
    }
}

/// The line of the verifier's log that says why: the last one before its statistics.
fn last_words(log: &str) -> Option<String> {
    let statistics = ["processed ", "verification time", "stack depth"];
    let mut lines = log.lines().map(str::trim).filter(|line| !line.is_empty());
    let why = lines.rfind(|line| !statistics.iter().any(|start| line.starts_with(start)));
    why.map(|line| line.trim_end_matches('.').to_owned())
}
