//! Bringing an object of ours into the kernel.
//!
//! aya reads it, makes its maps and relocates its programs; from here they go to the kernel. aya's
//! own loader begins with parsing all of the kernel's types, 25 to 50 ms and tens of megabytes,
//! of which our objects need none but the id of what an iterator is attached to.

pub(super) mod sys;

use std::{
    collections::{HashMap, HashSet},
    error::Error as StdError,
    ffi::CStr,
    fmt::Display,
    io,
    os::fd::{AsFd, AsRawFd, OwnedFd},
};

use aya::maps::{Map, MapData};
use aya_obj::{
    EbpfSectionKind, Object as Parsed, ProgramSection,
    generated::bpf_insn,
    programs::{CgroupSkbAttachType, CgroupSockAttachType},
};
use chadthrottle_core::{Error, Result, error::ErrorKind};
use tracing::debug;

use super::{AttachType, explain_load};
use sys::{Instruction, Kind};

/// Room for what the verifier says about a program it refuses; only what it fills takes memory.
const LOG_SIZE: usize = 16 << 20;

/// An object with its maps made; its programs wait to be loaded.
pub struct Object {
    maps: HashMap<String, Map>,
    programs: HashMap<String, Program>,
}

/// A program that is ready to be loaded.
pub struct Program {
    name: String,
    kind: Kind,
    instructions: Vec<Instruction>,
}

/// An object that is read; the kernel has nothing of it yet.
pub struct Image(Parsed);

impl Image {
    /// Reads an object, and finds out what type information this kernel takes.
    pub fn read(bytes: &[u8]) -> Result<Self> {
        let parsed = Parsed::parse(bytes).map_err(|error| unusable(&error))?;
        aya::features();
        Ok(Self(parsed))
    }

    /// Makes the maps, with these values for the constants in the object.
    pub fn make(self, constants: &[(&str, u32)]) -> Result<Object> {
        let Self(mut parsed) = self;
        let values: Vec<_> =
            constants.iter().map(|(name, value)| (*name, value.to_ne_bytes())).collect();
        let globals = values.iter().map(|(name, value)| (*name, (&value[..], true))).collect();
        parsed.patch_map_data(globals).map_err(|error| unusable(&error))?;

        let types = load_types(&mut parsed)?;
        let definitions: Vec<_> = parsed.maps.drain().collect();
        let mut made = Vec::with_capacity(definitions.len());
        for (name, definition) in &definitions {
            let map = make_map(name, definition, types.as_ref())
                .map_err(|error| refused(name, error.as_ref()))?;
            made.push(map);
        }

        let sections: HashSet<usize> =
            parsed.functions.keys().map(|(section, _)| *section).collect();
        let maps = definitions.iter().zip(&made).map(|((name, definition), map)| {
            (name.as_str(), map.fd().as_fd().as_raw_fd(), definition)
        });
        parsed.relocate_maps(maps, &sections).map_err(|error| unusable(&error))?;
        parsed.relocate_calls(&sections).map_err(|error| unusable(&error))?;
        let programs = parsed.programs.iter().filter_map(|(name, program)| {
            let function = parsed.functions.get(&program.function_key())?;
            let program = Program {
                name: name.clone(),
                kind: Kind { name: short(name), ..kind(&program.section)? },
                instructions: function.instructions.iter().copied().map(instruction).collect(),
            };
            Some((name.clone(), program))
        });
        let programs = programs.collect();

        let mut maps = HashMap::new();
        for ((name, _), map) in definitions.into_iter().zip(made) {
            maps.insert(name, Map::from_map_data(map).map_err(|error| unusable(&error))?);
        }
        Ok(Object { maps, programs })
    }
}

impl Object {
    /// One of its maps, by name; each can be taken once. Programs keep those that they use.
    pub fn take_map(&mut self, name: &str) -> Result<Map> {
        self.maps.remove(name).ok_or_else(|| misses("the map", name))
    }

    /// One of its programs, by name; each can be taken once.
    pub fn take_program(&mut self, name: &str) -> Result<Program> {
        self.programs.remove(name).ok_or_else(|| misses("the program", name))
    }
}

impl Program {
    /// Loads it; when it is refused the error ends with the verifier's last words.
    pub fn load(&self) -> Result<OwnedFd> {
        let Self { name, kind, instructions } = self;
        let refusal = match sys::prog_load(*kind, instructions, &mut []) {
            Ok(program) => return Ok(program),
            Err(refusal) => refusal,
        };
        let mut log = vec![0; LOG_SIZE];
        // Should it succeed now, so much the better.
        sys::prog_load(*kind, instructions, &mut log).map_err(|_| {
            let end = log.iter().position(|&byte| byte == 0).unwrap_or(log.len());
            let log = String::from_utf8_lossy(&log[..end]);
            debug!("loading {name}: {refusal}\n{log}");
            load_error(name, refusal, last_words(&log))
        })
    }

