//! With the counting program.

use std::{fs::File, os::fd::OwnedFd, time::Instant};

use aya::maps::{Array, HashMap, Map, MapData, MapError};
use chadthrottle_core::{Error, ErrorKind, Host, Result};
use chadthrottle_ebpf::tally::{HELD, Held, Process};

use super::{Sample, SocketTally, Tally, sys::Plain};
use crate::{
    bpf::{self, AttachType, Image},
    btf::Offsets,
};

/// Built by `make ebpf`; the record beside it names its compiler and linker.
static OBJECT: &[u8] = aya::include_bytes_aligned!("../../../ebpf/counter.bpf.o");

const FILES: &str = "counter_files";
/// In this order: the owners of new sockets must be known before their packets are.
const HOOKS: [(&str, AttachType); 3] = [
    ("counter_sock_create", AttachType::InetSockCreate),
    ("counter_ingress", AttachType::InetIngress),
    ("counter_egress", AttachType::InetEgress),
];

/// The iterator's output is read in such pieces.
const BUFFER: usize = 64 * 1024;

pub(super) struct Counting {
    /// They end with it. Held, never read.
    links: Vec<OwnedFd>,
    files: OwnedFd,
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
        let offsets = Offsets::from_kernel()?;
        let iterator = offsets
            .file_iterator
            .ok_or_else(|| refused("load", &"this kernel has no iterator over open files"))?;
        let mut object = Image::read(OBJECT)?.make(&constants(&offsets))?;
        let files = object.take_program(FILES)?.load_iterator(iterator)?;
        let processes = typed(object.take_map("PROCESSES")?)?;
        let visit = typed(object.take_map("VISIT")?)?;
        let mut counting = Self {
            links: Vec::new(),
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
        for (name, attach_type) in HOOKS {
            let program = object.take_program(name)?.load()?;
            let link = bpf::link_cgroup(program, &root, attach_type);
            let link = link.map_err(|error| Error::io("attach", name, error))?;
            counting.links.push(link);
        }
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
