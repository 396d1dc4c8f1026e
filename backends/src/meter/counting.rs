//! With the counting program.

use std::{fs::File, thread, time::Instant};

use aya::{
    Btf, EbpfLoader,
    maps::{Array, HashMap, Map, MapData, MapError},
    programs::{
        CgroupAttachMode, CgroupSkb, CgroupSkbAttachType, CgroupSock, Iter, ProgramError,
        ProgramFd,
    },
};
use chadthrottle_core::{Error, ErrorKind, Host, Result};
use chadthrottle_ebpf::tally::{HELD, Held, Process};

use super::{Sample, SocketTally, Tally, sys::Plain};
use crate::{bpf, btf::Offsets};

/// Built by `make ebpf`; the record beside it names its compiler and linker.
static OBJECT: &[u8] = aya::include_bytes_aligned!("../../../ebpf/counter.bpf.o");

const FILES: &str = "counter_files";

/// The iterator's output is read in such pieces.
const BUFFER: usize = 64 * 1024;

pub(super) struct Counting {
    /// Holds the links; they end with it.
    ebpf: aya::Ebpf,
    files: ProgramFd,
    processes: HashMap<MapData, u32, Plain>,
    visit: Array<MapData, u32>,
    visits: u32,
    host: Host,
    buffer: Vec<u8>,
    /// What the iterator said last, kept for its memory.
    output: Vec<u8>,
}

impl Counting {
    pub(super) fn start(host: &Host) -> Result<Self> {
        if !host.in_initial_pid_namespace() {
            return Err(Error::new(ErrorKind::Failed, "count", "the traffic of processes")
                .meaning("The kernel's programs see other pids than this pid namespace does.")
                .advice("Run it outside of the container."));
        }
        let root = &host.cgroups()?.mount;
        let root = File::open(root)
            .map_err(|error| Error::io("open the cgroup", root.display(), error))?;
        let btf = thread::spawn(Btf::from_sys_fs);
        let offsets = Offsets::from_kernel()?;
        let constants = constants(&offsets);
        let mut loader = EbpfLoader::default();
        for (name, value) in &constants {
            loader.override_global(name, value, true);
        }
        let mut ebpf = loader.load(OBJECT).map_err(|error| refused("load", &error))?;
        let btf = btf.join().map_err(|_| refused("read", &"the kernel's types"))?;
        let btf = btf.map_err(|error| refused("read the kernel's types for", &error))?;
        let files = load_iterator(&mut ebpf, &btf).map_err(|error| refused("load", &error))?;

        let take = |ebpf: &mut aya::Ebpf, name| {
            ebpf.take_map(name).ok_or_else(|| refused("find a map of", &name))
        };
        let processes = typed(take(&mut ebpf, "PROCESSES")?)?;
        let visit = typed(take(&mut ebpf, "VISIT")?)?;
        let mut counting = Self {
            ebpf,
            files,
            processes,
            visit,
            visits: 0,
            host: host.clone(),
            buffer: vec![0; BUFFER],
            output: Vec::new(),
        };
        let zero = Plain(Process::default());
        counting.processes.insert(0, zero, 0).map_err(map_failed)?;
        attach(&mut counting.ebpf, &root).map_err(|error| refused("attach", &error))?;
        Ok(counting)
    }