    /// The same for an iterator over what `function` of the kernel visits, by its id.
    pub fn load_iterator(mut self, function: u32) -> Result<OwnedFd> {
        self.kind.attach_btf_id = function;
        self.load()
    }
}

/// Attaches a program to a tracepoint by its name; gone with the last descriptor.
pub fn attach_tracepoint(program: impl AsFd, name: &CStr) -> io::Result<OwnedFd> {
    sys::raw_tracepoint_open(program.as_fd(), name)
}

/// What the section that a program lies in says about it; `None` for what we have none of.
fn kind(section: &ProgramSection) -> Option<Kind> {
    /// `BPF_PROG_TYPE_RAW_TRACEPOINT`
    const RAW_TRACEPOINT: u32 = 17;
    /// `BPF_PROG_TYPE_TRACING`, `BPF_TRACE_ITER`
    const ITERATOR: (u32, u32) = (26, 28);
    let other =
        |(program_type, attach_type)| Kind { program_type, attach_type, ..Kind::default() };
    Some(match section {
        ProgramSection::CgroupSkb { attach_type: Some(CgroupSkbAttachType::Ingress) } => {
            AttachType::InetIngress.kind()
        }
        ProgramSection::CgroupSkb { attach_type: Some(CgroupSkbAttachType::Egress) } => {
            AttachType::InetEgress.kind()
        }
        ProgramSection::CgroupSock { attach_type: CgroupSockAttachType::SockCreate } => {
            AttachType::InetSockCreate.kind()
        }
        ProgramSection::SockOps => AttachType::SockOps.kind(),
        ProgramSection::SchedClassifier => AttachType::TcxEgress.kind(),
        ProgramSection::RawTracePoint => other((RAW_TRACEPOINT, 0)),
        ProgramSection::Iter { .. } => other(ITERATOR),
        _ => return None,
    })
}

/// At most 15 bytes and a zero (`BPF_OBJ_NAME_LEN`).
fn short(name: &str) -> [u8; 16] {
    let mut short = [0; 16];
    for (to, from) in short[..15].iter_mut().zip(name.bytes()) {
        *to = from;
    }
    short
}

fn instruction(from: bpf_insn) -> Instruction {
    Instruction {
        code: from.code,
        registers: from.dst_reg() | from.src_reg() << 4,
        offset: from.off,
        immediate: from.imm,
    }
}

/// The object's own type information, which maps of sockets want.
fn load_types(parsed: &mut Parsed) -> Result<Option<OwnedFd>> {
    let Some(features) = aya::features().btf() else { return Ok(None) };
    let types = parsed.fixup_and_sanitize_btf(features).map_err(|error| unusable(&error))?;
    let load = |types: &aya_obj::btf::Btf| sys::btf_load(&types.to_bytes());
    types.map(load).transpose().map_err(|error| load_error("its types", error, None))
}

fn make_map(
    name: &str,
    definition: &aya_obj::Map,
    types: Option<&OwnedFd>,
) -> Result<MapData, Box<dyn StdError>> {
    let map = MapData::create(definition.clone(), name, types.map(AsFd::as_fd))?;
    if definition.section_kind() == EbpfSectionKind::Rodata {
        sys::map_fill(map.fd().as_fd(), definition)?;
    }
    Ok(map)
}

fn refused(map: &str, error: &(dyn StdError + 'static)) -> Error {
    let mut source = Some(error);
    while let Some(inner) = source {
        if let Some(errno) = inner.downcast_ref::<io::Error>().and_then(io::Error::raw_os_error)
        {
            return load_error("the object", io::Error::from_raw_os_error(errno), None);
        }
        source = inner.source();
    }
    Error::new(ErrorKind::Failed, "make the map", map).meaning(format!("{error}."))
}

fn load_error(what: &str, refusal: io::Error, log: Option<String>) -> Error {
    let (meaning, remedy) = explain_load(refusal.raw_os_error().unwrap_or(0));
    let log = log.map(|log| format!(" The verifier says: {log}.")).unwrap_or_default();
    Error::new(ErrorKind::Failed, "load the BPF program", what)
        .because(refusal)
        .meaning(format!("{meaning}{log}"))
        .remedy(remedy)
}

fn unusable(error: &dyn Display) -> Error {
    Error::new(ErrorKind::Failed, "load the BPF program", "the object")
        .meaning(format!("{error}."))
}

fn misses(what: &str, name: &str) -> Error {
    Error::new(ErrorKind::Failed, format!("find {what}"), name)
        .meaning("The embedded object does not fit this program: it was built wrongly.")
}

/// The line of the verifier's log that says why: the last one before its statistics.
fn last_words(log: &str) -> Option<String> {
    let statistics = ["processed ", "verification time", "stack depth"];
    let mut lines = log.lines().map(str::trim).filter(|line| !line.is_empty());
    let why = lines.rfind(|line| !statistics.iter().any(|start| line.starts_with(start)));
    why.map(|line| line.trim_end_matches('.').to_owned())
}