    pub(super) fn sample(&mut self) -> Result<Sample> {
        self.visits = self.visits.wrapping_add(1).max(1);
        self.visit.set(0, self.visits, 0).map_err(map_failed)?;
        self.output.clear();
        bpf::read_iterator(&self.files, &mut self.buffer, |piece| {
            self.output.extend_from_slice(piece);
        })
        .map_err(|error| Error::io("list open files with", FILES, error))?;

        let mut sample = Sample::new(Instant::now());
        for entry in &self.processes {
            let (tgid, Plain(process)) = entry.map_err(map_failed)?;
            let Process { received, sent, name } = process;
            if tgid == 0 {
                sample.unknown = (received, sent);
                continue;
            }
            let name = text(&name);
            let tally = Tally { name, started: 0, sockets: 0, received, sent };
            sample.processes.insert(tgid.cast_signed(), tally);
        }
        for record in self.output.as_chunks::<HELD>().0 {
            let held = Held::parse(record);
            let pid = held.tgid.cast_signed();
            if let Some(tally) = sample.processes.get_mut(&pid) {
                if tally.sockets == 0 {
                    tally.started = held.started;
                    // It may have become another program since.
                    tally.name = text(&held.name);
                }
                tally.sockets += 1;
            }
            let Held { cookie, received, sent, .. } = held;
            sample.sockets.push(SocketTally { pid, cookie, received, sent });
        }
        sample.sockets.sort_by_key(|socket| (socket.pid, socket.cookie));
        // A duplicate is one socket.
        sample.sockets.dedup_by_key(|socket| (socket.pid, socket.cookie));
        self.forget_ended(&sample);
        Ok(sample)
    }

    /// Processes without sockets that have ended were in this sample for the last time.
    fn forget_ended(&mut self, sample: &Sample) {
        for (pid, tally) in &sample.processes {
            if tally.sockets == 0 && !self.host.proc.join(pid.to_string()).exists() {
                // It can only be gone already.
                drop(self.processes.remove(&pid.cast_unsigned()));
            }
        }
    }
}

fn constants(offsets: &Offsets) -> [(&'static str, u32); 6] {
    [
        ("OFF_SOCKET_SK", offsets.socket_sk),
        ("OFF_FAMILY", offsets.family),
        ("OFF_TGID", offsets.task_tgid),
        ("OFF_STARTED", offsets.task_started),
        ("OFF_COMM", offsets.task_comm),
        ("HAS_MPTCP", u32::from(offsets.has_mptcp)),
    ]
}

fn load_iterator(ebpf: &mut aya::Ebpf, btf: &Btf) -> Result<ProgramFd, ProgramError> {
    let program: &mut Iter =
        ebpf.program_mut(FILES).ok_or(ProgramError::NotLoaded)?.try_into()?;
    program.load("task_file", btf)?;
    Ok(program.fd()?.try_clone()?)
}

/// The owners of new sockets must be known before their packets are. Flags 0, as always.
fn attach(ebpf: &mut aya::Ebpf, root: &File) -> Result<(), ProgramError> {
    const FLAGS_0: CgroupAttachMode = CgroupAttachMode::Single;
    let create: &mut CgroupSock =
        ebpf.program_mut("counter_sock_create").ok_or(ProgramError::NotLoaded)?.try_into()?;
    create.load()?;
    create.attach(root, FLAGS_0)?;
    for (name, direction) in [
        ("counter_ingress", CgroupSkbAttachType::Ingress),
        ("counter_egress", CgroupSkbAttachType::Egress),
    ] {
        let program: &mut CgroupSkb =
            ebpf.program_mut(name).ok_or(ProgramError::NotLoaded)?.try_into()?;
        program.load()?;
        program.attach(root, direction, FLAGS_0)?;
    }
    Ok(())
}

fn typed<T: TryFrom<Map, Error = MapError>>(map: Map) -> Result<T> {
    map.try_into().map_err(map_failed)
}

#[allow(clippy::needless_pass_by_value, reason = "for map_err")]
fn map_failed(error: MapError) -> Error {
    refused("use a map of", &error)
}

fn refused(operation: &str, error: &dyn std::fmt::Display) -> Error {
    Error::new(ErrorKind::Failed, operation, "the counting program")
        .meaning(format!("{error}."))
}

/// A name up to its closing zero.
fn text(name: &[u8]) -> String {
    let end = name.iter().position(|&byte| byte == 0).unwrap_or(name.len());
    String::from_utf8_lossy(&name[..end]).into_owned()
}
